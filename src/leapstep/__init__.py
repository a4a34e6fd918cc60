"""leapstep: sample any trained diffusion network in 5 to 50 steps, correctly and without retraining.

>>> import leapstep
>>> diffusion = leapstep.from_network(net, leapstep.linear(), predicts="eps")      # your network, its conventions
>>> x0 = leapstep.sample(diffusion, shape=(16, 3, 32, 32), steps=20)               # 16 samples, 20 calls

Read `process`, `denoiser`, `transitions` and `sampling` in this order; together they are the whole theory.
"""

from leapstep.checkpoint import Model, load
from leapstep.denoiser import (
    Denoiser,
    Diffusion,
    GaussianMixture,
    clipped,
    dynamic_threshold,
    empirical,
    from_network,
    guided,
)
from leapstep.process import (
    SCHEDULES,
    Process,
    cosine,
    exponential,
    exponential_s,
    flow,
    from_alphas_cumprod,
    from_betas,
    linear,
    quadratic,
    rescale_zero_terminal_snr,
    scaled_linear,
    sigmoid,
    ve,
)
from leapstep.sampling import SPACINGS, Noise, State, decode, encode, sample, sample_in_batches, times, trajectory
from leapstep.transitions import TRANSITIONS, Step, Transition, ddim, ddpm, dpmpp_2m, dpmpp_2s, heun, rk4

__version__ = "0.1.0"

__all__ = [
    "SCHEDULES",
    "SPACINGS",
    "TRANSITIONS",
    "Denoiser",
    "Diffusion",
    "GaussianMixture",
    "Model",
    "Noise",
    "Process",
    "State",
    "Step",
    "Transition",
    "clipped",
    "cosine",
    "ddim",
    "ddpm",
    "decode",
    "dpmpp_2m",
    "dpmpp_2s",
    "dynamic_threshold",
    "empirical",
    "encode",
    "exponential",
    "exponential_s",
    "flow",
    "from_alphas_cumprod",
    "from_betas",
    "from_network",
    "guided",
    "heun",
    "linear",
    "load",
    "quadratic",
    "rescale_zero_terminal_snr",
    "rk4",
    "sample",
    "sample_in_batches",
    "scaled_linear",
    "sigmoid",
    "times",
    "trajectory",
    "ve",
]
