"""The figures of a page: plots as SVG, and images as sprites."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leapstep.evaluation.cells import NAMES, Cell, rows_of
from leapstep.evaluation.page.contents import Array, Consistency, Curve, Levels, chosen
from leapstep.evaluation.page.folder import CURVES, HELD_OUT, TRAINING
from leapstep.text import short
from leapstep.views.plots import (
    Draw,
    Palette,
    gaps,
    number,
    plain,
    plain_numbers,
    ticks_at,
)
from leapstep.views.plots import svg as drawn
from leapstep.views.quality import AXES, over

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = (3.1, 2.3)
"""Inches of a plot that stands beside another."""

LIMIT = 900_000
"""Bytes of pixels in a sprite; larger pictures are shrunk, since a page is read on a telephone as well."""


# --- sprites -------------------------------------------------------------------------------------------------------


class Sprite(NamedTuple):
    """A PNG file that holds frames one below the other, each a grid of pictures with transparent gaps.

    Attributes:
        png: the file.
        width, height: of a frame, pixels.
        frames: how many.
        shrunk: by how much the pictures are smaller than they were.
        side: the width of a picture in it, pixels.
    """

    png: bytes
    width: int
    height: int
    frames: int
    shrunk: int
    side: int


def sprite(frames: Array, columns: int) -> Sprite:
    """Lay pictures out.

    Arguments:
        frames: uint8 [frames, pictures, c, h, w] with c = 1 or 3.
        columns: pictures in a row.
    """
    from PIL import Image

    factor = math.ceil(max(1.0, math.sqrt(frames.size / LIMIT)))
    frames = shrunk(frames, factor)
    count, n, c, h, w = frames.shape
    rows, gap = -(-n // columns), max(1, round(w / 16))
    canvas = np.zeros((count, rows, h + gap, columns, w + gap, c + 1), np.uint8)
    for i in range(n):
        place = canvas[:, i // columns, :h, i % columns, :w]
        place[..., :c] = frames[:, i].transpose(0, 2, 3, 1)
        place[..., c] = 255
    flat = canvas.reshape(count * rows * (h + gap), columns * (w + gap), c + 1)
    encoded = io.BytesIO()
    Image.fromarray(flat, "LA" if c == 1 else "RGBA").save(encoded, "PNG", optimize=True)
    return Sprite(encoded.getvalue(), columns * (w + gap), rows * (h + gap), count, factor, w)


def shrunk(pictures: Array, factor: int) -> Array:
    """Means of squares of pixels in place of pixels, [..., h, w]."""
    if factor == 1:
        return pictures
    *outer, h, w = pictures.shape
    high, wide = max(1, h // factor), max(1, w // factor)
    tall, broad = min(factor, h), min(factor, w)
    squares = pictures[..., : high * tall, : wide * broad].reshape(*outer, high, tall, wide, broad)
    means: Array = squares.mean((-3, -1)).round().astype(np.uint8)
    return means


def strip(png: bytes, most: int) -> bytes:
    """A PNG file as it is, or in half and half again its size until it has at most so many bytes."""
    from PIL import Image

    while len(png) > most:
        with Image.open(io.BytesIO(png)) as image:
            half = image.convert("RGB").resize((max(1, image.width // 2), max(1, image.height // 2)))
        encoded = io.BytesIO()
        half.save(encoded, "PNG", optimize=True)
        if len(encoded.getvalue()) >= len(png):
            break
        png = encoded.getvalue()
    return png


# --- what is no picture --------------------------------------------------------------------------------------------


def bounds(*arrays: Array) -> tuple[Array, Array]:
    """The range in which nearly all values lie, of each coordinate of points `[..., 2]`, with a margin."""
    points = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    points = points[np.isfinite(points).all(1)]
    if len(points) == 0:
        points = np.zeros((1, arrays[0].shape[-1]))
    low, high = np.quantile(points, (0.002, 0.998), axis=0)
    margin = 0.06 * (high - low) + 1e-9 + 1e-6 * abs(high)
    return low - margin, high + margin


Way = tuple[Array, Array]
"""A path of points `[m, 2]`, and points around it `[n, 2]`."""


def scatter(points: Array, limits: tuple[Array, Array], name: str, alt: str, way: Way | None = None) -> str:
    """Points of a plane `[n, 2]`; with a way, larger, above its path and what is around it."""

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.subplots()
        if way is not None:
            path, around = way
            axes.plot(around[:, 0], around[:, 1], "o", color=colours.faint, markersize=2.5)
            axes.plot(path[:, 0], path[:, 1], "-", color=colours.series[1], linewidth=1.4)
        size = 2.5 if way is None else 6
        axes.plot(points[:, 0], points[:, 1], "o", color=colours.series[0], markersize=size, alpha=0.8)
        axes.set(xlim=(limits[0][0], limits[1][0]), ylim=(limits[0][1], limits[1][1]))
        axes.set(xlabel="first value", ylabel="second value")
        texts = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks().tolist())
        _fixed(figure, SMALL, 0.42 + 0.075 * max(map(len, texts)))

    return svg(draw, name, alt, SMALL)


def signals(values: Array, limits: tuple[float, float], name: str, alt: str, columns: int = 2) -> str:
    """Signals `[n, l]` or `[n, c, l]`, each in axes of its own, its channels in colours and dashes."""
    values = values if values.ndim == 3 else values[:, None]
    places = chosen(values.shape[-1], 200)
    columns = min(columns, len(values))
    rows = -(-len(values) // columns)

    size = (SMALL[0] * (1 if columns <= 2 else 1.7), max(1.7, 0.95 * rows))

    def draw(figure: Figure, colours: Palette) -> None:
        _fixed(figure, size)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(values) :]:
            axes.set_axis_off()
        for axes, signal in zip(grid.flat, values, strict=False):
            for channel, line in enumerate(signal):
                dashes = ("-", "--", ":", "-.")[channel % 4]
                axes.plot(places, line[places], dashes, color=colours.series[channel % 6], linewidth=1)
            axes.set(ylim=limits)
            axes.xaxis.set_major_formatter(number)
        figure.supxlabel("place in the signal", fontsize=8)

    return svg(draw, name, alt, size)


def _fixed(figure: Figure, size: tuple[float, float], left: float = 0.55) -> None:
    """Axes that stand in the same place in every frame; that they need not be found is faster as well."""
    width, height = size
    figure.set_layout_engine(None)
    figure.subplots_adjust(left / width, 0.5 / height, 1 - 0.1 / width, 1 - 0.1 / height, 0.15, 0.2)


def pairs(left: Array, right: Array, called: tuple[str, str], limits: tuple[float, float], name: str, alt: str) -> str:
    """Signals `[n, l]` or `[n, c, l]`, each over the one that it is compared with, in the second colour; both named."""
    left, right = (each if each.ndim == 3 else each[:, None] for each in (left, right))
    places, rows = chosen(left.shape[-1], 200), -(-len(left) // 2)

    def draw(figure: Figure, colours: Palette) -> None:
        grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(left) :]:
            axes.set_axis_off()
        for axes, one, other in zip(grid.flat, left, right, strict=False):
            below = axes.plot(places, other[:, places].T, "--", color=colours.series[1], linewidth=1.6)
            above = axes.plot(places, one[:, places].T, "-", color=colours.series[0], linewidth=1)
            axes.set(ylim=limits)
            axes.xaxis.set_major_formatter(number)
        figure.supxlabel("place in the signal", fontsize=8)
        figure.legend([above[0], below[0]], called, loc="outside upper center", ncols=2)

    return svg(draw, name, alt, (5.0, 0.25 + max(1.7, 1.05 * rows)))


def joined(left: Array, right: Array, limits: tuple[Array, Array], name: str, alt: str) -> str:
    """Points of a plane `[n, 2]`, each with a line to the one that it is compared with."""

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.subplots()
        for one, other in zip(left, right, strict=True):
            axes.plot([one[0], other[0]], [one[1], other[1]], "-", color=colours.ink, linewidth=0.8)
        axes.plot(right[:, 0], right[:, 1], "s", color=colours.series[1], label="before")
        axes.plot(left[:, 0], left[:, 1], "o", color=colours.series[0], markersize=3, label="after")
        axes.legend()
        axes.set(xlim=(limits[0][0], limits[1][0]), ylim=(limits[0][1], limits[1][1]))
        axes.set(xlabel="first value", ylabel="second value")

    return svg(draw, name, alt, SMALL)


# --- plots ---------------------------------------------------------------------------------------------------------


def svg(draw: Draw, name: str, alt: str, size: tuple[float, float]) -> str:
    """As `plots.svg`; letters that its font lacks are the browser's to find, and no cause for a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return drawn(draw, name, alt, size)


