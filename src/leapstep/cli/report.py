"""`leapstep report`: one HTML page about a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep.cli import measuring, options

EXAMPLES = """**Examples**

`leapstep report runs/digits --out report.html`

`leapstep report runs/digits --data digits --out report.html`

`leapstep report runs/mnist --data mnist/ --method unipc --steps 10 --sweep mnist-sweep --out mnist.html`
"""


@options.on_model
@options.sampling("spec", "first", "n", shown={"label": "the classes in turn"})
def command(
    model: options.Source,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")],
    stated: options.Spec,
    data: Annotated[
        str | None,
        typer.Option(
            help="The training data, for quality, reconstructions, errors by noise level and nearest "
            "neighbours; default: those named in the run folder, if they are on this machine."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Number of samples in the grid; default: 64 images, 16 signals, 256 points.")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A folder made by `leapstep sweep`; default: MODEL/sweep, if it exists."),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Time limit, such as 10m or 1h; with a slow network the page shows less.")
    ] = "10m",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> dict[str, Any]:
    """Write one HTML page: samples, what few steps cost, the way from noise to data, and more with --data.

    The page is a single file that needs no network: pictures, sliders and the commands that repeat each figure.
    """
    options.check_page(out)
    options.claim_file(out, overwrite)
    options.check_data(data)
    seconds = options.budget(budget)
    from leapstep.views import plots
    from leapstep.views.report import rendering, report

    plots.require()
    rendering.require()
    loaded, spec = model.open(), stated.made()
    named: Any = {"source": model.name, "opening": model.opening, "sweep": sweep, "tell": measuring.tell}
    made = report(loaded, data, spec, n=n, out=out, budget=seconds, **named)
    typer.echo(f"{made.verdict}\nwritten: {out}")
    return {"out": out, "verdict": made.verdict}
