"""The loss against the papers' formulas; a run that learns, is recorded, is killed and goes on."""

import ctypes
import inspect
import itertools
import math
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import leapstep
import leapstep.models.checkpoint
from commands import done, forget_accelerator, invoke, start, wait_for
from leapstep import stopping
from leapstep.data import read
from leapstep.data.pictures import grid, save_image, table
from leapstep.training import Trainer, ema_update, learning_rate, loss, previews, stratified_times, train
from leapstep.training import trainer as training
from leapstep.training.configuration import TrainingConfig, configure

F64 = torch.float64
TINY = {"channels": (8, 8), "attention": (False, True), "blocks": 1, "groups": 4, "batch_size": 16, "warmup": 2}


def tiny(**settings):
    return configure({**TINY, **settings})


def quick(**settings):
    """For whole runs, whose previews and losses of held-out samples then take few calls, not most of the time."""
    return tiny(**{"batch_size": 64, "timesteps": 4, **settings})


@pytest.fixture
def trainer():
    def make(source="digits", **settings):
        return Trainer(tiny(**settings), source, device="cpu", progress=False)

    return make


# --- the loss ---


@pytest.mark.parametrize("name", ["linear", "cosine", "flow", "ve"])
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow", "score"])
def test_weights_are_squared_errors_of_the_prediction(name, kind):
    """|value - value_hat|^2 of any prediction, computed directly, is the weighted loss on x0."""
    process = leapstep.SCHEDULES[name](1000)
    x0, eps, guess = torch.randn(3, 5, 4, dtype=F64)
    t = torch.tensor([0.001, 0.1, 0.4, 0.8, 0.99], dtype=F64)
    x = process.add_noise(x0, t, eps)
    target = process.combine(x0, eps, t, kind)
    estimate = process.convert(guess, x, t, "x0", kind)
    ours = loss(leapstep.Diffusion(process, lambda x, t: guess), x0, t, eps, kind)
    torch.testing.assert_close(ours, (target - estimate).square().mean(1), rtol=1e-7, atol=1e-9)


def test_min_snr_is_hang_et_al():
    process, t = leapstep.linear(), torch.tensor([0.01, 0.3, 0.9], dtype=F64)
    snr = process.log_snr(t).exp()
    x0, eps = torch.randn(2, 3, 4, dtype=F64)
    diffusion = leapstep.Diffusion(process, lambda x, t: torch.zeros_like(x))
    for gamma in (1.0, 5.0):
        ours = loss(diffusion, x0, t, eps, "min_snr", gamma)
        by_eps = loss(diffusion, x0, t, eps, "eps") * snr.clamp(max=gamma) / snr
        torch.testing.assert_close(ours, by_eps)


def test_variational_weight_is_the_term_of_the_bound():
    """T times L_{k-1} = |mu - mu_hat|^2 / (2 beta~_k), Ho et al. eq. 8, for every level k >= 2."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar = (1 - betas).cumprod(0)
    process = leapstep.from_betas(betas)
    k = torch.tensor([2, 3, 50, 500, 1000])
    now, before, beta = bar[k - 1], bar[k - 2], betas[k - 1]
    x0, eps, guess = torch.randn(3, 5, 4, dtype=F64)
    mean_gap = (before.sqrt() * beta / (1 - now))[:, None] * (x0 - guess)
    term = mean_gap.square().mean(1) / (2 * beta * (1 - before) / (1 - now))
    ours = loss(leapstep.Diffusion(process, lambda x, t: guess), x0, k / 1000, eps, "variational")
    torch.testing.assert_close(ours, 1000 * term, rtol=1e-6, atol=1e-9)
    first, second = (
        loss(leapstep.Diffusion(process, lambda x, t: guess), x0, torch.full((5,), t, dtype=F64), eps, "variational")
        for t in (0.001, 0.002)
    )
    torch.testing.assert_close(first, second)


def test_the_exact_denoiser_has_the_least_loss():
    """On Gaussian data the exact denoiser's loss is the posterior variance, and any perturbation costs more."""
    process, c, t = leapstep.linear(), 0.5, torch.full((20_000,), 0.3, dtype=F64)
    data = leapstep.GaussianMixture(torch.zeros(1, 2, dtype=F64), torch.tensor([c], dtype=F64))
    exact, x0, eps = data.diffusion(process), data.sample(20_000), torch.randn(20_000, 2, dtype=F64)
    alpha, sigma = process.alpha(t[0]), process.sigma(t[0])
    least = loss(exact, x0, t, eps, "x0").mean()
    assert least.item() == pytest.approx((c * sigma**2 / (alpha**2 * c + sigma**2)).item(), rel=0.03)
    worse = leapstep.Diffusion(process, lambda x, t: 1.1 * exact.denoise(x, t))
    assert loss(worse, x0, t, eps, "x0").mean() > least


