"""Checkpoints of other projects: the same outputs as their layout, what was concluded is said, and nothing is run."""

import json
import pickle
import re

import pytest
import safetensors.torch
import torch

import leapstep
from commands import done, full_disk, invoke, refused, tree
from foreign_layouts import Ddim, Openai
from leapstep.cli import import_
from leapstep.models import checkpoint
from leapstep.models import importers as foreign
from leapstep.models.description import schedule_name
from leapstep.networks import NETWORKS
from pickles import Payload
from random_models import filled

F64 = torch.float64
DDIM_SIZE = {"data": {"image_size": 8}}
OPENAI_SIZE = {"image_size": 8}


def saved(path, contents):
    torch.save(contents, path)
    return path


def state_of(network, dtype=torch.float32):
    return {key: value.to(dtype) for key, value in network.state_dict().items()}


@torch.no_grad()
def assert_same(ours, theirs, channels=3, labels=None):
    """Within 1e-5 in float32, and to the last bits in float64."""
    k = torch.tensor([0, 7, 941])
    for dtype, tolerance in ((torch.float32, 1e-5), (F64, 1e-10)):
        ours.to(dtype), theirs.to(dtype)
        x = torch.randn(3, channels, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(1))
        expected = theirs(x, k) if labels is None else theirs(x, k, labels)
        size = expected.std()
        assert 0.1 < size < 100
        found = ours(x, k) if labels is None else ours(x, k, class_labels=labels)
        torch.testing.assert_close(found / size, expected / size, rtol=0, atol=tolerance)


def levels(process):
    t = torch.arange(1, process.timesteps + 1, dtype=F64) / process.timesteps
    return process.alpha(t) ** 2


# --- ddim ---


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ch_mult": (1, 2, 2), "blocks": 2, "attention": (False, True, True)},
        {"attention": (False, False), "channels": 1},
        {"convolves": False},
        {"ch_mult": (1,), "attention": (True,)},
    ],
    ids=str,
)
def test_ddim(tmp_path, options):
    theirs = filled(Ddim(**options))
    model, evidence = foreign.load(saved(tmp_path / "ckpt.pth", theirs.state_dict()), config=DDIM_SIZE)
    assert_same(model.network, theirs, options.get("channels", 3))
    assert evidence[0] == "format: ddim, told by its keys"
    assert (model.predicts, model.time, model.clip) == ("eps", "index", (-1.0, 1.0))
    assert model.shape == (options.get("channels", 3), 8, 8)


def test_a_ddim_list_holds_raw_and_averaged_weights(tmp_path):
    raw, averaged = filled(Ddim()), filled(Ddim(), seed=1)
    before = {f"module.{key}": value for key, value in raw.state_dict().items()}
    entries = [before, {"state": {}, "param_groups": []}, 3, 700]
    path = saved(tmp_path / "ckpt.pth", [*entries, dict(averaged.named_parameters())])
    model, evidence = foreign.load(path, config=DDIM_SIZE)
    assert_same(model.network, averaged)
    assert "weights: EMA, from [4], not the raw ones from [0]" in evidence
    model, evidence = foreign.load(saved(path, entries), config=DDIM_SIZE)
    assert_same(model.network, raw)
    assert "weights: raw, from [0], as there are no averaged ones" in evidence


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        ("linear", lambda a, b, n: torch.linspace(a, b, n, dtype=F64)),
        ("quad", lambda a, b, n: torch.linspace(a**0.5, b**0.5, n, dtype=F64) ** 2),
        ("const", lambda a, b, n: torch.full((n,), b, dtype=F64)),
        ("jsd", lambda a, b, n: 1 / torch.linspace(n, 1, n, dtype=F64)),
        ("sigmoid", lambda a, b, n: torch.linspace(-6, 6, n, dtype=F64).sigmoid() * (b - a) + a),
    ],
)
def test_ddim_schedules(name, betas):
    state = state_of(filled(Ddim()))
    said = {"beta_schedule": name, "beta_start": 0.001, "beta_end": "3e-2", "num_diffusion_timesteps": 50}
    model, _ = foreign.FORMATS["ddim"].read(state, {**DDIM_SIZE, "diffusion": said})
    expected = (1 - betas(0.001, 0.03, 50)).cumprod(0)
    torch.testing.assert_close(levels(model.process), expected, rtol=1e-9, atol=1e-12)


