"""A network of one's own: smooth 1-D signals with a known law, and the exact noise estimate of it in a Python file."""

import numpy as np
import torch

SHIFT, SCALE, LENGTH = 100.0, 30.0, 64
TIMES = torch.linspace(0, 1, LENGTH, dtype=torch.float64)
COVARIANCE = torch.exp(-((TIMES[:, None] - TIMES) ** 2) / 0.1) + 1e-3 * torch.eye(LENGTH)
"""Of smooth Gaussian signals, in the network's own range."""

SIGNALS = """
import torch

import leapstep

PROCESS = leapstep.linear()


class Network(torch.nn.Module):
    '''The exact noise estimate of Gaussian signals [1, 64] of any height, or of the height that is given.'''

    def __init__(self, given=False):
        super().__init__()
        times = torch.linspace(0, 1, 64, dtype=torch.float64)
        covariance = torch.exp(-((times[:, None] - times) ** 2) / 0.1) + 1e-3 * torch.eye(64)
        values, vectors = torch.linalg.eigh(covariance)
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)
        self.given = given

    def forward(self, x, timestep, height=None):
        assert (height is not None) == self.given, "the height"
        time = (timestep.double() + 1) / 1000
        alpha, sigma = PROCESS.alpha(time)[:, None], PROCESS.sigma(time)[:, None]
        mean = 0 if height is None else height.double()[:, None]
        y = (x.double().flatten(1) - alpha * mean) @ self.vectors
        eps = (sigma * y / (alpha**2 * self.values + sigma**2)) @ self.vectors.T
        return eps.reshape(x.shape).to(x)


def network():
    return Network()


def of_height():
    return Network(given=True)


def a_number():
    return 3
"""


def write_signals(folder, n=400):
    """Write `signals.py` with the networks, and `signals.npy` with n signals [1, 64]."""
    (folder / "signals.py").write_text(SIGNALS)
    normal = torch.randn(n, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signals = SHIFT + SCALE * normal @ torch.linalg.cholesky(COVARIANCE).T
    np.save(folder / "signals.npy", signals[:, None].float().numpy())
