"""`leapstep sample` and `leapstep tune` of pipelines of diffusers, as a user has them: folders that were saved."""

import json
import shutil

import numpy as np
import pytest
import torch

from commands import done, invoke, pictures, refused, values
from leapstep.data import read, shards
from leapstep.diffusers.drawing import Asked, Drawing, seed_of
from leapstep.diffusers.folder import open_pipeline
from pipelines import KINDS, WARNINGS

pytestmark = WARNINGS


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of a pipeline of each of some kinds."""
    place = tmp_path_factory.mktemp("pipelines")
    for name in ("stable_diffusion", "dit", "wan"):
        KINDS[name].make().save_pretrained(place / name)
    return place


def sampled(folder, out, *words):
    done("sample", folder, "--out", out, "--device", "cpu", *words)
    return json.loads((out / "manifest.json").read_text())


def test_prompts_take_turns_and_a_picture_is_the_same_alone(saved, tmp_path):
    words = ["--prompt", "a cat", "--prompt", "a dog", "--method", "sde_dpmpp_2m", "--steps", 3]
    manifest = sampled(saved / "stable_diffusion", tmp_path / "all", *words, "--n", 4)
    assert (manifest["finished"], manifest["calls"], manifest["spec"]["guidance"]) == (4, 3, 7.5)
    assert manifest["pipeline"]["prompts"] == ["a cat", "a dog"]
    drawn = pictures(tmp_path / "all")
    assert drawn.shape == (4, 16, 16, 3)
    assert (tmp_path / "all" / "grid.png").exists()
    sampled(saved / "stable_diffusion", tmp_path / "alone", *words, "--first", 3, "--n", 1)
    assert abs(pictures(tmp_path / "alone") - drawn[3:]).max() <= 1
    (tmp_path / "all" / "00003.png").unlink()
    sampled(saved / "stable_diffusion", tmp_path / "all", *words, "--n", 4, "--resume")
    np.testing.assert_array_equal(pictures(tmp_path / "all"), drawn)
    again = ["sample", saved / "stable_diffusion", *words[:2], "--steps", 3, "--n", 4, "--resume"]
    refused(invoke(*again, "--out", tmp_path / "all"), "--resume with what they were drawn with")


def test_a_sample_is_what_the_pipeline_draws_with_its_generator(saved):
    pipe = open_pipeline(str(saved / "stable_diffusion"))
    drawing = Drawing(pipe, {"method": "ddim", "steps": 2, "seed": 5, "n": 2}, Asked(("a cat",), "rain", 16, 24))
    calls = []
    (_, drawn), *_ = drawing.batches(calls.append)
    assert calls == [len(drawing.pipe.scheduler.timesteps)] * len(drawing.pipe.scheduler.timesteps)
    assert drawn.shape == (2, 3, 16, 24)
    generator = torch.Generator().manual_seed(seed_of(5, 1))
    call = {"height": 16, "width": 24, "negative_prompt": "rain", "generator": generator, "output_type": "pt"}
    torch.testing.assert_close(drawn[1:], pipe("a cat", num_inference_steps=2, **call).images, rtol=0, atol=1e-5)


def test_labels_and_videos(saved, tmp_path):
    manifest = sampled(saved / "dit", tmp_path / "dit", "--label", "3", "7", "--guidance", 4, "--steps", 2)
    assert manifest["spec"]["labels"] == [3, 7]
    assert pictures(tmp_path / "dit").shape == (2, 16, 16, 3)
    size = ["--height", 16, "--width", 16]
    manifest = sampled(saved / "wan", tmp_path / "wan", "--prompt", "a cat", "--steps", 1, *size)
    assert values(tmp_path / "wan").shape[:1] + values(tmp_path / "wan").shape[2:] == (1, 3, 16, 16)


def test_an_array_that_was_stopped_goes_on(saved, tmp_path, monkeypatch):
    words = ["--label", "3", "7", "--steps", 2, "--n", 5, "--batch-size", 2, "--format", "npz"]
    sampled(saved / "dit", tmp_path / "whole", *words)
    real, drawn = Drawing._drawn, []

    def counted(self, rows, on_step):
        drawn.append(rows)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return real(self, rows, on_step)

    monkeypatch.setattr(Drawing, "_drawn", counted)
    assert invoke("sample", saved / "dit", "--out", tmp_path / "s", "--device", "cpu", *words).exit_code == 130
    for _ in range(2):  # once more changes nothing
        sampled(saved / "dit", tmp_path / "s", *words, "--resume")
        assert drawn == [range(2), range(2, 4), range(2, 4), range(4, 5)]
        np.testing.assert_array_equal(values(tmp_path / "s"), values(tmp_path / "whole"))


@pytest.mark.parametrize(("form", "kind"), [("parquet", "dit"), ("npz", "stable_diffusion")])
def test_shards_hold_what_one_process_draws(saved, tmp_path, form, kind):
    words = {
        "dit": ["--label", "3", "7"],
        "stable_diffusion": ["--prompt", "a cat", "a dog", "a cat"],  # one of them twice
    }[kind]
    words = [*words, "--steps", 2, "--n", 5, "--batch-size", 2, "--first", 1]
    sampled(saved / kind, tmp_path / "whole", *words, "--format", "npz")
    manifest = sampled(saved / kind, tmp_path / "s", *words, "--format", form, "--on", "here", "--shard", 2)
    assert [shard["n"] for shard in manifest["shards"]] == [2, 2, 1]
    assert (manifest["finished"], manifest["spec"]["dtype"]) == (5, "float32")
    data = read(tmp_path / "s", split="all")
    np.testing.assert_array_equal(data.values, values(tmp_path / "whole"))
    assert data.classes == (("3", "7") if kind == "dit" else ("a cat", "a dog"))
    assert data.labels.tolist() == ([1, 0, 1, 0, 1] if kind != "stable_diffusion" else [1, 0, 0, 1, 0])
    shards.of_folder(tmp_path / "s").paths[1].unlink()
    sampled(saved / kind, tmp_path / "s", *words, "--format", form, "--resume")
    np.testing.assert_array_equal(read(tmp_path / "s", split="all").values, data.values)


def test_a_folder_without_one_of_its_text_encoders_opens(tmp_path):
    """Stable Diffusion 3 is often saved without T5; diffusers alone wants to be told so again."""
    KINDS["sd3"].make().save_pretrained(tmp_path)
    assert open_pipeline(str(tmp_path)).text_encoder_3 is None


def test_what_does_not_fit_is_refused_in_a_line(saved, tmp_path):
    text, labels = saved / "stable_diffusion", saved / "dit"
    for folder, words, said in [
        (text, [], "give it by --prompt"),
        (text, ["--prompt", "x", "--label", "3"], "takes no class labels"),
        (text, ["--prompt", "x", "--start", "unit"], "--start unit: a pipeline starts from noise"),
        (text, ["--prompt", "x", "--method", "rk45"], "rk45"),
        (text, ["--prompt", "x", "--method", "auto"], "not known for pipelines"),
        (text, ["--prompt", "x", "--method", "fitted"], "no solver was fitted to this pipeline"),
        (text, ["--prompt", "x", "--height", 13, "--width", 13], "StableDiffusionPipeline refuses this call"),
        (labels, ["--prompt", "x"], "DiTPipeline takes no text"),
        (labels, ["--label", "3", "--negative-prompt", "x"], "--negative-prompt x: DiTPipeline takes no"),
        (labels, ["--label", "1000"], "from 0 to 999"),
        (labels, ["--label", "3", "--rescale", "0.5", "--guidance", 2], "takes no guidance_rescale"),
    ]:
        refused(invoke("sample", folder, "--out", tmp_path / "out", "--device", "cpu", *words), said)
        assert not (tmp_path / "out").exists()


def test_no_code_is_executed_and_no_pickle_is_read(saved, tmp_path):
    def changed(name, part="", **settings):
        shutil.copytree(saved / "dit", tmp_path / name)
        path = next((tmp_path / name / part).glob("*.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return tmp_path / name

    command = ("--label", "3", "--device", "cpu", "--out", tmp_path / "out")
    own = changed("own", vae=["my_code", "MyVAE"])
    (own / "my_code.py").write_text("raise SystemExit('executed')")
    refused(invoke("sample", own, *command), "its vae is a MyVAE of my_code, and code .* is never executed")
    refused(invoke("sample", changed("kind", _class_name="MyPipeline"), *command), "MyPipeline, which diffusers")
    mapped = changed("map", "transformer", auto_map={"AutoModel": "my.Model"})
    refused(invoke("sample", mapped, *command), "auto_map")
    pickled = changed("pickled", "transformer")
    weights = pickled / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({"x": torch.zeros(1)}, weights.with_suffix(".bin"))
    weights.unlink()
    refused(invoke("sample", pickled, *command), "cannot be opened by diffusers")


def test_a_solver_is_fitted_over_prompts_and_drawn_with(saved, tmp_path):
    """It is nearer to the teacher than any method as it is, and kept for other prompts, but for no other guidance."""
    folder = shutil.copytree(saved / "stable_diffusion", tmp_path / "sd")
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    refused(invoke("tune", folder, "--device", "cpu"), "StableDiffusionPipeline draws what a text says", "--prompts")
    tune = ["tune", folder, "--prompts", tmp_path / "prompts.txt", "--guidance", 3, "--noises", 16, "--device", "cpu"]
    said = done(*tune, "--calls", 2, "--teacher-steps", 6)
    assert "--prompt ..." in said.stdout
    (tuning,) = json.loads((folder / "tuned.json").read_text())["tunings"]
    assert (tuning["guidance"], tuning["labels"]) == (3.0, "all")
    (solver,) = tuning["solvers"]
    best = min(found["error"] for found in tuning["untuned"] if found["steps"] == 2)
    assert solver["start"] == "marginal"
    assert solver["error"] < best
    assert "all of these solvers are there" in done(*tune, "--calls", 2, "--teacher-steps", 6).stdout
    draw = ["--prompt", "an owl", "--method", "fitted", "--steps", 2]
    manifest = sampled(folder, tmp_path / "out", *draw, "--guidance", 3)
    assert manifest["calls"] == 2
    assert manifest["scheduler"]["options"]["solvers"][0]["times"] == solver["times"]
    refused(invoke("sample", folder, *draw, "--device", "cpu", "--out", tmp_path / "x"), "tuned for 3")
    other, fields = KINDS["stable_diffusion"].make(), {"method": "fitted", "steps": 2, "guidance": 3.0}
    other.unet.conv_in.bias.data += 1
    with pytest.warns(UserWarning, match="fitted to other weights"):
        Drawing(other, fields, Asked(("a cat",)), folder / "tuned.json")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder / "tuned.json", tmp_path / "elsewhere")
    refused(invoke("sample", folder, *draw, "--guidance", 3, "--out", tmp_path / "x"), "name its --out: --tuned")
    again = sampled(folder, tmp_path / "again", *draw, "--guidance", 3, "--tuned", tmp_path / "elsewhere")
    assert again["scheduler"] == manifest["scheduler"]
    shutil.move(tmp_path / "elsewhere" / "tuned.json", folder)
    (tmp_path / "prompts.txt").write_text("a tree\na house")
    refused(invoke(*tune), "holds solvers for other prompts")
    refused(invoke(*tune, "--data", "digits"), "leave --data and --start gaussian out")
