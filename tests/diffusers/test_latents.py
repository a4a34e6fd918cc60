"""Pipelines as models over latents: what they sample is what the pipeline samples, and all else that takes a model."""

import copy
import dataclasses

import pytest
import torch

import leapstep
from leapstep.diffusers import latents as module
from leapstep.diffusers.latents import from_pipeline
from leapstep.diffusers.recording import record
from leapstep.diffusers.scheduler import Scheduler
from leapstep.inference.encoding import interpolate
from leapstep.inference.engine import draw
from leapstep.inference.spec import SamplingSpec
from pipelines import IMAGE, KINDS, MASK, SHORT, SQUARE, TEXT, WARNINGS, diffusers, stable_diffusion, wan

pytestmark = [*WARNINGS, pytest.mark.filterwarnings("ignore:.*was not found in config:UserWarning")]


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "name", [name for name in KINDS if name not in ("ddpm", "image_to_image", "legacy_inpainting")]
)
def test_a_pipeline_and_its_model_draw_the_same(made, name):
    """With our scheduler in the pipeline, and by the one loop from the same noise; then decoded to the same picture."""
    pipe, (_, call, images) = made(name), KINDS[name]
    model = from_pipeline(pipe, **call)
    pipe.scheduler = Scheduler.from_config(pipe.scheduler, method="unipc")
    takes_latents = name not in ("ddim", "dit", "inpainting")  # the last makes random conditions, too
    z = noise(1, *model.shape, seed=3 if takes_latents else 0)
    start, generator = {"latents": z} if takes_latents else {}, torch.Generator().manual_seed(0)
    drawn = pipe(num_inference_steps=4, output_type="pt", generator=generator, **start, **call)
    path = torch.cat([model.convention.time_of(pipe.scheduler.timesteps), torch.zeros(1, dtype=torch.float64)])
    x0 = leapstep.decode(model, z * pipe.scheduler.init_noise_sigma, path, "unipc")
    ours, theirs = model.decode(x0), torch.as_tensor(getattr(drawn, images))
    torch.testing.assert_close(ours, theirs if images == "audios" else 2 * theirs - 1, rtol=0, atol=2e-5)


def test_an_image_to_image_pipeline_gives_its_network(made):
    """Where it starts is not the network's concern."""
    text, image = (from_pipeline(made(name), **KINDS[name].call) for name in ("stable_diffusion", "image_to_image"))
    x, t = noise(2, *text.shape), torch.tensor(0.4, dtype=torch.float64)
    torch.testing.assert_close(text.diffusion().denoise(x, t), image.diffusion().denoise(x, t))


def test_the_pipeline_is_not_touched(made):
    pipe = made("sdxl")
    before, state = dict(vars(pipe)), dict(vars(pipe.scheduler))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = from_pipeline(pipe, **KINDS["sdxl"].call)
    assert (vars(pipe), vars(pipe.scheduler)) == (before, state)
    assert torch.rand(1) == expected
    assert model.network.network is pipe.unet
    assert not pipe.unet._forward_hooks


