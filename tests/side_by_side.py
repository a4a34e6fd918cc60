"""What tests share where several processes run them side by side (pytest-xdist).

The tests of a file run in one process, in their order, so that what they share is made once. The tests on Ray, those of
all files named test_ray, run in one process as well, so that Ray is started once.
"""

import json
import os

from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

RAY = "test_ray"
FIRST = (RAY, "test_doc_blocks", "test_processes", "test_notebooks", "test_training", "test_report_browser")
"""What takes longest, though it has few tests, is begun first: no process is left alone with it at the end."""


def group(nodeid):
    """The tests with which a test shares a process: the name of their file."""
    name = nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    return RAY if name.startswith(RAY) else name


class Scheduling(LoadScopeScheduling):
    """Gives each process that has nothing to do the next group: those of `FIRST`, and then the one of most tests."""

    def _split_scope(self, nodeid):
        return group(nodeid)

    def _assign_work_unit(self, node):
        if first := next((name for name in FIRST if name in self.workqueue), None):
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def once(tmp_path_factory, name, make):
    """What a function of a new folder returned, which one of the processes calls, and the folder.

    Arguments:
        name: of the folder.
        make: returns what JSON can hold.
    """
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    folder, result = place / name, place / f"{name}.json"
    with FileLock(f"{result}.lock"):
        if not result.exists():
            folder.mkdir()
            result.write_text(json.dumps(make(folder)))
        return json.loads(result.read_text()), folder