def training(curves: Mapping[str, Curve]) -> list[str]:
    """A plot of each quantity over the training steps."""
    from matplotlib.ticker import MaxNLocator

    def plot(name: str, curve: Curve) -> str:
        def draw(figure: Figure, colours: Palette) -> None:
            axes = figure.subplots()
            values = gaps(curve.values)
            smooth = len(values) >= 40 and name != "learning_rate"
            axes.plot(curve.steps, values, color=colours.series[0], linewidth=1, alpha=0.35 if smooth else 1)
            if smooth:
                axes.plot(curve.steps, _smoothed(values), color=colours.series[0], linewidth=1.6)
            positive = [value for value in values if value > 0]
            if name == "loss" and len(positive) == len(values) and max(positive) > 10 * min(positive):
                axes.set_yscale("log")
                plain_numbers(axes.yaxis)
            else:
                axes.set_ylim(bottom=0)
                axes.yaxis.set_major_formatter(lambda value, place: short(value))
            axes.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set(xlabel="training step", title=CURVES[name].capitalize())

        alt = f"Plot of the {CURVES[name]} over the training steps, from {curve.values[0]:.3g} at step "
        alt += f"{curve.steps[0]:,} to {curve.values[-1]:.3g} at step {curve.steps[-1]:,}."
        return svg(draw, f"curve-{name}", alt, SMALL)

    alike = {CURVES[name]: curves[name] for name in (HELD_OUT, TRAINING) if name in curves}
    plots = [plot(name, curve) for name, curve in curves.items() if name not in (HELD_OUT, TRAINING)]
    if alike:
        plots.insert(1, lines(alike, "training step", "Loss, averaged weights", "curve-alike"))
    return plots


