"""Files from elsewhere, damaged or made to harm: one line each, no traceback, bounded time and memory."""

import csv
import io
import json
import os
import random
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch

import leapstep
from commands import done, invoke, refused
from leapstep import data, networks
from leapstep.core.schema import Convention
from leapstep.core.spacing import SPACINGS
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation import features, results
from leapstep.evaluation.distances import arrival
from leapstep.files import reading
from leapstep.files.schema import checked
from leapstep.models import checkpoint
from leapstep.models import importers as foreign
from leapstep.networks import weights
from leapstep.text import clean
from leapstep.views import tables
from random_models import model_of

SMALL = {"in_channels": 1, "channels": (8,), "attention": (False,), "blocks": 1, "groups": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run folder with everything in it that a run folder can have."""
    run = tmp_path_factory.mktemp("hostile") / "run"
    torch.manual_seed(0)
    network = networks.UNet(**SMALL, classes=3)
    details = {
        "versions": {"leapstep": "0.1.0"},
        "step": 7,
        "data": {"source": "digits", "samples": 9, "shape": [1, 8, 8], "scaling": {"shift": 127.5, "scale": 127.5},
                 "classes": ["a", "b"]},
        "training": {"schedule": "linear", "batch_size": 4, "learning_rate": 0.1, "channels": [8], "size": None},
        "imported": {"file": "x.pt", "sha256": "0", "evidence": ["weights: raw"]},
    }  # fmt: skip
    made = model_of(network, leapstep.linear(20), "eps", (1, 8, 8), classes=("a", "b"), null_label=2, details=details)
    checkpoint.save(made, run)
    measured = leapstep.calibrate(made.diffusion(), torch.randn(4, 1, 8, 8), per_time=1)
    checkpoint.save_calibration(run / checkpoint.CALIBRATION, made, measured, {})
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to damage."""
    for path in whole.rglob("*"):
        if path.is_file():
            copy = tmp_path / "run" / path.relative_to(whole)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path / "run"


def changed(path, change):
    """Replace values in a JSON file, by their dotted names."""
    content = json.loads(path.read_text())
    for name, value in change.items():
        *above, last = name.split(".")
        part = content
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
    path.write_text(json.dumps(content))


# --- schemas ---


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": -1}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9, "trained_betas": None}),
        ("scheduler/scheduler_config.json", {"trained_betas": None, "beta_start": "a"}),
        ("scheduler/scheduler_config.json", {"clip_sample_range": "a"}),
        ("scheduler/scheduler_config.json", {"thresholding": True, "dynamic_thresholding_ratio": "a"}),
        ("scheduler/scheduler_config.json", {"prediction_type": [1]}),
        ("unet/config.json", {"norm_eps": "x"}),
        ("unet/config.json", {"block_out_channels": [10**9]}),
        ("config.json", {"block_out_channels": [2**20]}),
        ("unet/config.json", {"block_out_channels": [8] * 10**5}),
        ("unet/config.json", {"layers_per_block": 10**9}),
        ("unet/config.json", {"num_class_embeds": 10**9}),
        ("unet/config.json", {"sample_size": 10**9}),
        ("unet/config.json", {"down_block_types": [[]]}),
        ("leapstep.json", {"convention.conditions": [{"name": "class_labels", "classes": ["a", "b"], "null": 2.5}]}),
        ("leapstep.json", {"convention.conditions": [{"name": "class_labels", "classes": ["a", "b"], "null": 3}]}),
        ("leapstep.json", {"convention.conditions": [{"name": "class_labels", "classes": ["a"] * 10}]}),
        ("leapstep.json", {"data.scaling.scale": 0}),
        ("leapstep.json", {"training": 3}),
        ("leapstep.json", {"convention.clip": "ab"}),
        ("leapstep.json", {"convention.spacing": "sideways"}),
        ("leapstep.json", {"convention.process": {"name": "linear", "timesteps": 10**9}}),
        ("leapstep.json", {"imported": {"evidence": [3]}}),
        ("leapstep.json", {"step": "x" * 100_000}),
    ],
)
def test_values_that_no_honest_file_has(run, file, change):
    changed(run / ("unet/config.json" if file == "config.json" else file), change)
    with pytest.raises(ValueError, match=file) as error:
        checkpoint.load(run)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("kind", ["mlp", "score_sde", "lucidrains"])
