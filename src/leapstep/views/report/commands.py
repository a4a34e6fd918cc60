"""The commands that repeat the figures of a page, to paste into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from leapstep.evaluation.distances import METRICS
from leapstep.evaluation.page.contents import Page
from leapstep.evaluation.sweep import Sweep

K = 5
"""The neighbours that `leapstep evaluate` and `leapstep sweep` look for by default, of more samples than that."""


def said(*parts: object) -> str:
    """A command of leapstep, quoted for the shell."""
    return shlex.join(["leapstep", *map(str, parts)])


def source(page: Page) -> str:
    """The model, as commands name it."""
    return page.source or "MODEL"


def info(page: Page) -> str:
    """What the model is."""
    return said("info", source(page))


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
    return said("sample", source(page), "--n", n, *_sampler(page), *_turns(page, n), "--out", "samples")


def consistency(page: Page) -> str:
    """The same noises in different numbers of steps: by one command, or by one for each where classes are in turn."""
    found, settings = page.consistency, page.settings
    n = found.samples.shape[1]
    if not page.classes or settings.label is not None:
        return _traced(page, n, "--consistency", *found.steps)
    parts = ["sample", source(page), "--n", n, "--method", settings.method, "--seed", settings.seed, *_turns(page, n)]
    return _loop("s", found.steps, f'{said(*parts)} --steps "$s" --out "steps-$s"')


def way(page: Page) -> str:
    """The way from noise to data."""
    return _traced(page, page.way.x.shape[1])


def between(page: Page) -> str:
    """The interpolation."""
    found = page.between
    parts: list[object] = ["--seeds", *found.seeds, "--frames", found.frames.shape[1], "--steps", page.settings.steps]
    parts += ["--method", found.method, *([] if page.spacing == "trailing" else ["--spacing", page.spacing])]
    parts += [] if found.label is None else _named(page.classes[found.label])
    return said("interpolate", source(page), *parts, "--out", "between")


def reconstructions(page: Page) -> str:
    """Encoding and decoding."""
    found = page.reconstructions
    assert found is not None
    parts: list[object] = ["--split", found.split, "--steps", *found.steps, "--n", found.n, "--method", found.method]
    return said("reconstruct", source(page), page.data, *parts, "--out", "there-and-back")


def neighbours(page: Page) -> list[str]:
    """The nearest data; nothing where `leapstep evaluate` draws no pairs, or would want more samples."""
    found = page.neighbours
    assert found is not None
    if page.kind != "pictures" or page.held == "train" or found.n <= K:
        return []
    parts: list[object] = ["--n", found.n, *_sampler(page), *_turns(page, found.n), "--split", page.held]
    return [said("evaluate", source(page), page.data, *parts, "--pairs", "closest.png")]


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
        "--spacings": [cell["spacing"] for cell in found.cells] if spacings - {page.spacing} else [],
    }
    parts: list[object] = ["sweep", source(page), found.conditions.get("data", page.data or "DATA")]
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
    if isinstance(labels := given.get("labels"), list):
        parts += _named(",".join(labels))
    # the score needs a classifier, which pixels have not: then all the others are all
    if measured and set(METRICS) - {"inception_score" if features == "pixels" else ""} - measured:
        parts += ["--metrics", ",".join(name for name in METRICS if name in measured)]
    return said(*parts, "--metric", found.metric, "--out", found.folder)


def again(page: Page) -> str:
    """The page itself."""
    parts: list[object] = ["--data", page.data] if page.data else []
    parts += ["--n", page.settings.n, *_sampler(page)]
    parts += [] if page.settings.label is None else _named(page.classes[page.settings.label])
    parts += ["--sweep", page.sweep.folder] if page.sweep and page.sweep.cells else []
    return said("report", source(page), *parts, "--out", "report.html")


def _sampler(page: Page) -> list[object]:
    settings = page.settings
    return ["--steps", settings.steps, "--method", settings.method, "--seed", settings.seed]


def _named(label: str) -> list[str]:
    return [f"--label={label}"] if label.startswith("-") else ["--label", label]


def _turns(page: Page, n: int) -> list[str]:
    """The classes of the first n samples, as `leapstep sample` takes them: in turn."""
    if not page.classes:
        return []
    if page.settings.label is not None:
        return _named(page.classes[page.settings.label])
    return [part for name in page.classes[:n] for part in _named(name)]


def _traced(page: Page, n: int, *rest: object) -> str:
    """`leapstep trace` for the first n samples: once, or once for each of the classes that they have in turn."""
    parts = ["trace", source(page), "--n", n, *_sampler(page), *rest]
    if not page.classes or page.settings.label is not None:
        return said(*parts, *_turns(page, 1), "--out", "trace")
    return _loop("class", page.classes[:n], f'{said(*parts)} --label="$class" --out "trace-$class"')


def _loop(name: str, values: Sequence[object], command: str) -> str:
    """A command for each of several values, in the shell; it has $name in it."""
    return f"for {name} in {shlex.join(map(str, values))}; do {command}; done"
