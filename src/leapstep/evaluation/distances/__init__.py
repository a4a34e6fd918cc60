"""Metrics of samples against a reference, of any kind of data; nothing here knows diffusion.

Everything is computed in float64. Sets of 10,000 samples with 2048 features are no trouble: what would take a matrix of
all pairs goes block by block.
"""

from leapstep.evaluation.distances.arrival import Samples
from leapstep.evaluation.distances.balls import nearest, nearest_in_parts, neighbours
from leapstep.evaluation.distances.copies import Memorisation, from_others, memorisation
from leapstep.evaluation.distances.gaussian import frechet_distance
from leapstep.evaluation.distances.intervals import Estimate, difference, median_ratio
from leapstep.evaluation.distances.merged import Against, Blocks, Node, Tree, against
from leapstep.evaluation.distances.metrics import METRICS, measure
from leapstep.evaluation.distances.scores import inception_score, kernel_distance

__all__ = [
    "METRICS",
    "Against",
    "Blocks",
    "Estimate",
    "Memorisation",
    "Node",
    "Samples",
    "Tree",
    "against",
    "difference",
    "frechet_distance",
    "from_others",
    "inception_score",
    "kernel_distance",
    "measure",
    "median_ratio",
    "memorisation",
    "nearest",
    "nearest_in_parts",
    "neighbours",
]