@pytest.mark.parametrize(
    "change", [{"depth": 10**9}, {"blocks": 10**9}, {"width": 10**9}, {"width": "a"}, {"widths": [2**20]}, {"x": 1}]
)
def test_a_network_is_no_larger_than_its_weights(tmp_path, kind, change):
    small = {
        "mlp": networks.MLP(shape=(2,), width=8, depth=1),
        "score_sde": networks.ScoreUNet(channels=1, width=8, multiples=(1,), blocks=1, attention=(False,)),
        "lucidrains": networks.LucidUNet(
            channels=1, dim=8, widths=(8,), full=(True,), heads=(1,), head_channels=(8,)
        ),
    }[kind]  # fmt: skip
    shape = (2,) if kind == "mlp" else (1, 8, 8)
    checkpoint.save(model_of(small, leapstep.linear(20), "eps", shape), tmp_path)
    changed(tmp_path / kind / "config.json", change)
    with pytest.raises(ValueError, match=rf"{kind}.(config\.json|diffusion_pytorch_model)"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("file", ["leapstep.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "[]", "3", "", "\0", "\xff"])
def test_json_of_any_kind(run, file, text):
    (run / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=file) as error:
        checkpoint.load(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["{", "[" * 10**5, "{}", '{"weights_sha256": "0", "data_variance": 1, "times": "a"}', "[]"]
)
def test_a_broken_calibration_is_ignored_with_a_word(run, text):
    (run / "calibration.json").write_text(text)
    with pytest.warns(UserWarning, match="calibration.json.*it is ignored"):
        assert checkpoint.load(run).calibration is None


def test_null_is_as_good_as_nothing(run):
    changed(run / "leapstep.json", {"training": None, "imported": None, "step": None, "convention": None})
    assert "trained_steps" not in json.loads(done("info", run, "--json").stdout)


def test_the_schema_knows_every_spacing():
    written = {"convention": 1, "process": {"name": "linear"}, "predicts": "eps", "time": "index"}
    for name in SPACINGS:
        checked(Convention, written | {"spacing": name})


# --- weights ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(run, tmp_path, bad):
    path = run / "unet" / checkpoint.WEIGHTS
    state = safetensors.torch.load_file(path)
    state["mid_block.resnets.0.conv1.weight"][3, 1, 0, 2] = bad
    safetensors.torch.save_file(state, path)
    message = r"mid_block\.resnets\.0\.conv1\.weight holds 1 of 576 values that are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        checkpoint.load(run)
    refused(invoke("import", run / "unet", "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_weights_that_overflow_as_they_are_loaded_are_refused(run):
    path = run / "unet" / checkpoint.WEIGHTS
    state = {name: value.double() for name, value in safetensors.torch.load_file(path).items()}
    state["conv_in.bias"][0] = 1e300
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=r"conv_in\.bias holds 1 of 8 values that are NaN or infinite"):
        checkpoint.load(run)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_are_refused(run, kind):
    path = run / "unet" / checkpoint.WEIGHTS
    state = safetensors.torch.load_file(path)
    state["conv_in.weight"] = state["conv_in.weight"].to(kind)
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=rf"conv_in\.weight holds {str(kind)[6:]}: weights are floating point"):
        checkpoint.load(run)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_floating_point_are_taken(run, kind):
    path = run / "unet" / checkpoint.WEIGHTS
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value.to(kind) for name, value in state.items()}, path)
    torch.testing.assert_close(
        checkpoint.load(run).network.conv_in.weight.detach(), state["conv_in.weight"], atol=1e-2, rtol=1e-2
    )


def test_buffers_may_be_integers():
    class Config:
        pass

    class Counted(torch.nn.Linear):
        def __init__(self, config=None):
            super().__init__(2, 2)
            self.config = config or Config()
            self.register_buffer("position_ids", torch.arange(5))

    state = Counted().state_dict()
    filled = weights.fill(weights.sketch(Counted, {}), state)
    assert torch.equal(filled.position_ids, state["position_ids"])


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path):
    huge = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    state = dict.fromkeys(("conv_in.weight", "temb.dense.0.weight", "down.0.block.0.norm1.weight"), huge)
    torch.save(state | {"mid.block_1.norm1.weight": huge}, tmp_path / "huge.pt")
    with pytest.raises(ValueError, match="claims the shape"):
        foreign.load(tmp_path / "huge.pt")