def test_what_was_assumed_is_said():
    model, evidence = foreign.FORMATS["ddim"].read(state_of(filled(Ddim())), DDIM_SIZE)
    torch.testing.assert_close(levels(model.process), levels(leapstep.linear()))
    text = "\n".join(evidence)
    assert "schedule: linear, assumed, as that project does where nothing is said" in text
    assert "--set diffusion.beta_schedule=..." in text
    assert "size of the pictures: 8, as data.image_size says" in text
    assert "attention: one head, at levels 1 of 2, told by down.*.attn" in text
    assert "model.ch_mult: (1, 2), told by down.*.block.0.conv1.weight" in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the weights do not tell the size of the pictures: give it, --set data.image_size="),
        ({"data": {"image_size": 7}}, "image_size=7 must be a multiple of 2"),
        ({"data": {"image_size": "8"}}, "image_size='8' is not of the right kind: give int"),
        ({"data": {"image_size": 8, "rescaled": False}}, "data.rescaled=False is not supported, only True"),
        ({"model": {"ch": 64}}, "model.ch is given as 64, but conv_in.weight tells 32"),
        ({"model": {"ch_mult": [1, 4]}}, r"ch_mult is given as \(1.0, 4.0\)"),
        ({**DDIM_SIZE, "model": {"resamp_with_conv": False}}, "resamp_with_conv is given as False, but"),
        ({"data": {"image_size": 8, "logit_transform": True}}, "data.logit_transform=True is not supported"),
        ({"model": {"type": "other"}}, "model.type=other is not supported"),
        ({"diffusion": {"beta_schedule": "cosine"}}, "beta_schedule=cosine is not one of linear, quad"),
        ({"diffusion": {"num_diffusion_timesteps": 0}}, "a number of noise levels lies between 1 and"),
        ({**DDIM_SIZE, "diffusion": {"beta_shedule": "quad"}}, "there is no setting diffusion.beta_shedule here"),
    ],
)
def test_settings_that_do_not_fit(config, message):
    with pytest.raises(ValueError, match=message) as error:
        foreign.FORMATS["ddim"].read(state_of(Ddim()), config)
    assert "\n" not in str(error.value)


def test_a_whole_configuration_of_that_project():
    config = {
        "data": {"dataset": "CIFAR10", "image_size": 8, "channels": 3, "logit_transform": False, "rescaled": True},
        "model": {"type": "simple", "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1,
                  "attn_resolutions": [4], "dropout": 0.1, "ema": True, "ema_rate": 0.999, "resamp_with_conv": True,
                  "var_type": "fixedlarge"},
        "diffusion": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02,
                      "num_diffusion_timesteps": 1000},
        "training": {"batch_size": 128}, "sampling": {"batch_size": 64}, "optim": {"lr": 0.0002},
    }  # fmt: skip
    model, evidence = foreign.FORMATS["ddim"].read(state_of(Ddim()) | {"logvar": torch.zeros(1000)}, config)
    assert model.network.config.dropout == 0.1
    assert not any("assumed" in line for line in evidence)
    assert any("logvar: ignored" in line for line in evidence)


# --- improved-diffusion and guided-diffusion ---


