"""Repositories of models on the Hub: what they may be called, and what lies in one that is published from here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leapstep.files import folders
from leapstep.models.folder import CALIBRATION, KINDS, LAWS, MODEL, MOMENTS, TUNED
from leapstep.text import one_line

PUBLISHED = folders.Kind("leapstep.json", None, rf"{MODEL}|README\.md|samples\.png|log")
"""A folder that holds what would be pushed."""

REPLACED = [
    *(f"{kind}/*" for kind in (*KINDS, "scheduler")),
    CALIBRATION,
    MOMENTS,
    TUNED,
    LAWS,
    "model_index.json",
    "log/*",
]
"""What of an earlier model in the repository goes, where the new one does not have it."""


def check(repo: str, license: str | None, datasets: Sequence[str]) -> None:
    """Raise ValueError where a name is none that the Hub takes."""
    name = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
    if not re.fullmatch(f"{name}/{name}", repo, re.ASCII) or len(repo) > 96 or "--" in repo or ".." in repo:
        raise ValueError(
            f"{one_line(repo, 100)} is no name on the Hub: write it as user/name, of letters, digits, - _ ."
        )
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,40}", license):
        raise ValueError(
            f"--license {one_line(license, 60)}: use an identifier of the Hub, such as apache-2.0 or cc-by-4.0"
        )
    for source in datasets:
        if not re.fullmatch(f"(?:{name}/)?{name}", source, re.ASCII):
            raise ValueError(f"--dataset {one_line(source, 60)} is no name on the Hub: write it as owner/name")
