"""Feature spaces of other networks: Inception, and `file.py:function`."""

import sys

import numpy as np
import pytest
import torch

from leapstep.evaluation.features import load
from small_data import arrays

# --- inception -----------------------------------------------------------------------------------------------------


def test_inception_without_the_extra(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"need an extra \(.*\): pip install 'leapstep\[inception\]'"):
        load("inception", digits[1])


def test_inception_is_for_pictures(blobs):
    with pytest.raises(ValueError, match="inception sees pictures, but array holds arrays"):
        load("inception", blobs)


def test_weights_are_for_inception(digits, tmp_path):
    with pytest.raises(ValueError, match=r"weights .*w.pth are for the features inception, not for pixels"):
        load("pixels", digits[1], weights=tmp_path / "w.pth")


@pytest.fixture
def inception():
    """The library's network with weights of the right shapes, in which signals neither vanish nor grow."""
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity import feature_extractor_inceptionv3 as library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = library.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"]).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
    return network


def test_inception_is_that_of_the_library(inception, digits, tmp_path):
    torch.save(inception.state_dict(), tmp_path / "w.pth")
    space = load("inception", digits[1], weights=tmp_path / "w.pth")
    some = digits[1].values[:3]
    with torch.no_grad():
        found, logits = inception(torch.from_numpy(some.repeat(3, 1)))
    assert found.std(0).mean() > 1e-3
    torch.testing.assert_close(space.extract(some), found)
    torch.testing.assert_close(space.probabilities(some), logits.softmax(1))
    with pytest.raises(ValueError, match=r"uint8 \[n, 1 or 3, h, w\], not float64"):
        space.extract(some / 255)
    again = load("inception", digits[0], weights=tmp_path / "w.pth")
    inception.fc.bias.data[0] += 1
    torch.save(inception.state_dict(), tmp_path / "w.pth")
    changed = load("inception", digits[1], weights=tmp_path / "w.pth")
    assert changed.hash != space.hash == again.hash


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file .*w.pth: name the weights of inception"),
        ({"a": Trap()}, r"w.pth cannot be read as a file of weights \(it is none, or holds code\)"),
        (torch.zeros(2), "w.pth holds something else than weights by name"),
        ({"a": torch.zeros(2)}, "w.pth holds the weights of another network"),
    ],
)
def test_files_that_are_no_weights_of_inception(digits, tmp_path, content, message):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    if content is not None:
        torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message) as caught:
        load("inception", digits[1], weights=tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_inception_without_weights_or_a_network(digits, monkeypatch):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    asked = {}

    def fail(address, **how):
        asked.update(how)
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(Name or service not known\): fetch https://.* elsew"):
        load("inception", digits[1])
    assert (asked["weights_only"], asked["check_hash"]) == (True, True)


# --- file.py:function ----------------------------------------------------------------------------------------------

MINE = """
import torch
from beside import FACTOR

def moments():
    def extract(values):
        assert not torch.is_grad_enabled()
        flat = values.flatten(1).float()
        return torch.stack([flat.mean(1), FACTOR * flat.std(1)], 1)
    return extract

def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(3, 2).double())

def kind():
    return lambda values: (values == values[:, :1]).sum(1, keepdim=True) * 100 + int(values.dtype == torch.uint8)

def flat():
    return lambda values: values.sum()

def short():
    return lambda values: values[1:, :2]

def none():
    pass

def wrong():
    return lambda values: values.no_such_thing
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    before = list(sys.path)
    yield tmp_path / "mine.py"
    sys.path[:] = before
    sys.modules.pop("beside", None)


def test_features_of_a_file(mine, digits):
    space = load(f"{mine}:moments", digits[1])
    values = digits[1].values[:300]  # more than a batch
    flat = torch.from_numpy(values.copy()).flatten(1).float()
    torch.testing.assert_close(space.extract(values), torch.stack([flat.mean(1), 2 * flat.std(1)], 1))
    assert (space.name, space.probabilities) == (f"{mine}:moments", None)


def test_a_network_of_a_file_is_put_in_eval_mode(mine, blobs):
    space = load(f"{mine}:network", blobs)
    assert torch.equal(space.extract(blobs.values), space.extract(blobs.values))
    assert space.extract(blobs.values).shape == (240, 2)


@pytest.mark.parametrize("dtype", ["uint8", ">f4", "float64", "int16"])
def test_a_file_sees_the_values_as_they_are(mine, dtype):
    values = np.array([[5, 5, 7], [1, 2, 3]], dtype)
    values.flags.writeable = False
    found = load(f"{mine}:kind", arrays(values)).extract(values)
    assert found.dtype == torch.float32
    assert found.tolist() == [[200 + (dtype == "uint8")], [100 + (dtype == "uint8")]]


def test_the_hash_of_a_file_is_that_of_its_bytes_and_the_function(mine, blobs):
    hashes = [load(f"{mine}:{name}", blobs).hash for name in ("moments", "kind", "moments")]
    mine.write_text(MINE + "\n# more\n")
    hashes.append(load(f"{mine}:moments", blobs).hash)
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[2]
    for seed in (0, 1, 0):  # weights that the file reads from elsewhere
        torch.manual_seed(seed)
        hashes.append(load(f"{mine}:network", blobs).hash)
    assert hashes[-1] == hashes[-3] != hashes[-2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:nothing", r"mine.py has no function nothing; it has moments, network, kind, flat, short"),
        ("mine.py:none", r"mine.py:none returned NoneType: return a function of values"),
        ("mine.py", r"mine.py: name the function that makes the map as well, as in .*mine.py:features"),
        ("mine.py:", r"mine.py:: name the function"),
        ("mine.py:a-b", r"mine.py:a-b: name the function"),
        ("missing.py:f", r"there is no file .*missing.py"),
        ("broken.py:f", r"broken.py, line 2: SyntaxError"),
        ("raising.py:f", r"raising.py, line 1: ZeroDivisionError: division by zero"),
    ],
)
def test_files_that_make_no_features(mine, blobs, name, message):
    (mine.parent / "broken.py").write_text("x = 1\ny = (\n")
    (mine.parent / "raising.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match=message) as caught:
        load(str(mine.parent / name), blobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", r"mine.py:flat made float64 \[\] of 240 samples: return numbers \[240, k\]"),
        ("short", r"mine.py:short made float64 \[239, 2\] of 240 samples"),
        ("wrong", r"mine.py, line \d+: AttributeError: 'Tensor' object has no attribute 'no_such_thing'"),
    ],
)
def test_files_whose_maps_make_no_features(mine, blobs, name, message):
    space = load(f"{mine}:{name}", blobs)
    with pytest.raises(ValueError, match=message):
        space.extract(blobs.values)


@pytest.mark.parametrize("name", ["learned", "no/such/folder", "pixel"])
def test_names_that_are_no_features(blobs, name):
    allowed = "use pixels, inception, a folder that `leapstep features train` made, or file.py:function"
    meant = r"did you mean pixels\? " if name == "pixel" else ""
    with pytest.raises(ValueError, match=rf"^there are no features {name}: {meant}{allowed}$"):
        load(name, blobs)


def test_a_folder_of_something_else(blobs, tmp_path):
    with pytest.raises(ValueError, match=r"^the folder .* has no features.json: use pixels, inception, a folder"):
        load(str(tmp_path), blobs)