@pytest.mark.parametrize(
    ("options", "config", "form"),
    [
        ({}, {}, "improved"),
        ({"scaled": False}, {}, "improved"),
        ({"mult": (1, 2, 3), "blocks": 2, "attention": (False, True, True)}, {}, "improved"),
        ({"heads": 2, "outputs": 6}, {"num_heads": 2, "learn_sigma": True}, "improved"),
        ({"resample": "plain", "channels": 1, "outputs": 1}, {}, "improved"),
        ({"classes": 4, "by_kind": True}, {"use_new_attention_order": True, "class_cond": True}, "improved"),
        ({"resample": "resnet", "heads": -16, "blocks": 2}, {"num_head_channels": 16}, "guided"),
        (
            {"resample": "resnet", "heads": -32, "by_kind": True, "scaled": False, "mult": (1, 1, 2), "classes": 3,
             "attention": (True, False, True), "outputs": 6},
            {"num_head_channels": 32, "use_new_attention_order": True, "channel_mult": "1,1,2"},
            "guided",
        ),
        ({"mult": (1,), "attention": (False,), "blocks": 2}, {}, "improved"),
        ({"width": 64, "mult": (0.5, 1)}, {"channel_mult": "0.5,1"}, "improved"),
        ({"rescale": 4000}, {"diffusion_steps": 4000, "rescale_timesteps": True}, "improved"),
    ],
    ids=lambda value: str(value),
)  # fmt: skip
def test_openai(tmp_path, options, config, form):
    theirs = filled(Openai(**options))
    model, evidence = foreign.load(saved(tmp_path / "ema.pt", theirs.state_dict()), config=OPENAI_SIZE | config)
    classes = options.get("classes")
    labels = torch.tensor([0, 2, 1]) if classes else None
    assert_same(model.network, theirs, options.get("channels", 3), labels)
    assert evidence[0] == f"format: {form}-diffusion, told by its keys"
    assert model.classes == tuple(map(str, range(classes or 0)))
    assert model.shape == (options.get("channels", 3), 8, 8)


def test_the_wrong_number_of_heads_or_order_is_another_network(tmp_path):
    theirs = filled(Openai())
    path = saved(tmp_path / "ema.pt", theirs.state_dict())
    for wrong in ({"num_heads": 1}, {"use_new_attention_order": True}):
        model, _ = foreign.load(path, config=OPENAI_SIZE | wrong)
        with pytest.raises(AssertionError, match="not close"):
            assert_same(model.network, theirs.float())


@pytest.mark.parametrize(
    ("name", "process"), [("linear", leapstep.linear(400)), ("cosine", leapstep.cosine(400))], ids=["linear", "cosine"]
)
def test_openai_schedules_and_conventions(name, process):
    config = OPENAI_SIZE | {"noise_schedule": name, "diffusion_steps": 400, "predict_xstart": True}
    state = state_of(filled(Openai()))
    improved, evidence = foreign.FORMATS["improved-diffusion"].read(state, config)
    guided, _ = foreign.FORMATS["guided-diffusion"].read(state, config)
    torch.testing.assert_close(levels(improved.process), levels(process))
    assert improved.predicts == "x0"
    assert (improved.network.config.time_scale, guided.network.config.time_scale) == (2.5, 1.0)
    assert any(line.startswith("timesteps rescaled to 1000: True, assumed") for line in evidence)
    assert any(line.startswith("attention heads: 4, assumed") for line in evidence)


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({}, {}, "do not tell the size of the pictures: give it, --set image_size"),
        ({}, OPENAI_SIZE | {"num_heads": 5}, r"num_heads=5 does not divide the attention's channels \[64\]"),
        ({}, OPENAI_SIZE | {"num_head_channels": 48}, "num_head_channels=48 does not divide"),
        ({}, OPENAI_SIZE | {"num_heads_upsample": 2}, "num_heads_upsample=2 is not supported, only -1 or 4"),
        ({}, OPENAI_SIZE | {"noise_schedule": "x"}, "use linear or cosine"),
        ({}, OPENAI_SIZE | {"learn_sigma": True}, "learn_sigma is given as True, but out.2.weight tells False"),
        ({}, OPENAI_SIZE | {"channel_mult": "1,x"}, "channel_mult='1,x' is not a list of numbers"),
        ({"channels": 6}, OPENAI_SIZE, r"6 channels in, 3 out \(super-resolution\?\) are not supported"),
        ({"outputs": 4}, OPENAI_SIZE, "only as many or twice as many"),
    ],
)
def test_openai_settings_that_do_not_fit(options, config, message):
    with pytest.raises(ValueError, match=message) as error:
        foreign.FORMATS["improved-diffusion"].read(state_of(Openai(**options)), config)
    assert "\n" not in str(error.value)


