"""The recipes in `examples/cluster`: the manifest has fields of KubeRay, the Slurm script numbers its tasks as ranks,
and both call leapstep with options that it has.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from leapstep.cli import app

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"
COMMANDS = typer.main.get_command(app).commands

TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}


def fields(required=(), **properties):
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def each(items):
    return {"type": "array", "items": items, "minItems": 1}


QUANTITIES = {
    "type": "object",
    "propertyNames": {"enum": ["cpu", "memory", "nvidia.com/gpu"]},
    "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(Gi)?$"},
}
POD = fields(
    ["spec"],
    spec=fields(
        ["containers"],
        containers=each(
            fields(
                ["name", "image"],
                name=TEXT,
                image=TEXT,
                resources=fields(requests=QUANTITIES, limits=QUANTITIES),
                volumeMounts=each(fields(["name", "mountPath"], name=TEXT, mountPath=TEXT)),
            )
        ),
        volumes=each(
            fields(["name"], name=TEXT, persistentVolumeClaim=fields(["claimName"], claimName=TEXT, readOnly=TEXT))
        ),
    ),
)
PARAMETERS = {"type": "object", "additionalProperties": TEXT}
RAY_JOB = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(["name"], name=TEXT, namespace=TEXT),
    spec=fields(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        backoffLimit=NUMBER,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=NUMBER,
        rayClusterSpec=fields(
            ["headGroupSpec"],
            rayVersion=TEXT,
            headGroupSpec=fields(["rayStartParams", "template"], rayStartParams=PARAMETERS, template=POD),
            workerGroupSpecs=each(
                fields(
                    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                    groupName=TEXT,
                    replicas=NUMBER,
                    minReplicas=NUMBER,
                    maxReplicas=NUMBER,
                    rayStartParams=PARAMETERS,
                    template=POD,
                )
            ),
        ),
    ),
)
"""What the manifest uses of the CRD rayjobs.ray.io/v1 of KubeRay, and of a pod: names, types and what must be there."""


@pytest.fixture
def job():
    return yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())


def parsed(words):
    """The options of a line that calls leapstep, as its own parser reads them."""
    assert words[0] == "leapstep"
    return COMMANDS[words[1]].make_context(words[1], [*words[2:]]).params


def test_the_manifest_is_a_ray_job(job):
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert {volume["name"] for volume in pod["volumes"]} == {
            mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]
        }
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1
    assert f"ray=={cluster['rayVersion']}\n" in (CLUSTER.parent.parent / "constraints.txt").read_text()
    assert f"rayproject/ray:{cluster['rayVersion']}-py311-gpu\n" in (CLUSTER / "Dockerfile").read_text()


def test_a_field_that_kuberay_does_not_know_is_noticed(job):
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["workers"] = 8
    with pytest.raises(jsonschema.ValidationError, match="'workers' was unexpected"):
        jsonschema.validate(job, RAY_JOB)


def test_the_job_of_the_manifest_may_begin_and_go_on(job):
    asked = parsed(shlex.split(job["spec"]["entrypoint"]))
    assert (asked["on"], asked["resume"], asked["format"], asked["n"]) == ("ray:auto", True, "parquet", 10_000_000)
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert str(asked["out"]).startswith(head["volumeMounts"][0]["mountPath"])


@pytest.mark.parametrize(
    ("told", "rank", "ranks"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "64", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 7, 64),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "16"}, 3, 16),
    ],
)
def test_a_task_of_slurm_is_a_rank(told, rank, ranks, tmp_path):
    """With a stand-in for leapstep that tells what launch.py reads, and how it was called."""
    stand_in = tmp_path / "leapstep"
    stand_in.write_text('#!/bin/bash\necho "$RANK $WORLD_SIZE"\nprintf "%s\\n" leapstep "$@"\n')
    stand_in.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not re.match("SLURM|RANK|WORLD", name)}
    environment = kept | told | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["bash", str(CLUSTER / "slurm.sh"), "a model", "out"]
    first, *words = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert first == f"{rank} {ranks}"
    asked = parsed(words)
    assert (asked["model"], str(asked["out"]), asked["on"], asked["resume"]) == ("a model", "out", "torchrun", True)
    assert asked["n"] == 10_000_000
