"""Pipelines of other kinds are told what they are, and the lines that come with it sample them."""

import itertools
import json
import types

import pytest
import torch

import leapstep
from commands import invoke, refused

diffusers = pytest.importorskip("diffusers")

VAE = {
    "block_out_channels": (8,),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "norm_num_groups": 4,
}


@pytest.fixture(autouse=True)
def _grad():
    yield
    torch.set_grad_enabled(True)


def told(folder):
    with pytest.raises(ValueError, match="its network is sampled from Python") as error:
        leapstep.load(folder)
    return str(error.value)


def ran(folder, **given):
    """The names that the lines leave behind."""
    names = dict(given)
    for line in told(folder).partition("(docs/checkpoints.md): ")[2].split("; "):
        if not (line.startswith("pipe =") and "pipe" in given):
            exec(line, names)
    return names


def saved(folder, name, **parts):
    """A folder that says that it is such a pipeline."""
    folder.mkdir()
    index = {"_class_name": name, **{part: ["diffusers", of] for part, of in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_dit(tmp_path):
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    )
    vae = diffusers.AutoencoderKL(latent_channels=4, **VAE)
    diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "dit")
    assert "another kind, DiTPipeline: a transformer on the latents of an autoencoder" in told(tmp_path / "dit")
    names = ran(tmp_path / "dit")
    assert names["images"].shape == (1, 3, 8, 8)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    both = torch.cat([x, x])
    labels = torch.tensor([0, 10])
    said = names["pipe"].transformer(both, torch.tensor([499, 499]), class_labels=labels).sample[:, :4]
    eps = torch.lerp(said[1:], said[:1], 4.0)
    expected = leapstep.linear().split(eps, x, t, "eps")[0]
    torch.testing.assert_close(names["diffusion"].denoise(x, t), expected, rtol=1e-3, atol=1e-3)
    refused(invoke("info", tmp_path / "dit"), "another kind, DiTPipeline", "from_network")
    refused(invoke("import", tmp_path / "dit", "--out", tmp_path / "run"), "another kind, DiTPipeline")


def test_stable_diffusion(tmp_path):
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=6,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=1,
    )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    text, free = torch.randn(1, 7, 6), torch.zeros(1, 7, 6)
    pipe = types.SimpleNamespace(
        unet=unet,
        scheduler=scheduler,
        vae=diffusers.AutoencoderKL(latent_channels=4, **VAE),
        encode_prompt=lambda prompt, device, number, guided: (text, free),
    )
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    folder = saved(tmp_path / "sd", "StableDiffusionPipeline", **parts)
    assert "a U-Net on the latents of an autoencoder, told a text, with text_encoder, vae" in told(folder)
    names = ran(folder, pipe=pipe)
    assert names["images"].shape == (1, 3, 8, 8)
    abar = scheduler.alphas_cumprod[499].double()
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    v = [unet(x, 499, encoder_hidden_states=each).sample for each in (free, text)]
    expected = abar.sqrt() * x - (1 - abar).sqrt() * torch.lerp(*v, 7.5)
    torch.testing.assert_close(names["diffusion"].denoise(x, t), expected.float(), rtol=1e-3, atol=1e-3)


def test_stable_diffusion_xl(tmp_path):
    """Its network is told the encoders' common vector and sizes, which the lines for others do not do."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=6,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=1,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=5 + 6 * 4,
    )
    text, free, pooled, none = torch.randn(1, 7, 6), torch.zeros(1, 7, 6), torch.randn(1, 5), torch.zeros(1, 5)
    pipe = types.SimpleNamespace(
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        vae=diffusers.AutoencoderKL(latent_channels=4, **VAE),
        encode_prompt=lambda prompt: (text, free, pooled, none),
    )
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder_2": "CLIPTextModelWithProjection"}
    names = ran(saved(tmp_path / "xl", "StableDiffusionXLPipeline", **parts), pipe=pipe)
    assert names["images"].shape == (1, 3, 8, 8)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64]])
    eps = [
        unet(x, 499, words, added_cond_kwargs={"text_embeds": vector, "time_ids": sizes}).sample
        for words, vector in ((free, none), (text, pooled))
    ]
    abar = pipe.scheduler.alphas_cumprod[499].double()
    expected = (x - (1 - abar).sqrt() * torch.lerp(*eps, 5.0)) / abar.sqrt()
    torch.testing.assert_close(names["diffusion"].denoise(x, t), expected.float(), rtol=1e-3, atol=1e-3)


def test_a_flow(tmp_path):
    """From the same noise, without guidance, the samples are those of diffusers' own loop."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=16,
        pooled_projection_dim=5,
        out_channels=4,
    )
    text, pooled = torch.randn(1, 7, 6), torch.randn(1, 5)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = types.SimpleNamespace(
        transformer=transformer,
        scheduler=scheduler,
        vae=diffusers.AutoencoderKL(latent_channels=4, shift_factor=0.1, **VAE),
        encode_prompt=lambda prompt, second, third: (text, text, pooled, pooled),
    )
    parts = {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    names = ran(saved(tmp_path / "sd3", "StableDiffusion3Pipeline", **parts), pipe=pipe)
    shift, even = names["shift"], names["even"]
    sigmas = (shift * even / (1 + (shift - 1) * even)).double()
    x = leapstep.Noise(0, range(1), (4, 8, 8))(0)
    for now, then in itertools.pairwise(sigmas):
        velocity = transformer(x, text, pooled, 1000 * now[None].float()).sample
        x = x + (then - now).float() * velocity
    torch.testing.assert_close(names["latents"], x, rtol=1e-3, atol=1e-3)


def test_of_others_their_parts_are_told(tmp_path):
    folder = saved(tmp_path / "x", "AudioPipeline", transformer="AudioTransformer", vocoder="Vocoder")
    said = told(folder)
    assert "AudioPipeline: of which leapstep does not know how it is called, with transformer, vocoder" in said
    assert "from_network(NETWORK, PROCESS" in said
