"""The page about a model in a real browser, opened as a file: sliders, colours, widths, silence.

It needs a Chromium that is already there: none is downloaded.
"""

import base64
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import leapstep
from leapstep.core.scaling import Scaling
from leapstep.data import read
from leapstep.evaluation import page as pages
from leapstep.evaluation.page.contents import Curve, Strip
from leapstep.evaluation.page.extent import WHOLE
from leapstep.evaluation.sweep import Sweep
from leapstep.networks import MLP, UNet
from leapstep.views import report
from leapstep.views.report import figures
from pages import planned
from random_models import model_of, small

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()  # noqa: SIM905

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium, chromium-browser or google-chrome")

HOSTILE = '"><script>document.title = "broken"</script><img src=x onerror="document.title = 1">'


def pictures(place):
    """A page about pictures of two classes, with all that a page can have, and long names."""
    torch.manual_seed(0)
    model = model_of(
        small(UNet(in_channels=1, channels=(8,), attention=(False,), blocks=1, groups=4, timesteps=12, classes=3)),
        leapstep.linear(12),
        "v",
        (1, 8, 8),
        classes=("a" * 60, HOSTILE),
        null_label=2,
        details={"step": 3, "data": {"source": HOSTILE, "samples": 9}, "training": {"batch_size": 4}},
    )
    values = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    for name, rows in (("train", slice(16)), ("test", slice(16, 24))):
        np.savez(place / f"{name}.npz", x=values[rows], y=np.arange(24)[rows] % 2)
    parts = [read(place / f"{name}.npz", split=name) for name in ("train", "test")]
    splits = pages.Splits("insects " * 20, *(pages.Split(data, torch.from_numpy(data.labels)) for data in parts))
    page = pages.gather(model, splits, planned(n=20, steps=6))
    strips = [Strip(step, figures.sprite(values[None, step : step + 4, None], 2).png) for step in (1, 3, 5)]
    cells = [
        {
            "method": "ddim",
            "options": {},
            "label": HOSTILE,
            "spacing": "trailing",
            "steps": steps,
            "calls": steps,
            "seconds": 1.5 * steps,
            "n": 500,
            "metrics": {"frechet": {"value": 9 / steps, "low": 8 / steps, "high": 10 / steps}},
        }
        for steps in (5, 10, 20, 50, 100, 200, 500, 1000)
    ]
    conditions = {"n": 500, "data": HOSTILE}
    swept = Sweep("m", None, conditions, cells=cells, advice=[HOSTILE], finished=True, folder=Path("s" * 70))
    curve = Curve(tuple(range(1, 101)), tuple(1 / step for step in range(1, 101)))
    return dataclasses.replace(page, curves={"loss": curve}, strips=strips, sweep=swept, source="r" * 70)


