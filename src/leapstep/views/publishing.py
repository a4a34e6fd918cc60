"""Publishing a model on the Hugging Face Hub: the folder that others get, its card, and one commit.

    leapstep.push("runs/photos", "user/photos")

The folder is written anew from what the model is, not copied: the network, its convention, what was measured of it and
fitted to it, and what leapstep.json says of data and training. No training state, no log unless asked for, no file that
nobody knows, and of every path on this machine its last part only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leapstep import files
from leapstep.evaluation import results
from leapstep.evaluation.runs import results_of
from leapstep.files import folders, reading
from leapstep.models import checkpoint
from leapstep.models.data import warn
from leapstep.models.folder import CALIBRATION, MOMENTS, TUNED
from leapstep.models.model import Model
from leapstep.models.repository import PUBLISHED, REPLACED, check
from leapstep.text import reason
from leapstep.views.card import PICTURE, Card, written

SAID = (
    "versions",
    "step",
    "seconds",
    "precision",
    "data",
    "training",
    "losses",
    "init_from",
    "imported",
    "distillation",
)
"""What of leapstep.json is for others."""

OWN = ("log", "project")
"""Settings of a training that are not."""

SOURCES = ("data", "model", "features", "conditions")
"""Conditions of results that may be paths."""


class Published(NamedTuple):
    """A model that was published.

    Attributes:
        files: their names.
        url: of the commit; None where the folder was only written.
    """

    files: tuple[str, ...]
    url: str | None = None


def push(
    model: Model | str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    datasets: Sequence[str] = (),
    logs: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    token: str | None = None,
    tell: Callable[[str], object] = warn,
) -> Published:
    """Publish a model on the Hub with a model card, as one commit, as `leapstep push` does.

    Arguments:
        model: it, or where it lies; the last grid of samples and the results in a run folder come along.
        repo: `user/name`, which is made.
        private: whether only its owner may see it.
        license: an identifier of the Hub, such as "apache-2.0"; None: none is stated.
        datasets: names of data sets on the Hub that it was trained on; one that the run names itself, and that was
            downloaded from there, is added.
        logs: whether TensorBoard's log comes along.
        out: write the folder here, and push nothing.
        overwrite: replace the model in a repository, or a folder, that is there. With `private`, a repository that
            others may see is left alone.
        token: of the Hub; None: that of `hf auth login` or HF_TOKEN.
        tell: called with a line where something is left out.

    Returns:
        the names of the files, and the address of the commit.

    Raises:
        ValueError: a name or license that is none, a repository that exists, no token or no rights, no connection, or a
            model that cannot be saved in a folder.
    """
    check(repo, license, datasets)
    run = None if isinstance(model, Model) else Path(model)
    opened = model if isinstance(model, Model) else checkpoint.load(model)
    card = Card(repo, _public(opened), False, license, _datasets(opened, datasets))
    with contextlib.ExitStack() as held:
        if out is not None:
            held.enter_context(folders.locked(Path(out)))
            folders.check_free(Path(out), overwrite, PUBLISHED)
        place = Path(held.enter_context(tempfile.TemporaryDirectory()))
        names = _write(card, run, place, logs, tell)
        if out is None:
            return Published(names, _upload(place, repo, private, overwrite, token))
        folders.begin(Path(out), overwrite, PUBLISHED, {})  # not before all that can be wrong with the model has been
        shutil.copytree(place, out, dirs_exist_ok=True)
        return Published(names)


def _public(model: Model) -> Model:
    """The model with what of its details is for others."""
    details = {name: model.details[name] for name in SAID if model.details.get(name) is not None}
    if isinstance(training := details.get("training"), Mapping):
        details["training"] = {name: value for name, value in training.items() if name not in OWN}
    for name, key in (("data", "source"), ("init_from", "source"), ("imported", "file")):
        if isinstance(part := details.get(name), Mapping) and key in part:
            details[name] = {**part, key: _known_as(str(part[key]))}
    if isinstance(said := details.get("distillation"), Mapping):
        teacher = {
            key: _known_as(value) if key in ("source", "condition") else value for key, value in said["teacher"].items()
        }
        details["distillation"] = {**{key: value for key, value in said.items() if key not in OWN}, "teacher": teacher}
    tuned = model.tuned
    if tuned is not None:
        tunings = [one._replace(teacher=_without_paths(_teacher(one.teacher))) for one in tuned.tunings]
        tuned = dataclasses.replace(tuned, tunings=tuple(tunings))
    return dataclasses.replace(model, details=_without_paths(details), tuned=tuned)


def _teacher(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a tuning says of its teacher, with the data whose moments it has by the name that others know."""
    moments = said.get("moments")
    return {**said, **({"moments": _known_as(moments)} if isinstance(moments, str) else {})}


def _known_as(source: str) -> str:
    """What others may know a source by: a name on the Hub, or the last part of a path."""
    path, split = re.fullmatch(r"(.*?)( \(\w+\))?", source, re.DOTALL).groups("")  # type: ignore[union-attr]
    known = path if _from_the_hub(path) else re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "data"
    return known + split


def _from_the_hub(source: str) -> bool:
    """Whether a model or data set of this name was downloaded to here: else `owner/name` may be a path as well."""
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII) or Path(source).exists():
        return False
    owner, name = source.split("/")
    kept = [Path(HF_HUB_CACHE, f"{kind}--{owner}--{name}") for kind in ("models", "datasets")]
    return any(path.is_dir() for path in (*kept, Path(HF_HOME, "datasets", f"{owner}___{name}")))


