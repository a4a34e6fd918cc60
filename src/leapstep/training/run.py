"""A training run: start, resumption, checkpoints, stopping, and its record."""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from leapstep import launch, stopping
from leapstep.data.dataset import same_source
from leapstep.files import folders
from leapstep.models import checkpoint
from leapstep.models.model import Model
from leapstep.text import duration
from leapstep.training import estimate, initial, minutes
from leapstep.training.configuration import TrainingConfig, configure, parameters
from leapstep.training.deadline import Deadline, now
from leapstep.training.learner import Learner
from leapstep.training.record import Record
from leapstep.training.saving import Writer
from leapstep.training.trainer import Trainer

CHANGEABLE = {
    *("steps", "minutes", "strict", "accumulate", "fsdp"),
    *("log", "project", "log_every", "holdout_every", "sample_every", "save_every"),
}
"""Settings that a resumed run may change."""


def train(
    data: str | Path,
    out: str | Path,
    *,
    preset: str | None = None,
    config: TrainingConfig | str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Model:
    """Train a network and leave a run folder (see `leapstep.models.checkpoint`), as `leapstep train` does.

    Under `accelerate launch` or `torchrun` the same call trains on all processes. A checkpoint is also written on
    Ctrl-C.

    Arguments:
        data: what to train on, see `leapstep.data.read`.
        out: the run folder.
        preset: settings that are known to work, by their name in `leapstep.training.PRESETS`; None: those that suit
            the data and the machine, see `leapstep.training.usual_settings`.
        config: a YAML file of settings, which win over the preset; or all settings at once, instead of a preset.
        resume: continue from the last checkpoint in `out`, exactly as if training had never stopped.
        overwrite: replace the run in `out`.
        init_from: a run folder or another model (see `leapstep.load`), whose averaged weights the run begins with, and
            whose network, process and prediction it has.
        device: "cpu" to leave a GPU alone; None: the best there is.
        progress: report on stderr what of the data is left out or held out, how long training will take, and how far
            it is.
        settings: fields of `TrainingConfig`, which win over the file and the preset; None leaves what these say.

    Returns:
        The model with the averaged weights.

    Raises:
        ValueError: settings that do not fit the data; a run folder that exists and neither `resume` nor `overwrite`, or
            that another process is training; a resumed run with other settings.
        FloatingPointError: a loss that is not finite; the last good checkpoint is kept.
    """
    began = now()
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: choose one")
    run, source = Path(out), str(data)
    with locked(run):
        resumed = checkpoint.find_state(run)[1] if resume else None
        start = initial.weights(run, resumed, None if init_from is None else str(init_from))
        chosen, notes = _configured(source, config, preset, settings, device, resumed or {}, start)
        if resumed is not None:
            _check_resumable(run, resumed, chosen, source)
        else:
            folders.check_free(run, overwrite, checkpoint.RUN)
        deadline = samples = None
        if chosen.minutes is not None:
            deadline = Deadline(60 * chosen.minutes, (resumed or {}).get("seconds") or 0.0, began)
        if deadline is not None and resumed is None:
            asked = _asked(config, preset, settings)
            minutes.check(asked, preset)
            given = asked.model_fields_set
            chosen, samples, notes = minutes.plan(chosen, given, source, deadline, start, device, progress)
        trainer = Trainer(chosen, source, device, progress, resumed, start, samples)
        trainer.deadline = deadline
        if deadline is not None and resumed is not None:
            _take_up(trainer, deadline, resumed)
        begin(trainer, run, resumed, overwrite, notes)
        loop(trainer, run)
        if deadline is not None:
            trainer.say(f"took {duration(deadline.elapsed())} of {duration(deadline.seconds)}")
    return trainer.model()


def _take_up(trainer: Trainer, deadline: Deadline, resumed: Mapping[str, Any]) -> None:
    """Bring a deadline to where a run stands that goes on: how long its end will take, and its last step if that moves.

    Until a checkpoint is written, both go by the mean speed so far, or by a step's time here if none was recorded.
    """
    step, config = resumed["step"], trainer.config
    known = deadline.spent > 0 and step > 0
    seconds = deadline.spent / step if known else trainer.seconds_a_step()
    if seconds is None:  # the run itself will say why there is no step
        return
    deadline.closing = minutes.closing(seconds, config)
    if config.minutes != resumed["training"].get("minutes"):
        trainer.end_at(round(trainer.mean_over_processes(deadline.prolonged(step, seconds))))


_OWN = [p for p in inspect.signature(train).parameters.values() if p.kind is not p.VAR_KEYWORD]
train.__signature__ = inspect.Signature([*_OWN, *parameters(TrainingConfig)], return_annotation="Model")  # type: ignore[attr-defined]


def _configured(
    source: str,
    config: TrainingConfig | str | Path | None,
    preset: str | None,
    settings: Mapping[str, Any],
    device: str | None,
    resumed: Mapping[str, Any],
    start: initial.Start | None,
) -> tuple[TrainingConfig, list[str]]:
    """The settings of a run, and a line that names the preset where it was chosen by the data and the machine."""
    if device not in (None, "cpu"):
        raise ValueError(f"--device {device}: only cpu can be asked for; CUDA_VISIBLE_DEVICES chooses among GPUs")
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(config, TrainingConfig) and preset is not None:
        raise ValueError(f"preset={preset!r}: a TrainingConfig has all settings already; pass one of the two")
    if isinstance(config, TrainingConfig):
        return configure(settings, base=config.model_dump(exclude_unset=True)) if settings else config, []
    if resumed:
        if "steps" in settings and "minutes" not in settings:  # more steps, however long they take
            settings["minutes"] = None
        return configure(settings, preset, config, resumed.get("training")), []
    usual, base = None, dict[str, Any]()
    if preset is None:
        usual, base = estimate.usual_settings(source, device != "cpu" and torch.cuda.is_available())
    if start is not None:
        chosen = initial.configured(start.model, settings, preset, config, base)
        usual = None if "training" in start.model.details else usual
    else:
        chosen = configure(settings, preset, config, base)
    return chosen, [f"settings: --preset {usual}, but for those that were given"] if usual else []


def _asked(
    config: TrainingConfig | str | Path | None, preset: str | None, settings: Mapping[str, Any]
) -> TrainingConfig:
    """What was asked for: the fields that are set are those of the options, the file and the preset."""
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(config, TrainingConfig):
        return configure(given, base=config.model_dump(exclude_unset=True))
    return configure(given, preset, config)


def locked(run: Path) -> contextlib.AbstractContextManager[None]:
    """Keep others from writing in a run folder, of which the first process holds the lock for all; see `folders`."""
    return folders.locked(run) if launch.rank() == 0 else contextlib.nullcontext()


def begin(
    learner: Learner, run: Path, resumed: Mapping[str, Any] | None, overwrite: bool, notes: Iterable[str] = ()
) -> None:
    """Bring a run folder and what is trained there to where they begin, and tell whoever started the run about it.

    Arguments:
        resumed: what the last checkpoint of a run says that goes on.
        overwrite: whether an earlier run may be removed.
        notes: lines to tell besides.
    Raises:
        ValueError: the folder is not free, or what is resumed was another run.
    """
    steps, done = learner.config.steps, 0 if resumed is None else resumed["step"]
    longer = "--steps" if learner.deadline is None else "--minutes"
    if resumed is not None:
        learner.check_unchanged(run, resumed)
    for line in (*notes, *learner.facts(done)):
        learner.say(line)
    learner.choose_precision(resumed)
    if learner.progress and learner.deadline is None:  # on all processes, which take part
        learner.foretell(steps - done)
    if done >= steps:
        learner.say(f"{run} already was at step {done}: to train on, --resume it with more {longer}")
    if resumed is not None:
        learner.restore(run)
    saves = resumed is not None or learner.resumes_from_its_model
    model = learner.model() if saves else None  # of all processes
    if learner.accelerator.is_main_process:
        if resumed is not None:
            folders.tidy(run)
        else:  # at once, so that a run that ends before its first checkpoint is known
            folders.begin(run, overwrite, checkpoint.RUN, learner.details())
        if model is not None:
            checkpoint.save(model, run)
    learner.accelerator.wait_for_everyone()


def _check_resumable(run: Path, values: Mapping[str, Any], config: TrainingConfig, data: str) -> None:
    if not values.get("training") or "source" not in (values.get("data") or {}):
        raise ValueError(f"the training state in {run} does not say on what it was trained: --overwrite the run")
    if not same_source(values["data"]["source"], data):
        raise ValueError(
            f"{run} was trained on {values['data']['source']}, not on {data}: resume it with the same data"
        )
    check_same(run, values["training"], config.model_dump(mode="json"))


def check_same(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where a run is resumed with other settings than it began with, but for `CHANGEABLE`."""
    for name, value in before.items():
        if name not in CHANGEABLE and now.get(name) != value:
            raise ValueError(
                f"{run} was trained with {name}={value}, not {now.get(name)}: resume it without changing that"
            )


def loop(learner: Learner, run: Path) -> None:
    """Train to the last step, or until a request to stop; keep the record, and save on the way.

    Raises:
        FloatingPointError: a loss or a gradient that is not finite; the last checkpoint is kept.
        OSError: the last checkpoint could not be written.
        ConnectionError: another process of the run has ended.
        Stopped: a request to stop, once a checkpoint is written.
    """
    config, main, deadline = learner.config, learner.accelerator.is_main_process, learner.deadline
    record = Record(run, config, learner.step, learner.reports, learner.summary()) if main else None
    writer = Writer(run, learner.step)
    if deadline is not None:
        deadline.starts(learner.step)
    try:
        with _requests(learner.reports) as requests, writer:
            while learner.step < learner.config.steps and not learner.any_process(bool(requests)):
                result = learner.advance()
                learner.keep_to_deadline(learner.step % config.save_every == 0)
                last = learner.step == learner.config.steps
                compares, previews, saves = (
                    last or learner.step % every == 0
                    for every in (config.holdout_every, config.sample_every, config.save_every)
                )
                wholly = compares and previews and saves
                with contextlib.nullcontext() if deadline is None else deadline.pausing(wholly):
                    compared = learner.compare() if compares and learner.calls_average else {}
                    if record is not None:
                        record.add(learner.step, result, compared, learner.config.steps)
                        record.tell(learner.follow(compared))
                    if previews and (picture := learner.preview(run)) is not None and record is not None:
                        record.picture(learner.step, picture)
                    if saves:
                        writer.take(learner.step, learner.snapshot)
                    if wholly and deadline is not None:  # how long the last checkpoint takes is measured by this one
                        writer.wait()
                writer.told()
            if learner.step < learner.config.steps:
                if learner.step > writer.taken:
                    writer.take(learner.step, learner.snapshot)
                writer.finish()
                raise stopping.Stopped(requests[0] if requests else signal.SIGINT)
            writer.finish()
    except KeyboardInterrupt as request:
        if writer.saved:
            request.add_note(f"the checkpoint of step {writer.saved} is kept in {run}: go on with --resume")
        raise
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; {_kept(writer)}: lower the learning rate, or look at the data") from error
    except RuntimeError as error:
        if not _lost(learner, error):
            raise
        raise ConnectionError(
            f"another process of this run has ended or cannot be reached, so this one ends, too; {_kept(writer)}: "
            f"start the run again with --resume, on any number of processes that divides the batch of "
            f"{config.batch_size}"
        ) from error
    finally:
        learner.close()
        if record is not None:
            record.close()


def _kept(writer: Writer) -> str:
    saved = writer.saved
    return f"the checkpoint of step {saved} is kept" if saved else "no checkpoint had been written yet"


def _lost(learner: Learner, error: RuntimeError) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    from torch.distributed import DistError

    said = str(error).lower()
    return learner.accelerator.num_processes > 1 and (
        isinstance(error, DistError) or any(words in said for words in ("gloo", "nccl", "by peer"))
    )


@contextlib.contextmanager
def _requests(report: bool) -> Iterator[list[int]]:
    """Note requests to stop in a list, which is looked at between two steps; the second of them acts at once."""
    requests: list[int] = []

    def note(number: int) -> None:
        if requests:
            stopping.stop(number)
        requests.append(number)
        with contextlib.suppress(OSError, RuntimeError):  # no terminal any more; in the midst of another line
            if report:
                print("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once", file=sys.stderr)

    with stopping.handled(note):
        yield requests
