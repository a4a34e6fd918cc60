"""Every block of code in the README and in docs/, and every example of a --help, is right: it runs.

A block of Python runs in the order of its document, in one namespace, with the reader's own things (`readers`) at hand.
A line of commands is read by the real parser, and runs in a folder where the files that documents speak of lie, with
fewer samples and smaller networks (`SMALLER`). What is not run says why, behind the language of its fence, where no
reader sees it: `python not run: ...`. Output that is shown is `text`, or follows its command, marked with $, in a block
`console`.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import leapstep
from commands import done, forget_accelerator
from foreign_layouts import Openai
from leapstep.cli import JOURNEY, app, module
from leapstep.data import read
from own_network import write_signals
from random_models import filled, model_of

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app).commands
EXAMPLES = [
    " ".join(example.split())
    for names in JOURNEY.values()
    for name in names
    for example in re.findall(r"^`(.*?)`$", module(name).EXAMPLES, re.MULTILINE | re.DOTALL)
]

SMALLER = {
    "train": "--size 8 --timesteps 100 --channels 8,8 --attention 0,0 --groups 8 --blocks 1 --steps 2 --batch-size 8",
    "distill": "--calls 1 2 --steps 2",
    "tune": "--calls 3 --noises 16 --teacher-steps 6 --batch-size 16 --overwrite",
    "sample": "--n 2",
    "evaluate": "--n 8 --resamples 3",
    "sweep": "--n 8 --resamples 3 --steps 2",
    "report": "--n 4 --steps 4 --budget 0.01s",
    "features": "--epochs 1",
    "likelihood": "--n 4",
    "reconstruct": "--n 4",
    "edit": "--n 1 --steps 2",
    "invert": "--steps 2",
    "doctor": "--n 20",
    "calibrate": "--per-level 2",
}
"""Options in place of those of a document, so that each command takes a moment."""

ELSEWHERE = (
    "google/ddpm-cifar10-32",
    "stable-diffusion",
    "DiT-XL-2-256",
    "inception",
    "--mp4",
    "ckpt.pth",
    "model-10.pt",
)
"""What a command needs that is not at hand: the Hub, weights to download, ffmpeg, files of other projects.

Such a line is read by the parser alone."""

FEWER = {
    "10_000": "100",
    "steps=1000": "steps=2",
    "steps=100": "steps=10",
    "--steps 1000": "--steps 100",
    "100 1000": "50 100",
    "5,10,20": "2,3",
}
"""Numbers in documents, and those that are tried."""


SHORT = "--steps 20 --batch-size 32 --timesteps 100 --channels 8,8 --attention 0,0 --groups 8 --blocks 1 --labels"


# --- what documents speak of ---------------------------------------------------------------------------------------


def pictures(folder, split, n):
    """Digits as files, in a folder for each class."""
    data = read("digits", split=split)
    for i in range(n):
        path = folder / data.classes[data.labels[i]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = leapstep.data.pictures.grid(data.values[i : i + 1], padding=0, zoom=1)
        leapstep.data.pictures.save_image(image, path)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """Every file that a document speaks of, once."""
    shelf = tmp_path_factory.mktemp("shelf")
    pictures(shelf / "photos", "train", 60)
    pictures(shelf / "mnist" / "train", "train", 60)
    pictures(shelf / "mnist" / "test", "test", 30)
    shutil.copytree(shelf / "photos", shelf / "DATA")
    shutil.copytree(shelf / "photos", shelf / "paintings")
    for name, i in (("A", 0), ("B", 1)):
        shutil.copy(shelf / "photos" / str(i) / f"{i}.png", shelf / f"{name}.png")
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).numpy()
    write_signals(shelf)
    np.save(shelf / "data.npy", points)
    np.save(shelf / "mask.npy", np.ones_like(points))
    Image.fromarray(np.arange(8, dtype=np.uint8)[None].repeat(8, 0) // 4 * 255).save(shelf / "mask.png")
    np.savez(shelf / "given.npz", y=np.zeros(len(points)))
    forget_accelerator()
    done("train", "digits", "--out", shelf / "MODEL", *SHORT.split(), "--device", "cpu")
    done("tune", shelf / "MODEL", *SMALLER["tune"].split())
    for out in ("latents", "exact"):
        done("invert", shelf / "MODEL", "--image", shelf / "A.png", "--label", 3, "--steps", 2, "--out", shelf / out)
    for run in ("runs/digits", "runs/mnist", "runs/photos", "demo/run"):
        shutil.copytree(shelf / "MODEL", shelf / run, ignore=shutil.ignore_patterns("state", "log", "samples"))
    done("calibrate", shelf / "demo/run", "digits", "--per-level", 1)
    shutil.copytree(shelf / "MODEL" / "unet", shelf / "unet")
    forget_accelerator()
    done("train", shelf / "signals.npy", "--out", shelf / "runs/signals", "--steps", 2, "--width", 8)
    torch.save(filled(Openai()).state_dict(), shelf / "ema_0.9999_500000.pt")
    network = leapstep.networks.UNet(in_channels=1, channels=(8,), attention=(False,), blocks=1, groups=8)
    leapstep.models.checkpoint.save(model_of(network, leapstep.linear(100), "eps", (1, 8, 8)), shelf / "plain")
    shutil.copytree(shelf / "plain" / "unet", shelf / "FILE")
    done("features", "train", shelf / "mnist", "--out", shelf / "features/mnist", "--epochs", 1)
    (shelf / "my_project.py").write_text(MY_PROJECT)
    (shelf / "mine.py").write_text(
        "from my_project import Net\n\n\ndef network():\n    return Net()\n\n\nmake_network = network\n"
    )
    return shelf


MY_PROJECT = """import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, timestep, y=None):
        return self.scale * x
