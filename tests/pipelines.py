"""Pipelines of diffusers with small random networks, one of each kind that calls its network in its own way.

Each is made from diffusers' and transformers' own classes, without files or a network connection, in well under a
second. `KINDS` has them by name, with the arguments of a call that makes something small.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


class Kind(NamedTuple):
    """A kind of pipeline: what makes one, arguments of its call, and the name of what the call returns."""

    make: Callable[[], Any]
    call: dict[str, Any]
    images: str = "images"


@contextlib.contextmanager
def _seeded(seed: int = 0) -> Iterator[None]:
    """Random weights that are the same each time, and leave the generator of the caller alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _made(make: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline of random weights, without a progress bar."""

    @functools.wraps(make)
    def seeded(*args: Any, **kwargs: Any) -> Any:
        with _seeded():
            pipe = make(*args, **kwargs)
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        return pipe

    return seeded


# --- parts ---------------------------------------------------------------------------------------------------------


def clip_tokenizer() -> Any:
    """A CLIP tokenizer that knows letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *[f"{letter}</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=8)


def t5_tokenizer() -> Any:
    """A T5 tokenizer that knows letters."""
    letters = [(chr(code), -3.0) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=16)


def clip_text(projected: bool = False, **changes: Any) -> Any:
    """The text encoder of CLIP."""
    config = transformers.CLIPTextConfig(
        **{
            "vocab_size": 54,
            "hidden_size": 16,
            "intermediate_size": 24,
            "projection_dim": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 8,
            "bos_token_id": 52,
            "eos_token_id": 53,
            "pad_token_id": 53,
            **changes,
        }
    )
    make = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return make(config)


def t5_text() -> Any:
    """The text encoder of T5."""
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config)


def autoencoder(channels: int = 4, **changes: Any) -> Any:
    """An autoencoder of pictures with half as many pixels a side in its latents."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=16,
        **changes,
    )


def text_unet(**changes: Any) -> Any:
    """A U-Net of latents that is told a text."""
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "cross_attention_dim": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **changes,
        }
    )


def latent_scheduler(**changes: Any) -> Any:
    """The scheduler of Stable Diffusion's checkpoints, as DDIM."""
    return diffusers.DDIMScheduler(
        **{
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            **changes,
        }
    )


# --- pictures without text -----------------------------------------------------------------------------------------


def pixel_unet() -> Any:
    """A U-Net of pixels."""
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


@_made
def ddpm() -> Any:
    """`DDPMPipeline`."""
    return diffusers.DDPMPipeline(pixel_unet(), diffusers.DDPMScheduler())


@_made
def ddim() -> Any:
    """`DDIMPipeline`."""
    return diffusers.DDIMPipeline(pixel_unet(), diffusers.DDIMScheduler())


@_made
def dit(learned: bool = True) -> Any:
    """`DiTPipeline`: class labels, of 1000 as the pipeline takes 1000 for none, and a learned variance."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if learned else 4,
        num_layers=2,
        norm_num_groups=4,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    names = {str(label): f"class {label}" for label in range(1000)}
    return diffusers.DiTPipeline(transformer, autoencoder(), scheduler, id2label=names)


# --- pictures of a text --------------------------------------------------------------------------------------------


def _stable_diffusion(pipeline: Any, **unet: Any) -> Any:
    return pipeline(
        vae=autoencoder(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=text_unet(**unet),
        scheduler=latent_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@_made
def stable_diffusion() -> Any:
    """`StableDiffusionPipeline`."""
    return _stable_diffusion(diffusers.StableDiffusionPipeline)


@_made
def image_to_image() -> Any:
    """`StableDiffusionImg2ImgPipeline`."""
    return _stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline)


@_made
def inpainting() -> Any:
    """`StableDiffusionInpaintPipeline` with a network that sees the mask and the masked latents."""
    return _stable_diffusion(diffusers.StableDiffusionInpaintPipeline, in_channels=9)


@_made
def legacy_inpainting() -> Any:
    """`StableDiffusionInpaintPipeline` with a network of latents alone, which the pipeline blends."""
    return _stable_diffusion(diffusers.StableDiffusionInpaintPipeline)


@_made
def sdxl() -> Any:
    """`StableDiffusionXLPipeline`."""
    return diffusers.StableDiffusionXLPipeline(**_sdxl_parts())


@_made
def sdxl_image_to_image() -> Any:
    """`StableDiffusionXLImg2ImgPipeline` with the networks of `sdxl`: its second half."""
    return diffusers.StableDiffusionXLImg2ImgPipeline(**_sdxl_parts())


def _sdxl_parts() -> dict[str, Any]:
    unet = text_unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 16,
        cross_attention_dim=32,
    )
    return {
        "vae": autoencoder(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(projected=True),
        "tokenizer_2": clip_tokenizer(),
        "unet": unet,
        "scheduler": diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        "add_watermarker": False,
    }


@_made
def pixart() -> Any:
    """`PixArtAlphaPipeline`: T5 with a mask, a learned variance."""
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=1,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=16,
        caption_channels=16,
        num_embeds_ada_norm=1000,
        use_additional_conditions=False,
    )
    return diffusers.PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


@_made
def sd3() -> Any:
    """`StableDiffusion3Pipeline`: a flow."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


@_made
def flux(guidance: bool = True) -> Any:
    """`FluxPipeline`: a flow of packed latents that is told the scale of guidance."""
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
    )
    return diffusers.FluxPipeline(
        scheduler=scheduler,
        vae=autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_text(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


# --- videos and sound ----------------------------------------------------------------------------------------------


@_made
def ltx() -> Any:
    """`LTXPipeline`: a flow of packed latents of a video."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=t5_text(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )


@_made
def wan() -> Any:
    """`WanPipeline`: a flow of latents of a video, with two calls a step under guidance."""
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 1.0, 0.5],
    )
    return diffusers.WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
        vae=vae,
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=transformer,
    )


@_made
def stable_audio() -> Any:
    """`StableAudioPipeline`: EDM's preconditioning in the scheduler, latents of sound."""
    transformer = diffusers.StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
    )
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    projection = diffusers.StableAudioProjectionModel(
        text_encoder_dim=16, conditioning_dim=4, min_value=0, max_value=32
    )
    return diffusers.StableAudioPipeline(
        vae=vae,
        text_encoder=t5_text(),
        projection_model=projection,
        tokenizer=t5_tokenizer(),
        transformer=transformer,
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500.0, sigma_data=1.0, prediction_type="v_prediction"
        ),
    )


