"""Cases that the tests of the core share: data whose denoiser is exact, times, a method as others have it."""

import torch

import leapstep
from leapstep.core.process import weighted
from leapstep.core.transitions.multistep import Point, _average

F64 = torch.float64
MIXTURE = leapstep.GaussianMixture(
    torch.tensor([[1.5, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=F64), torch.tensor([0.3, 0.2, 0.25], dtype=F64)
)


def time(value):
    return torch.tensor(value, dtype=F64)


def silent(draw=0):
    raise AssertionError("a deterministic step asked for noise")


def halved_3m(diffusion, x, t, s, memory, noise):
    """`dpmpp_3m` as it is in use elsewhere: half of the parabola's curvature."""
    step = leapstep.dpmpp_3m()(diffusion, x, t, s, memory, noise)
    if memory is None or "value_1" not in memory or diffusion.process.sigma(s) == 0:
        return step
    points = [Point(step.x0, t)] + [Point(memory[f"value_{j}"], memory[f"t_{j}"][0]) for j in (0, 1)]
    (now, t0, _), (last, t1, _), (before, t2, _) = points
    lam = [diffusion.process.log_snr(u) / 2 for u in (t0, t1, t2)]
    second = ((now - last) / (lam[0] - lam[1]) - (last - before) / (lam[1] - lam[2])) / (lam[0] - lam[2])
    exact = _average(diffusion.process, points, t, s, "x0", "log_snr")
    # the parabola less the line through its slope at t: (u - lam0)(u - lam1) = (u - lam0)^2 + (u - lam0)(lam0 - lam1)
    slope = (now - last) / (lam[0] - lam[1]) + second * (lam[0] - lam[1])
    line = [Point(now + slope * (u - lam[0]), v) for u, v in zip(lam, (t0, t1, t2), strict=True)]
    straight = _average(diffusion.process, line, t, s, "x0", "log_snr")
    used = diffusion.process.split(weighted(*exact, *straight) / 2, x, t, "x0")
    return step._replace(x=diffusion.process.add_noise(used[0], s, used[1]))
