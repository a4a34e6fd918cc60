"""`leapstep likelihood` as a user meets it. Its numbers are the library's; the models need no training for that."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import commands
import leapstep
from commands import refused
from leapstep.cli import app
from leapstep.core.likelihood import bits_per_dim, ode_log_likelihood, variational_bound
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data import read
from leapstep.models import checkpoint
from leapstep.networks import MLP, UNet
from random_models import model_of


def invoke(*args):
    return commands.invoke("likelihood", *args)


def done(*args):
    return commands.done("likelihood", *args).stdout


def figures(*args):
    return json.loads(done(*args, "--json", "--device", "cpu"))


def stirred(network):
    """Weights that are not 0 anywhere."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def saved(folder, network, shape, scaling=PIXELS, classes=(), **given):
    data = {"source": "somewhere", "samples": 9, "scaling": scaling._asdict(), "classes": list(classes)}
    model = model_of(network, leapstep.cosine(), "v", shape, scaling, classes=classes, details={"data": data}, **given)
    checkpoint.save(model, folder)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    network = UNet(in_channels=1, channels=(8, 8), attention=(False, True), blocks=1, groups=4, classes=11)
    folder = tmp_path_factory.mktemp("likelihood") / "digits"
    return saved(folder, stirred(network), (1, 8, 8), classes=tuple("0123456789"), null_label=10)