def test_unknown_weight():
    diffusion = leapstep.Diffusion(leapstep.linear(), lambda x, t: x)
    with pytest.raises(ValueError, match="unknown weight 'simple': use one of eps"):
        loss(diffusion, torch.zeros(1, 2), torch.ones(1), torch.zeros(1, 2), "simple")


def test_stratified_times():
    """One level from each n-th of the range, uniform over all, and a mean that varies far less than by chance."""
    torch.manual_seed(0)
    draws = torch.stack([stratified_times(10, 1000) for _ in range(2000)])
    k = (draws * 1000).round()
    assert ((k.sort(1).values - 1) // 100 == torch.arange(10)).all()
    assert k.min() == 1
    assert k.max() == 1000
    assert abs(draws[:, 0].mean() - 0.5005) < 0.02  # in random order
    assert draws.mean(1).var() < draws.flatten().var() / 10 / 50
    assert stratified_times(7, 3).unique().tolist() == pytest.approx([1 / 3, 2 / 3, 1])


# --- the optimiser ---


def test_learning_rate():
    config = tiny(steps=110, warmup=9, learning_rate=1.0)
    assert [learning_rate(config, step) for step in (0, 4, 9, 109)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    cosine = config.model_copy(update={"lr_schedule": "cosine"})
    middle = 9 + (110 - 9) / 2
    assert learning_rate(cosine, 9) == pytest.approx(1.0)
    assert learning_rate(cosine, middle) == pytest.approx(0.5)
    assert learning_rate(cosine, 110) == pytest.approx(0.0)


def test_ema_warms_up_to_its_decay():
    averaged, kept = [torch.zeros(2)], []
    for n in (1, 10, 100, 100_000):
        averaged = [torch.zeros(2)]
        ema_update(0.99)(averaged, [torch.ones(2)], torch.tensor(n))
        kept.append(1 - averaged[0][0].item())
    assert kept == pytest.approx([2 / 11, 11 / 20, 101 / 110, 0.99], abs=1e-6)


@pytest.mark.slow
def test_memory_that_is_freed_is_used_again():
    """The pages of a tensor of 64 MB are those of the one before it, which the system does not have to clear anew.

    In a process of its own: where others have taken the room behind the heap, the C library cannot extend it.
    """
    if sys.platform != "linux" or getattr(ctypes.CDLL(None), "gnu_get_libc_version", None) is None:
        pytest.skip("another C library")
    program = (
        "import resource, torch\n"
        "from leapstep.training.parts import keep_memory\n"
        "keep_memory()\n"
        "for _ in range(5):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(2**24)\n"
        "    print(resource.getpagesize() * (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert min(map(int, said.split())) < 2**24


def test_the_average_begins_with_the_first_weights(trainer):
    run = trainer(ema_decay=0.9)
    for n in range(2):
        before = [value.clone() for value in run.averages[0]]
        run.advance()
        for old, averaged, current in zip(before, *run.averages, strict=True):
            kept = n and 2 / 11
            torch.testing.assert_close(averaged, torch.lerp(current, old, kept))
    assert run.ema.n_averaged == 2


def test_ema_is_what_is_saved(trainer, tmp_path):
    run = trainer(steps=4)
    for _ in range(4):
        run.advance()
    run.snapshot().write(tmp_path)
    saved = leapstep.models.checkpoint.load(tmp_path).network.state_dict()
    live = run.network.state_dict()
    for name, value in run.ema.module.state_dict().items():
        assert torch.equal(saved[name], value)
    assert any(not torch.equal(saved[name], live[name]) for name in live)


def test_accumulation_averages_the_parts(trainer):
    """The gradient of a batch in two parts is the mean of the gradients of the parts, each half a batch."""
    whole, grads = trainer(accumulate=2, clip_gradient=1e9), []
    sizes = []
    for part in range(2):
        each, _ = whole.losses(part)
        sizes.append(len(each))
        grads.append(torch.autograd.grad(each.mean(), list(whole.network.parameters()), allow_unused=True))
    assert sizes == [8, 8]
    seen = {}
    step = whole.optimizer.step

    def spy():
        if whole.accelerator.sync_gradients:
            seen["grad"] = [None if p.grad is None else p.grad.clone() for p in whole.network.parameters()]
        step()

    whole.optimizer.step = spy
    whole.advance()
    for a, b, got in zip(*grads, seen["grad"], strict=True):
        if got is not None:
            torch.testing.assert_close(got, (a + b) / 2, rtol=1e-4, atol=1e-6)


def test_gradient_is_clipped(trainer):
    run = trainer(clip_gradient=1e-3)
    seen = {}
    step = run.optimizer.step
    run.optimizer.step = lambda: (
        seen.update(norm=torch.stack([p.grad.norm() for p in run.network.parameters() if p.grad is not None]).norm()),
        step(),
    )
    assert run.advance()["gradient_norm"] > 1e-3
    assert seen["norm"].item() == pytest.approx(1e-3, rel=1e-2)


@pytest.fixture(scope="module")
def plain():
    """The traces of settings that several others are compared with."""
    return {}


def trace(settings):
    """What four steps with these settings are."""
    run = Trainer(tiny(**settings), "digits", device="cpu", progress=False)
    losses = [run.advance()["loss"] for _ in range(4)]
    rate = run.optimizer.param_groups[0]["lr"]
    return losses, rate, [tuple(p.shape) for p in run.network.parameters()], run.data.shape


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 1e-2},
        {"weight_decay": 0.5},
        {"loss": "x0"},
        {"loss": "min_snr"},
        {"loss": "variational"},
        {"predicts": "v"},
        {"predicts": "x0"},
        {"predicts": "v", "zero_terminal_snr": True},
        {"schedule": "cosine"},
        {"timesteps": 50},
        {"flip": True},
        {"labels": True},
        {"labels": True, "label_dropout": 0.9},
        {"dropout": 0.5},
        {"time_embedding": "learned"},
        {"head_channels": 4, "learning_rate": 1e-2},  # attention starts at zero, and grows with the rate
        {"attention": (False, False)},
        {"blocks": 2},
        {"groups": 2},
        {"seed": 1},
        {"batch_size": 32},
        {"warmup": 0},
        {"precision": "bf16"},
        {"network": "mlp"},
        {"network": "mlp", "width": 32},
        {"network": "mlp", "depth": 2},
        {"lr_schedule": "cosine", "steps": 4},
        {"loss": "min_snr", "min_snr_gamma": 1.0},
        {"size": 16},
        {"grey": False},
    ],
    ids=str,
)
def test_every_setting_changes_the_training(plain, settings):
    """Four steps with the setting differ from four steps without it, in losses, learning rate or shapes."""
    with_it = ("labels", "network", "loss", "predicts", "learning_rate")
    reference = {name: value for name, value in settings.items() if name in with_it}
    if set(reference) == set(settings):
        reference = {}
    ours = trace(settings)
    if str(reference) not in plain:
        plain[str(reference)] = trace(reference)
    assert all(math.isfinite(value) for value in ours[0])
    assert ours != plain[str(reference)]