def _without_paths(value: Any) -> Any:
    """JSON in whose texts every absolute path, and every path below a home folder, is its last part."""
    if isinstance(value, Mapping):
        return {name: inner if name == "classes" else _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(inner) for inner in value]
    if not isinstance(value, str):
        return value
    text = value.replace("file://", "").replace(f"{Path('~').expanduser()}/", "~/")
    if re.match(r"(?:~|[A-Za-z]:)?[/\\].", text):  # a path as a whole, with whatever characters
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    path = r"(?<![\w/.])(?:~|[A-Za-z]:)?(?:[/\\][^/\\\s'\",;:]+)*[/\\]([^/\\\s'\",;:]+)[/\\]?"
    return re.sub(path, r"\1", text)


def _datasets(model: Model, given: Sequence[str]) -> list[str]:
    source = str((model.details.get("data") or {}).get("source") or "")
    return list(dict.fromkeys([*given, *([source] if _from_the_hub(source) else [])]))


def _write(card: Card, run: Path | None, folder: Path, logs: bool, tell: Callable[[str], object]) -> tuple[str, ...]:
    """Write all files of a card's model; their names."""
    model = card.model
    checkpoint.save(model, folder)
    if model.calibration is not None:
        checkpoint.save_calibration(folder / CALIBRATION, model, model.calibration, {})
    if model.moments is not None:
        checkpoint.save_moments(folder / MOMENTS, model, model.moments, {})
    if model.tuned is not None:
        checkpoint.save_tuned(folder / TUNED, model, model.tuned)
    compared = None
    if run is not None and run.is_dir():
        found = results_of(run, checkpoint.fingerprint(model.network))
        with contextlib.suppress(ValueError):  # a sweep without a finished cell
            compared = _public_results(results.compare(found.current)) if found.current else None
        if found.outdated:
            tell(f"left out, as they are of other weights: {', '.join(path.name for path in found.outdated)}")
        if logs:
            _copy_log(run, folder)
    pictured = run is not None and _picture(run, folder / PICTURE)
    in_diffusers = (folder / "model_index.json").exists()
    card = card._replace(in_diffusers=in_diffusers, pictured=pictured, measured=compared)
    files.write_text(folder / "README.md", written(card))
    return tuple(sorted(_names(folder)))


def _public_results(compared: results.Comparison) -> results.Comparison:
    """Results whose conditions are for others."""
    rows = []
    for row in compared.rows:
        said = row["conditions"]
        said = {**said, **{name: _known_as(said[name]) for name in SOURCES if isinstance(said.get(name), str)}}
        rows.append({**row, "conditions": _without_paths(said)})
    marked, notes = results.marks([row["conditions"] for row in rows])
    return results.Comparison([{**row, "mark": mark or None} for row, mark in zip(rows, marked, strict=True)], notes)


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(files.PREFIX):
            yield path.relative_to(folder).as_posix()


def _inside(path: Path, run: Path) -> None:
    """Raise ValueError where a file of a run is a link to one elsewhere, which nobody asked to publish."""
    if not path.resolve().is_relative_to(run.resolve()):
        raise ValueError(f"{path} is a link that leads out of {run}: what it leads to is not published")


def _picture(run: Path, path: Path) -> bool:
    """Write the last grid of samples of a training, its pixels alone; whether there is one."""
    from PIL import Image

    grids = sorted((run / "samples").glob("step-*.png"))
    if not grids:
        return False
    _inside(grids[-1], run)
    try:
        with Image.open(reading.regular(grids[-1])) as image:
            pixels = image.convert("RGB")
    except Exception:  # a broken file can raise anything
        return False
    from leapstep.data.pictures import save_image

    save_image(pixels, path)
    return True


def _copy_log(run: Path, folder: Path) -> None:
    """Copy TensorBoard's log under names without this machine's."""
    for number, path in enumerate(sorted((run / "log").glob("*tfevents*"))):
        _inside(path, run)
        time = re.search(r"tfevents\.(\d+)", path.name)
        (folder / "log").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "log" / f"events.out.tfevents.{time[1] if time else 0}.{number}")


def _upload(folder: Path, repo: str, private: bool, overwrite: bool, token: str | None) -> str:
    """Make a repository and commit a folder to it; the address of the commit.

    Raises:
        ValueError: one line that says what the Hub, or the way there, has against it.
    """
    from huggingface_hub import HfApi

    api, exists = HfApi(token=token), False
    try:
        api.create_repo(repo, private=private or None)  # None: as its owner's account has it
    except Exception as error:  # the client's errors have no class in common
        if _status(error) != 409:
            raise ValueError(_told(error, repo)) from error
        if not overwrite:
            raise ValueError(
                f"{repo} exists on the Hub: --overwrite replaces the model there, or name another"
            ) from error
        exists = True
    try:
        public = exists and private and not api.model_info(repo).private
    except Exception as error:
        raise ValueError(_told(error, repo)) from error
    if public:
        raise ValueError(f"{repo} exists, and everybody may see it: make it private on the Hub, or name another")
    try:
        made = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Model, published with leapstep",
            delete_patterns=REPLACED,
        )
    except Exception as error:
        raise ValueError(_told(error, repo)) from error
    return str(made.commit_url)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _told(error: BaseException, repo: str) -> str:
    """What a failed upload means, in a line."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalTokenNotFoundError) or _status(error) == 401:
        return "the Hub does not know you: call hf auth login, or set HF_TOKEN to a token that may write"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or write the folder with --out"
    if _status(error) in (403, 404):
        return (
            f"your token may not write to {repo}: name a repository of your own, or use a token with the right to write"
        )
    if _status(error) is not None:
        return f"the Hub refused {repo}: {reason(error)}"
    return f"the Hub cannot be reached ({reason(error)}): try again, or write the folder with --out"
