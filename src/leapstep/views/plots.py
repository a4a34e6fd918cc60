"""Plots: as SVG that follows a page's light or dark colours, and as PNG.

Inside a page the colours are CSS variables, which `STYLE` defines. Those of series can be told apart by the
colour-blind (after Okabe and Ito 2008), and what colours tell, markers and dashes must tell as well.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from leapstep.evaluation.distances import Estimate
from leapstep.text import clean, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Palette(NamedTuple):
    """The colours of a plot: of letters and axes, of the grid, and of what is drawn."""

    ink: str
    faint: str
    series: tuple[str, ...]


LIGHT = Palette("#1d2126", "#d9dce0", ("#0072b2", "#c25400", "#007a5a", "#a3417f", "#8a6d00", "#5a5f66"))
DARK = Palette("#e4e7ea", "#3a414a", ("#56b4e9", "#f0a04b", "#2fc79b", "#e08bc0", "#e3c84b", "#a3abb5"))
STAND_INS = Palette("#010101", "#020202", ("#030303", "#040404", "#050505", "#060606", "#070707", "#080808"))

WIDE = 10
"""How many times the least value the greatest must be for a logarithmic axis."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One for each colour of a series."""

NAMES = ("ink", "faint", *(f"series-{number}" for number in range(1, 7)))
"""The CSS variables of a palette's colours."""


def _variables(colours: Palette) -> str:
    named = zip(NAMES, (colours.ink, colours.faint, *colours.series), strict=True)
    return " ".join(f"--{name}: {colour};" for name, colour in named)


STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
"""
"""What a page with such plots needs among its styles."""

SIZE = (5.0, 3.3)
"""Inches: small, so that its letters can still be read at the width of a telephone."""


def require() -> Any:
    """Matplotlib. Raises ValueError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("plots need an extra: pip install 'leapstep[report]'") from error
    return matplotlib


Draw = Callable[["Figure", Palette], None]


def svg(draw: Draw, name: str, alt: str, size: tuple[float, float] = SIZE) -> str:
    """Draw a plot as an `<svg>` for the middle of a page: no header, no address, no clipping, names of its own.

    Arguments:
        draw: draws in a matplotlib figure, with the colours of a palette.
        name: begins every id in it, so that plots on one page do not mix.
        alt: what it shows, in words.
        size: inches.
    """
    written = io.StringIO()
    _save(draw, STAND_INS, size, written, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(written.getvalue(), name, alt)


def png(draw: Draw, size: tuple[float, float] = SIZE) -> bytes:
    """Draw a plot as the content of a PNG file, on white, 200 dots an inch."""
    written = io.BytesIO()
    _save(draw, LIGHT, size, written, format="png", dpi=200, facecolor="white")
    return written.getvalue()


def _save(draw: Draw, colours: Palette, size: tuple[float, float], file: Any, **options: Any) -> None:
    matplotlib = require()
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "leapstep",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": colours.faint,
        "grid.linewidth": 0.6,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings | dict.fromkeys(inks, colours.ink))
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, colours)
        figure.savefig(file, **options)


def _inlined(text: str, own: str, alt: str) -> str:
    box = re.search(r'viewBox="([\d. -]+)"', text)
    text = clean(text)
    inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<clipPath.*?</clipPath>", r"<!--.*?-->"):
        inner = re.sub(part, "", inner, flags=re.DOTALL)
    inner = re.sub(r' clip-path="[^"]*"', "", inner)
    inner = re.sub(r' id="([^"]*)"', rf' id="{own}-\1"', inner)
    inner = re.sub(r' (?:xlink:)?href="#([^"]*)"', rf' href="#{own}-\1"', inner)
    inner = re.sub(r"<defs>\s*</defs>", "", inner)
    inner = re.sub(r"\n\s*", "\n", inner)
    for stand_in, name in zip((STAND_INS.ink, STAND_INS.faint, *STAND_INS.series), NAMES, strict=True):
        inner = inner.replace(stand_in, "currentColor" if name == "ink" else f"var(--{name})")
    assert box is not None
    return f'<svg role="img" aria-label="{html.escape(clean(alt))}" viewBox="{box[1]}">{inner}</svg>'


# what plots are drawn of