def test_gradients_flow_through_the_network_and_the_decoder(made):
    model = from_pipeline(made("flux"), **KINDS["flux"].call)
    x = noise(1, *model.shape).requires_grad_()
    x0 = model.diffusion().denoise(x, torch.tensor(0.5, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(model.decode(x0).sum(), x)
    assert gradient.norm() > 0
    assert not model.decode(x0.detach()).requires_grad


# --- prompts and guidance ------------------------------------------------------------------------------------------

T = torch.tensor(0.6, dtype=torch.float64)


@pytest.fixture(scope="module")
def several(made):
    """Three prompts, recorded two at a time, and each by itself."""
    pipe, prompts = made("sdxl"), ["a cat", "a dog", "an owl"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PROMPTS_AT_ONCE", 2)
        together = from_pipeline(pipe, prompts, "rain", 3.0, **SQUARE)
    return together, [from_pipeline(pipe, prompt, "rain", 3.0, **SQUARE) for prompt in prompts]


def test_prompts_are_classes(several):
    together, single = several
    assert together.classes == together.prompts == ("a cat", "a dog", "an owl")
    x = noise(4, *together.shape)
    labels = torch.tensor([2, 0, 1, 2])
    expected = torch.cat([single[int(n)].diffusion().denoise(row[None], T) for n, row in zip(labels, x, strict=True)])
    torch.testing.assert_close(together.diffusion(labels).denoise(x, T), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        together.diffusion().denoise(x[:3], T), together.diffusion(torch.arange(3)).denoise(x[:3], T)
    )
    with pytest.raises(ValueError, match="4 samples for 3 prompts"):
        together.diffusion().denoise(x, T)
    with pytest.raises(ValueError, match="labels must lie between 0 and 2"):
        together.diffusion(torch.tensor([3]))


def test_guidance_may_be_changed(made, several):
    model, x = several[1][0], noise(1, *several[0].shape)
    assert model.guidance == pytest.approx(3.0)
    for scale in (1.0, 5.0):
        other = from_pipeline(made("sdxl"), "a cat", "rain", scale, **SQUARE)
        expected = other.diffusion().denoise(x, T)
        torch.testing.assert_close(model.diffusion(guidance=scale).denoise(x, T), expected, rtol=1e-3, atol=1e-3)
    unguided = from_pipeline(made("sdxl"), "a cat", guidance=1.0, **SQUARE)
    with pytest.raises(ValueError, match="call from_pipeline with this guidance"):
        unguided.diffusion(guidance=5.0)


def test_guidance_is_not_left_out_unsaid(several, made):
    """A specification has guidance 1 by default: for a model that was made with 3 that is an oversight."""
    model = several[0]
    for changes, said in [
        ({"labels": (0,)}, "guidance=1: the model was made with guidance 3"),
        ({"guidance": 3.0}, "one class at a time"),
    ]:
        spec = SamplingSpec(steps=2, n=3, **changes)
        with pytest.raises(ValueError, match=said):
            next(iter(draw(model, spec)))
        with pytest.raises(ValueError, match=said):
            interpolate(model, dataclasses.replace(spec, n=1), [0, 1], 3)
    call = {**KINDS["stable_diffusion"].call, "guidance_rescale": 0.7}
    rescaled = from_pipeline(made("stable_diffusion"), **call)
    with pytest.raises(ValueError, match=r"rescale=0: the model was made with rescale 0\.7"):
        SamplingSpec(guidance=7.5).checked(rescaled)
    SamplingSpec(guidance=7.5, rescale=0.7).checked(rescaled)
    SamplingSpec(guidance=2.0, labels=(0,)).checked(model)


def test_one_half_is_called_without_guidance(several):
    rows = []
    unet = several[1][0].network.network
    handle = unet.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["sample"])), with_kwargs=True
    )
    several[1][0].diffusion(guidance=1.0).denoise(noise(2, *several[0].shape), T)
    several[1][0].diffusion().denoise(noise(2, *several[0].shape), T)
    handle.remove()
    assert rows == [2, 4]


def test_the_rescaled_contrast_is_the_pipelines(made):
    """`guidance_rescale` is of the output, where that of `leapstep.guided` is of x0."""
    pipe = made("stable_diffusion")
    call = {**KINDS["stable_diffusion"].call, "guidance_rescale": 0.7}
    model = from_pipeline(pipe, **call)
    assert (model.network.rescale, model.guidance) == (0.7, 7.5)
    z = noise(1, *model.shape)
    step = record(pipe, {**call, "latents": z}, 1).steps[0]
    torch.testing.assert_close(model.network(z, torch.tensor([step.timestep])), step.output, rtol=1e-4, atol=1e-4)
    plain = from_pipeline(pipe, **KINDS["stable_diffusion"].call).network(z, torch.tensor([step.timestep]))
    assert not torch.allclose(plain, step.output, rtol=1e-2, atol=1e-2)


# --- latents and pictures ------------------------------------------------------------------------------------------


