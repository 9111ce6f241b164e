"""Drives the page in a real browser, as a person would: for the test of a whole job, and for the README's pictures (docs/make_screenshots.py).

Chromium comes from the system (Debian: apt-get install chromium); Playwright only drives it, and downloads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PIXEL = """([x, y]) => {
    const canvas = document.getElementById("canvas"), { left, top } = canvas.getBoundingClientRect(), ratio = devicePixelRatio;
    return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
        done([...canvas.getContext("2d").getImageData((x - left) * ratio, (y - top) * ratio, 1, 1).data]))));
}"""
"""Reads the canvas at a place of the window, after the next frame."""


@contextmanager
def launched(chromium: str) -> Iterator[Browser]:
    """Give a browser; starting one takes longer than anything that is done with it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs rights that containers do not give to root.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser | str, dark: bool = False, width: int = 1320, height: int = 820, scale: float = 1, tolerated: str = "\0") -> Iterator[Page]:
    """Give a page of a fresh browser profile; what the page complains of is raised at the end, unless it holds `tolerated`.

    Args:
        browser: One that runs, or the path of a Chromium to start.
    """
    if isinstance(browser, str):
        with launched(browser) as started, open_page(started, dark, width, height, scale, tolerated) as page:
            yield page
        return
    complaints: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=scale, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(60_000)
    try:
        yield page
    finally:
        context.close()
    assert all(tolerated in text for text in complaints), complaints


class Hand:
    """What a person does on the page, in pixels of the picture."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address

    def open(self) -> None:
        """Open the page and wait until the first picture is there and everything asked for is answered."""
        self.page.goto(self.address)
        self.settle()

    def settle(self) -> None:
        """Wait until the picture is encoded and the server has answered everything."""
        self.page.wait_for_selector("#stage[data-state=open][data-busy=false]")
        self.page.wait_for_selector("#state[data-kind=good]")

    def choose_picture(self, name: str) -> None:
        self.page.click(f'.thumb[title="{name}"]')
        self.page.wait_for_function("name => document.title.startsWith(name)", arg=name.rpartition("/")[2])
        self.settle()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a pixel of the picture lies on the screen; the picture must be shown whole, as it is after opening."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        picture = self.picture()
        margin = min(48, box["width"] / 12)
        scale = min((box["width"] - margin) / picture["width"], (box["height"] - margin) / picture["height"], 8)
        left = box["x"] + (box["width"] - picture["width"] * scale) / 2
        top = box["y"] + (box["height"] - picture["height"] * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def click(self, x: float, y: float, positive: bool = True) -> None:
        self.page.mouse.click(*self.at(x, y), button="left" if positive else "right")
        self.settle()

    def drag(self, x0: float, y0: float, x1: float, y1: float, positive: bool = True) -> None:
        self.sweep(x0, y0, x1, y1, positive)
        self.settle()

    def sweep(self, x0: float, y0: float, x1: float, y1: float, positive: bool = True) -> None:
        """Drag, and do not wait for the server."""
        self.hold(x0, y0, x1, y1, positive)
        self.page.mouse.up(button="left" if positive else "right")

    def hold(self, x0: float, y0: float, x1: float, y1: float, positive: bool = True) -> None:
        """Drag, and do not let go."""
        self.page.mouse.move(*self.at(x0, y0))
        self.page.mouse.down(button="left" if positive else "right")
        self.page.mouse.move(*self.at((x0 + x1) / 2, (y0 + y1) / 2), steps=4)
        self.page.mouse.move(*self.at(x1, y1), steps=4)

    def color(self, x: float, y: float) -> list[int]:
        """Return what the canvas shows at a pixel of the picture: red, green, blue, opacity."""
        return self.page.evaluate(PIXEL, [*self.at(x, y)])

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.settle()

    def name(self, text: str) -> None:
        self.page.keyboard.press("r")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")
        self.settle()

    def picture(self) -> dict[str, Any]:
        """What the server knows of the open picture."""
        identity = self.page.evaluate("location.hash.slice(1)")
        return self.page.request.get(f"{self.address}/api/images/{identity}").json()

    def export(self, format: str, folder: Path, everything: bool = False) -> Path:
        self.page.keyboard.press("e")
        if everything:
            self.page.click("text=All pictures, as zip")
        with self.page.expect_download() as download:
            self.page.click(f'[data-format="{format}"]')
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path
