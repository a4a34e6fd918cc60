"""The page about a model, as one HTML file without dependencies.

model = leapstep.load("runs/digits")
page = leapstep.evaluation.page.gather(model, source="runs/digits")
pathlib.Path("report.html").write_text(render(page))
"""

from leapstep.views.report.rendering import render
from leapstep.views.report.words import cost, lead, quality

__all__ = ["cost", "lead", "quality", "render"]