def test_flip_mirrors_half_of_the_pictures(trainer, monkeypatch):
    run, seen = trainer(flip=True, batch_size=256), []

    def record(diffusion, x0, *rest):
        seen.append(x0)
        return x0.flatten(1).mean(1)

    monkeypatch.setattr(training.objective, "loss", record)
    plain, _ = run.batch(0)
    run.losses(0)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(seen[0], plain, strict=True)]
    assert 80 < sum(mirrored) < 176
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, seen[0], plain, strict=True))


def test_labels_are_dropped_as_often_as_asked(trainer):
    run, seen = trainer(labels=True, label_dropout=0.25, batch_size=1024), []
    forward = run.network.forward
    run.network.forward = lambda x, k, class_labels: (seen.append(class_labels), forward(x, k, class_labels))[1]
    _, labels = run.batch(0)
    run.losses(0)
    dropped = seen[0] == 10
    assert 0.2 < dropped.double().mean() < 0.3
    assert torch.equal(seen[0][~dropped], labels[~dropped])
    assert run.network.config.classes == 11
    assert trainer(labels=True, label_dropout=0.0).network.config.classes == 10


def test_every_sample_is_seen_once_an_epoch(trainer, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(50.0))
    run, seen = trainer(str(tmp_path / "x.npy"), batch_size=14, accumulate=2, holdout="no"), []
    for run.step in range(8):
        for part in range(2):
            seen += run.batch(part)[0].tolist()
    assert sorted(seen[:50]) == sorted(seen[50:100]) == sorted(run.data.batch(range(50)).tolist())
    assert seen[:50] != seen[50:100]


