"""Several machines of a cluster of Ray, each with one processor, played by this one: `ray.cluster_utils.Cluster`.

As a program it is the cluster, in a process of its own: it says the address, then adds a machine for each line that it
reads and says the process id of its raylet, and ends with its input.
"""

import contextlib
import os
import secrets
import subprocess
import sys

import psutil

from commands import ENVIRONMENT

ONE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def play():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=ONE)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        raylets = cluster.add_node(**ONE).all_processes["raylet"]
        print(raylets[0].process.pid, flush=True)


class Machines:
    """The cluster, and what can happen to it.

    Attributes:
        environment: of processes that join it as `--on ray:auto`.
        raylets: the process ids of the machines that live, but for the first one, on which drivers run.
    """

    def __init__(self):
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=ENVIRONMENT | secret | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.environment = secret | {"RAY_ADDRESS": self.process.stdout.readline().strip()}
        self.raylets = []

    def add(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.raylets.append(int(self.process.stdout.readline()))

    def workers(self):
        """The processes that make shards."""
        return [each for each in self._processes() if said(each).startswith("ray::Actor")]

    def kill(self, raylet):
        """End a machine: its raylet and all that it has started, at once."""
        self.raylets.remove(raylet)
        kill([psutil.Process(raylet), *psutil.Process(raylet).children(recursive=True)])

    def _processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self):
        kill([*self._processes(), psutil.Process(self.process.pid)])
        self.process.communicate()


def said(process):
    """The command line of a process, which Ray's change; nothing of one that is gone."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill(processes):
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    play()
