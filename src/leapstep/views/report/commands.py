"""The commands that repeat the figures of a page, to paste into a shell."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from leapstep.evaluation.distances import METRICS
from leapstep.evaluation.page.contents import Page
from leapstep.evaluation.sweep import Sweep
from leapstep.inference.methods import SOLVER
from leapstep.inference.spec import SamplingSpec

K = 5
"""The neighbours that `leapstep evaluate` and `leapstep sweep` look for by default, of more samples than that."""


def said(*parts: object) -> str:
    """A command of leapstep, quoted for the shell."""
    return shlex.join(["leapstep", *map(str, parts)])


def source(page: Page) -> str:
    """The model, as commands name it."""
    return page.source or "MODEL"


def model(page: Page) -> list[str]:
    """The model, as commands open it."""
    return [source(page), *page.opening]


def info(page: Page) -> str:
    """What the model is."""
    return said("info", *model(page))


def next_steps(page: Page) -> list[str]:
    """To train a run that is hopeless for ten times as long, and to look whether its network is called as it should."""
    if page.standing is None or not page.standing.is_hopeless:
        return []
    trained = page.facts.get("Trained for", "").removesuffix(" steps").replace(",", "")
    longer = ["train", page.data, "--out", source(page), "--resume", "--steps", max(1000, 10 * int(trained or 0))]
    return [*([said(*longer)] if trained and page.own else []), said("doctor", source(page), page.data)]


def log(page: Page) -> str:
    """The curves of the training."""
    return shlex.join(["tensorboard", "--logdir", f"{page.source}/log"])


def samples(page: Page) -> str:
    """The grid."""
    n = len(page.samples)
    return said("sample", *model(page), "--n", n, *_sampler(page), *_turns(page, n), "--out", "samples")


def consistency(page: Page) -> str:
    """The same noises in different numbers of steps: by one command, or by one for each where classes are in turn."""
    found = page.consistency
    n = found.samples.shape[1]
    if not page.classes or page.label is not None:
        return _traced(page, n, "--consistency", *found.steps)
    parts = ["sample", *model(page), "--n", n, *_sampler(page)[2:], *_turns(page, n)]
    return _loop("s", found.steps, f'{said(*parts)} --steps "$s" --out "steps-$s"')


def way(page: Page) -> str:
    """The way from noise to data."""
    return _traced(page, page.way.x.shape[1])


def between(page: Page) -> str:
    """The interpolation."""
    found = page.between
    spec = _certain(page, found.method)
    parts: list[object] = ["--seeds", *found.seeds, "--frames", found.frames.shape[1], "--steps", spec.steps]
    parts += [*_method(spec), *([] if spec.spacing == "trailing" else ["--spacing", spec.spacing])]
    parts += _seldom(spec, "start")
    parts += [] if found.label is None else _named(page.classes[found.label])
    return said("interpolate", *model(page), *parts, "--out", "between")


def reconstructions(page: Page) -> str:
    """Encoding and decoding."""
    found = page.reconstructions
    assert found is not None
    parts: list[object] = ["--split", found.split, "--steps", *found.steps, "--n", found.n]
    spec = _certain(page, found.method)
    return said(
        "reconstruct", *model(page), page.data, *parts, *_method(spec), *_seldom(spec), "--out", "there-and-back"
    )


def neighbours(page: Page) -> list[str]:
    """The nearest data; nothing where `leapstep evaluate` draws no pairs, or would want more samples."""
    found = page.neighbours
    assert found is not None
    if page.kind != "pictures" or page.held == "train" or found.n <= K:
        return []
    parts: list[object] = ["--n", found.n, *_sampler(page), *_turns(page, found.n), "--split", page.held]
    return [said("evaluate", *model(page), page.data, *parts, "--pairs", "closest.png")]


def sweep(page: Page, found: Sweep) -> str:
    """The cells of a sweep."""
    methods, etas = [], []
    for cell in found.cells:
        eta = cell["options"].get("eta", 0.0) if cell["method"] == "ddim" else None
        if cell["method"] == "ddpm" and cell["options"].get("variance") in ("beta", "optimal"):
            eta = cell["options"]["variance"]
        methods.append(cell["method"] if eta is None else "ddim")
        etas += [] if eta is None else [eta if isinstance(eta, str) else f"{eta:g}"]
    spacings = {cell["spacing"] for cell in found.cells} - {""}
    measured = {name for cell in found.cells for name in cell["metrics"]}
    lists: dict[str, list[str] | list[int]] = {
        "--methods": methods,
        "--etas": etas,
        "--steps": [cell["steps"] for cell in found.cells],
        "--spacings": [cell["spacing"] for cell in found.cells if cell["spacing"]] if spacings - {page.spacing} else [],
    }
    parts: list[object] = ["sweep", *model(page), found.conditions.get("data", page.data or "DATA")]
    for option, values in lists.items():
        if values:
            parts += [option, ",".join(map(str, dict.fromkeys(values)))]
    given = dict(found.conditions)
    features = given.get("features_source") or given.get("features")
    given["features"] = "FOLDER" if features == "learned" else features
    for name in ("n", "split", "features", "seed"):
        if given.get(name) is not None:
            parts += [f"--{name}", given[name]]
    for name, default in (("k", K), ("resamples", 100), ("guidance", 1)):
        if given.get(name, default) != default:
            parts += [f"--{name}", given[name]]
    if given.get("conditions") is not None:
        parts += ["--condition", given["conditions"]]
    if isinstance(labels := given.get("labels"), list):
        parts += _named(",".join(labels))
    # the score needs a classifier, which pixels have not: then all the others are all
    if measured and set(METRICS) - {"inception_score" if features == "pixels" else ""} - measured:
        parts += ["--metrics", ",".join(name for name in METRICS if name in measured)]
    return said(*parts, "--metric", found.metric, "--out", found.folder)


def again(page: Page) -> str:
    """The page itself."""
    parts: list[object] = ["--data", page.data] if page.data else []
    parts += ["--n", page.spec.n, *_sampler(page)]
    in_turn = page.spec.labels in (None, tuple(range(len(page.classes))))
    parts += [] if in_turn else _turns(page, page.spec.n)
    parts += ["--sweep", page.sweep.folder] if page.sweep and page.sweep.cells else []
    return said("report", *model(page), *parts, "--out", "report.html")


def _sampler(page: Page) -> list[object]:
    """The options of the page's specification: steps, method and seed, and whatever is not as by default."""
    spec = page.spec
    spacing = [] if spec.spacing in (page.spacing, None) else ["--spacing", spec.spacing]
    return ["--steps", spec.steps, *_method(spec), "--seed", spec.seed, *spacing, *_seldom(spec, "start")]


