"""The figures of a diagnosis: the network in the first colour, its comparison in the second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leapstep.views.plots import Palette, finite, gaps, number, plain_numbers, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leapstep.doctor.evidence import Curve, Level, Passage


def schedule(curve: Curve, time: str = "index") -> str:
    """Log-SNR over the timestep: as read from the network, with its interval, and of the schedule that was found."""

    def draw(figure: Figure, colours: Palette) -> None:
        network, other, *_ = colours.series
        axes = figure.subplots()
        points = list(zip(curve.timesteps, curve.read, curve.low, curve.high, strict=True))
        for at, _, low, high in points:
            if None not in (finite(low), finite(high)):
                axes.plot([at, at], gaps([low, high]), color=network, linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([], [], color=network, linewidth=4, alpha=0.35, label="... the levels it cannot tell apart")
        told = [(at, read) for at, read, low, high in points if None not in (low, high) and finite(read) is not None]
        rest = [(at, read) for at, read, low, high in points if None in (low, high) and finite(read) is not None]
        axes.plot(*_columns(told), "o", color=network, markersize=4, label="read from the network")
        if rest:
            axes.plot(*_columns(rest), "o", color=network, markersize=4, markerfacecolor="none", label="... but unsure")
        axes.plot(curve.timesteps, gaps(curve.named), "--", color=other, linewidth=1.6, label="the schedule found")
        if time == "sigma" and min(curve.timesteps) > 0:
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
        if read := [level for point in points for each in point[1:] if (level := finite(each)) is not None]:
            room = max(1.0, 0.15 * (max(read) - min(read)))
            axes.set_ylim(min(read) - room, max(read) + room)
        axes.set(xlabel="timestep, as the network is told", ylabel="log-SNR (nats)", title="The schedule")
        axes.yaxis.set_major_formatter(number)
        axes.legend(*_legend(axes, (1, 2, 0, 3) if rest else (1, 0, 2)))

    return svg(
        draw,
        "schedule",
        "Plot of the log signal-to-noise ratio over the timestep: points read from the network with their intervals, "
        "and the curve of the schedule that was found.",
    )


def denoising(levels: Sequence[Level]) -> str:
    """The error of the network, of the best linear denoiser and of the mean, over the noise level."""

    def draw(figure: Figure, colours: Palette) -> None:
        network, other, *_ = colours.series
        axes = figure.subplots()
        axes.axhline(1, color=colours.ink, linewidth=1, linestyle=":", label="the mean of the data: 1")
        seen = [level for level in levels if math.isfinite(level.log_snr)]
        x = [level.log_snr for level in seen]
        axes.plot(x, _positive([level.linear for level in seen]), "s--", color=other, label="best linear denoiser")
        axes.plot(x, _positive([level.error for level in seen]), "o-", color=network, label="the network")
        axes.set_yscale("log")
        axes.invert_xaxis()
        plain_numbers(axes.yaxis)
        axes.xaxis.set_major_formatter(number)
        axes.set(
            xlabel="log-SNR (nats): data on the left, noise on the right",
            ylabel="error of x0 / variance",
            title="How well it denoises",
        )
        axes.legend(*_legend(axes, (2, 1, 0)))

    return svg(
        draw,
        "denoising",
        "Plot of the mean squared error of the estimated data, relative to their variance, over the log "
        "signal-to-noise ratio: of the network, of the best linear denoiser, and of the mean, which is 1.",
    )


def sampling(passages: Sequence[Passage], parted: float | None) -> str:
    """Spread and shape of samples on their way from noise to data, with what luck alone does."""

    def draw(figure: Figure, colours: Palette) -> None:
        network, other, *_ = colours.series
        upper, lower = figure.subplots(2, 1, sharex=True)
        t = [passage.t for passage in passages]
        upper.axhline(1, color=colours.ink, linewidth=1, linestyle=":")
        upper.plot(t, gaps([passage.spread for passage in passages]), "o-", color=network)
        upper.set(ylabel="spread (ratio)", title="Samples against noised data")
        luck = [finite(passage.luck) or 0.0 for passage in passages]
        lower.fill_between(t, 0, luck, color=other, alpha=0.35, linewidth=0, label="luck")
        limit = [passage.limits[3] for passage in passages]
        lower.plot(t, limit, "--", color=other, linewidth=1, label="up to here they follow")
        lower.plot(t, gaps([passage.shape for passage in passages]), "o-", color=network, label="the samples")
        lower.set(xlabel="t: noise on the left, data on the right", ylabel="shape off (nats)", ylim=(0, None))
        upper.invert_xaxis()
        _room(upper, lower, passages)
        if parted is not None:
            for axes in (upper, lower):
                axes.axvline(parted, color=colours.ink, linewidth=1, linestyle="--")
            upper.annotate("they part", (parted, 1), (3, -2), ("data", "axes fraction"), "offset points", va="top")
        lower.legend()

    parts = "they do not part." if parted is None else f"they part at t = {parted:.2g}."
    return svg(
        draw,
        "sampling",
        "Two plots over the time from noise to data: the spread of the samples over that of noised data, and how "
        f"far their variances are off, with what luck alone does and the limit up to which they follow; {parts}",
    )


def _room(upper: Any, lower: Any, passages: Sequence[Passage]) -> None:
    """Axes on which small deviations look small, and large ones do not hide the rest."""
    spreads = [value for value in gaps([passage.spread for passage in passages]) if value > 0]
    low, high = min([0.9, *spreads]), max([1.1, *spreads])
    if high / low > 5:
        upper.set_yscale("log")
        plain_numbers(upper.yaxis)
        upper.set_ylim(low / 1.2, high * 1.2)
    else:
        upper.set_ylim(low - 0.02, high + 0.02)
    if max([0.0, *(value for value in gaps([passage.shape for passage in passages]) if value > 0)]) > 5:
        lower.set_yscale("symlog", linthresh=1)
        lower.yaxis.set_major_formatter(number)


def _positive(values: Sequence[float]) -> list[float]:
    """As a logarithmic axis can show them."""
    return [max(value, 1e-6) for value in gaps(values)]


def _columns(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], gaps([value for _, value in points])


def _legend(axes: Any, order: Sequence[int]) -> tuple[list[Any], list[str]]:
    """The entries of a legend in another order than they were drawn in."""
    handles, labels = axes.get_legend_handles_labels()
    return [handles[i] for i in order], [labels[i] for i in order]
