"""Folders of samples and of jobs: what they are, how much of it is there, and whether that is what was made.

Nothing here needs a model, or PyTorch. What is known of a shard stands in the manifest once all of them are there, and
until then in the logs of who made them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leapstep import plugin
from leapstep.data import shards
from leapstep.data.shards import MANIFEST
from leapstep.files import folders, reading
from leapstep.inference import fields
from leapstep.inference.store import FINAL, RESULTS, Pictures
from leapstep.progress import progress_bar
from leapstep.text import counted
from leapstep.workers import job as jobs
from leapstep.workers.job import Job

if TYPE_CHECKING:
    from leapstep.workers.schema import Entry

INNER = re.compile(r"shards(-[0-9a-f]{8})?")
"""Names of the folder of a job in a folder of results."""


class Shard(NamedTuple):
    """What is known of a shard.

    Attributes:
        path: where it is, or should be.
        n: how many indices it has.
        made: the SHA-256 with which it was made, once or by several, and the bytes; None where nothing tells these.
    """

    path: Path
    n: int
    made: Mapping[str, int | None]

    def damage(self, size: int, hashes: bool) -> str:
        """In what it differs from what was made; nothing where it does not, or nobody knows.

        Arguments:
            size: its bytes.
            hashes: whether it is read for its SHA-256.
        """
        if self.made and None not in self.made.values() and size not in self.made.values():
            return f"{size} bytes, and made with {' or '.join(map(str, dict.fromkeys(self.made.values())))}"
        if hashes and self.made and jobs.sha256_of(self.path) not in self.made:
            return "another SHA-256 than when it was made"
        return ""


class Problem(NamedTuple):
    """What is wrong with a shard, or with several in a row.

    Attributes:
        paths: of them.
        said: what it is.
        damaged: whether they are there, and not what was made.
    """

    paths: list[Path]
    said: str
    damaged: bool = False

    def __str__(self) -> str:
        last = f" to {self.paths[-1].name}" if len(self.paths) > 1 else ""
        return f"{self.paths[0].name}{last}: {self.said}"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of samples, or of a job in shards, or of results whose job lies in it.

    Attributes:
        path: as it was named.
        manifest: of samples; None: it holds none.
        job: that has begun there; None: the samples are not in shards, or `job.json` was not copied with them.
    """

    path: Path
    manifest: Mapping[str, Any] | None
    job: Job | None

    @property
    def place(self) -> Path:
        """Where the shards are."""
        return self.path if self.job is None else self.job.folder

    @functools.cached_property
    def shards(self) -> list[Shard]:
        """What is known of all shards, in order; none where samples are not in shards.

        Raises:
            ValueError: the manifest is broken.
        """
        found, job = shards.of_folder(self.path), self.job
        if found is not None and (listed := found.listed()):
            return [Shard(self.path / one.file, one.n, {one.sha256: one.bytes}) for one in listed]
        if job is None:
            return []
        parts = (
            {sha256: entry.bytes for sha256, entry in self.noted.get(i, {}).items()} for i in range(len(job.shards))
        )
        return [Shard(job.path(i), len(job.shards[i]), part) for i, part in enumerate(parts)]

    @functools.cached_property
    def noted(self) -> dict[int, dict[str, Entry]]:
        """What those who made the shards noted of them; see `Job.noted`."""
        return {} if self.job is None else self.job.noted()

    @functools.cached_property
    def names(self) -> set[str]:
        """The names of what is there and no link."""
        with os.scandir(self.place) as entries:
            return {entry.name for entry in entries if not entry.is_symlink()}

    def there(self) -> list[Shard]:
        """The shards that are there, in order."""
        return [shard for shard in self.shards if shard.path.name in self.names]

    def problems(self, hashes: bool = False) -> list[Problem]:
        """What is missing, is too much, or is not what was made.

        Arguments:
            hashes: whether files are read for their SHA-256, under a progress bar; else only sizes are compared.
        """
        found = []
        for gone, run in itertools.groupby(self.shards, lambda shard: shard.path.name not in self.names):
            if gone:
                found.append(Problem([shard.path for shard in run], "missing"))
        sizes = [jobs.size_of(shard.path) for shard in self.there()]
        with progress_bar(sum(sizes), "verifying", "B", show=hashes) as bar:
            for shard, size in zip(self.there(), sizes, strict=True):
                if said := shard.damage(size, hashes):
                    found.append(Problem([shard.path], said, damaged=True))
                elif hashes and not shard.made:
                    found.append(Problem([shard.path], "nothing tells its SHA-256"))
                bar.update(size)
        own = {shard.path.name for shard in self.shards}
        alike = re.compile(rf"\d{{5,7}}{re.escape(self.shards[0].path.suffix)}") if own else None
        surplus = [self.place / name for name in self.names - own if alike and alike.fullmatch(name)]
        found += [Problem([path], "none of these shards: move it away") for path in surplus]
        return sorted(found, key=lambda problem: problem.paths[0])

    def discard(self, problems: Iterable[Problem]) -> None:
        """Remove damaged shards, so that whatever made them makes them anew. Nobody else may write in the folder."""
        with folders.locked(self.place):
            for path in [path for problem in problems if problem.damaged for path in problem.paths]:
                jobs.discard(path)

    def described(self) -> dict[str, Any]:
        """What it is, as JSON; what is not known is left out."""
        facts = {"folder": str(self.path)} | (self._job_facts() if self.manifest is None else _facts(self.manifest))
        n = sum(shard.n for shard in self.shards) or (self.manifest or {})["spec"]["n"]
        finished, problems = self._finished(), self.problems()
        if self.shards:
            facts["shards"] = f"{len(self.there())} of {len(self.shards)}, of {self.shards[0].n} each"
        facts["there"] = f"{finished:,} of {counted(n, 'sample' if self.job is None else self.job.unit)}"
        facts["bytes"] = sum(jobs.size_of(shard.path) for shard in self.there())
        if self.job is not None:
            facts |= {"threads": self.job.threads, "dtype": self.job.settled.get("dtype")}
        facts |= {"devices": self._devices(), "problems": [str(problem) for problem in problems]}
        if problems or finished < n or (self.manifest is not None and not self.manifest.get("finished")):
            facts["go_on"] = self.command()
        return {name: value for name, value in facts.items() if value not in (None, "", 0, [], {})}

    def _finished(self) -> int:
        """How many samples are there, or indices of the job."""
        if self.shards or self.manifest is None:
            return sum(shard.n for shard in self.there())
        if self.manifest.get("format") == "png":
            return Pictures(self.path).finished()
        return int(self.manifest["spec"]["n"] if (self.path / FINAL).is_file() else self.manifest.get("finished", 0))

    def _job_facts(self) -> dict[str, Any]:
        """What a job is."""
        assert self.job is not None
        key, of = self.job.key, f" of {self.job.key['model']}" if self.job.key.get("model") else ""
        plain = {name: value for name, value in key.items() if isinstance(value, str | int) and name != "model"}
        form = self.job.suffix.removeprefix(".") or "folders"
        return {"holds": f"a job, {self.job.what or 'in shards'}{of}", "format": form, "key": plain}

    def _devices(self) -> list[str]:
        """The kinds of devices on which it was made, as far as that was noted."""
        kinds = {entry.device for told in self.noted.values() for entry in told.values()} - {""}
        settled = (self.manifest or {}) if self.job is None else self.job.settled
        return sorted(kinds) or [kind for kind in [settled.get("device")] if isinstance(kind, str)]

    def command(self) -> str:
        """What goes on with it."""
        manifest = self.manifest
        if manifest is None:
            return "the command that began it"
        model = manifest.get("model")
        if model is None or manifest.get("pipeline") or plugin.parts(model)[1]:
            return "the command that drew them, with --resume"
        form = ["--format", manifest["format"]] if manifest.get("format") else []
        words = ["--spec", str(self.path / MANIFEST), *form, "--out", str(self.path), "--resume"]
        return shlex.join(["leapstep", "sample", model, *words])


