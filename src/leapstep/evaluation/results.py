"""Results of `evaluate` and `sweep` on the disk, and which of them may stand in one table without a thought."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leapstep.files import reading


def read(path: Path) -> dict[str, Any]:
    """Read a result of `leapstep.evaluate` or `leapstep.sweep`.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it holds something else.
    """
    from leapstep.evaluation import schema
    from leapstep.files.schema import checked

    content: dict[str, Any] = reading.read_json(path)
    kind = schema.Sweep if isinstance(content, dict) and "cells" in content else schema.Evaluation
    try:
        checked(kind, content)
    except ValueError as error:
        raise ValueError(f"{path} is not a result of leapstep evaluate or sweep: {error}") from error
    return content


def check_conditions(folder: Path, earlier: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
    """Make sure that cells may be added to those of a folder, if it has any.

    Arguments:
        earlier: the conditions of those that are there; {}: none are.
        conditions: of those that come.
    Raises:
        ValueError: they differ.
    """
    now = json.loads(json.dumps(conditions))
    for name in {**earlier, **now} if earlier else {}:
        if name != "features_source" and earlier.get(name) != now.get(name):  # the hash tells features apart
            raise ValueError(
                f"{folder} holds cells with {name} {earlier.get(name)}, not {now.get(name)}: they do not belong in one "
                "table; --overwrite them, or name another folder"
            )


class Comparison(NamedTuple):
    """Results side by side.

    Attributes:
        rows: one for each specification that was measured: a cell, or what `evaluate` says of the samples, with the
            `result`, the `model`, the `conditions`, the `relation` of the reference to the model, and a `mark`.
        notes: what each mark means.
    """

    rows: list[dict[str, Any]]
    notes: list[str]


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Put results side by side, and mark those of other conditions than the first.

    Arguments:
        paths: files of `evaluate`; files or folders of `sweep`.

    Raises:
        ValueError: what is no result, or no finished cell in any of them.
    """
    rows = [row for path in paths for row in _rows(Path(path))]
    if not rows:
        raise ValueError("there is no finished cell in these results: nothing to compare")
    marked, notes = marks([row["conditions"] for row in rows])
    return Comparison([{**row, "mark": mark or None} for row, mark in zip(rows, marked, strict=True)], notes)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The results in a file, one for each specification, with their conditions."""
    file = path / "results.json" if path.is_dir() else path
    try:
        content = read(file)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    try:
        conditions = dict(content["conditions"])
        conditions.pop("model_sha256", None)  # in which results of other models differ by nature
        conditions["features"] = f"{conditions['features']} {conditions.pop('features_sha256')[:8]}"
        conditions.pop("features_source", None)  # whatever folder they were in
        shared = {"result": path, "conditions": conditions, "relation": content.get("relation")}
        if "cells" in content:
            return [{**cell, "model": content["model"], **shared} for cell in content["cells"]]
        made = content["evaluation"]
        model = made.get("model") or made["samples"]
        return [{**made, **made.get("spec", {}), "model": model, "metrics": content["metrics"], **shared}]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a result of leapstep evaluate or sweep") from error


def marks(conditions: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Find where results deviate from the conditions of the first one.

    Arguments:
        conditions: of each result.
    Returns:
        the marks of each, such as "a b", empty where all is as in the first; and a footnote for each mark.
    """
    notes: dict[str, str] = {}
    marked = []
    for one in conditions:
        names = [name for name in {**conditions[0], **one} if one.get(name) != conditions[0].get(name)]
        letters = []
        for name in names:
            note = f"{name} is {_brief(one.get(name))}, not {_brief(conditions[0].get(name))}"
            letters.append(notes.setdefault(note, chr(ord("a") + len(notes) % 26) * (1 + len(notes) // 26)))
        marked.append(" ".join(letters))
    return marked, [f"{letter}: {note}" for note, letter in notes.items()]


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