# --- runs ---


def test_python_trains_as_the_command_does(tmp_path, capfd):
    given = ["--steps", "3", "--channels", "8,8", "--attention", "0,1", "--batch-size", "64", "--timesteps", "8"]
    assert invoke("train", "digits", "--out", tmp_path / "a", *given, "--device", "cpu").exit_code == 0
    capfd.readouterr()
    settings = {"steps": 3, "channels": (8, 8), "attention": (False, True), "batch_size": 64, "timesteps": 8}
    model = leapstep.train("digits", tmp_path / "b", device="cpu", progress=False, **settings)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "a" / "leapstep.json").read_bytes() == (tmp_path / "b" / "leapstep.json").read_bytes()
    assert model.details["training"]["schedule"] == "cosine"  # of the preset for digits
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = leapstep.train("digits", tmp_path / "c", device="cpu", progress=False, config=TrainingConfig(), **settings)
    assert again.details["training"]["schedule"] == "linear"  # all settings at once, instead of a preset


def test_python_is_told_of_a_mistyped_setting(tmp_path):
    assert {"steps", "channels", "holdout"} <= set(inspect.signature(leapstep.train).parameters)
    with pytest.raises(ValueError, match="unknown setting 'stepz': did you mean 'steps'"):
        leapstep.train("digits", tmp_path / "run", stepz=3)
    with pytest.raises(ValueError, match="preset='digits': a TrainingConfig has all settings already"):
        leapstep.train("digits", tmp_path / "run", preset="digits", config=TrainingConfig())
    assert not (tmp_path / "run").exists()


def test_a_run_learns_its_data(tmp_path):
    """From an array of points to samples: an MLP trained on a known mixture draws points with its moments."""
    mixture = leapstep.GaussianMixture(torch.tensor([[2.0, 0.0], [-2.0, 1.0]]), torch.tensor([0.1, 0.3]))
    np.save(tmp_path / "points.npy", 50 + 10 * mixture.sample(5000).numpy())
    config = configure(
        {"width": 64, "depth": 2, "steps": 400, "learning_rate": 3e-3, "lr_schedule": "cosine", "warmup": 20,
         "ema_decay": 0.99, "batch_size": 256, "sample_every": 10_000, "save_every": 10_000}
    )  # fmt: skip
    model = train(str(tmp_path / "points.npy"), tmp_path / "run", config=config, device="cpu", progress=False)
    x = torch.from_numpy(model.scaling.to_values(leapstep.sample(model.diffusion(), (4000, 2), 50)))
    truth = 50 + 10 * mixture.sample(4000, seed=9).double()
    torch.testing.assert_close(x.mean(0), truth.mean(0), rtol=0, atol=2.5)
    torch.testing.assert_close(x.T.cov(), truth.T.cov(), rtol=0.12, atol=10)
    assert (x[:, 0] > 50).double().mean().item() == pytest.approx(0.5, abs=0.05)


def run_folder(path):
    """Everything in a run that training decides, bit for bit."""
    (state,) = (path / "state").iterdir()
    return {
        "state": safetensors.torch.load_file(state),
        "weights": safetensors.torch.load_file(path / "unet" / "diffusion_pytorch_model.safetensors"),
    }


def same(a, b):
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), (part, name)


