"""What is published is the model and its card, and nothing of the machine; the Hub is played by a stand-in."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from PIL import Image

import leapstep
from commands import done, invoke, refused, tree
from leapstep.models import checkpoint
from leapstep.views.card import escaped

HOSTILE = "/home/alice/secret/x](http://evil) | <script>alert(1)</script>\n---\nlicense: mit\n# `boo`"


@pytest.fixture
def details(run):
    """Change what the run folder says of itself."""

    def change(**parts):
        path = run / "leapstep.json"
        said = json.loads(path.read_text())
        for name, values in parts.items():
            said.setdefault(name, {}).update(values)
        path.write_text(json.dumps(said))

    return change


def front_matter(folder):
    text = (folder / "README.md").read_text()
    _, metadata, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(metadata), body


def test_a_folder_is_opened_here_and_by_diffusers(run, tmp_path):
    from diffusers import DDPMScheduler, UNet2DModel

    out = tmp_path / "published"
    said = done("push", run, "user/digits", "--license", "apache-2.0", "--dataset", "user/data", "--out", out).stdout
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == {
        *("README.md", "leapstep.json", "model_index.json", "samples.png", "scheduler/scheduler_config.json"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    }
    assert all(name in said for name in there)
    one, other = leapstep.load(run), leapstep.load(out)
    assert checkpoint.fingerprint(one.network) == checkpoint.fingerprint(other.network)
    assert one.convention == other.convention
    done("sample", out, "--n", 1, "--steps", 1, "--out", tmp_path / "samples", "--device", "cpu")
    unet = UNet2DModel.from_pretrained(out, subfolder="unet")
    x, t, label = torch.randn(1, 1, 8, 8), torch.tensor([3]), torch.tensor([2])
    with torch.no_grad():
        torch.testing.assert_close(unet(x, t, label).sample, one.network(x, t, label), atol=1e-5, rtol=1e-5)
    assert DDPMScheduler.from_pretrained(out, subfolder="scheduler").config.beta_schedule
    metadata, body = front_matter(out)
    assert metadata["library_name"] == "diffusers"
    assert (metadata["license"], metadata["datasets"]) == ("apache-2.0", ["user/data"])
    assert "leapstep sample user/digits --label 0 --guidance 2 --out samples" in body
    assert "| learning\\_rate | 0\\.003 |" in body
    assert "![Samples, drawn while it was trained](samples.png)" in body


def test_a_pipeline_without_labels_draws_in_diffusers(tmp_path):
    from diffusers import DDPMPipeline

    from random_models import model_of

    torch.manual_seed(0)
    unet = leapstep.networks.UNet(in_channels=1, channels=(8, 8), attention=(False, False), blocks=1, groups=4)
    made = leapstep.push(model_of(unet, leapstep.linear(10), shape=(1, 8, 8)), "user/plain", out=tmp_path / "plain")
    assert "samples.png" not in made.files
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "plain")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(batch_size=1, num_inference_steps=2).images[0].size == (8, 8)
    metadata, body = front_matter(tmp_path / "plain")
    assert metadata["pipeline_tag"] == "unconditional-image-generation"
    assert 'DDPMPipeline.from_pretrained("user/plain")' in body
    assert "None was stated" in body


def test_nothing_of_the_machine_is_published(run, details, tmp_path):
    details(
        data={"source": str(tmp_path / "clients" / "photos")},
        training={"log": ["wandb"], "project": "secret"},
        init_from={"source": "../private/earlier", "weights_sha256": "0" * 64},
        imported={"file": "C:\\Users\\alice\\model.pt", "evidence": [f"read from {tmp_path}/clients/old.pt: ok"]},
        notes={"whose": "alice"},
    )
    (run / "notes.txt").write_text("mine")
    out = tmp_path / "published"
    leapstep.push(run, "user/digits", out=out, logs=True)
    said = json.loads((out / "leapstep.json").read_text())
    assert said["data"]["source"] == "photos"
    assert said["init_from"]["source"] == "earlier"
    assert said["imported"] == {"file": "model.pt", "evidence": ["read from old.pt: ok"]}
    assert not {"log", "project"} & set(said["training"])
    assert "notes" not in said
    for path in out.rglob("*"):
        assert path.name != "notes.txt"
        if path.suffix in (".json", ".md"):
            assert not re.search(rf"{re.escape(str(tmp_path))}|alice|clients|private|secret", path.read_text()), path
    (log,) = (out / "log").iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.\d+\.0", log.name)


def test_no_path_comes_with_what_was_measured(run, details, tmp_path, monkeypatch):
    """Calibration, moments, solvers and results name the data that they are of, which others know by its last part."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "al ice").mkdir()
    np.save(tmp_path / "al ice" / "x.npy", np.random.default_rng(0).integers(0, 255, (64, 8, 8), dtype=np.uint8))
    done("calibrate", run, "al ice/x.npy", "--per-level", 1, "--batch-size", 64, "--device", "cpu")
    tiny = ["--calls", 2, "--noises", 16, "--teacher-steps", 4, "--device", "cpu"]
    done("tune", run, *tiny, "--data", tmp_path / "al ice" / "x.npy", "--label", 1)
    weights = checkpoint.fingerprint(leapstep.load(run).network)
    write_evaluation(run / "a.json", weights, 1.25, data=str(tmp_path / "al ice" / "x.npy"))
    write_evaluation(run / "b.json", weights, 1.5, data="../al ice/y.npy", features="al ice/mine.py:features")
    details(data={"source": "al ice/photos"}, imported={"evidence": ["/home/al ice/a: read", "see /home/alice/b: x"]})
    out = tmp_path / "published"
    leapstep.push(run, "user/digits", out=out)
    for path in out.rglob("*"):
        assert not path.is_file() or not re.search(rb"al ice|alice|" + str(tmp_path).encode(), path.read_bytes()), path
    one, other = leapstep.load(run), leapstep.load(out)
    assert torch.equal(one.calibration.error, other.calibration.error)
    assert torch.equal(one.moments.whole.mean, other.moments.whole.mean)
    assert [each.solvers for each in one.tuned.tunings] == [each.solvers for each in other.tuned.tunings]
    assert other.tuned.tunings[0].teacher["moments"] == "x.npy (train)"
    _, body = front_matter(out)
    assert "data x\\.npy" in body
    assert "data is y\\.npy, not x\\.npy" in body
    plain = leapstep.push(one, "user/digits", out=tmp_path / "plain")  # of what the card speaks, a Model brings too
    assert {"tuned.json", "calibration.json", "moments.safetensors"} <= set(plain.files)


