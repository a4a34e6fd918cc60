"""Run folders: diffusers opens ours, we open theirs, and nothing on disk can be lost or do harm."""

import dataclasses
import errno
import json
import pickle
import shutil

import pytest
import safetensors.torch
import torch

import leapstep
from leapstep import files
from leapstep.core.convention import DynamicThreshold
from leapstep.core.scaling import Scaling
from leapstep.models import checkpoint
from leapstep.models import diffusers as diffusers_format
from leapstep.networks import MLP, UNet
from pickles import Payload
from random_models import changed, filled, model_of

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers

CHANNELS = {"channels": (8, 16), "attention": (False, True), "blocks": 1, "groups": 4}


def model(process=None, **settings):
    network = filled(UNet(in_channels=3, **CHANNELS))
    return model_of(network, process or leapstep.linear(), **{"predicts": "eps", "shape": (3, 8, 8), **settings})


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(model(), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def alien(folder):
    """The same as diffusers leaves it, whose scheduler is all that it says of the network."""
    (folder / "leapstep.json").unlink()
    return folder


# --- to and from diffusers ---


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "quadratic", "cosine", "sigmoid", "exponential"])
def test_diffusers_opens_what_we_save(tmp_path, name, predicts):
    process = leapstep.SCHEDULES[name](100)
    ours = model(process, predicts=predicts)
    checkpoint.save(ours, tmp_path / "run")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "run")
    x, k = torch.randn(2, 3, 8, 8), torch.tensor([3, 70])
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(x, k).sample, ours.network(x, k), rtol=1e-4, atol=1e-5)
    alphas = process.alpha(torch.arange(1, 101, dtype=torch.float64) / 100) ** 2
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), alphas, rtol=1e-3, atol=1e-6)
    assert pipeline.scheduler.config.prediction_type == diffusers_format.PREDICTION_TYPES[predicts]
    assert pipeline.scheduler.config.clip_sample
    assert pipeline.scheduler.config.clip_sample_range == 1
    image = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (8, 8, 3)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("settings", [{"predicts": "eps"}, {"predicts": "v", "clip": None}])
