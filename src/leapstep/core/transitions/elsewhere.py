"""Names that k-diffusion, ComfyUI and diffusers have for sampling methods, and ours.

Two names stand for the same method where they make the same step: the same x_s of x_t, of the network's estimates and
of the noise. Which times a method steps through is another matter (`leapstep.times`), and so is how x is scaled:
elsewhere it often is x / alpha. The name of a method that is not here is refused with the nearest that is, and with
what sets them apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leapstep.text import allowed

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
