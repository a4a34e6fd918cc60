"""Feature spaces: against scikit-learn, on real digits, and through the cache."""

import dataclasses
import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data import Data, read
from leapstep.evaluation import distances as evaluation
from leapstep.evaluation.features import Classifier, Recipe, fingerprint, load, pixels, save, train, training
from small_data import arrays, pictures, rng

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A folder, and the classifier and the record that were written there."""
    folder = tmp_path_factory.mktemp("features") / "digits"
    network, record = train(*digits, Recipe(epochs=5, batch_size=64), progress=False)
    save(folder, network, record)
    return folder, network, record


@pytest.fixture
def forbidden(monkeypatch):
    """Of these functions of the module `pixels`, none may be called any more."""

    def forbid(name):
        monkeypatch.setattr(pixels, name, lambda *_, **__: pytest.fail(f"{name} was called"))

    return forbid


# --- pixels --------------------------------------------------------------------------------------------------------


def check_components(space, data):
    """The features are what scikit-learn makes, up to the sign of each component, and what these leave of a sample."""
    x = data.batch(range(len(data))).reshape(len(data), -1).double().numpy()
    size = x.shape[1]
    count = size if size <= min(64, len(data) - 1) else min(64, size, len(data) // 4)
    found = space.extract(data.values).numpy()
    assert found.shape == (len(data), count + (count < size))
    pca = PCA(count, svd_solver="full").fit(x)
    if count < size:
        left = np.linalg.norm(x - pca.inverse_transform(pca.transform(x)), axis=1)
        np.testing.assert_allclose(found[:, -1], left, rtol=1e-4, atol=1e-5 * left.max())
    found = found[:, :count]
    expected = pca.transform(x)
    signs = np.sign((found * expected).sum(0))
    signs[pca.explained_variance_ < 1e-10] = 1  # there is nothing along such an axis
    np.testing.assert_allclose(found * signs, expected, atol=1e-5 * expected.std(0).max())


def test_pixels_are_the_principal_components_of_scikit_learn(digits):
    check_components(load("pixels", digits[1]), digits[1])


SHAPES = [(30, 5), (12, 40), (300, 70), (40, 2, 3, 4), (9,)]


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_of_any_shape(shape):
    data = arrays(100 + rng.standard_normal(shape) * 30, scaling=Scaling(100.0, 30.0))
    check_components(load("pixels", data), data)


def test_pixels_of_many_values_are_found_in_passes(digits, monkeypatch):
    monkeypatch.setattr(pixels, "EXACT", 10)
    data = arrays(rng.standard_normal((80, 30)) @ np.diag(0.7 ** np.arange(30)) @ rng.standard_normal((30, 100)))
    check_components(load("pixels", data), data)
    check_components(load("pixels", digits[1]), digits[1])


@pytest.mark.parametrize("n", [24, 400])
def test_noise_is_far_from_pictures_and_fresh_pictures_are_not(n):
    """Noise has next to nothing along the axes of smooth pictures, and so would lie in their middle."""
    smooth = np.cumsum(np.cumsum(rng.standard_normal((2 * n, 1, 16, 16)), 2), 3)
    smooth = np.clip(128 + 40 * smooth / smooth.std((1, 2, 3), keepdims=True), 0, 255).astype(np.uint8)
    noise = rng.integers(0, 256, (n, 1, 16, 16)).astype(np.uint8)
    pictures = Data(smooth[:n], None, (), "pictures", PIXELS)
    space = load("pixels", pictures)
    fresh, static, known = (space.extract(values) for values in (smooth[n:], noise, smooth[:n]))
    assert evaluation.neighbours(static, known, k=3)["precision"] == 0
    assert evaluation.neighbours(fresh, known, k=3)["precision"] > 0.5
    assert evaluation.frechet_distance(static, known) > 5 * evaluation.frechet_distance(fresh, known)
    assert evaluation.memorisation(static, known, fresh).relative.low > 1


def test_the_signs_of_pixels_are_settled():
    data = arrays(rng.standard_normal((50, 6)))
    _, axes = pixels.principal_axes(data, 6)
    assert (axes.amax(0) >= -axes.amin(0)).all()
    mirrored = arrays(-data.values)
    torch.testing.assert_close(pixels.principal_axes(mirrored, 6)[1], axes)


def test_the_hash_of_pixels_is_that_of_data_and_scaling(digits):
    train_split, test_split = digits
    changed = test_split.values.copy()
    changed[3, 0, 4, 4] ^= 1
    others = [
        test_split,
        train_split,
        dataclasses.replace(test_split, values=changed),
        dataclasses.replace(test_split, scaling=Scaling(127.5, 100.0)),
    ]
    assert len({load("pixels", other).hash for other in others}) == 4
    assert load("pixels", test_split).hash == load("pixels", read("digits", split="test"), cache=False).hash


def test_pixels_are_fitted_once(digits, forbidden):
    before = load("pixels", digits[1])
    forbidden("principal_axes")
    after = load("pixels", digits[1])
    assert torch.equal(before.extract(digits[1].values), after.extract(digits[1].values))
    with pytest.raises(pytest.fail.Exception, match="principal_axes was called"):
        load("pixels", digits[1], cache=False)


def test_pixels_of_other_samples(digits):
    space = load("pixels", digits[1])
    assert space.probabilities is None
    with pytest.raises(ValueError, match=r"shape \[8, 8\]: the features pixels take \[1, 8, 8\]"):
        space.extract(digits[1].values[:, 0])


# --- learned -------------------------------------------------------------------------------------------------------


def test_digits_are_learned(digits, trained):
    folder, _, record = trained
    assert record["accuracy"] >= 0.95
    space = load(str(folder), digits[1])
    assert space.name == "learned"
    assert space.extract(digits[1].values).shape == (len(digits[1]), 64)
    found = space.probabilities(digits[1].values)
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))
    assert (found.argmax(1).numpy() == digits[1].labels).mean() == record["accuracy"]


def test_what_is_written_beside_the_weights(digits, trained):
    folder, _, record = trained
    told = json.loads((folder / "features.json").read_text())
    assert {name: told[name] for name in record} == record
    assert told["tested_on"] == {"what": "the test split", "samples": len(digits[1])}
    assert told["data"]["sha256"] == fingerprint(digits[0])
    assert (told["data"]["source"], told["data"]["samples"]) == ("digits", len(digits[0]))
    assert told["data"]["classes"] == list("0123456789")
    assert told["settings"] == {
        "epochs": 5,
        "batch_size": 64,
        "learning_rate": 4e-3,
        "flip": False,
        "seed": 0,
        "device": "cpu",
    }
    assert told["versions"]["torch"] == torch.__version__
    assert told["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == ["features.json", "weights.safetensors"]


def test_features_are_the_last_layer_in_eval_mode_without_gradients(digits, trained):
    folder, network, _ = trained
    space = load(str(folder), digits[1])
    some = digits[1].values[:7]
    found = space.extract(some)
    with torch.no_grad():
        torch.testing.assert_close(found, network.features(digits[1].batch(range(7))))
        torch.testing.assert_close(space.probabilities(some), network.head(found).softmax(1))
    assert (found.requires_grad, found.device.type, found.dtype) == (False, "cpu", torch.float32)


def test_extraction_in_batches(digits, trained):
    space = load(str(trained[0]), digits[0])
    values = digits[0].values[:600]  # more than two batches
    pieces = [space.extract(values[i : i + 50]) for i in range(0, 600, 50)]
    torch.testing.assert_close(space.extract(values), torch.cat(pieces))
    assert space.extract(values[:0]).shape == (0, 64)


def test_a_folder_always_gives_the_same_hash_and_other_weights_another(digits, trained, tmp_path):
    folder, network, record = trained
    first, again = load(str(folder), digits[0]), load(str(folder), digits[1])
    assert first.hash == again.hash
    assert torch.equal(first.extract(digits[1].values), again.extract(digits[1].values))
    changed = Classifier((1, 8, 8), 10, True)
    changed.load_state_dict(network.state_dict())
    with torch.no_grad():
        changed.body[0].weight[0, 0, 0, 0] += 1e-3
    save(tmp_path / "changed", changed, record)
    other = record | {"data": record["data"] | {"scaling": {"shift": 127.5, "scale": 100.0}}}
    save(tmp_path / "other", network, other)
    assert len({load(str(path), digits[1]).hash for path in (folder, tmp_path / "changed", tmp_path / "other")}) == 3


def test_training_is_a_function_of_the_seed(blobs):
    runs = [train(blobs, recipe=Recipe(epochs=1, batch_size=32, seed=seed), progress=False) for seed in (0, 0, 1)]
    same, again, other = (torch.cat([each.flatten() for each in run[0].parameters()]) for run in runs)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    state = torch.random.get_rng_state()
    train(blobs, recipe=Recipe(epochs=1), progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_arrays_are_learned_and_tested_on_a_tenth(blobs, tmp_path):
    network, record = train(blobs, recipe=Recipe(epochs=10, batch_size=32), progress=False)
    assert record["accuracy"] == 1.0
    assert record["tested_on"] == {"what": "a held-out tenth", "samples": 24}
    assert record["data"]["samples"] == 216
    save(tmp_path / "blobs", network, record)
    space = load(str(tmp_path / "blobs"), blobs)
    found = space.extract(blobs.values)
    centres = torch.stack([found[blobs.labels == label].mean(0) for label in range(3)])
    assert (torch.cdist(found, centres).argmin(1).numpy() == blobs.labels).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_any_shape(shape, tmp_path):
    data = arrays(rng.standard_normal(shape), np.arange(shape[0]) % 2)
    save(tmp_path / "some", *train(data, recipe=Recipe(epochs=1, batch_size=4), progress=False))
    assert load(str(tmp_path / "some"), data).extract(data.values[:3]).shape == (3, 128)


def test_what_is_held_out_is_not_trained_on():
    """Labels without meaning are learned by heart: those that were seen, not the others."""
    chance = np.random.default_rng(1)
    data = arrays(chance.standard_normal((100, 60)), chance.integers(0, 4, 100))
    network, record = train(data, recipe=Recipe(epochs=25, batch_size=30), progress=False)
    with torch.no_grad():
        right = network(data.batch(range(100))).argmax(1).numpy() == data.labels
    assert right.sum() >= 85
    assert record["accuracy"] <= 0.7


def test_labels_of_the_test_split_go_by_name(blobs):
    shifted = dataclasses.replace(blobs, labels=(blobs.labels + 1) % 3, classes=("2", "0", "1"))
    assert train(blobs, shifted, Recipe(epochs=10, batch_size=32), progress=False)[1]["accuracy"] == 1.0
    for change, message in (
        ({"labels": None}, "the test split of array has no labels"),
        ({"classes": ("0", "1", "x")}, "the test split has classes x that the training split does not have"),
        ({"values": blobs.values[:, :2]}, r"the test split holds samples of shape \[2\], the training split \[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            train(blobs, dataclasses.replace(blobs, **change), Recipe(epochs=1), progress=False)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 64, 64), (1, 13, 9), (3, 1, 2)])
def test_pictures_of_many_sizes(shape):
    data = pictures(8, *shape)
    network, record = train(data, recipe=Recipe(epochs=1, batch_size=4, flip=True), progress=False)
    width = 64 if min(shape[1:]) <= 16 else 128
    assert network.features(data.batch([0, 1])).shape == (2, width)
    assert record["tested_on"]["samples"] == 1


def test_pictures_are_shifted_and_mirrored():
    x = torch.rand(200, 2, 28, 30, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    shifts = [padded[:, :, i : i + 28, j : j + 30] for i in range(5) for j in range(5)]
    plain = training._moved(x, False, torch.Generator().manual_seed(0))
    found = torch.stack([(plain == shifted).flatten(1).all(1) for shifted in shifts])
    assert (found.sum(0) == 1).all()
    assert found.any(1).all()  # every shift occurs
    mirrored = training._moved(x, True, torch.Generator().manual_seed(0))
    padded = padded.flip(-1)
    turned = [padded[:, :, i : i + 28, j : j + 30] for i in range(5) for j in range(5)]
    straight = torch.stack([(mirrored == shifted).flatten(1).all(1) for shifted in shifts]).any(0)
    flipped = torch.stack([(mirrored == shifted).flatten(1).all(1) for shifted in turned]).any(0)
    assert (straight ^ flipped).all()
    assert 60 < flipped.sum() < 140


def test_small_data_get_more_epochs(blobs, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "_optimise", lambda network, data, kept, span, *_: seen.append(span))
    assert train(blobs, recipe=Recipe(batch_size=32), progress=False)[1]["settings"]["epochs"] == 84
    train(blobs, recipe=Recipe(batch_size=2), progress=False)
    train(pictures(4000, 1, 8, 8), recipe=Recipe(batch_size=2), progress=False)
    assert seen == [(84, 6), (5, 108), (2, 1800)]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(epochs=0), "epochs 0: train for at least 1"),
        (Recipe(batch_size=1), "batch size 1: use at least 2"),
        (Recipe(learning_rate=0.0), "learning rate 0: use a positive number"),
        (Recipe(learning_rate=float("nan")), "learning rate nan: use a positive number"),
        (Recipe(seed=-1), "seed -1: use an integer from 0 on"),
        (Recipe(flip=True), "flip mirrors pictures, but array holds arrays"),
    ],
)
def test_settings_that_are_not_allowed(blobs, recipe, message):
    with pytest.raises(ValueError, match=message):
        train(blobs, recipe=recipe, progress=False)


def test_data_that_cannot_be_learned(blobs):
    for change, message in (
        ({"labels": None, "classes": ()}, "array has no labels: features of arrays .* --features pixels needs none"),
        ({"labels": blobs.labels * 0, "classes": ("one",)}, "array has the one class one"),
        ({"values": blobs.values[:3], "labels": blobs.labels[:3]}, "array holds 3 samples: at least 4 are needed"),
    ):
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(blobs, **change), progress=False)
    with pytest.raises(FloatingPointError, match=r"the loss of step \d+ is (nan|inf): lower the learning rate"):
        train(blobs, recipe=Recipe(epochs=5, batch_size=16, learning_rate=1e38), progress=False)


def rewrite(folder, **changes):
    told = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(told | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "No such file"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "is not the file that features.json sp"),
        (lambda folder: (folder / "features.json").write_text("{"), "Expecting property name"),
        (lambda folder: (folder / "features.json").write_text("[]"), "it holds a list"),
        (lambda folder: (folder / "features.json").write_text("{}"), "lacks 'weights_sha256'"),
        (lambda folder: rewrite(folder, data={"shape": [1, 8, 8]}), "lacks 'data.pictures'"),
    ],
)
def test_a_broken_folder(digits, trained, tmp_path, damage, message):
    _, network, record = trained
    save(tmp_path / "broken", network, record)
    damage(tmp_path / "broken")
    with pytest.raises(ValueError, match=rf"^the features in .*broken cannot be read \(.*{message}.*\): train them a"):
        load(str(tmp_path / "broken"), digits[1])


def test_weights_of_another_network(digits, trained, tmp_path):
    _, _, record = trained
    save(tmp_path / "other", Classifier((3, 32, 32), 10, True), record)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        load(str(tmp_path / "other"), digits[1])
    assert "\n" not in str(caught.value)


def test_data_that_learned_features_do_not_know(digits, trained, blobs):
    folder, _, _ = trained
    with pytest.raises(
        ValueError, match=r"array holds samples of shape \[3\]: the features in .* pictures of shape \["
    ):
        load(str(folder), blobs)
    floats = arrays(digits[1].values.astype(np.float32))
    with pytest.raises(ValueError, match=r"were learned from pictures of shape \[1, 8, 8\]"):
        load(str(folder), floats)
    with pytest.raises(ValueError, match=r"shape \[1, 4, 4\]: the features learned take \[1, 8, 8\]"):
        load(str(folder), digits[1]).extract(digits[1].values[:, :, :4, :4])


@pytest.mark.slow
@pytest.mark.skipif("LEAPSTEP_MNIST" not in os.environ, reason="LEAPSTEP_MNIST names no folder with the MNIST data")
def test_mnist_is_learned():
    source = os.environ["LEAPSTEP_MNIST"]
    assert train(read(source), read(source, split="test"))[1]["accuracy"] >= 0.99


@pytest.mark.parametrize("kind", ["pixels", "learned", "foreign"])
def test_features_travel_to_another_process(kind, trained, digits, tmp_path):
    (tmp_path / "own.py").write_text("def own():\n    return lambda x: x.float().flatten(1) * 2\n")
    name = {"pixels": "pixels", "learned": str(trained[0]), "foreign": f"{tmp_path}/own.py:own"}[kind]
    space, values = load(name, digits[0]), digits[1].values[:9]
    there = pickle.loads(pickle.dumps(space)).on("cpu")
    assert (there.name, there.hash) == (space.name, space.hash)
    assert torch.equal(there.extract(values), space.extract(values))
    assert (there.probabilities is None) == (kind != "learned")
    if there.probabilities is not None:
        assert torch.equal(there.probabilities(values), space.probabilities(values))


def test_features_that_are_others_elsewhere_are_refused(blobs, tmp_path):
    (tmp_path / "own.py").write_text("import torch\ndef own(): return torch.nn.Linear(3, 2).double()\n")
    space = load(f"{tmp_path}/own.py:own", blobs)
    with pytest.raises(ValueError, match="are others on this worker"):
        space.on("cpu")
