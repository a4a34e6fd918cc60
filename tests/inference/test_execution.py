"""What a network computes in: chosen by a trial, remembered, stated, and the same again; no test depends on a clock."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import leapstep
from leapstep import SamplingSpec
from leapstep.core.scaling import Scaling
from leapstep.inference import execution, trial
from leapstep.inference.engine import draw
from leapstep.inference.execution import Execution, choose, decided
from leapstep.inference.trial import Trial
from leapstep.inference.writing import write_samples
from random_models import CLASSES, model_of

SPEC = SamplingSpec(n=4, steps=2, batch_size=2)


class Pictures(nn.Module):
    """A network of pictures whose rows are computed alike, with a statistic that is no parameter."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.3, generator=generator)
        self.seen = []

    def forward(self, x, timestep):
        self.seen.append((x.dtype, timestep.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        return self.last(torch.tanh(self.first(x)))


@pytest.fixture
def model():
    return model_of(Pictures(), leapstep.linear(100), shape=(1, 4, 6), scaling=Scaling(0.0, 1.0), clip=None)


@pytest.fixture
def long(monkeypatch, cache):
    """Every job is long enough for a trial, on a machine with units for bfloat16."""
    monkeypatch.setattr(execution, "LONG", {"cpu": 1.0})
    monkeypatch.setattr(trial, "halves_are_fast", lambda device: True)


@pytest.fixture
def clock(monkeypatch, long):
    """A clock that a call in bfloat16 moves by 1 and any other by what is asked for; counts the trials."""

    class Clock:
        now, slow, trials = 0.0, 2.0, 0

    def forward(self, x, timestep, pictures=Pictures.forward):
        Clock.now += 1.0 if x.dtype == torch.bfloat16 else Clock.slow
        return pictures(self, x, timestep)

    measure = trial.measured

    def counted(*args):
        Clock.trials += 1
        return measure(*args)

    monkeypatch.setattr(Pictures, "forward", forward)
    monkeypatch.setattr(trial, "now", lambda device: Clock.now)
    monkeypatch.setattr(trial, "measured", counted)
    return Clock


def found(half=0.5, error=0.004, **seconds):
    """A trial of a network that takes a second in float32."""
    return Trial(1e9, {"float32": 1.0, "bfloat16": half, **seconds}, {"bfloat16": error}, {})


# --- the choice ----------------------------------------------------------------------------------------------------


def test_bfloat16_is_taken_where_it_is_faster_and_near():
    assert decided(found()) == Execution("bfloat16", speedup=2.0, error=0.004)
    assert decided(found()).line == (
        "computing in bfloat16: 2.0 times as fast here as plain float32, the network off by 0.4%"
    )


def test_the_faster_layout_is_taken():
    seconds = {"float32": 1.0, "bfloat16": 0.6, "bfloat16 channels_last": 0.5}
    both = {"bfloat16": 0.004, "bfloat16 channels_last": 0.004}
    assert decided(Trial(1e9, seconds, both, {})) == Execution("bfloat16", True, 2.0, 0.004)
    layout = decided(Trial(1e9, {"float32": 1.0, "float32 channels_last": 0.8}, {}, {}))
    assert (layout.dtype, layout.channels_last, layout.speedup) == ("float32", True, 1.25)
    assert layout.line.endswith("; not bfloat16: a convolution takes longer in it on this machine")
    assert not decided(Trial(1e9, {"float32": 1.0, "float32 channels_last": 0.99}, {}, {})).channels_last


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (found(half=0.95), "bfloat16 is 1.05 times as fast here, which is too little"),
        (found(error=0.3), "bfloat16 is 2.0 times as fast, but the network is off by 30.0% in it"),
        (Trial(1e9, {"float32": 1.0}, {}, {"bfloat16": "expected Float"}), "not bfloat16: expected Float"),
    ],
)
def test_float32_is_kept_with_a_word(measured, said):
    kept = decided(measured)
    assert kept.dtype == "float32"
    assert kept.line == f"computing in float32; {said}"


def test_a_short_job_measures_nothing(model, monkeypatch):
    monkeypatch.setattr(trial, "measured", None)
    assert choose(model, SPEC.checked(model)) == Execution()
    assert choose(model, SPEC.checked(model)).line == ""


def test_a_dtype_that_is_asked_for_measures_nothing(model, long, monkeypatch):
    monkeypatch.setattr(trial, "measured", None)
    spec = dataclasses.replace(SPEC, dtype="bfloat16").checked(model)
    assert choose(model, spec) == Execution("bfloat16")


