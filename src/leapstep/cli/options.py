"""Options and checks shared by several commands."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from leapstep.cli.completion import model_folders
from leapstep.cli.parsing import NUMBERS, SETTINGS, TEXTS
from leapstep.core import names
from leapstep.files import folders
from leapstep.inference import fields
from leapstep.models import opening, pipelines
from leapstep.text import allowed, seconds

if TYPE_CHECKING:
    import torch

    from leapstep.inference.spec import SamplingSpec
    from leapstep.models.model import Model

T = TypeVar("T")

METHODS = " | ".join((*names.METHODS, fields.FITTED, fields.AUTO))
"""The names of all methods."""

ELSEWHERE = "or its name in k-diffusion, ComfyUI or diffusers, such as euler_ancestral"
METHODS_HELP = f"{METHODS}; {ELSEWHERE}."
NAMED_METHODS = f"{METHODS.removesuffix(' | auto')}; {ELSEWHERE}"


DEVICES = ("cpu", "cuda", "mps")
"""The kinds of devices that a network can be on."""


def check_device(name: str | None) -> None:
    """Make sure that a device of that name may be somewhere. Raises ValueError where there can be none."""
    if name is not None and name.partition(":")[0] not in DEVICES:
        raise ValueError(f"--device {name}: {allowed(name, DEVICES)}")


def device(name: str | None) -> torch.device:
    """The device of that name, or the best there is."""
    check_device(name)
    import torch

    from leapstep.workers import devices

    kinds = devices.kinds()
    try:
        found = torch.device(kinds[0] if name is None else name)
    except RuntimeError:
        found = None
    if found is None or found.type not in kinds or (found.index or 0) >= max(1, torch.cuda.device_count()):
        raise ValueError(f"--device {name}: this machine has {', '.join(kinds)}")
    return found


def budget(text: str) -> float:
    """The seconds of a --budget."""
    try:
        return seconds(text)
    except ValueError as error:
        raise ValueError(f"--budget {error}") from None


ModelSource = Annotated[
    str,
    typer.Argument(
        help="A run folder, a diffusers pipeline folder, `owner/name` on the Hub, or `file.py:function` with "
        "--convention.",
        autocompletion=model_folders,
    ),
]
CONVENTION = typer.Option(
    metavar="FILE", help="How a network of your own (file.py:function) is called, as leapstep doctor --save wrote it."
)
SHAPE = typer.Option(metavar=NUMBERS, help="Shape of one sample, where the file of the convention does not have it.")
DataCondition = Annotated[
    str | None,
    typer.Option(
        "--condition", metavar="FILE.npz", help="What the network takes besides: an array a keyword, a row a datum."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu | cuda | mps; default: the best available.")]
SPACINGS = " | ".join(names.SPACINGS)
SPACING_DEFAULT = "what the model says, or else trailing; trailing for rk23 and rk45"
OwnSpacing = Annotated[str | None, typer.Option(help=f"{SPACINGS}; default: {SPACING_DEFAULT}.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar=SETTINGS, help="Options of the method, such as order=3."),
]


Split = Annotated[
    str | None,
    typer.Option(help="Split of the data; default: what the run held out, else test, else all."),
]
TrainSplit = Annotated[str | None, typer.Option(help="Split of the data; default: train, or all if there is none.")]

# --- the model -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Source:
    """A model as the command line names it.

    Attributes:
        name: of a folder, or on the Hub, or `file.py:function`.
        convention: a file that says how a network of one's own is called.
        shape: of one sample, where that does not say it.
        device: its name, or None.
    """

    name: str
    convention: Path | None = None
    shape: list[int] | None = None
    device: str | None = None

    @property
    def opening(self) -> list[str]:
        """The options that open it beside its name, but for the device."""
        convention = [] if self.convention is None else ["--convention", str(self.convention)]
        return convention + ([] if self.shape is None else ["--shape", ",".join(map(str, self.shape))])

    def checked(self) -> Source:
        """The same, once it is clear that there may be such a model; see `leapstep.models.opening.check`."""
        check_device(self.device)
        opening.check(self.name, self.convention, self.shape)
        return self

    def open(self) -> Model:
        """The model, on its device. Raises ValueError for what `leapstep.models.opening.open_model` refuses."""
        return opening.open_model(self.name, convention=self.convention, shape=self.shape, device=device(self.device))

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a folder of a pipeline of diffusers that is no model of pixels or values."""
        return self.convention is None and pipelines.other(Path(self.name)) is not None

    @property
    def takes(self) -> str:
        """The option that says what a pipeline draws."""
        index = pipelines.other(Path(self.name))
        return "--prompt" if index is None else index.takes


