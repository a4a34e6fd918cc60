"""Quality against network calls: all that samples one network, here and in diffusers, measured in one run.

    python benchmarks/calls.py demo/run digits --out calls/digits
    python benchmarks/calls.py runs/mnist mnist/ --features features/mnist --students fast/calls-1 --out calls/mnist
    python benchmarks/calls.py demo/run digits --methods ddim unipc:order=3@log_snr --calls 5 10 --out calls/some

A method is written NAME[:OPTION=VALUE,...][@SPACING][/START]. diffusers' schedulers are set up from the network's
convention as their users do it, and run in a loop of their own around the same network; they are left out where
diffusers has no word for the convention (`leapstep.models.diffusers.obstacle`).

All cells share their start noise, of a seed that nothing was fitted on, and their labels. Each is measured against real
data in a feature space that no fit has seen (`--features`), by the library's own metrics; and by its root mean square
distance, sample by sample, to the teacher, which is UniPC of order 3 in many calls (`--teacher`) from the same noise,
as pictures in [-1, 1] or in the units of the network. As many training data, measured alike, are the floor. Beyond 10
calls only a few methods are followed.

FOLDER gets `results.json`, as of `leapstep sweep`, after every cell, so a run that was stopped goes on where it was;
`table.md`; and the first samples of each cell in `samples.npz`. `benchmarks/calls_figure.py` draws such folders.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import leapstep
from leapstep import files
from leapstep.core.calling import as_tensor
from leapstep.core.noise import Noise
from leapstep.evaluation.cells import NAMES, as_json, estimate, rows_of, shown
from leapstep.evaluation.distances import Estimate, difference
from leapstep.evaluation.distances.intervals import kept_samples, normal_interval, replicates_of
from leapstep.evaluation.sweep import Run
from leapstep.evaluation.yardstick import Measure
from leapstep.files import folders, reading
from leapstep.inference.engine import draw, values
from leapstep.inference.methods import METHODS
from leapstep.inference.spec import SamplingSpec
from leapstep.models.data import parts_of
from leapstep.models.diffusers import obstacle, to_scheduler
from leapstep.text import allowed, counted

CALLS = (1, 2, 3, 4, 5, 6, 8, 10, 20, 50)
USUAL = (
    *("fitted", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "unipc:order=3", "deis", "ipndm", "heun"),
    *("diffusers.DDIM@leading", "diffusers.DDIM@trailing", "diffusers.DPM-Solver++@leading"),
    *("diffusers.DPM-Solver++@trailing", "diffusers.DPM-Solver++@karras"),
    *("diffusers.UniPC@leading", "diffusers.UniPC@trailing", "diffusers.UniPC@karras"),
)
FEW = 10
FOLLOWED = ("ddim", "unipc:order=3")
"""Methods of this library that are measured beyond `FEW` calls, too."""

THEIRS = (3, 5, 10, 20)
"""The numbers of calls at which diffusers is measured, of those asked for."""

SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
SETTINGS = {
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
}
TEACHER = SamplingSpec("unipc", {"order": 3})
MEASURED = ("frechet", "kernel", "precision", "recall")
TITLES = {name: NAMES[name] for name in MEASURED} | {"rmse": "RMSE to the teacher"}
REAL = "real data"
KINDS = {
    "fitted": lambda label: label.startswith("fitted"),
    "distilled": lambda label: label.startswith("distilled"),
    "ddim": lambda label: label == "ddim",
    "untuned": lambda label: not label.startswith(("fitted", "distilled", "teacher", REAL)),
}
GOALS = (
    (("fitted", 3), ("ddim", 20)),
    (("fitted", 5), ("untuned", 10)),
    (("distilled", 1), ("ddim", 10)),
)
"""Kinds of rows with numbers of calls: the first at least as good as the second."""

SHOWN = 16
"""How many samples of each cell are kept."""

METHOD = re.compile(r"(?P<name>[\w.+-]+)(:(?P<options>[\w=.,]+))?(@(?P<spacing>\w+))?(/(?P<start>\w+))?")


class Row(NamedTuple):
    """A way to sample the network.

    Attributes:
        label, spacing: name it in tables.
        calls: at which it is measured.
        draw: of the number of calls, samples in model space [n, *d] and the calls that they took; None where this
            method cannot take so many.
    """

    label: str
    spacing: str
    calls: list[int]
    draw: Callable[[int], tuple[Tensor, int] | None]


# --- what is measured ----------------------------------------------------------------------------------------------


def drawn(model: leapstep.Model, spec: SamplingSpec) -> tuple[Tensor, int]:
    """The samples of a specification in model space, and the network calls that each took."""
    calls = 0

    def note(state: leapstep.State) -> None:
        nonlocal calls
        calls = state.calls

    return torch.cat([x for _, x in draw(model, spec, on_step=note)]), calls


def row_of(text: str, model: leapstep.Model, shared: SamplingSpec, calls: list[int]) -> Row:
    """The row of a method of this library, or of a scheduler of diffusers, as it is written on the command line."""
    names = [*METHODS, *(f"diffusers.{name}" for name in SCHEDULERS)]
    match = METHOD.fullmatch(text)
    if match is None or match["name"] not in names:
        raise ValueError(f"--methods {text}: {allowed(text, names)}")
    if match["name"] not in METHODS:
        name, setting = match["name"].removeprefix("diffusers."), match["spacing"] or "leading"
        at = [count for count in calls if count in THEIRS]
        return Row(f"diffusers {name}", setting, at, partial(theirs, model, shared, name, setting))
    options = dict(option.split("=") for option in match["options"].split(",")) if match["options"] else {}
    spec = dataclasses.replace(shared, method=match["name"], options=options, spacing=match["spacing"])
    spec = dataclasses.replace(spec, start=match["start"] or shared.start)
    if match["name"] == "fitted":
        return Row("fitted", "", spec.fitted_steps(model), partial(ours, model, spec))
    usual = spec.checked(model)
    at = [count for count in calls if count <= FEW or text in FOLLOWED]
    label = usual.label.removesuffix(", η = 0") + (f", start {match['start']}" if match["start"] else "")
    return Row(label, usual.spacing or "", at, partial(ours, model, spec))


def ours(model: leapstep.Model, spec: SamplingSpec, calls: int) -> tuple[Tensor, int] | None:
    """Samples of a method of this library, in so many calls; see `Row`."""
    steps, left = divmod(calls, METHODS[spec.method].calls)
    return None if left else drawn(model, dataclasses.replace(spec, steps=steps))


def student(shared: SamplingSpec, folder: str) -> Row:
    """The row of a run folder of `leapstep distill`, at its own number of calls."""
    model = leapstep.load(folder)
    spec = dataclasses.replace(shared, method="ddim", options={}, spacing=None).checked(model)
    return Row("distilled", "", [spec.steps], partial(ours, model, spec))


@torch.no_grad()
def theirs(
    model: leapstep.Model, shared: SamplingSpec, name: str, setting: str, calls: int
) -> tuple[Tensor, int] | None:
    """Samples of a scheduler of diffusers, in the loop of its pipelines around the same network; see `Row`.

    Where the network's x0 is bounded, the schedulers are told so: DPM-Solver++ and UniPC do not read `clip_sample`, and
    without `thresholding` they lose the first step on a cosine schedule.
    """
    import diffusers

    if setting == "karras" and calls == 1:  # two noise levels at least
        return None
    config = to_scheduler(model.convention)
    if config["clip_sample"]:
        config |= {"thresholding": True, "sample_max_value": config["clip_sample_range"]}
    scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(config, **SETTINGS[setting])
    batches, made = [], 0
    for low in range(0, shared.n, shared.batch_size):
        rows = range(low, min(low + shared.batch_size, shared.n))
        labels = shared.labels_for(model, rows)
        given = {} if labels is None or model.labels is None else {model.labels.name: labels}
        scheduler.set_timesteps(calls)
        x, made = Noise(shared.seed, rows, model.shape)(0) * scheduler.init_noise_sigma, 0
        for timestep in scheduler.timesteps:
            output = as_tensor(
                model.network(scheduler.scale_model_input(x, timestep), timestep.expand(len(x)), **given)
            )
            try:
                x = scheduler.step(output, timestep, x).prev_sample
            except (
                IndexError,
                AssertionError,
            ):  # it finds its place by the timestep, and noise levels near pure noise may share one
                print(
                    f"{calls:>4}  diffusers {name}, {setting}: cannot be run, two of its steps have the same timestep"
                )
                return None
            made += 1
        batches.append(x)
    return torch.cat(batches), made


def bounded(model: leapstep.Model, x: Tensor) -> Tensor:
    """Samples as they are seen: pictures hold no pixel outside their range."""
    return x.clamp(*(model.scaling.to_model(np.array([0, 255], np.uint8)).tolist())) if model.is_pictures else x


def rmse(x: Tensor, teacher: Tensor, k: int, resamples: int) -> Estimate:
    """The root mean square distance of samples [n, *d] to others, one by one, with its interval.

    What is left out for the interval is what the library's metrics leave out, so that differences can be told.
    """
    errors = (x - teacher).double().square().flatten(1).mean(1)
    kept = kept_samples(len(x), k + 1, resamples, seed=0).double()
    replicates = replicates_of((kept @ errors / kept.sum(1)).sqrt(), kept.bool())
    interval = normal_interval(float(errors.mean().sqrt()), replicates, (0.0, float("inf")))
    return interval._replace(replicates=tuple(replicates.tolist()))


class Work:
    """A folder of measurements that is in work: what is there already is not measured again."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder, self.cells = run, folder, run.sweep.cells
        self.samples = reading.read_npz(folder / "samples.npz") if (folder / "samples.npz").exists() else {}
        self.teacher: Tensor | None = None

    def has(self, label: str, spacing: str, calls: int) -> bool:
        """Whether a cell is measured."""
        return any((cell["label"], cell["spacing"], cell["steps"]) == (label, spacing, calls) for cell in self.cells)

    def teach(self, spec: SamplingSpec) -> None:
        """Draw the samples that all others are compared with, or read them."""
        path, model = self.folder / "teacher.npz", self.run.model
        if not path.exists():
            print(f"teacher: {spec.label}, {spec.steps} calls", flush=True)
            files.write_npz(path, {"x": drawn(model, spec)[0].numpy()})
        self.teacher = bounded(model, torch.from_numpy(reading.read_npz(path)["x"]))
        if not self.has("teacher", "", spec.steps):
            self.add("teacher", "", spec.steps, self.teacher, spec.steps)

    def add(self, label: str, spacing: str, calls: int, x: Tensor, made: int) -> None:
        """Measure samples as a cell."""
        run, yardstick = self.run, self.run.yardstick
        pictures = values(run.model, x)
        metrics, run.sweep.warnings = yardstick.measure(*yardstick.seen(pictures))
        if label != REAL and self.teacher is not None:
            metrics["rmse"] = rmse(bounded(run.model, x), self.teacher, yardstick.k, yardstick.resamples)
        replicates = {name: [float(f"{value:.6g}") for value in found.replicates] for name, found in metrics.items()}
        known = {"method": label, "options": {}, "label": label, "spacing": spacing, "steps": calls, "calls": made}
        cell = {**known, "seconds": None, "n": len(x), "metrics": as_json(metrics), "replicates": replicates}
        self.samples[f"{label}|{spacing}|{calls}"] = pictures[:SHOWN]
        files.write_npz(self.folder / "samples.npz", self.samples)
        self.cells.append(cell)
        run.sweep.save()
        told = "   ".join(f"{name} {shown(cell, name)}" for name in metrics)
        print(f"{calls:>4}  {', '.join(filter(None, (label, spacing))):<34}{told}", flush=True)