def plain(text: str) -> str:
    """A text as matplotlib is to write it: one short line, no mathematics, not hidden, nothing that acts."""
    text = one_line(text, 100).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def finite(value: float | None) -> float | None:
    """The value, or None where it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def gaps(values: Sequence[float | None]) -> list[float]:
    """With nan, at which a line breaks, for what is unknown or infinite."""
    return [math.nan if finite(value) is None else float(value) for value in values]  # type: ignore[arg-type]


def number(value: float, place: float) -> str:
    """A tick's label, without a needless exponent or zeros."""
    return f"{value:g}"


def reach(estimate: Estimate) -> tuple[float, float]:
    """How far the ends of an interval are below and above its value; 0 where they are not known."""
    ends = ((estimate.low, -1), (estimate.high, 1))
    return tuple(0.0 if finite(end) is None else max(0.0, s * (end - estimate.value)) for end, s in ends)  # type: ignore


class Point(NamedTuple):
    """A point of a curve."""

    x: Estimate
    y: Estimate


def at_one_pace(calls: Sequence[float], seconds: Sequence[Estimate]) -> list[Estimate]:
    """What so many calls take at the median pace of all measurements, and at the fastest and the slowest of them.

    A call of a network takes the same time at whatever step it is made; that one measurement was slower than another is
    what else the machine had to do. So more calls take longer here, whenever each was measured.

    Arguments:
        calls, seconds: of each measurement [n], the calls positive.
    """
    pairs = list(zip(calls, seconds, strict=True))
    if not pairs:
        return []
    paces = sorted(each.value / number for number, each in pairs)
    low = min((each.value if each.low is None else each.low) / number for number, each in pairs)
    high = max((each.value if each.high is None else each.high) / number for number, each in pairs)
    middle = (paces[(len(paces) - 1) // 2] + paces[len(paces) // 2]) / 2
    return [Estimate(number * middle, number * low, number * high) for number in calls]


def curves(axes: Any, series: Mapping[str, Sequence[Point]], colours: Palette) -> None:
    """Curves over a logarithmic axis, each point with its intervals both ways; y is logarithmic over a wide range.

    Each curve goes from left to right, whatever the order of its points.
    """
    for i, (label, points) in enumerate(series.items()):
        line = sorted(points, key=lambda point: point.x.value)
        which = i % len(colours.series)
        axes.errorbar(
            [point.x.value for point in line],
            [point.y.value for point in line],
            xerr=_bars([point.x for point in line]),
            yerr=_bars([point.y for point in line]),
            color=colours.series[which],
            marker=MARKERS[which],
            linestyle=("-", "--", ":")[i // len(colours.series) % 3],
            linewidth=1.2,
            capsize=2,
            label=plain(label),
        )
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    values = [point.y.value for points in series.values() for point in points]
    if values and min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)


def _bars(ranges: Sequence[Estimate]) -> list[list[float]] | None:
    """The bars of matplotlib, [2, n], or None where there are none to draw."""
    bars = [list(ends) for ends in zip(*map(reach, ranges), strict=True)]
    return bars if any(map(any, bars)) else None


def ticks_at(axis: Any, values: Sequence[float]) -> None:
    """Ticks at the numbers themselves, on a logarithmic axis; few enough to be read."""
    from matplotlib.ticker import FixedLocator, NullLocator

    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value >= 1.45 * kept[-1]:
            kept.append(value)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(number)


def plain_numbers(axis: Any) -> None:
    """0.01 in place of a power of ten on a logarithmic axis, and at least two labels however short it is."""
    from matplotlib.ticker import Locator, NullLocator

    class Readable(Locator):
        def __call__(self) -> list[float]:
            return self.tick_values(*sorted(axis.get_view_interval()))

        def tick_values(self, vmin: float, vmax: float) -> list[float]:
            return round_numbers(vmin, vmax)

    axis.set_major_locator(Readable())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(number)


def round_numbers(low: float, high: float) -> list[float]:
    """A few round numbers from low to high, both positive, evenly spread on a logarithmic axis where there are such."""
    from matplotlib.ticker import MaxNLocator

    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    every = -(-(last - first) // 5) or 1
    for parts in ((1,), (1, 3), (1, 2, 5)):
        exponents = range(first, last + 1, every)
        found = [part * 10.0**exponent for exponent in exponents for part in parts]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            return found
    evenly = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in evenly if low <= value <= high]
