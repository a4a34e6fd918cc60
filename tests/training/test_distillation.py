"""A student against flows that are known; a run that is stopped, goes on, and is opened and sampled as it should be."""

import dataclasses
import json
import math
import os
import signal
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import leapstep
from commands import done, invoke, refused
from leapstep import Condition, SamplingSpec, stopping
from leapstep.core.scaling import Scaling
from leapstep.core.spacing import times
from leapstep.evaluation.planning import plan
from leapstep.inference.engine import draw
from leapstep.models import checkpoint
from leapstep.networks import MLP, NETWORKS
from leapstep.training import Distiller, distill
from leapstep.training.configuration import DistillationConfig
from leapstep.training.distillation import COMPARING, LEARNING, student_convention
from random_models import changed, model_of, small

F64 = torch.float64
QUIET = {"device": "cpu", "progress": False}


class Gain(nn.Module):
    """A network with one weight a trained level: what it predicts is that times x."""

    def __init__(self, gains):
        super().__init__()
        self.gains = nn.Parameter(gains.float())

    def forward(self, x, timestep):
        return self.gains[timestep.long()].unsqueeze(-1) * x


@pytest.fixture(autouse=True)
def gain_is_a_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, "gain", Gain)


PROCESS, VARIANCE = leapstep.cosine(100), 0.25


def gaussian_teacher(predicts):
    """The exact denoiser of N(0, VARIANCE I), in what a network predicts."""
    t = torch.arange(1, 101, dtype=F64) / 100
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    if predicts == "eps":
        gain = (1 - alpha * gain) / sigma
    return model_of(Gain(gain), PROCESS, predicts, (3,), scaling=Scaling(0.0, 1.0), clip=None)


def flow(t, s):
    """x_s / x_t along the ODE of that Gaussian: the ratio of the standard deviations of its marginals."""
    t, s = (torch.as_tensor(u, dtype=F64) for u in (t, s))
    spread = (PROCESS.alpha(u) ** 2 * VARIANCE + PROCESS.sigma(u) ** 2 for u in (s, t))
    return (next(spread) / next(spread)).sqrt()


@pytest.mark.parametrize(("predicts", "calls"), [("x0", 1), ("eps", 2)])
def test_a_student_of_a_gaussian_learns_its_flow(predicts, calls):
    """One step of DDIM is linear in x; the student's, at each of its times, becomes the exact factor of the ODE."""
    given = {"steps": 80, "learning_rate": 0.05, "ema_decay": 0.5, "teacher_steps": 64, "reuse": 40}
    config = DistillationConfig(calls=calls, batch_size=16, **given)
    distiller = Distiller(config, gaussian_teacher(predicts), **QUIET)
    before = distiller.compare()["held_out"]
    for _ in range(config.steps):
        distiller.advance()
    student = distiller.model()
    x = torch.ones(1, 3)
    diffusion = student.diffusion()
    for state in leapstep.trajectory(diffusion, x, times(PROCESS, calls)):
        factor = (state.x / x).mean().item()
        assert factor == pytest.approx(flow(state.t, state.s).item(), rel=0.02)
        x = state.x
    assert distiller.compare()["held_out"] < before / 20