SHOWN = ("method", "steps", "seed", "n", "batch_size")
"""Fields of a specification that are named even where they are as usual."""


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What samples are."""
    stated, usual = manifest["spec"], fields.usual()
    spec = {name: stated[name] for name in usual if stated[name] != usual[name] or name in SHOWN}
    spec.pop("times", None)
    if len(labels := spec.get("labels") or ()) > 20:
        spec["labels"] = f"{len(labels)} in turn"
    return {
        "holds": f"samples of {manifest.get('model') or 'a model'}",
        "format": manifest.get("format"),
        "spec": spec,
        "prompts": (manifest.get("pipeline") or {}).get("prompts"),
        "weights_sha256": manifest["weights_sha256"],
        "versions": manifest.get("versions"),
    }


def opened(path: str | Path) -> Folder | None:
    """The samples, or the job, in a folder; None where it holds neither.

    Raises:
        ValueError: `job.json` is there, and not that of a job.
    """
    path = Path(path)
    if not path.is_dir():
        return None
    manifest = _manifest(path)
    inner = sorted(entry.name for entry in os.scandir(path) if INNER.fullmatch(entry.name))
    places = [path] if manifest is not None else [path, *(path / name for name in inner)]
    job = next(filter(None, map(jobs.opened, places)), None)
    return None if manifest is None and job is None else Folder(path, manifest, job)


def _manifest(path: Path) -> dict[str, Any] | None:
    """What `leapstep sample` says of the samples in a folder; None where it is not there, or broken, or another's."""
    from leapstep.files.schema import checked
    from leapstep.inference.schema import Manifest

    try:
        manifest: dict[str, Any] = reading.read_json(path / MANIFEST)
        checked(Manifest, manifest)
    except (OSError, ValueError):
        return None
    manifest["spec"] = fields.usual() | manifest["spec"]  # the schema lets fields be left out
    return manifest if RESULTS.key in manifest and type(manifest.get("finished")) is int else None