def test_keys_that_count_to_a_billion(tmp_path):
    keys = ("temb.dense.0.weight", "down.0.block.0.norm1.weight", "mid.block_1.norm1.weight", "down.1000000000.a")
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "deep.pt")
    with pytest.raises(ValueError, match=r"down\.1000000000\.a counts to 1000000000: no network has so many layers"):
        foreign.load(tmp_path / "deep.pt")


# --- reading ---


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of POSIX")
@pytest.mark.parametrize(
    "file", ["leapstep.json", "unet/config.json", "unet/" + checkpoint.WEIGHTS, "calibration.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_opened(run, file, kind):
    (run / file).unlink()
    if kind == "pipe":
        os.mkfifo(run / file)
    else:
        (run / file).symlink_to("/dev/zero")
    if file == "calibration.json":
        with pytest.warns(UserWarning, match=f"is a {kind}, not a file"):
            checkpoint.load(run)
        return
    with pytest.raises(ValueError, match=f"{file} is a {kind}, not a file"):
        checkpoint.load(run)


def test_texts_are_of_a_bounded_size(run, monkeypatch):
    monkeypatch.setattr(reading.read_bytes, "__defaults__", (100,))
    with pytest.raises(ValueError, match=r"\.json is larger than"):
        checkpoint.load(run)


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 600, "a: &x [1]\nb: *x", "a: 2001-13-01", "a: " + "1" * 5000, "a: !!python/object:os.x"]
)
def test_yaml_of_any_kind(text):
    with pytest.raises(ValueError, match=r"config\.yml is (not YAML|nested too deep)") as error:
        reading.parse_yaml(text, "config.yml")
    assert "\n" not in str(error.value)
    assert reading.parse_yaml("a: [1, {b: c}]", "config.yml") == {"a": [1, {"b": "c"}]}


def test_what_does_not_fit_in_memory_is_refused_before():
    with pytest.raises(ValueError, match=r"the whole world takes 1\.07e\+09 GiB of memory, of which"):
        reading.check_memory(2**60, "the whole world")


def test_info_in_continuous_time(tmp_path):
    made = model_of(networks.MLP(shape=(2,), width=8, depth=1), leapstep.vp(), "eps", (2,), time="1000t", clip=None)
    checkpoint.save(made, tmp_path)
    found = json.loads(done("info", tmp_path, "--json").stdout)["log_snr"]
    process = leapstep.vp()
    assert found == pytest.approx(
        {"t = 0.001": process.log_snr(1e-3).item(), "t = 1": process.log_snr(1.0).item()}, abs=1e-3
    )


# --- nothing that files say acts on the terminal ---

EVIL = "\x1b[31mred\x1b]0;title\x07\u202egnp\x9b2J"


def shows(result, *codes):
    """A command has printed hostile text, and none of it acts."""
    assert result.exit_code in codes, (result.exit_code, result.exception, result.stderr)
    printed = result.stdout + result.stderr
    assert "red" in printed, printed
    assert clean(printed) == printed
    assert result.exit_code == 0 or len(result.stderr.splitlines()) == 1


def hostile_run(run):
    changed(
        run / "leapstep.json",
        {
            "convention.conditions": [{"name": "class_labels", "classes": [EVIL, "b"], "null": 2}],
            "data.source": EVIL,
            "imported.file": EVIL,
            "imported.evidence": [EVIL],
            "training.schedule": EVIL,
        },
    )
    return run


