"""The opening of a page: how good samples are beside real data.

A distance means little alone, and few samples make it too large. So as many real samples are held against the same
reference, again and again, and a model that draws nothing but the mean of the data is the other end of the scale.
"""

from __future__ import annotations

import numpy as np
import torch

from leapstep.data.dataset import Data
from leapstep.evaluation import features
from leapstep.evaluation.distances import frechet_distance
from leapstep.evaluation.page.contents import Array, Splits, Standing

LEAST = 8
"""So many samples at least are held against data."""

DRAWS = 20
"""How often as many real samples are drawn."""

MOST = 5000
"""How many real samples are looked at."""


def standing(samples: Array, data: Splits) -> Standing | None:
    """Hold samples against data by the Fréchet distance in the feature space `pixels`.

    Arguments:
        samples: [n, *d], as the data would be.
        data: what they are held against: the held-out part, or, where there is none, a half of the training data.
    Returns:
        None where there are too few samples or data.
    """
    random = np.random.default_rng(0)
    if data.held is None:
        order, half = random.permutation(len(data.train.data)), len(data.train.data) // 2
        reference, real = (data.train.data.subset(np.sort(rows)) for rows in (order[:half], order[half:]))
    else:
        reference, real = data.held.data, data.train.data
    reference, real = _some(reference, random), _some(real, random)
    n = min(len(samples), len(real) // 2)
    if n < LEAST or len(reference) < LEAST:
        return None
    space = features.load("pixels", reference)
    against, known = (
        torch.cat([*features.extracted(space, each, range(len(each)))]).double() for each in (reference, real)
    )
    drawn = [frechet_distance(known[random.permutation(len(known))[:n]], against) for _ in range(DRAWS)]
    return Standing(
        value=frechet_distance(space.extract(samples[:n]), against),
        real=float(np.mean(drawn)),
        spread=float(np.std(drawn)),
        mean=float(against.square().sum(1).mean()),  # of the data's mean, at which all features are 0
        n=n,
    )


def _some(data: Data, random: np.random.Generator) -> Data:
    return data if len(data) <= MOST else data.subset(np.sort(random.permutation(len(data))[:MOST]))
