"""The scheduler for diffusers' pipelines: the numbers of `leapstep.sample`, and the contract that pipelines rely on."""

import copy
import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import leapstep
from leapstep.core.fitting.linear import coefficients

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from leapstep.diffusers import Scheduler, from_scheduler  # noqa: E402
from leapstep.diffusers.methods import ADAPTIVE  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers

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


# --- where it begins -----------------------------------------------------------------------------------------------


def made(kind="flow", method="ddim", steps=6, **options):
    scheduler = Scheduler.from_config(KINDS[kind], method=method, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def later(scheduler, x, first):
    """What image-to-image does: from the calls that are left."""
    scheduler.set_begin_index(first)
    return drawn(scheduler, x / scheduler.init_noise_sigma, first=first)


@pytest.mark.parametrize("method", ["ddim", "unipc", "heun", "pc"])
def test_image_to_image_begins_in_the_middle(method):
    scheduler = made("eps", method, spacing="trailing")
    first = 2 * scheduler.order
    diffusion = leapstep.from_network(network, dataclasses.replace(from_scheduler(KINDS["eps"]), fractional=True))
    times = leapstep.times(diffusion.process, 6)[2:]
    noises = Drawn(1, noise(0).shape)
    *_, last = leapstep.trajectory(diffusion, noise(0), times, method, noises)
    scheduler.set_begin_index(first)
    there = drawn(scheduler, noise(0), generator=torch.Generator().manual_seed(1), first=first)
    torch.testing.assert_close(there, last.x, rtol=1e-6, atol=1e-6)
    assert (scheduler.begin_index, scheduler.step_index) == (first, len(scheduler.timesteps))


def test_a_beginning_inside_a_step_waits_for_the_next():
    """On a flow Heun's first step has one call, so that two calls a step count past the beginning of the others."""
    scheduler = made("flow", "heun", spacing="trailing")
    assert scheduler.timesteps[2] == scheduler.timesteps[3]
    inside, opening = later(scheduler, noise(0), 2), later(scheduler, noise(0), 3)
    torch.testing.assert_close(inside, opening, rtol=1e-6, atol=1e-6)


def test_edm_in_the_middle():
    """It is shown x after the noise of its first step, from where DDIM leads on; then it goes up and down by itself."""
    scheduler = made("eps", "edm", spacing="trailing")
    plan, convention = scheduler._plan, dataclasses.replace(from_scheduler(KINDS["eps"]), fractional=True)
    first = next(index for index, call in enumerate(plan.calls) if call.step == 2)
    assert plan.calls[first].t > plan.times[2]
    diffusion = leapstep.from_network(network, convention)
    zero = lambda draw=0: torch.zeros_like(noise(0))  # noqa: E731
    t = torch.tensor(plan.calls[first].t, dtype=torch.float64)
    down = leapstep.ddim()(diffusion, noise(0), t, plan.times[3], None, zero).x
    *_, last = leapstep.trajectory(diffusion, down, plan.times[3:], "edm", Drawn(1, down.shape))
    scheduler.set_begin_index(first)
    there = drawn(scheduler, noise(0), generator=torch.Generator().manual_seed(1), first=first)
    torch.testing.assert_close(there, last.x, rtol=1e-5, atol=1e-5)


def test_without_a_begin_index_the_first_timestep_tells():
    scheduler = made("flow", "heun")
    said = later(scheduler, noise(0), 3)
    scheduler.set_timesteps(6)
    torch.testing.assert_close(drawn(scheduler, noise(0), first=3), said, rtol=0, atol=0)


def test_the_same_steps_again():
    """A trajectory that has come to its end leaves nothing behind."""
    scheduler = made("eps", "unipc", order=3)
    assert torch.equal(drawn(scheduler, noise(0)), drawn(scheduler, noise(0)))


def test_denoising_ends_and_goes_on_elsewhere():
    """SDXL's base and refiner: each step is taken by one of them, and methods without a memory lose nothing."""
    whole, base, refiner = (made("eps", "heun", 6) for _ in range(3))
    x = noise(0)
    for t in base.timesteps[:4]:
        x = base.step(network(x, t), t, x, return_dict=False)[0]
    torch.testing.assert_close(later(refiner, x, 4), drawn(whole, noise(0)), rtol=1e-6, atol=1e-6)


# --- times ---------------------------------------------------------------------------------------------------------


def test_times_of_ones_own():
    """Timesteps are what the network is told; sigmas are sigma / alpha, with or without a last 0."""
    scheduler = made("eps", "unipc")
    scheduler.set_timesteps(timesteps=[999, 500, 20])
    assert scheduler.timesteps.tolist() == [999, 500, 20]
    theirs = diffusers.EulerDiscreteScheduler()
    theirs.set_timesteps(timesteps=[999, 500, 20])
    torch.testing.assert_close(scheduler.sigmas, theirs.sigmas, rtol=1e-4, atol=0)
    for sigmas in (theirs.sigmas, theirs.sigmas[:-1].tolist()):
        scheduler.set_timesteps(sigmas=sigmas)
        torch.testing.assert_close(scheduler.timesteps, torch.tensor([999.0, 500.0, 20.0]), rtol=0, atol=0.05)


def test_sigmas_of_flow_matching_are_shifted():
    """The even ones that pipelines pass of themselves do not take the place of a spacing; others do."""
    even, own = [1.0, 0.75, 0.5, 0.25], [1.0, 0.8, 0.3]
    theirs = KINDS["flow"]
    for sigmas in (even, own):
        theirs.set_timesteps(sigmas=sigmas)
        scheduler = made()
        scheduler.set_timesteps(sigmas=sigmas)
        torch.testing.assert_close(scheduler.timesteps, theirs.timesteps)
        torch.testing.assert_close(scheduler.sigmas, theirs.sigmas)
    spaced = made(spacing="log_snr")
    spaced.set_timesteps(sigmas=even)
    assert torch.equal(spaced.timesteps, made(spacing="log_snr", steps=4).timesteps)
    spaced.set_timesteps(sigmas=own)
    torch.testing.assert_close(spaced.timesteps, scheduler.timesteps)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_the_size_of_the_image_shifts_time(kind):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    theirs.set_timesteps(5, mu=1.2)
    scheduler = Scheduler.from_config(theirs.config)
    scheduler.set_timesteps(5, mu=1.2)
    torch.testing.assert_close(scheduler.timesteps, theirs.timesteps)
    with pytest.raises(ValueError, match="pass mu="):
        scheduler.set_timesteps(5)


def test_networks_that_are_told_the_time_before_it_is_shifted():
    """CogView4 passes both, in whole timesteps; beside a spacing they only count."""
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    told = torch.linspace(1000, 1, 7).long().float().numpy()
    theirs.set_timesteps(timesteps=told, sigmas=told / 1000, mu=0.6)
    scheduler = Scheduler.from_config(theirs)
    scheduler.set_timesteps(timesteps=told, sigmas=told / 1000, mu=0.6)
    torch.testing.assert_close(scheduler.timesteps, theirs.timesteps)
    torch.testing.assert_close(scheduler.sigmas, theirs.sigmas)
    x = noise(0)
    for t in theirs.timesteps:
        x = theirs.step(network(x, t), t, x).prev_sample
    torch.testing.assert_close(drawn(scheduler, noise(0)), x, rtol=1e-5, atol=1e-5)
    spaced = Scheduler.from_config(theirs, spacing="log_snr")
    spaced.set_timesteps(timesteps=told, sigmas=told / 1000, mu=0.6)
    process = leapstep.flow(shift=0.6)
    assert spaced.sigmas[:-1].tolist() == pytest.approx(process.sigma(leapstep.times(process, 7, "log_snr")[:-1]))
    torch.testing.assert_close(process.sigma(spaced.timesteps.double() / 1000).float(), spaced.sigmas[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass one of num_inference_steps, timesteps and sigmas"),
        ({"timesteps": [9, 5], "sigmas": [1, 0.5]}, "pass one of"),
        ({"timesteps": [5, 9]}, r"timesteps=\[5.0, 9.0\]: they must fall"),
        ({"sigmas": [2.0, 1.0]}, "for flow matching they lie in"),
        ({"num_inference_steps": 0}, "at least 1 step"),
    ],
)
def test_steps_that_lead_nowhere(arguments, message):
    with pytest.raises(ValueError, match=message):
        made().set_timesteps(**arguments)


# --- noise ---------------------------------------------------------------------------------------------------------


def test_a_generator_for_each_picture():
    """Picture 2 of a batch is the same alone."""
    scheduler = made("eps", "ddim", eta=1.0)
    batch = drawn(scheduler, noise(0), generator=[torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    alone = drawn(scheduler, noise(0)[2:], generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(batch[2:], alone, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="2 generators for 3 samples"):
        drawn(scheduler, noise(0), generator=[torch.Generator()] * 2)


def stirred(scheduler, eta):
    x, generator = noise(0), torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, eta=eta, generator=generator).prev_sample
    return x


def test_an_eta_of_0_means_as_configured():
    """Stable Diffusion always passes it."""
    assert torch.equal(stirred(made("eps", "ddim"), 0.7), stirred(made("eps", "ddim", eta=0.7), 0.0))
    assert not torch.equal(stirred(made("eps", "ddim", eta=0.7), 0.0), stirred(made("eps", "ddim"), 0.0))
    with pytest.raises(ValueError, match=r"eta=0\.7 is an option of the method ddim, and this is unipc"):
        stirred(made("eps", "unipc"), 0.7)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_on_data(kind):
    scheduler, theirs = made(kind, steps=5), KINDS[kind]
    theirs.set_timesteps(5)
    x0, eps = noise(0), noise(1)
    for scheduler_t, theirs_t in zip(scheduler.timesteps[1:], theirs.timesteps[1:], strict=True):
        if kind == "flow":
            there = theirs.scale_noise(x0, theirs_t[None], eps)
            ours = scheduler.scale_noise(x0, theirs_t[None], eps)
        else:
            there = theirs.add_noise(x0, eps, (theirs_t if kind != "edm" else scheduler_t)[None])
            ours = scheduler.add_noise(x0, eps, theirs_t.repeat(3))
        torch.testing.assert_close(ours, there, rtol=1e-5, atol=1e-5)


# --- the rest of the contract --------------------------------------------------------------------------------------


def test_half_precision_is_computed_in_full():
    """States go in and out in the dtype of the pipeline; the step between has no rounding of its own."""
    scheduler, x = made("flow", "unipc"), noise(0)
    half = x.bfloat16()
    t = scheduler.timesteps[0]
    result = scheduler.step(network(half, t), t, half)
    again = made("flow", "unipc")
    full = again.step(network(half, t).float(), t, half.float())
    assert result.prev_sample.dtype == result.pred_original_sample.dtype == torch.bfloat16
    assert torch.equal(result.prev_sample, full.prev_sample.bfloat16())
    assert torch.equal(result.pred_original_sample, full.pred_original_sample.bfloat16())


def test_half_precision_keeps_what_small_steps_add():
    """Along a constant velocity of 0.3 x = 1 ends at 0.7; each of 200 steps is less than bfloat16 can take from 1.

    What the pipeline puts in its place goes on from there.
    """
    scheduler, x = made("flow", "ddim", 200), torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)
    for number, t in enumerate(scheduler.timesteps):
        x = scheduler.step(torch.full_like(x, 0.3), t, x, return_dict=False)[0]
        if number == 149:
            x = torch.cat([x[:, :1], torch.full_like(x[:, 1:], -0.5)], 1)
    whole, rest = 1 - 0.3, -0.5 - 0.3 * scheduler.sigmas[150]
    torch.testing.assert_close(x[:, 0].float(), torch.full((1, 4, 4), whole), rtol=0, atol=2e-3)
    torch.testing.assert_close(x[:, 1].float(), rest.expand(1, 4, 4), rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m", "heun", "edm"])
def test_latents_that_are_changed_in_place_are_changed(method):
    """As `callback_on_step_end` may do: the same as with others in their place."""

    def changed(in_place):
        scheduler, x, generator = made("eps", method, spacing="log_snr"), noise(0), torch.Generator().manual_seed(1)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, generator=generator, return_dict=False)[0]
            x = x.mul_(0.9) if in_place else x * 0.9
        return x

    assert torch.equal(changed(True), changed(False))
    assert not torch.allclose(changed(True), drawn(made("eps", method, spacing="log_snr"), noise(0)), atol=1e-2)


def changed_at_half_time(scheduler, call=0):
    """What becomes of samples to which 0.3 is added before a call at t = 1 / 2, the first or the last of them."""
    x, half = noise(0), [number for number, t in enumerate(scheduler.timesteps) if t == 499]
    for number, t in enumerate(scheduler.timesteps):
        x = x + 0.3 if number == half[call] else x
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(("method", "call"), [("dpmpp_2m", 0), ("unipc", 0), ("fitted", 0), ("heun", 0), ("heun", -1)])
def test_a_change_is_not_lost(method, call):
    """Between the calls of a step, and by methods that start from an earlier x; the reference takes small steps."""
    options, path = {"spacing": "trailing"}, leapstep.times(from_scheduler(KINDS["v"]).process, 40, "trailing")
    if method == "fitted":
        matrix = coefficients(from_scheduler(KINDS["v"]).process, leapstep.unipc(), path).tolist()
        options |= {"times": path.tolist(), "coefficients": [row[: i + 2] for i, row in enumerate(matrix)]}
    exact = changed_at_half_time(made("v", "dpmpp_2m", 400, spacing="trailing"))
    found = changed_at_half_time(made("v", method, 40, **options), call)
    assert (found - exact).norm() < 0.05 * (exact - drawn(made("v", "unipc", 40), noise(0))).norm()


def test_a_scheduler_follows_one_trajectory():
    """Two samples that take turns, or one that goes back, are refused; a timestep that was cut to an integer is not."""
    scheduler, x = made("eps", "unipc"), noise(0)
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match=r"timestep=.*, and the next call is number 1 at"):
        scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.step(x, scheduler.timesteps[1].clone(), x)
    scheduler.set_timesteps(timesteps=[999, 500.9, 499.8])
    for cut in (999, 500, 499):
        scheduler.step(x, cut, x)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(3)
    with pytest.raises(ValueError, match="number 3"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_a_copy_goes_on_by_itself_and_threads_have_one_each():
    scheduler = made("eps", "dpmpp_3m")
    whole = drawn(scheduler, noise(0))
    x = noise(0)
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(network(x, t), t, x).prev_sample
    other = copy.deepcopy(scheduler)
    for one in (other, scheduler):
        end = x
        for t in one.timesteps[3:]:
            end = one.step(network(end, t), t, end).prev_sample
        assert torch.equal(end, whole)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(drawn, copy.deepcopy(scheduler), noise(0), 6) for _ in range(8)]
    assert all(torch.equal(job.result(), whole) for job in jobs)


def tuned(start="marginal"):
    """The content of a `tuned.json`: DDIM's coefficients for two numbers of calls."""
    solvers = []
    for times in ([1.0, 0.4, 0.0], [1.0, 0.5, 0.2, 0.0]):
        rows = [[times[i + 1]] + [0.0] * i + [1 - times[i + 1]] for i in range(len(times) - 1)]
        solvers.append(
            {
                "calls": len(times) - 1,
                "start": start,
                "error": 0.1,
                "standard_error": 0.0,
                "evaluations": 1,
                "seconds": 1.0,
                "times": times,
                "coefficients": rows,
            }
        )
    tuning = {"guidance": 1.0, "rescale": 0.0, "labels": "all", "conditions_sha256": None, "teacher": {}}
    tuning |= {"solvers": solvers, "untuned": []}
    return {"version": 1, "weights_sha256": "0", "convention_sha256": None, "tunings": [tuning]}


def test_fitted_solvers(tmp_path):
    """With coefficients that a flow's x_s = s x + (1 - s) x0 has from t = 1, a number of calls for each solver."""
    (tmp_path / "tuned.json").write_text(json.dumps(tuned()))
    scheduler = Scheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(), method="fitted", tuned=tmp_path)
    scheduler.save_pretrained(tmp_path / "saved")
    again = Scheduler.from_pretrained(tmp_path / "saved")
    for calls in (2, 3):
        again.set_timesteps(calls)
        solver = tuned()["tunings"][0]["solvers"][calls - 2]
        torch.testing.assert_close(again.timesteps, 1000 * torch.tensor(solver["times"][:-1]))
        diffusion = leapstep.from_network(network, from_scheduler(again))
        method = leapstep.fitted(solver["times"], solver["coefficients"])
        *_, last = leapstep.trajectory(diffusion, noise(0), torch.tensor(solver["times"], dtype=torch.float64), method)
        torch.testing.assert_close(drawn(again, noise(0)), last.x, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="steps=4: solvers were fitted for 2, 3 steps"):
        again.set_timesteps(4)
    with pytest.raises(ValueError, match="pipelines start from noise"):
        Scheduler.from_config(KINDS["flow"], method="fitted", tuned=tuned("gaussian"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk45"}, "chooses its own steps"),
        ({"method": "unipcc"}, r"did you mean unipc\?.*, rk4, pf_euler"),
        ({"method": "unipc", "ordr": 3}, "unipc has no option 'ordr': did you mean order"),
        ({"method": "unipc", "spacings": "karras"}, "unipc has no option 'spacings': did you mean spacing"),
        ({"method": "unipc", "order": 7}, "order=7"),
        ({"method": "fitted"}, "needs its solver"),
        ({"method": 3}, "method=3: pass a name"),
        ({"spacing": "even"}, "unknown spacing='even'"),
        ({"prediction_type": "noise"}, "prediction_type='noise' is not supported"),
        ({"sigma_max": 80.0}, "sigma_max=80.0 is not supported with flow matching"),
    ],
)
def test_what_there_is_not(options, message):
    with pytest.raises(ValueError, match=message):
        Scheduler.from_config(KINDS["flow"].config, **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: diffusers.CMStochasticIterativeScheduler().config, "CMStochasticIterativeScheduler is not one of"),
        (
            lambda: diffusers.ScoreSdeVeScheduler().config,
            r"no 'beta_schedule': pass .* as pipe\.scheduler\.config",
        ),
        (lambda: diffusers.DDPMPipeline(None, KINDS["eps"]), "DDPMPipeline is a pipeline: pass the configuration of"),
    ],
)
def test_what_is_no_configuration_of_ours(source, message):
    """A configuration that was made in memory names no class."""
    with pytest.raises(ValueError, match=message):
        Scheduler.from_config(source(), method="unipc")