def test_relatives_are_refused_by_name():
    state = state_of(Openai())
    key = "input_blocks.1.0.in_layers.2.weight"
    for change, message in [
        ({name: value for name, value in state.items() if not name.startswith("output")}, "this is a classifier"),
        (state | {"input_blocks.2.1.transformer_blocks.0.attn1.to_q.weight": torch.ones(2)}, "with cross-attention"),
        (state | {"input_blocks.0.0.weight": torch.ones(32, 3, 3)}, "not for pictures"),
        (
            state | {"input_blocks.0.0.weight": torch.ones(16, 3, 3, 3)},
            "first level of 32 channels after a convolution",
        ),
        (
            {name: value for name, value in state.items() if name != key},
            "first are nothing for down_blocks.0.resnets.0.conv1",
        ),
        (state | {"input_blocks.1.0.extra.weight": torch.ones(2)}, "first are input_blocks.1.0.extra.weight"),
        (state | {key: torch.ones(32, 32, 1, 1)}, rf"{key} did not fit: it is \[32, 32, 1, 1\], where"),
        (state | {"middle_block.1.qkv.weight": torch.ones(7, 64, 1)}, "middle_block.1.qkv.weight did not fit"),
        ({name: value for name, value in state.items() if name != "out.2.weight"}, "the key 'out.2.weight' is missing"),
    ]:
        with pytest.raises(ValueError, match=message):
            foreign.FORMATS["guided-diffusion"].read(change, OPENAI_SIZE)


# --- containers ---


@pytest.mark.parametrize("ema", ["ema", "ema_model", "model_ema"])
@pytest.mark.parametrize("raw", ["model", "state_dict"])
def test_averaged_weights_come_first(tmp_path, ema, raw):
    averaged, other = state_of(filled(Ddim(), 1)), state_of(filled(Ddim()))
    for contents, expected in [
        ({raw: other, ema: averaged, "step": 3}, averaged),
        ({raw: other, ema: {f"module.{key}": value for key, value in averaged.items()}}, averaged),
        ({raw: {f"_orig_mod.module.{key}": value for key, value in other.items()}, "optimizer": {}}, other),
    ]:
        state, _ = foreign.choose(contents, tmp_path / "model.pt")
        assert set(state) == set(expected)
        assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_a_prefix_on_all_keys_is_left_out_and_named(tmp_path):
    theirs = filled(Ddim())
    plain, _ = foreign.load(saved(tmp_path / "plain.pt", state_of(theirs)), config=DDIM_SIZE)
    for before in ("model.", "net.denoiser."):
        path = saved(tmp_path / "model.pt", {f"{before}{key}": value for key, value in state_of(theirs).items()})
        model, evidence = foreign.load(path, config=DDIM_SIZE)
        assert f"keys: without {before}, with which all of them begin" in evidence
        torch.testing.assert_close(model.network.state_dict(), plain.network.state_dict(), rtol=0, atol=0)


def test_the_averages_of_a_wrapper():
    averaged = {"a.weight": torch.ones(2), "a.bias": torch.zeros(1)}
    wrapped = {f"ema_model.{key}": value for key, value in averaged.items()}
    wrapped |= {"online_model.a.weight": torch.zeros(2), "initted": torch.tensor(True), "step": torch.tensor(4)}
    for contents in ({"model": {"a.weight": torch.zeros(2), "a.bias": torch.ones(1)}, "ema": wrapped}, wrapped):
        state, evidence = foreign.choose(contents, None)
        assert set(state) == set(averaged)
        assert all(torch.equal(state[key], value) for key, value in averaged.items())
        assert evidence[0].startswith("weights: EMA")


def test_raw_weights_beside_averaged_ones_are_pointed_out(tmp_path):
    state = state_of(filled(Openai()))
    (tmp_path / "ema_0.9999_000100.pt").touch()
    _, evidence = foreign.load(saved(tmp_path / "model000100.pt", state), config=OPENAI_SIZE)
    assert "ema_0.9999_000100.pt beside it EMA: prefer that one" in evidence[1]
    _, evidence = foreign.load(saved(tmp_path / "model000200.pt", state), config=OPENAI_SIZE)
    assert evidence[1] == "weights: the only ones in the file"


