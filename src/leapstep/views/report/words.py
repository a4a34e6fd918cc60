"""Numbers and sentences for a page and for the command that writes it."""

from __future__ import annotations

import math

from leapstep.evaluation.page.contents import Page
from leapstep.evaluation.page.extent import WHOLE
from leapstep.text import percent, short, with_error


def lead(page: Page) -> str:
    """What the model is, in a sentence."""
    facts, count = page.facts, int(page.facts["Parameters"].replace(",", ""))
    size = f"{count / 1e6:.2g} million" if 1e5 <= count < 1e8 else f"{count:,}"
    article = "An" if facts["Network"][0] in "AEIOM" else "A"
    said = f"{article} {facts['Network']} of {size} parameters that draws {page.noun}"
    said += f" of {len(page.classes)} classes" if len(page.classes) > 1 else ""
    trained = f" for {facts['Trained for']}" if "Trained for" in facts else ""
    trained += f" on {facts['Trained on']}" if "Trained on" in facts else ""
    return f"{said}, trained{trained}." if trained else f"{said}."


def named(page: Page, split: str) -> str:
    """What a part of the data is called; what the model was not trained on is neither training nor held-out data."""
    if page.own:
        return "training data" if split == "train" else f"held-out data ({split})"
    return "data" if page.held == "train" else f"data ({split})"


def quality(page: Page) -> str:
    """How good its samples are beside real data, in a sentence or two."""
    found, real = page.standing, f"equally many of the {named(page, 'train')}"
    if found is None:
        return "" if page.data else "How good its samples are is not measured here: that needs data (--data)."
    reference = f"the {named(page, page.held)}"
    if page.held == "train":
        reference, real = f"one half of {reference}", "equally many of the other half"
    distances = f"Fréchet distance of {found.n}: {short(found.value)} against {with_error(found.real, found.spread)}"
    times = found.value / found.real if found.real > 0 else math.inf
    if found.is_hopeless:
        said = (
            f"Its samples are not like the data yet: they are {times:.0f} times as far from {reference} as {real} "
            f"({distances})"
        )
        mean = f", farther than the mean of the data, drawn again and again, would be ({short(found.mean)})"
        said += f"{mean if found.value > found.mean else ''}."
    elif found.value <= found.real + 2 * found.spread:
        said = f"By their distance to {reference}, its samples cannot be told from {real} ({distances})."
    else:
        said = f"Its samples are {times:.1f} times as far from {reference} as {real} ({distances})."
    if page.own and page.held == "train":
        said += " Nothing was held out, so that is measured on the training data, where copies would do best."
    return said


def next_steps(page: Page) -> str:
    """What to do about samples that are hopeless; nothing where they are not."""
    if page.standing is None or not page.standing.is_hopeless:
        return ""
    return (
        "What to do next: train it for longer, and look again. If it was trained for long, or elsewhere, leapstep "
        "doctor finds out whether it is called as it was trained."
    )


def cost(page: Page) -> str:
    """What few steps cost it, in a sentence; nothing where there is nothing to compare, or nothing worth it."""
    found = page.consistency
    if page.standing is not None and page.standing.is_hopeless:
        return ""
    shares = dict(zip(found.steps[:-1], found.shares, strict=False))
    few = [steps for steps in (10, 20) if math.isfinite(shares.get(steps, math.nan))]
    if not few:
        return ""
    said = (
        f"Sampling in {few[0]} steps instead of {found.steps[-1]} changes its samples by {percent(shares[few[0]], 1)} "
    )
    more = "".join(f"; in {steps} steps, by {percent(shares[steps], 1)}" for steps in few[1:])
    return f"{said}of what two different samples differ by, as mean squared differences{more}."


def effort(page: Page) -> str:
    """What the page took."""
    cut = "" if page.extent == WHOLE else " It shows less than usual, since calls take long (report --budget)."
    return (
        f"Made {page.created} in {page.seconds:.0f} s, with {page.calls:,} network calls on {page.evaluations:,} "
        f"samples in all; seed {page.spec.seed}.{cut}"
    )