def _method(spec: SamplingSpec) -> list[object]:
    """The method with its options."""
    options = [item for item in spec.options.items() if item[0] != SOLVER]  # which steps and guidance find again
    return ["--method", spec.method, *(part for item in options for part in ("--set", "=".join(map(str, item))))]


def _seldom(spec: SamplingSpec, *names: str) -> list[object]:
    """Guidance, precision and other fields, where they are not as by default."""
    usual = SamplingSpec()
    fields = [name for name in (*names, "guidance", "rescale", "dtype") if getattr(spec, name) != getattr(usual, name)]
    condition = [] if spec.conditions is None else ["--condition", spec.conditions]
    return [*condition, *(part for name in fields for part in (f"--{name}", getattr(spec, name)))]


def _certain(page: Page, method: str) -> SamplingSpec:
    """The page's specification with the deterministic method of a figure, and latents of pure noise."""
    spec = dataclasses.replace(page.spec, start="marginal") if page.spec.start == "gaussian" else page.spec
    return spec if method == spec.method else dataclasses.replace(spec, method=method, options={})


def _named(label: str) -> list[str]:
    return [f"--label={label}"] if label.startswith("-") else ["--label", label]


def _turns(page: Page, n: int) -> list[str]:
    """The classes of the first n samples, as `leapstep sample` takes them: in turn."""
    return [part for label in (page.spec.labels or ())[:n] for part in _named(page.classes[int(label)])]


def _traced(page: Page, n: int, *rest: object) -> str:
    """`leapstep trace` for the first n samples: once, or once for each of the classes that they have in turn."""
    parts = ["trace", *model(page), "--n", n, *_sampler(page), *rest]
    if not page.classes or page.label is not None:
        return said(*parts, *_turns(page, 1), "--out", "trace")
    return _loop(
        "class",
        [page.classes[int(label)] for label in (page.spec.labels or ())[:n]],
        f'{said(*parts)} --label="$class" --out "trace-$class"',
    )


def _loop(name: str, values: Sequence[object], command: str) -> str:
    """A command for each of several values, in the shell; it has $name in it."""
    return f"for {name} in {shlex.join(map(str, values))}; do {command}; done"