def points(place):
    """A page of plots."""
    torch.manual_seed(0)
    network = small(MLP(shape=(2,), width=16, depth=1, timesteps=2))
    model = model_of(network, leapstep.linear(2), "v", (2,), scaling=Scaling(100.0, 5.0), clip=None)
    return pages.gather(model, plan=planned(n=9, extent=WHOLE._replace(line=3)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The pages as files."""
    place = tmp_path_factory.mktemp("pages")
    for make in (pictures, points):
        (place / f"{make.__name__}.html").write_text(report.render(make(place)), "utf-8")
    return place


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A page that is open, and everything that it asked for or complained of."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**options)
        self.page, self.asked, self.said, self.failed = self.context.new_page(), [], [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", lambda request: self.failed.append((request.url, request.failure)))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(path.as_uri())
        self.own = path.as_uri()

    def is_silent(self):
        return [url for url in self.asked if not url.startswith("data:")] == [self.own] and self.said == []


@pytest.fixture
def opened(browser):
    made = []

    def open_(path, **options):
        made.append(Opened(browser, path, **options))
        return made[-1]

    yield open_
    for each in made:
        each.context.close()


def seen(element):
    """The pixels of an element as it is on the screen."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot(animations="disabled"))).convert("RGB")).astype(int)


CONTRAST = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = channels(colour).slice(0, 3).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const [, , , alpha = 1] = channels(getComputedStyle(each).backgroundColor);
            if (alpha === 1) return getComputedStyle(each).backgroundColor;
        }
        return "rgb(255, 255, 255)";
    };
    const worst = {};
    for (const element of document.querySelectorAll("body *")) {
        const said = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!said || element.closest("script, style") || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const a = light(element.closest("svg") ? style.fill : style.color), b = light(behind(element));
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const name = element.tagName + "." + (element.getAttribute("class") || "");
        worst[name] = Math.min(worst[name] || 99, ratio);
    }
    return worst;
}"""


# --- the page on screens of all kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1200, "light")])
def test_sliders_change_the_picture_by_the_keyboard(files, opened, width, scheme):
    shown = opened(files / "pictures.html", viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, moved = shown.page, 0
    for player in page.locator(".player").all():
        picture = player.locator(".views, .frames").first
        for slider in player.locator("input[type=range]").all():
            before, said = seen(picture), slider.get_attribute("aria-valuetext")
            slider.focus()
            page.keyboard.press("ArrowLeft" if slider.input_value() == slider.get_attribute("max") else "ArrowRight")
            after = seen(picture)
            assert before.shape == after.shape
            assert (before != after).mean() > 0.01
            assert slider.get_attribute("aria-valuetext") != said
            output = slider.locator("xpath=..").locator("output")
            assert output.inner_text() == slider.get_attribute("aria-valuetext")
            moved += 1
    assert moved == 5
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.title() == f"{'r' * 70}: report"
    assert shown.is_silent(), (shown.asked, shown.said)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out(files, opened, scheme):
    page = opened(files / "pictures.html", color_scheme=scheme).page
    page.locator("summary").first.click()
    ratios = page.evaluate(CONTRAST)
    assert {"P.lead", "P.quiet", "A.", "DT.", "SPAN.", "SUMMARY.", "BUTTON.play", "OUTPUT.", "text."} <= set(ratios)
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}
    back = [int(part) for part in page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(",")]
    assert (min(back) > 200) == (scheme == "light")
    assert (max(back) < 60) == (scheme == "dark")


def test_plots_change_with_their_slider(files, opened):
    shown = opened(files / "points.html", viewport={"width": 400, "height": 900})
    players = shown.page.locator(".player").all()
    assert len(players) == 3
    for player in players:
        picture, slider = player.locator(".views"), player.locator("input[type=range]")
        slider.focus()
        shown.page.keyboard.press("Home")
        before = seen(picture)
        shown.page.keyboard.press("ArrowRight")
        assert abs(before - seen(picture)).max() > 50
        assert player.locator(".frames > .on").count() == player.locator(".frames").count()
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 400
    assert shown.is_silent()


def test_the_frame_is_the_one_that_the_slider_says(files, opened):
    """Frame by frame, what the screen shows is that part of the sprite: not shifted by a pixel."""
    page = opened(files / "pictures.html", viewport={"width": 1200, "height": 900}).page
    sprite, slider = page.locator("#steps .sprite"), page.locator("#steps input[type=range]")
    style = sprite.get_attribute("style")
    packed = style[style.index("base64,") + 7 : style.index(")")]
    source = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed))))
    count = int(slider.get_attribute("max")) + 1
    height = len(source) // count
    slider.focus()
    page.keyboard.press("Home")
    for frame in range(count):
        screen = seen(sprite)
        step = screen.shape[0] / height
        middles = (np.arange(height) * step + step / 2).astype(int)
        expected = source[frame * height : (frame + 1) * height]
        solid = expected[..., 1] == 255
        assert abs(screen[np.ix_(middles, middles)][..., 0] - expected[..., 0].astype(int))[solid].max() <= 1, frame
        page.keyboard.press("ArrowRight")


# --- by hand -------------------------------------------------------------------------------------------------------


def test_the_map_can_be_dragged(files, opened):
    shown = opened(files / "pictures.html", viewport={"width": 1200, "height": 900})
    page, area = shown.page, shown.page.locator(".map")
    area.scroll_into_view_if_needed()
    box, cell = area.bounding_box(), page.locator(".pad .cell")
    across, down = page.locator(".pad input[type=range]").all()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    assert (across.input_value(), down.input_value()) == ("0", "0")
    before = seen(cell)
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + box["height"] * 0.5)
    assert (across.input_value(), down.input_value()) == ("8", "4")
    assert abs(before - seen(cell)).max() > 20
    page.mouse.move(box["x"] - 50, box["y"] + 2000)
    assert (across.input_value(), down.input_value()) == ("0", "8")
    page.mouse.up()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert down.input_value() == "8"
    assert shown.is_silent()


def test_the_way_plays_to_its_end(files, opened):
    page = opened(files / "pictures.html").page
    slider, button = page.locator("#way input[type=range]"), page.locator("#way button.play")
    slider.focus()
    page.keyboard.press("End")
    both = [slider.element_handle(), button.element_handle()]
    click = "([slider, button]) => { button.click(); return [slider.value, button.innerText]; }"  # while no time passes
    assert page.evaluate(click, both) == ["0", "Stop"]
    sync.expect(button).to_have_text("Play")
    assert slider.input_value() == slider.get_attribute("max") == "6"
    assert (
        page.evaluate("([_, button]) => { button.click(); button.click(); return button.innerText; }", both) == "Play"
    )


def test_focus_can_be_seen(files, opened):
    page = opened(files / "pictures.html").page
    for _ in range(40):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "(({outlineStyle: s, outlineWidth: w}) => [s, w])(getComputedStyle(document.activeElement))"
        )
        assert style == ["solid", "2px"]
        if page.evaluate("document.activeElement.type") == "range":
            return
    raise AssertionError("no slider can be reached by the keyboard")


@pytest.mark.parametrize("clipboard", [True, False], ids=["clipboard", "selection"])
def test_commands_are_copied_by_the_keyboard(files, opened, clipboard):
    shown = opened(files / "pictures.html", permissions=["clipboard-read", "clipboard-write"])
    page = shown.page
    if not clipboard:  # as in browsers that keep it from files
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")
    commands, buttons = page.locator(".command code").all(), page.locator("button.copy").all()
    assert len(commands) == len(buttons) > 5
    for command, button in zip(commands, buttons[:3], strict=False):
        button.focus()
        page.keyboard.press("Enter")
        sync.expect(button).to_have_text("Copied")
        sync.expect(page.locator("p[role=status]")).to_have_text("Copied.")
        assert page.evaluate("navigator.clipboard.readText()") == command.text_content()
        assert button.get_attribute("aria-label") == f"Copy: {command.text_content()}"
        assert button.evaluate("button => button === document.activeElement")
    assert shown.is_silent()


def test_the_slider_over_the_training_opens_at_its_end(files, opened):
    player = opened(files / "pictures.html").page.locator(".strip")
    assert player.locator("output").inner_text() == "step 5"
    assert player.locator(".frames > .on").get_attribute("alt") == "Samples of the network after training step 5."


# --- alone ---------------------------------------------------------------------------------------------------------


def test_without_scripts_the_first_frames_are_there(files, opened):
    page = opened(files / "pictures.html", java_script_enabled=False).page
    for sprite in page.locator(".sprite, .map, .strip .frames").all():
        assert seen(sprite).std() > 10
    assert not any(button.is_visible() for button in page.locator("button").all())


def test_everything_has_an_alternative_text(files, opened):
    page = opened(files / "pictures.html").page
    assert page.locator("img, svg").count() > 15
    assert page.locator("img:not([alt]), img[alt=''], svg:not([aria-label]), svg[aria-label='']").count() == 0
    assert page.locator("[role=img]:not([aria-label])").count() == 0
    sliders = page.locator("input[type=range]")
    assert [slider.evaluate("slider => slider.labels.length") for slider in sliders.all()] == [1] * sliders.count()


def test_what_slips_in_neither_runs_nor_fetches(files, opened, tmp_path):
    slipped = (
        '<script>document.title = "broken"</script><img src="http://127.0.0.1:9/x.png" onerror="document.title = 1">'
    )
    text = (files / "points.html").read_text("utf-8").replace("</main>", f"{slipped}</main>")
    (tmp_path / "page.html").write_text(text, "utf-8")
    shown = opened(tmp_path / "page.html")
    assert shown.page.title() == "A model: report"
    assert shown.page.locator("button.play").is_visible()  # our own script runs
    assert any("Content Security Policy" in said for said in shown.said)
    assert shown.failed == [("http://127.0.0.1:9/x.png", "csp")]
