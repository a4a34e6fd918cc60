"""The affine map between data and model space: x = (value - shift) / scale.

For pictures, uint8 [n, c, h, w], shift and scale are 127.5, so that x lies in [-1, 1]; for other arrays they are the
mean and the standard deviation over all values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from leapstep.core.printing import summary

if TYPE_CHECKING:  # the command line looks for data before it has waited for torch
    from torch import Tensor

Array = npt.NDArray[Any]


class Scaling(NamedTuple):
    """The affine map between values and model space: x = (value - shift) / scale.

    Attributes:
        shift: a number, or nested tuples of the shape of one sample, or that broadcast to it.
        scale: a number.
    """

    shift: Any
    scale: float

    def __repr__(self) -> str:
        return summary(self, self._asdict().items())

    @property
    def _offset(self) -> Any:
        return np.asarray(self.shift) if isinstance(self.shift, tuple) else self.shift

    def to_model(self, values: Array) -> Tensor:
        """Map values of any shape to model space, float32."""
        import torch

        exact = np.float32 if values.dtype == np.uint8 else np.float64  # float32 holds every pixel, and is faster
        wide: npt.NDArray[np.floating[Any]] = values.astype(exact)
        return torch.from_numpy((wide - self._offset) / self.scale).to(torch.float32)

    def to_values(self, x: Tensor) -> Array:
        """Map model space to values of the same shape, float64."""
        import torch

        wide: npt.NDArray[np.float64] = x.detach().to("cpu", torch.float64).numpy()
        values: Array = wide * self.scale + self._offset
        return values

    def to_pixels(self, x: Tensor) -> npt.NDArray[np.uint8]:
        """Map model space to pixels of the same shape, rounded and clamped to uint8; NaN, as samplers tell, to 0."""
        return np.nan_to_num(self.to_values(x)).round().clip(0, 255).astype(np.uint8)


PIXELS = Scaling(127.5, 127.5)