def test_info_of_hostile_text(run):
    shows(invoke("info", hostile_run(run)), 0)
    facts = json.loads(done("info", run, "--json").stdout)
    assert facts["classes"] == [EVIL, "b"]


def test_errors_with_hostile_text(run, tmp_path):
    hostile_run(run)
    shows(invoke("sample", run, "--label", "nobody", "--out", tmp_path / "out"), 2)
    shows(invoke("info", tmp_path / EVIL), 2)
    changed(run / "scheduler" / "scheduler_config.json", {"prediction_type": EVIL})
    shows(invoke("info", run), 2)
    (run / "scheduler" / "scheduler_config.json").write_text(EVIL)
    assert clean(invoke("info", run).stderr) == invoke("info", run).stderr


def test_samples_of_hostile_classes(run, tmp_path):
    shows(invoke("sample", hostile_run(run), "--n", 2, "--steps", 2, "--out", tmp_path / EVIL), 0)


def test_data_with_hostile_names(run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / f"{EVIL}.png").write_text("broken")
    shows(invoke("likelihood", run, pictures, "--split", "all"), 2)
    np.savez(tmp_path / "data.npz", **{EVIL: np.zeros((4, 2)), "other": np.zeros((4, 2))})
    shows(invoke("likelihood", run, tmp_path / "data.npz", "--split", "all"), 2)


def test_tables_with_hostile_columns(run, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    parquet.write_table(pyarrow.table({EVIL: [1, 2]}), tmp_path / "data.parquet")
    shows(invoke("likelihood", run, tmp_path / "data.parquet", "--split", "all"), 2)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_checkpoints_with_hostile_keys(tmp_path, form):
    state = {f"{EVIL}{i}": torch.zeros(2, 2) for i in range(3)}
    path = tmp_path / f"model.{form}"
    torch.save(state, path) if form == "pt" else safetensors.torch.save_file(state, path)
    shows(invoke("import", path, "--out", tmp_path / "out"), 2)
    torch.save({EVIL: 3, "other": [EVIL]}, tmp_path / "values.pt")
    shows(invoke("import", tmp_path / "values.pt", "--out", tmp_path / "out"), 2)


def cell(**fields):
    measured = {"frechet": {"value": 1.0, "low": 0.9, "high": 1.1}}
    return {
        "method": "ddim", "options": {"eta": 0}, "label": "ddim", "steps": 5, "spacing": "trailing", "calls": 5,
        "seconds": 1.0, "n": 10, "metrics": measured,
    } | fields  # fmt: skip


def swept(folder, **fields):
    conditions = {"features": "pixels", "features_sha256": "0" * 64, "data": EVIL}
    folder.mkdir()
    content = {"model": EVIL, "conditions": conditions, "metric": "frechet", "cells": [cell()], "advice": [EVIL]}
    (folder / "results.json").write_text(json.dumps(content | fields))
    return folder


def test_results_with_hostile_text(tmp_path):
    other = swept(tmp_path / "b", conditions={"features": "pixels", "features_sha256": "1" * 64})
    shows(invoke("compare", swept(tmp_path / "a"), other), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"label": EVIL}, {"method": 3}, {"steps": "5"}, {"calls": None}, {"seconds": "x"}, {"metrics": []},
        {"metrics": {"frechet": 1.0}}, {"metrics": {"frechet": {"value": "1", "low": 0, "high": 1}}}, {"options": 1},
        {"spacing": None}, {"replicates": {"frechet": ["x"]}},
    ],
)  # fmt: skip
def test_cells_are_checked(tmp_path, change):
    folder = swept(tmp_path / "a", cells=[cell(**change)])
    with pytest.raises(ValueError, match=rf"results\.json is not a result .*: cells\.0\.{next(iter(change))}"):
        results.read(folder / "results.json")
    result = invoke("compare", folder)
    refused(result, f"is not a result of leapstep evaluate or sweep: cells.0.{next(iter(change))}")


