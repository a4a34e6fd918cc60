"""The sections of a page: their text, figures and commands.

A section holds blocks, and a block is what the template has a macro for: {"type": "facts" | "plots" | "picture" |
"strip" | "player" | "pad" | "rows" | "pairs" | "remarks" | "table", ...}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from leapstep.evaluation.cells import LESS_IS_BETTER, NAMES, REFERENCE, nearness
from leapstep.evaluation.page.contents import Array, Page
from leapstep.text import counted, percent, short, with_error
from leapstep.views.report import commands, figures
from leapstep.views.report.words import named
from leapstep.views.tables import Table, table

Block = dict[str, Any]

STRIP_LIMIT = 250_000
"""Bytes of a picture of the training; larger ones are shown at half their size."""

WIDE, MAP, ROW, PAIR = 288, 352, 448, 136
"""How wide pictures are on the page at most, pixels: a player's, the map, rows of the same pictures, and pairs."""

MEASURES = (np.mean, np.std, np.min, np.max)


class Section(NamedTuple):
    """A part of the page: an id for links, a title, a few sentences, blocks, and commands."""

    id: str
    title: str
    text: str
    blocks: list[Block]
    commands: list[str]


def sections(page: Page) -> list[Section]:
    """All parts that the page has, in the order of reading."""
    makers = (_model, _samples, _steps, _way, _between, _reconstructions, _levels, _sweep, _neighbours)
    return [section for make in makers if (section := make(page)) is not None]


# --- blocks --------------------------------------------------------------------------------------------------------


def _plots(plots: Sequence[str], look: str = "") -> Block:
    return {"type": "plots", "plots": list(plots), "look": look}


def _slider(name: str, texts: Sequence[str], start: int, axis: str = "at") -> Block:
    return {"name": name, "texts": list(texts), "start": start, "axis": axis}


def _player(views: Sequence[Block], slider: Block, width: int, aside: str = "", play: bool = False) -> Block:
    """Views of which a slider shows a frame, beside a plot if there is one."""
    return {"type": "player", "views": views, "sliders": [slider], "width": width, "aside": aside, "play": play}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], summary: str = "") -> Block:
    """A table, folded away if it has a summary. The first cell of a row is its head."""
    return {"type": "table", "heads": heads, "rows": rows, "summary": summary, "strong": []}


def _moments(groups: Sequence[tuple[str, Array]]) -> Block:
    """The moments of arrays, for what cannot be shown in another way."""
    rows = [(name, *(short(float(measure(values))) for measure in MEASURES)) for name, values in groups]
    return _table(["", "mean", "standard deviation", "least", "greatest"], rows)


def _view(page: Page, frames: Array, columns: int, alt: str, name: str, caption: str = "") -> Block | None:
    """Frames `[positions, n, *d]` as a sprite or as a plot each; None where there is nothing to see."""
    view: Block = {"caption": caption, "alt": alt, "sprite": None, "frames": []}
    if page.kind == "pictures":
        return view | {"sprite": figures.sprite(frames, columns)}
    if page.kind == "points":
        limits = _limits(page)
        return view | {"frames": [figures.scatter(each, limits, f"{name}-{i}", alt) for i, each in enumerate(frames)]}
    if page.kind == "signals":
        span = _span(page)
        drawn = [figures.signals(each, span, f"{name}-{i}", alt, columns) for i, each in enumerate(frames)]
        return view | {"frames": drawn}
    return None


def _limits(page: Page) -> tuple[Array, Array]:
    """The range of points."""
    return figures.bounds(page.samples, page.way.x, page.consistency.samples[-1])


def _span(page: Page) -> tuple[float, float]:
    """The range of signals."""
    arrays = (page.samples, page.way.x, page.consistency.samples[-1])
    low, high = figures.bounds(*(values.reshape(-1, 1) for values in arrays))
    return float(low[0]), float(high[0])


def _note(sprite: figures.Sprite | None, width: int) -> str:
    """That pictures are not shown in their own size, but so many pixels wide together."""
    if sprite is None:
        return ""
    if sprite.shrunk > 1:
        return f" Shown at 1/{sprite.shrunk} of their size."
    times = width / sprite.width
    return f" Shown enlarged, up to {times:.0f} times." if times >= 1.5 else ""


def _classes(page: Page) -> str:
    """Which classes samples are of."""
    if not page.labels:
        return ""
    return " Classes in turn." if page.label is None else f" All are of class {page.labels[0]}."


# --- the model and its samples -------------------------------------------------------------------------------------