def test_what_we_save_we_load(tmp_path, name, settings):
    saved = model(leapstep.rescale_zero_terminal_snr(leapstep.SCHEDULES[name](50)), **settings)
    if settings["predicts"] == "eps":
        saved = model(leapstep.SCHEDULES[name](50), **settings)
    checkpoint.save(dataclasses.replace(saved, details={"step": 7}), tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    torch.testing.assert_close(loaded.process.alpha(t), saved.process.alpha(t), rtol=1e-9, atol=1e-12)
    assert (loaded.predicts, loaded.shape, loaded.clip) == (saved.predicts, saved.shape, saved.clip)
    assert loaded.details == {"step": 7}
    assert checkpoint.fingerprint(loaded.network) == checkpoint.fingerprint(saved.network)
    assert not loaded.network.training


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {"beta_schedule": "sigmoid", "clip_sample": False},
        {"num_train_timesteps": 50, "beta_end": 0.3},
        {"num_train_timesteps": 50, "beta_schedule": "sigmoid"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample", "clip_sample_range": 2.0},
        {"trained_betas": [0.1, 0.2, 0.4], "num_train_timesteps": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
def test_we_open_what_diffusers_saves(tmp_path, settings, scheduler):
    if scheduler == "DDIMScheduler" and settings.get("beta_schedule") == "sigmoid":
        pytest.skip("diffusers has no sigmoid schedule for DDIM")
    network = filled(
        diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
            norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    ).eval()  # fmt: skip
    theirs = getattr(diffusers, scheduler)(**settings)
    diffusers.DDPMPipeline(network, theirs).save_pretrained(tmp_path / "pipeline")
    loaded = checkpoint.load(tmp_path / "pipeline")
    timesteps = theirs.config.num_train_timesteps
    t = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps
    torch.testing.assert_close(loaded.process.alpha(t) ** 2, theirs.alphas_cumprod.double(), rtol=2e-3, atol=1e-6)
    assert diffusers_format.PREDICTION_TYPES[loaded.predicts] == theirs.config.prediction_type
    limit = theirs.config.clip_sample_range
    assert loaded.clip == ((-limit, limit) if theirs.config.clip_sample else None)
    assert loaded.shape == (1, 8, 8)
    x, k = torch.randn(2, 1, 8, 8), torch.tensor([0, timesteps - 1])
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x, k), network(x, k).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "clip"),
    [
        ({"_class_name": "PNDMScheduler", "clip_sample": ...}, None),
        ({"_class_name": "DDIMScheduler", "clip_sample": ...}, (-1.0, 1.0)),
        ({"clip_sample": False}, None),
        ({"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0}, "dynamic"),
    ],
)
def test_clipping_is_that_of_the_scheduler(alien, change, clip):
    path = alien / "scheduler" / "scheduler_config.json"
    config = {key: value for key, value in {**json.loads(path.read_text()), **change}.items() if value is not ...}
    path.write_text(json.dumps(config))
    loaded = checkpoint.load(alien).clip
    if clip == "dynamic":
        x0 = torch.linspace(-9, 9, 101)[None]
        torch.testing.assert_close(loaded(x0), DynamicThreshold(0.9, most=2.0)(x0))
    else:
        assert loaded == clip


@pytest.mark.parametrize(
    "name", ["PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "EulerDiscrete",
             "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "DDPMParallel", "DDIMParallel"]
)  # fmt: skip
def test_other_schedulers_of_diffusers_say_the_same(alien, name):
    theirs = getattr(diffusers, f"{name}Scheduler")(beta_schedule="scaled_linear", prediction_type="v_prediction")
    theirs.register_to_config(timestep_spacing="linspace")
    theirs.save_pretrained(alien / "scheduler")
    loaded = checkpoint.load(alien)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(loaded.process.alpha(t) ** 2, theirs.alphas_cumprod.double(), rtol=2e-3, atol=1e-6)
    assert (loaded.predicts, loaded.time, loaded.spacing) == ("v", "index", "linspace")
    assert loaded.clip == ((-1.0, 1.0) if name in ("DDPMParallel", "DDIMParallel") else None)


@pytest.mark.parametrize(
    ("settings", "spacing"),
    [({"use_karras_sigmas": True}, "karras"), ({"use_exponential_sigmas": True}, "log_snr"), ({}, "leading")],
)
def test_the_spacing_of_the_scheduler(alien, settings, spacing):
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="leading", **settings)
    scheduler.save_pretrained(alien / "scheduler")
    assert checkpoint.load(alien).spacing == spacing
    config = {key: value for key, value in scheduler.config.items() if key not in ("timestep_spacing", *settings)}
    assert diffusers_format.from_scheduler({**config, "_class_name": "DDIMScheduler"}).spacing is None


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "DDIMScheduler"])
def test_the_configuration_of_a_scheduler_that_was_made_in_memory(kind):
    """It names no class: x0 is clipped only where it says so."""
    scheduler = getattr(diffusers, kind)()
    assert "_class_name" not in scheduler.config
    named = {**scheduler.config, "_class_name": kind}
    assert diffusers_format.from_scheduler(scheduler.config).clip == diffusers_format.from_scheduler(named).clip


def test_flow_matching(alien):
    """Its network is told 1000 t and predicts eps - x0."""
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(alien / "scheduler")
    loaded, seen = checkpoint.load(alien), []
    loaded.network.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        x0 = loaded.diffusion().denoise(x, torch.tensor(0.25))
        torch.testing.assert_close(x0, x - 0.25 * loaded.network(x, 250.0))
    assert seen[0].tolist() == [250.0]
    checkpoint.save(loaded, alien.parent / "again")
    assert checkpoint.load(alien.parent / "again").time == "1000t"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "KarrasVeScheduler"}, "the scheduler KarrasVeScheduler is not one of DDPMScheduler"),
        ({"variance_type": "learned"}, "variance_type='learned' is not supported, only fixed_small"),
        ({"use_flow_sigmas": True, "prediction_type": "epsilon"}, "prediction_type='epsilon' is not supported"),
        ({"prediction_type": "flow"}, "prediction_type 'flow' is not one of epsilon, sample, v_prediction"),
        ({"timestep_spacing": "odd"}, "timestep_spacing='odd' is not supported, only trailing or leading or linspace"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "'sample' is not one of epsilon, v_pred"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 9}, "num_train_timesteps=9"),
    ],
)
def test_schedulers_that_are_not_understood(config, message):
    base = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}
    with pytest.raises(ValueError, match=message):
        diffusers_format.from_scheduler(base | config)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