def floor(work: Work, source: str) -> None:
    """Measure as many training data as there are samples."""
    model, n = work.run.model, work.run.sweep.conditions["n"]
    data, _ = parts_of(model, source)("train")
    chosen = np.random.default_rng(0).permutation(len(data))[:n]
    if len(chosen) == n and not work.has(REAL, "", 1):
        work.add(REAL, "", 1, model.scaling.to_model(data.values[chosen]), 0)


# --- what is told of it --------------------------------------------------------------------------------------------


def table(cells: list, metric: str) -> str:
    """One metric of all cells as Markdown: a row for each method, a column for each number of calls."""
    lines = [cell for cell in cells if cell["label"] != REAL and metric in cell["metrics"]]
    columns, rows = sorted({cell["steps"] for cell in lines}), rows_of(lines)
    sign = -1 if metric in ("precision", "recall") else 1
    best = {
        calls: min(sign * cell["metrics"][metric]["value"] for cell in lines if cell["steps"] == calls)
        for calls in columns
    }

    def entry(cell: dict | None) -> str:
        if cell is None:
            return ""
        is_best = sign * cell["metrics"][metric]["value"] == best[cell["steps"]]
        return f"**{shown(cell, metric)}**" if is_best else shown(cell, metric)

    written = [f"| {TITLES[metric]}, calls | {' | '.join(map(str, columns))} |", f"| --- |{' --- |' * len(columns)}"]
    for row, by_calls in rows.items():
        name = ", ".join(filter(None, row))
        written.append(f"| {name} | {' | '.join(entry(by_calls.get(calls)) for calls in columns)} |")
    written += [
        f"\n{shown(cell, metric)}: {cell['n']} real data"
        for cell in cells
        if cell["label"] == REAL and metric in cell["metrics"]
    ]
    return "\n".join(written) + "\n"


