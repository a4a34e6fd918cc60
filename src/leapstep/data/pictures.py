"""Images for people from arrays of pixels: grids, captioned tables, animations, previews in a terminal."""

from __future__ import annotations

import base64
import io
import itertools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from leapstep import files
from leapstep.text import clean, one_line

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Pixels = npt.NDArray[np.uint8]

SHEET = 8_000_000
"""How many pixels a sheet may have; images that would exceed it are shrunk."""

RATE = 10
"""Frames per second."""

LINES = 12
"""Lines of a terminal that a preview takes at most."""

CELL = (10, 20)
"""Width and height of a character in pixels, assumed for terminals that show images; fonts differ."""

# --- sheets --------------------------------------------------------------------------------------------------------


def grid(
    pixels: Pixels, columns: int | None = None, padding: int = 2, zoom: int | None = None, period: int = 1
) -> Image.Image:
    """Lay out images row by row on mid-grey.

    Arguments:
        pixels: uint8 [n, c, h, w] with c = 1 or 3.
        columns: images in a row; None makes the grid as square as possible.
        padding: grey pixels around and between the images.
        zoom: pixels of the grid for each pixel of an image; None makes the longer side at least 40, or less if the
            images would not fit on a sheet (see `SHEET`).
        period: the number of classes, if images of different classes take turns. Each column then has one class,
            unless that would make the grid far from square.

    Returns:
        A greyscale or RGB image.

    Raises:
        ValueError: the array does not hold images.
    """
    large = _scaled(pixels, 40, zoom)
    n, h, w, c = large.shape
    columns = columns or _columns(n, h, w, period)
    size = (math.ceil(n / columns) * (h + padding) + padding, columns * (w + padding) + padding)
    canvas = np.full((*size, c), 128, np.uint8)
    for image, (top, left) in zip(large, _corners(n, h, w, columns, padding), strict=True):
        canvas[top : top + h, left : left + w] = image
    return _image(canvas)


def cut(sheet: Image.Image, shape: Sequence[int], n: int, period: int = 1, padding: int = 2) -> Pixels:
    """Cut a sheet into its images: the inverse of `grid`.

    Arguments:
        sheet: the result of `grid` for n images of this shape, with this period and padding.
        shape: (c, h, w) of an image.

    Returns:
        uint8 [n, c, h, w]; smaller than `shape` if the images were shrunk to fit on the sheet.

    Raises:
        ValueError: the size of the sheet does not fit these arguments.
    """
    c, height, width = shape
    zoom, shrink = _scale(height, width, n, 40)
    h, w = math.ceil(height / shrink) * zoom, math.ceil(width / shrink) * zoom
    columns = _columns(n, h, w, period)
    size = (columns * (w + padding) + padding, math.ceil(n / columns) * (h + padding) + padding)
    if sheet.size != size:
        raise ValueError(f"a sheet of {sheet.size} pixels: {n} images of shape {list(shape)} take {size}")
    canvas = np.asarray(sheet.convert("L" if c == 1 else "RGB")).reshape(size[1], size[0], c)
    corners = _corners(n, h, w, columns, padding)
    return np.stack([canvas[y : y + h : zoom, x : x + w : zoom].transpose(2, 0, 1) for y, x in corners])


def _columns(n: int, h: int, w: int, period: int) -> int:
    """The number of images of h by w pixels in a row of a nearly square sheet."""
    columns = max(1, math.ceil(math.sqrt(n * h / w)))
    if period <= 2 * columns:
        columns = math.ceil(columns / period) * period
    return min(n, columns)


def _corners(n: int, h: int, w: int, columns: int, padding: int) -> Iterator[tuple[int, int]]:
    """The top and left edge of each image in a grid."""
    for i in range(n):
        yield i // columns * (h + padding) + padding, i % columns * (w + padding) + padding


