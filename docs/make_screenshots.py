"""Do a whole job on the page with the default model and take the README's pictures of it: python docs/make_screenshots.py

Needs Chromium (see tests/browser.py) and the default model's weights. The photos are those in examples/; work goes to a temporary folder.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from browser import Hand, open_page  # noqa: E402
from fretsaw import masks  # noqa: E402
from fretsaw.images import read_mask  # noqa: E402
from tools import find  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"


def shoot(hand: Hand, name: str) -> None:
    """Take a picture of the page; most of it is a photo, which JPEG holds in a fifth of a PNG's size."""
    hand.page.mouse.move(5, 400)
    hand.page.wait_for_timeout(400)
    path = PICTURES / f"{name}.jpg"
    Image.open(io.BytesIO(hand.page.screenshot())).convert("RGB").save(path, quality=88, subsampling=0, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} kB", flush=True)


def say(text: str, started: float) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


def cut_out(hand: Hand, name: str, *clicks: tuple[float, float, bool]) -> None:
    for x, y, positive in clicks:
        hand.click(x, y, positive)
    hand.name(name)


def do_job(address: str, folder: Path, chromium: str) -> None:
    """Open, look at the automatic mask, correct it, name it, add objects, paint, undo, reload, export."""
    started = time.monotonic()
    with open_page(chromium) as page:
        page.set_default_timeout(240_000)
        hand = Hand(page, address)
        hand.open()
        say(f"opened {hand.picture()['name']}, automatic mask of {hand.picture()['objects'][0]['area']} pixels", started)
        cut_out(hand, "astronaut", (220, 110, True), (150, 380, True), (440, 440, False))
        say("corrected by two clicks that add and one that removes, and named", started)
        hand.press("n")
        cut_out(hand, "helmet", (400, 440, True))
        hand.press("n")
        hand.press("2")
        hand.drag(352, 0, 464, 276)
        hand.name("shuttle")
        hand.press("1")
        say("two more objects, the last one by a box", started)
        hand.press("3")
        hand.drag(105, 60, 105, 70)
        hand.press("z")
        hand.press("1")
        say("a stroke of the brush, taken back", started)
        page.press('[aria-label="Work on astronaut"]', "Enter")
        hand.settle()
        shoot(hand, "page-light")
        before = hand.picture()["objects"]
        page.reload()
        hand.settle()
        assert hand.picture()["objects"] == before
        say("reloaded: nothing is lost", started)
        page.keyboard.press("e")
        shoot(hand, "page-export")
        page.keyboard.press("Escape")
        hand.choose_picture("coffee.png")
        path = hand.export("png", folder)
        [item] = hand.picture()["objects"]
        assert np.array_equal(read_mask(path) > 0, masks.decode_rle(item["rle"]))
        say(f"exported {path.name}; it is the server's mask", started)
    with open_page(chromium, dark=True) as page:
        page.set_default_timeout(240_000)
        hand = Hand(page, address)
        hand.open()
        hand.choose_picture("chelsea.png")
        hand.name("cat")
        hand.press("n")
        cut_out(hand, "eye", (184, 104, True))
        shoot(hand, "page-dark")
        hand.choose_picture("astronaut.png")
        page.press('[aria-label="Work on astronaut"]', "Enter")
        page.click("#show-cutout")
        shoot(hand, "page-cutout")
        say("the same in the dark", started)


def main() -> None:
    chromium = find("chromium")
    if chromium is None:
        sys.exit("needs Chromium: apt-get install chromium, or FRETSAW_CHROMIUM=PATH")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "examples"
        shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns(".*"))
        command = [sys.executable, "-m", "fretsaw", "serve", str(folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                do_job(server.stdout.readline().split()[-1], Path(temporary), chromium)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