def _model(page: Page) -> Section:
    blocks: list[Block] = [{"type": "facts", "facts": page.facts}]
    told = [commands.info(page)]
    if page.curves:
        blocks.append(_plots(figures.training(page.curves), "curves"))
        told.append(commands.log(page))
    if len(page.strips) > 1:
        texts = [f"step {strip.step:,}" for strip in page.strips]
        pictures = [
            {"png": figures.strip(strip.png, STRIP_LIMIT), "text": text}
            for strip, text in zip(page.strips, texts, strict=True)
        ]
        slider = _slider("Samples while it was trained", texts, len(texts) - 1)
        blocks.append({"type": "strip", "pictures": pictures, "sliders": [slider]})
    return Section("model", "The model", "", blocks, told)


def _samples(page: Page) -> Section:
    n, made = len(page.samples), f"in {counted(page.spec.steps or 1)} of {page.spec.method}"
    text, alt = f"{n} samples {made}.{_classes(page)}", f"{n} samples of the model, drawn {made}."
    if page.kind == "pictures":
        columns = _columns(page)
        sprite = figures.sprite(page.samples[None], columns)
        width = min(704, 64 * columns)
        block = {"type": "picture", "sprite": sprite, "alt": alt, "width": width}
        text += _note(sprite, width)
    elif page.kind == "points":
        block = _plots([figures.scatter(page.samples, _limits(page), "samples", alt)])
    elif page.kind == "signals":
        block = _plots([figures.signals(page.samples[:16], _span(page), "samples", alt, 4)], "wide")
    else:
        flat = page.samples.reshape(n, -1)
        block = _moments([("all", flat), *((f"value {i}", flat[:, i]) for i in range(min(8, flat.shape[1])))])
    return Section("samples", "Samples", text, [block], [commands.samples(page)])