def test_safetensors_and_old_pickles(tmp_path):
    theirs = filled(Ddim())
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("model.safetensors", "old.pth"):
        assert_same(foreign.load(tmp_path / name, config=DDIM_SIZE).model.network, theirs.float())


@pytest.mark.parametrize("old", [False, True])
def test_the_payload_of_a_pickle_does_not_run(tmp_path, old):
    bad = tmp_path / "model.pt"
    state = state_of(Ddim()) | {"hook": Payload(tmp_path / "ran")}
    for contents in (state, {"model": state}, [state, {}, 1, 2]):
        torch.save(contents, bad, _use_new_zipfile_serialization=not old)
        with pytest.raises(ValueError, match=r"holds code or objects \(.*open\), which were not run") as error:
            foreign.load(bad, config=DDIM_SIZE)
        assert "torch.save(model.state_dict(), ...)" in str(error.value)
        assert "\n" not in str(error.value)
    for protocol in (0, 2, 4):
        bad.write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol))
        refused(invoke("import", bad, "--out", tmp_path / "run"), r"model.pt holds code or objects \((io|_io).open\)")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


def test_a_whole_module_is_not_unpickled(tmp_path):
    with pytest.raises(ValueError, match=r"foreign_layouts.Ddim.*save the weights alone"):
        foreign.load(saved(tmp_path / "model.pt", Ddim()))


