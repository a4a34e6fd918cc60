"""The figures of a diagnosis as inline SVG that takes its colours from the page: light or dark, whichever it is.

Matplotlib draws in stand-in colours, which become CSS variables; the page defines `--network`, `--other` and `--faint`.
What the colours tell, markers and dashes tell as well.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leapstep.doctor.diagnosis import Curve, Level, Passage

INK, FAINT, NETWORK, OTHER = "#010101", "#020202", "#030303", "#040404"
COLOURS = {INK: "currentColor", FAINT: "var(--faint)", NETWORK: "var(--network)", OTHER: "var(--other)"}

SIZE = (5.0, 3.3)
"""Inches: small, so that its letters can still be read at the width of a telephone."""


def require() -> Any:
    """Matplotlib. Raises ValueError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("the HTML report needs an extra: pip install 'leapstep[report]'") from error
    return matplotlib


def schedule(curve: Curve, time: str = "index") -> str:
    """Log-SNR over the timestep: as read from the network, with its interval, and of the schedule that was found."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        points = list(zip(curve.timesteps, curve.read, curve.low, curve.high, strict=True))
        for at, _, low, high in points:
            if None not in (_finite(low), _finite(high)):
                axes.plot([at, at], _gaps([low, high]), color=NETWORK, linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([], [], color=NETWORK, linewidth=4, alpha=0.35, label="... the levels it cannot tell apart")
        told = [(at, read) for at, read, low, high in points if None not in (low, high) and _finite(read) is not None]
        rest = [(at, read) for at, read, low, high in points if None in (low, high) and _finite(read) is not None]
        axes.plot(*_columns(told), "o", color=NETWORK, markersize=4, label="read from the network")
        if rest:
            axes.plot(*_columns(rest), "o", color=NETWORK, markersize=4, markerfacecolor="none", label="... in between")
        axes.plot(curve.timesteps, _gaps(curve.named), "--", color=OTHER, linewidth=1.6, label="the schedule found")
        if time == "sigma" and min(curve.timesteps) > 0:
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis)
        axes.set(xlabel="timestep, as the network is told", ylabel="log-SNR (nats)", title="The schedule")
        axes.yaxis.set_major_formatter(_number)
        axes.legend(*_legend(axes, (1, 2, 0, 3) if rest else (1, 0, 2)))

    return _svg(
        draw,
        "schedule",
        "Plot of the log signal-to-noise ratio over the timestep: points read from the network with their intervals, "
        "and the curve of the schedule that was found.",
    )


def denoising(levels: Sequence[Level]) -> str:
    """The error of the network, of the best linear denoiser and of the mean, over the noise level."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(1, color=INK, linewidth=1, linestyle=":", label="the mean of the data: 1")
        seen = [level for level in levels if math.isfinite(level.log_snr)]
        x = [level.log_snr for level in seen]
        axes.plot(x, _positive([level.linear for level in seen]), "s--", color=OTHER, label="best linear denoiser")
        axes.plot(x, _positive([level.error for level in seen]), "o-", color=NETWORK, label="the network")
        axes.set_yscale("log")
        axes.invert_xaxis()
        _plain_numbers(axes.yaxis)
        axes.xaxis.set_major_formatter(_number)
        axes.set(
            xlabel="log-SNR (nats): data on the left, noise on the right",
            ylabel="error of x0 / variance",
            title="How well it denoises",
        )
        axes.legend(*_legend(axes, (2, 1, 0)))

    return _svg(
        draw,
        "denoising",
        "Plot of the mean squared error of the estimated data, relative to their variance, over the log "
        "signal-to-noise ratio: of the network, of the best linear denoiser, and of the mean, which is 1.",
    )