def _columns(page: Page) -> int:
    """Pictures in a row of the grid; where the classes are in turn and few, each column has one of them."""
    n = len(page.samples)
    columns = min(n, 8 if n <= 64 else math.ceil(math.sqrt(n)))
    turn = len(page.classes) if page.labels and page.label is None else 1
    return turn * max(1, columns // turn) if turn <= 1.5 * columns else columns


def _steps(page: Page) -> Section | None:
    found = page.consistency
    n, most = found.samples.shape[1], found.steps[-1]
    if len(found.steps) == 1:
        return None
    text = (
        f"The same {n} start noises in more and more steps of {page.spec.method}. The mean squared difference "
        f"from {counted(most)} is given as a share of that between two different samples."
    )
    shares = [percent(share) for share in found.shares]
    rows = list(zip(map(str, found.steps), map(short, found.errors), shares, strict=True))
    texts = [f"{counted(steps)}: {share} from {most}" for steps, share in zip(found.steps, shares, strict=True)]
    texts[-1] = counted(most)
    start = max((i for i, steps in enumerate(found.steps[:-1]) if steps <= 10), default=0)
    alt = f"{n} samples from the same noises, in as many steps as the slider says."
    view = _view(page, found.samples, 4 if page.kind == "pictures" else 2, alt, "steps")
    plot = figures.consistency(found)
    shown = _plots([plot]) if view is None else _player([view], _slider("Steps", texts, start), WIDE, plot)
    text += "" if view is None else _note(view["sprite"], WIDE)
    heads = ["steps", f"squared difference from {most}, in {page.unit}", "of two samples' squared difference"]
    blocks = [shown, _table(heads, rows, "The numbers")]
    return Section("steps", "Few steps", text, blocks, [commands.consistency(page)])


def _way(page: Page) -> Section:
    way, title = page.way, "From noise to data"
    n, texts = way.x.shape[1], [f"t = {time:.3g}" for time in way.times]
    text = f"Samples x_t at time t, and the estimate of x0 that the network makes of them.{_classes(page)}"
    columns = 4 if page.kind == "pictures" else 1
    alts = (
        f"{n} samples at the time that the slider says: noise at first, data at last.",
        f"The network's estimates of {n} samples at the time that the slider says.",
    )
    views = [
        _view(page, way.x, columns, alts[0], "way-x", "x_t"),
        _view(page, way.x0, columns, alts[1], "way-x0", "estimate of x0"),
    ]
    known = [view for view in views if view is not None]
    if known:
        slider = _slider("Time", texts, len(texts) * 3 // 5)
        block = _player(known, slider, WIDE, play=True)
        text += _note(known[0]["sprite"], WIDE)
    else:
        rows = [
            (text, *(short(float(measure(values[i]))) for values in (way.x, way.x0) for measure in (np.mean, np.std)))
            for i, text in enumerate(texts)
        ]
        block = _table(["time", "mean of x_t", "deviation", "mean of the estimate", "deviation"], rows)
    return Section("way", title, text, [block], [commands.way(page)])


def _between(page: Page) -> Section | None:
    found, title = page.between, "Between samples"
    rows, columns = found.frames.shape[:2]
    if page.kind == "numbers":
        return None
    of = "" if not page.classes else " of no class" if found.label is None else f" of class {page.classes[found.label]}"
    text = f"At the {'corners' if rows > 1 else 'ends'} are start noises{of}, between them the noises on arcs."
    texts = [f"{100 * i / (columns - 1):.0f} %" for i in range(columns)]
    if rows > 1:
        sprite = figures.sprite(found.frames.reshape(1, rows * columns, *found.frames.shape[2:]), columns)
        sliders = [_slider(name, texts, columns // 2, axis) for name, axis in (("Across", "x"), ("Down", "y"))]
        block = {"type": "pad", "sprite": sprite, "rows": rows, "columns": columns, "sliders": sliders}
        text += f" Drag across the map.{_note(sprite, MAP)}"
        return Section("between", title, text, [block], [commands.between(page)])
    frames, alt = found.frames[0][:, None], "The sample at the place that the slider says, between the ends."
    view = _view(page, frames, 1, alt, "between")
    if page.kind == "points":
        limits, ways = figures.bounds(page.samples, found.frames[0]), (found.frames[0], page.samples)
        drawn = [figures.scatter(each, limits, f"between-{i}", alt, ways) for i, each in enumerate(frames)]
        view = {"caption": "", "alt": alt, "sprite": None, "frames": drawn}
    assert view is not None
    slider = _slider("From one to the other", texts, columns // 2)
    return Section("between", title, text, [_player([view], slider, 340)], [commands.between(page)])


# --- against data --------------------------------------------------------------------------------------------------


def _reconstructions(page: Page) -> Section | None:
    found = page.reconstructions
    if found is None:
        return None
    text = (
        f"{found.n} of the {named(page, found.split)}, encoded to noise and decoded again with {found.method}: the "
        f"mean squared error that is left, in {page.unit}, with its standard error."
    )
    if not page.own:
        text += f" {page.data} is not what the model was trained on, as far as its folder says."
    errors = [with_error(*pair) for pair in zip(found.errors, found.deviations, strict=True)]
    names = [counted(steps) for steps in found.steps]
    told = [commands.reconstructions(page)]
    if page.kind == "pictures":
        rows = [_row("original", "", found.originals, f"{len(found.originals)} originals.")]
        for name, error, pictures in zip(names, errors, found.samples, strict=True):
            rows.append(_row(name, error, pictures, f"The same, back in {name}; error {error}."))
        text += _note(rows[0]["sprite"], ROW)
        block = {"type": "rows", "rows": rows, "width": ROW}
        return Section("back", "There and back", text, [block], told)
    blocks: list[Block] = []
    if page.kind == "signals":
        alt = f"Signals, dashed, and what came back in {names[0]}."
        text += f" The plot shows {len(found.originals)} of them and what came back in {names[0]}."
        lines, called = (found.samples[0], found.originals), (f"back in {names[0]}", "before")
        blocks.append(_plots([figures.pairs(*lines, called, _span(page), "back", alt)], "wide"))
    elif page.kind == "points":
        limits = figures.bounds(page.samples, found.originals)
        alt = f"Points before, and after they were encoded and decoded in {names[0]}."
        text += f" The plot shows {len(found.originals)} of them and what came back in {names[0]}."
        blocks.append(_plots([figures.joined(found.samples[0], found.originals, limits, "back", alt)]))
    blocks.append(_table(["", f"error, in {page.unit}"], list(zip(names, errors, strict=True))))
    return Section("back", "There and back", text, blocks, told)


def _row(name: str, value: str, pictures: Array, alt: str) -> Block:
    return {"name": name, "value": value, "sprite": figures.sprite(pictures[None], len(pictures)), "alt": alt}


def _levels(page: Page) -> Section | None:
    found = page.levels
    if found is None:
        return None
    last = found.parts[-1]
    text = (
        f"How far the estimates are off at {len(found.times)} noise levels, on {last.n} samples each: the data's, as "
        "samplers use it, and the noise's."
    )
    eps = [value for value in last.eps if math.isfinite(value)]
    if eps:
        text += f" The latter is {short(sum(eps) / len(eps))} on average over the times: the loss on eps."
    if len(found.parts) > 1 and page.own:
        text += " Training data far below held-out data would mean that they are known by heart."
    parts = [(part, values) for part in found.parts for values in (part.x0, part.eps)]
    heads = ["t", "log-SNR", *(f"{what}, {part.split}" for part in found.parts for what in ("x0", "eps"))]
    rows = [
        [f"{time:.3g}", short(level), *(short(values[i]) for _, values in parts)]
        for i, (time, level) in enumerate(zip(found.times, found.log_snr, strict=True))
    ]
    names = [named(page, part.split) for part in found.parts]
    blocks = [_plots(figures.denoising(found, names)), _table(heads, rows, "The numbers")]
    return Section("levels", "Error by noise level", text, blocks, [])


def _neighbours(page: Page) -> Section | None:
    found = page.neighbours
    if found is None:
        return None
    count, pictures, among = len(found.rows), page.kind == "pictures", named(page, "train")
    title = "Nearest training data" if page.own else "Nearest data"
    text = f"The {count} of {found.n} samples that are nearest to one of the {found.among:,} {among}"
    text += ", which stands beside each." if pictures else "."
    if not pictures or found.ratios is None:
        unit = "of pixels as the model scales them" if pictures else "in standard deviations of the training data"
        text += f" Distances are Euclidean over all values of a sample, {unit}."
    if found.relative is not None:
        usual = f"other {among}" if page.held == "train" else named(page, page.held)
        text += f" The ratio is to the distance of {usual} from {among} (their median)"
        text += ": far below 1 hints at a copy. " if page.own else ". "
        text += nearness(found.relative, usual, among, page.own)
    told, distances = commands.neighbours(page), [short(distance) for distance in found.distances]
    ratios = ["–"] * count if found.ratios is None else [f"{ratio:.2f}" for ratio in found.ratios]
    if pictures:
        pairs: list[Block] = []
        for i, row in enumerate(found.rows):
            both = np.stack([found.samples[i], found.nearest[i]])[None]
            alt = f"Sample {row} and its nearest {'training ' if page.own else ''}picture, at distance {distances[i]}."
            value = f"distance {distances[i]}" if found.ratios is None else f"ratio {ratios[i]}"
            pairs.append({"sprite": figures.sprite(both, 2), "alt": alt, "text": value})
        text += _note(pairs[0]["sprite"], PAIR)
        return Section("neighbours", title, text, [{"type": "pairs", "pairs": pairs, "width": PAIR}], told)
    blocks: list[Block] = []
    if page.kind == "signals":
        alt = f"{count} samples, each over the signal of the {among} nearest to it, dashed."
        lines, called = (found.samples, found.nearest), ("sample", f"nearest in the {among}")
        blocks.append(_plots([figures.pairs(*lines, called, _span(page), "nearest", alt)], "wide"))
    columns = {"sample": map(str, found.rows), "distance": distances}
    if found.ratios is not None:
        columns["ratio"] = ratios
    blocks.append(_table(list(columns), list(zip(*columns.values(), strict=True))))
    return Section("neighbours", title, text, blocks, told)


# --- a sweep -------------------------------------------------------------------------------------------------------


def _sweep(page: Page) -> Section | None:
    results, title = page.sweep, "Quality by steps"
    if results is None:
        return Section("sweep", title, page.left_out, [], []) if page.left_out else None
    cells, metric = results.cells, results.metric
    text = f"The {NAMES.get(metric, metric)} by method and number of steps; "
    text += f"{'less' if metric in LESS_IS_BETTER else 'more'} is better. ± is half of a 95 % interval."
    blocks: list[Block] = []
    if cells:
        relation, grid = REFERENCE.get(results.relation), table(cells, metric)
        text += f" The reference are data {relation}." if relation else ""
        text += f" {grid.note}" if grid.note else ""
        blocks = [_plots(figures.sweep(cells, metric)), _quality(grid)]
    conditions = ", ".join(
        f"{name.replace('_', ' ')} {str(value)[:12] if name.endswith('sha256') else value}"
        for name, value in results.conditions.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )
    remarks = [] if results.finished else ["The sweep is not finished: cells are missing."]
    remarks += [f"{line[:1].upper()}{line[1:].rstrip('.')}." for line in results.advice]
    blocks.append({"type": "remarks", "remarks": remarks, "quiet": f"Conditions: {conditions}." if conditions else ""})
    return Section("sweep", title, text, blocks, [commands.sweep(page, results)])


def _quality(grid: Table) -> Block:
    """The table of a sweep, as table 1 of the DDIM paper."""
    rows, strong = [], []
    for i, (name, entries) in enumerate(grid.rows):
        strong += [[i, j + 1] for j, entry in enumerate(entries) if entry is not None and entry.is_best]
        texts = [f"{'≈ ' if entry.is_even else ''}{entry.value}\n{entry.effort}" if entry else "–" for entry in entries]
        rows.append([name, *texts])
    return _table(["", *map(counted, grid.columns)], rows) | {"strong": strong}
