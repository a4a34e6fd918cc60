"""Grids and tables show every picture where it belongs, animations every frame, terminals what they can, and images
are saved whole.
"""

import base64
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from leapstep.data import pictures
from leapstep.data.pictures import animation, captioned, cut, grid, preview, save_image, selection, table, video

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
    ("n", "h", "w", "size"),
    [
        (100, 32, 128, (5 * 130 + 2, 20 * 34 + 2)),  # as many rows and columns would be four times as wide as high
        (20, 128, 32, (9 * 34 + 2, 3 * 130 + 2)),
        (2, 8, 64, (66 + 2, 2 * 10 + 2)),
        (2, 64, 8, (2 * 10 + 2, 66 + 2)),
    ],
)
def test_a_grid_of_oblong_pictures_is_nearly_square_too(n, h, w, size):
    assert grid(np.zeros((n, 1, h, w), np.uint8)).size == size


@pytest.mark.parametrize(
    ("n", "side", "each"), [(400, 256, 128), (64, 256, 256), (20, 1023, 512), (1, 3000, 1500), (9000, 20, 20)]
)
def test_a_large_grid_is_shrunk_to_what_can_be_looked_at(n, side, each):
    """400 pictures of 256x256 would have 27 megapixels, one by one enlarged 9000 of 20x20 more than 14."""
    sheet = grid(np.zeros((n, 1, side, side), np.uint8), padding=0)
    columns = int(np.ceil(n**0.5))
    assert sheet.size == (columns * each, -(-n // columns) * each)
    assert sheet.width * sheet.height < 9e6


def test_shrunk_pictures_are_means_and_a_zoom_that_is_asked_for_is_obeyed():
    pixels = rng.integers(0, 256, (1, 3, 1200, 2300), dtype=np.uint8).repeat(3, 0)
    sheet = np.asarray(grid(pixels, columns=1, padding=0)).astype(float)
    means = pixels[0].reshape(3, 600, 2, 1150, 2).mean((2, 4)).transpose(1, 2, 0)
    np.testing.assert_allclose(sheet[600:1200], means, atol=0.5)
    assert grid(pixels, columns=1, padding=0, zoom=1).size == (2300, 3600)


@pytest.mark.parametrize(
    ("n", "period", "columns"),
    [(64, 1, 8), (60, 10, 10), (64, 3, 9), (64, 2, 8), (12, 5, 5), (64, 100, 8), (60, 17, 8)],
)
def test_pictures_of_several_kinds_in_turns_have_a_column_a_kind(n, period, columns):
    """Unless there are so many kinds that the grid would be far from square."""
    assert grid(np.zeros((n, 1, 8, 8), np.uint8), padding=0, period=period).width == 40 * columns


@pytest.mark.parametrize(("n", "shape", "period"), [(7, (3, 8, 6), 1), (60, (1, 28, 28), 10), (3, (1, 50, 70), 2)])
def test_pictures_are_cut_out_of_a_grid_as_they_were(n, shape, period):
    pixels = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    np.testing.assert_array_equal(cut(grid(pixels, period=period), shape, n, period), pixels)
    for other in ((n + 40, shape), (n, (shape[0], 9, 9))):
        with pytest.raises(ValueError, match=rf"{other[0]} images of shape \[{shape[0]}, .* take"):
            cut(grid(pixels, period=period), other[1], other[0], period)


def test_pictures_are_cut_out_of_a_grid_as_it_shrank_them():
    colours = rng.integers(0, 256, (150, 3, 1, 1), dtype=np.uint8)
    pixels = colours * np.ones((1, 1, 251, 300), np.uint8)
    np.testing.assert_array_equal(cut(grid(pixels), (3, 251, 300), 150), pixels[:, :, :126, :150])


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 1, 8, 8), np.uint8), np.zeros((2, 2, 8, 8), np.uint8), np.zeros((2, 1, 8, 8))]
)
def test_what_is_no_picture(pixels):
    terminal = {"TERM": "xterm"}, (80, 24)
    for show in (grid, animation, lambda pixels: table({"row": pixels}), lambda pixels: selection(pixels, *terminal)):
        with pytest.raises(ValueError, match=r"images are uint8 \[n, 1 or 3, h, w\]"):
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


