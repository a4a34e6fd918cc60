"""Training that begins with weights of another run, of an imported checkpoint or of a diffusers folder."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from commands import done, invoke, refused
from leapstep.core.schedules import cosine, flow, rescale_zero_terminal_snr
from leapstep.data import holdout
from leapstep.models import checkpoint
from leapstep.networks import LucidUNet, UNet
from leapstep.training import Start, Trainer, initial, train
from leapstep.training.configuration import configure
from random_models import model_of

TINY = {"patch": 2, "channels": (8, 8), "attention": (0, 1), "blocks": 1, "groups": 4, "batch_size": 64, "steps": 2}
QUICK = {"device": "cpu", "progress": False}


def photos(folder, count, start=0, size=8):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 40 photos, ten of them held out."""
    place = tmp_path_factory.mktemp("runs")
    settings = {**TINY, "schedule": "cosine", "timesteps": 10, "predicts": "v", "holdout": "25%", "flip": True}
    train(photos(place / "photos", 40), place / "run", config=configure(settings), **QUICK)
    return place


def test_it_begins_with_the_averaged_weights_and_a_fresh_optimiser(run, tmp_path):
    model = checkpoint.load(run / "run")
    trainer = Trainer(
        configure({"batch_size": 8}), str(run / "photos"), "cpu", False, start=Start(model, {"source": "a"})
    )
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    average = trainer.ema.module.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in weights.items())
    assert trainer.optimizer.state_dict()["state"] == {}
    assert (trainer.config.timesteps, trainer.config.predicts, trainer.config.channels) == (10, "v", (8, 8))
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(trainer.convention.process.alpha(t), cosine(10).alpha(t))
    trainer.advance()
    trained = trainer.network.state_dict()
    assert any(not torch.equal(value, trained[name]) for name, value in weights.items())


def test_info_tells_what_was_held_out_and_what_a_run_began_with(run, tmp_path):
    assert f"40 samples of {run / 'photos'}, 10 of them held out" in done("info", run / "run").stdout
    settings = {"steps": 1, "batch_size": 64}
    train(str(run / "photos"), tmp_path / "next", config=configure(settings), init_from=str(run / "run"), **QUICK)
    assert f"the weights of {run / 'run'}" in done("info", tmp_path / "next").stdout