def on_model(
    command: Callable[..., T],
    argument: str = "model",
    annotation: Any = ModelSource,
    or_samples: bool = False,
    or_pipeline: bool = False,
) -> Callable[..., T]:
    """Give a command, in place of an argument that is a `Source`, the words that name a model.

    Arguments:
        argument: its name.
        annotation: of the first of these words.
        or_samples: whether it may name samples instead, so that it is not looked at before the command does.
        or_pipeline: whether it may name any pipeline of diffusers.
    """
    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    more = [
        keyword("convention", default=None, annotation=Annotated[Path | None, CONVENTION]),
        keyword("shape", default=None, annotation=Annotated[list[int] | None, SHAPE]),
        keyword("device", default=None, annotation=Device),
    ]
    name = keyword(argument, annotation=annotation)

    def source(asked: dict[str, Any]) -> Source:
        model = Source(asked.pop(argument), **asked)
        return model if or_samples or (or_pipeline and model.is_pipeline) else model.checked()

    return _composed(command, argument, [name], source, more)


OF_PIPELINES: dict[str, Any] = {
    "prompt": Annotated[
        list[str] | None, typer.Option(metavar=TEXTS, help="Of a pipeline of diffusers: what is drawn, in turn.")
    ],
    "prompts": Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a pipeline of diffusers: a prompt in each line, in turn.")
    ],
    "negative_prompt": Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of a pipeline: what guidance leads away from; default: its own.")
    ],
    "height": Annotated[int | None, typer.Option(metavar="PIXELS", help="Of a pipeline's pictures; default: its own.")],
    "width": Annotated[int | None, typer.Option(metavar="PIXELS", help="Of a pipeline's pictures; default: its own.")],
    "tuned": Annotated[Path | None, typer.Option(metavar="FOLDER", help="Of a pipeline: --out of leapstep tune.")],
}
"""The options of commands that take pipelines of diffusers."""


