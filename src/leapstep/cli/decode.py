"""`leapstep decode`: latents of `leapstep invert` as data, under other labels, or between two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options, previews
from leapstep.files import folders
from leapstep.inference.fields import SpecError
from leapstep.progress import progress_bar

EXAMPLES = """**Examples**

`leapstep decode runs/mnist exact --label 3 5 8 --out others`

`leapstep decode runs/mnist exact --label 3 8 --blend 0 0.25 0.5 0.75 1 --out between`
"""

RESULTS = folders.Kind("manifest.json", "decoding", r"manifest\.json|grid\.png|\d{5,}\.png|samples\.npz")
FRACTIONS = "F ..."


@options.on_model
@options.sampling(
    *("spec", "n", "first", "eta", "variance", "start", "seed", "condition"),
    shown={
        **dict.fromkeys(("method", "steps", "spacing", "guidance", "rescale"), "as they were encoded"),
        "dtype": "float32",
    },
)
def command(
    model: options.Source,
    latents: Annotated[Path, typer.Argument(help="The folder that leapstep invert wrote, or its latents.npz.")],
    out: Annotated[Path, typer.Option(help="The folder to make, with the results, a grid and a manifest.")],
    stated: options.Spec,
    blend: Annotated[
        list[float] | None,
        typer.Option(
            metavar=FRACTIONS,
            help="Results between two, from 0 to 1: between two labels by their estimates, between two latents on an "
            "arc, or both.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
    no_preview: previews.NoPreview = False,
) -> dict[str, Any]:
    """Decode latents: each under its own label, or under every --label, or between two."""
    options.check_free(out, overwrite, RESULTS)
    if not latents.exists():
        raise ValueError(f"there is no {latents}: name a folder that leapstep invert wrote")
    for fraction in blend or ():
        if not 0 <= fraction <= 1:
            raise SpecError("blend", fraction, "must lie between 0 (the first) and 1 (the second)")
    from leapstep.inference.latents import between, decoded, decoding, each_under, read_latents
    from leapstep.inference.provenance import provenance
    from leapstep.views.editing import write_decoded

    loaded = model.open()
    known = read_latents(latents, loaded)
    spec = decoding(loaded, known, {name: value for name, value in stated.fields.items() if value != {}})
    labels = stated.fields.get("labels")
    x, wanted = between(loaded, known, labels, blend) if blend else each_under(loaded, known, labels)
    manifest = provenance(loaded, spec, source=model.name)
    manifest |= {"decoding": {"latents": str(latents), "blend": blend, "results": [one._asdict() for one in wanted]}}
    options.claim(out, overwrite, RESULTS, manifest | {"finished": False})
    with progress_bar(-(-len(wanted) // spec.batch_size) * (spec.steps or 1), "decoding", "step") as bar:
        results = decoded(loaded, spec, x, wanted, on_step=lambda _: bar.update())
    shown = write_decoded(out, loaded, known.original, results, wanted)
    files.write_json(out / "manifest.json", manifest := manifest | {"finished": True})
    if shown is not None:
        previews.show(shown, no_preview)
    typer.echo(f"{len(wanted)} results of {len(known.x)} latents, {spec.label} in {spec.steps} steps: {out}")
    return {"out": out, **manifest}