@pytest.mark.parametrize("steps", [5, 20])
def test_samples_are_those_of_diffusers_ddim(folder, eta, predicts, steps):
    """Same weights, start noise, injected noise and timesteps; step counts that divide T, where diffusers is right."""
    loaded = changed(checkpoint.load(folder), predicts=predicts)
    scheduler = diffusers.DDIMScheduler(
        prediction_type=diffusers_format.PREDICTION_TYPES[predicts], timestep_spacing="trailing", set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    noise = leapstep.Noise(1, range(2), (3, 8, 8))
    x = noise(0)
    path = leapstep.times(loaded.process, steps)
    assert [round(1000 * t) - 1 for t in path[:-1].tolist()] == scheduler.timesteps.tolist()
    with torch.no_grad():
        *_, ours = leapstep.trajectory(loaded.diffusion(), x, path, leapstep.ddim(eta), noise)
        for step, k in enumerate(scheduler.timesteps, start=1):
            value = loaded.network(x, k)
            x = scheduler.step(
                value, k, x, eta=eta, use_clipped_model_output=True, variance_noise=noise(step)
            ).prev_sample
    torch.testing.assert_close(ours.x, x, rtol=1e-3, atol=1e-4)


def test_an_mlp_keeps_its_units_and_classes(tmp_path):
    network = filled(MLP(shape=(5,), width=16, depth=1, classes=3))
    details = {"data": {"scaling": {"shift": 7.0, "scale": 3.0}, "classes": ["a", "b"]}, "null_label": 2}
    saved = model_of(network, leapstep.cosine(), "v", (5,), Scaling(7.0, 3.0), None, ("a", "b"), 2, details)
    checkpoint.save(saved, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert not (tmp_path / "run" / "model_index.json").exists()
    assert (loaded.scaling, loaded.classes, loaded.null_label, loaded.clip) == (Scaling(7.0, 3.0), ("a", "b"), 2, None)
    assert not loaded.is_pictures
    assert checkpoint.fingerprint(loaded.network) == checkpoint.fingerprint(network)


# --- labels and guidance ---


@pytest.fixture
def labelled():
    network = filled(MLP(shape=(2,), width=16, depth=1, classes=4))
    return model_of(network, leapstep.cosine(), "v", (2,), Scaling(0, 1), None, ("a", "b", "c"), null_label=3)


def test_labels_reach_the_network_and_guidance_extrapolates(labelled):
    x, t, labels = torch.randn(3, 2), torch.tensor(0.5), torch.tensor([2, 0, 1])
    free = labelled.diffusion().denoise(x, t)
    conditional = labelled.diffusion(labels).denoise(x, t)
    assert not torch.allclose(free, conditional)
    torch.testing.assert_close(labelled.diffusion(torch.zeros(3).long()).denoise(x, t)[1], conditional[1])
    guided = labelled.diffusion(labels, guidance=2.5).denoise(x, t)
    torch.testing.assert_close(guided, free + 2.5 * (conditional - free), rtol=1e-4, atol=1e-5)
    bounded = changed(labelled, clip=(-0.1, 0.1)).diffusion(labels, guidance=2.5).denoise(x, t)
    torch.testing.assert_close(bounded, guided.clamp(-0.1, 0.1))


def test_wrong_labels(labelled):
    always = changed(labelled, null_label=None)
    plain = changed(labelled, classes=(), null_label=None)
    for action, message in [
        (lambda: labelled.diffusion(torch.tensor([3])), r"between 0 and 2 \(a, b, c\)"),
        (lambda: labelled.diffusion(torch.tensor([-1])), "between 0 and 2"),
        (lambda: labelled.diffusion(guidance=2.0), "needs a label"),
        (lambda: always.diffusion(), "pass a label from 0 to 2"),
        (lambda: always.diffusion(torch.tensor([0]), 2.0), "some labels dropped"),
        (lambda: plain.diffusion(torch.tensor([0])), "trained without labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            action()


# --- broken and hostile files ---


def test_pickles_load_tensors_only(folder, tmp_path):
    weights = folder / "unet" / checkpoint.WEIGHTS
    before = checkpoint.fingerprint(checkpoint.load(folder).network)
    pickled = weights.with_suffix(".bin")
    torch.save(safetensors.torch.load_file(weights), pickled)
    weights.unlink()
    assert checkpoint.fingerprint(checkpoint.load(folder).network) == before
    torch.save({"conv_in.weight": Payload(tmp_path / "ran")}, pickled)
    with pytest.raises(ValueError, match="was not loaded: it holds more than tensors"):
        checkpoint.load(folder)
    pickled.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ValueError, match="was not loaded"):
        checkpoint.load(folder)
    assert not (tmp_path / "ran").exists()


def test_no_pickle_is_written(folder):
    checkpoint.save_state(folder, 3, {"a": torch.ones(2)}, {"b": 1})
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights(folder, size):
    path = folder / "unet" / checkpoint.WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"safetensors (is empty|cannot be read \(.*truncated)"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", "{", "is not JSON"),
        ("unet/config.json", "[]", "holds a list where a JSON object is expected"),
        ("unet/config.json", {"block_out_channels": ...}, "block_out_channels"),
        ("unet/config.json", {"block_out_channels": None}, "block_out_channels is null: input should be a valid array"),
        ("unet/config.json", {"sample_size": None}, "sample_size is None"),
        ("unet/config.json", {"act_fn": "gelu"}, "act_fn"),
        ("unet/config.json", {"block_out_channels": [8, 12]}, "does not fit its config.json: .* is"),
        ("unet/config.json", {"layers_per_block": 2}, "does not fit its config.json: .* keys did not fit"),
        ("scheduler/scheduler_config.json", "nonsense", "is not JSON"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": ...}, "lacks 'num_train_timesteps'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "'flow' is not one of epsilon, sample"),
        ("scheduler/scheduler_config.json", {"trained_betas": None, "beta_schedule": "x"}, "'x' is not one of linear"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.5, 7]}, "betas must be"),
        ("scheduler/scheduler_config.json", None, "is missing"),
        ("leapstep.json", "", "is not JSON"),
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "another kind, DDPMPipeline, with vqvae"),
        ("unet/" + checkpoint.WEIGHTS, None, "has no weights"),
        ("unet/config.json", None, "is not a model"),
    ],
)
def test_broken_folders(folder, file, change, message):
    path = folder / file
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        config = {key: value for key, value in {**json.loads(path.read_text()), **change}.items() if value is not ...}
        path.write_text(json.dumps(config))
    if file.startswith("scheduler"):
        (folder / "leapstep.json").unlink()
    with pytest.raises(ValueError, match=message) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prediction_type": "sample"}, "predicts"),
        ({"clip_sample": False}, "clip"),
        ({"trained_betas": None, "beta_schedule": "scaled_linear"}, "process"),
    ],
)
def test_files_that_disagree(folder, change, field):
    """Neither is silently taken for the other."""
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"leapstep.json and .*scheduler_config.json disagree on {field}"):
        checkpoint.load(folder)


