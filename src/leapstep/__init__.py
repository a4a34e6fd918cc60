"""leapstep: sample any trained diffusion network in 3 to 50 steps, correctly and without retraining.

>>> import leapstep
>>> diffusion = leapstep.from_network(net, leapstep.linear(), predicts="eps")      # your network, its conventions
>>> x0 = leapstep.sample(diffusion, shape=(16, 3, 32, 32), steps=20)               # 16 samples, 20 calls

Read `process`, `denoiser`, `transitions` and `sampling` in this order; together they are the whole theory.
"""

from typing import Any

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # __init__.pyi lists the names and their modules


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _load(name)
    from leapstep.text import near

    meant = None if name.startswith("__") else near(name, __all__)
    raise AttributeError(f"module 'leapstep' has no attribute {name!r}" + (f": did you mean {meant}?" if meant else ""))