def test_one_more_photo_does_not_end_a_run(run, tmp_path):
    """--resume names the command that goes on, which has the run's settings, and holds out what it held out."""
    source = photos(tmp_path / "photos", 40)
    for path in (tmp_path / "run" / "leapstep.json", *(run / "run").rglob("*")):
        if path.is_file() and path.is_relative_to(run):
            copy = tmp_path / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(str(run).encode(), str(tmp_path).encode()))
    (state,) = (run / "run" / "state").iterdir()
    tensors = checkpoint.safetensors.torch.load_file(state)
    values = checkpoint.find_state(run / "run")[1]
    values["data"]["source"] = source
    checkpoint.save_state(tmp_path / "run", 2, tensors, values)
    photos(tmp_path / "photos", 1, start=77)
    result = invoke("train", source, "--out", tmp_path / "run", "--resume", "--steps", 4, "--device", "cpu")
    command = f"leapstep train {source} --init-from {tmp_path / 'run'} --out {tmp_path / 'run'}-2"
    refused(result, "samples was 40, now it is 41", command.replace("+", r"\+"))
    result = invoke(*command.split()[1:], "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    first, second = (json.loads((tmp_path / name / "leapstep.json").read_text()) for name in ("run", "run-2"))
    shared = set(second["training"]) - {"size", "grey", "network"}  # the weights say these where the run did not
    assert {name: second["training"][name] for name in shared} == {name: first["training"][name] for name in shared}
    assert shared >= {"channels", "flip", "batch_size", "holdout", "steps"}
    assert second["init_from"]["source"] == str(tmp_path / "run")
    assert second["init_from"]["step"] == 2
    had, has = (holdout.Holdout.recorded(details) for details in (first, second))
    assert has.threshold == had.threshold
    assert (has.of, has.samples >= had.samples) == (41, True)


def test_it_is_resumed_without_the_folder_that_it_began_with(run, tmp_path):
    model = checkpoint.load(run / "run")
    checkpoint.save(dataclasses.replace(model, details={}), tmp_path / "origin")
    source, config = str(run / "photos"), configure({"batch_size": 64, "steps": 2, "holdout": "no", "warmup": 0})
    more = config.model_copy(update={"steps": 4})
    train(source, tmp_path / "straight", config=more, init_from=str(tmp_path / "origin"), **QUICK)
    train(source, tmp_path / "run", config=config, init_from=str(tmp_path / "origin"), **QUICK)
    record = checkpoint.find_state(tmp_path / "run")[1]
    assert record["training"]["channels"] == [8, 8]
    for path in sorted((tmp_path / "origin").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    train(source, tmp_path / "run", config=configure({"steps": 4}, base=record["training"]), resume=True, **QUICK)
    straight, resumed = (checkpoint.load(tmp_path / name).network.state_dict() for name in ("straight", "run"))
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert checkpoint.load(tmp_path / "run").details["init_from"] == record["init_from"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": (8, 16)}, r"has channels=\(8, 8\), not \(8, 16\), and its weights cannot do otherwise"),
        ({"predicts": "eps"}, "has predicts=v, not eps"),
        ({"timesteps": 1000}, "has timesteps=10"),
        ({"schedule": "linear"}, "has schedule=cosine"),
        ({"labels": True}, "has labels=False"),
        ({"dropout": 0.1}, r"has dropout=0.0"),
        ({"patch": 1}, "has patch=2, not 1"),
        ({"size": 9}, "do not fit 2 stages on patches of 2x2, which need multiples of 4"),
        (
            {"grey": True},
            r"samples of shape \[1, 8, 8\]: the model's are \[3, 8, 8\]: bring the data to .*, or train",
        ),
    ],
)
def test_what_the_weights_cannot_do(run, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        train(
            str(run / "photos"),
            tmp_path / "new",
            config=configure({"steps": 1, **settings}),
            init_from=str(run / "run"),
            **QUICK,
        )
    assert not (tmp_path / "new").exists()


def test_another_size_is_learned_by_the_same_network(run):
    start = Start(checkpoint.load(run / "run"), {"source": "a"})
    trainer = Trainer(configure({"size": 16, "batch_size": 8}), str(run / "photos"), "cpu", False, start=start)
    assert trainer.model().shape == (3, 16, 16)
    assert trainer.advance()["loss"] > 0


def test_a_preset_says_only_what_the_weights_leave_open(run):
    model = checkpoint.load(run / "run")
    chosen = initial.configured(model, {"learning_rate": 1e-5}, "digits", None, {})
    assert (chosen.channels, chosen.predicts, chosen.batch_size, chosen.flip) == ((8, 8), "v", 64, True)
    assert chosen.learning_rate == 1e-5


def diffusers_folder(place, **more):
    network = UNet(in_channels=3, channels=(8, 16), attention=(False, False), blocks=1, groups=4)
    model = model_of(network, rescale_zero_terminal_snr(cosine(20)), "v", (3, 8, 8), **more)
    checkpoint.save(model, place)
    (place / "leapstep.json").unlink()
    return str(place)


def test_a_diffusers_folder(run, tmp_path):
    origin = diffusers_folder(tmp_path / "pipeline")
    args = ["--device", "cpu", "--steps", 1, "--batch-size", 64, "--out", tmp_path / "new"]
    result = invoke("train", run / "photos", "--init-from", origin, *args)
    assert result.exit_code == 0, result.stderr
    model = checkpoint.load(tmp_path / "new")
    assert model.details["training"]["zero_terminal_snr"]
    assert model.details["training"]["channels"] == [8, 16]
    assert len(model.details["init_from"]["weights_sha256"]) == 64
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    assert torch.allclose(model.process.alpha(t), rescale_zero_terminal_snr(cosine(20)).alpha(t))


def test_a_network_that_settings_have_no_words_for(run, tmp_path):
    network = LucidUNet(dim=8, widths=(8, 16), full=(False, True), heads=(2, 2), head_channels=(4, 4))
    checkpoint.save(model_of(network, cosine(20), "eps", (3, 8, 8)), tmp_path / "lucid")
    model = train(
        str(run / "photos"), tmp_path / "new", config=configure({"steps": 1, "batch_size": 64}),
        init_from=str(tmp_path / "lucid"), **QUICK,
    )  # fmt: skip
    assert type(model.network) is LucidUNet
    assert not {"channels", "network"} & set(model.details["training"])
    with pytest.raises(ValueError, match="has no channels, not"):
        Trainer(
            configure({"channels": (8,)}),
            str(run / "photos"),
            start=Start(initial.load(tmp_path / "new"), {"source": "a"}),
        )


def test_labels_keep_their_numbers(tmp_path):
    for name, start in (("cat", 0), ("ant", 20)):
        photos(tmp_path / "animals" / name, 8, start)
        photos(tmp_path / "more" / ("dog" if name == "ant" else name), 8, start)
    photos(tmp_path / "cats" / "cat", 8)
    train(str(tmp_path / "animals"), tmp_path / "run", config=configure({**TINY, "labels": True}), **QUICK)
    start = Start(checkpoint.load(tmp_path / "run"), {"source": "run"})
    trainer = Trainer(configure({"batch_size": 8}), str(tmp_path / "cats"), "cpu", False, start=start)
    assert set(trainer.batch(0)[1].tolist()) == {1}
    assert trainer.model().classes == ("ant", "cat")
    assert (trainer.null_label, trainer.advance()["loss"] > 0) == (2, True)
    for other, words in (("more", "has classes dog that the model does not know"), ("cats/cat", "has none")):
        with pytest.raises(ValueError, match=words):
            Trainer(configure({"batch_size": 8}), str(tmp_path / other), "cpu", False, start=start)


def test_models_that_are_not_trained_on(run, tmp_path):
    network = UNet(in_channels=3, channels=(8,), attention=(False,), blocks=1, groups=4)
    for name, model, words in [
        (
            "flow",
            model_of(network, flow(), "flow", (3, 8, 8), time="1000t"),
            "counts",
        ),
        ("score", model_of(network, cosine(9), "score", (3, 8, 8)), "predicts score, not eps, x0 or v"),
        ("back", model_of(network, cosine(9), "eps", (3, 8, 8)).with_convention(reverse=True), "reverse=True"),
    ]:
        checkpoint.save(model, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} cannot be trained on: .*{words}"):
            initial.load(str(tmp_path / name))


def test_where_it_cannot_go(run, tmp_path):
    folder, source = run / "run", run / "photos"
    refused(
        invoke("train", source, "--out", folder, "--init-from", folder, "--overwrite"), "is where the weights come from"
    )
    refused(invoke("train", source, "--out", folder, "--init-from", folder, "--resume"), "leave --init-from out")
    refused(invoke("train", source, "--out", tmp_path / "new", "--init-from", source), "photos")