def test_methods_that_choose_their_own_steps_stay_in_float32(model, long, monkeypatch):
    monkeypatch.setattr(trial, "measured", None)
    spec = dataclasses.replace(SPEC, method="rk45", steps=None).checked(model)
    assert choose(model, spec) == Execution()


# --- the trial -----------------------------------------------------------------------------------------------------


def test_the_choice_follows_the_pace_of_the_network(model, clock):
    assert choose(model, SPEC.checked(model)).dtype == "bfloat16"
    clock.slow = 1.05
    assert choose(model, dataclasses.replace(SPEC, batch_size=1).checked(model)).dtype == "float32"


def test_a_network_that_bfloat16_changes_too_much_stays_in_float32(model, clock, monkeypatch):
    """Its output hangs on the ninth bit of its input, of which bfloat16 has eight."""
    monkeypatch.setattr(
        Pictures, "forward", lambda self, x, timestep, own=Pictures.forward: own(self, (1000 * x).sin(), timestep)
    )
    kept = choose(model, SPEC.checked(model))
    assert kept.dtype == "float32"
    assert "off by" in kept.refusal


def test_a_network_that_does_not_run_in_bfloat16_stays_in_float32(model, clock, monkeypatch):
    weight = torch.ones(4, 6)
    own = Pictures.forward
    monkeypatch.setattr(Pictures, "forward", lambda self, x, timestep: own(self, x, timestep) @ weight.T @ weight)
    kept = choose(model, SPEC.checked(model))
    assert kept.dtype == "float32"
    assert kept.refusal.startswith("not bfloat16")


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_trial_takes_no_more_than_its_share(long, guidance):
    """Also where guidance calls the network for two rows a sample."""

    class Labelled(Pictures):
        def forward(self, x, timestep, class_labels):
            Labelled.evaluations += len(x)
            return super().forward(x, timestep)

    Labelled.evaluations, parts = 0, {"shape": (1, 4, 6), "scaling": Scaling(0.0, 1.0), "clip": None}
    model = model_of(Labelled(), leapstep.linear(100), classes=CLASSES, null_label=3, **parts)
    choose(model, SamplingSpec(n=40, steps=20, batch_size=40, labels=(0,), guidance=guidance).checked(model))
    rows = 1 if guidance == 1 else 2
    assert 0 < Labelled.evaluations <= trial.SHARE * 40 * 20 * rows + rows  # besides a call that counts operations


def test_operations_are_counted():
    """A convolution has 2 k^2 c_in c_out operations at each position."""
    model = model_of(Pictures(), leapstep.linear(100), shape=(1, 4, 6), scaling=Scaling(0.0, 1.0), clip=None)
    counted = []

    def run(network, n, shares):
        network(torch.zeros(n, 1, 4, 6), torch.zeros(n))

    job = trial.Job(model.network, (1, 4, 6), 100, 2, torch.device("cpu"), run)
    counted = trial.operations(job)
    assert counted == 24 * 2 * 9 * (4 + 4)
    assert trial.most_operations(model.network, (1, 4, 6)) == counted


# --- what is remembered --------------------------------------------------------------------------------------------


def test_a_trial_is_made_once(model, clock, cache):
    first = choose(model, SPEC.checked(model))
    clock.slow = 1.0  # another trial would find that bfloat16 gains nothing
    assert choose(model, SPEC.checked(model)) == first
    assert clock.trials == 1
    [path] = (cache / "trials").iterdir()
    assert json.loads(path.read_text())["seconds"]["float32"] == 2.0


def test_other_weights_are_tried_anew(model, clock):
    choose(model, SPEC.checked(model))
    model.network.first.weight.data.mul_(2)
    choose(model, SPEC.checked(model))
    assert clock.trials == 2


def test_the_same_weights_in_another_network_are_tried_anew(model, clock):
    """In this one, which is sensitive to its input, bfloat16 is of no use."""

    class Sensitive(Pictures):
        def forward(self, x, timestep):
            return super().forward((1000 * x).sin(), timestep)

    assert choose(model, SPEC.checked(model)).dtype == "bfloat16"
    assert choose(dataclasses.replace(model, network=Sensitive()), SPEC.checked(model)).dtype == "float32"


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[]",
        '{"operations": 1, "seconds": {"float32": -1}, "errors": {}, "failures": {}}',
        '{"operations": 1, "seconds": {"bfloat16": 1}, "errors": {"bfloat16": 0}, "failures": {}}',
        '{"operations": 1, "seconds": {"float32": 2, "bfloat16": 1}, "errors": {}, "failures": {}}',
    ],
)
def test_a_broken_cache_is_measured_anew(model, clock, cache, broken):
    first = choose(model, SPEC.checked(model))
    [path] = (cache / "trials").iterdir()
    path.write_text(broken)
    assert choose(model, SPEC.checked(model)) == first
    assert json.loads(path.read_text())["seconds"]["float32"] == 2.0