def goals(cells: list, metric: str) -> str:
    """What was hoped for, and whether it came true by a distance: less is better."""
    lines = [f"| {TITLES[metric]} | at least as good as | difference | |", "| --- | --- | --- | --- |"]
    for pair in GOALS:
        found = [
            [
                cell
                for cell in cells
                if cell["calls"] == calls and KINDS[kind](cell["label"]) and metric in cell["metrics"]
            ]
            for kind, calls in pair
        ]
        if all(found):
            first, second = (min(few, key=lambda cell: cell["metrics"][metric]["value"]) for few in found)
            gap = difference(estimate(first, metric), estimate(second, metric))
            verdict = "yes" if gap.value <= 0 else "cannot be told" if gap.low <= 0 else "no"
            names = [
                f"{cell['label']}, {counted(cell['calls'], 'call')}: {shown(cell, metric)}" for cell in (first, second)
            ]
            lines.append(f"| {' | '.join(names)} | {gap} | {verdict} |")
    return "\n".join(lines) + "\n"


def report(work: Work) -> None:
    """Write the tables."""
    conditions = work.run.sweep.conditions
    head = (
        f"{work.run.sweep.model}: {conditions['n']} samples of seed {conditions['seed']} in each cell, against "
        f"{conditions['reference']} of {conditions['data']} ({conditions['split']}), features "
        f"{conditions['features_source']}. ±: half a 95 % interval; bold: the best of its column.\n\n"
    )
    metrics = ("frechet", "rmse", "kernel", "precision", "recall")
    parts = [*(goals(work.cells, metric) for metric in metrics[:2]), *(table(work.cells, metric) for metric in metrics)]
    files.write_text(work.folder / "table.md", head + "\n".join(parts))