TEXT = {"prompt": "a cat", "negative_prompt": "a dog"}
SQUARE = {"height": 16, "width": 16}

IMAGE = {"image": torch.linspace(0, 1, 768).view(1, 3, 16, 16)}
MASK = {"mask_image": (torch.arange(256).view(1, 1, 16, 16) > 100).float()}
SHORT = {"max_sequence_length": 16}

WARNINGS = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
]
"""What diffusers warns of in its own code: marks for a test that uses these pipelines."""

KINDS = {
    "ddpm": Kind(ddpm, {}),
    "ddim": Kind(ddim, {}),
    "dit": Kind(dit, {"class_labels": [3], "guidance_scale": 4.0}),
    "stable_diffusion": Kind(stable_diffusion, TEXT | SQUARE),
    "image_to_image": Kind(image_to_image, TEXT | IMAGE),
    "inpainting": Kind(inpainting, TEXT | SQUARE | IMAGE | MASK),
    "legacy_inpainting": Kind(legacy_inpainting, TEXT | SQUARE | IMAGE | MASK),
    "sdxl": Kind(sdxl, TEXT | SQUARE),
    "pixart": Kind(
        pixart, TEXT | SQUARE | {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 16}
    ),
    "sd3": Kind(sd3, TEXT | SQUARE),
    "flux": Kind(flux, {"prompt": "a cat"} | SQUARE | SHORT),
    "ltx": Kind(ltx, TEXT | SHORT | {"height": 32, "width": 32, "num_frames": 9}, "frames"),
    "wan": Kind(wan, TEXT | SQUARE | SHORT | {"num_frames": 5}, "frames"),
    "stable_audio": Kind(stable_audio, TEXT | {"audio_end_in_s": 1.0}, "audios"),
}
"""By name: what makes a pipeline, and arguments of its call."""
