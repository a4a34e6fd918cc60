"""Likelihoods, reconstructions and latents of data sets in shards: the results of one process, to the bit."""

import json

import numpy as np
import pytest
import torch

import leapstep
from commands import done, invoke, refused, tree, without_seconds
from leapstep.data import read
from leapstep.inference import data_sets, tuning, tuning_shards
from leapstep.models import checkpoint
from leapstep.models.data import Selection, parts_of
from leapstep.networks import UNet

LIKELIHOOD = ["--steps", 3, "--batch-size", 4]
RECONSTRUCT = ["--steps", 2, 4, "--batch-size", 4]
SHARDS = ["--on", "here", "--shard", 4]


def results(folder):
    return without_seconds(json.loads((folder / "results.json").read_text()))


def same_arrays(one, other):
    with np.load(one) as a, np.load(other) as b:
        assert set(a) == set(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], strict=True)


@pytest.fixture
def rows(monkeypatch):
    """The number of samples in each call of the network."""
    counted, real = [], UNet.forward

    def forward(network, x, *args, **given):
        counted.append(len(x))
        return real(network, x, *args, **given)

    monkeypatch.setattr(UNet, "forward", forward)
    return counted


def stop_in_shard(monkeypatch, number):
    """Ctrl-C in this shard, counted from 0."""
    from leapstep import files

    written, real = [], files.write_npz

    def write(path, arrays):
        if len(written) == number:
            raise KeyboardInterrupt
        written.append(path)
        real(path, arrays)

    monkeypatch.setattr(data_sets.files, "write_npz", write)
    return lambda: monkeypatch.setattr(data_sets.files, "write_npz", real)


@pytest.mark.parametrize("method", [[], ["--method", "ode"]], ids=["vlb", "ode"])
def test_likelihoods_in_shards(model, insects, tmp_path, method):
    plain = done("likelihood", model, insects, *LIKELIHOOD, *method, "--out", tmp_path / "a").stdout
    shards = done("likelihood", model, insects, *LIKELIHOOD, *method, "--out", tmp_path / "b", *SHARDS).stdout
    assert shards.splitlines()[:-1] == plain.splitlines()[:-1]
    assert set(tree(tmp_path / "a")) == set(tree(tmp_path / "b")) == {"results.json", "likelihoods.npz"}
    assert results(tmp_path / "a") == results(tmp_path / "b")
    same_arrays(tmp_path / "a" / "likelihoods.npz", tmp_path / "b" / "likelihoods.npz")
    with np.load(tmp_path / "a" / "likelihoods.npz") as arrays:
        assert arrays["likelihoods"].shape == (15,)
        assert arrays["likelihoods"].mean() == pytest.approx(results(tmp_path / "a")["likelihood"]["mean"])


def test_likelihoods_without_a_folder(points, array):
    line = ["likelihood", points, array, "--split", "all", "--steps", 3, "--batch-size", 2, "--json"]
    plain, shards = (json.loads(done(*line, *more).stdout) for more in ([], SHARDS))
    assert without_seconds(plain) == without_seconds(shards)


def test_reconstructions_in_shards(model, insects, tmp_path):
    for name, more in (("a", []), ("b", SHARDS)):
        done("reconstruct", model, insects, *RECONSTRUCT, "--out", tmp_path / name, *more)
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert set(tree(tmp_path / "b")) == {"results.json", "errors.npz", "reconstructions.png"}
    name = "reconstructions.png"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with np.load(tmp_path / "b" / "errors.npz") as errors:
        assert [errors[name].mean() for name in ("2 steps", "4 steps")] == pytest.approx(
            [row["error"] for row in results(tmp_path / "b")["results"]]
        )


def test_reconstructions_of_values_are_all_there(points, array, tmp_path):
    for name, more in (("a", []), ("b", SHARDS)):
        line = ["reconstruct", points, array, "--split", "all", "--steps", 3, "--n", 7, "--batch-size", 2]
        done(*line, "--out", tmp_path / name, *more)
    same_arrays(tmp_path / "a" / "reconstructions.npz", tmp_path / "b" / "reconstructions.npz")