def lines(curves: Mapping[str, Curve], xlabel: str, title: str, name: str) -> str:
    """Named curves of one quantity in one plot, told apart by colours and dashes."""
    from matplotlib.ticker import MaxNLocator

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.subplots()
        for i, (label, curve) in enumerate(curves.items()):
            look: Any = {"color": colours.series[i % 6], "linestyle": ("-", "--", ":", "-.")[i % 4], "linewidth": 1.2}
            axes.plot(curve.steps, gaps(curve.values), label=plain(label), **look)
        values = [value for curve in curves.values() for value in curve.values if math.isfinite(value)]
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        else:
            axes.yaxis.set_major_formatter(lambda value, place: short(value))
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel=xlabel, title=title)
        figure.legend(loc="outside lower center", ncols=1 if len(curves) > 2 else 2)

    told = [f"{label} from {short(curve.values[0])} to {short(curve.values[-1])}" for label, curve in curves.items()]
    alt = f"Plot over the {xlabel}: {'; '.join(told)}."
    return svg(draw, name, alt, (SMALL[0], SMALL[1] + (0.17 * len(curves) if len(curves) > 2 else 0.2)))


def _smoothed(values: Sequence[float]) -> Array:
    """Means over a window that shrinks at the ends."""
    half = max(1, len(values) // 30)
    parts = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([np.nanmean(part) if np.isfinite(part).any() else math.nan for part in parts])


def consistency(found: Consistency) -> str:
    """The difference from the samples of the most steps, over the steps."""
    most = found.steps[-1]

    def draw(figure: Figure, colours: Palette) -> None:
        axes = figure.subplots()
        shares = [100 * share if share > 0 else math.nan for share in found.shares[:-1]]
        axes.plot(found.steps[:-1], shares, "o-", color=colours.series[0])
        axes.set_xscale("log")
        if any(share > 0 for share in shares):
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        ticks_at(axes.xaxis, found.steps[:-1])
        axes.set(xlabel="steps", ylabel="% of that of two samples")
        axes.set(title=f"Squared difference from {most} steps")

    said = "; ".join(f"{n} steps {100 * share:.2g} %" for n, share in zip(found.steps, found.shares, strict=True))
    alt = f"Plot of the squared difference of samples of fewer steps from those of {most}, of that of two: {said}."
    return svg(draw, "consistency", alt, (3.6, 2.5))


def denoising(levels: Levels, names: Sequence[str]) -> list[str]:
    """The errors of the estimated data and of the estimated noise, over the time; a named line for each part."""

    def plot(name: str, title: str, ylabel: str, read: Callable[[Any], Sequence[float]], alt: str) -> str:
        def draw(figure: Figure, colours: Palette) -> None:
            axes = figure.subplots()
            for i, (part, label) in enumerate(reversed(list(zip(levels.parts, names, strict=True)))):
                values = [value if value > 0 else math.nan for value in gaps(read(part))]
                look: Any = {"color": colours.series[i], "label": label, "markersize": 3, "linewidth": 1.2}
                axes.plot(levels.times, values, ("o-", "s--")[i], **look)
            if name == "error-x0":
                axes.axhline(1, color=colours.ink, linewidth=1, linestyle=":", label="the mean of the data")
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
            axes.xaxis.set_major_formatter(number)
            axes.set(xlabel="t: data on the left, noise on the right", ylabel=ylabel, title=title)
            axes.legend()

        return svg(draw, name, alt, (3.6, 2.7))

    return [
        plot(
            "error-x0",
            "Error of the estimated data",
            "over their variance",
            lambda part: part.x0,
            "Plot of the mean squared error of the estimate of x0, over the variance of the data, by time t.",
        ),
        plot(
            "error-eps",
            "Error of the estimated noise",
            "mean square",
            lambda part: part.eps,
            "Plot of the mean squared error of the estimate of the noise, by time t.",
        ),
    ]


def sweep(cells: Sequence[Cell], metric: str) -> list[str]:
    """Quality over the network calls, and over the seconds where they are known, with error bars."""
    title, rows = NAMES.get(metric, metric), len(rows_of(cells))

    def plot(cost: str) -> str:
        def draw(figure: Figure, colours: Palette) -> None:
            axes = figure.subplots()
            over(axes, cells, metric, cost, colours)
            axes.set(title=plain(title[:1].upper() + title[1:]))
            figure.legend(loc="outside lower center", ncols=2)

        xlabel = AXES[cost].format(n=cells[0].get("n", "all"))
        alt = f"Plot of the {title} over {xlabel}, a line with error bars for each of {rows} methods."
        return svg(draw, f"sweep-{cost}", alt, (3.6, 2.6 + 0.17 * -(-rows // 2)))

    timed = all(cell.get("seconds") and cell["calls"] for cell in cells)
    return [plot(cost) for cost in AXES if cost == "calls" or timed]
