"""A diagnosis as the doctor might make it, for the tests of how it is shown."""

import dataclasses
import math

import leapstep
from leapstep.doctor.diagnosis import Diagnosis
from leapstep.doctor.evidence import Curve, Finding, Level, Passage

CODE = """# net: as you gave it to leapstep.diagnose
import leapstep

diffusion = leapstep.from_network(net, leapstep.linear(), predicts="eps", scaling=(127.5, 127.5))
x0 = leapstep.sample(diffusion, shape=(16, 1, 8, 8), steps=20)
"""


def diagnosis(**changes):
    """A sure diagnosis of a linear eps network on [-1, 1], with some fields as you say."""
    process = leapstep.linear()
    timesteps = tuple(float(k) for k in range(0, 1000, 50))
    named = tuple(process.log_snr((k + 1) / 1000).item() for k in timesteps)
    made = Diagnosis(
        findings=(
            Finding("range", "[-1, 1]", "sure", "in this range the error is 0.48 of the linear one's"),
            Finding("predicts", "eps, the noise", "sure", "as v it is 3.1", "v"),
            Finding("schedule", "linear()", "sure", "its levels lie 1.1 tolerances off", "scaled_linear()"),
        ),
        concerns=(),
        code=CODE,
        convention=leapstep.Convention(process, scaling=(127.5, 127.5)),
        diffusion=None,
        curve=Curve(timesteps, named, tuple(v - 0.5 for v in named), tuple(v + 0.5 for v in named), named),
        levels=tuple(
            Level((k + 1) / 1000, k, v, 0.5 / (1 + math.exp(v)), 1 / (1 + math.exp(v)))
            for k, v in zip(timesteps, named, strict=True)
        ),
        passages=tuple(Passage(1 - i / 10, 0.01, 1.02, 0.05, 0.06, (0.25, 0.8, 1.25, 0.43)) for i in range(11)),
        parted=None,
        contradictions=(),
        calls=48120,
        seconds=31.42,
    )
    return dataclasses.replace(made, **changes)
