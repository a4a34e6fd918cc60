"""Solvers with few calls, fitted to a network: without data, without gradients, in seconds.

`linear` has what all solvers with one call a step have in common; `reference`, the teacher whose paths are learned
from; `search`, where the calls are best made; `refine`, the coefficients; `tune` puts them together.
"""

from __future__ import annotations

from leapstep.core.fitting.reference import Distance, Reference, Teacher, refer
from leapstep.core.fitting.tune import Fitted, fit, tune

__all__ = ["Distance", "Fitted", "Reference", "Teacher", "fit", "refer", "tune"]
