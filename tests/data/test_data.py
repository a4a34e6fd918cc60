import tempfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from image_files import colours, grey, rng, save
from leapstep.core.scaling import PIXELS, Scaling
from leapstep.data import Data, read
from leapstep.files import reading


def one(folder, image, name="a.png", save_as=None, **how):
    """The pixels of an image that lies in a folder beside a white one of the same size."""
    save(folder / name, image, **(save_as or {}))
    with Image.open(folder / name) as saved:
        width, height = saved.size
    save(folder / "z.png", np.full((height, width), 255, np.uint8))
    return read(folder, strict=True, **how).values[0]


# Model space


def test_every_pixel_value_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    x = PIXELS.to_model(pixels)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(x.double(), ((torch.tensor(pixels).double() - 127.5) / 127.5).float().double())
    for back in (x, x.double(), x.float() + 0.003, x - 0.003):
        np.testing.assert_array_equal(PIXELS.to_pixels(back), pixels)
    assert PIXELS.to_pixels(x).dtype == np.uint8


def test_pixels_out_of_range_are_clamped():
    assert PIXELS.to_pixels(torch.tensor([-9.0, -1.01, 1.01, 9.0])).tolist() == [0, 0, 255, 255]


def test_values_with_a_large_mean_keep_their_digits():
    values = 1e8 + rng.standard_normal((100, 3))
    scaling = Scaling(values.mean(), values.std())
    x = scaling.to_model(values)
    np.testing.assert_allclose(x.numpy(), (values - values.mean()) / values.std(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(scaling.to_values(x), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("indices", [[3, 0, 3], np.array([3, 0, 3]), torch.tensor([3, 0, 3])])
def test_a_batch_is_model_space_in_the_order_asked(indices):
    values = rng.integers(0, 256, (5, 3, 2, 4), dtype=np.uint8)
    values.flags.writeable = False
    some = Data(values, None, (), "here", PIXELS)
    batch = some.batch(indices)
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(PIXELS.to_pixels(batch), values[[3, 0, 3]])
    assert (len(some), some.shape, some.is_pictures) == (5, (3, 2, 4), True)


# Digits


def test_digits_are_all_there_once():
    splits = {name: read("digits", split=name) for name in ("train", "test", "all")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 1442, "test": 355, "all": 1797}
    parts = [split.tobytes() for name in ("train", "test") for split in splits[name].values]
    assert sorted(parts) == sorted(picture.tobytes() for picture in splits["all"].values)
    for split in splits.values():
        assert split.shape == (1, 8, 8)
        assert (split.values.min(), split.values.max()) == (0, 255)
        assert split.classes == tuple("0123456789")
        np.testing.assert_allclose(np.bincount(split.labels) / len(split), 0.1, atol=0.005)


def test_digits_have_the_labels_and_pixels_of_the_original():
    from sklearn.datasets import load_digits

    original, here = load_digits(), read("digits", split="all")
    np.testing.assert_array_equal(here.labels, original.target)
    np.testing.assert_array_equal(here.values[:, 0], np.rint(original.images * 255 / 16))
    assert here.labels.dtype == np.int64


def test_digits_take_a_size_and_channels():
    small, large = read("digits", split="test"), read("digits", split="test", size=16, channels=3)
    assert large.shape == (3, 16, 16)
    np.testing.assert_array_equal(large.labels, small.labels)
    expected = Image.fromarray(small.values[7, 0]).resize((16, 16), Image.Resampling.BICUBIC)
    for channel in range(3):
        np.testing.assert_array_equal(large.values[7, channel], np.asarray(expected))


# From image files to pixels


def test_16_bits_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257, 300], [32768, 65278, 65535]], np.uint16)
    expected = [[[0, 1, 1], [128, 254, 255]]]
    assert one(tmp_path / "png", deep).tolist() == expected
    assert one(tmp_path / "tiff", deep, "a.tiff").tolist() == expected
    (tmp_path / "pgm").mkdir()
    (tmp_path / "pgm" / "a.pgm").write_bytes(b"P5 3 2 65535\n" + deep.astype(">u2").tobytes())
    save(tmp_path / "pgm" / "b.png", np.zeros((2, 3), np.uint8))
    assert read(tmp_path / "pgm").values[0].tolist() == expected


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # full cyan
    pixels = one(tmp_path, image, "a.jpg", {"quality": 100})
    np.testing.assert_allclose(pixels, np.broadcast_to(np.array([0, 255, 255])[:, None, None], (3, 16, 16)), atol=2)