def test_killed_and_resumed_is_bit_identical(tmp_path):
    """A few steps in a process, kill -9, --resume, or all at once: the same weights, EMA, optimiser and samples."""
    options = ["--channels", "8,8", "--attention", "0,1", "--groups", "4", "--dropout", "0.1", "--labels", "--flip",
               "--batch-size", "64", "--timesteps", "4", "--sample-every", "4"]  # fmt: skip
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = start("train", "digits", "--out", broken, *options, "--save-every", 4, "--steps", 100_000)
    wait_for(lambda: any((broken / "state").glob("step-*.safetensors")), process)
    process.kill()
    process.communicate()
    step = leapstep.models.checkpoint.find_state(broken)[1]["step"]
    assert step >= 4
    assert step % 4 == 0
    last = step + 4
    done("train", "digits", "--out", broken, *options, "--steps", last, "--resume")
    forget_accelerator()
    done("train", "digits", "--out", straight, *options, "--steps", last)
    same(run_folder(straight), run_folder(broken))
    for name in (f"step-{last:08d}.png", "strip.png"):
        assert (straight / "samples" / name).read_bytes() == (broken / "samples" / name).read_bytes()


def test_not_finite_loss_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    original = Trainer.losses

    def broken(self, part):
        each, t = original(self, part)
        return (each * math.nan if self.step == 5 else each), t

    monkeypatch.setattr(Trainer, "losses", broken)
    with pytest.raises(FloatingPointError, match="loss of step 6 is nan; the checkpoint of step 4 is kept"):
        train("digits", tmp_path / "run", config=quick(steps=8, save_every=2), device="cpu", progress=False)
    monkeypatch.undo()
    model = train("digits", tmp_path / "run", config=quick(steps=8), resume=True, device="cpu", progress=False)
    assert model.details["step"] == 8


def test_not_finite_gradient_leaves_the_weights_alone(trainer):
    run = trainer()
    run.advance()
    before = {name: value.clone() for name, value in run.ema.state_dict().items()}
    run.accelerator.clip_grad_norm_ = lambda *_: torch.tensor(math.nan)
    with pytest.raises(FloatingPointError, match="gradient of step 2 is not finite"):
        run.advance()
    assert all(torch.equal(value, before[name]) for name, value in run.ema.state_dict().items())
    assert run.step == 1


def test_changed_data_are_noticed(tmp_path):
    data, values = tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 3))
    settings = {"width": 8, "depth": 1, "batch_size": 8, "steps": 2}
    np.save(data, values)
    train(str(data), tmp_path / "run", config=configure(settings), device="cpu", progress=False)
    train(
        f"{tmp_path}/./x.npy", tmp_path / "run", config=configure({**settings, "steps": 3}), resume=True, device="cpu"
    )
    for changed, message in [
        (values[:40], "samples was 64, now it is 40"),
        (2 * values, "scaling was"),
        (values[:, :2], "shape"),
    ]:
        np.save(data, changed)
        with pytest.raises(ValueError, match=message):
            train(str(data), tmp_path / "run", config=configure({**settings, "steps": 4}), resume=True, device="cpu")
    with pytest.raises(ValueError, match=r"was trained on .*, not on digits"):
        train("digits", tmp_path / "run", config=configure({**settings, "steps": 4}), resume=True, device="cpu")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stopped_between_steps_and_saved(tmp_path, monkeypatch, name):
    """A signal amid a step waits for its end, so that the checkpoint is that of a whole step."""
    original, number = Trainer.losses, getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler)  # a process in the background may ignore it

    def interrupted(self, part):
        if self.step == 3:
            os.kill(os.getpid(), number)
        return original(self, part)

    monkeypatch.setattr(Trainer, "losses", interrupted)
    with pytest.raises(stopping.Stopped) as caught:
        train("digits", tmp_path / "run", config=quick(steps=8), device="cpu", progress=False)
    assert caught.value.number == number
    assert caught.value.__notes__ == [f"the checkpoint of step 4 is kept in {tmp_path / 'run'}: go on with --resume"]
    assert signal.signal(number, before) is signal.default_int_handler
    monkeypatch.undo()
    assert leapstep.models.checkpoint.find_state(tmp_path / "run")[1]["step"] == 4
    train("digits", tmp_path / "straight", config=quick(steps=4), device="cpu", progress=False)
    same(run_folder(tmp_path / "straight"), run_folder(tmp_path / "run"))