def test_a_cache_that_cannot_be_written_costs_a_trial(model, clock, cache):
    cache.write_text("a file, not a folder")
    assert choose(model, SPEC.checked(model)).dtype == "bfloat16"
    assert choose(model, SPEC.checked(model)).dtype == "bfloat16"
    assert clock.trials == 2


# --- the network as it is called -----------------------------------------------------------------------------------


def test_only_the_network_is_in_bfloat16(model):
    network = Execution("bfloat16", channels_last=True).of(model).network
    assert network.network.first.weight.dtype == torch.bfloat16
    assert network.network.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.network.first.weight.dtype == torch.float32
    assert model.network.first.weight.is_contiguous()
    drawn = list(draw(model, SPEC, execution=Execution("bfloat16", channels_last=True)))
    assert all(x.dtype == torch.float32 for _, x in drawn)
    assert set(model.network.seen) == set()  # the copy was called
    network(torch.zeros(1, 1, 4, 6), torch.tensor([999.0]))
    assert network.network.seen == [(torch.bfloat16, torch.float32, True)]


def test_float32_has_no_second_copy(model):
    assert Execution().of(model) is model
    shared = Execution(channels_last=True).of(model).network.network
    assert shared.first.bias.data_ptr() == model.network.first.bias.data_ptr()  # nothing to lay out anew


def test_channels_last_changes_nothing_but_rounding(model):
    plain = torch.cat([x for _, x in draw(model, SPEC)])
    other = torch.cat([x for _, x in draw(model, SPEC, execution=Execution(channels_last=True))])
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-5)


# --- manifests -----------------------------------------------------------------------------------------------------


def test_a_manifest_states_the_choice_and_repeats_it(model, clock, tmp_path, monkeypatch):
    said = []
    manifest = write_samples(model, SPEC, tmp_path / "a", progress=False, tell=said.append)
    assert manifest["spec"]["dtype"] == "bfloat16"
    assert manifest["execution"]["speedup"] == 2.0
    assert 0 < manifest["execution"]["error"] < 0.02
    assert said == [manifest["execution"]["line"]]
    monkeypatch.setattr(trial, "measured", None)
    again = write_samples(model, SamplingSpec.read(tmp_path / "a" / "manifest.json"), tmp_path / "b", progress=False)
    assert again["spec"] == manifest["spec"]
    assert (tmp_path / "a" / "samples.npz").read_bytes() == (tmp_path / "b" / "samples.npz").read_bytes()


def test_what_was_stopped_goes_on_in_its_dtype(model, clock, tmp_path, monkeypatch, cache):
    """Also where another trial would choose otherwise."""
    whole = write_samples(model, SPEC, tmp_path / "whole", progress=False)
    monkeypatch.setattr("leapstep.inference.writing.values", stopping(1))
    with pytest.raises(KeyboardInterrupt):
        write_samples(model, SPEC, tmp_path / "part", progress=False)
    monkeypatch.undo()
    rest = write_samples(model, SPEC, tmp_path / "part", resume=True, progress=False)
    assert rest["spec"] == whole["spec"]
    assert (tmp_path / "part" / "samples.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()


def test_what_was_stopped_goes_on_in_its_layout(model, tmp_path, monkeypatch):
    """The same dtype in another layout of the memory is rounded otherwise."""
    with monkeypatch.context() as patched:
        patched.setattr("leapstep.inference.writing.choose", lambda *_: Execution("bfloat16", channels_last=True))
        patched.setattr("leapstep.inference.writing.values", stopping(1))
        with pytest.raises(KeyboardInterrupt):
            write_samples(model, SPEC, tmp_path, progress=False)
    for dtype in ("auto", "bfloat16"):
        spec = dataclasses.replace(SPEC, dtype=dtype)
        rest = write_samples(model, spec, tmp_path, resume=True, progress=False)
        assert (rest["spec"]["dtype"], rest["execution"]["memory_format"]) == ("bfloat16", "channels_last")


def test_a_dtype_that_is_none_is_not_taken_from_a_manifest(model, tmp_path):
    write_samples(model, SPEC, tmp_path, progress=False)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["spec"]["dtype"] = "complex"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match='holds samples with dtype "complex"'):
        write_samples(model, SPEC, tmp_path, resume=True, progress=False)


def stopping(after):
    """`values` that is interrupted after so many batches; the first call is for a manifest."""
    from leapstep.inference.engine import values

    calls = []

    def stops(model, x):
        calls.append(x)
        if len(calls) > 1 + after:
            raise KeyboardInterrupt
        return values(model, x)

    return stops
