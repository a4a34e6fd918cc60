"""Solvers that were fitted to a model: how they are kept with it, found for samples, and refused for others."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch

import leapstep
from leapstep import SamplingSpec
from leapstep.inference import tuning
from leapstep.inference.engine import draw
from leapstep.inference.methods import METHODS, SOLVER
from leapstep.models import checkpoint
from leapstep.models.tuned import Untuned
from leapstep.networks import MLP
from random_models import changed, model_of

PLAN = tuning.Plan((2, 3), noises=16, steps=8)


def network():
    torch.manual_seed(0)
    mlp = MLP(shape=(3,), width=8, depth=1, timesteps=40, classes=3)
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # its last layer begins with zeros
    return mlp.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a network of two classes, trained with labels dropped, that is tuned for 2 and 3 calls."""
    path = tmp_path_factory.mktemp("tuned") / "run"
    model = model_of(network(), leapstep.linear(40), "eps", (3,), clip=None, classes=("a", "b"), null_label=2)
    checkpoint.save(model, path)
    made = tuning.Run(checkpoint.load(path), plan=PLAN)
    for _ in made.results():
        tuning.save(path / checkpoint.TUNED, made)
    return path


@pytest.fixture
def model(run):
    return checkpoint.load(run)


def tuned_for(model, **fields):
    """The model with these fields in its only tuning."""
    (there,) = model.tuned.tunings
    return dataclasses.replace(model, tuned=dataclasses.replace(model.tuned, tunings=(there._replace(**fields),)))


# --- what is kept --------------------------------------------------------------------------------------------------


