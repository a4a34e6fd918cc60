"""Our scheduler in pipelines of every kind, beside diffusers' own where the method is the same."""

import copy
import itertools
import threading

import pytest
import torch

from leapstep.diffusers import Scheduler
from pipelines import IMAGE, KINDS, MASK, SQUARE, TEXT, WARNINGS, diffusers, sdxl, sdxl_image_to_image

pytestmark = WARNINGS

FLOWS = ("sd3", "flux", "ltx")
STEPS = 4


def drawn(pipe, name, seeds=(0,), **changes):
    """What a pipeline makes: a tensor."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    call = {"num_inference_steps": STEPS, "output_type": "pt", **KINDS[name].call, **changes}
    result = pipe(generator=generators if len(seeds) > 1 else generators[0], **call)
    return torch.as_tensor(getattr(result, KINDS[name].images))


def with_ours(pipe, method="ddim", **options):
    pipe.scheduler = Scheduler.from_config(pipe.scheduler, method=method, **options)
    return pipe


def with_theirs(pipe):
    """With a DDIM that ends at the data itself, as ours does, and bounds nothing: its bound leaves eps as it was."""
    changes = {"clip_sample": False, "set_alpha_to_one": True}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    return pipe


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dit", "stable_diffusion", "image_to_image", "inpainting", "sdxl"])
def test_ddim_is_theirs(made, name):
    """Also where images begin at a strength, or a mask is beside the latents; timesteps, too."""
    pipe = with_theirs(made(name))
    changes = {"eta": 0.0} if name in ("ddim", "stable_diffusion") else {}
    theirs = drawn(pipe, name, **changes)
    torch.testing.assert_close(drawn(with_ours(pipe), name, **changes), theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_step_of_euler_along_a_flow_is_theirs(made, name):
    pipe = made(name)
    theirs = drawn(pipe, name)
    torch.testing.assert_close(drawn(with_ours(pipe), name), theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "name", ["dit", "stable_diffusion", "image_to_image", "legacy_inpainting", "sdxl", "pixart", *FLOWS, "wan"]
)
def test_a_sample_of_a_batch_is_the_same_alone(made, name):
    """With noise in every step, of each sample's own generator where the pipeline hands it on."""
    pipe = made(name)
    hands_on = name not in FLOWS and name not in ("dit", "wan")
    with_ours(pipe, "sde_dpmpp_2m" if hands_on else "unipc")
    lists = {key: [value] for key, value in KINDS[name].call.items() if key in ("prompt", "negative_prompt")}
    lists |= {key: KINDS[name].call[key] for key in ("class_labels",) if name == "dit"}
    four = {key: value * 4 for key, value in lists.items()}
    if name == "image_to_image" or name == "legacy_inpainting":
        four["image"] = IMAGE["image"].repeat(4, 1, 1, 1)
    if name == "legacy_inpainting":
        four["mask_image"] = MASK["mask_image"].repeat(4, 1, 1, 1)
    batch = drawn(pipe, name, (0, 1, 2, 3), **four)
    torch.testing.assert_close(batch[3:], drawn(pipe, name, (3,), **lists), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["stable_diffusion", "flux", "stable_audio"])
def test_a_pipeline_that_holds_our_scheduler_is_saved_and_opened(made, name, tmp_path):
    pipe = with_ours(made(name), "unipc", order=3)
    pipe.save_pretrained(tmp_path)
    parts = {key: value for key, value in pipe.components.items() if key != "scheduler"}
    kept = Scheduler.from_pretrained(tmp_path, subfolder="scheduler")
    again = type(pipe)(**parts, scheduler=kept)
    again.set_progress_bar_config(disable=True)
    assert kept.config["options"] == {"order": 3}
    torch.testing.assert_close(drawn(again, name), drawn(pipe, name), rtol=0, atol=0)


def test_threads_have_a_scheduler_each(made):
    """The pipeline's networks are shared, but for the text encoder: those of transformers are for one thread."""
    pipe = with_ours(made("stable_diffusion"), "unipc")
    texts = (KINDS["stable_diffusion"].call[name] for name in ("prompt", "negative_prompt"))
    with torch.no_grad():
        prompt, negative = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in texts)
    given = {"prompt": None, "negative_prompt": None, "prompt_embeds": prompt, "negative_prompt_embeds": negative}
    alone = [drawn(pipe, "stable_diffusion", (seed,), **given) for seed in range(3)]
    found = {}

    def work(seed):
        mine = copy.copy(pipe)
        mine.scheduler = copy.deepcopy(pipe.scheduler)
        found[seed] = drawn(mine, "stable_diffusion", (seed,), **given)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, expected in enumerate(alone):
        torch.testing.assert_close(found[seed], expected, rtol=0, atol=1e-6)


def test_timesteps_are_not_cut_to_integers(made):
    """What the network is told is what the scheduler has, also between two levels."""
    pipe, told = with_ours(made("wan"), "unipc", spacing="log_snr"), []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    drawn(pipe, "wan")
    handle.remove()
    assert told[::2] == pipe.scheduler.timesteps.tolist()
    assert any(t != round(t) for t in told)


def test_each_step_previews_x0(made):
    """The last of them is the sample."""
    pipe, previews, kept = with_ours(made("stable_diffusion"), "unipc"), [], []
    step = pipe.scheduler.step

    def watched(*args, **kwargs):
        result = step(*args, **{**kwargs, "return_dict": True})
        previews.append(result.pred_original_sample)
        kept.append(result.prev_sample)
        return (result.prev_sample,)

    watched.__wrapped__ = step
    pipe.scheduler.step = watched
    drawn(pipe, "stable_diffusion")
    assert len(previews) == STEPS
    torch.testing.assert_close(previews[-1], kept[-1], rtol=1e-4, atol=1e-4)
    moves = [(later - earlier).norm() for earlier, later in itertools.pairwise(previews)]
    assert min(moves) > 0


def test_a_base_and_a_refiner_make_one_trajectory():
    """`denoising_end` of one and `denoising_start` of the other: of DDIM, whose steps remember nothing."""
    whole, base, refiner = with_ours(sdxl()), with_ours(sdxl()), with_ours(sdxl_image_to_image())
    call = {**TEXT, "num_inference_steps": 6, "output_type": "latent"}
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = whole(latents=start, **call, **SQUARE).images
    half = base(latents=start, denoising_end=0.5, **call, **SQUARE).images
    # time ids of the two pipelines differ but for those that are given
    sizes = {"original_size": (16, 16), "target_size": (16, 16)}
    found = refiner(image=half, denoising_start=0.5, **call, **sizes).images
    assert not torch.allclose(half, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("name", ["image_to_image", "legacy_inpainting"])
def test_strengths_are_theirs(made, name, strength):
    pipe = with_theirs(made(name))
    theirs = drawn(pipe, name, strength=strength, num_inference_steps=8)
    ours = drawn(with_ours(pipe), name, strength=strength, num_inference_steps=8)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