def main(arguments: argparse.Namespace) -> None:
    model = leapstep.load(arguments.model)
    spec = dataclasses.replace(TEACHER, steps=arguments.teacher, n=arguments.n, seed=arguments.seed, batch_size=100)
    measure = Measure(arguments.features, metrics=MEASURED)
    run = Run(model, arguments.data, [spec], measure, source=arguments.model)
    run.sweep.conditions["teacher"] = f"{spec.label}, {spec.steps} calls"
    shared = dataclasses.replace(run.specs[0], steps=None, spacing=None)
    methods = arguments.methods
    if (reason := obstacle(model.convention)) is not None:
        print(f"without diffusers: {reason}")
        methods = [text for text in methods if not text.startswith("diffusers.")]
    rows = [row_of(text, model, shared, arguments.calls) for text in methods]
    rows += [student(shared, folder) for folder in arguments.students]
    with folders.locked(arguments.out):
        run.begin(arguments.out)
        work = Work(run, arguments.out)
        floor(work, arguments.data)
        work.teach(run.specs[0])
        for calls in sorted({calls for row in rows for calls in row.calls}):
            for row in rows:
                missing = calls in row.calls and not work.has(row.label, row.spacing, calls)
                if missing and (found := row.draw(calls)) is not None:
                    work.add(row.label, row.spacing, calls, *found)
            report(work)
        run.sweep.finished = True
        run.sweep.save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure quality against network calls, for all that samples one network."
    )
    parser.add_argument("model", help="a run folder, or what else leapstep opens")
    parser.add_argument("data", help="real data, see leapstep.data.read")
    parser.add_argument("--features", default="pixels", help="the feature space: pixels, or a folder of features")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--methods", nargs="+", default=USUAL, metavar="NAME[:OPTION=VALUE][@SPACING][/START]")
    parser.add_argument("--students", nargs="+", default=[], metavar="RUN", help="run folders of leapstep distill")
    parser.add_argument("--teacher", type=int, default=100, help="calls of the teacher")
    parser.add_argument("--n", type=int, default=500, help="samples in each cell")
    parser.add_argument("--seed", type=int, default=20_000, help="of the start noise")
    parser.add_argument("--out", type=Path, required=True)
    main(parser.parse_args())
