"""The same method here and in diffusers gives the same numbers, and inside a pipeline the orders hold."""

import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import leapstep

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from leapstep.diffusers import Scheduler, from_scheduler  # noqa: E402

pytestmark = [  # inside diffusers
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

EVEN = {"lower_order_final": False, "euler_at_final": True}  # their last step alone is of first order, as ours
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
SCALED = ("Euler", "Heun", "KDPM2", "LMS")
"""Schedulers whose x is x_t / alpha."""

SAME = [  # their scheduler, its settings, our method and options, whether the steps are taken from theirs
    ("DDIM", {"clip_sample": False}, "ddim", {}, True),
    ("DDIM", {"clip_sample_range": 0.5}, "ddim", {"eps": "raw"}, True),
    ("DDIM", {"clip_sample": False, "timestep_spacing": "trailing"}, "ddim", {}, False),
    ("DDIM", {"clip_sample": False, "steps_offset": 1}, "ddim", {}, False),
    ("DDIM", {"thresholding": True, "sample_max_value": 1.0}, "ddim", {"eps": "raw"}, True),
    ("DDIM", {"thresholding": True, "sample_max_value": 1.5}, "ddim", {"eps": "raw"}, True),
    (
        "DDIM",
        {
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "timestep_spacing": "trailing",
        },
        "ddim",
        {},
        False,
    ),
    ("DDPM", {}, "ddpm", {}, True),
    ("DDPM", {"variance_type": "fixed_large", "clip_sample": False}, "ddpm", {"variance": "beta"}, True),
    ("DPMSolverMultistep", EVEN, "dpmpp_2m", {}, True),
    ("DPMSolverMultistep", EVEN | {"prediction_type": "v_prediction"}, "dpmpp_2m", {}, True),
    ("DPMSolverMultistep", EVEN | {"prediction_type": "sample"}, "dpmpp_2m", {}, True),
    ("DPMSolverMultistep", EVEN | {"algorithm_type": "sde-dpmsolver++"}, "sde_dpmpp_2m", {}, True),
    ("UniPCMultistep", {}, "unipc", {}, True),
    ("EulerDiscrete", {}, "ddim", {}, True),
    ("EulerAncestralDiscrete", {}, "ddim", {"eta": 1.0}, True),
    ("HeunDiscrete", {}, "heun", {}, True),
    ("KDPM2Discrete", {}, "dpm_2", {}, True),
    ("LMSDiscrete", {}, "deis", {"order": 4, "variable": "rho"}, True),
    ("FlowMatchEulerDiscrete", {}, "ddim", {}, False),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}, "ddim", {}, False),
    ("FlowMatchEulerDiscrete", {"shift": 3.0, "shift_terminal": 0.1}, "ddim", {}, False),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "ddim", {}, False),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True, "shift": 3.0}, "ddim", {}, False),
    ("EDMEuler", {}, "ddim", {}, False),
    ("EDMEuler", {"rho": 5.0}, "ddim", {}, False),
    ("EDMEuler", {"sigma_schedule": "exponential", "prediction_type": "v_prediction"}, "ddim", {}, False),
    ("EDMDPMSolverMultistep", EVEN, "dpmpp_2m", {}, False),
    (
        "EulerDiscrete",
        {
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
            "use_karras_sigmas": True,
            "sigma_min": 0.002,
            "sigma_max": 700.0,
            "timestep_spacing": "leading",
        },
        "ddim",
        {},
        False,
    ),
    (
        "CogVideoXDDIM",
        {
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "clip_sample": False,
        },
        "ddim",
        {},
        False,
    ),
]


def network(x, timestep):
    told = torch.as_tensor(timestep, dtype=torch.float32)
    return 0.7 * torch.tanh(1.3 * x + 0.3 * torch.sin(told / 300).to(x))


def drawn(scheduler, x):
    """The samples of a scheduler of either library, from its own x at the first time."""
    asks = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(3)} if asks else {}
    scales = getattr(scheduler, "scale_model_input", lambda x, t: x)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scales(x, t), t), t, x, return_dict=False, **options)[0]
    return x