def asking(prompts: str, *more: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command, in place of its argument `asked`, the options of `OF_PIPELINES`, as a dictionary.

    Arguments:
        prompts, more: the names of the one that says what is drawn, and of others that not all have.
    """
    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY, default=None)
    names = (prompts, "negative_prompt", "height", "width", *more)
    parameters = [keyword(name, annotation=OF_PIPELINES[name]) for name in names]
    return lambda command: _composed(command, "asked", parameters, lambda asked: asked)


# --- the specification of samples ----------------------------------------------------------------------------------

SAMPLING: dict[str, Any] = {
    "spec": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A specification, or a manifest whose samples to repeat; other options override it.",
        ),
    ],
    "n": Annotated[int | None, typer.Option(help="Number of samples.")],
    "first": Annotated[int | None, typer.Option(help="Index of the first sample, to draw samples in parts.")],
    "steps": Annotated[int | None, typer.Option(help="Steps from noise to data.")],
    "method": Annotated[str | None, typer.Option(help=METHODS_HELP)],
    "eta": Annotated[float | None, typer.Option(help="ddim, sde_dpmpp_2m: share of noise injected, from 0 to 1.")],
    "variance": Annotated[
        str | None,
        typer.Option(
            help="ddpm: posterior (default) | beta | none | learned | optimal; ddim: eta (default) | optimal."
        ),
    ],
    "settings": Settings,
    "spacing": Annotated[str | None, typer.Option(help=SPACINGS)],
    "start": Annotated[
        str | None,
        typer.Option(
            help="marginal (noise of the scale at the first time) | unit (of scale 1, as in diffusers) | gaussian (the "
            "first steps without a call, of the data's mean and covariance: leapstep calibrate)."
        ),
    ],
    "seed": Annotated[int | None, typer.Option(help="Sample i is a function of the seed and i.")],
    "label": Annotated[list[str] | None, typer.Option(metavar="NAME ...", help="Classes, by name or number, in turn.")],
    "condition": Annotated[
        str | None,
        typer.Option(
            metavar="FILE.npz", help="What the network takes besides: an array a keyword, a row a sample, in turn."
        ),
    ],
    "guidance": Annotated[float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none.")],
    "rescale": Annotated[
        float | None, typer.Option(help="Share, from 0 to 1, of the contrast added by guidance that is removed again.")
    ],
    "batch_size": Annotated[int | None, typer.Option(help="Samples per batch.")],
    "dtype": Annotated[str | None, typer.Option(help="Precision of the network: auto | float32 | bfloat16 | float64")],
}
"""The options that make a specification, the same in every command that draws samples."""

FIELDS = {"settings": "options", "label": "labels", "condition": "conditions"}
"""Options and the fields of a specification that have other names."""

DEFAULTS = {
    "n": "64",
    "first": "0",
    "steps": "20, or T where that is less; 1 for rk23 and rk45",
    "method": "ddim",
    "spacing": SPACING_DEFAULT,
    "start": "marginal",
    "seed": "0",
    "guidance": "1",
    "rescale": "0",
    "batch_size": "64",
    "dtype": "auto, what is measured to be faster and near enough to float32 in long jobs",
}
"""The defaults of a specification, as a help shows them."""

OF_A_SOLVER = ("method", "steps", "spacing", "start", "labels", "conditions", "guidance", "rescale")
"""Fields of a specification by which a fitted solver is found."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A specification as the command line states it.

    Attributes:
        fields: of a `SamplingSpec`, those that are stated.
    """

    fields: Mapping[str, Any]

    def made(self) -> SamplingSpec:
        """The specification."""
        from leapstep.inference.spec import SamplingSpec

        return SamplingSpec(**self.fields)


def sampling(
    *without: str, shown: Mapping[str, str] | None = None, **defaults: Any
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command, in place of its argument `stated`, the options that make a specification.

    Arguments:
        without: the names of options that the command does not have.
        shown: defaults, as its help shows them.
        defaults: of fields that are not as in `SamplingSpec`.
    """
    texts = DEFAULTS | {name: str(value) for name, value in defaults.items()} | dict(shown or {})

    taken = [name for name in SAMPLING if name not in without]
    parameters = [_parameter(name, texts.get(name)) for name in taken]
    return lambda command: _composed(command, "stated", parameters, lambda asked: specification(asked, defaults))


def _composed(
    command: Callable[..., T],
    argument: str,
    parameters: Sequence[inspect.Parameter],
    make: Callable[[dict[str, Any]], Any],
    last: Sequence[inspect.Parameter] = (),
) -> Callable[..., T]:
    """A command one of whose arguments is made of several options.

    Arguments:
        argument: its name.
        parameters: the options that stand in its place.
        make: makes its value of theirs, by name.
        last: more of its options, which stand behind all others.
    """
    own = inspect.signature(command, eval_str=True)
    names = [parameter.name for parameter in (*parameters, *last)]

    @functools.wraps(command)
    def run(**options: Any) -> T:
        return command(**{argument: make({name: options.pop(name) for name in names})}, **options)

    flat: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        flat += parameters if parameter.name == argument else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    run.__signature__ = own.replace(parameters=[*flat, *last])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*flat, *last)}
    return run