def test_no_cell_is_a_formula():
    cells = [cell(label=text) for text in ("=1+1", "+1", "-1", "@a", "plain", "a\t\r=b")]
    rows = list(csv.DictReader(io.StringIO(tables.spreadsheet(cells))))
    assert [row["label"][0] for row in rows[:4]] == ["'"] * 4
    assert [row["label"] for row in rows[4:]] == ["plain", r"a\t\r=b"]
    assert rows[0]["frechet_low"] == "0.9"


# --- import ---


@pytest.mark.parametrize("setting", ["a=[1", "a=" + "[" * 600, "a=2001-13-01", "a=" + "x" * 300_000])
def test_settings_that_are_no_yaml(run, tmp_path, setting):
    result = invoke("import", run / "unet", "--set", setting, "--out", tmp_path / "out")
    refused(result, r"--set a=.* (is not YAML|is nested too deep|is 300000 characters)")
    assert len(result.stderr) < 1000


@pytest.mark.parametrize("suffix", ["yml", "json", "txt"])
def test_a_configuration_nested_deep(run, tmp_path, suffix):
    path = tmp_path / f"config.{suffix}"
    path.write_text(("--a " if suffix == "txt" else "") + "[" * 600)
    refused(invoke("import", run / "unet", "--config", path, "--out", tmp_path / "out"), "nested too deep|is not JSON")


def test_a_pickle_with_a_frame_of_four_exabytes(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"}.")
    (tmp_path / "b.pt").write_bytes(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc.")
    for name in ("a.pt", "b.pt"):
        refused(invoke("import", tmp_path / name, "--out", tmp_path / "out"), "cannot be read: it is truncated")


def test_feature_spaces_are_checked(tmp_path):
    held = data.read("digits", size=8)
    record = {"weights_sha256": "0", "data": {"shape": [1, 8, 8], "pictures": True, "classes": ["a"], "scaling": {}}}
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "features.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"cannot be read \(it lacks 'data\.scaling\.shift'\)"):
        features.load(str(folder), held)
    (folder / "features.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match="nested too deep"):
        features.load(str(folder), held)


# --- values in Python ---


def test_times_may_be_numpys():
    law = leapstep.GaussianMixture(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0.1, 0.1]))
    diffusion = law.diffusion(leapstep.cosine())
    listed = leapstep.sample(diffusion, (3, 2), steps=[1.0, 0.5, 0.25, 0.0])
    for steps in (np.array([1, 0.5, 0.25, 0]), np.array([0, 0.25, 0.5, 1], np.float32)[::-1], np.array([1, 0.5, 0.25])):
        assert torch.equal(leapstep.sample(diffusion, (3, 2), steps=steps), listed)
    counted = leapstep.sample(diffusion, (3, 2), steps=7)
    for steps in (np.int64(7), np.array(7), np.uint8(7)):
        assert torch.equal(leapstep.sample(diffusion, (3, 2), steps=steps), counted)
    for steps in (np.float64(7), np.array([[1.0, 0.0]]), "7", [1, "a"]):
        with pytest.raises(ValueError, match="times"):
            leapstep.sample(diffusion, (3, 2), steps=steps)


@pytest.mark.parametrize("clip", [10, "ab", (1,), (1, 2, 3), None, object()])
def test_a_clip_that_is_no_range(clip):
    diffusion = leapstep.empirical(leapstep.cosine(), torch.eye(2))
    with pytest.raises(ValueError, match=r"clip=.*: give a range \(low, high\), or a function of x0"):
        leapstep.clipped(diffusion, clip)


def test_features_beyond_what_distances_can_hold():
    few = np.random.default_rng(0).normal(size=(9, 2))
    for call in (evaluation.frechet_distance, evaluation.kernel_distance):
        with pytest.raises(ValueError, match=r"samples reach \d.*e\+30, whose distances are beyond float64"):
            call(few * 1e30, few)
    largest = few / np.abs(few).max() * arrival.LARGEST
    found = evaluation.measure(largest, largest[::-1], resamples=3, k=1, metrics=["frechet", "kernel"])
    assert all(np.isfinite([each.value, each.low, each.high]).all() for each in found.values())


