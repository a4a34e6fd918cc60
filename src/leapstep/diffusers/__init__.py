"""leapstep inside the pipelines of diffusers, and their pipelines as diffusions here.

>>> pipe.scheduler = leapstep.diffusers.Scheduler.from_config(pipe.scheduler.config, method="unipc", spacing="log_snr")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leapstep.diffusers.latents import LatentModel, from_pipeline
    from leapstep.diffusers.scheduler import Scheduler, from_scheduler

MODULES = {
    "LatentModel": "latents",
    "Scheduler": "scheduler",
    "from_pipeline": "latents",
    "from_scheduler": "scheduler",
}
"""Each public name, and the module that it is in, which is imported when it is first used."""

__all__ = ["LatentModel", "Scheduler", "from_pipeline", "from_scheduler"]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("diffusers", "transformers"):
            raise
        raise ImportError(f"{__name__}.{name} needs {package}: pip install 'leapstep[diffusers]'") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES])