def test_broken_and_unknown_files(tmp_path):
    whole = saved(tmp_path / "model.pt", state_of(Ddim())).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n")
    other = {f"layer{number}.weight": torch.ones(2) for number in range(9)}
    for path, message in [
        (tmp_path / "none.pt", "there is no checkpoint"),
        (tmp_path / "cut.pt", "truncated"),
        (tmp_path / "empty.pt", "empty.pt is empty: copy or download it again"),
        (pointer, "pointer.safetensors is a Git LFS pointer, .*run `git lfs pull`"),
        (tmp_path / "cut.safetensors", "truncated or not a safetensors"),
        (saved(tmp_path / "other.pt", other), "first keys that did not fit are layer0.weight, layer1.weight, layer2"),
        (
            saved(tmp_path / "ldm.ckpt", {"first_stage_model.a": torch.ones(2)}),
            "latent diffusion model .* not supported",
        ),
        (saved(tmp_path / "tensor.pt", torch.ones(2)), "holds a Tensor, not a state dict"),
        (saved(tmp_path / "list.pt", [1, 2]), "only a list of 2"),
        (saved(tmp_path / "nothing.pt", {"epoch": 3, "best": 0.1}), "only epoch, best"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            foreign.load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown format 'x': use auto, diffusers, ddim"):
        foreign.load(tmp_path / "model.pt", "x")
    with pytest.raises(ValueError, match="of none of the layouts lucidrains: the first keys that did not fit"):
        foreign.load(tmp_path / "model.pt", "lucidrains")
    with pytest.raises(ValueError, match="only diffusers saves models as folders, not ddim"):
        foreign.load(tmp_path, "ddim")


# --- the command ---


def test_the_command_names_all_formats():
    assert import_.FORMATS.split(" | ") == ["auto", *foreign.FORMATS]
    assert all(re.fullmatch(checkpoint.IMPORTED.names, name) for name in NETWORKS)


def test_from_a_file_to_samples_and_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    theirs = filled(Ddim(blocks=1))
    saved(tmp_path / "ckpt.pth", [state_of(filled(Ddim(), 1)), {}, 1, 2, theirs.state_dict()])
    (tmp_path / "cifar.yml").write_text("data:\n  image_size: 8\ndiffusion:\n  beta_schedule: quad\n")
    run = tmp_path / "run"
    result = done("import", tmp_path / "ckpt.pth", "--config", tmp_path / "cifar.yml", "--out", run)
    assert "weights: EMA, from [4], not the raw ones from [0]" in result.stdout
    assert "schedule: quad, as diffusion.beta_schedule says" in result.stdout
    assert {path.suffix for path in run.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    assert_same(checkpoint.load(run).network, theirs)
    pipeline = diffusers.DDPMPipeline.from_pretrained(run)
    x, k = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(x, k).sample, theirs.float()(x, k), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        pipeline.scheduler.alphas_cumprod.double(), levels(leapstep.quadratic()), rtol=1e-4, atol=1e-6
    )
    facts = json.loads(done("info", run, "--json").stdout)
    assert facts["imported_from"] == "ckpt.pth"
    assert "format: ddim, told by its keys" in facts["evidence"]
    lines = [line.strip() for line in done("info", run).stdout.splitlines()]
    assert "evidence        format: ddim, told by its keys" in lines
    assert "schedule: quad, as diffusion.beta_schedule says" in lines
    done("sample", run, "--n", "2", "--steps", "2", "--out", tmp_path / "samples")
    assert (tmp_path / "samples" / "00001.png").exists()


@pytest.mark.parametrize("resample", ["conv", "resnet", "plain"])
def test_a_learned_variance_and_labels_through_the_command(tmp_path, resample):
    diffusers = pytest.importorskip("diffusers")
    theirs = filled(Openai(outputs=6, classes=3, resample=resample))
    saved(tmp_path / "ema.pt", theirs.state_dict())
    (tmp_path / "flags.txt").write_text(
        "--image_size 8 --diffusion_steps=1000 --use_fp16 False --noise_schedule cosine"
    )
    run = tmp_path / "run"
    done("import", tmp_path / "ema.pt", "--config", tmp_path / "flags.txt", "--set", "num_heads=4", "--out", run)
    model, labels = checkpoint.load(run), torch.tensor([2, 0, 1])
    assert_same(model.network, theirs, labels=labels)
    torch.testing.assert_close(levels(model.process), levels(leapstep.cosine()))
    diffusion = model.diffusion(labels[:2], dtype=torch.float64)
    learned = diffusion.estimate(torch.randn(2, 3, 8, 8, dtype=F64), torch.tensor(0.5)).learned
    assert learned.shape == (2, 3, 8, 8)
    x, k = torch.randn(3, 3, 8, 8), torch.tensor([3, 900, 5])
    assert (run / "model_index.json").exists() == (resample != "plain")
    if resample == "plain":
        return
    pipeline = diffusers.DDPMPipeline.from_pretrained(run)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    with torch.no_grad():
        expected = theirs.float()(x, k, labels)
        torch.testing.assert_close(pipeline.unet(x, k, class_labels=labels).sample, expected, rtol=1e-4, atol=1e-4)
    args = ("--label", "1", "--n", "2", "--steps", "2", "--method", "ddpm", "--out", tmp_path / "samples")
    done("sample", run, *args, "--set", "variance=learned")


def test_what_is_there_is_not_lost(tmp_path):
    path = saved(tmp_path / "ckpt.pth", state_of(filled(Ddim())))
    run, args = tmp_path / "run", ("--set", "data.image_size=8")
    done("import", path, *args, "--out", run)
    before = tree(run)
    refused(invoke("import", path, *args, "--out", run), "exists and is not empty: --overwrite")
    refused(invoke("import", path, "--out", run, "--overwrite"), "size of the pictures")
    assert tree(run) == before
    done("import", saved(path, state_of(filled(Ddim(), 1))), *args, "--out", run, "--overwrite")
    assert tree(run) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(invoke("import", path, *args, "--out", tmp_path / "mine", "--overwrite"), "holds something else")


@pytest.mark.parametrize("after", range(5))
def test_an_import_that_a_full_disk_ended_is_repeated(tmp_path, monkeypatch, after):
    path = saved(tmp_path / "ckpt.pth", state_of(filled(Ddim())))
    args = ("import", path, "--set", "data.image_size=8", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        refused(invoke(*args), "No space left on device")
    if after == 0:  # nothing was written
        assert not (tmp_path / "run").exists()
    else:
        refused(invoke(*args), "exists and is not empty: --overwrite it")
    done(*args, "--overwrite")
    done("info", tmp_path / "run")


def test_training_over_an_imported_model_leaves_nothing_of_it(tmp_path):
    """A folder of another network would be preferred to the trained one when the run is loaded."""
    for name in NETWORKS:
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.json").write_text("{}")
    (tmp_path / "run" / "leapstep.json").write_text('{"imported": {}}')
    (tmp_path / "run" / "calibration.json").write_text("{}")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    tiny = "--channels 8 --attention 0 --groups 4 --blocks 1 --batch-size 8 --steps 1 --device cpu".split()  # noqa: SIM905
    done("train", "digits", "--out", tmp_path / "run", "--overwrite", *tiny)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("unet", "scheduler", "state", "samples", "log", "model_index.json", "leapstep.json"),
        "notes.txt",
    }
    assert type(leapstep.load(tmp_path / "run").network) is NETWORKS["unet"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML, JSON or flags"),
        ("!!python/object/apply:os.system ['true']", "is not YAML, JSON or flags"),
        ("- 1", "holds a list where settings by name are expected"),
        ("--a 1 --b", "flags must be pairs"),
    ],
)
def test_wrong_configurations(tmp_path, text, message):
    path = saved(tmp_path / "ckpt.pth", state_of(Ddim()))
    (tmp_path / "config").write_text(text)
    refused(invoke("import", path, "--config", tmp_path / "config", "--out", tmp_path / "run"), message)
    refused(invoke("import", path, "--config", tmp_path / "none", "--out", tmp_path / "run"), "no configuration")
    for wrong, said in [("a", "write it as NAME=VALUE"), ("=3", "write it as")]:
        refused(invoke("import", path, "--set", wrong, "--out", tmp_path / "run"), said)
    both = ("--set", "data=3", "--set", "data.image_size=8")
    refused(invoke("import", path, *both, "--out", tmp_path / "run"), "data is not a section")


# --- diffusers ---


def pipeline_folder(path):
    diffusers = pytest.importorskip("diffusers")
    network = filled(
        diffusers.UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
            norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="leading", clip_sample=False)
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(path)
    return network


def test_a_diffusers_folder_and_its_weights_alone(tmp_path):
    network = pipeline_folder(tmp_path / "pipeline")
    done("import", tmp_path / "pipeline", "--out", tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert (loaded.predicts, loaded.clip, loaded.spacing) == ("v", None, "leading")
    weights = tmp_path / "weights.bin"
    torch.save(network.state_dict(), weights)
    config = tmp_path / "pipeline" / "unet" / "config.json"
    done("import", weights, "--config", config, "--out", tmp_path / "alone")
    x, k = torch.randn(2, 3, 8, 8), torch.tensor([0, 999])
    for run in ("run", "alone"):
        with torch.no_grad():
            found = checkpoint.load(tmp_path / run).network(x, k)
            torch.testing.assert_close(found, network(x, k).sample, rtol=1e-4, atol=1e-4)
    assert checkpoint.load(tmp_path / "alone").predicts == "eps"
    both = {**json.loads(config.read_text()), "scheduler": {"num_train_timesteps": 50, "beta_schedule": "linear"}}
    assert foreign.load(weights, config=both).model.process.timesteps == 50
    for args, message in [
        ((weights,), "weights of diffusers need their config.json"),
        ((weights, "--set", "block_out_channels=[8]"), "the configuration: it lacks 'in_channels'"),
        ((tmp_path / "pipeline", "--set", "a=3"), "has a configuration of its own|configuration of its own"),
    ]:
        refused(invoke("import", *args, "--out", tmp_path / "no"), message)


def test_a_network_without_its_pipeline(tmp_path):
    network, folder, run = pipeline_folder(tmp_path / "pipeline"), tmp_path / "alone", tmp_path / "run"
    network.save_pretrained(folder)
    refused(invoke("info", folder), f"leapstep import {folder} --out RUN")
    said = done("import", folder, "--set", "scheduler.prediction_type=v_prediction", "--out", run).stdout
    assert "prediction: v_prediction, as scheduler.prediction_type says" in said
    assert "noise levels: 1000, assumed" in said
    assert "betas: linear, assumed" in said
    loaded = checkpoint.load(run)
    assert (loaded.predicts, loaded.process.timesteps) == ("v", 1000)
    x, k = torch.randn(2, 3, 8, 8), torch.tensor([0, 999])
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x, k), network(x, k).sample, rtol=1e-4, atol=1e-4)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    refused(invoke("import", folder, "--out", tmp_path / "no"), "is not a model")


