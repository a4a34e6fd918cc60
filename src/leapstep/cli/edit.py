"""`leapstep edit`: change images or other data as far as noise hides them, or in the part that a mask names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options, previews
from leapstep.cli.parsing import FILES
from leapstep.files import folders
from leapstep.inference.fields import KEEPERS, SpecError
from leapstep.progress import progress_bar
from leapstep.text import allowed

EXAMPLES = """**Examples**

`leapstep edit runs/digits --image A.png --strength 0.5 --out edited`

`leapstep edit runs/mnist --image A.png B.png --label 5 8 --guidance 2 --method dpmpp_2m --steps 20 --out fives`

`leapstep edit runs/digits --image A.png --mask mask.png --resample 5 --out filled`

`leapstep edit runs/digits --image A.png --mask mask.png --by guidance --steps 30 --out fitted`

`leapstep edit runs/signals --image signals.npy --n 1 --strength 0.3 --out cleaned`
"""

RESULTS = folders.Kind("manifest.json", "edit", r"manifest\.json|grid\.png|\d{5,}\.png|samples\.npz")


@options.on_model
@options.sampling("first", "start", n=8, dtype="float32")
def command(
    model: options.Source,
    image: Annotated[list[str], typer.Option(metavar=FILES, help="What to edit: images, or data in npy files.")],
    out: Annotated[Path, typer.Option(help="The folder to make, with the results, a grid and a manifest.")],
    stated: options.Spec,
    strength: Annotated[
        float | None,
        typer.Option(help="Time to go up to, from 0 to 1 (a new sample); default: 0.6, and 1 with --mask."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What to change: white is made anew, black kept, grey edited by its own strength. An image, or npy.",
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="How what is kept acts on the rest: replacement | guidance (ten times the work).")
    ] = "replacement",
    resample: Annotated[int, typer.Option(help="How often replacement takes each step.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
    no_preview: previews.NoPreview = False,
) -> dict[str, Any]:
    """Change data that are there: up by noise, and down by any method; --n results of each, sample by sample."""
    options.check_free(out, overwrite, RESULTS)
    strength = _checked(strength, mask, by, resample)
    for source in (*image, *([] if mask is None else [str(mask)])):
        options.check_input(source)
    import torch

    from leapstep.inference.editing import Edit, checked_edit, edited
    from leapstep.inference.provenance import provenance
    from leapstep.models.data import mask_in, samples_in
    from leapstep.views.editing import write_edits

    loaded = model.open()
    loaded.network.requires_grad_(False)  # guidance has derivatives in x alone
    x0 = samples_in(loaded, image)
    change = Edit(strength, None if mask is None else mask_in(loaded, mask), resample, by)
    spec = checked_edit(loaded, stated.made(), change)
    manifest = provenance(loaded, spec, source=model.name) | {
        "edit": {"images": image, "data": len(x0), "strength": strength}
        | ({} if mask is None else {"mask": str(mask), "by": by, "resample": resample}),
    }
    options.claim(out, overwrite, RESULTS, manifest | {"finished": False})
    total, results = len(x0) * spec.n, []
    with progress_bar(-(-total // spec.batch_size) * (spec.steps or 1), "editing", "step") as bar:
        for _, x in edited(loaded, spec, change, x0, on_step=lambda _: bar.update()):
            results.append(x.cpu())
    shown = write_edits(out, loaded, x0, torch.cat(results), change.mask)
    files.write_json(out / "manifest.json", manifest := manifest | {"finished": True})
    if shown is not None:
        previews.show(shown, no_preview)
    typer.echo(f"{total} edits of {len(x0)}, strength {strength:g}, {spec.steps} steps: {out}")
    return {"out": out, **manifest}


def _checked(strength: float | None, mask: Path | None, by: str, resample: int) -> float:
    """The strength, once it is clear that the options go together."""
    if strength is not None and not 0 < strength <= 1:
        raise SpecError("strength", strength, "a time above 0 (nothing changes), up to 1 (a new sample)")
    if by not in KEEPERS:
        raise SpecError("by", by, allowed(by, KEEPERS))
    if resample < 1:
        raise SpecError("resample", resample, "each step is taken once at least")
    if mask is None and (by != KEEPERS[0] or resample != 1):
        raise ValueError("--by and --resample are for what a mask keeps: pass --mask, or leave them out")
    if by == "guidance" and resample != 1:
        raise ValueError("--resample is for --by replacement: leave one of them out")
    if strength is not None:
        return strength
    return 0.6 if mask is None else 1.0