@pytest.mark.parametrize("kind", KINDS)
def test_spacings_go_by_the_keys_of_diffusers_too(kind):
    for theirs, ours in (("use_karras_sigmas", "karras"), ("use_exponential_sigmas", "log_snr")):
        quad = Scheduler.from_config(KINDS[kind].config, spacing="quad")
        assert Scheduler.from_config(quad.config, **{theirs: True}).config.spacing == ours
        assert Scheduler.from_config(quad.config, **{theirs: True}, spacing="linspace").config.spacing == "linspace"


def test_arguments_of_other_schedulers_are_not_swallowed():
    scheduler, x = made(), noise(0)
    scheduler.step(x, scheduler.timesteps[0], x, s_churn=None, use_clipped_model_output=False)
    with pytest.raises(ValueError, match=r"per_token_timesteps=.* no such argument"):
        scheduler.step(x, scheduler.timesteps[1], x, per_token_timesteps=torch.ones(3))
    with pytest.raises(ValueError, match="call set_timesteps"):
        Scheduler.from_config(KINDS["flow"]).step(x, 1.0, x)


def test_methods_by_other_names_and_as_transitions():
    named = Scheduler.from_config(KINDS["eps"], method="uni_pc_bh2")
    assert (named.config.method, named.config.options) == ("unipc", {"order": 3})
    given = Scheduler.from_config(KINDS["eps"], method=leapstep.unipc(order=3))
    assert given.config.options == named.config.options
    assert Scheduler.from_config(given.config, spacing="quad").config.options == {"order": 3}
    assert Scheduler.from_config(given.config, method="heun").config.options == {}


def test_without_diffusers():
    program = """if True:
        import sys
        sys.modules["diffusers"] = None
        import leapstep
        try:
            leapstep.diffusers.Scheduler
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("leapstep.diffusers.Scheduler needs diffusers: pip install 'leapstep[diffusers]'")