def test_what_was_found_is_read_as_it_was_written(run, model, tmp_path):
    checkpoint.save_tuned(tmp_path / "tuned.json", model, model.tuned)
    for name in ("tuned.json", "tuned.safetensors"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()
    (found,) = model.tuned.tunings
    assert [solver.calls for solver in found.solvers] == [2, 3]
    assert (found.labels, found.guidance, found.teacher["noises"]) == ("all", 1.0, 16)
    assert found.teacher["evaluations"] == 16 * 8
    for row in found.solvers[1].coefficients:  # a row a line
        assert json.dumps(row) in (run / "tuned.json").read_text()


def test_a_solver_stands_beside_all_other_methods_that_differ(model):
    (found,) = model.tuned.tunings
    alone = {name for name, method in METHODS.items() if method.calls == 1 and method.deterministic}
    for calls in (2, 3):
        ranked = found.ranked(calls)
        assert {one.method for one in ranked} <= alone - {"fitted"}
        assert [one.error for one in ranked] == sorted(one.error for one in ranked)
        assert {one.spacing for one in ranked} == {"trailing", "log_snr", "karras"}
        assert found.solver(calls).error < ranked[0].error
        assert "dpmpp_3m" not in {one.method for one in ranked}  # which is dpmpp_2m until the last of three steps
    assert {"dpmpp_2m", "unipc", "deis", "ipndm"} <= {one.method for one in found.ranked(3)}
    assert {10, 15, 20, 30} < {one.steps for one in found.untuned}
    assert found.worse_steps(found.solver(3)._replace(error=0.0)) == 30
    assert found.worse_steps(found.solver(3)._replace(error=1e9)) is None


def test_what_is_there_is_kept_and_only_the_rest_fitted(model):
    again = tuning.Run(model, plan=dataclasses.replace(PLAN, calls=(2, 3)))
    assert again.missing == []
    assert again.work == 0
    more = tuning.Run(model, plan=dataclasses.replace(PLAN, calls=(1, 3)))
    assert more.missing == [1]
    ((solver, _),) = more.results()
    assert solver.calls == 1
    (found,), (before,) = more.tuned.tunings, model.tuned.tunings
    assert found.solvers[1:] == before.solvers
    assert len({one.name for one in found.untuned}) == len(found.untuned)
    with pytest.raises(ValueError, match="fitted with noises 16, not 32: fit all of them anew by --overwrite"):
        tuning.Run(model, plan=dataclasses.replace(PLAN, noises=32))
    other = tuning.Run(model, plan=dataclasses.replace(PLAN, noises=32), overwrite=True)
    assert other.missing == [2, 3]
    assert other.tuning.solvers == ()
    anew = tuning.Run(model, plan=dataclasses.replace(PLAN, calls=(3,)), overwrite=True)
    assert anew.missing == [3]
    assert anew.tuning.solvers == before.solvers[:1]  # of the same teacher


def test_more_classes_than_noises_share_a_mean(tmp_path):
    torch.manual_seed(0)
    classes = tuple(f"class {i}" for i in range(20))
    mlp = MLP(shape=(3,), width=8, depth=1, timesteps=40, classes=20).eval()
    path = tmp_path / "run"
    checkpoint.save(model_of(mlp, leapstep.linear(40), "eps", (3,), clip=None, classes=classes), path)
    made = tuning.Run(checkpoint.load(path), plan=dataclasses.replace(PLAN, calls=(2,)))
    next(made.results())
    tuning.save(path / checkpoint.TUNED, made)
    loaded = checkpoint.load(path)
    assert loaded.moments.each is None
    for start, method in (("marginal", "fitted"), ("gaussian", "ddim")):
        spec = SamplingSpec(method, steps=2, start=start, n=2, labels=("class 0", "class 19"))
        ((_, x),) = draw(loaded, spec)
        assert x.shape == (2, 3)
        assert x.isfinite().all()


def test_the_teachers_samples_let_any_method_start_without_a_call(model):
    moments = model.moments
    assert moments.each.mean.shape == (2, 3)
    assert moments.whole.mean.shape == (3,)
    rows = range(4)
    spec = SamplingSpec("unipc", steps=3, start="gaussian", n=4, labels=("a", "b")).checked(model)
    assert spec.diffusion(model, rows).origin.mean.equal(moments.each.mean[[0, 1, 0, 1]])
    guided = tuning.Run(dataclasses.replace(model, moments=None), SamplingSpec(guidance=2.0), PLAN)
    next(guided.results())
    assert guided.moments is None


def test_each_guidance_is_a_tuning_of_its_own(model):
    made = tuning.Run(model, SamplingSpec(guidance=2.0), dataclasses.replace(PLAN, calls=(2,)))
    list(made.results())
    both = dataclasses.replace(model, tuned=made.tuned)
    hashes = {
        SamplingSpec("fitted", steps=2, labels=(0,), guidance=guidance).checked(both).options[SOLVER]
        for guidance in (1.0, 2.0)
    }
    assert len(hashes) == 2
    assert len(made.tuned.laws) == 2  # guided samples have moments of their own


def test_the_time_that_a_teacher_would_take_is_told_before(model):
    made = tuning.Run(model, plan=dataclasses.replace(PLAN, calls=(5,), budget=1e-9))
    with pytest.raises(ValueError, match="the teacher's 8 steps from 16 noises alone take about"):
        made.check_price()


def test_when_the_time_is_over_no_other_solver_is_begun(model):
    made = tuning.Run(model, plan=dataclasses.replace(PLAN, calls=(1, 4, 5), budget=1e-9))
    assert [solver.calls for solver, _ in made.results()] == [1]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"noises": 8}, "noises=8: at least 16"),
        ({"steps": 41}, "teacher_steps=41: this model takes from 2 to 40"),
        ({"calls": (8,)}, "calls=8: use 1 to 7"),
        ({"start": "unit"}, "start=unit: use gaussian or marginal"),
    ],
)
def test_plans_that_do_not_fit(model, fields, expected):
    with pytest.raises(ValueError, match=expected):
        tuning.Run(model, plan=dataclasses.replace(PLAN, **fields))


# --- drawing with it -----------------------------------------------------------------------------------------------


def samples(model, **fields):
    batches = draw(model, SamplingSpec("fitted", **{"n": 6, "steps": 3} | fields))
    return torch.cat([x for _, x in batches])


def test_samples_are_those_of_its_transition_from_its_law(model):
    spec = SamplingSpec("fitted", steps=3, labels=("b", "a")).checked(model)
    solver = model.tuned.tunings[0].solver(3)
    assert (spec.steps, spec.times, spec.spacing, spec.start) == (3, solver.times, None, "marginal")
    assert spec.checked(model) == spec
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    law = model.tuned.laws[solver.gaussian_sha256]
    diffusion = model.diffusion(labels)._replace(origin=law.of_classes(labels))
    expected = leapstep.sample(diffusion, (6, 3), transition=solver.transition)
    assert torch.equal(samples(model, labels=("b", "a")), expected)
    assert not torch.allclose(samples(model), expected)


def test_samples_do_not_depend_on_the_batches(model):
    for labels in (None, (0, 1, 1)):
        torch.testing.assert_close(samples(model, labels=labels, batch_size=4), samples(model, labels=labels))


def test_without_a_number_of_steps_it_takes_the_most_calls(model):
    assert SamplingSpec("fitted").checked(model).steps == 3


