"""How long it takes until a command answers, and until a module is imported.

    python benchmarks/startup.py [--only commands]

Each is a process of its own, in turns; beside them `import torch`, which whatever computes must wait for.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import sampling
import timing

HELPS = ("leapstep --help", "leapstep sample --help")
REFUSED = (
    "leapstep sample --steps few",
    "leapstep sample nosuch --out new",
    "leapstep train nosuch --out new",
    "leapstep train digits --out new --schedule nosuch",
)
SECONDS = dict.fromkeys((*HELPS, *REFUSED), 0.5)
"""Commands that compute nothing, and their goals."""


def run(*words, refused=False):
    """A Python process; where its command is refused, it says so by its exit status."""
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, env=os.environ)
    if done.returncode != (2 if refused else 0):
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr.decode()[-300:]}")


def commands(bench):
    """Helps and refusals."""
    runs = {"import torch": partial(run, "-c", "import torch")}
    for command in SECONDS:
        words = command.split()[1:]
        runs[command] = partial(run, "-m", "leapstep", *words, refused=command in REFUSED)
    seconds = bench.rounds(runs, seconds=15.0)
    for command, most in SECONDS.items():
        row = seconds.cost(f"`{command}`", command, "import torch")
        yield row._replace(goal=most * 1000 / row.theirs)  # a goal in seconds, as a share of what it stands beside


def imports(bench):
    """The package, and all that sampling needs."""
    runs = {
        "import torch": partial(run, "-c", "import torch"),
        "import leapstep": partial(run, "-c", "import leapstep"),
        "leapstep.sample": partial(run, "-c", "import leapstep; leapstep.sample"),
    }
    seconds = bench.rounds(runs, seconds=15.0)
    for name, goal in (("import leapstep", 1.15), ("leapstep.sample", None)):
        yield seconds.cost(f"`{name}`", name, "import torch", goal=goal)


def tiny(bench):
    """A whole command: two small pictures in two steps."""
    with tempfile.TemporaryDirectory() as folder:
        run_folder = sampling.run_folder("mnist", timing.Bench(bench.device, smoke=True), Path(folder, "run"))
        words = ("-m", "leapstep", "sample", run_folder, "--n", 2, "--steps", 2, "--overwrite", "--out")
        runs = {
            "import torch": partial(run, "-c", "import torch"),
            "leapstep sample": partial(run, *words, Path(folder, "samples")),
        }
        yield bench.rounds(runs, seconds=8.0).cost(
            "`leapstep sample` of two pictures", "leapstep sample", "import torch"
        )


CASES = {"commands": commands, "imports": imports, "tiny job": tiny}


if __name__ == "__main__":
    timing.main(CASES, __doc__)