def table(
    rows: Mapping[str, Pixels], columns: Sequence[str] = (), size: int = 14, side: int = 64, most: int = SHEET
) -> Image.Image:
    """Lay out images in rows on white, each in a thin grey frame: captions before the rows and above the columns.

    A caption may have several lines.

    Arguments:
        rows: uint8 [n, c, h, w] with c = 1 or 3, by their captions, from top to bottom; all of one h and w.
        columns: captions of the columns, from left to right.
        size: height of the letters, pixels.
        side: images are enlarged until the longer side has at least this many pixels ...
        most: ... but shrunk if together they would have more pixels than this.

    Returns:
        An RGB image.

    Raises:
        ValueError: an array does not hold images.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = [*map(one_line, columns)]
    font, gap = ImageFont.load_default(size), size // 2
    count = sum(len(pixels) for pixels in rows.values())
    large = {caption: _scaled(pixels, side, None, count, most) for caption, pixels in rows.items()}
    _, h, w, _ = next(iter(large.values())).shape
    pitch = gap + max(w, _width(font, *columns))
    left = 2 * gap + _width(font, *map(one_line, rows))
    top = size * (2 + max(caption.count("\n") for caption in columns)) if columns else gap
    longest = max(len(images) for images in large.values())
    canvas = Image.new("RGB", (left + longest * pitch, top + len(rows) * (h + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, caption in enumerate(columns):
        draw.text((left + i * pitch + (pitch - gap) / 2, top / 2), caption, "black", font, anchor="mm")
    for j, (caption, images) in enumerate(large.items()):
        y = top + j * (h + gap)
        draw.text((gap, y + h / 2), one_line(caption), "black", font, anchor="lm")
        for i, image in enumerate(images):
            x = left + i * pitch + (pitch - gap - w) // 2
            draw.rectangle((x - 1, y - 1, x + w, y + h), "grey")
            canvas.paste(_image(image), (x, y))
    return canvas


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, *captions: str) -> int:
    """The width of the longest line, pixels."""
    return max((math.ceil(font.getlength(line)) for caption in captions for line in caption.split("\n")), default=0)


def captioned(images: Mapping[str, Image.Image], size: int = 15) -> Image.Image:
    """Stack images on white, each below its caption, which may have several lines.

    Arguments:
        images: by their captions, from top to bottom.
        size: height of the letters, pixels.

    Returns:
        An RGB image.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    strips = {caption: size * (2 + 3 * caption.count("\n") // 2) for caption in images}
    height = sum(image.height + strips[caption] for caption, image in images.items())
    width = max(4 + _width(font, *images), *(image.width for image in images.values()))
    canvas = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for caption, image in images.items():
        strip = strips[caption]
        draw.text((2, top + strip / 2), clean(caption), "black", font, anchor="lm")
        canvas.paste(image.convert("RGB"), (0, top + strip))
        top += strip + image.height
    return canvas


# --- animations ----------------------------------------------------------------------------------------------------


def animation(pixels: Pixels, hold: float = 0.0) -> bytes:
    """Encode images as a GIF that shows them in a loop, ten per second.

    Arguments:
        pixels: the frames, uint8 [n, c, h, w] with c = 1 or 3; enlarged until the longer side is at least 160.
        hold: how much longer the last frame is shown, seconds.

    Returns:
        The file. Greys are exact; a colour frame has a palette of 256 of its own.

    Raises:
        ValueError: the array does not hold images.
    """
    images = [_image(frame) for frame in _scaled(pixels, 160, count=1)]
    durations = [1000 // RATE] * len(images)
    durations[-1] += round(1000 * hold)
    encoded = io.BytesIO()
    images[0].save(encoded, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return encoded.getvalue()


def video(pixels: Pixels, hold: float = 0.0) -> bytes:
    """Encode images as an MP4 (H.264, yuv420p, which every browser plays) that shows them once, ten per second.

    Arguments:
        pixels: the frames, uint8 [n, c, h, w] with c = 1 or 3; enlarged until the longer side is at least 160, and by
            a row or a column more if that is odd.
        hold: how much longer the last frame is shown, seconds.

    Returns:
        The file.

    Raises:
        ValueError: the array does not hold images; there is no ffmpeg, or it lacks H.264.
    """
    program = ffmpeg()
    frames = _scaled(pixels, 160, count=1)
    frames = np.concatenate([frames, frames[-1:].repeat(round(RATE * hold), 0)])
    _, h, w, c = frames.shape
    frames = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), "edge").repeat(3 // c, 3)
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    source = f"-f rawvideo -pix_fmt rgb24 -video_size {size} -framerate {RATE} -i -"
    colour = "-vf scale=out_color_matrix=bt709,format=yuv420p -colorspace bt709 -color_primaries bt709 -color_trc bt709"
    with tempfile.TemporaryDirectory() as folder:  # a file, since the index that players want first is written last
        path = Path(folder) / "video.mp4"
        encode = f"-c:v libx264 -crf 18 {colour} -movflags +faststart"
        command = [program, "-hide_banner", "-loglevel", "error", *source.split(), *encode.split(), str(path)]
        result = subprocess.run(command, input=frames.tobytes(), capture_output=True)
        if result.returncode != 0:
            lines = result.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {result.returncode}"]
            raise ValueError(f"{program} made no MP4 ({lines[-1]}): install an ffmpeg with libx264, or make a GIF")
        return path.read_bytes()


def ffmpeg() -> str:
    """Find the program that encodes MP4.

    Returns:
        Its path.

    Raises:
        ValueError: it is not on the PATH.
    """
    if (program := shutil.which("ffmpeg")) is None:
        raise ValueError(
            "encoding an MP4 needs the program ffmpeg, which is not on the PATH: install it (apt install ffmpeg, "
            "brew install ffmpeg, winget install ffmpeg), or make a GIF"
        )
    return program


# --- in a terminal -------------------------------------------------------------------------------------------------


def preview(image: Image.Image, environment: Mapping[str, str], size: tuple[int, int]) -> str:
    """Draw an image in a terminal.

    Uses the protocol of kitty or iTerm2 if the environment names such a terminal, otherwise characters of two pixels
    each, in 16 million or in 256 colours.

    Arguments:
        image: any image; it is shrunk to the width of the terminal and to `LINES` lines.
        environment: the variables that describe the terminal, as in `os.environ`.
        size: its columns and lines.

    Returns:
        The text to print, ending with a new line; empty if the terminal or the user (NO_COLOR) wants no colours.

    References:
        https://sw.kovidgoyal.net/kitty/graphics-protocol, https://iterm2.com/documentation-images.html,
        https://no-color.org
    """
    from PIL import Image

    kind, width, height = _room(environment, size)
    if not kind:
        return ""
    scale = min(1, width / image.width, height / image.height)
    small = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    image = image.convert("RGB").resize(small, Image.Resampling.BOX)
    if kind == "blocks":
        return _half_blocks(np.asarray(image), environment.get("COLORTERM") in ("truecolor", "24bit"))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    columns, data = math.ceil(image.width / CELL[0]), base64.b64encode(encoded.getvalue()).decode()
    if kind == "iterm":
        return f"\x1b]1337;File=inline=1;size={len(encoded.getvalue())};width={columns};height=auto:{data}\a\n"
    parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    keys = [f"a=T,f=100,q=2,c={columns},m=1", *["m=1"] * (len(parts) - 1)]  # q=2: no response from the terminal
    keys[-1] = keys[-1].replace("m=1", "m=0")
    return "".join(f"\x1b_G{key};{part}\x1b\\" for key, part in zip(keys, parts, strict=True)) + "\n"


def selection(
    pixels: Pixels, environment: Mapping[str, str], size: tuple[int, int], evenly: bool = False
) -> Image.Image:
    """Lay out as many images as a preview in this terminal can show.

    Arguments:
        pixels: uint8 [n, c, h, w] with c = 1 or 3.
        environment: as in `preview`.
        size: as in `preview`.
        evenly: choose them evenly from first to last, in one row, instead of the first ones.

    Returns:
        A greyscale or RGB image.

    Raises:
        ValueError: the array does not hold images.
    """
    from PIL import Image

    kind, width, height = _room(environment, size)
    padding, side = (1, 8) if kind == "blocks" else (2, 40)
    large = _scaled(pixels, side, count=1)
    n, h, w, _ = large.shape
    scale = min(1, (height - 2 * padding) / h, (width - 2 * padding) / w)
    h, w = max(1, int(h * scale)), max(1, int(w * scale))
    columns = max(1, (width - padding) // (w + padding))
    rows = 1 if evenly else max(1, (height - padding) // (h + padding))
    count = min(n, rows * columns)
    columns = math.ceil(count / math.ceil(count / columns))  # rows of equal length
    chosen = np.linspace(0, n - 1, count).round().astype(int) if evenly else np.arange(count)
    small = [np.asarray(_image(large[i]).resize((w, h), Image.Resampling.BOX)).reshape(h, w, -1) for i in chosen]
    return grid(np.stack(small).transpose(0, 3, 1, 2), columns, padding, zoom=1)


def _room(environment: Mapping[str, str], size: tuple[int, int]) -> tuple[str, int, int]:
    """How a terminal shows images ("kitty", "iterm", "blocks", or "" for not at all), and in which width and height."""
    term = environment.get("TERM") or ("windows" if "WT_SESSION" in environment else "dumb")
    program = environment.get("TERM_PROGRAM")
    columns, lines = max(1, size[0] - 1), max(1, min(LINES, size[1] - 2))  # some terminals wrap a full line
    if environment.get("NO_COLOR") or term == "dumb":
        return "", 0, 0
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        return (
            "blocks",
            columns,
            2 * lines,
        )  # no images, and other variables may describe the outer terminal
    if term == "xterm-kitty" or "KITTY_WINDOW_ID" in environment:
        return "kitty", columns * CELL[0], lines * CELL[1]
    if program in ("iTerm.app", "WezTerm"):
        return "iterm", columns * CELL[0], lines * CELL[1]
    return "blocks", columns, 2 * lines


def _half_blocks(pixels: Pixels, deep: bool) -> str:
    """Draw pixels [h, w, 3], two per character: the upper one as its colour, the lower one as its background."""
    if deep:
        codes = [[f"8;2;{r};{g};{b}" for r, g, b in row] for row in pixels.tolist()]
    else:
        codes = [[f"8;5;{code}" for code in row] for row in _palette_codes(pixels).tolist()]
    text = ""
    for upper, lower in itertools.zip_longest(codes[::2], codes[1::2], fillvalue=["9"] * pixels.shape[1]):
        for colours, run in itertools.groupby(zip(upper, lower, strict=True)):
            text += f"\x1b[3{colours[0]};4{colours[1]}m" + "▀" * len(list(run))
        text += "\x1b[0m\n"
    return text


def _palette_codes(pixels: Pixels) -> npt.NDArray[np.int64]:
    """The nearest of xterm's 256 colours to pixels [..., 3], in its 6 x 6 x 6 cube or among its 24 greys."""
    values, cube = pixels.astype(np.int64), np.array([0, 95, 135, 175, 215, 255])
    nearest = abs(values[..., None] - cube).argmin(-1)
    grey = ((values.mean(-1) - 8) / 10).round().clip(0, 23).astype(np.int64)
    off_cube = ((values - cube[nearest]) ** 2).sum(-1)
    off_grey = ((values - (8 + 10 * grey)[..., None]) ** 2).sum(-1)
    codes: npt.NDArray[np.int64] = np.where(off_grey < off_cube, 232 + grey, 16 + nearest @ [36, 6, 1])
    return codes


# --- pixels and files ----------------------------------------------------------------------------------------------


def save_image(image: Image.Image, path: str | Path) -> None:
    """Save an image as PNG, whole or not at all.

    Arguments:
        image: any image that PNG can store.
        path: a name that ends in .png.

    Raises:
        ValueError: the name ends otherwise.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"cannot save an image as {path}: images are saved as PNG, pass a name that ends in .png")
    files.write_bytes(path, _encoded(image))


def png(pixels: Pixels) -> bytes:
    """The PNG file of an image, uint8 [c, h, w] with c = 1 or 3."""
    return _encoded(_image(np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def _encoded(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _scaled(pixels: Pixels, side: int, zoom: int | None = None, count: int | None = None, most: int = SHEET) -> Pixels:
    """Images [n, h, w, c], enlarged by `zoom`, or enlarged or shrunk by a whole factor to fit; see `_scale`."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(
            f"a {pixels.dtype} array of shape {list(pixels.shape)}: images are uint8 [n, 1 or 3, h, w], at least one"
        )
    n, c, h, w = pixels.shape
    enlarge, shrink = (zoom, 1) if zoom else _scale(h, w, count or n, side, most)
    pixels = pixels.repeat(enlarge, 2).repeat(enlarge, 3).transpose(0, 2, 3, 1)
    if shrink == 1:
        return pixels
    size = (n, math.ceil(h / shrink), math.ceil(w / shrink), c)
    return np.stack([np.asarray(_image(image).reduce(shrink)) for image in pixels]).reshape(size)


def _scale(h: int, w: int, count: int, side: int, most: int = SHEET) -> tuple[int, int]:
    """The factors by which to enlarge and to shrink images; one of them is 1.

    They are enlarged until the longer side has `side` pixels, provided that `count` of them have `most` pixels at most.
    """
    room = math.sqrt(most / (count * h * w))
    if room < 1:
        return 1, math.ceil(1 / room)
    return min(math.ceil(side / max(h, w)), int(room)), 1


def _image(pixels: Pixels) -> Image.Image:
    """Convert pixels [h, w, c] to a greyscale or RGB image."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
