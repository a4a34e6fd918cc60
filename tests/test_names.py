"""Names that are nearly right are guessed, and diffusers' words understood, wherever a name is taken."""

import pytest
import torch

import leapstep
from commands import invoke, refused
from leapstep.evaluation.distances import measure
from leapstep.text import SYNONYMS
from leapstep.training.configuration import configure
from random_models import model_of


def adapted(**convention):
    return leapstep.from_network(lambda x, t: 0.1 * x, leapstep.linear(), **convention)


@pytest.mark.parametrize(("theirs", "ours"), [pair for pair in SYNONYMS.items() if pair[1] != "cosine"])
def test_diffusers_words_for_predictions_are_understood(theirs, ours):
    x, t = torch.randn(2, 3), torch.tensor(0.4, dtype=torch.float64)
    assert torch.equal(adapted(predicts=theirs).denoise(x, t), adapted(predicts=ours).denoise(x, t))


def test_training_understands_diffusers_words():
    assert configure({"predicts": "epsilon", "schedule": "squaredcos_cap_v2"}) == configure({"schedule": "cosine"})
    assert configure({"predicts": "sample"}).predicts == "x0"


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: adapted(predicts="esp"), "eps"),
        (lambda: adapted(time="indx"), "index"),
        (lambda: leapstep.times(leapstep.linear(), 5, "traling"), "trailing"),
        (lambda: configure({"schedule": "cosin"}), "cosine"),
        (lambda: configure({"learning_rat": 1}), "'learning_rate'"),
        (lambda: configure({}, "digit"), "digits"),
        (
            lambda: measure(torch.zeros(9, 2), torch.zeros(9, 2), metrics=["frechett"]),
            "frechet",
        ),
    ],
)
def test_near_misses_of_names_are_guessed(call, meant):
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?"):
        call()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_steps", "steps"),
        ("num_inference_steps", "steps"),
        ("spacin", "spacing"),
        ("scheduler", "transition"),
        ("eta", "transition=leapstep.ddim(eta=...)"),
        ("guidance_scale", "from_network(..., guidance=...)"),
    ],
)
def test_arguments_of_other_samplers_are_answered(name, meant):
    with pytest.raises(TypeError) as error:
        leapstep.sample(adapted(), (1, 2), **{name: 5})
    assert str(error.value) == f"sample() has no argument '{name}': did you mean {meant}?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    run = tmp_path_factory.mktemp("names") / "run"
    network = leapstep.networks.UNet(in_channels=1, channels=(8,), attention=(False,), blocks=1, groups=8)
    leapstep.models.checkpoint.save(model_of(network, leapstep.linear(100), "eps", (1, 8, 8)), run)
    return run


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("sample MODEL --out OUT --method ddmi", "ddim"),
        ("sample MODEL --out OUT --spacing qad", "quad"),
        ("sample MODEL --out OUT --method unipc --set ordre=3", "order"),
        ("evaluate MODEL digits --metrics kernal", "kernel"),
        ("evaluate MODEL digits --features pixel", "pixels"),
        ("sweep MODEL digits --out OUT --methods unipcc", "unipc"),
        ("interpolate MODEL --out OUT --seeds 1 2 --path slrp", "slerp"),
        ("edit MODEL --out OUT --image digits --by guidence", "guidance"),
    ],
)
def test_near_misses_on_the_command_line_are_guessed(model, tmp_path, line, meant):
    words = line.replace("MODEL", str(model)).replace("OUT", str(tmp_path / "out")).split()
    refused(invoke(*words), rf"did you mean {meant}\?")
    assert not (tmp_path / "out").exists()