def test_latents_of_a_data_set(model, insects, tmp_path):
    """Each under its own label, as `encode` makes them; `decode` reads them."""
    said = done("invert", model, "--data", insects, *RECONSTRUCT[:2], "--shard", 4, "--batch-size", 4, "--on", "here",
                "--out", tmp_path / "o").stdout  # fmt: skip
    assert said.startswith("15 latents, ddim")
    assert set(tree(tmp_path / "o")) == {"latents.npz", "manifest.json", "reconstructions.png"}
    done("invert", model, "--data", insects, *RECONSTRUCT[:2], "--batch-size", 4, "--out", tmp_path / "p")
    same_arrays(tmp_path / "o" / "latents.npz", tmp_path / "p" / "latents.npz")
    loaded, data = checkpoint.load(model), read(insects, split="test")
    x0, labels = data.batch(range(15)), torch.from_numpy(data.labels)
    with np.load(tmp_path / "o" / "latents.npz") as arrays:
        z = [
            leapstep.encode(loaded.diffusion(labels[i : i + 4]), x0[i : i + 4], 2, spacing="leading")
            for i in range(0, 15, 4)
        ]
        np.testing.assert_array_equal(arrays["latents"], torch.cat(z), strict=True)
        np.testing.assert_array_equal(arrays["original"], data.values, strict=True)
        error = json.loads((tmp_path / "o" / "manifest.json").read_text())["inversion"]["error"]
        assert arrays["errors"].mean() == pytest.approx(error)
    done("decode", model, tmp_path / "o", "--out", tmp_path / "again")
    assert len(list((tmp_path / "again").glob("[0-9]*.png"))) == 15
    done("invert", model, "--data", insects, "--n", 5, "--label", "cat", "--steps", 2, "--out", tmp_path / "cats")
    assert json.loads((tmp_path / "cats" / "manifest.json").read_text())["spec"]["labels"] == [2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["--image", "--data"]),
        ("--data digits --image A.png", ["--image", "--data"]),
        ("--image A.png --on here", ["--on here is for a data set"]),
        ("--image A.png --n 3", ["--n 3 is for a data set"]),
        ("--data digits --n 3 --condition c.npz", ["--condition", "--n"]),
        ("--data nowhere", ["nowhere"]),
    ],
)
def test_what_cannot_be_inverted(model, tmp_path, line, words):
    refused(invoke("invert", model, *line.split(), "--out", tmp_path / "o"), *words)


@pytest.mark.parametrize("command", ["likelihood", "reconstruct"])
def test_a_stop_loses_no_whole_shard(model, insects, tmp_path, rows, monkeypatch, command):
    line = [command, model, insects, *(LIKELIHOOD if command == "likelihood" else RECONSTRUCT)]
    done(*line, "--out", tmp_path / "whole")
    needed = sum(rows)
    rows.clear()
    go_on = stop_in_shard(monkeypatch, 2)
    result = invoke(*line, "--out", tmp_path / "o", *SHARDS)
    assert result.exit_code == 130
    assert "2 of 4 shards are kept" in result.stderr
    lost = sum(rows) - needed * 8 // 15
    assert lost == pytest.approx(needed * 4 / 15)
    go_on()
    rows.clear()
    refused(invoke(*line, "--split", "train", "--out", tmp_path / "o", *SHARDS), "holds a job with")
    done(*line, "--out", tmp_path / "o", *SHARDS[:2])
    assert sum(rows) == pytest.approx(needed * 7 / 15)
    assert results(tmp_path / "o") == results(tmp_path / "whole")
    refused(invoke(*line, "--out", tmp_path / "o", *SHARDS), "--overwrite")
    done(*line, "--out", tmp_path / "o", "--overwrite", *SHARDS)
    assert results(tmp_path / "o") == results(tmp_path / "whole")


def test_workers_refuse_other_data_of_the_same_name(model, insects):
    loaded = checkpoint.load(model)
    chosen = Selection(*parts_of(loaded, str(insects))("test"), 7).named(str(insects), "test")
    assert chosen.read(loaded).indices(range(7)) == [0, 2, 4, 6, 8, 10, 12]
    with pytest.raises(ValueError, match="holds other data on"):
        chosen._replace(split="train", n=3).read(loaded)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--shard", 4], ["--shard 4", "--on"]),
        (["--workers", 2], ["--workers 2", "--on ray"]),
        (["--workers", 2, "--on", "here"], ["2 workers", "leave that out with here"]),
        (["--on", "nobody"], ["nobody"]),
        (["--on", "torchrun", "--overwrite"], ["torchrun", "remove it before"]),
    ],
)
def test_what_cannot_be_cut(model, insects, tmp_path, more, words):
    refused(invoke("reconstruct", model, insects, *RECONSTRUCT, "--out", tmp_path / "o", *more), *words)
    assert not (tmp_path / "o").exists()


def test_a_folder_of_somebody_elses_shards_is_left_alone(model, insects, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.txt").write_text("kept")
    refused(invoke("reconstruct", model, insects, *RECONSTRUCT, "--out", tmp_path, *SHARDS), "not empty")
    assert (tmp_path / "shards" / "mine.txt").read_text() == "kept"


def test_what_travels_to_a_worker_does_there_what_it_does_here(model, insects, tmp_path):
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    loaded = checkpoint.load(model)
    chosen = Selection(*parts_of(loaded, str(insects))("test"), 15).named(str(insects), "test")
    options = {"steps": 3, "spacing": "trailing", "variance": "posterior"}
    spec = leapstep.SamplingSpec(steps=2, batch_size=4).checked(loaded, spacing="leading")
    run = tuning.Run(loaded, None, tuning.Plan((2,), noises=16, steps=4))
    works = [
        (data_sets.Measuring(loaded, "vlb", options, chosen, None, 0, 4), range(8, 15)),
        (data_sets.Encoding(loaded, (spec,), chosen, 12, latents=True), range(8, 15)),
        (tuning_shards.Following(run), range(1)),
    ]
    for work, rows in works:
        work.start("cpu", {})(rows, tmp_path / "here.npz")
        cloudpickle.loads(cloudpickle.dumps(work)).start("cpu", {})(rows, tmp_path / "there.npz")
        assert (tmp_path / "here.npz").read_bytes() == (tmp_path / "there.npz").read_bytes()
