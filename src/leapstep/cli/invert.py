"""`leapstep invert`: images or other data as latents, which `leapstep decode` turns into data again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from leapstep import files
from leapstep.cli import options
from leapstep.cli.parsing import FILES
from leapstep.files import folders
from leapstep.progress import progress_bar

EXAMPLES = """**Examples**

`leapstep invert runs/digits --image A.png --out latent`

`leapstep invert runs/mnist --image A.png B.png --label 3 8 --exact --steps 20 --out exact`

`leapstep invert runs/digits --image A.png --method heun --steps 30 --out heun`
"""

RESULTS = folders.Kind("manifest.json", "inversion", r"manifest\.json|latents\.npz|reconstructions\.(png|npz)")


@options.on_model
@options.sampling(
    *("spec", "n", "first", "eta", "variance", "start", "seed"),
    shown={"steps": "50, or T where that is less; 1 for rk23 and rk45", "spacing": "leading, and trailing for rk23"},
    dtype="float32",
)
def command(
    model: options.Source,
    image: Annotated[list[str], typer.Option(metavar=FILES, help="What to encode: images, or data in npy files.")],
    out: Annotated[Path, typer.Option(help="The folder to make, with latents.npz, reconstructions and a manifest.")],
    stated: options.Spec,
    exact: Annotated[bool, typer.Option("--exact", help="Encode with the exact inverse of each step.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")] = False,
) -> dict[str, Any]:
    """Encode data to latents, and decode them again under their own labels to see what was lost."""
    options.check_free(out, overwrite, RESULTS)
    for source in image:
        options.check_input(source)
    from leapstep.inference.encoding import check_reversible, reconstruct, unit
    from leapstep.inference.engine import values
    from leapstep.inference.latents import FILE, write_latents
    from leapstep.inference.provenance import provenance
    from leapstep.models.data import samples_in
    from leapstep.views.encoding import write_reconstructions

    loaded = model.open()
    x0 = samples_in(loaded, image)
    spec = dataclasses.replace(stated.made(), n=len(x0)).checked(loaded, steps=50, spacing="leading")
    check_reversible(loaded, spec, exact=exact)
    record = provenance(
        loaded, dataclasses.replace(spec, times=tuple(spec.times_for(loaded).tolist()), spacing=None), source=model.name
    )
    record |= {"inversion": {"images": image, "exact": exact, "unit": unit(loaded)}}
    options.claim(out, overwrite, RESULTS, record | {"finished": False})
    total = 2 * (spec.steps or 1) * -(-len(x0) // spec.batch_size)
    with progress_bar(total, "inverting", "step") as bar:
        result = reconstruct(loaded, spec, x0, exact=exact, on_step=lambda _: bar.update())
    record["inversion"] |= {"errors": result.errors.tolist(), "calls": result.calls, "notes": result.notes}
    write_latents(out / FILE, result.latents.numpy(), values(loaded, x0), record)
    write_reconstructions(out, loaded, {"original": values(loaded, x0), "decoded again": values(loaded, result.x)})
    files.write_json(out / "manifest.json", record := record | {"finished": True})
    typer.echo(
        f"{len(x0)} latents, {spec.label} in {spec.steps} steps{', exactly inverted' if exact else ''}; decoded again "
        f"under their own labels they are off by {result.errors.mean().item():.3g}, in {unit(loaded)}: {out}"
    )
    for note in result.notes:
        typer.echo(note)
    return {"out": out, **record}
