"""Checks of the built site: `python docs/site/check.py site`.

Every link and anchor in it leads to something in it, and nothing but a link to follow names another machine. A browser,
where there is one, opens its pages as files: formulas are drawn, the search finds, the colours change, no page is wider
than a telephone, and nothing is complained of or asked for elsewhere.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1400, "height": 900}
WIDE = "[...document.querySelectorAll('body *')].every((e) => e.scrollWidth < 3 * innerWidth || e.closest('pre'))"
WIDTHS = (1024, 1280, 1530, 1920)
DRAWN = "[...document.querySelectorAll('math')].filter((e) => e.getBoundingClientRect().width > 0).length"


class Page(HTMLParser):
    """What a page points to, what can be pointed to in it, and how many formulas it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.parts, self.ids, self.formulas = list[str](), list[str](), set[str](), 0
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the links and names of an element."""
        given = {name: value for name, value in attrs if value}
        self.formulas += tag == "math"
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("prev", "next", "canonical"):
            self.parts.append(given.get("href", ""))
        self.parts.extend(given[name] for name in ("src", "poster", "data") if name in given)


def broken(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """What leads nowhere, or elsewhere where it must not."""
    for path, page in pages.items():
        for target in [*page.links, *page.parts]:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                if target in page.parts and url.scheme != "data":
                    yield f"{path.relative_to(site)}: loads {target}"
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not file.is_file():
                yield f"{path.relative_to(site)}: {target} is not there"
            elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].ids:
                yield f"{path.relative_to(site)}: {target} has no such anchor"


class Watched:
    """A page of a browser that notes what is asked for and complained of."""

    def __init__(self, chromium: Any, site: Path, size: dict[str, int]) -> None:
        self.site, self.asked, self.said = site, list[str](), list[str]()
        self.page = chromium.new_page(viewport=size, color_scheme="light")
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.said.append(f"{self.page.url}: {error}"))

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{self.page.url}: {message.text}")

    def open(self, path: Path) -> None:
        """Open a page as a file."""
        self.page.goto(path.as_uri())

    def complaints(self) -> Iterator[str]:
        """What was wrong so far."""
        yield from self.said
        yield from sorted({f"asked for {url}" for url in self.asked if not url.startswith(("file:", "data:"))})


def too_wide(watched: Watched, path: Path) -> Iterator[str]:
    """Whether a page must be scrolled sideways."""
    watched.open(path)
    seen, width = watched.page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    if width > seen:
        yield f"{path.relative_to(watched.site)}: {width} pixels wide on a screen of {seen}"


def shown_wrong(site: Path, pages: dict[Path, Page], browser: str) -> Iterator[str]:
    """What a browser finds wrong."""
    from playwright.sync_api import expect, sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=browser, args=ARGUMENTS) as chromium,
    ):
        desk, phone = Watched(chromium, site, DESK), Watched(chromium, site, PHONE)
        most = max(pages, key=lambda path: pages[path].formulas)
        desk.open(most)
        if desk.page.evaluate(DRAWN) < pages[most].formulas:
            yield f"{most.relative_to(site)}: formulas without a size"
        desk.open(site / "index.html")
        colours = set()
        for _ in range(3):
            colours.add(desk.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            desk.page.locator("button.theme-toggle:visible").first.click()
        if len(colours) < 2:
            yield f"the switch between light and dark changes nothing: {colours}"
        desk.page.locator("input[name=q]").first.fill("unipc")
        desk.page.locator("input[name=q]").first.press("Enter")
        expect(desk.page.locator("#search-results a", has_text="unipc").first).to_be_visible()
        for path in pages:
            if (site / "source") not in path.parents:
                yield from too_wide(phone, path)
        for width in WIDTHS:
            desk.page.set_viewport_size({"width": width, "height": DESK["height"]})
            yield from too_wide(desk, site / "docs" / "glossary.html")
        yield from desk.complaints()
        yield from phone.complaints()


def main(site: Path) -> None:
    """Check a site. Exits with 1 where something is wrong."""
    pages = {path: Page(path) for path in sorted(site.resolve().rglob("*.html"))}
    wrong = list(broken(site.resolve(), pages))
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        browser = None
    if browser:
        wrong += shown_wrong(site.resolve(), pages, browser)
    links = sum(len(page.links) for page in pages.values())
    how = "seen in a browser" if browser else "not seen in a browser: there is no Chromium, or no playwright"
    print(f"{site}/index.html: {len(pages)} pages, {links} links; {how}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
