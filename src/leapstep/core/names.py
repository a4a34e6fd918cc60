"""Names of sampling methods with their options, of spacings, starts and types; and what methods are called elsewhere.

Here is what can be said of a name without PyTorch, which takes longer to import than a command may take to refuse one.
What the names stand for is in the tables `TRANSITIONS` and `SPACINGS`; a test compares them.

Two names stand for the same method where they make the same step: the same x_s of x_t, of the network's estimates and
of the noise. Which times a method steps through is another matter (`leapstep.times`), and so is how x is scaled:
elsewhere it often is x / alpha. The name of a method that is not here is refused with the nearest that is, and with
what sets them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from leapstep.text import allowed

METHODS: dict[str, dict[str, int | float | str]] = {
    "ddim": {"eta": 0.0, "variance": "eta", "eps": "consistent"},
    "ddpm": {"variance": "posterior"},
    "dpmpp_2m": {"average": "middle"},
    "dpmpp_3m": {},
    "unipc": {"order": 2},
    "deis": {"order": 3, "variable": "t"},
    "ipndm": {"order": 4},
    "dpmpp_2s": {},
    "dpm_2": {},
    "heun": {},
    "rk4": {},
    "rk23": {"rtol": 1e-2, "atol": 1e-2},
    "rk45": {"rtol": 1e-3, "atol": 1e-3},
    "pf_euler": {},
    "sde_dpmpp_2m": {"eta": 1.0},
    "euler_maruyama": {},
    "edm": {"churn": 0.5, "low": 0.0, "high": math.inf},
    "pc": {"corrections": 1, "snr": 0.16},
}
"""Every method of `TRANSITIONS`, and its options with their defaults, but for what a model's calibration gives."""

SPACINGS = ("trailing", "leading", "linspace", "quad", "log_snr", "karras")
"""The names in `leapstep.core.spacing.SPACINGS`, where they are explained."""

STARTS = ("marginal", "unit", "gaussian")
"""From what samples begin at the first time, of standard normal noise eps.

marginal: alpha origin + sigma eps, which has the law of x_t there but for what little signal is left; or, where the
origin is a `Gaussian`, x_t of its flow from pure noise. unit: eps itself, as in pipelines of diffusers, also where the
first time is below 1. gaussian: as marginal, for an origin that is a `Gaussian`, whose flow takes the first steps too,
without a call; see `leapstep.core.sampling.path_of`."""

DTYPES = ("float32", "bfloat16", "float64")
"""What a network can compute in, by the names that PyTorch has for these types."""

# --- elsewhere -----------------------------------------------------------------------------------------------------

Named = tuple[str, dict[str, Any]]
"""The name of a method in `TRANSITIONS`, and options of it that are not at their defaults."""

_EULER: Named = ("ddim", {"eta": 0.0})
_ANCESTRAL: Named = ("ddim", {"eta": 1.0})
_LMS: Named = ("deis", {"order": 4, "variable": "rho"})

ELSEWHERE: dict[str, Named] = {
    "euler": _EULER,
    "EulerDiscreteScheduler": _EULER,
    "EDMEulerScheduler": _EULER,
    "FlowMatchEulerDiscreteScheduler": _EULER,
    "euler_ancestral": _ANCESTRAL,
    "euler_a": _ANCESTRAL,
    "EulerAncestralDiscreteScheduler": _ANCESTRAL,
    "DDIMScheduler": ("ddim", {}),
    "DDPMScheduler": ("ddpm", {}),
    "HeunDiscreteScheduler": ("heun", {}),
    "KDPM2DiscreteScheduler": ("dpm_2", {}),
    "lms": _LMS,
    "LMSDiscreteScheduler": _LMS,
    "IPNDMScheduler": ("ipndm", {}),
    "DEISMultistepScheduler": ("deis", {"order": 2, "variable": "log_snr"}),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", {}),
    "EDMDPMSolverMultistepScheduler": ("dpmpp_2m", {}),
    "res_multistep": ("dpmpp_2m", {"average": "exact"}),
    "dpmpp_2m_sde": ("sde_dpmpp_2m", {}),
    "uni_pc_bh2": ("unipc", {"order": 3}),
    "UniPCMultistepScheduler": ("unipc", {}),
}
"""Names of methods elsewhere, which are taken wherever a method is named, and the same method here.

A name that is the same here and there is not listed."""

_BEFORE = "which takes the estimate of the step before, not one more in the middle"
_PART = "which replaces a part of the noise; lcm replaces all of it, for networks made for that"
_NO_NOISE = "which has its step, but not the noise after it (euler_ancestral has that)"

OTHERS: dict[str, tuple[str, str]] = {
    "uni_pc": ("unipc with order=3", "which is uni_pc_bh2; uni_pc differs in steps with two estimates of x0"),
    "dpm_2_ancestral": ("dpm_2", _NO_NOISE),
    "KDPM2AncestralDiscreteScheduler": ("dpm_2", _NO_NOISE),
    "dpmpp_2s_ancestral": ("dpmpp_2s", _NO_NOISE),
    "DPMSolverSinglestepScheduler": ("dpmpp_2s", "whose every step has its own middle, so it takes half as many steps"),
    "dpmpp_sde": ("sde_dpmpp_2m", _BEFORE),
    "DPMSolverSDEScheduler": ("sde_dpmpp_2m", _BEFORE),
    "dpmpp_2m_sde_heun": ("sde_dpmpp_2m", "which is dpmpp_2m_sde: it averages x0 at the middle of the step"),
    "dpmpp_3m_sde": ("sde_dpmpp_2m", "which has two estimates of x0 in place of three"),
    "SASolverScheduler": ("sde_dpmpp_2m", "which predicts, but does not correct"),
    "ipndm_v": ("deis with order=4 and variable=rho", "with the weights that are exact on uneven steps"),
    "PNDMScheduler": ("ipndm", "whose first step is a single call, not two"),
    "heunpp2": ("heun", "which averages two slopes in place of three"),
    "FlowMatchHeunDiscreteScheduler": ("heun", "which is straight in sigma / alpha, not in t"),
    "dpm_fast": ("dpm_2", "in steps that are all alike"),
    "dpm_adaptive": ("rk23", "which chooses its own steps by another pair of solvers"),
    "lcm": ("ddpm", _PART),
    "LCMScheduler": ("ddpm", _PART),
}
"""Names of methods that are not here: the nearest of ours, and in what it differs."""


def ours(name: str) -> Named:
    """Our name and options for a method that may be named as elsewhere; any other name as it is."""
    method, options = ELSEWHERE.get(name, (name, {}))
    return method, dict(options)


def refusal(name: object, names: Iterable[str]) -> str:
    """Write the end of an error about an unknown method: what was probably meant or is nearest, and all names."""
    if name in OTHERS:
        nearest, difference = OTHERS[str(name)]
        return f"not here; the nearest is {nearest}, {difference}"
    return f"{allowed(name, names, also=ELSEWHERE)}, or its name in k-diffusion, ComfyUI or diffusers"