def test_one_label_is_for_all_samples_with_guidance_too(run):
    model = checkpoint.load(run)
    for guidance in (1.0, 2.0):
        made = [
            leapstep.sample(model.diffusion(labels, guidance), (3, 1, 8, 8), steps=2)
            for labels in (torch.tensor([1, 1, 1]), torch.tensor([1]), torch.tensor(1))
        ]
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])
        with pytest.raises(
            ValueError, match=r"class_labels is of shape \(2,\) for 3 samples: .*one value for all, or one"
        ):
            leapstep.sample(model.diffusion(torch.tensor([0, 1]), guidance), (3, 1, 8, 8), steps=2)
    with pytest.raises(ValueError, match=r"labels are float32 of shape \[1\]: pass integers from 0 to 1"):
        model.diffusion(torch.tensor([1.0]))


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_levels_that_no_network_has(tmp_path, count):
    from leapstep.models.importers import Settings

    with pytest.raises(ValueError, match=f"steps={count}: a number of noise levels lies between 1 and 100000"):
        Settings({"steps": count}).levels("steps", 1000, "levels")


# --- chance ---

JUNK = (
    None, True, False, 0, -1, 1, 2.5, 1e308, -1e-308, 10**9, 2**63, 10**40, float("inf"), float("nan"), "", "x", EVIL,
    "a" * 100_000, [], {}, [[]], [None], {"a": {}}, [1] * 1000, ["x", 3], {"name": "ve"},
    {"name": "linear", "timesteps": 0}, {"name": "karras", "rho": 0},
    {"name": "betas", "betas": [0.5, 0.1]}, {"quantile": 2}, [1, -1], [0, 0],
)  # fmt: skip
"""What a value in a JSON file may turn into."""


def places(value, path=()):
    """Every place in a JSON value: the keys that lead there."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def mutated(content, rng):
    """A JSON value with one to three of its parts replaced, removed, doubled, or nested."""
    content = json.loads(json.dumps(content))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(places(content)))
        if not path:
            return rng.choice(JUNK)
        part = content
        for key in path[:-1]:
            part = part[key]
        action = rng.random()
        if action < 0.2:
            del part[path[-1]]
        elif action < 0.3:
            part[path[-1]] = [part[path[-1]]] * 2
        elif action < 0.4 and isinstance(part[path[-1]], int | float):
            part[path[-1]] *= rng.choice((-1, 0, 2, 1000, 10**12))
        elif action < 0.45 and isinstance(part, dict):
            part[rng.choice(("predicts", "clip", "process", "time", "spacing", "x", "thresholding"))] = rng.choice(JUNK)
        else:
            part[path[-1]] = rng.choice(JUNK)
    return content


def used(run):
    """Load a model, say what it is, and sample it, as far as its files allow; what was wrong, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = checkpoint.load(run)
            done("info", run, "--json")
            labels = torch.zeros(1, dtype=torch.long) if model.classes else None
            if np.prod(model.shape) < 10**6:
                leapstep.sample(model.diffusion(labels), (1, *model.shape), steps=1)
    except (ValueError, OSError) as error:
        return str(error)
    return None


FILES = (
    "leapstep.json", "unet/config.json", "scheduler/scheduler_config.json", "model_index.json", "calibration.json",
)  # fmt: skip


def test_whatever_a_file_says_is_used_or_refused_in_a_line(run):
    rng, refusals = random.Random(0), 0
    whole = {name: json.loads((run / name).read_text()) for name in FILES}
    for name in FILES:
        for _ in range(10):
            (run / name).write_text(json.dumps(mutated(whole[name], rng)))
            said = used(run)
            assert said is None or ("\n" not in said and len(said) < 2000)
            refusals += said is not None
        (run / name).write_text(json.dumps(whole[name]))
    assert refusals > 10
    assert used(run) is None
