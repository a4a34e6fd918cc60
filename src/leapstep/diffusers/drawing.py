"""Drawing what a pipeline of diffusers makes of prompts into a folder, by a method of this library."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import inspect
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from leapstep import files
from leapstep.data.shards import MANIFEST
from leapstep.diffusers.scheduler import Scheduler
from leapstep.files import folders
from leapstep.inference.fields import AUTO, FITTED
from leapstep.inference.provenance import versions
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.inference.store import GRID, Growing, Pictures, Store, check_place, write_grid
from leapstep.inference.writing import begin
from leapstep.models import beside, schema
from leapstep.progress import progress_bar
from leapstep.text import one_line, reason


class Asked(NamedTuple):
    """What a pipeline is asked for besides a specification.

    Attributes:
        prompts: in turn: sample i is of prompt i modulo their number; empty: the pipeline takes none.
        negative_prompt: the prompt to lead away from; None: what the pipeline has.
        height, width: in pixels; None: the pipeline's.
    """

    prompts: tuple[str, ...] = ()
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None


OPTIONS = ("negative_prompt", "height", "width")
"""What of that is an argument of a pipeline's call."""

FIELDS = {"guidance": "guidance_scale", "rescale": "guidance_rescale"}
"""Fields of a specification, by the names of a pipeline's arguments."""

NO_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("start", "marginal", "a pipeline starts from noise: leave it out"),
    ("conditions", None, "a pipeline makes its conditions of the prompt: leave it out"),
    ("times", None, "a pipeline takes a number of steps: give --steps and --spacing"),
)
"""Fields of a specification that no pipeline takes, with what they are by default."""

DENOISERS = ("unet", "transformer", "prior", "decoder")
"""What pipelines call the network that they denoise with."""

USUAL_STEPS, BATCH = 20, 4
"""Steps of a sample, and samples at a time, where nothing else is asked for."""


