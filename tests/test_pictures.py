"""Grids show every picture where it belongs, and images are saved whole."""

import numpy as np
import pytest
from PIL import Image

from leapstep import pictures
from leapstep.pictures import captioned, grid, save_image

rng = np.random.default_rng(0)


def test_a_grid_has_its_pictures_row_by_row():
    pixels = rng.integers(0, 256, (5, 3, 2, 4), dtype=np.uint8)
    sheet = np.asarray(grid(pixels, columns=2, padding=3, zoom=2))
    assert sheet.shape == (3 * (4 + 3) + 3, 2 * (8 + 3) + 3, 3)
    seen = np.full(sheet.shape, 128, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = 3 + i // 2 * 7, 3 + i % 2 * 11
        cell = sheet[top : top + 4, left : left + 8]
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            np.testing.assert_array_equal(cell[dy::2, dx::2].transpose(2, 0, 1), picture)
        seen[top : top + 4, left : left + 8] = cell
    np.testing.assert_array_equal(sheet, seen)  # the rest is grey


@pytest.mark.parametrize(
    ("n", "side", "size"),
    [(1, 8, (44, 44)), (9, 8, (3 * 42 + 2,) * 2), (10, 28, (4 * 58 + 2, 3 * 58 + 2)), (2, 64, (2 * 66 + 2, 66 + 2))],
)
def test_a_grid_is_nearly_square_and_large_enough_to_see(n, side, size):
    sheet = grid(np.zeros((n, 1, side, side), np.uint8))
    assert (sheet.size, sheet.mode) == (size, "L")


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 1, 8, 8), np.uint8), np.zeros((2, 2, 8, 8), np.uint8), np.zeros((2, 1, 8, 8))]
)
def test_a_grid_of_no_pictures(pixels):
    with pytest.raises(ValueError, match=r"a grid needs uint8 \[n, 1 or 3, h, w\]"):
        grid(pixels)


def test_images_are_saved_whole(tmp_path, monkeypatch):
    pixels = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    save_image(Image.fromarray(pixels), tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)

    def full(file, bytes_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.files, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        save_image(Image.fromarray(pixels[:1]), tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
    with pytest.raises(ValueError, match=r"cannot save an image as .*a.jpg: .* pass a name that ends in .png"):
        save_image(Image.fromarray(pixels), tmp_path / "a.jpg")


def test_captions_stand_above_their_images():
    images = {"ab": Image.new("L", (90, 20), 10), "c": Image.new("RGB", (60, 30), (200, 0, 0))}
    sheet = captioned(images, size=12)
    assert (sheet.size, sheet.mode) == ((90, 24 + 20 + 24 + 30), "RGB")
    pixels = np.asarray(sheet)
    np.testing.assert_array_equal(pixels[24:44], np.full((20, 90, 3), 10))
    np.testing.assert_array_equal(pixels[68:98, :60], np.broadcast_to([200, 0, 0], (30, 60, 3)))
    ink = [(pixels[top : top + 24] < 128).any(2).sum() for top in (0, 44)]
    assert ink[0] > ink[1] > 0
