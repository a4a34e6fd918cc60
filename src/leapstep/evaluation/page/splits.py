"""The data that a page holds a model against: what it was trained on, and what it has never seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leapstep.data.dataset import NoSplit
from leapstep.evaluation.page.contents import Split, Splits
from leapstep.models.data import parts_of, warn
from leapstep.models.model import Model

HELD = ("test", "validation")
"""The splits that may hold what a model was not trained on, the first that is there."""


def trained_on(model: Model) -> str | None:
    """What the model was trained on, as its folder says, where it need not be fetched."""
    source = (model.details.get("data") or {}).get("source")
    return source if isinstance(source, str) and (source == "digits" or Path(source).exists()) else None


def read_splits(model: Model, source: str, tell: Callable[[str], object] = warn) -> Splits:
    """The training data, and what is held out, if there is such a split.

    Arguments:
        source: see `leapstep.data.read`.
        tell: called with a line where nothing is held out.
    """
    parts = parts_of(model, source)
    train, reasons = Split(*parts("train")), []
    for name in HELD:
        try:
            return Splits(source, train, Split(*parts(name)), name)
        except NoSplit:
            continue
        except ValueError as error:
            reasons.append(str(error))
    why = reasons[0] if reasons else f"{source} has no part {' or '.join(HELD)}, and no run held out any of it"
    tell(f"{why}: the page shows its part train alone, training data where the model was trained on them")
    return Splits(source, train)