def test_a_solver_from_noise_alone(model):
    made = tuning.Run(model, plan=dataclasses.replace(PLAN, calls=(3,), start="marginal"))
    assert made.missing == [3]
    ((solver, _),) = made.results()
    assert (solver.start, solver.times[0], solver.gaussian_sha256) == ("marginal", 1.0, None)
    worse = solver._replace(error=1e9)
    both = dataclasses.replace(model, tuned=model.tuned.with_tuning(made.tuning.with_solver(worse, ())))
    better = model.tuned.tunings[0].solver(3)
    assert SamplingSpec("fitted", steps=3).checked(both).options == {SOLVER: better.short_sha256}


# --- auto ----------------------------------------------------------------------------------------------------------


def test_auto_is_the_fitted_solver_where_it_is_the_best(model):
    assert SamplingSpec("auto", steps=3).checked(model) == SamplingSpec("fitted", steps=3).checked(model)


def test_auto_is_the_best_other_method_for_other_numbers_of_calls(model):
    best = model.tuned.tunings[0].ranked(3)[0]
    spec = SamplingSpec("auto", steps=7).checked(model)
    assert (spec.method, spec.options, spec.spacing, spec.steps) == (best.method, best.options, best.spacing, 7)


def test_auto_is_another_method_where_that_was_better(model):
    better = Untuned("deis", {"order": 2}, 3, "karras", "marginal", 0.0, 0.0)
    (found,) = model.tuned.tunings
    spec = SamplingSpec("auto", steps=3).checked(tuned_for(model, untuned=(*found.untuned, better)))
    assert (spec.method, spec.options, spec.spacing) == ("deis", {"order": 2}, "karras")


@pytest.mark.parametrize(("start", "steps"), [("unit", 3), ("unit", 7), ("gaussian", 7)])
def test_auto_has_a_default_for_a_start_from_which_nothing_was_measured(model, start, steps):
    samples = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    known = dataclasses.replace(model, moments=leapstep.Moments.of(samples))
    spec = SamplingSpec("auto", steps=steps, start=start).checked(known)
    assert (spec.method, spec.start, spec.steps) == ("unipc", start, steps)


