"""The scheduler for diffusers' pipelines: the numbers of `leapstep.sample`, and the contract that pipelines rely on."""

import dataclasses
import json

import pytest
import torch

import leapstep

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from leapstep.diffusers import Scheduler, from_scheduler  # noqa: E402
from leapstep.diffusers.methods import ADAPTIVE  # noqa: E402

METHODS = [name for name in leapstep.TRANSITIONS if name not in ADAPTIVE]
KINDS = {
    "eps": diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=0.8),
    "v": diffusers.DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", clip_sample=False),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "edm": diffusers.EDMEulerScheduler(),
}


def network(x, timestep):
    """Answers that depend on x and on the timestep, however it counts."""
    told = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1, *[1] * (x.ndim - 1)).expand(len(x), *x.shape[1:])
    return 0.7 * torch.tanh(1.3 * x + 0.3 * torch.sin(told / 300).to(x))


def drawn(scheduler, x, steps=None, generator=None, net=network, first=0, **options):
    """What a pipeline does: from noise of variance 1 to the sample."""
    if steps is not None or options:
        scheduler.set_timesteps(steps, **options)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps[first:]:
        answer = net(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(answer, t, x, generator=generator, return_dict=False)[0]
    return x


def noise(seed, shape=(3, 2, 4, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Drawn:
    """The noise of a generator, as a trajectory asks for it."""

    def __init__(self, seed, shape):
        self.generator, self.shape, self.known = torch.Generator().manual_seed(seed), shape, {}

    def __call__(self, step, draw=0):
        if (step, draw) not in self.known:
            self.known[step, draw] = torch.randn(self.shape, generator=self.generator)
        return self.known[step, draw]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_samples_are_those_of_leapstep(method, kind):
    scheduler = Scheduler.from_config(KINDS[kind].config, method=method, spacing="log_snr")
    x = noise(0)
    there = drawn(scheduler, x, 6, torch.Generator().manual_seed(1))
    convention = from_scheduler(KINDS[kind])
    diffusion = leapstep.from_network(network, dataclasses.replace(convention, fractional=True))
    times = leapstep.times(convention.process, 6, "log_snr")
    *_, last = leapstep.trajectory(diffusion, x * scheduler.init_noise_sigma, times, method, Drawn(1, x.shape))
    assert last.calls == len(scheduler.timesteps)
    torch.testing.assert_close(there, last.x, rtol=1e-6, atol=1e-6)


def test_what_pipelines_read():
    scheduler = Scheduler.from_config(diffusers.DDIMScheduler(steps_offset=1).config, method="heun")
    scheduler.set_timesteps(5)
    assert (len(scheduler.timesteps), len(scheduler.sigmas), scheduler.order, len(scheduler)) == (9, 10, 2, 1000)
    assert scheduler.timesteps.dtype == torch.float32
    assert scheduler.timesteps.min() >= 0
    assert scheduler.sigmas[-1] == 0
    assert scheduler.init_noise_sigma == pytest.approx(1)
    assert (scheduler.config.num_train_timesteps, scheduler.config.steps_offset) == (1000, 1)
    assert scheduler.config.get("use_flow_sigmas", False) is False
    assert "EulerDiscreteScheduler" in {kind.__name__ for kind in scheduler.compatibles}


def test_saved_and_read_again(tmp_path):
    scheduler = Scheduler.from_config(KINDS["flow"].config, method="unipc", order=3, spacing="karras", shift=5.0)
    scheduler.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert (written["method"], written["options"], written["shift"]) == ("unipc", {"order": 3}, 5.0)
    again = Scheduler.from_pretrained(tmp_path)
    assert torch.equal(drawn(again, noise(0), 5), drawn(scheduler, noise(0), 5))
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(again.config)
    assert theirs.config.shift == 5.0
