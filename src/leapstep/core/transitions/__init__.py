"""Sampling methods, each of which makes a transition for the one loop.

`family` has the formula that all rest on, and DDIM's family; `ode`, solvers of the deterministic one; `multistep`,
those that use estimates of earlier steps; `fitted`, those with coefficients of their own; `stochastic`, other ways to
inject noise; `inpainting`, how a part of a sample is kept. Their names, also in other libraries, are in
`leapstep.core.names`.
"""

from __future__ import annotations

from leapstep.core.names import ELSEWHERE, OTHERS, ours, refusal
from leapstep.core.transitions.family import Draw, Step, Transition, ddim, ddpm, estimate, younger
from leapstep.core.transitions.fitted import fitted
from leapstep.core.transitions.inpainting import inpainted
from leapstep.core.transitions.memory import Memory, join, rows, select
from leapstep.core.transitions.multistep import (
    deis,
    dpm_2,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    ipndm,
    sde_dpmpp_2m,
    unipc,
)
from leapstep.core.transitions.named import Method, NamedTransition, as_transition
from leapstep.core.transitions.ode import heun, inverted, pf_euler, rk4, rk23, rk45
from leapstep.core.transitions.stochastic import churned, corrected, edm, euler_maruyama, pc

__all__ = [
    "ELSEWHERE",
    "OTHERS",
    "TRANSITIONS",
    "Draw",
    "Memory",
    "Method",
    "NamedTransition",
    "Step",
    "Transition",
    "as_transition",
    "churned",
    "corrected",
    "ddim",
    "ddpm",
    "deis",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "edm",
    "estimate",
    "euler_maruyama",
    "fitted",
    "heun",
    "inpainted",
    "inverted",
    "ipndm",
    "join",
    "ours",
    "pc",
    "pf_euler",
    "refusal",
    "rk4",
    "rk23",
    "rk45",
    "rows",
    "sde_dpmpp_2m",
    "select",
    "unipc",
    "younger",
]


TRANSITIONS: dict[str, Method] = {
    "ddim": Method(ddim, 1, 1, True, "the default: robust at any number of steps, also encodes, any eta"),
    "ddpm": Method(ddpm, 1, 1, False, "hundreds of steps; few with variance=optimal"),
    "dpmpp_2m": Method(dpmpp_2m, 2, 1, True, "5 to 30 calls, the safest of the fast ones"),
    "dpmpp_3m": Method(dpmpp_3m, 3, 1, True, "10 to 100 calls of a good network, without guidance"),
    "unipc": Method(unipc, 3, 1, True, "5 to 30 calls; order 3 from 10 calls on"),
    "deis": Method(deis, 3, 1, True, "8 to 30 calls, if the network estimates eps well but x0 poorly"),
    "ipndm": Method(ipndm, 2, 1, True, "5 to 10 calls; order 4 on even steps in sigma / alpha"),
    "dpmpp_2s": Method(dpmpp_2s, 2, 2, True, "like dpmpp_2m, if no memory can be kept between steps"),
    "dpm_2": Method(dpm_2, 2, 2, True, "like dpmpp_2s, for eps in place of x0"),
    "heun": Method(heun, 2, 2, True, "18 steps and more, as in EDM, spacing log_snr; encoding"),
    "rk4": Method(rk4, 4, 4, True, "reference solutions"),
    "rk23": Method(rk23, 3, 0, True, "a given error bound, low accuracy"),
    "rk45": Method(rk45, 5, 0, True, "a given error bound, high accuracy"),
    "pf_euler": Method(pf_euler, 1, 1, True, "to see what the choice of coordinates costs"),
    "sde_dpmpp_2m": Method(sde_dpmpp_2m, 2, 1, False, "20 to 50 calls, where noise repairs errors of the network"),
    "euler_maruyama": Method(
        euler_maruyama, 1, 1, False, "the reverse SDE as in textbooks, hundreds of steps; ddpm is better"
    ),
    "edm": Method(edm, 2, 2, False, "50 calls and more, where noise repairs errors of the network"),
    "pc": Method(pc, 0, 2, False, "hundreds of calls, score networks"),
}
"""Every sampling method, by the name that the command line uses."""