def test_auto_has_a_default_where_nothing_is_known(model):
    plain = dataclasses.replace(model, tuned=None)
    for steps, options in ((5, {}), (10, {"order": 3}), (None, {"order": 3})):
        spec = SamplingSpec("auto", steps=steps).checked(plain)
        assert (spec.method, spec.options, spec.spacing) == ("unipc", options, "trailing")
    assert SamplingSpec("auto", steps=3, guidance=2.0, labels=(0,)).checked(model).method == "unipc"


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"steps": 0}, "steps=0: give an integer, at least 1"),
        ({"steps": 4}, "solvers with 2, 3 calls for such samples: run leapstep tune MODEL --calls 4$"),
        (
            {"guidance": 2.0, "labels": (0,)},
            "was tuned for guidance 1: run leapstep tune MODEL --calls 3 --guidance 2$",
        ),
        ({"spacing": "karras"}, "spacing=karras: a fitted solver has its own times and start"),
        ({"start": "unit"}, "start=unit: a fitted solver has its own times and start"),
        ({"times": (1.0, 0.5, 0.2), "steps": None}, "a fitted solver goes along its own times"),
        ({"options": {"order": 2}}, "order does not apply to method fitted"),
    ],
)
def test_what_a_fitted_solver_does_not_do(model, fields, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        SamplingSpec("fitted", **{"steps": 3} | fields).checked(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["options", "times", "spacing"])
def test_auto_chooses_by_itself(model, field):
    chosen = {"options": {"order": 2}, "times": (1.0, 0.5), "spacing": "karras"}[field]
    with pytest.raises(ValueError, match=f"method=auto: it chooses its own {field}"):
        SamplingSpec("auto", **{field: chosen}).checked(model)


@pytest.mark.parametrize("steps", [0, -1, "3", 2.5])
def test_auto_takes_a_number_of_steps(model, steps):
    with pytest.raises(ValueError, match=f"steps={steps}: give an integer, at least 1"):
        SamplingSpec("auto", steps=steps).checked(model)


def test_solvers_for_some_classes_are_for_no_others(model):
    some = tuned_for(model, labels=(0,))
    assert SamplingSpec("fitted", steps=3, labels=("a",)).checked(some).steps == 3
    for labels in (("a", "b"), None):
        with pytest.raises(ValueError, match="was tuned for guidance 1, labels 0: run"):
            SamplingSpec("fitted", steps=3, labels=labels).checked(some)


def test_a_manifest_is_repeated_with_the_solver_that_it_names_or_not_at_all(model):
    spec = SamplingSpec.from_json(json.loads(json.dumps(SamplingSpec("fitted", steps=3).checked(model).to_json())))
    assert spec.checked(model) == spec
    (found,) = model.tuned.tunings
    rows = found.solvers[1].coefficients
    anew = found.solvers[1]._replace(coefficients=((rows[0][0] + 1e-12, rows[0][1]), *rows[1:]))
    with pytest.raises(ValueError, match="is not there for these samples: the model was tuned anew since"):
        spec.checked(tuned_for(model, solvers=(found.solvers[0], anew)))
    assert dataclasses.replace(spec, steps=2, times=None).checked(model).times == found.solvers[0].times
    two = SamplingSpec("fitted", steps=2).checked(model)
    assert dataclasses.replace(two, steps=None).checked(model) == two  # its times say how many


def test_other_weights_and_another_convention_have_none(run, model, tmp_path):
    for name in ("tuned.json", "tuned.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    other = network()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    checkpoint.save(dataclasses.replace(model, network=other), tmp_path)
    weights = checkpoint.load(tmp_path)
    checkpoint.save(changed(model, clip=(-1.0, 1.0)), tmp_path)
    clipped = checkpoint.load(tmp_path)
    for stranger in (weights, clipped):
        with pytest.raises(ValueError, match=r"no solver was fitted to these weights .*: run leapstep tune MODEL"):
            SamplingSpec("fitted", steps=3).checked(stranger)
    checkpoint.save(model, tmp_path)
    assert checkpoint.load(tmp_path).tuned.tunings == model.tuned.tunings


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"calls": 10**6},
        {"calls": 3},
        {"times": [1.0, 0.5, 0.1]},
        {"times": [1.0, 0.0, 0.5]},
        {"times": [1.0, 2.0, 0.0]},
        {"coefficients": [[1.0, 1e9], [1.0, 1.0, 1.0]]},
        {"coefficients": [[1.0], [1.0]]},
        {"coefficients": [["1", 1.0], [1.0, 1.0, 1.0]]},
        {"coefficients": [[1.0] * 10_000] * 2},
        {"error": -1.0},
        {"gaussian_sha256": "0"},
        {"labels": [-1]},
        {"guidance": "1"},
        {"untuned": [{"method": "\x1b[2J"}]},
        {"method": "fitted"},
        {"method": "rk5"},
        {"spacing": "even"},
        {"options": {"order": 9}},
        {"options": {"rank": 1}},
        {"teacher": 3},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_file_from_elsewhere_that_is_broken_is_ignored_with_a_word(run, model, tmp_path, change):
    path = tmp_path / "tuned.json"
    (tmp_path / "tuned.safetensors").write_bytes((run / "tuned.safetensors").read_bytes())
    said = json.loads((run / "tuned.json").read_text())
    tunings = said["tunings"][0]
    for part in (said, tunings, tunings["solvers"][0], tunings["untuned"][0]):
        part.update({name: value for name, value in change.items() if name in part})
    path.write_text(json.dumps(said))
    with pytest.warns(UserWarning, match=r"tuned\.json.*it is ignored") as caught:
        assert checkpoint.read_tuned(path, model) is None
    assert all(len(str(warning.message)) < 1000 and "\x1b" not in str(warning.message) for warning in caught)


@pytest.mark.parametrize("text", ["{", "[" * 10**5, "[]", '{"version": 1}', '{"version": NaN}', "\0"])
def test_a_file_that_is_none_is_ignored_with_a_word(run, model, tmp_path, text):
    (tmp_path / "tuned.json").write_text(text)
    with pytest.warns(UserWarning, match="it is ignored"):
        assert checkpoint.read_tuned(tmp_path / "tuned.json", model) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: {name: value * float("nan") for name, value in parts.items()},
        lambda parts: {name: value.half() for name, value in parts.items()},
        lambda parts: {name: value[..., :1].clone() for name, value in parts.items()},
        lambda parts: {name: value for name, value in parts.items() if not name.endswith("basis")},
        lambda parts: {name: value[:1].clone() if name.endswith("mean") else value for name, value in parts.items()},
        lambda parts: {},
    ],
)
def test_moments_that_are_not_those_that_were_written(run, model, tmp_path, change):
    (tmp_path / "tuned.json").write_bytes((run / "tuned.json").read_bytes())
    parts = change(safetensors.torch.load_file(run / "tuned.safetensors"))
    safetensors.torch.save_file(parts, tmp_path / "tuned.safetensors")
    with pytest.warns(UserWarning, match="it is ignored"):
        assert checkpoint.read_tuned(tmp_path / "tuned.json", model) is None
