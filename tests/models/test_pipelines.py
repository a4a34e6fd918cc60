"""Folders of pipelines of other kinds are told what they are, and what takes them."""

import json

import pytest

import leapstep
from commands import invoke, refused
from leapstep.models import pipelines


def saved(folder, name, **parts):
    """A folder that says that it is such a pipeline."""
    folder.mkdir()
    index = {"_class_name": name, **{part: ["diffusers", of] for part, of in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def told(folder):
    with pytest.raises(ValueError, match="is a pipeline of another kind") as error:
        leapstep.load(folder)
    return str(error.value)


def test_what_takes_a_pipeline_is_told(tmp_path):
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    folder = saved(tmp_path / "sd", "StableDiffusionPipeline", **parts)
    said = told(folder)
    assert "another kind, StableDiffusionPipeline, with text_encoder, vae: leapstep sample" in said
    assert f'leapstep sample {folder} --prompt "a photo"' in said
    assert 'leapstep.diffusers.from_pipeline(pipe, "a photo")' in said
    for line in (["info", folder], ["import", folder, "--out", tmp_path / "run"]):
        refused(invoke(*line), "another kind, StableDiffusionPipeline", "leapstep sample")
    said = told(saved(tmp_path / "dit", "DiTPipeline", transformer="DiTTransformer2DModel", vae="AutoencoderKL"))
    assert "--label 0 draws" in said
    assert "from_pipeline(pipe, class_labels=[0])" in said


def test_a_run_folder_is_no_other_pipeline(tmp_path):
    for name, network in (("DDPMPipeline", "UNet2DModel"), ("XPipeline", "UNet2DConditionModel")):
        folder = saved(tmp_path / name, name, unet=network, scheduler="DDPMScheduler")
        assert (pipelines.other(folder) is None) == (name == "DDPMPipeline")
    assert pipelines.other(tmp_path) is None