def _parameter(name: str, default: str | None) -> inspect.Parameter:
    """One of `SAMPLING`, with its default in the help."""
    kind, option = SAMPLING[name].__origin__, copy.copy(SAMPLING[name].__metadata__[0])
    if default is not None:
        option.help = f"{option.help.removesuffix('.')}; default: {default}."
    annotation: Any = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def specification(asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> Spec:
    """The specification that options make, of those in `SAMPLING` that are not None.

    Arguments:
        defaults: fields that are not as in `SamplingSpec` where nothing else is asked for.
    Raises:
        ValueError: --spec is no specification; an option of the method is given twice, or not as NAME=VALUE; or what
            `leapstep.inference.fields.check` raises.
    """
    given = {FIELDS.get(name, name): value for name, value in asked.items() if value is not None}
    path = given.pop("spec", None)
    stated = dict(defaults) if path is None else fields.read(path)
    before = fields.usual() | stated
    options: dict[str, Any] = {name: given.pop(name) for name in ("eta", "variance") if name in given}
    for setting in given.pop("options", ()):
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write it as NAME=VALUE")
        if name in options:
            raise ValueError(f"{name} is given twice, as {options[name]} and as {text}: choose one")
        options[name] = text
    kept = before["options"] if given.get("method", before["method"]) == before["method"] else {}
    if before["method"] == fields.FITTED and not given.keys().isdisjoint(OF_A_SOLVER):
        given["times"] = None
    elif "steps" in given or "spacing" in given:
        given["times"] = None
        if before["times"] is not None and "steps" not in given:
            given["steps"] = None
    stated |= {**given, "options": {**kept, **options}}
    fields.check(before | stated)
    return Spec(stated)


def message(error: Exception) -> str:
    """What an error says: with the file it is about, or the option that is a field of a specification here."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    field = getattr(error, "field", None)
    if field is None:
        return str(error)
    name = {"labels": "label", "options": "set", "conditions": "condition"}.get(field, field).replace("_", "-")
    return f"--{name} {error.value}: {error.problem}"  # type: ignore[attr-defined]


def part(read: Callable[[str], T], source: str, asked: str | None, usual: str = "test") -> tuple[str, T]:
    """As `leapstep.models.data.usual_part`; what is taken in place of a part that is not there is told on stderr."""
    from leapstep.models.data import usual_part

    return usual_part(read, source, asked, usual, lambda text: typer.echo(text, err=True))


held = contextlib.ExitStack()
"""The locks of the folders and files that the command writes, which it gives back at its end."""


def hold(folder: Path) -> None:
    """Keep other processes from writing in a folder until the command ends; see `leapstep.files.folders.locked`."""
    held.enter_context(folders.locked(folder))


def claim(out: Path, overwrite: bool, kind: folders.Kind, record: Mapping[str, Any] | None) -> None:
    """Make a folder for results, or clear one of earlier results if told to, and keep others out until the end.

    See `leapstep.files.folders.begin`, also for the arguments.
    """
    hold(out)
    folders.begin(out, overwrite, kind, record)


def check_free(out: Path, overwrite: bool, kind: folders.Kind) -> None:
    """Make sure, before a model is opened, that results may be written into a folder; see `folders.check_free`."""
    folders.check_free(out, overwrite, kind)


def check_data(source: str | None) -> None:
    """Make sure, before a model is opened, that there may be such data; see `leapstep.data.readers.check_source`."""
    from leapstep.data.readers import check_source

    if source is not None:
        check_source(source)


def check_input(source: str) -> None:
    """Make sure, before a model is opened, that there is such an image, or may be such data."""
    from leapstep.data.readers import is_image

    if not is_image(source):
        check_data(source)
    elif not Path(source).is_file():
        raise ValueError(f"there is no {source}")


def check_page(path: Path) -> None:
    """Make sure that a page may be written to a file of that name. Raises ValueError."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {path}: name a file that ends in .html")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")


def claim_file(path: Path, overwrite: bool) -> None:
    """Make sure that a file of results can be written, and keep others from writing it until the command ends.

    Raises:
        ValueError: it exists and is not to be overwritten, or another process writes it.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: --overwrite it, or name another file")
    held.enter_context(folders.locked_file(path))


def tell_left_out(model: Model, asked: Sequence[int], counts: Sequence[int]) -> None:
    """Name the numbers of steps that the model cannot take, on stderr."""
    if left := sorted(set(asked) - set(counts)):
        levels = model.process.timesteps
        typer.echo(f"left out {', '.join(map(str, left))} steps: the model has {levels} noise levels", err=True)