def test_the_loss_of_the_exact_flow_is_zero_and_of_any_other_is_not():
    """Data in a single point: x0 is known, DDIM takes any step exactly, and the teacher is its own student."""
    network = MLP(shape=(2,), width=8, depth=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        list(network.parameters())[-1].copy_(torch.tensor([0.3, -0.7]))
    teacher = model_of(network, leapstep.linear(50), "x0", (2,), scaling=Scaling(0.0, 1.0), clip=None)
    distiller = Distiller(DistillationConfig(calls=3, batch_size=8, learning_rate=1e-9), teacher, **QUIET)
    result = distiller.advance()
    assert result["losses"].shape == (24,)
    assert sorted(set(result["times"].tolist())) == pytest.approx(times(teacher.process, 3)[:3].flip(0).tolist())
    assert result["losses"].max() < 1e-5  # of float32 in 18 steps of the teacher
    assert distiller.compare()["held_out"] < 1e-5
    with torch.no_grad():
        list(distiller.network.parameters())[-1].add_(0.1)
    assert distiller.advance()["losses"].min() > 1e-3


# --- the teacher ---------------------------------------------------------------------------------------------------


def labelled(seed=0, null=3, **fields):
    """A small network of three classes on 4 numbers."""
    torch.manual_seed(seed)
    network = small(MLP(shape=(4,), width=16, depth=1, classes=4, dropout=0.3))
    fields = {"classes": ("ant", "bee", "cat"), "null_label": null, "clip": (-1.5, 1.5)} | fields
    details = {"step": 7, "data": {"source": "points.npy"}, "training": {"batch_size": 8, "learning_rate": 0.01}}
    return model_of(
        network.eval(), leapstep.cosine(40), "eps", (4,), scaling=Scaling(2.0, 3.0), details=details, **fields
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_teacher_is_solved_as_it_is_sampled(guidance):
    """With guidance, clipping and classes in turn, at the student's own times; some of the classes are dropped."""
    teacher = labelled()
    distiller = Distiller(DistillationConfig(calls=2, batch_size=40, guidance=guidance), teacher, **QUIET)
    for stream in (LEARNING, COMPARING):
        batch = distiller.solve(stream, 1, 40)
        labels = batch.condition["class_labels"]
        dropped = labels == 3
        assert torch.equal(labels[~dropped], (torch.arange(40, 80) % 3)[~dropped])
        assert dropped.any() == (stream == LEARNING and guidance == 1)
        kept = ~dropped
        diffusion = teacher.diffusion(labels[kept], guidance)
        path = times(teacher.process, 16)
        expected = [
            state.x
            for state in leapstep.trajectory(diffusion, batch.points[0][kept], path, leapstep.unipc(order=3))
            if state.s.item() in (path[8].item(), 0)
        ]
        torch.testing.assert_close(batch.points[1:, kept], torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)
    assert not torch.equal(distiller.solve(LEARNING, 0, 40).points, distiller.solve(COMPARING, 0, 40).points)


def test_each_of_the_teachers_samples_is_used_as_often_as_asked(monkeypatch):
    """A new batch of the teacher every `reuse` steps, and no more of them than the newest 16 are kept."""
    distiller = Distiller(DistillationConfig(batch_size=8, reuse=3), labelled(), **QUIET)
    solved, original = [], Distiller.solve
    monkeypatch.setattr(Distiller, "solve", lambda self, *given: (solved.append(given[1]), original(self, *given))[1])
    for distiller.step in range(0, 60, 4):
        batch = distiller.batch()
        assert batch.points.shape == (2, 8, 4)
        known = {tuple(row.tolist()) for made in distiller.made.values() for row in made.points[0]}
        assert {tuple(row.tolist()) for row in batch.points[0]} <= known
    assert solved == list(range(4 + 56 // 3))
    assert list(distiller.made) == solved[-16:]


def test_conditions_come_from_a_file_in_turn(tmp_path, monkeypatch):
    torch.manual_seed(0)

    class Conditioned(Gain):
        def forward(self, x, timestep, y):
            return super().forward(x, timestep) + y

    monkeypatch.setitem(NETWORKS, "conditioned", Conditioned)
    convention = leapstep.Convention(leapstep.linear(20), "x0", conditions=(Condition("y"),), shape=(2,))
    teacher = leapstep.Model(Conditioned(torch.full((20,), 0.1)), convention)
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.savez(tmp_path / "y.npz", y=values)
    distiller = Distiller(DistillationConfig(batch_size=4), teacher, condition=tmp_path / "y.npz", **QUIET)
    assert np.array_equal(distiller.solve(LEARNING, 1, 4).condition["y"], values[[4, 0, 1, 2]])
    assert math.isfinite(distiller.advance()["loss"])
    assert distiller.details()["distillation"]["teacher"]["condition"] == str(tmp_path / "y.npz")


# --- runs ----------------------------------------------------------------------------------------------------------


def contents(run):
    """All that a distillation decides in a run folder."""
    (state,) = (run / "state").iterdir()
    weights = run / "mlp" / "diffusion_pytorch_model.safetensors"
    return state.name, state.read_bytes(), weights.read_bytes(), (run / "leapstep.json").read_bytes()


def test_stopped_and_resumed_is_bit_identical(tmp_path, monkeypatch):
    """With two students: the one that is stopped goes on, the other begins; the teacher's dropout stays off."""
    settings = {"steps": 9, "batch_size": 8, "accumulate": 2, "reuse": 2, "save_every": 4, "calls": [2, 1], **QUIET}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    distill(labelled(), straight, **settings)
    original = Distiller.advance

    def interrupted(self):
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Distiller, "advance", interrupted)
    with pytest.raises(stopping.Stopped) as caught:
        distill(labelled(), broken, **settings)
    assert caught.value.__notes__ == [f"the checkpoint of step 6 is kept in {broken / 'calls-2'}: go on with --resume"]
    monkeypatch.undo()
    signal.signal(signal.SIGINT, before)
    monkeypatch.setitem(NETWORKS, "gain", Gain)
    assert not (broken / "calls-1").exists()
    with pytest.raises(ValueError, match=r"weights_sha256=.*: resume it with the same, or --overwrite it"):
        distill(labelled(seed=1), broken, resume=True, **settings)
    with pytest.raises(ValueError, match="was trained with reuse=2, not 3: resume it without changing that"):
        distill(labelled(), broken, resume=True, **settings | {"reuse": 3})
    distill(labelled(), broken, resume=True, **settings)
    for name in ("calls-1", "calls-2"):
        assert contents(straight / name) == contents(broken / name)


def test_a_student_is_opened_and_sampled_as_it_was_trained(tmp_path):
    """In its own number of steps by itself, and with a word of warning in others; by diffusers alike."""
    torch.manual_seed(0)
    network = small(leapstep.networks.UNet(in_channels=1, channels=(8, 8), attention=(False, True), blocks=1, groups=4))
    teacher = model_of(network, leapstep.linear(100), "eps", (1, 8, 8))
    made = distill(teacher, tmp_path / "run", calls=2, steps=3, batch_size=8, learning_rate=1e-3, **QUIET)[0]
    student = leapstep.load(tmp_path / "run")
    assert student.convention == made.convention
    assert (student.steps, student.predicts, student.spacing) == (2, "v", "trailing")
    spec = SamplingSpec(n=3).checked(student)
    assert (spec.method, spec.steps, spec.spacing) == ("ddim", 2, "trailing")
    x = torch.cat([x for _, x in draw(student, SamplingSpec(n=3))])
    torch.testing.assert_close(x, leapstep.sample(made.diffusion(), (3, 1, 8, 8), 2))
    for other in (SamplingSpec(steps=3), SamplingSpec("unipc"), SamplingSpec(spacing="leading")):
        with pytest.warns(UserWarning, match="is not what this model was distilled for: ddim in 2 steps, trailing"):
            draw(student, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells = plan(student, SamplingSpec(n=3))
        assert [(cell.method, cell.steps, cell.options) for cell in cells] == [("ddim", 2, {"eta": 0.0})]
        assert cells[0].checked(student)
    assert [cell.steps for cell in plan(student, steps=[1, 4], etas=[0])] == [1, 4]

    import diffusers

    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "run")
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(2)
    with torch.no_grad():
        theirs = leapstep.Noise(0, range(3), (1, 8, 8))(0)
        for timestep in scheduler.timesteps:
            theirs = scheduler.step(pipeline.unet(theirs, timestep).sample, timestep, theirs).prev_sample
    torch.testing.assert_close(theirs, x, rtol=1e-3, atol=2e-3)


def test_guidance_is_in_the_weights():
    """A student of a guided teacher takes one call a step, and cannot be guided once more."""
    convention = student_convention(labelled().convention, 2, 3.0)
    student = leapstep.Model(labelled().network, convention)
    assert student.classes == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match=r"guidance=2.0: this model was distilled with guidance in its weights, use 1"):
        SamplingSpec(labels=("ant",), guidance=2.0).checked(student)
    assert SamplingSpec(labels=("ant",)).checked(student).guidance == 1
    plain = student_convention(labelled().convention, 2, 1.0)
    assert plain.conditions == labelled().convention.conditions
    assert plain.clip == labelled().convention.clip


def test_a_budget_is_made_into_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(Distiller, "seconds_a_step", lambda self: 0.5)
    students = distill(labelled(), tmp_path / "run", calls=[1, 2], budget=4, **QUIET)
    for n, student in zip((1, 2), students, strict=True):
        assert student.details["step"] == student.details["distillation"]["steps"] == 4
        assert leapstep.load(tmp_path / "run" / f"calls-{n}").steps == n
        settings = student.details["distillation"]
        assert (settings["batch_size"], settings["learning_rate"]) == (8, 0.01)  # of the teacher's training


def test_a_step_on_trial_leaves_no_trace():
    plain, tried = (Distiller(DistillationConfig(batch_size=8), labelled(), **QUIET) for _ in range(2))
    assert tried.seconds_a_step() > 0
    assert [plain.advance()["loss"] for _ in range(3)] == [tried.advance()["loss"] for _ in range(3)]


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"guidance": 2.0}, {"teacher_steps": 4}, {"reuse": 1}, {"calls": 2}], ids=str
)
def test_every_setting_changes_the_distillation(settings):
    def trace(**chosen):
        distiller = Distiller(DistillationConfig(batch_size=8, **chosen), labelled(), **QUIET)
        return [distiller.advance()["loss"] for _ in range(3)]

    assert trace(**settings) != trace()