"""


@pytest.fixture
def desk(shelf, tmp_path, monkeypatch):
    """A folder in which the commands of a document run."""
    shutil.copytree(shelf, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.syspath_prepend(str(tmp_path / "desk"))
    sys.modules.pop("my_project", None)
    torch.save({"scale": torch.tensor(0.5)}, "net.pt")
    return tmp_path / "desk"


def readers():
    """What stands for the reader's own things in a block of Python."""

    def net(x, timestep, **given):
        return 0.1 * x

    process = leapstep.linear()
    return {
        "torch": torch,
        "leapstep": leapstep,
        "net": net,
        "network": leapstep.networks.UNet(in_channels=3, channels=(8,), attention=(False,), blocks=1, groups=8),
        "process": process,
        "diffusion": leapstep.from_network(net, process, clip=(-1, 1)),
        "data": torch.randn(100, 2).numpy(),
        "means": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]),
        "variances": torch.tensor([0.1, 0.2]),
        "x0": torch.full((4, 3, 8, 8), (100 - 127.5) / 127.5),
        "labels": torch.zeros(10_000, dtype=torch.long),
        "show": lambda *state: None,
        **{f"z{i}": torch.randn(3, 8, 8) for i in (1, 2, 3, 4)},
    }


# --- running it ----------------------------------------------------------------------------------------------------


def blocks(document):
    """Each fence: language, why it is not run, line, and content."""
    text = document.read_text()
    for match in FENCE.finditer(text):
        language, _, why = match[1].partition(" not run: ")
        yield language, why, text[: match.start()].count("\n") + 2, match[2]


def fewer(text):
    for number, tried in FEWER.items():
        text = text.replace(number, tried)
    return text


def lines(block):
    """The commands in a block, without comments, those on several lines put together."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def parsed(words):
    """The command that a line calls, and its words, if the real parser takes them; None for other programs."""
    if "leapstep" not in words[:4]:
        return None
    name, *args = words[words.index("leapstep") + 1 : words.index(">") if ">" in words else None]
    COMMANDS[name].make_context(name, list(args))
    return name, args


def run(words):
    """Run a line of commands, in smaller, where it is one of ours and all that it needs is at hand."""
    if (command := parsed(words)) is None or any(need in word for word in words for need in ELSEWHERE):
        return
    name, args = command
    forget_accelerator()
    if "--out" in args and "--resume" not in args:
        out = Path(args[args.index("--out") + 1])
        shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
    if "--minutes" in args:  # they would take as long as they say
        at = args.index("--minutes")
        args = args[:at] + args[at + 2 :]
    kept = name == "train" and not {"--init-from", "--resume"}.isdisjoint(args)  # the network that is there
    done(name, *([*args, "--steps", "3", "--batch-size", "8"] if kept else smaller(name, args)))


def smaller(name, args):
    """A command with the options of `SMALLER`, without what the document has for them."""
    options = SMALLER.get(name, "").split()
    kept, at = [], None
    for word in args:
        at = word if word.startswith("--") else at
        if at not in options:
            kept.append(word)
    return [*kept, *options]


LONG = (
    *("demo", "train", "evaluate", "sweep", "compare", "report", "features", "likelihood"),
    *("trace", "reconstruct", "doctor", "distill", "push"),
)
"""Commands that the documents run, and of which examples are read by the parser alone."""


def test_every_example_is_right(desk):
    assert len(EXAMPLES) > 40
    for example in EXAMPLES:
        words = shlex.split(fewer(example))
        name, _ = parsed(words)
        if name not in LONG:
            run(words)


def test_options_that_are_named_in_passing_exist():
    """Of a command in the middle of a sentence, which may leave out what it needs."""
    found = 0
    for document in DOCUMENTS:
        prose = FENCE.sub("", document.read_text()).replace("\n", " ")
        for name, rest in re.findall(r"`leapstep ([a-z]+) ([^`]*)`", prose):
            there = {name for param in COMMANDS[name].params for name in param.opts}
            asked = {word.partition("=")[0] for word in rest.split() if word.startswith("--")}
            assert asked <= there | {"--help"}, f"{document.name}: leapstep {name} {rest}"
            found += len(asked)
    assert found > 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_runs(document, desk):
    namespace = readers()
    for language, why, line, block in blocks(document):
        assert language in ("python", "sh", "console", "text"), f"{document.name}:{line} is of no language"
        if language == "sh":
            for words in lines(fewer(block)):
                parsed(words) if why else run(words)
        elif language == "console":
            for words in lines("\n".join(re.findall(r"^\$ (.*)", block, re.MULTILINE))):
                parsed(words) if why else run(words)
        elif language == "python":
            code = compile("\n" * (line - 1) + fewer(block), document, "exec")
            if name := re.match(r"# (\w+\.py)\n", block):
                Path(name[1]).write_text(block)
            if not why:
                exec(code, namespace)