def test_a_name_on_the_hub_is_known_by_its_download(run, details, tmp_path, monkeypatch):
    """Without it, owner/name may as well be a folder that lies elsewhere."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    details(data={"source": "owner/photos"})
    leapstep.push(run, "user/digits", out=tmp_path / "one")
    metadata, body = front_matter(tmp_path / "one")
    assert "datasets" not in metadata
    assert "owner" not in body
    (tmp_path / "cache" / "datasets--owner--photos").mkdir(parents=True)
    leapstep.push(run, "user/digits", out=tmp_path / "other")
    metadata, body = front_matter(tmp_path / "other")
    assert metadata["datasets"] == ["owner/photos"]
    assert "owner\\/photos" in body


def test_a_name_of_data_cannot_act_in_the_card(run, details, tmp_path):
    details(data={"source": HOSTILE, "classes": ["<img src=x>"] * 10})
    leapstep.push(run, "user/digits", out=tmp_path / "published")
    metadata, body = front_matter(tmp_path / "published")
    assert "license" not in metadata
    assert "<script>" not in body
    assert "<img" not in body
    assert not re.search(r"(?<!\\)\]\(http", body)
    assert not re.search(r"^# `boo`", body, re.MULTILINE)
    assert escaped("a|b\n*c* <d> [e](f)") == r"a\|b \*c\* &lt;d&gt; \[e\]\(f\)"


def test_links_that_lead_out_are_not_published(run, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(secret)
    (run / "samples" / "step-99999999.png").symlink_to(secret)
    with pytest.raises(ValueError, match="is a link that leads out"):
        leapstep.push(run, "user/digits", out=tmp_path / "published")


def test_a_push_that_fails_leaves_the_earlier_one(run, tmp_path):
    out = tmp_path / "published"
    leapstep.push(run, "user/digits", out=out)
    first = tree(out)
    (run / "samples" / "step-99999999.png").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="is a link that leads out"):
        leapstep.push(run, "user/digits", out=out, overwrite=True)
    assert tree(out) == first


def write_evaluation(path, weights, value, **more):
    """What `leapstep evaluate --out` leaves."""
    conditions = {"n": 500, "features": "pixels", "features_sha256": "0" * 64} | more
    made = {
        "model": "m",
        "label": "DDIM",
        "spec": {"method": "ddim", "steps": 20},
        "calls": 20,
        "weights_sha256": weights,
    }
    metrics = {"frechet": {"value": value, "low": value - 0.25, "high": value + 0.25}}
    path.write_text(json.dumps({"evaluation": made, "conditions": conditions, "metrics": metrics}))


def test_results_of_these_weights_stand_in_the_card(run, tmp_path):
    write_evaluation(run / "quality.json", checkpoint.fingerprint(leapstep.load(run).network), 1.25)
    write_evaluation(run / "old.json", "0" * 64, 9.75)
    told = []
    leapstep.push(run, "user/digits", out=tmp_path / "published", tell=told.append)
    _, body = front_matter(tmp_path / "published")
    assert "| DDIM | 20 | 20 | 1\\.25" in body
    assert "9\\.75" not in body
    assert told == ["left out, as they are of other weights: old.json"]


# --- the Hub -------------------------------------------------------------------------------------------------------


def refusal(status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"{status} of the Hub", response=response)


class Hub:
    """What of `HfApi` a push needs, with what happened."""

    calls: list = []  # noqa: RUF012
    fails: dict = {}  # noqa: RUF012
    private = False

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo, private):
        self.calls.append(("create", repo, private, self.token))
        if error := self.fails.get("create"):
            raise error

    def model_info(self, repo):
        return type("Info", (), {"private": self.private})

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        if error := self.fails.get("upload"):
            raise error
        files = sorted(
            path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()
        )
        self.calls.append(("upload", repo_id, files, delete_patterns))
        return type("Commit", (), {"commit_url": f"https://huggingface.co/{repo_id}/commit/1"})


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(Hub, "fails", {})
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub


def test_a_push_is_one_commit(hub, run):
    said = done("push", run, "user/digits", "--private").stdout
    (create, upload) = hub.calls
    assert create == ("create", "user/digits", True, None)
    done("push", run, "user/digits")
    assert hub.calls[-2] == ("create", "user/digits", None, None), "as the owner's account has it"
    assert upload[2] == [line for line in said.splitlines() if "pushed" not in line]
    assert "pushed: https://huggingface.co/user/digits/commit/1" in said
    assert not [name for name in upload[2] if name.startswith(("state/", "log/"))]


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("create", LocalTokenNotFoundError("no token"), ["hf auth login", "HF_TOKEN"]),
        ("create", refusal(401), ["hf auth login"]),
        ("create", refusal(403), ["may not write to user/digits"]),
        ("create", refusal(409), ["user/digits exists on the Hub", "--overwrite"]),
        ("create", OfflineModeIsEnabled("offline"), ["HF_HUB_OFFLINE", "--out"]),
        ("create", ConnectionError("no route to host\nmore"), ["cannot be reached \\(no route to host\\)", "--out"]),
        ("upload", refusal(403), ["may not write"]),
        ("upload", refusal(500), ["the Hub refused user/digits: 500"]),
    ],
)
def test_what_the_hub_has_against_it_is_a_line(hub, run, where, error, words):
    hub.fails[where] = error
    refused(invoke("push", run, "user/digits"), *words)


def test_a_repository_that_exists_is_replaced_when_asked(hub, run):
    hub.fails["create"] = refusal(409)
    done("push", run, "user/digits", "--overwrite")
    ((_, _, _, deleted),) = [call for call in hub.calls if call[0] == "upload"]
    assert {"tuned.json", "mlp/*"} <= set(deleted)
    assert "README.md" not in deleted


def test_nobody_sees_what_is_to_be_private(hub, run, monkeypatch):
    hub.fails["create"] = refusal(409)
    refused(invoke("push", run, "user/digits", "--private", "--overwrite"), "user/digits exists, and everybody may see")
    assert "upload" not in [call[0] for call in hub.calls]
    monkeypatch.setattr(Hub, "private", True)
    done("push", run, "user/digits", "--private", "--overwrite")
    assert "upload" in [call[0] for call in hub.calls]


def test_an_earlier_folder_is_replaced_when_asked_and_nothing_else(run, tmp_path):
    out = tmp_path / "published"
    leapstep.push(run, "user/digits", out=out)
    with pytest.raises(ValueError, match="exists and is not empty: --overwrite it"):
        leapstep.push(run, "user/digits", out=out)
    (out / "mine.txt").write_text("mine")
    leapstep.push(run, "user/digits", out=out, overwrite=True)
    assert (out / "mine.txt").exists()
    shutil.rmtree(out)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        leapstep.push(run, "user/digits", out=out, overwrite=True)
