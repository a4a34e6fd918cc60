"""What a run folder holds beside its model: results of evaluations and sweeps, of its weights as they are or were."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from leapstep.evaluation import results


class Results(NamedTuple):
    """Files of results in a run folder: of the weights that lie there, and of others, such as earlier ones."""

    current: list[Path]
    outdated: list[Path]


def results_of(run: Path, weights: str) -> Results:
    """Find the results of `evaluate --out` and `sweep` that lie in a run folder, or one folder below.

    Arguments:
        weights: the SHA-256 of the weights in the folder.
    """
    found = Results([], [])
    for path in sorted([*run.glob("*.json"), *run.glob("*/results.json")]):
        if not path.is_file() or not path.resolve().is_relative_to(run.resolve()):
            continue
        try:
            conditions = results.read(path)["conditions"]
        except (OSError, ValueError):
            continue
        (found.current if conditions.get("model_sha256") == weights else found.outdated).append(path)
    return found
