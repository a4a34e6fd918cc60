"""The contents of a page about a model: the model, the effect of few steps, and what it does with data.

`gather` runs the model and collects numbers and arrays; `leapstep.views.report.render` writes them as one HTML file.
"""

from leapstep.evaluation.page.contents import Page, Plan, Split, Splits
from leapstep.evaluation.page.cost import effort, evaluations, fitted, price
from leapstep.evaluation.page.gathering import gather
from leapstep.evaluation.page.splits import read_splits, trained_on
from leapstep.evaluation.page.work import complete

__all__ = [
    "Page",
    "Plan",
    "Split",
    "Splits",
    "complete",
    "effort",
    "evaluations",
    "fitted",
    "gather",
    "price",
    "read_splits",
    "trained_on",
]