def seed_of(seed: int, i: int) -> int:
    """The seed of the generator of sample i, which depends on (seed, i) alone.

    Arguments:
        seed: of the specification.
        i: the index of the sample.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}, {i}".encode()).digest()[:8], "big") >> 1


class Drawing:
    """A pipeline that is ready to draw the samples of a specification; everything is checked.

    Attributes:
        pipe: the pipeline; its scheduler is ours.
        spec: what is drawn, with guidance, steps and the numbers of classes.
        asked: what it is asked for besides.
        arguments: of its call, the same for all samples.
    """

    def __init__(self, pipe: Any, stated: Mapping[str, Any], asked: Asked, tuned: Path | None = None) -> None:
        """Check everything.

        Arguments:
            stated: fields of a `SamplingSpec`; guidance is the pipeline's own where nothing else is stated.
            tuned: the file of solvers that were fitted to the pipeline.
        Raises:
            ValueError: an option that the pipeline does not have, or that no pipeline can take.
        """
        self.pipe, self.asked, self.taken = pipe, asked, inspect.signature(type(pipe).__call__).parameters
        self.arguments = self._arguments(stated)
        usual = self.taken["guidance_scale"].default if "guidance_scale" in self.taken else 1.0
        several = len(asked.prompts or stated.get("labels") or (None,))
        dtype = str(pipe.dtype).removeprefix("torch.")
        fields = {"guidance": float(usual), "batch_size": BATCH, "n": several, **stated, "dtype": dtype}
        self.spec = self._checked(SamplingSpec(**fields))
        options: dict[str, Any] = dict(self.spec.options)
        if self.spec.method == FITTED:
            if tuned is None or not tuned.is_file():
                raise SpecError(
                    "method",
                    FITTED,
                    "no solver was fitted to this pipeline: run leapstep tune, or name its --out: --tuned",
                )
            _warn_of_weights(tuned, pipe)
            options = {"tuned": tuned, "guidance": self.spec.guidance}
        pipe.scheduler = Scheduler.from_config(
            pipe.scheduler, method=self.spec.method, spacing=self.spec.spacing, **options
        )

    def _arguments(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        name = type(self.pipe).__name__
        given = {(name, name): getattr(self.asked, name) for name in OPTIONS}
        given |= {(theirs, ours): stated.get(ours) for ours, theirs in FIELDS.items()}
        for (theirs, ours), value in given.items():
            if value is not None and theirs not in self.taken:
                raise ValueError(f"--{ours.replace('_', '-')} {one_line(str(value), 60)}: {name} takes no {theirs}")
        if "generator" not in self.taken:
            raise ValueError(f"{name} takes no generator, so that no sample could be drawn again: use it from Python")
        return {theirs: value for (theirs, _), value in given.items() if value is not None}

    def _checked(self, spec: SamplingSpec) -> SamplingSpec:
        name, labelled = type(self.pipe).__name__, "class_labels" in self.taken
        for field, usual, why in NO_FIELDS:
            if getattr(spec, field) != usual:
                raise SpecError(field, getattr(spec, field), why)
        if spec.method == AUTO:
            raise SpecError("method", AUTO, "it is not known for pipelines: name a method")
        if "prompt" in self.taken and not self.asked.prompts:
            raise ValueError(f"{name} draws what a text says: give it by --prompt")
        if "prompt" not in self.taken and self.asked.prompts:
            raise ValueError(f"--prompt {one_line(self.asked.prompts[0], 60)}: {name} takes no text")
        if (spec.labels is not None) != labelled:
            if labelled:
                raise ValueError(f"{name} draws one class at a time: name some by --label")
            raise SpecError("labels", ", ".join(map(str, spec.labels or ())), f"{name} takes no class labels")
        labels = None if spec.labels is None else tuple(self._number(label) for label in spec.labels)
        return dataclasses.replace(spec, labels=labels, steps=USUAL_STEPS if spec.steps is None else spec.steps)

    def _number(self, label: str | int) -> int:
        """The number of a class, given by name or number."""
        names: Mapping[str, int] = getattr(self.pipe, "labels", None) or {}
        if label in names:
            return int(names[str(label)])
        config: Any = denoiser_of(self.pipe).config
        classes = int(config.get("num_embeds_ada_norm") or max(names.values(), default=0) + 1)
        if str(label).isdecimal() and int(label) < classes:
            return int(label)
        raise SpecError("labels", label, f"use a number from 0 to {classes - 1}, or a name from model_index.json")

    @property
    def turns(self) -> tuple[Any, ...]:
        """What samples are of in turn."""
        return self.asked.prompts or self.spec.labels or ()

    def of(self, spec: SamplingSpec) -> Drawing:
        """The same for other indices."""
        made = copy.copy(self)
        made.spec = spec
        return made

    def batches(self, on_step: Callable[[int], object]) -> Iterator[tuple[range, Tensor]]:
        """Draw batch by batch: the indices of samples, and what the pipeline makes of them, `[b, ...]`.

        Pictures and videos are in [0, 1].

        Arguments:
            on_step: called after each call of the network with the number of calls for a batch.
        Raises:
            ValueError: the pipeline refuses the call.
        """
        spec, last = self.spec, self.spec.first + self.spec.n
        for start in range(spec.first, last, spec.batch_size):
            rows = range(start, min(start + spec.batch_size, last))
            yield rows, self._drawn(rows, on_step)

    def _drawn(self, rows: range, on_step: Callable[[int], object]) -> Tensor:
        spec, prompts = self.spec, self.asked.prompts
        generators = [torch.Generator().manual_seed(seed_of(spec.seed, i)) for i in rows]
        several: dict[str, Any] = {"generator": generators}
        if prompts:
            several["prompt"] = [prompts[i % len(prompts)] for i in rows]
        if "negative_prompt" in self.arguments:
            several["negative_prompt"] = [self.asked.negative_prompt] * len(rows)
        if spec.labels is not None:
            several["class_labels"] = [spec.labels[i % len(spec.labels)] for i in rows]
        elif not prompts and "batch_size" in self.taken:
            several["batch_size"] = len(rows)
        call = {**self.arguments, **several, "num_inference_steps": spec.steps, "output_type": "pt"}
        with _observed(self.pipe.scheduler, generators, on_step):
            try:
                result = self.pipe(**call, return_dict=False)[0]
            except (TypeError, ValueError) as error:
                name = type(self.pipe).__name__
                raise ValueError(f"{name} refuses this call: {one_line(reason(error), 600)}") from error
        made = torch.as_tensor(result)
        return made if isinstance(result, Tensor) else made.movedim(-1, -3)


def _warn_of_weights(tuned: Path, pipe: Any) -> None:
    """Warn where solvers were fitted to other weights than a pipeline's. Raises ValueError for a broken file."""
    with beside.read_json(tuned, schema.Tuned) as said:
        if said["weights_sha256"] != beside.fingerprint(denoiser_of(pipe)):
            warnings.warn(
                f"{tuned}: its solvers were fitted to other weights, or to these in another dtype; to be sure of them, "
                "run leapstep tune",
                stacklevel=2,
            )