def test_encoding_is_the_inverse_of_what_the_pipeline_does_to_latents(made):
    """Flux packs, shifts and scales; Wan has a mean for each channel."""
    pipe, pictures = made("flux"), noise(2, 3, 16, 16).clamp(-1, 1)
    z = pipe.vae.encode(pictures).latent_dist.mode()
    scaled = (z - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    packed = pipe._pack_latents(scaled, 2, 4, 8, 8)
    model = from_pipeline(pipe, **KINDS["flux"].call)
    torch.testing.assert_close(model.encode(pictures), packed, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="pass the sizes of these"):
        model.encode(noise(1, 3, 24, 24))
    pipe, frames = made("wan"), noise(1, 5, 3, 16, 16).clamp(-1, 1)
    z = pipe.vae.encode(frames.transpose(1, 2)).latent_dist.mode()
    mean, std = (torch.tensor(pipe.vae.config[name]).view(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    model = from_pipeline(pipe, **KINDS["wan"].call)
    torch.testing.assert_close(model.encode(frames), (z - mean) / std, rtol=1e-4, atol=1e-4)


def test_latents_are_samples_of_a_model(made, several):
    """Interpolation, and a specification: its guidance is its own, and prompts take turns."""
    model = several[0]
    spec = SamplingSpec(method="ddim", steps=3, n=3, guidance=3.0, labels=("a dog", 2))
    drawn = torch.cat([x for _, x in draw(model, spec)])
    start = leapstep.Noise(0, range(3), model.shape)(0)
    path = spec.checked(model).times_for(model)
    expected = leapstep.decode(model.diffusion(torch.tensor([1, 2, 1])), start * model.process.sigma(path[0]), path)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    between = interpolate(model, dataclasses.replace(spec, labels=(1,), n=1, spacing="trailing"), [0, 1], 3)
    first = dataclasses.replace(spec, labels=(1,), n=1, spacing="trailing")
    torch.testing.assert_close(between[:1], next(iter(draw(model, first)))[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["stable_diffusion", "flux"])
def test_half_precision(name):
    """Samplers keep float32, the network its own dtype; what rounds its timesteps hides no clock."""
    call = KINDS[name].call
    exact, half = (from_pipeline(KINDS[name].make().to(dtype), **call) for dtype in (torch.float32, torch.bfloat16))
    assert half.network.clock == exact.network.clock
    assert half.guidance == exact.guidance
    x, pictures = noise(1, *exact.shape), noise(1, 3, 16, 16).clamp(-1, 1)
    pair = [model.diffusion().denoise(x, T) for model in (exact, half)]
    assert pair[1].dtype == torch.float32
    assert (pair[1] - pair[0]).norm() < 0.2 * pair[0].norm()
    codes = [model.encode(pictures) for model in (exact, half)]
    assert (codes[1] - codes[0]).norm() < 0.1 * codes[0].norm()
    with pytest.raises(ValueError, match="computes in its own dtype"):
        next(iter(draw(half, SamplingSpec(steps=2, n=1, guidance=half.guidance, dtype="float32"))))


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_pipeline_that_does_more_is_told_what(made):
    def told(pipe, **call):
        with pytest.raises(ValueError, match=r"leapstep\.diffusers\.Scheduler works in it all the same") as error:
            from_pipeline(pipe, **call)
        return str(error.value)

    legacy = made("legacy_inpainting")
    assert "changes the latents between the steps" in told(legacy, **TEXT, **SQUARE, **IMAGE, **MASK)
    two = wan()
    second = diffusers.WanPipeline(
        **{**two.components, "transformer_2": copy.deepcopy(two.transformer)}, boundary_ratio=0.9
    )
    second.set_progress_bar_config(disable=True)
    assert "calls transformer and transformer_2" in told(second, **KINDS["wan"].call)

    class Bounded(diffusers.DDIMScheduler):
        def scale_model_input(self, sample, timestep=None):
            return sample.clamp(-1, 1)

    pipe = stable_diffusion()
    pipe.scheduler = Bounded.from_config(pipe.scheduler.config)
    assert "something else than the latents" in told(pipe, **TEXT, **SQUARE)


def test_a_folder_is_no_pipeline():
    with pytest.raises(ValueError, match=r"str is no pipeline .* diffusers\.DiffusionPipeline\.from_pretrained"):
        from_pipeline("a folder", "a cat")


def test_a_combination_of_answers_that_is_no_sum_is_refused(made, monkeypatch):
    pipe = made("stable_diffusion")
    rescaled = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion.rescale_noise_cfg"
    monkeypatch.setattr(rescaled, lambda noise_cfg, *_, **__: noise_cfg.tanh())
    with pytest.raises(ValueError, match="no sum of the 2 answers of its network"):
        from_pipeline(pipe, **TEXT, **SQUARE, guidance_rescale=0.5)


def test_arguments_that_do_not_fit_are_refused_in_a_line(made):
    pipe = made("stable_diffusion")
    for call, said in [
        ({"prompt": "a cat", "frames": 3}, "StableDiffusionPipeline takes no frames"),
        ({"prompt": "a cat", "num_inference_steps": 3}, "num_inference_steps=3: a model over latents has its own"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 of negative_prompt for 2 of prompt"),
        ({"prompt": "a cat", "height": 13, "width": 13}, "StableDiffusionPipeline refuses this call"),
    ]:
        with pytest.raises(ValueError, match=said) as error:
            from_pipeline(pipe, **call)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="FluxPipeline takes no class_labels"):
        from_pipeline(made("flux"), "a cat", class_labels=[1], **SHORT)
