"""The specification of a sampling job: its JSON, what it checks against a model, and what it completes."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

import leapstep
from leapstep.core.sampling import path_of
from leapstep.inference.encoding import interpolate
from leapstep.inference.engine import draw
from leapstep.inference.provenance import provenance
from leapstep.inference.spec import SamplingSpec, SpecError
from leapstep.inference.tracing import trace
from leapstep.networks import MLP
from random_models import changed, model_of

FULL = SamplingSpec(
    method="edm",
    options={"churn": 1.5, "low": 0.1},
    steps=7,
    spacing="karras",
    start="unit",
    seed=2**63 + 5,
    first=3,
    n=9,
    labels=("b", 0),
    conditions="texts.npz",
    guidance=2.5,
    rescale=0.7,
    dtype="float64",
    batch_size=4,
)


@pytest.fixture(scope="module")
def model():
    """A network of two classes, trained with labels dropped, on 40 levels."""
    torch.manual_seed(0)
    network = MLP(shape=(3,), width=8, depth=1, timesteps=40, classes=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # its last layer begins with zeros
    return model_of(network.eval(), leapstep.linear(40), "eps", (3,), clip=None, classes=("a", "b"), null_label=2)


def test_every_field_survives_json_files_and_pickle(tmp_path):
    assert all(getattr(FULL, f.name) != f.default for f in dataclasses.fields(FULL) if f.name != "times")
    for spec in (FULL, SamplingSpec(), SamplingSpec(times=(1.0, 0.5), labels=[1])):
        assert SamplingSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        spec.save(tmp_path / "spec.json")
        assert SamplingSpec.read(tmp_path / "spec.json") == spec
        again = pickle.loads(pickle.dumps(spec))
        assert again == spec
        assert hash(again) == hash(spec)
    assert len({FULL, dataclasses.replace(FULL, seed=1), dataclasses.replace(FULL, options={"churn": 1.5})}) == 3


def test_scalars_of_numpy_and_torch_are_written_down():
    options = {"eta": np.float64(0.5)}
    spec = SamplingSpec(n=np.int64(4), seed=torch.tensor(3), guidance=np.float32(2), steps=np.int64(5), options=options)
    assert SamplingSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert (type(spec.n), type(spec.seed), type(spec.guidance)) == (int, int, float)


def test_a_manifest_is_read_as_the_specification_in_it(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"spec": FULL.to_json(), "weights_sha256": "00"}))
    assert SamplingSpec.read(tmp_path / "manifest.json") == FULL


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "a specification is a JSON object, not a list"),
        ({"version": 2}, "version is 2: this leapstep reads specifications of version 1"),
        ({"metod": "ddim"}, "unknown key 'metod': did you mean method"),
        ({"steps": "5"}, "steps is"),
        ({"n": 0.5}, "n is 0.5"),
        ({"rescale": 2}, "rescale is 2"),
        ({"options": {"eta": [1]}}, "options.eta"),
    ],
)
def test_json_that_is_no_specification(value, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        SamplingSpec.from_json(value)
    (tmp_path / "spec.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=f"spec.json: .*{expected}"):
        SamplingSpec.read(tmp_path / "spec.json")


def test_checking_fills_in_what_is_open_once(model):
    spec = SamplingSpec(options={"eta": 0, "eps": "raw"}, labels=("b", 0, "1"), dtype=torch.float64).checked(model)
    assert (spec.steps, spec.spacing, spec.labels, spec.dtype) == (20, "trailing", (1, 0, 1), "float64")
    assert spec.options == {"eps": "raw"}
    assert spec.checked(model) == spec
    assert torch.equal(spec.times_for(model), leapstep.times(model.process, 20))
    assert spec.labels_for(model, range(2, 6)).tolist() == [1, 1, 0, 1]
    assert SamplingSpec().labels_for(model, range(3)) is None


def test_defaults_come_from_the_method_the_caller_and_the_model(model):
    says = changed(model, spacing="leading")
    assert SamplingSpec().checked(model, steps=100, spacing="quad").spacing == "quad"
    assert SamplingSpec().checked(model, steps=100).steps == 40
    assert SamplingSpec().checked(says).spacing == "leading"
    adaptive = SamplingSpec("rk23").checked(says, steps=50, spacing="leading")
    assert (adaptive.steps, adaptive.spacing) == (1, "trailing")


def test_a_list_of_times_stands_for_steps_and_spacing(model):
    spec = SamplingSpec(times=torch.tensor([1.0, 0.6, 0.2]), spacing="quad").checked(model)
    assert (spec.times, spec.steps, spec.spacing) == ((1.0, pytest.approx(0.6), pytest.approx(0.2), 0.0), 3, None)
    assert spec.times_for(model).tolist() == list(spec.times)
    assert spec.checked(model) == spec
    with pytest.raises(SpecError, match="steps=5: the list of times has 3 steps"):
        dataclasses.replace(spec, steps=5).checked(model)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"method": "pf_eulr"}, r"method=pf_eulr: did you mean pf_euler\?"),
        ({"method": "heun", "options": {"order": 2}}, "order does not apply to method heun, which takes no options"),
        ({"method": "unipc", "options": {"oder": 3}}, r"which takes order \(default 2\): did you mean order\?"),
        ({"method": "unipc", "options": {"order": "two"}}, "order=two: give an integer"),
        ({"method": "unipc", "options": {"order": 2.5}}, "order=2.5: give an integer"),
        ({"method": "rk23", "options": {"rtol": "small"}}, "rtol=small: give a number"),
        ({"options": {"variance": "optimal"}}, "run leapstep calibrate"),
        ({"options": {"eta": 2}}, "eta=2.0: must lie between 0"),
        ({"steps": 41}, "steps=41: the network was trained on 40 levels"),
        ({"steps": 0}, "steps=0: give an integer, at least 1"),
        ({"steps": 2.5}, "steps=2.5: give an integer"),
        ({"steps": 1, "spacing": "leading"}, "spacing=leading: a single step .* use trailing"),
        ({"spacing": "traling"}, r"spacing=traling: did you mean trailing\?"),
        ({"times": (0.5, 0.6)}, "strictly decreasing"),
        ({"start": "z"}, "start=z: use one of marginal, unit, gaussian"),
        ({"seed": -1}, "seed=-1: must be an integer from 0 to"),
        ({"seed": 2**64}, "seed=18446744073709551616: must be an integer from 0"),
        ({"n": 0}, "n=0: must be at least 1"),
        ({"first": -1}, "first=-1: must be at least 0"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"labels": ("c",)}, "labels=c: use one of a, b"),
        ({"labels": (2,)}, "labels=2: use one of a, b"),
        ({"guidance": 2.0}, "guidance=2.0 needs a label"),
        ({"labels": (0,), "rescale": 0.5}, "rescale=0.5: applies to guidance"),
        ({"labels": (0,), "guidance": 2.0, "rescale": 1.5}, "rescale=1.5: use a share from 0"),
        ({"dtype": "float16"}, "dtype=float16: use auto, float32"),
    ],
)
def test_what_does_not_fit_a_model_is_said_in_one_line(model, fields, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        SamplingSpec(**fields).checked(model)
    assert "\n" not in str(caught.value)


def test_labels_of_a_network_without_classes(model):
    with pytest.raises(SpecError, match="labels=a: this model was trained without labels"):
        SamplingSpec(labels="a").checked(changed(model, classes=(), null_label=None))


def test_the_diffusion_has_the_labels_the_guidance_and_its_rescaling(model):
    x, t = torch.randn(2, 3, generator=torch.manual_seed(0)), torch.tensor(0.5)
    spec = SamplingSpec(labels=("a", "b"), guidance=3.0, rescale=0.5).checked(model)
    expected = model.diffusion(torch.tensor([1, 0]), 3.0, rescale=0.5).denoise(x, t)
    assert torch.equal(spec.diffusion(model, range(1, 3)).denoise(x, t), expected)
    plain = dataclasses.replace(spec, rescale=0.0)
    assert not torch.allclose(plain.diffusion(model, range(1, 3)).denoise(x, t), expected)


@pytest.mark.parametrize(
    ("method", "options", "label"),
    [
        ("ddim", {}, "ddim, η = 0"),
        ("ddim", {"eta": 0.0}, "ddim, η = 0"),
        ("ddim", {"eta": 0.2, "variance": "eta"}, "ddim, η = 0.2"),
        ("ddpm", {"variance": "beta"}, "ddpm, σ̂"),
        ("ddpm", {"variance": "optimal"}, "ddpm, variance = optimal"),
        ("ddpm", {"variance": "posterior"}, "ddpm"),
        ("unipc", {"order": 3}, "unipc, order = 3"),
        ("unipc", {}, "unipc"),
    ],
)
def test_a_label_says_the_noise_and_what_is_not_as_by_default(method, options, label):
    assert SamplingSpec(method, options).label == label


def test_the_start_without_a_call_is_of_the_moments_of_the_labels(model):
    """Its times begin below 1, its law is that of the classes, and what it cannot be is said in one line."""
    samples, labels = torch.randn(60, 3), torch.arange(60) % 2
    known = dataclasses.replace(model, moments=leapstep.Moments.of(samples + labels[:, None], labels, 2))
    spec = SamplingSpec("unipc", start="gaussian", steps=4, labels=("b", "a"), n=5).checked(known)
    law = known.moments.each
    path = path_of(model.process, 4, "trailing", "gaussian", law)
    assert spec.times_for(known).tolist() == path.tolist()
    assert len(path) == 5
    assert path[0] < 1
    torch.testing.assert_close(spec.diffusion(known, range(1, 4)).origin.mean, law.mean[[0, 1, 0]])
    anyone = dataclasses.replace(spec, labels=None)
    torch.testing.assert_close(anyone.diffusion(known, range(3)).origin.mean, known.moments.whole.mean)
    expected = leapstep.sample(lambda rows: spec.diffusion(known, rows), (5, 3), path, "unipc")
    torch.testing.assert_close(torch.cat([x for _, x in draw(known, spec)]), expected)
    traced = trace(known, spec)
    torch.testing.assert_close(traced.x[-1], expected)
    assert SamplingSpec(start="gaussian").checked(known).steps == 20
    assert SamplingSpec(start="gaussian", times=(0.5, 0.1)).checked(known).times == (0.5, 0.1, 0.0)
    assert provenance(known, spec)["moments_sha256"] != provenance(known, anyone)["moments_sha256"]
    for wrong, message in (
        ({"method": "rk45"}, "start=gaussian: rk45 chooses its own steps, from the first time on: give it by times"),
        ({"steps": 40}, "passes over one or more of 40 trained levels, so at most 39"),
    ):
        with pytest.raises(ValueError, match=message):
            SamplingSpec(start="gaussian", **wrong).checked(known)
    with pytest.raises(ValueError, match="start=gaussian: latents are pure noise"):
        interpolate(known, SamplingSpec(start="gaussian", steps=4), [0, 1])
    with pytest.raises(ValueError, match="run leapstep tune MODEL, or leapstep calibrate"):
        SamplingSpec(start="gaussian").checked(model)