def test_a_table_is_enlarged_and_shrunk_as_asked():
    pixels = np.zeros((2, 1, 32, 32), np.uint8)
    sizes = [table({"": pixels}, size=14, **given).size for given in ({}, {"side": 160}, {"most": 512})]
    assert sizes == [(14 + 2 * (side + 7), 7 + side + 7) for side in (64, 160, 16)]


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


def test_the_last_frame_is_held():
    image = Image.open(io.BytesIO(animation(rng.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8), hold=1.5)))
    durations = []
    for i in range(3):
        image.seek(i)
        durations.append(image.info["duration"])
    assert durations == [100, 100, 1600]


def test_a_long_animation_is_as_large_as_a_short_one():
    """It is frames, and not their sum, that have to fit."""
    assert Image.open(io.BytesIO(animation(np.zeros((400, 1, 8, 8), np.uint8)))).size == (160, 160)


# --- videos --------------------------------------------------------------------------------------------------------

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="there is no ffmpeg"
)


def probed(path, entries):
    """What ffprobe says of a video stream, by name."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", f"stream={entries}", "-of", "default=nw=1"]
    said = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=") for line in said.split())


@needs_ffmpeg
@pytest.mark.parametrize("channels", [1, 3])
def test_a_video_shows_its_frames_in_turn_and_holds_the_last(tmp_path, channels):
    colours = rng.integers(0, 256, (4, channels, 1, 1), dtype=np.uint8)
    (tmp_path / "a.mp4").write_bytes(video(colours * np.ones((1, 1, 7, 9), np.uint8), hold=0.3))
    told = probed(tmp_path / "a.mp4", "codec_name,pix_fmt,width,height,nb_read_frames,r_frame_rate,color_space")
    expected = {"codec_name": "h264", "pix_fmt": "yuv420p", "width": "162", "height": "126", "r_frame_rate": "10/1"}
    assert told == {**expected, "nb_read_frames": "7", "color_space": "bt709"}
    decode = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    seen = np.frombuffer(subprocess.run(decode, capture_output=True, check=True).stdout, np.uint8)
    frames = colours[[0, 1, 2, 3, 3, 3, 3], :, 0, 0]
    expected = np.broadcast_to(frames[:, None, None], (7, 126, 162, channels)).astype(int)
    np.testing.assert_allclose(seen.reshape(7, 126, 162, 3), np.broadcast_to(expected, (7, 126, 162, 3)), atol=4)


@needs_ffmpeg
def test_a_video_of_odd_sides_begins_with_its_index(tmp_path):
    encoded = video(rng.integers(0, 256, (2, 1, 161, 163), dtype=np.uint8))
    assert 0 < encoded.index(b"moov") < encoded.index(b"mdat")  # so that it plays while it is fetched
    (tmp_path / "a.mp4").write_bytes(encoded)
    assert probed(tmp_path / "a.mp4", "width,height") == {"width": "164", "height": "162"}


def test_without_ffmpeg_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"ffmpeg, which is not on the PATH: install it .*, or make a GIF$"):
        video(np.zeros((2, 1, 8, 8), np.uint8))


@pytest.mark.skipif(shutil.which("sh") is None, reason="the false ffmpeg is a shell script")
def test_an_ffmpeg_that_fails_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho one >&2; echo Unknown encoder >&2; exit 1\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"made no MP4 \(Unknown encoder\): install an ffmpeg with libx264"):
        video(np.zeros((2, 1, 8, 8), np.uint8))


# --- in a terminal -------------------------------------------------------------------------------------------------

PLAIN = {"TERM": "xterm-256color"}
DEEP = {**PLAIN, "COLORTERM": "truecolor"}
RED, NAVY, GREY = (255, 0, 0), (0, 0, 128), (100, 100, 100)


def image_of(*rows):
    return Image.fromarray(np.array(rows, np.uint8))


def test_a_terminal_of_16_million_colours_has_two_pixels_a_character():
    image = image_of([RED, RED, NAVY], [GREY, GREY, RED], [NAVY, RED, RED])
    expected = (
        "\x1b[38;2;255;0;0;48;2;100;100;100m▀▀\x1b[38;2;0;0;128;48;2;255;0;0m▀\x1b[0m\n"
        "\x1b[38;2;0;0;128;49m▀\x1b[38;2;255;0;0;49m▀▀\x1b[0m\n"  # below the last row the terminal's own background
    )
    assert preview(image, DEEP, (80, 24)) == expected
    assert preview(image, {**PLAIN, "COLORTERM": "24bit"}, (80, 24)) == expected


def test_a_terminal_of_256_colours_has_the_nearest():
    image = image_of([RED, NAVY, GREY], [(255, 250, 250), (0, 90, 0), (8, 8, 8)])
    expected = "\x1b[38;5;196;48;5;231m▀\x1b[38;5;18;48;5;22m▀\x1b[38;5;241;48;5;232m▀\x1b[0m\n"
    assert preview(image, PLAIN, (80, 24)) == expected


def test_no_colour_of_the_256_is_nearer():
    levels = [0, 95, 135, 175, 215, 255]
    palette = [(r, g, b) for r in levels for g in levels for b in levels] + [(8 + 10 * i,) * 3 for i in range(24)]
    colours = rng.integers(0, 256, (500, 3))
    colours[::5] = colours[::5, :1] + rng.integers(-6, 7, (100, 3))  # nearly grey
    colours = colours.clip(0, 255)
    distance = ((colours[:, None] - np.array(palette)) ** 2).sum(2)
    shown = preview(image_of(*colours.reshape(2, 250, 3)), PLAIN, (251, 24))
    runs = re.findall(r"\x1b\[38;5;(\d+);48;5;(\d+)m(▀+)", shown)
    codes = np.array([(int(upper), int(lower)) for upper, lower, blocks in runs for _ in blocks]).T.ravel()
    nearest = distance[np.arange(500), codes - 16]
    assert (nearest <= 1.3 * distance.min(1)).all()  # the cube is searched channel by channel
    assert (nearest == distance.min(1)).mean() > 0.95


@pytest.mark.parametrize(
    "environment",
    [{**DEEP, "NO_COLOR": "1"}, {"TERM": "dumb"}, {}, {"TERM": ""}, {"TERM": "xterm-kitty", "NO_COLOR": "1"}],
    ids=str,
)
def test_a_terminal_without_colours_shows_nothing(environment):
    assert preview(image_of([RED]), environment, (80, 24)) == ""


@pytest.mark.parametrize("environment", [{**PLAIN, "NO_COLOR": ""}, {"WT_SESSION": "1"}, {"TERM": "linux"}], ids=str)
def test_other_terminals_show_colours(environment):
    assert preview(image_of([RED]), environment, (80, 24)) == "\x1b[38;5;196;49m▀\x1b[0m\n"


def sent(text, kind):
    """The keys and the image that a terminal is sent."""
    if kind == "iterm":
        keys, data = re.fullmatch(r"\x1b\]1337;File=([^:]*):([\w+/=]+)\a\n", text).groups()
        return [keys], Image.open(io.BytesIO(base64.b64decode(data)))
    parts = re.findall(r"\x1b_G([^;]*);([\w+/=]+)\x1b\\", text)
    assert text == "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) + "\n"
    assert all(len(data) == 4096 for _, data in parts[:-1])
    return [keys for keys, _ in parts], Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts))))


@pytest.mark.parametrize("environment", [{"TERM": "xterm-kitty"}, {**DEEP, "KITTY_WINDOW_ID": "3"}], ids=str)
def test_kitty_is_sent_the_image_in_parts(environment):
    noise = Image.fromarray(rng.integers(0, 256, (60, 91, 3), dtype=np.uint8))
    keys, image = sent(preview(noise, environment, (80, 24)), "kitty")
    assert keys == ["a=T,f=100,q=2,c=10,m=1", *["m=1"] * (len(keys) - 2), "m=0"]
    assert len(keys) > 3
    np.testing.assert_array_equal(np.asarray(image), np.asarray(noise))
    assert sent(preview(image_of([RED]), environment, (80, 24)), "kitty")[0] == ["a=T,f=100,q=2,c=1,m=0"]


@pytest.mark.parametrize("program", ["iTerm.app", "WezTerm"])
def test_iterm_is_sent_the_image(program):
    noise = Image.fromarray(rng.integers(0, 256, (60, 91), dtype=np.uint8))
    text = preview(noise, {**DEEP, "TERM_PROGRAM": program}, (80, 24))
    (keys,), image = sent(text, "iterm")
    size = len(base64.b64decode(text.partition(":")[2][:-2]))
    assert keys == f"inline=1;size={size};width=10;height=auto"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(noise.convert("RGB")))


@pytest.mark.parametrize("environment", [{"TMUX": "/tmp/tmux"}, {"TERM": "tmux-256color"}, {"TERM": "screen"}], ids=str)
@pytest.mark.parametrize("outer", [{"KITTY_WINDOW_ID": "3"}, {"TERM_PROGRAM": "WezTerm"}], ids=str)
def test_images_do_not_pass_a_multiplexer(environment, outer):
    assert preview(image_of([RED]), {**PLAIN, **outer, **environment}, (80, 24)) == "\x1b[38;5;196;49m▀\x1b[0m\n"


@pytest.mark.parametrize(
    ("size", "pixels", "shown"),
    [
        ((80, 24), (48, 10), (48, 10)),
        ((80, 24), (160, 20), (79, 9)),  # one column is left free
        ((80, 24), (30, 60), (12, 24)),
        ((40, 5), (30, 60), (3, 6)),  # the lines after it stay in sight
        ((1, 1), (30, 60), (1, 2)),
    ],
)
def test_a_preview_fits_the_terminal(size, pixels, shown):
    text = preview(Image.new("RGB", pixels, RED), DEEP, size)
    lines = text.splitlines()
    assert (text.count("▀") // len(lines), len(lines)) == (shown[0], (shown[1] + 1) // 2)
    assert ("49m" in text) == (shown[1] % 2 == 1)
    keys, image = sent(preview(Image.new("RGB", (3000, 3000)), {"TERM": "xterm-kitty"}, size), "kitty")
    lines = max(1, min(12, size[1] - 2))
    side = min(10 * max(1, size[0] - 1), 20 * lines)
    assert image.size == (side, side)
    assert f"c={-(-side // 10)}," in keys[0]


@pytest.mark.parametrize(
    ("environment", "side", "n", "size", "layout"),
    [
        (DEEP, 8, 64, (80, 24), (2, 8, 8)),  # rows, columns, pixels of each
        (DEEP, 8, 9, (80, 24), (2, 5, 8)),
        (DEEP, 4, 2, (80, 24), (1, 2, 8)),
        (DEEP, 28, 64, (80, 24), (1, 3, 22)),
        (DEEP, 28, 64, (200, 60), (1, 8, 22)),
        (DEEP, 256, 1, (20, 24), (1, 1, 17)),
        ({"TERM": "xterm-kitty"}, 28, 64, (80, 24), (4, 13, 56)),
        ({"TERM": "xterm-kitty"}, 300, 64, (80, 24), (1, 3, 236)),
    ],
    ids=str,
)
def test_the_first_pictures_are_shown_as_large_as_they_can_be_seen(environment, side, n, size, layout):
    rows, columns, each = layout
    values = rng.integers(0, 256, (n, 3, 1, 1), dtype=np.uint8)
    image = selection(values * np.ones((1, 1, side, side), np.uint8), environment, size)
    padding = 1 if environment is DEEP else 2
    assert image.size == (columns * (each + padding) + padding, rows * (each + padding) + padding)
    shown = min(n, rows * columns)
    np.testing.assert_array_equal(
        np.asarray(image)[padding :: each + padding, padding :: each + padding][:rows, :columns].reshape(-1, 3)[:shown],
        values[:shown, :, 0, 0],
    )
    text = preview(image, environment, size)  # as it is: nothing of it is lost
    assert len(text.splitlines()) <= 12
    if environment is DEEP:
        assert text.count("▀") == image.width * -(-image.height // 2)


def test_pictures_are_shown_from_the_first_to_the_last():
    values = np.arange(21, dtype=np.uint8)[:, None, None, None]
    image = selection(values * np.ones((1, 1, 8, 8), np.uint8), DEEP, (80, 24), evenly=True)
    assert image.size == (8 * 9 + 1, 10)
    assert np.asarray(image)[1, 1::9][:8].tolist() == [0, 3, 6, 9, 11, 14, 17, 20]
