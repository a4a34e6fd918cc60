"""What a diagnosis consists of. It is made by `leapstep.diagnose` and shown by `leapstep.doctor.report`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from leapstep.core.denoiser import Diffusion

IGNORED = "none: the network ignores its timestep"
"""What is found of the time of a network that does not look at it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found of a network.

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


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        findings: range, prediction, clock, schedule and so on.
        concerns: what is wrong, the gravest first.
        code: the lines of Python to paste.
        arguments: of `from_network`, without the network, the process and the condition.
        diffusion: the network, ready to sample in the range of the data at hand; a conditional one is conditioned for
            the rows of the data that were used, all at once.
        curve: the schedule.
        levels: denoising errors, from data to noise.
        passages: the sampling check, from noise to data; empty where it was not made.
        parted: the time from which on sampling and data differ, None where they do not.
        contradictions: what speaks against what was assumed.
        calls: samples that went through the network.
        seconds: how long it took.
        eta: with which samples follow the data: 0 is DDIM, 1 where DDIM parts from them and DDPM's noise does not.
        cuts: what was cut for want of time, in words; empty where there was time for everything.
        counted: the share of the values in which the network's answer counts; None where no mask said so.
    """

    findings: tuple[Finding, ...]
    concerns: tuple[Concern, ...]
    code: str
    arguments: dict[str, Any]
    diffusion: Diffusion = field(repr=False)
    curve: Curve
    levels: tuple[Level, ...]
    passages: tuple[Passage, ...]
    parted: float | None
    contradictions: tuple[str, ...]
    calls: int
    seconds: float
    cuts: tuple[str, ...] = ()
    eta: float = 0.0
    counted: float | None = None

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        return next(finding for finding in self.findings if finding.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the network, as JSON has it."""
        shown = {name: value for name, value in vars(self).items() if name not in ("diffusion", "arguments")}
        return {
            name: [asdict(each) if hasattr(each, "__dataclass_fields__") else each for each in value]
            if isinstance(value, tuple)
            else asdict(value)
            if isinstance(value, Curve)
            else value
            for name, value in shown.items()
        }

    def __str__(self) -> str:
        """The report, as the command line prints it."""
        from leapstep.doctor import report

        return report.text(self)