@contextlib.contextmanager
def _observed(scheduler: Any, generators: list[torch.Generator], on_step: Callable[[int], object]) -> Iterator[None]:
    """Give each step the samples' own generators, also in pipelines that pass none, and tell of it."""
    step = scheduler.step

    @functools.wraps(step)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        moved = step(*args, **{**kwargs, "generator": kwargs.get("generator") or generators})
        on_step(len(scheduler.timesteps))
        return moved

    scheduler.step = stepped
    try:
        yield
    finally:
        del scheduler.step


def denoiser_of(pipe: Any) -> nn.Module:
    """The network that a pipeline denoises with. Raises ValueError where its name is not one of `DENOISERS`."""
    network = next((part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None), None)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{type(pipe).__name__} has none of {', '.join(DENOISERS)}: use it from Python")
    return network


def write_drawn(
    drawing: Drawing,
    folder: str | Path,
    *,
    format: str | None = None,
    source: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw into a folder as `write_samples` does: PNGs with a grid, or `samples.npz` for videos and sound; a manifest.

    Arguments:
        folder, source, resume, overwrite, progress: as of `write_samples`.
        format: "png" (pictures, their default) or "npz".
    Returns:
        what the manifest says.
    Raises:
        ValueError: the folder is not to be had, or the pipeline refuses the call.
    """
    out, spec, pipe = Path(folder), drawing.spec, drawing.pipe
    check_place(out, resume, overwrite)
    manifest = manifest_of(drawing, source) | {"format": format}
    with folders.locked(out):
        record = begin(out, manifest, resume, overwrite)
        begun: Store = Growing.begun(out, spec.n) or Pictures(out)
        done = begun.finished() if resume else 0
        done = spec.n if done >= spec.n else done - done % spec.batch_size
        began = time.perf_counter() - record["seconds"]
        store: Store | None = begun if done else None
        rest = dataclasses.replace(spec, first=spec.first + done, n=spec.n - done)
        with progress_bar(None, "sampling", "call", show=progress) as bar:

            def on_step(calls: int) -> None:
                if bar.total is None:
                    bar.total, bar.n = (calls * -(-samples // spec.batch_size) for samples in (spec.n, done))
                bar.update()

            for rows, made in _undone_if_refused(drawing.of(rest).batches(on_step), out):
                values, here = values_of(made), range(rows.start - spec.first, rows.stop - spec.first)
                store = store or _store(out, format, spec.n, values)
                store.keep(here, values)
                record |= {"finished": here.stop, "calls": len(pipe.scheduler.timesteps)}
                record["seconds"] = round(time.perf_counter() - began, 3)
                files.write_json(out / MANIFEST, manifest | record)
        assert store is not None
        turns = None if len(drawing.turns) < 2 else [(spec.first + i) % len(drawing.turns) for i in range(spec.n)]
        if isinstance(store, Pictures):
            write_grid(out, store.first(min(spec.n, GRID)), turns)
        store.close(turns)
    return manifest | record


def _undone_if_refused(batches: Iterator[tuple[range, Tensor]], out: Path) -> Iterator[tuple[range, Tensor]]:
    """The same batches; a folder in which not even the first could be drawn is left as if nothing had been asked."""
    try:
        first = next(batches, None)
    except ValueError:
        if not (out / "00000.png").exists():
            (out / MANIFEST).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds something else
                out.rmdir()
        raise
    if first is not None:
        yield first
        yield from batches


def manifest_of(drawing: Drawing, source: str | None) -> dict[str, Any]:
    """What is said of the samples, as JSON."""
    import diffusers
    import transformers

    pipe = drawing.pipe
    return {
        "spec": drawing.spec.to_json(),
        "model": source,
        "pipeline": {"class": type(pipe).__name__, **drawing.asked._asdict()},
        "scheduler": json.loads(pipe.scheduler.to_json_string()),
        "weights_sha256": beside.fingerprint(denoiser_of(pipe)),
        "device": str(pipe.device),
        "versions": versions() | {"diffusers": diffusers.__version__, "transformers": transformers.__version__},
    }


def values_of(made: Tensor) -> npt.NDArray[Any]:
    """What files hold: uint8 pixels of pictures and videos, sound as it is."""
    array = made.float().cpu()
    return (array.clamp(0, 1) * 255).round().byte().numpy() if made.ndim >= 4 else array.numpy()


def _store(out: Path, format: str | None, n: int, values: npt.NDArray[Any]) -> Store:
    if values.ndim == 4 and format in (None, "png"):
        return Pictures(out)
    if format == "png":
        raise SpecError("format", format, "these samples are no pictures: they are written as npz")
    return Growing(out, n, values.shape[1:], values.dtype)