def test_settings_of_diffusers_that_are_typed_must_be_known(tmp_path):
    pipeline_folder(tmp_path / "pipeline")
    unet = tmp_path / "pipeline" / "unet"
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps({**config, "an_extra": 3}))  # of another version of diffusers
    for setting, message in [
        ("bogus=3", "there is no setting bogus here: use one of in_channels"),
        (
            "scheduler.prediction_typ=sample",
            "no setting scheduler.prediction_typ here: use one of scheduler.prediction_",
        ),
        ("scheduler=sample", "scheduler is sample: give the content of scheduler_config.json, or one setting of it"),
        ("scheduler.num_train_timesteps=many", "num_train_timesteps='many' is not of the right kind"),
    ]:
        refused(invoke("import", unet, "--set", setting, "--out", tmp_path / "no"), message)
    said = done("import", unet, "--set", "scheduler.clip_sample=false", "--out", tmp_path / "run").stdout
    assert "followed as well: scheduler.clip_sample" in said
    assert checkpoint.load(tmp_path / "run").clip is None


def test_samples_take_the_spacing_of_the_checkpoint(tmp_path):
    pipeline_folder(tmp_path / "pipeline")
    for extra, spacing in [((), "leading"), (("--spacing", "quad"), "quad")]:
        out = tmp_path / spacing
        done("sample", tmp_path / "pipeline", "--n", "1", "--steps", "2", *extra, "--out", out)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["spec"]["spacing"] == spacing
        assert manifest["times"] == leapstep.times(leapstep.linear(), 2, spacing).tolist()
        trace = tmp_path / f"{spacing}-trace"
        done("trace", tmp_path / "pipeline", "--steps", "2", "--consistency", "2", *extra, "--out", trace)
        traced = json.loads(next(trace.glob("*.json")).read_text())
        assert traced["spec"]["spacing"] == spacing