def test_existing_runs_are_safe(tmp_path):
    run = tmp_path / "run"
    train("digits", run, config=quick(steps=2), device="cpu", progress=False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for out, settings, options, message in [
        (run, {}, {}, "is not empty: --resume it, --overwrite it"),
        (run, {"batch_size": 8}, {"resume": True}, "trained with batch_size=64, not 8"),
        (run, {"channels": (8, 8, 8), "attention": (0, 0, 1)}, {"resume": True}, "trained with channels"),
        (tmp_path / "other", {}, {"overwrite": True}, "holds something else"),
        (tmp_path / "other", {}, {"resume": True}, "no training state"),
        (run, {"channels": (8, 8, 8, 8, 8), "attention": (0,) * 5}, {"overwrite": True}, "do not fit 5 stages"),
    ]:
        with pytest.raises(ValueError, match=message):
            train("digits", out, config=quick(**{"steps": 4, **settings}), device="cpu", progress=False, **options)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    train("digits", run, config=quick(steps=3), overwrite=True, device="cpu", progress=False)
    assert leapstep.models.checkpoint.find_state(run)[1]["step"] == 3
    assert {path.name for path in (run / "samples").iterdir()} == {"step-00000003.png", "strip.png"}
    assert strip(run).shape[1] < 2 * 64 + 80  # one column: nothing of the run that was there


def test_a_run_that_cannot_start_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        train("digts", tmp_path / "run", config=tiny(), device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": True}, "has none: train without --labels"),
        ({"flip": True}, "train without --flip"),
        ({"network": "unet"}, "use --network mlp"),
        ({"batch_size": 10, "accumulate": 3}, "not a multiple of accumulate 3"),
        ({"zero_terminal_snr": True}, "needs --predicts v or x0"),
        ({"zero_terminal_snr": True, "predicts": "v", "loss": "min_snr"}, "gives level T no weight"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match=message):
        Trainer(configure(settings), str(tmp_path / "x.npy"), device="cpu", progress=False)


def test_tensorboard_tells_the_story(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(
        "digits",
        tmp_path / "run",
        config=quick(steps=6, log_every=2, holdout_every=3),
        device="cpu",
        progress=False,
    )
    log = EventAccumulator(str(tmp_path / "run" / "log"))
    log.Reload()
    quarters = {f"loss_by_time/quarter_{i}" for i in range(1, 5)}
    alike = {"loss_alike/held_out", "loss_alike/training"}
    assert set(log.Tags()["scalars"]) == {
        "loss", "gradient_norm", "learning_rate", "samples_per_second", *quarters, *alike
    }  # fmt: skip
    for name in alike:
        assert [event.step for event in log.Scalars(name)] == [3, 6]
    for name in set(log.Tags()["scalars"]) - alike:
        assert [event.step for event in log.Scalars(name)] == [2, 4, 6]
    assert all(event.value > 0 for event in log.Scalars("samples_per_second"))
    rate = [event.value for event in log.Scalars("learning_rate")]
    assert rate == pytest.approx([2e-4 * 2 / 3, 2e-4, 2e-4])


def test_configuration_in_force_is_kept_with_the_run(tmp_path):
    config = quick(steps=2, loss="min_snr")
    model = train("digits", tmp_path / "run", config=config, device="cpu", progress=False)
    assert TrainingConfig(**leapstep.models.checkpoint.load(tmp_path / "run").details["training"]) == config
    assert model.details["data"]["samples"] == len(read("digits"))


# --- the samples on the way ---


@pytest.fixture
def previewed(trainer, tmp_path, monkeypatch):
    """Make the previews of a run at some steps; what stands for the sampler paints (step, number of the sample)."""

    def make(steps, source="digits", **settings):
        run = trainer(source, **settings)

        def painted(model, spec, **options):
            spec = spec.checked(model)
            values = torch.arange(spec.n).view(-1, 1, 1, 1) / 100 + run.step / 1000
            yield range(spec.n), (values * torch.ones(spec.n, *model.shape)).clamp(max=1)

        monkeypatch.setattr(previews, "draw", painted)
        for run.step in steps:
            run.preview(tmp_path)
        return run

    return make


def columns_of(steps, count, shape=(1, 8, 8), names=None):
    """The strip of samples that are painted so."""
    names = names or [f"sample {i}" for i in range(count)]
    levels = {name: [min(1, i / 100 + step / 1000) for step in steps] for i, name in enumerate(names)}
    rows = {
        name: np.stack([np.full(shape, round(127.5 + 127.5 * level), np.uint8) for level in row])
        for name, row in levels.items()
    }
    return np.asarray(table(rows, [f"step {step}" for step in steps]))


def strip(folder):
    with Image.open(folder / "samples" / "strip.png") as image:
        return np.asarray(image).astype(int)


def alike(a, b):
    return a.shape == b.shape and abs(a.astype(int) - b.astype(int)).max() <= 1  # a level may lie between two pixels


def test_the_strip_has_a_row_for_each_noise_and_a_column_for_each_step(previewed, tmp_path):
    previewed([20, 40, 50])
    assert alike(strip(tmp_path), columns_of([20, 40, 50], 10))


def test_a_long_strip_has_a_dozen_steps_evenly_in_time(previewed, tmp_path):
    """With the first and the last, also where the steps on the way were not even."""
    previewed([*range(5, 105, 5), 200, 300, 400])
    shown = [5, 40, 75, 100, 200, 300, 400]
    assert alike(strip(tmp_path), columns_of(shown, 10))
    assert previews.spread(set(range(1, 24)), 12) == set(range(1, 24, 2))
    assert previews.spread({3, 5, 9}, 12) == {3, 5, 9}
    assert len(previews.spread(set(range(7, 7000, 7)), 12)) == 12


def test_the_strip_names_the_classes(previewed, tmp_path):
    run = previewed([10, 30], labels=True)
    assert run.data.classes == tuple("0123456789")
    assert alike(strip(tmp_path), columns_of([10, 30], 10, names="0123456789"))
    with Image.open(tmp_path / "samples" / "step-00000030.png") as sheet:
        assert sheet.size == (10 * 42 + 2, 6 * 42 + 2)  # a column for each class, and none of them half full


def test_few_classes_come_round_again(previewed, tmp_path):
    source = tmp_path / "pictures"
    for name, i in itertools.product(("ant", "bee", "cat", "dog"), range(4)):
        (source / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 16 * i, np.uint8)).save(source / name / f"{i}.png")
    previewed([10, 30], str(source), labels=True)
    names = ["ant", "bee", "cat", "dog"]
    names += [f"{name} (2)" for name in names] + ["ant (3)", "bee (3)"]
    assert alike(strip(tmp_path), columns_of([10, 30], 10, names=names))


def test_the_strip_leaves_out_what_it_cannot_read_and_what_lies_ahead(previewed, tmp_path):
    """Whatever lies in the folder, training goes on; the steps that are left are spread anew."""
    previewed(range(10, 260, 10))
    folder = tmp_path / "samples"
    whole = (folder / "step-00000010.png").read_bytes()
    (folder / "step-00000010.png").write_bytes(b"damaged")
    (folder / "step-00000050.png").write_bytes(whole[: len(whole) // 2])
    save_image(grid(np.zeros((9, 1, 8, 8), np.uint8)), folder / "step-00000100.png")  # of another version
    (folder / "step-00000150.png").unlink()
    (folder / "step-00000150.png").mkdir()
    (folder / "step-00000260.png").write_bytes(whole)  # of a run that went farther than its last checkpoint
    (folder / "step-latest.png").write_bytes(whole)
    (folder / "strip.png").write_bytes(b"damaged")
    previewed([250])
    there = set(range(20, 260, 10)) - {50, 100, 150}
    shown = sorted(previews.spread(there, 12))
    assert alike(strip(tmp_path), columns_of(shown, 10))


def test_large_samples_make_a_strip_that_can_be_looked_at(previewed, tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for i in range(2):
        Image.fromarray(np.full((256, 256), i, np.uint8)).save(source / f"{i}.png")
    previewed(range(10, 50, 10), str(source), size=256)
    expected = columns_of(range(10, 50, 10), 10, (1, 128, 128))
    assert alike(strip(tmp_path), expected)


def test_what_is_no_picture_has_no_strip(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 3)))
    config = configure({"width": 8, "depth": 1, "batch_size": 8, "steps": 2, "sample_every": 1})
    train(str(tmp_path / "x.npy"), tmp_path / "run", config=config, device="cpu", progress=False)
    assert not (tmp_path / "run" / "samples").exists()


def test_samples_that_are_not_finite_do_not_end_a_run(trainer, tmp_path):
    """Also where the command line makes an error of the warning."""
    run = trainer(timesteps=5)
    for parameter in run.ema.module.parameters():
        parameter.data.fill_(torch.nan)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error", leapstep.NotFinite)
        run.preview(tmp_path)
    assert {warning.category for warning in told} == {leapstep.NotFinite}
    assert len(list((tmp_path / "samples").iterdir())) == 2
