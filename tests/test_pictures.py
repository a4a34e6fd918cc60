"""Grids and tables show every picture where it belongs, animations every frame, and images are saved whole."""

import io

import numpy as np
import pytest
from PIL import Image

from leapstep import pictures
from leapstep.pictures import animation, captioned, grid, save_image, table

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
def test_what_is_no_picture(pixels):
    for show in (grid, animation, lambda pixels: table({"row": pixels})):
        with pytest.raises(ValueError, match=r"pictures are uint8 \[n, 1 or 3, h, w\]"):
            show(pixels)


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


def cells(sheet, pixels):
    """Where on a table pictures of 32x32 stand that are enlarged twice: (top, left) of each."""
    found = []
    for picture in pixels.repeat(2, 2).repeat(2, 3).transpose(0, 2, 3, 1):
        picture = np.broadcast_to(picture, (64, 64, 3))
        corner = (sheet == picture[0, 0]).all(2)
        places = [(y, x) for y, x in np.argwhere(corner) if np.array_equal(sheet[y : y + 64, x : x + 64], picture)]
        assert len(places) == 1
        found.append(places[0])
    return np.array(found)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_table_has_its_pictures_in_rows_and_columns_and_captions_beside_them(channels):
    pixels = rng.integers(0, 256, (5, channels, 32, 32), dtype=np.uint8)
    sheet = table({"above": pixels[:3], "below, with more to say": pixels[3:]}, ["a", "b", "quite a wide caption"])
    seen = np.asarray(sheet)
    assert sheet.mode == "RGB"
    places = cells(seen, pixels)
    top, left = places[:3], places[3:]
    assert len(set(top[:, 0])) == len(set(left[:, 0])) == 1
    assert left[0, 0] > top[0, 0] + 64
    np.testing.assert_array_equal(top[:2, 1], left[:, 1])
    assert (np.diff(top[:, 1]) > 64).all()
    ink = (seen < 128).any(2)
    for y, x in places:
        ink[y - 1 : y + 65, x - 1 : x + 65] = False
    (first_y, first_x), last_x = places[0], places[2][1]
    captions = ink[:first_y]
    assert captions[:, first_x : first_x + 64].any()
    assert captions[:, last_x : last_x + 64].sum() > 3 * captions[:, first_x : first_x + 64].sum()
    assert 0 < ink[first_y : first_y + 64, :first_x].sum() < ink[left[0, 0] : left[0, 0] + 64, :first_x].sum()
    ink[:first_y], ink[:, :first_x] = False, False
    assert not ink.any()


def test_a_table_without_captions_of_columns_is_lower():
    pixels = rng.integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)
    plain, headed = table({"": pixels}), table({"": pixels}, ["0", "1"])
    assert plain.width == headed.width
    assert plain.height < headed.height


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_shows_its_frames_in_turn_for_ever(channels):
    colours = rng.integers(0, 256, (5, channels, 1, 1), dtype=np.uint8)
    pixels = colours * np.ones((1, 1, 8, 8), np.uint8)
    if channels == 1:
        pixels = rng.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)  # all greys are exact
    image = Image.open(io.BytesIO(animation(pixels)))
    assert (image.format, image.n_frames, image.info["loop"], image.info["duration"]) == ("GIF", 5, 0, 100)
    assert image.size == (160, 160)
    for i, frame in enumerate(pixels):
        image.seek(i)
        shown = np.asarray(image.convert("RGB")).astype(int)
        expected = np.broadcast_to(frame.repeat(20, 1).repeat(20, 2).transpose(1, 2, 0), (160, 160, 3))
        np.testing.assert_allclose(shown, expected, atol=0 if channels == 1 else 1)