def sampling(passages: Sequence[Passage], parted: float | None) -> str:
    """Spread and shape of samples on their way from noise to data, with what luck alone does."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        t = [passage.t for passage in passages]
        upper.axhline(1, color=INK, linewidth=1, linestyle=":")
        upper.plot(t, _gaps([passage.spread for passage in passages]), "o-", color=NETWORK)
        upper.set(ylabel="spread (ratio)", title="Samples against noised data")
        luck = [_finite(passage.luck) or 0.0 for passage in passages]
        lower.fill_between(t, 0, luck, color=OTHER, alpha=0.35, linewidth=0, label="luck")
        lower.plot(t, _gaps([passage.shape for passage in passages]), "o-", color=NETWORK, label="the samples")
        lower.set(xlabel="t: noise on the left, data on the right", ylabel="shape off (nats)", ylim=(0, None))
        upper.invert_xaxis()
        _room(upper, lower, passages)
        if parted is not None:
            for axes in (upper, lower):
                axes.axvline(parted, color=INK, linewidth=1, linestyle="--")
            upper.annotate("they part", (parted, 1), (3, -2), ("data", "axes fraction"), "offset points", va="top")
        lower.legend()

    parts = "they do not part." if parted is None else f"they part at t = {parted:.2g}."
    return _svg(
        draw,
        "sampling",
        "Two plots over the time from noise to data: the spread of the samples over that of noised data, and how "
        f"far their variances are off, with what luck alone does; {parts}",
    )


def _room(upper: Any, lower: Any, passages: Sequence[Passage]) -> None:
    """Axes on which small deviations look small, and large ones do not hide the rest."""
    spreads = [value for value in _gaps([passage.spread for passage in passages]) if value > 0]
    low, high = min([0.9, *spreads]), max([1.1, *spreads])
    if high / low > 5:
        upper.set_yscale("log")
        _plain_numbers(upper.yaxis)
        upper.set_ylim(low / 1.2, high * 1.2)
    else:
        upper.set_ylim(low - 0.02, high + 0.02)
    if max([0.0, *(value for value in _gaps([passage.shape for passage in passages]) if value > 0)]) > 5:
        lower.set_yscale("symlog", linthresh=1)
        lower.yaxis.set_major_formatter(_number)


def _number(value: float, place: float) -> str:
    return f"{value:g}"


def _svg(draw: Callable[[Figure], None], name: str, alt: str) -> str:
    """One figure as an `<svg>` for the middle of a page: no header, no address, no clipping, names of its own."""
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
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    written = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings | dict.fromkeys(inks, INK))
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(written.getvalue(), name, alt)


def _inlined(text: str, name: str, alt: str) -> str:
    box = re.search(r'viewBox="([\d. -]+)"', text)
    inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<clipPath.*?</clipPath>", r"<!--.*?-->"):
        inner = re.sub(part, "", inner, flags=re.DOTALL)
    inner = re.sub(r' clip-path="[^"]*"', "", inner)
    inner = re.sub(r' id="([^"]*)"', rf' id="{name}-\1"', inner)
    inner = re.sub(r' (?:xlink:)?href="#([^"]*)"', rf' href="#{name}-\1"', inner)
    inner = re.sub(r"<defs>\s*</defs>", "", inner)
    inner = re.sub(r"\n\s*", "\n", inner)
    for stand_in, colour in COLOURS.items():
        inner = inner.replace(stand_in, colour)
    assert box is not None
    return f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="{box[1]}">{inner}</svg>'


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _gaps(values: Sequence[float | None]) -> list[float]:
    """With nan, at which a line breaks, for what is unknown or infinite."""
    return [math.nan if _finite(value) is None else float(value) for value in values]  # type: ignore[arg-type]


def _positive(values: Sequence[float]) -> list[float]:
    """As a logarithmic axis can show them."""
    return [max(value, 1e-6) for value in _gaps(values)]


def _columns(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], _gaps([value for _, value in points])


def _legend(axes: Any, order: Sequence[int]) -> tuple[list[Any], list[str]]:
    """The entries of a legend in another order than they were drawn in."""
    handles, labels = axes.get_legend_handles_labels()
    return [handles[i] for i in order], [labels[i] for i in order]


def _plain_numbers(axis: Any) -> None:
    """0.01 in place of a power of ten, and enough of them where the axis is short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    steps = (1.0,) if high / max(low, 1e-12) > 30 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(_number)
    axis.set_minor_formatter(NullFormatter())