def test_info_names_the_conventions(tmp_path):
    model = foreign.FORMATS["ddim"].read(state_of(filled(Ddim())), DDIM_SIZE).model
    flow = model.with_convention(process=leapstep.flow(), predicts="flow", time="1000t", spacing="quad")
    checkpoint.save(flow, tmp_path / "run")
    facts = json.loads(done("info", tmp_path / "run", "--json").stdout)
    assert (facts["time"], facts["predicts"], facts["spacing"]) == ("1000t", "flow", "quad")
    assert facts["process"] == {"name": "flow", "timesteps": None, "shift": 1.0}
    assert "name flow" in done("info", tmp_path / "run").stdout


@pytest.mark.parametrize(
    ("process", "name"),
    [
        (leapstep.linear(50), "linear"),
        (leapstep.cosine(), "cosine"),
        (leapstep.rescale_zero_terminal_snr(leapstep.scaled_linear()), "scaled_linear, rescaled to zero terminal SNR"),
        (leapstep.linear(1000, 0.0015, 0.0195), "linear, betas from 0.0015 to 0.0195"),
        (leapstep.scaled_linear(1000, 0.0015, 0.0195), "scaled_linear, betas from 0.0015 to 0.0195"),
        (leapstep.from_betas([0.1, 0.3, 0.2, 0.4]), "without a name, betas from 0.1 to 0.4"),
        (leapstep.flow(), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_info_names_the_schedule(process, name):
    assert schedule_name(process) == name


def test_info_of_a_folder_of_diffusers(tmp_path):
    pipeline_folder(tmp_path / "pipeline")
    assert "noise schedule  linear\n" in done("info", tmp_path / "pipeline").stdout
