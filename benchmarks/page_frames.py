"""How smooth the page is on a picture of 4096 x 4096: python benchmarks/page_frames.py

A server over a tiny model, headless Chromium without a GPU, one picture of 16 megapixels with four objects on it. The table shows, for panning and zooming,
the time from one frame to the next (a display's 60 frames a second are 16.7 ms) and the script's own part of it; then how long a stroke of the brush and a
click take, from letting go of the button to the next frame that shows it, and until the server has saved it.

    python benchmarks/page_frames.py --rounds 5 --report frames.json
    python benchmarks/page_frames.py --against ../other-checkout        # both in turns, for a machine that is not quiet
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Hand, open_page  # noqa: E402
from tools import find  # noqa: E402

SIDE = 4096
FRAMES = 60

MOVE = """async ([steps, kind]) => {
  const canvas = document.getElementById("canvas");
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  const [intervals, script] = [[], []];
  let last = performance.now();
  for (let i = 0; i < steps; i++) {
    const back = i >= steps / 2;
    const started = performance.now();
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: (back ? 1 : -1) * (kind === "pan" ? 25 : 60), shiftKey: kind === "pan",
      clientX: left + width * 0.4, clientY: top + height * 0.55, bubbles: true, cancelable: true }));
    let own = performance.now() - started;
    await new Promise((done) => requestAnimationFrame((now) => { own += performance.now() - now; done(); }));
    const ended = performance.now();
    intervals.push(ended - last);
    script.push(own);
    last = ended;
  }
  return [intervals, script];
}"""

WATCH = """() => {
  const state = document.getElementById("state");
  window.watched = new Promise((done) => addEventListener("pointerup", () => {
    const started = performance.now();
    let shown = null;
    requestAnimationFrame(() => requestAnimationFrame(() => (shown = performance.now() - started)));
    let begun = false;
    const look = () => {
      begun ||= state.dataset.kind === "busy";
      if (begun && state.dataset.kind !== "busy") requestAnimationFrame(() => requestAnimationFrame(() => done([shown, performance.now() - started])));
      else setTimeout(look, 5);
    };
    look();
  }, { once: true, capture: true }));
}"""


def make_picture(folder: Path) -> None:
    """Write a picture with much detail, a bright disk and three bars."""
    from fretsaw.images import write_image

    y, x = np.mgrid[:SIDE, :SIDE]
    image = (np.stack([(x // 16 + y // 16) % 256, (x * y // 5000) % 256, (x ^ y) % 256], 2) * 0.4).astype(np.uint8)
    image[(x - 2000) ** 2 + (y - 2100) ** 2 < 1500**2] = (240, 220, 200)
    write_image(folder / "large.jpg", image)


def add_objects(hand: Hand) -> None:
    """Put three more masks on the picture, with a ragged outline each."""
    from fretsaw.masks import uncompressed_rle

    identity = hand.page.evaluate("location.hash.slice(1)")
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(3):
        mask = np.abs(y - 900 - 1100 * number - 40 * np.sin(x / 7)) < 260
        made = hand.page.request.post(f"{hand.address}/api/images/{identity}/objects", data={}).json()["id"]
        body = {"rle": uncompressed_rle(mask)}
        assert hand.page.request.put(f"{hand.address}/api/images/{identity}/objects/{made}/mask", data=body, timeout=120_000).ok
    hand.page.reload()
    hand.settle()


@contextmanager
def served(checkout: Path, folder: Path, data: Path) -> Iterator[str]:
    command = [sys.executable, str(checkout / "tests" / "serving.py"), str(folder), str(data)]
    path = os.pathsep.join([str(checkout / "src"), str(checkout / "tests")])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def measure(checkout: Path, folder: Path, chromium: str) -> dict[str, list[float]]:
    """Return what was measured in one visit of the page, in milliseconds."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as data, served(checkout, folder, Path(data)) as address, open_page(chromium) as page:
        hand = Hand(page, address)
        hand.open()
        add_objects(hand)

        def act(name: str, do: Any) -> None:
            page.evaluate(WATCH)
            do()
            shown, saved = page.evaluate("window.watched")
            found.setdefault(f"{name}: shown", []).append(shown or saved)
            found.setdefault(f"{name}: saved", []).append(saved)

        act("click", lambda: hand.click(2000, 2000))
        page.keyboard.press("3")
        for number in range(3):
            act("stroke", lambda number=number: hand.drag(1000 + 300 * number, 1000, 1500 + 300 * number, 1500))
        page.keyboard.press("1")
        for name, keys in (("whole picture", "f"), ("one for one", "0"), ("four for one", "0+++")):
            for key in keys:
                page.keyboard.press(key)
                page.wait_for_timeout(400)
            for kind in ("pan", "zoom"):
                intervals, script = page.evaluate(MOVE, [FRAMES, kind])
                found[f"{kind}, {name}: frame"] = intervals
                found[f"{kind}, {name}: script"] = script
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    chromium = find("chromium")
    if chromium is None:
        sys.exit("needs Chromium: apt-get install chromium, or FRETSAW_CHROMIUM=PATH")
    checkouts = {"this": ROOT} | ({"against": options.against.resolve()} if options.against else {})
    found: dict[str, dict[str, list[float]]] = {name: {} for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        make_picture(Path(folder))
        for number in range(options.rounds):
            for name, checkout in checkouts.items():
                print(f"round {number + 1} of {options.rounds}, {name}", file=sys.stderr, flush=True)
                for row, values in measure(checkout, Path(folder), chromium).items():
                    found[name].setdefault(row, []).extend(values)
    version = subprocess.run([chromium, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}; {version}, headless, without a GPU; {SIDE} x {SIDE}, 4 objects; {options.rounds} rounds of {FRAMES} frames; milliseconds")
    print(f"{'':<30}" + "".join(f"{name + ' p50':>14}{'p95':>9}" for name in checkouts))
    for row in found["this"]:
        print(f"{row:<30}" + "".join(f"{np.percentile(rows[row], 50):>14.1f}{np.percentile(rows[row], 95):>9.1f}" for rows in found.values()))
    if options.report:
        options.report.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