@pytest.fixture(scope="session")
def signals(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals") / "signals.npy"
    np.save(path, 100 + 5 * np.random.default_rng(0).normal(size=(40, 2)))
    return path


@pytest.fixture(scope="session")
def points(tmp_path_factory):
    network = stirred(MLP(shape=(2,), width=16, depth=1))
    return saved(tmp_path_factory.mktemp("points") / "run", network, (2,), Scaling(100.0, 5.0), clip=None)


FAST = ("--n", 6, "--steps", 4)


# --- the numbers ---------------------------------------------------------------------------------------------------


def of_digits(model, n, batch):
    """The diffusion, data and noise of the samples that the command takes."""
    loaded, held = checkpoint.load(model), read("digits", split="test")
    rows = [i * len(held) // n for i in range(n)][batch]
    labels = torch.from_numpy(held.labels[rows])
    noise = leapstep.Noise(0, range(n)[batch], (1, 8, 8))
    return loaded.diffusion(labels), held.batch(rows), noise


def test_the_bound_is_the_librarys(digits):
    found = figures(digits, "digits", *FAST, "--batch-size", 4)
    parts = []
    for batch in (slice(0, 4), slice(4, 6)):
        diffusion, x0, noise = of_digits(digits, 6, batch)
        parts.append(variational_bound(diffusion, x0, leapstep.times(diffusion.process, 4), noise, pixels=PIXELS))
    total = bits_per_dim(torch.cat([part.total for part in parts]), (1, 8, 8))
    assert found["unit"] == "bits/dim"
    assert found["mean"] == pytest.approx(total.mean().item(), rel=1e-5)
    assert found["standard_error"] == pytest.approx(total.std().item() / math.sqrt(6), rel=1e-4)
    assert found["calls"] == 4
    assert found["labels"] is True
    terms = {name: figure["mean"] for name, figure in found["terms"].items()}
    assert list(terms) == [
        "prior (L_T)",
        "steps, t in (0.75, 1]",
        "steps, t in (0.5, 0.75]",
        "steps, t in (0.25, 0.5]",
        "reconstruction (L_0)",
    ]
    assert sum(terms.values()) == pytest.approx(found["mean"])
    each = torch.cat([part.steps for part in parts], 1).mean(1)
    assert list(terms.values())[1:4] == pytest.approx(bits_per_dim(each, (1, 8, 8)).tolist(), rel=1e-4)


@pytest.mark.parametrize("given", [(), ("--steps", 3), ("--tolerance", 0.1), ("--steps", 3, "--probes", 2)], ids=str)
def test_the_density_is_the_librarys(digits, monkeypatch, given):
    """The command asks the library for what was said, and prints what it answers.

    Not compared with a second answer: adaptive steps are accepted or not by the last bits of an error, which differ
    from one run to the next, so two answers agree to the tolerance only.
    """
    asked = []

    def noting(*args, **options):
        asked.append((args, options, ode_log_likelihood(*args, **options)))
        return asked[-1][-1]

    monkeypatch.setattr("leapstep.inference.likelihood.ode_log_likelihood", noting)
    found = figures(digits, "digits", "--method", "ode", "--n", 2, *given)
    [((diffusion, *tensors, noise), options, density)] = asked
    meant, x0, own_noise = of_digits(digits, 2, slice(0, 2))
    times = leapstep.times(meant.process, 4, "log_snr")[:-1] if "--steps" in given else torch.tensor([1.0, 1e-3, 0.0])
    for tensor, expected in zip([*tensors, noise(1)], [x0, times, own_noise(1)], strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-9, check_dtype=False)
    torch.testing.assert_close(diffusion.denoise(x0, times[0]), meant.denoise(x0, times[0]))
    assert options["tolerance"] == (None if "--steps" in given else 0.1 if "--tolerance" in given else 1e-3)
    assert options["probes"] == (2 if "--probes" in given else 1)
    assert options["pixels"] == PIXELS
    assert found["mean"] == pytest.approx(-bits_per_dim(density.log_likelihood, (1, 8, 8)).mean().item(), rel=1e-9)
    assert found["calls"] == density.calls
    if "--steps" in given:
        assert found["calls"] == 3 * 6 + 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", ["vlb", "ode"])
def test_densities_of_arrays_are_in_their_own_units(points, signals, tmp_path, method, sign):
    """Values ten times as large, mirrored or not, and a model of these: a tenth of the density in each dimension."""
    large = shutil.copytree(points, tmp_path / "large")
    checkpoint.save(checkpoint.load(points).with_convention(scaling=(1000.0, sign * 50.0)), large)
    np.save(tmp_path / "large.npy", 1000 + sign * (10 * np.load(signals) - 1000))
    args = ("--split", "all", "--method", method, "--steps", 5)
    small = figures(points, signals, *args)
    found = figures(large, tmp_path / "large.npy", *args)
    assert small["unit"] == "nats/dim"
    assert small["n"] == 40
    assert small["labels"] is False
    assert found["mean"] - small["mean"] == pytest.approx(math.log(10), abs=1e-5)
    loaded = checkpoint.load(points)
    x0 = loaded.scaling.to_model(np.load(signals))
    noise = leapstep.Noise(0, range(40), (2,))
    if method == "vlb":
        nats = variational_bound(loaded.diffusion(), x0, leapstep.times(loaded.process, 5), noise).total
    else:
        path = leapstep.times(loaded.process, 6, "log_snr")[:-1]
        nats = -ode_log_likelihood(loaded.diffusion(), x0, path, noise).log_likelihood
    assert small["mean"] == pytest.approx(nats.mean().item() / 2 + math.log(5), abs=1e-4)


@pytest.mark.parametrize("method", ["vlb", "ode"])
def test_the_batch_size_changes_nothing_and_the_seed_does(digits, method):
    args = (digits, "digits", "--n", 3, "--steps", 2, "--method", method)
    found = [figures(*args, "--batch-size", size)["mean"] for size in (1, 2, 64)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
    assert figures(*args, "--seed", 1)["mean"] != pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        ("--variance", "beta"),
        ("--spacing", "quad"),
        ("--steps", 5),
        ("--n", 4),
        ("--split", "train"),
        ("--method", "ode", "--steps", 2),
    ],
    ids=str,
)
def test_every_option_changes_the_result(digits, given):
    assert figures(digits, "digits", *FAST, *given)["mean"] != pytest.approx(
        figures(digits, "digits", *FAST)["mean"], rel=1e-4
    )


def test_defaults_are_what_the_help_says(digits, points, signals):
    """All levels, the posterior's variance, 256 samples or as many as there are."""
    found = figures(points, signals, "--split", "all")
    assert (found["method"], found["steps"], found["calls"], found["n"]) == ("vlb", 1000, 1000, 40)
    assert (found["spacing"], found["variance"], found["seed"]) == ("trailing", "posterior", 0)
    found = figures(digits, "digits", "--steps", 1, "--batch-size", 256)
    assert (found["n"], found["split"]) == (256, "test")


def test_labels_are_given_to_a_network_that_knows_them(digits, tmp_path):
    """The same pictures with their labels, with others, and without."""
    held = read("digits", split="test")
    labels = {"right": held.labels, "wrong": (held.labels + 1) % 10, "no": None}
    found = {}
    for name, values in labels.items():
        arrays = {"x": held.values} if values is None else {"x": held.values, "labels": values}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        found[name] = figures(digits, tmp_path / f"{name}.npz", "--split", "all", *FAST)
    assert found["right"]["mean"] == pytest.approx(figures(digits, "digits", *FAST)["mean"], rel=1e-6)
    assert len({round(row["mean"], 5) for row in found.values()}) == 3
    assert [row["labels"] for row in found.values()] == [True, True, False]


def test_the_optimal_variance_is_that_of_the_calibration(digits, tmp_path):
    run = shutil.copytree(digits, tmp_path / "run")
    given = (run, "digits", *FAST, "--variance", "optimal")
    refused(invoke(*given), "variance=optimal", "leapstep calibrate MODEL DATA")
    result = CliRunner().invoke(app, ["calibrate", str(run), "digits", "--per-level", "1", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    found, loaded = figures(*given), checkpoint.load(run)
    diffusion, x0, noise = of_digits(run, 6, slice(0, 6))
    bound = variational_bound(
        diffusion,
        x0,
        leapstep.times(loaded.process, 4),
        noise,
        variance="optimal",
        spread=loaded.spread,
        pixels=PIXELS,
    )
    assert found["mean"] == pytest.approx(bits_per_dim(bound.total, (1, 8, 8)).mean().item(), rel=1e-5)


# --- what is printed -----------------------------------------------------------------------------------------------


def test_the_bound_as_a_table(digits):
    text, found = done(digits, "digits", *FAST, "--device", "cpu"), figures(digits, "digits", *FAST)
    assert text.startswith(
        "6 samples of digits (test), their labels given; vlb, steps 4, spacing trailing, variance posterior\n"
    )
    for name, row in {**found["terms"], "bound on -log p": found}.items():
        assert re.search(rf"^{re.escape(name)} +{row['mean']:.4f} +{row['standard_error']:.4f}$", text, re.MULTILINE), (
            text
        )
    assert "bits/dim" in text
    assert "4 network calls each" in text


def test_the_density_as_a_table(points, signals):
    text = done(points, signals, "--split", "all", "--method", "ode", "--probes", 0)
    assert text.startswith(f"40 samples of {signals} (all), no labels given; ode, tolerance 0.001, probes 0\n")
    assert re.search(r"^-log p +-?\d+\.\d{4} +\d\.\d{4}$", text, re.MULTILINE), text
    assert "nats/dim" in text
    assert "prior" not in text


def test_help_has_examples_and_describes_every_option():
    text = invoke("--help").stdout
    assert "leapstep likelihood runs/digits" in text.partition("Examples")[2]
    for line in text.splitlines():
        assert not re.match(r"│ \*? *--\S+ +(--\S+ +)?<\w+> *│", line), f"no description: {line}"


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--method nll", ["--method nll", "vlb or ode"]),
        ("--method ode --variance beta", ["--variance beta: does not apply to method ode", "tolerance, probes"]),
        ("--method ode --spacing quad", ["--spacing quad: does not apply to method ode"]),
        ("--probes 2", ["--probes 2: does not apply to method vlb", "steps, spacing, variance"]),
        ("--tolerance 0.1", ["--tolerance 0.1: does not apply to method vlb"]),
        ("--method ode --steps 5 --tolerance 0.1", ["steps and tolerance exclude each other"]),
        ("--method ode --steps 0", ["--steps 0", "at least 1"]),
        ("--method ode --tolerance 0", ["tolerance=0.0"]),
        ("--method ode --probes -1", ["probes=-1", "0 or more"]),
        ("--variance large", ["--variance large", "posterior, beta, optimal, learned"]),
        ("--variance learned", ["learned no variance"]),
        ("--spacing even", ["spacing 'even'"]),
        ("--steps 1001", ["steps=1001", "1000"]),
        ("--steps 0", ["steps=0", "at least 1"]),
        ("--n 1", ["--n 1", "2"]),
        ("--n 356", ["--n 356", "holds 355 samples"]),
        ("--batch-size 0", ["--batch-size 0"]),
        ("--seed -1", ["seed=-1"]),
        ("--split valid", ["no split 'valid'", "train, test, all"]),
        ("--device tpu", ["--device tpu", "cpu"]),
    ],
)
def test_likelihood_refuses(digits, given, words):
    refused(invoke(digits, "digits", *given.split()), *words)


def test_data_that_do_not_fit_the_model_are_refused(digits, points, signals, tmp_path):
    refused(invoke(digits, signals, "--split", "all"), "signals.npy", "shape")
    refused(invoke(points, "digits"), "digits", r"\[1, 8, 8\]", r"\[2\]")
    refused(invoke(points, signals, "--split", "test"), "no split 'test'", "train or all")
    refused(invoke(digits, tmp_path / "nothing"), "nothing")
    refused(invoke(tmp_path / "nothing", "digits"), "nothing")
    np.savez(tmp_path / "x.npz", x=read("digits").values[:20], labels=np.arange(20))
    refused(invoke(digits, tmp_path / "x.npz", "--split", "all"), "10, 11", "does not know")


def test_ctrl_c_ends_it_and_leaves_everything_as_it_was(digits, monkeypatch):
    def stopped(*args, **given):
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in digits.rglob("*") if path.is_file()}
    monkeypatch.setattr("leapstep.inference.likelihood.variational_bound", stopped)
    result = invoke(digits, "digits", *FAST)
    assert result.exit_code == 130
    assert "stopped" in result.stderr
    assert {path: path.read_bytes() for path in digits.rglob("*") if path.is_file()} == before