def test_a_network_alone_is_for_import(tmp_path, folder):
    shutil.copytree(folder / "unet", tmp_path / "alone")
    with pytest.raises(ValueError, match=r"without its noise schedule: leapstep import .*alone --out RUN") as error:
        checkpoint.load(tmp_path / "alone")
    assert "\n" not in str(error.value)
    (tmp_path / "alone" / checkpoint.WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"is not a model: it has none of unet/config.json"):
        checkpoint.load(tmp_path / "alone")


def test_missing_models(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="there is no model folder"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="there is no model folder nothing"):
        checkpoint.load("nothing")


def test_what_cannot_be_saved(tmp_path):
    for bad, message in [
        (model(leapstep.cosine()._replace(sigma=leapstep.linear().sigma)), "one's own curves cannot be written down"),
        (model(time=lambda t: t), "time=.* is a function"),
        (dataclasses.replace(model(), network=torch.nn.Linear(2, 2)), "not a Linear"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoint.save(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- conventions that diffusers has no words for ---


@pytest.mark.parametrize(
    "settings",
    [
        {"predicts": "score"},
        {"predicts": "flow", "clip": None, "spacing": "quad"},
        {"clip": (0.0, 1.0), "spacing": "leading"},
        {"time": "fraction"},
        {"spacing": "karras"},
        {"spacing": "linspace"},
        {"clip": leapstep.dynamic_threshold(0.9, 2.0)},
        {"clip": leapstep.dynamic_threshold(0.9, 2.0), "predicts": "score"},
        {"scaling": Scaling(0.0, 255.0), "clip": (0.0, 1.0)},
        {"process": leapstep.ve(30, sigma_max=20.0), "predicts": "score", "time": "sigma"},
        {"process": leapstep.flow(), "predicts": "flow", "time": "1000t", "clip": None},
        {"process": leapstep.flow(), "predicts": "-flow", "time": "fraction", "clip": None},
        {"process": leapstep.vp(1000, beta_max=15.0), "time": "999t"},
        {"process": leapstep.cosine(20)},
    ],
    ids=str,
)
def test_every_convention_is_kept(tmp_path, settings):
    saved = model(**{"process": leapstep.cosine(50), **settings})
    checkpoint.save(dataclasses.replace(saved, details={"step": 7}), tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert loaded.convention == saved.convention
    assert loaded.details == {"step": 7}
    has_scheduler = (tmp_path / "run" / "scheduler").exists()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = saved.diffusion().denoise(x, torch.tensor(0.4))
        torch.testing.assert_close(loaded.diffusion().denoise(x, torch.tensor(0.4)), expected)
    checkpoint.save(loaded, tmp_path / "again")
    first, second = (json.loads((tmp_path / run / "leapstep.json").read_text()) for run in ("run", "again"))
    assert first == second
    opens = (tmp_path / "run" / "model_index.json").exists()
    assert opens == (saved.predicts == "eps" and saved.time == "index" and saved.clip != (0.0, 1.0) and has_scheduler)
    checkpoint.save(changed(model(), time="fraction"), tmp_path / "run")
    assert not (tmp_path / "run" / "model_index.json").exists()  # diffusers would count the timesteps from 0
    checkpoint.save(model(scaling=Scaling(0.0, 255.0)), tmp_path / "run")
    assert not (tmp_path / "run" / "model_index.json").exists()  # and take -1 for black


def test_a_clock_of_its_own_reaches_the_network(folder):
    """The convention of leapstep.json stands above the scheduler's."""
    seen = []
    path = folder / "leapstep.json"
    written = {"convention": 1, "process": {"name": "linear"}, "predicts": "eps", "time": "fraction", "spacing": "quad"}
    path.write_text(json.dumps({"convention": written}))
    loaded = checkpoint.load(folder)
    loaded.network.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.no_grad():
        loaded.diffusion().denoise(torch.randn(1, 3, 8, 8), torch.tensor(0.25))
    assert seen[0].tolist() == [0.25]
    assert loaded.spacing == "quad"
    for wrong, message in [
        ({"clock": "fraction"}, "there is no convention.clock"),
        ({"time": "hours"}, "unknown time='hours'"),
        ({"predicts": "hours"}, "unknown predicts='hours'"),
        ({"process": {"name": "hours"}}, "there is no process 'hours'"),
        ({"process": {"name": "linear", "beta_start": "x"}}, "leapstep.json: "),
        ({"clip": {"high": 3}}, "leapstep.json: "),
        ({"shape": [1, 8, 8]}, "samples of shape"),
        ({"conditions": [{"name": "class_labels", "classes": ["a"]}]}, "knows no labels"),
    ]:
        path.write_text(json.dumps({"convention": {**written, **wrong}}))
        with pytest.raises(ValueError, match=message) as error:
            checkpoint.load(folder)
        assert str(path) in str(error.value)
    path.write_text(json.dumps({"convention": 3}))
    with pytest.raises(ValueError, match=r"leapstep.json: convention is 3"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "options",
    [{"heads": 4, "attention": (True, True)}, {"resample": "plain"}, {"time_scale": 0.5}, {"patch": 2}],
)
def test_a_unet_that_diffusers_has_no_word_for(tmp_path, options):
    network = filled(UNet(in_channels=3, **CHANNELS | options))
    saved = dataclasses.replace(changed(model(), shape=(3, 8, 16)), network=network)
    checkpoint.save(saved, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert not (tmp_path / "run" / "model_index.json").exists()
    assert loaded.network.config == network.config
    assert loaded.shape == (3, 8, 16)
    assert checkpoint.fingerprint(loaded.network) == checkpoint.fingerprint(network)
    config = json.loads((tmp_path / "run" / "unet" / "config.json").read_text())
    (tmp_path / "run" / "unet" / "config.json").write_text(json.dumps({**config, "_sample_shape": None}))
    with pytest.raises(ValueError, match="_sample_shape is None"):
        checkpoint.load(tmp_path / "run")


def test_diffusers_refuses_patches(tmp_path):
    """The keys are those of UNet2DModel, and must not fill one that sees pixels."""
    network = filled(UNet(in_channels=1, out_channels=1, patch=2, **CHANNELS))
    saved = model_of(network, leapstep.linear(), predicts="v", shape=(1, 8, 8))
    checkpoint.save(model(), tmp_path / "run")  # which diffusers opens
    checkpoint.save(saved, tmp_path / "run")
    with pytest.raises(OSError, match=r"model_index\.json"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "run")
    with pytest.raises((ValueError, RuntimeError), match=r"Cannot load .* conv_in"):
        diffusers.UNet2DModel.from_pretrained(tmp_path / "run" / "unet")


def test_pictures_may_lie_between_0_and_1():
    assert model(scaling=Scaling(0.0, 255.0)).is_pictures
    assert not model(scaling=Scaling(0.0, 1.0)).is_pictures


# --- training states ---


def test_the_last_good_state_survives_a_cut_at_any_byte(tmp_path, monkeypatch):
    """The disk fills up after n bytes, for n all over the file: the state before is whole, and is what resumes."""
    good, new = {"a": torch.arange(100.0)}, {"a": torch.arange(100.0) + 1}
    checkpoint.save_state(tmp_path, 1, good, {"note": "good"})
    size = (tmp_path / "state" / "step-00000001.safetensors").stat().st_size
    write = files._write
    for limit in [0, 1, 7, 8, 9, *range(16, size, 23), size - 1]:
        left = limit

        def cut(file, data):
            nonlocal left
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = write(file, data[:left])
            left -= written
            return written

        monkeypatch.setattr(files, "_write", cut)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save_state(tmp_path, 2, new, {"note": "new!"})
        monkeypatch.undo()
        path, values = checkpoint.find_state(tmp_path)
        assert values == {"note": "good", "step": 1}
        assert torch.equal(safetensors.torch.load_file(path)["a"], good["a"])
        assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000001.safetensors"]
    checkpoint.save_state(tmp_path, 2, new, {"note": "new!"})
    assert checkpoint.find_state(tmp_path)[1] == {"note": "new!", "step": 2}
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_a_damaged_state_gives_way_to_an_older_one(tmp_path):
    checkpoint.save_state(tmp_path, 1, {"a": torch.zeros(3)}, {})
    broken = tmp_path / "state" / "step-00000002.safetensors"
    broken.write_bytes((tmp_path / "state" / "step-00000001.safetensors").read_bytes()[:-5])
    assert checkpoint.find_state(tmp_path)[1]["step"] == 1
    (tmp_path / "state" / "step-00000001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no training state to resume from.*step-00000002"):
        checkpoint.find_state(tmp_path)


def test_moments_are_kept_for_the_weights_that_they_are_of(folder):
    kept, labels = checkpoint.load(folder), torch.arange(40) % 4
    moments = leapstep.Moments.of(torch.randn(40, 3, 8, 8) + labels[:, None, None, None], labels, 4)
    checkpoint.save_moments(folder / checkpoint.MOMENTS, kept, moments, {"source": "data", "n": 40})
    eps = torch.randn(2, 3, 8, 8)
    again, classes = checkpoint.load(folder).moments, torch.tensor([3, 0])
    for labels in (None, classes):
        starts = [each.law(labels).marginal(leapstep.cosine(), 0.7, eps) for each in (moments, again)]
        torch.testing.assert_close(*starts)
    checkpoint.save_moments(folder / checkpoint.MOMENTS, kept, leapstep.Moments(moments.whole), {})
    assert checkpoint.load(folder).moments.each is None
    for parameter in kept.network.parameters():
        parameter.data += 0.1
    checkpoint.save(kept, folder)
    assert checkpoint.load(folder).moments is None


@pytest.mark.parametrize("wrong", ["cut", "shape", "nan", "part", "negative"])
def test_moments_that_are_none_are_ignored_with_a_word(folder, wrong):
    law = leapstep.Gaussian.of(torch.randn(9, 3, 4, 4) if wrong == "shape" else torch.randn(9, 3, 8, 8))
    if wrong == "nan":
        law.mean[0] = torch.nan
    path = folder / checkpoint.MOMENTS
    checkpoint.save_moments(path, checkpoint.load(folder), leapstep.Moments(law), {})
    tensors = safetensors.torch.load(path.read_bytes())
    if wrong == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif wrong == "part":
        del tensors["whole.basis"]
        path.write_bytes(safetensors.torch.save(tensors))
    elif wrong == "negative":
        path.write_bytes(safetensors.torch.save(tensors | {"whole.variances": -tensors["whole.variances"]}))
    with pytest.warns(UserWarning, match=r"moments\.safetensors.*it is ignored"):
        assert checkpoint.load(folder).moments is None
