"""The parts of a diagnosis: findings, concerns, the schedule, errors by level, and the check of sampling."""

from __future__ import annotations

from dataclasses import dataclass

GAIN = 0.95
"""A network beats the linear denoiser where its error is less than this share of it."""

IGNORED = "none: the network ignores its timestep"
"""The clock of a network that does not look at its timestep."""


@dataclass(frozen=True)
class Finding:
    """One thing that the network was found to be.

    Attributes:
        name: "range", "predicts", "sigma_data", "time", "schedule" or "levels".
        value: in words, such as "[-1, 1]" or "eps, the noise".
        confidence: "sure", "likely", "unsure", or "open" where it cannot be seen and hardly matters.
        evidence: the measurement that speaks for it, in one sentence.
        runner_up: the next best value, in words; "" where there is none.
    """

    name: str
    value: str
    confidence: str
    evidence: str
    runner_up: str = ""

    def alternative(self) -> str:
        """A sentence on what else it may be; "" where that is clear."""
        return "" if self.confidence == "sure" or not self.runner_up else f"The next best is {self.runner_up}."


@dataclass(frozen=True)
class Concern:
    """Something that is wrong, or may be.

    Attributes:
        weight: 3 spoils every sample, 2 costs quality, 1 is worth knowing.
        what: what was seen, in one sentence, with its number.
        cure: what to do, in one sentence.
    """

    weight: int
    what: str
    cure: str


@dataclass(frozen=True)
class Curve:
    """The noise level of each timestep, as read from the network and as the schedule has it; lists of the same length.

    Attributes:
        timesteps: what the network was told.
        read: the log-SNR at which it proved to be.
        low, high: between which levels it cannot tell; None where it tells too little to count, as at both ends.
        named: the log-SNR of the schedule that was found; None outside of its levels.
    """

    timesteps: tuple[float, ...]
    read: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    named: tuple[float | None, ...]


@dataclass(frozen=True)
class Level:
    """The denoising error at one noise level.

    Attributes:
        t, timestep, log_snr: the level.
        error: mean squared error of the network's x0 over the variance of the data (1: no better than their mean).
        linear: the same of the best linear denoiser.
    """

    t: float
    timestep: float
    log_snr: float
    error: float
    linear: float

    @property
    def ratio(self) -> float:
        """The error in units of the linear denoiser's."""
        return self.error / max(self.linear, 1e-300)


@dataclass(frozen=True)
class Passage:
    """Where sampling stands at one level, against data with noise put on them.

    Attributes:
        t: the time.
        mean: distance of the means, in standard deviations of x_t.
        spread: standard deviation of the samples over that of x_t.
        shape: how far the variances along the data's principal axes are off: the mean of |log of their ratio|.
        luck: how large `shape` is for as many draws of q(x_t) itself.
        limits: of `mean`, of `spread` below and above, and of `shape`, beyond which samples differ from the data.
    """

    t: float
    mean: float
    spread: float
    shape: float
    luck: float
    limits: tuple[float, float, float, float]

    def failed(self) -> tuple[str, ...]:
        """The criteria that the samples fail, each with its number and its limit, in words."""
        mean, narrow, wide, shape = self.limits
        criteria = (
            (self.mean > mean, f"mean {_number(self.mean)} standard deviations from the data's, limit {mean:.2g}"),
            (self.spread > wide, f"spread {_number(self.spread)} times the data's, limit {wide:.2g}"),
            (self.spread < narrow, f"spread {_number(self.spread)} times the data's, at least {narrow:.2g}"),
            (self.shape > shape, f"shape off by {_number(self.shape)}, limit {shape:.2g}"),
        )
        return tuple(words for wrong, words in criteria if wrong)


def _number(value: float) -> str:
    return "over 1000" if value > 1000 else "under 0.001" if value < 1e-3 else f"{value:.3g}"