def test_a_palette_becomes_rgb(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert one(tmp_path, image).tolist() == [[[10, 200], [200, 10]], [[20, 100], [100, 20]], [[30, 50], [50, 30]]]


def test_transparency_lies_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert one(tmp_path / "rgba", rgba).tolist() == [[[10, 255, 204]], [[20, 255, 204]], [[30, 255, 204]]]
    la = np.array([[[10, 255], [10, 0], [0, 51]]], np.uint8)
    assert one(tmp_path / "la", la).tolist() == [[[10, 255, 204]]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    how = {"transparency": b"\xff\x00"}
    assert one(tmp_path / "p", palette, save_as=how).tolist() == [[[10, 255]], [[20, 255]], [[30, 255]]]


def test_black_and_white_becomes_grey(tmp_path):
    assert one(tmp_path, Image.fromarray(np.array([[True, False]]))).tolist() == [[[255, 0]]]


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    save(tmp_path / "a.png", stored, exif=exif)
    save(tmp_path / "b.png", np.zeros((3, 2), np.uint8))
    assert read(tmp_path).values[0].tolist() == [[[4, 1], [5, 2], [6, 3]]]


def test_a_crop_is_central_and_exact_where_nothing_is_resized(tmp_path):
    wide = np.arange(4 * 9, dtype=np.uint8).reshape(4, 9)
    save(tmp_path / "tall.png", wide.T)
    save(tmp_path / "wide.png", wide)
    tall_pixels, wide_pixels = read(tmp_path, size=4).values
    np.testing.assert_array_equal(wide_pixels[0], wide[:, 2:6])
    np.testing.assert_array_equal(tall_pixels[0], wide[:, 2:6].T)


def test_resizing_fits_the_shorter_side_and_is_antialiased(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 32))  # 32 x 64, finer than 8 x 8 can show
    stripes[:, :16] = stripes[:, 48:] = 0  # outside of the central square
    save(tmp_path / "a.png", stripes)
    save(tmp_path / "b.png", np.full((3, 3), 77, np.uint8))  # smaller than asked
    a, b = read(tmp_path, size=8).values
    np.testing.assert_allclose(a, 127.5, atol=10)  # at the border the filter sees half of a stripe
    np.testing.assert_array_equal(b, 77)


def test_channels(tmp_path):
    save(tmp_path / "a.png", grey(50))
    save(tmp_path / "b.png", grey(60))
    assert read(tmp_path).shape == (1, 4, 4)
    np.testing.assert_array_equal(read(tmp_path, channels=3).values[1], np.full((3, 4, 4), 60))
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    save(tmp_path / "c.png", red)
    save(tmp_path / "d.png", grey(70))
    for limit in (2**20, 40, 0):  # the first in colour comes before and after the pictures moved to a file
        mixed = read(tmp_path, memory_limit=limit)
        assert mixed.shape == (3, 4, 4)
        np.testing.assert_array_equal(mixed.values[[0, 1, 3], :, 0, 0], [[50] * 3, [60] * 3, [70] * 3])
        np.testing.assert_array_equal(mixed.values[2], red.transpose(2, 0, 1))
    assert read(tmp_path, channels=1).values[:, 0, 0, 0].tolist() == [50, 60, 76, 70]  # luma of red: 0.299 * 255


# Folders of images


def test_a_flat_folder_has_no_labels_and_the_order_of_its_names(tmp_path):
    pixels = colours(5)
    for i in (3, 1, 4, 0, 2):
        save(tmp_path / f"{i}.png", pixels[i])
    flat = read(tmp_path)
    np.testing.assert_array_equal(flat.values, pixels.transpose(0, 3, 1, 2))
    assert (flat.labels, flat.classes, flat.source, flat.scaling) == (None, (), str(tmp_path), PIXELS)


def test_sub_folders_are_labels_and_hidden_files_are_not_there(tmp_path):
    save(tmp_path / "dog" / "1.png", grey(1))
    save(tmp_path / "dog" / "more" / "2.PNG", grey(2))
    save(tmp_path / "cat" / "3.png", grey(3))
    save(tmp_path / "cat" / ".4.png", grey(4))
    save(tmp_path / ".bird" / "5.png", grey(5))
    (tmp_path / "notes.txt").write_text("not an image")
    nested = read(str(tmp_path))
    assert nested.classes == ("cat", "dog")
    assert nested.labels.tolist() == [0, 1, 1]
    assert nested.values[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert nested.skipped == ()
    save(tmp_path / "0.png", grey(0))  # one that has no label
    assert read(tmp_path).labels is None
    assert read(tmp_path).classes == ()


def test_a_class_may_lie_elsewhere(tmp_path):
    save(tmp_path / "all" / "cat" / "1.png", grey(1))
    save(tmp_path / "elsewhere" / "2.png", grey(2))
    (tmp_path / "all" / "dog").symlink_to(tmp_path / "elsewhere")
    assert read(tmp_path / "all").classes == ("cat", "dog")


def test_sub_folders_may_be_splits(tmp_path):
    for i, name in enumerate(("train/cat/1", "train/dog/1", "train/dog/2", "test/dog/1", "test/dog/2")):
        save(tmp_path / f"{name}.png", grey(i))
    assert read(tmp_path).labels.tolist() == [0, 1, 1]
    assert read(tmp_path, split="test").values[:, 0, 0, 0].tolist() == [3, 4]
    assert sorted(read(tmp_path, split="all").values[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="has no split 'val': pass the name of a sub-folder, or all"):
        read(tmp_path, split="val")
    with pytest.raises(ValueError, match="has no split 'test', nor any other: pass train or all"):
        read(tmp_path / "train", split="test")
    assert len(read(tmp_path / "test", split="test")) == 2


def broken_folder(folder):
    """A folder with three good images, and five files that are not."""
    for i in range(3):
        save(folder / f"{i}.png", colours(1, 16)[0])
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    frames = [Image.fromarray(grey(value, 16)) for value in (0, 255)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.ones((16, 16), np.float32)).save(folder / "float.tiff")
    return {
        "cut.png": "truncated",
        "empty.png": "not an image of a known format",
        "float.tiff": "floating-point pixels have no standard white",
        "moving.gif": "animated (2 frames)",
        "text.jpg": "not an image of a known format",
    }


def test_broken_images_are_named_and_skipped(tmp_path):
    reasons = broken_folder(tmp_path)
    some = read(tmp_path)
    assert len(some) == 3
    assert len(some.skipped) == len(reasons)
    for line, (name, reason) in zip(some.skipped, reasons.items(), strict=True):
        assert line.startswith(f"{tmp_path / name}: ")
        assert reason in line
        assert "\n" not in line


def test_skipped_images_take_their_labels_with_them(tmp_path):
    for i, name in enumerate(("a/1", "a/2", "b/1", "b/2")):
        save(tmp_path / f"{name}.png", grey(i))
    (tmp_path / "a" / "2.png").write_bytes(b"")
    some = read(tmp_path)
    assert (some.labels.tolist(), some.values[:, 0, 0, 0].tolist()) == ([0, 1, 1], [0, 2, 3])


def test_strict_fails_on_the_first_broken_image(tmp_path):
    broken_folder(tmp_path)
    with pytest.raises(ValueError, match=r"cut.png: .*truncated.*; repair or remove it, or read without strict"):
        read(tmp_path, strict=True)


def test_an_image_too_large_to_be_true_is_broken(tmp_path, monkeypatch):
    for i in range(3):
        save(tmp_path / f"{i}.png", grey(i))
    for size in (5, 9):  # Pillow warns of the first and refuses the second
        save(tmp_path / f"large{size}.png", grey(0, size))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    some = read(tmp_path)
    assert len(some) == 3
    assert [("decompression bomb" in line) for line in some.skipped] == [True, True]


def test_32_bit_pixels_are_broken_and_a_preview_in_a_photograph_is_not_an_animation(tmp_path):
    save(tmp_path / "a.tiff", np.full((8, 8), 70000, np.int32))
    photograph = Image.fromarray(grey(90, 8))
    photograph.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[Image.fromarray(grey(0, 8))])
    save(tmp_path / "c.png", grey(0, 8))
    some = read(tmp_path)
    np.testing.assert_allclose(some.values[0], 90, atol=1)
    assert ["32-bit pixels have no standard white" in line for line in some.skipped] == [True]


def test_more_pictures_than_the_memory_limit_lie_in_a_file(tmp_path, monkeypatch):
    pixels = colours(10, 8)
    for i, picture in enumerate(pixels):
        save(tmp_path / "images" / f"{i}.png", picture)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    in_memory = read(tmp_path / "images", memory_limit=pixels.nbytes)
    in_file = read(tmp_path / "images", memory_limit=pixels.nbytes - 1)
    assert not isinstance(in_memory.values, np.memmap)
    assert isinstance(in_file.values, np.memmap)
    np.testing.assert_array_equal(in_file.values, in_memory.values)
    np.testing.assert_array_equal(in_file.values, pixels.transpose(0, 3, 1, 2))
    assert torch.equal(in_file.batch([9, 0]), in_memory.batch([9, 0]))
    assert list((tmp_path / "temporary").iterdir()) == []  # nothing is left behind, whatever happens


def test_many_images_keep_their_order(tmp_path):
    for i in range(300):
        save(tmp_path / f"{i:03}.png", np.array([[i % 256, i // 256]], np.uint8))
    values = read(tmp_path).values[:, 0, 0].astype(int)
    assert (values[:, 0] + 256 * values[:, 1]).tolist() == list(range(300))


def test_progress_goes_to_stderr_after_a_while_and_only_if_wanted(tmp_path, monkeypatch, capsys):
    from tqdm import auto

    class Eager(auto.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options | {"delay": -1, "mininterval": 0})

    for i in range(3):
        save(tmp_path / f"{i}.png", grey(i))
    read(tmp_path)
    assert capsys.readouterr() == ("", "")  # quick
    monkeypatch.setattr(auto, "tqdm", Eager)
    read(tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")
    read(tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err


# Arrays


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", "int64"])
@pytest.mark.parametrize("shape", [(50,), (50, 7), (50, 2, 3, 4, 5)])
def test_arrays_are_memory_mapped_and_standardised(tmp_path, dtype, shape):
    values = (100 + 20 * rng.standard_normal(shape)).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    some = read(tmp_path / "a.npy")
    assert isinstance(some.values, np.memmap)
    assert (len(some), some.shape, some.is_pictures, some.labels) == (50, shape[1:], False, None)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(some.scaling, (wide.mean(), wide.std()), rtol=1e-12)
    assert some.batch([4, 2]).dtype == torch.float32
    np.testing.assert_allclose(some.batch([4, 2]), ((wide - wide.mean()) / wide.std())[[4, 2]], rtol=1e-5, atol=1e-6)


def test_moments_and_faults_are_found_in_chunks(tmp_path):
    values = rng.standard_normal((90, 100_000)).astype(np.float32)  # more than two chunks of 2^22 values
    np.save(tmp_path / "a.npy", values)
    expected = (values.mean(dtype=np.float64), values.std(dtype=np.float64))
    np.testing.assert_allclose(read(tmp_path / "a.npy").scaling, expected, rtol=1e-9)
    values[50, 7], values[89, 99_999], values[50, 6] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=r"a.npy holds 3 NaN or infinite values, the first at index \[50, 6\]: remove"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("stored", "pictures"),
    [((5, 8, 6), (1, 8, 6)), ((5, 8, 6, 3), (3, 8, 6)), ((5, 3, 8, 6), (3, 8, 6)), ((5, 1, 8, 8), (1, 8, 8))],
)
def test_arrays_of_bytes_may_be_pictures(tmp_path, stored, pictures):
    values = rng.integers(0, 256, stored, dtype=np.uint8)
    np.save(tmp_path / "a.npy", values)
    some = read(tmp_path / "a.npy")
    assert isinstance(some.values, np.memmap)
    assert (some.shape, some.is_pictures, some.scaling) == (pictures, True, PIXELS)
    moved = values.transpose(0, 3, 1, 2) if stored[-1] == 3 else values
    np.testing.assert_array_equal(some.values, moved.reshape(5, *pictures))
    assert read(tmp_path / "a.npy", size=4, channels=3).shape == (3, 4, 4)
    same = read(tmp_path / "a.npy", size=8)
    assert same.shape == (pictures[0], 8, 8)
    assert isinstance(same.values, np.memmap) == (pictures[1:] == (8, 8))


@pytest.mark.parametrize(("shape", "dtype"), [((5, 8), "uint8"), ((5, 2, 8, 8), "uint8"), ((5, 3, 8, 8), "float32")])
def test_other_arrays_are_plain_values(tmp_path, shape, dtype):
    np.save(tmp_path / "a.npy", rng.integers(0, 256, shape).astype(dtype))
    assert not read(tmp_path / "a.npy").is_pictures
    for how in ({"size": 8}, {"channels": 3}):
        with pytest.raises(ValueError, match=r"not images \(uint8, .*\): pass neither size nor channels"):
            read(tmp_path / "a.npy", **how)


@pytest.mark.parametrize("key", ["x", "data", "images", "other"])
@pytest.mark.parametrize("labels", [None, "labels", "y"])
def test_npz(tmp_path, key, labels):
    values = rng.standard_normal((4, 3))
    arrays = {key: values} | ({labels: np.array([2, 0, 2, 1], np.uint8)} if labels else {})
    np.savez(tmp_path / "a.npz", **arrays)
    some = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(some.values, values)
    assert some.classes == (("0", "1", "2") if labels else ())
    assert some.labels is None if labels is None else some.labels.tolist() == [2, 0, 2, 1]


def test_npz_picks_the_known_name_among_others(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(4.0), extra=np.zeros(9))
    assert read(tmp_path / "a.npz").values.tolist() == [0, 1, 2, 3]


def test_a_pickle_is_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was executed",)

    np.save(tmp_path / "a.npy", np.array([Trap()]))
    np.savez(tmp_path / "a.npz", x=np.array([Trap()]))
    with pytest.raises(ValueError, match=r"a.npy holds pickled Python objects, which are not read: save an array of"):
        read(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a.npz holds pickled Python objects"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(())}, r"is a float64 array of shape \[\]: pass numbers \[n, ...\]"),
        ({"x": np.zeros((4, 0))}, r"is a float64 array of shape \[4, 0\]: pass numbers"),
        ({"x": np.array(["a", "b"])}, r"is a <U1 array of shape \[2\]: pass numbers"),
        ({"x": np.ones((2, 2), complex)}, r"is a complex128 array of shape \[2, 2\]: pass numbers"),
        ({"x": np.full((3, 2), 5.0)}, "all values of .* are 5.0: there is nothing to learn"),
        ({"x": np.array([[1.0, 2.0]])}, "holds 1 sample: at least 2 are needed"),
        ({"x": np.zeros((1, 8, 8), np.uint8)}, "holds 1 sample: at least 2 are needed"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "holds a, b: name the samples x, data or images, and the labels"),
        ({"x": np.zeros(3), "data": np.zeros(3)}, "holds x, data: name the samples"),
        ({"y": np.zeros(3)}, "holds no array: name the samples"),
        ({"x": np.arange(3.0), "y": np.arange(2)}, r"are int64 \[2\]: pass integers from 0, \[3\]"),
        ({"x": np.arange(3.0), "y": np.arange(3.0)}, r"are float64 \[3\]: pass integers from 0, \[3\]"),
        ({"x": np.arange(3.0), "y": np.arange(3) - 1}, "go from -1 to 1: number the classes from 0"),
    ],
)
def test_arrays_that_are_no_data_set(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"PK\x03\x04garbage"])
def test_array_files_that_are_broken(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^cannot read .*{name}: .+$"):
        read(tmp_path / name)


def test_a_truncated_archive_is_broken(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00")
    with pytest.raises(ValueError, match=r"^cannot read .*a.npz: .+$"):
        read(tmp_path / "a.npz")


def test_arrays_have_no_test_split(tmp_path):
    np.save(tmp_path / "test.npy", np.arange(4.0))
    np.save(tmp_path / "a.npy", np.arange(4.0))
    assert len(read(tmp_path / "test.npy", split="test")) == len(read(tmp_path / "a.npy", split="all")) == 4
    np.save(tmp_path / "latest.npy", np.arange(4.0))
    for name in ("a.npy", "latest.npy"):  # whose name holds the letters, not the word
        with pytest.raises(ValueError, match=rf"{name} has no split 'test', nor any other: pass train or all"):
            read(tmp_path / name, split="test")


# Sources that are none


def test_sources_that_are_not_there(tmp_path):
    allowed = r"name a folder, a .npy, .npz, .tar, .parquet, .arrow file, owner/name on the Hub, or `digits`"
    for name in (tmp_path / "missing", "missing", "./a/b", "data/missing.npy", "a/b/c"):
        with pytest.raises(ValueError, match=rf"^there is no {name}: {allowed}$"):
            read(name)
    for name in ("digts", "Digits", "digit"):
        with pytest.raises(ValueError, match=rf"^there is no {name}: {allowed}; did you mean `digits`\?$"):
            read(name)


def test_folders_and_files_that_are_no_source(tmp_path):
    with pytest.raises(ValueError, match=r"^no images in .*, which is empty: name a folder of images \(.avif, .bmp"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"which has other files, such as notes.txt: name a folder of images"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"notes.txt is a file of an unknown kind: name a folder, or a .npy, .npz,"):
        read(tmp_path / "notes.txt")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of .* can be read; the first of 1 is .*a.png: not an image of a"):
        read(tmp_path)
    save(tmp_path / "b.png", grey(1))
    with pytest.raises(ValueError, match="holds 1 sample: at least 2 are needed"):
        read(tmp_path)
    save(tmp_path / "c.png", np.zeros((4, 6), np.uint8))
    message = r"differ in size: .*b.png has 4x4 pixels and .*c.png has 6x4; pass a size to crop"
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 0}, "size 0: pass the side of the images in pixels, from 1 to 8192"),
        ({"channels": 4}, r"channels 4: pass 1 \(greyscale\) or 3 \(RGB\)"),
        ({"split": "val"}, "digits has no split 'val': pass one of train, test, all"),
    ],
)
def test_options_that_are_not_allowed(how, message):
    with pytest.raises(ValueError, match=message):
        read("digits", **how)


def test_large_members_of_an_npz_that_are_not_compressed_are_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SMALL", 1000)
    monkeypatch.setattr(reading, "free_memory", lambda: 2000)  # enough for what is not mapped
    arrays = {
        "x": rng.normal(size=(50, 4, 2)),
        "fortran": np.asfortranarray(rng.normal(size=(50, 4))),
        "y": np.arange(50),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = reading.read_npz(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert isinstance(found[name], np.memmap) == (name != "y")
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    with pytest.raises(ValueError, match=r"takes .* GiB of memory"):
        reading.read_npz(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=arrays["x"], y=arrays["y"])
    assert isinstance(read(tmp_path / "c.npz").values, np.memmap)