# --- mistakes and the command line ---------------------------------------------------------------------------------


def test_what_cannot_be_distilled(tmp_path):
    teacher = labelled()
    for model, settings, message in [
        (changed(teacher, steps=4), {}, "is a student of 4 calls itself: distil its teacher"),
        (teacher, {"calls": 41}, "calls=41: a model in memory has 40 noise levels"),
        (teacher, {"calls": [1, 1]}, "give each number of calls once"),
        (teacher, {"calls": 0}, "calls=0: input should be greater than or equal to 1"),
        (teacher, {"stepz": 1}, "unknown setting 'stepz': did you mean 'steps'"),
        (labelled(null=None), {"guidance": 2.0}, "guidance needs a network that was trained with some labels dropped"),
        (dataclasses.replace(teacher, network=nn.Linear(4, 4)), {}, "not a Linear"),
        (teacher, {"budget": 9.0}, "--budget and --steps exclude each other"),
        (teacher, {"resume": True, "overwrite": True}, "exclude each other"),
    ]:
        with pytest.raises(ValueError, match=message):
            distill(model, tmp_path / "run", **{"steps": 1, **QUIET, **settings})
    assert not (tmp_path / "run").exists()


def test_the_command(tmp_path):
    checkpoint.save(labelled(), tmp_path / "teacher")
    given = ["distill", tmp_path / "teacher", "--calls", 1, 2, "--out", tmp_path / "run", "--device", "cpu"]
    result = json.loads(done(*given, "--steps", 2, "--guidance", 2, "--json").stdout)
    assert [student["distillation"]["calls"] for student in result["students"]] == [1, 2]
    source = str(tmp_path / "teacher")
    assert {student["distillation"]["teacher"]["source"] for student in result["students"]} == {source}
    refused(invoke(*given), r"calls-1 exists and is not empty: --resume it, --overwrite it")
    refused(invoke(*given, "--budget", "soon"), "--budget 'soon' is not a duration")
    said = done("info", tmp_path / "run" / "calls-2").stdout
    assert "distilled for   2 steps" in said
    drawn = ["sample", tmp_path / "run" / "calls-2", "--label", "bee", "--n", 2, "--out", tmp_path / "samples"]
    assert "2 network calls each" in done(*drawn).stdout
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        more = invoke(*drawn, "--steps", 3, "--overwrite")
    assert "is not what this model was distilled for: ddim in 2 steps, trailing" in more.stderr
    refused(invoke(*drawn, "--guidance", 2, "--overwrite"), "distilled with guidance in its weights, use 1")


def test_neither_the_teacher_nor_what_is_no_student_is_replaced(tmp_path):
    settings = {"steps": 1, "batch_size": 2, "teacher_steps": 2} | QUIET
    checkpoint.save(labelled(), tmp_path / "other")
    before = (tmp_path / "other" / "leapstep.json").read_bytes()
    with pytest.raises(ValueError, match="other exists and is not empty"):
        distill(labelled(), tmp_path / "other", 1, resume=True, **settings)
    with pytest.raises(ValueError, match="other is the teacher's own folder"):
        distill(tmp_path / "other", tmp_path / "other", 1, overwrite=True, **settings)
    assert (tmp_path / "other" / "leapstep.json").read_bytes() == before