@pytest.mark.parametrize(("name", "settings", "method", "options", "their_steps"), SAME)
def test_the_same_method_gives_the_same_numbers(name, settings, method, options, their_steps):
    theirs = getattr(diffusers, f"{name}Scheduler")(**settings)
    ours = Scheduler.from_config(theirs, method=method, **options)
    theirs.set_timesteps(10)
    if their_steps:
        twice = name.startswith(("Heun", "KDPM2"))
        opening = [theirs.timesteps[0], *theirs.timesteps[2::2]] if twice else theirs.timesteps
        ours.set_timesteps(timesteps=[float(t) for t in opening])
    else:
        ours.set_timesteps(10)
    convention = from_scheduler(theirs)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * getattr(theirs, "init_noise_sigma", 1.0)
    there = drawn(theirs, x)
    if name.startswith(SCALED) and convention.sigma_data is None:
        x = x * convention.process.alpha(convention.time_of(ours.timesteps[0])).float()
    here = drawn(ours, x)
    assert len(ours.timesteps) == len(theirs.timesteps)
    assert (here - there).abs().max() < 5e-6 * there.abs().max()


@pytest.mark.parametrize(("name", "method"), [("UniPCMultistep", "unipc"), ("DPMSolverMultistep", "dpmpp_2m")])
def test_timesteps_of_flows_are_not_cut_to_integers(name, method):
    """Theirs are, so that the network is told another time than x has; else the steps are nearly the same."""
    theirs = getattr(diffusers, f"{name}Scheduler")(**FLOW)
    ours = Scheduler.from_config(theirs, method=method)
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    assert theirs.timesteps.dtype == torch.int64
    torch.testing.assert_close(ours.timesteps, 1000 * ours.sigmas[:-1])
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-2, atol=1e-6)
    assert (ours.timesteps % 1).abs().max() > 0.1


class Exact(torch.nn.Module):
    """A network of velocities whose answer is the exact posterior mean of a mixture."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(sample_size=1, in_channels=2)
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        means = torch.tensor([[-0.5, 0.2], [0.4, 0.4], [0.1, -0.5]], dtype=torch.float64)
        self.diffusion = leapstep.GaussianMixture(means, torch.tensor([0.02, 0.03, 0.02]).double()).diffusion(
            leapstep.flow()
        )

    dtype, device = torch.float64, torch.device("cpu")

    def forward(self, x, timestep):
        t = timestep.double() / 1000
        flat = x.flatten(1)
        velocity = self.diffusion.process.convert(self.diffusion.denoise(flat, t), flat, t, "x0", "flow")
        return SimpleNamespace(sample=velocity.reshape(x.shape))


@pytest.mark.parametrize(
    ("method", "options", "order"),
    [
        ("ddim", {}, 1),
        ("dpmpp_2m", {}, 2),
        ("unipc", {}, 3),
        ("unipc", {"order": 3}, 4),
        ("heun", {}, 2),
        ("rk4", {}, 4),
    ],
)
def test_orders_hold_inside_a_pipeline(method, options, order):
    """From the same noise through diffusers' own DDIMPipeline, against leapstep with very many steps."""
    net = Exact()
    pipe = diffusers.DDIMPipeline(unet=net, scheduler=diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe.scheduler = Scheduler.from_config(flow, method=method, spacing="log_snr", **options)

    def samples(steps):
        generator = torch.Generator().manual_seed(0)
        images = pipe(batch_size=64, generator=generator, num_inference_steps=steps, output_type="np").images
        return 2 * images[:, 0, 0] - 1

    start = torch.randn(64, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).flatten(1)
    times = leapstep.times(leapstep.flow(), 200, "log_snr")
    *_, last = leapstep.trajectory(net.diffusion, start, times, "rk4")
    counts = [60, 120, 240] if order == 3 else [30, 60, 120]  # where the next order is too small to be seen
    errors = [np.sqrt(((samples(steps) - last.x.numpy()) ** 2).mean()) for steps in counts]
    slope = np.polyfit([math.log(steps) for steps in counts], np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.25), errors
