"""A day's work of several people in minutes, over HTTP: python benchmarks/server_soak.py

One process serves, another one plays the people. Each opens one picture after another of a folder of their own share, makes an object, clicks on it some
times (now and then undoes a click, or names the object), and goes on to the next, thinking between two clicks. In one stretch of the work one of them has
pictures of the folder cut automatically without a pause, as long as the others click. The server's decoder is timed in the same run, call by call.

Printed are the 95th percentile of a click, from request to parsed reply, beside the decoder's own, with and without a cut beside it, and once more for the
clicks that the model answered with what it had seen already and for those that zoomed in, where it looked at a part of the picture anew. Then, what the server
process holds at the start, in the middle and at the end: resident memory, what its pictures count as, descriptors, threads. First clicks on a picture wait for
its encoding, and stand in a row of their own. The pictures are the examples with noise, so that every one is another picture.

    python benchmarks/server_soak.py                                         # 8 people, 300 pictures, 2000 clicks, the default model
    python benchmarks/server_soak.py --tiny --users 3 --pictures 12 --clicks 120 --think 0.2     # to see whether it works
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from server_load import TimedDecoder, percentile, print_rows, run_clients, serving_options  # noqa: E402

REACH = 1.5
"""The 95th percentile of a click may be as many times the decoder's, and a click beside a cut as many times one without."""

FLAT = 1.25
"""From the middle to the end, memory and descriptors may grow to as many times."""

SAMPLES = 0.5
"""Seconds between two looks at what the server holds."""


def make_pictures(folder: Path, count: int, megapixels: float) -> None:
    """Write the example photos at a size, each with noise of its own."""
    from fretsaw.frames import resize_image
    from fretsaw.images import read_image, write_image

    photos = []
    for path in sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".png", ".jpg")):
        image = read_image(path)
        scale = (megapixels * 1e6 / (image.shape[0] * image.shape[1])) ** 0.5
        photos.append(resize_image(image, int(image.shape[0] * scale), int(image.shape[1] * scale)))
    for number in range(count):
        image = photos[number % len(photos)]
        noise = np.random.default_rng(number).integers(-12, 13, (image.shape[0] // 8 + 1, image.shape[1] // 8 + 1, 3), dtype=np.int16)
        rough = noise.repeat(8, axis=0).repeat(8, axis=1)[: image.shape[0], : image.shape[1]]
        write_image(folder / f"{number:03d}.jpg", np.clip(image + rough, 0, 255).astype(np.uint8))


class NotedZooms:
    """Notes which interactions had a part of the picture encoded: by picture, object and the object's revision after it."""

    def __init__(self, model: Any) -> None:
        from fretsaw.server.object_edits import ObjectEdits

        self.found: set[tuple[str, int, int]] = set()
        self._encoded = threading.local()
        encode, extend = model.encode, ObjectEdits.extend

        def noted_encode(*arguments: Any, **options: Any) -> Any:
            self._encoded.now = True
            return encode(*arguments, **options)

        def noted_extend(edits: Any, number: int, *arguments: Any) -> Any:
            picture = edits._picture
            picture.embed()  # so that what is encoded from now on is a part
            self._encoded.now = False
            item = extend(edits, number, *arguments)
            if self._encoded.now:
                self.found.add((picture.record.id, number, item.revision))
            return item

        model.encode = noted_encode
        setattr(ObjectEdits, "extend", noted_extend)  # noqa: B010


class Held:
    """What this process holds, looked at by a thread.

    Args:
        counted: Returns the bytes that the server counts its pictures as.
    """

    def __init__(self, counted: Callable[[], int]) -> None:
        self.rows: list[tuple[float, int, int, int, int]] = []
        self._counted = counted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLES):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held = (pages * os.sysconf("SC_PAGE_SIZE"), self._counted(), len(os.listdir("/proc/self/fd")), threading.active_count())
            self.rows.append((time.perf_counter(), *held))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def stretch(self, begin: float, end: float) -> tuple[float, float, float, float]:
        """Return the medians of bytes, counted bytes, descriptors and threads over a part of the run, 0 to 1."""
        first, last = self.rows[0][0], self.rows[-1][0]
        inside = [row[1:] for row in self.rows if begin <= (row[0] - first) / max(1e-9, last - first) <= end] or [self.rows[-1][1:]]
        return tuple(statistics.median(column) for column in zip(*inside, strict=True))  # type: ignore[return-value]


async def play(address: str, options: argparse.Namespace) -> dict[str, Any]:
    """Be all the people; returns kind, picture, object, revision and seconds of each request that was timed, and what was refused.

    The kinds are "first" and later clicks, "alone" or "beside" a cut, and the cuts themselves.
    """
    import httpx

    timed: list[tuple[str, str, int, int, float]] = []
    refused: list[str] = []
    done, cutting = 0, False
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=4 * options.users)) as client:
        images = [row["id"] for row in (await client.get("/api/images")).json()["images"]]
        # The last pictures are for the cuts, which are to be computed anew each time.
        for_cuts = images[-max(1, len(images) // 20) :]
        shares = [images[number : len(images) - len(for_cuts) : options.users] for number in range(options.users)]
        each = options.clicks // sum(len(share) for share in shares) + 1

        async def send(kind: str | None, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
            began, beside = time.perf_counter(), cutting
            reply = await client.request(method, path, json=body)
            if reply.status_code >= 400:
                refused.append(f"{method} {path}: {reply.status_code} {reply.text[:120]}")
            answer = reply.json()
            if kind is not None and reply.status_code < 400 and (kind != "alone" or beside == cutting):  # a click while a cut began or ended is of neither kind
                named = "beside" if kind == "alone" and beside else kind
                timed.append((named, path.split("/")[3], answer["id"], answer["revision"], time.perf_counter() - began))
            return answer

        async def person(number: int) -> None:
            nonlocal done
            rng = np.random.default_rng(options.seed + number)
            for identity in shares[number]:
                path = f"/api/images/{identity}"
                picture = await send(None, "GET", path)
                await client.get(picture["view"])
                item = f"{path}/objects/{(await send(None, 'POST', f'{path}/objects', {}))['id']}"
                for turn in range(each):
                    if done >= options.clicks:
                        return
                    done += 1
                    where = {"x": rng.uniform(0, picture["width"] - 1), "y": rng.uniform(0, picture["height"] - 1)}
                    await send("alone" if turn else "first", "POST", f"{item}/clicks", where | {"positive": bool(turn == 0 or rng.random() < 0.6)})
                    if rng.random() < 0.1:
                        await send(None, "POST", f"{item}/undo")
                    await asyncio.sleep(rng.exponential(options.think))
                await send(None, "PATCH", item, {"name": f"thing {number}"})

        async def cutter() -> None:
            """Cut without a pause while the middle third of the clicks is made."""
            nonlocal cutting
            items = []
            for identity in for_cuts:
                path = f"/api/images/{identity}"
                item = f"{path}/objects/{(await send(None, 'POST', f'{path}/objects', {}))['id']}"
                await send(None, "POST", f"{item}/auto")  # encodes it
                items.append(item)
            while done < options.clicks / 3:
                await asyncio.sleep(0.05)
            while done < 2 * options.clicks / 3:
                for item in items:
                    cutting = True
                    await send("cut", "POST", f"{item}/auto")
                    cutting = False
                    await send(None, "POST", f"{item}/reset")

        await asyncio.gather(cutter(), *(person(number) for number in range(options.users)))
    return {"timed": timed, "refused": refused, "clicks": done}


def serve(options: argparse.Namespace, folder: Path) -> tuple[TimedDecoder, NotedZooms, Callable[[], int], str, Callable[[], None]]:
    """Start the server in a thread; returns its decoder, its zooms, what counts its pictures' memory, its address, and what stops it."""
    import fretsaw
    from fretsaw.server import app
    from fretsaw.server.listening import listen, make_server
    from fretsaw.server.settings import for_command
    from serving import tiny_segmenter

    benches: list[Any] = []

    class Noted(app.Workbench):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            benches.append(self)

    app.Workbench = Noted
    segmenter = tiny_segmenter(options.pause) if options.tiny else fretsaw.load(options.model, device=options.device)
    network = segmenter.parts.clicks
    decoder, zooms = TimedDecoder(network), NotedZooms(network)
    settings = replace(for_command(folder, "127.0.0.1", None), memory_bytes=options.memory * 2**20)
    door = listen("127.0.0.1", 0, settings)
    server = make_server(app.create_app(segmenter, settings), door, settings)
    thread = threading.Thread(target=server.run, args=([door],), daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(30)

    return decoder, zooms, lambda: benches[0].sessions.nbytes, f"http://127.0.0.1:{door.getsockname()[1]}", stop


def options_of() -> argparse.Namespace:
    parser = serving_options(__doc__, think=4.0)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--clicks", type=int, default=2000)
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--memory", type=int, default=2048, help="MiB that the server may use for pictures")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds of the tiny model's automatic cut")
    return parser.parse_args()


def main() -> None:
    options = options_of()
    if options.clients:
        print(json.dumps(asyncio.run(play(options.clients, options))))
        return
    with tempfile.TemporaryDirectory(prefix="fretsaw-soak-") as temporary:
        folder = Path(temporary) / "pictures"
        make_pictures(folder, options.pictures, options.megapixels)
        decoder, zooms, counted, address, stop = serve(options, folder)
        held, began = Held(counted), time.perf_counter()
        played = run_clients(__file__, address, options, ("users", "pictures", "clicks", "think", "seed"))
        took = time.perf_counter() - began
        held.stop()
        stop()
    show(options, played, decoder.seconds, zooms.found, held, took)


def show(options: argparse.Namespace, played: dict[str, Any], decoded: list[float], zoomed: set[tuple[str, int, int]], held: Held, took: float) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ("first", "alone", "alone, zooming", "beside", "beside, zooming", "cut")}
    for kind, picture, number, revision, value in played["timed"]:
        seconds[f"{kind}, zooming" if kind in ("alone", "beside") and (picture, number, revision) in zoomed else kind].append(value)
    alone, beside = seconds["alone"] + seconds["alone, zooming"], seconds["beside"] + seconds["beside, zooming"]
    rows = {
        "a picture's first click, with its encoding": seconds["first"],
        "a click": alone,
        "  on what the model has seen": seconds["alone"],
        "  that zooms in": seconds["alone, zooming"],
        "a click beside a running cut": beside,
        "  on what the model has seen, beside a cut": seconds["beside"],
        "  that zooms in, beside a cut": seconds["beside, zooming"],
        "an automatic cut": seconds["cut"],
        "the decoder alone, same run": decoded,
    }
    print_rows(rows, options, f"{options.pictures} pictures of {options.megapixels:g} megapixels, {played['clicks']} clicks, {took:.0f} s")
    print(f"\n{'':<12}{'memory, MiB':>14}{'pictures, MiB':>16}{'descriptors':>14}{'threads':>10}")
    stretches = {"start": (0.0, 0.1), "middle": (0.45, 0.55), "end": (0.9, 1.0)}
    parts = {name: held.stretch(*stretch) for name, stretch in stretches.items()}
    for name, (memory, counted, descriptors, threads) in parts.items():
        print(f"{name:<12}{memory / 2**20:>14.0f}{counted / 2**20:>16.0f}{descriptors:>14.0f}{threads:>10.0f}")
    print(f"most, MiB: {max(row[1] for row in held.rows) / 2**20:.0f}, of it pictures {max(row[2] for row in held.rows) / 2**20:.0f}; budget {options.memory}")
    decoder = percentile(decoded, 95)
    ratios = {
        "p95 of a click / p95 of the decoder": (percentile(alone, 95) / decoder, REACH),
        "  the same, of clicks that do not zoom in": (percentile(seconds["alone"], 95) / decoder, REACH),
        "p95 of a click beside a cut / without": (percentile(beside, 95) / percentile(alone, 95), REACH),
        "memory at the end / in the middle": (parts["end"][0] / parts["middle"][0], FLAT),
        "descriptors at the end / in the middle": (parts["end"][2] / parts["middle"][2], FLAT),
    }
    print()
    for name, (value, most) in ratios.items():
        print(f"{name:<44}{value:>6.2f}  at most {most:g}: {'yes' if value <= most else 'NO'}")
    print(f"{'refused':<44}{len(played['refused']):>6}  {played['refused'][:3] or ''}")
    if options.report:
        options.report.write_text(json.dumps({"seconds": seconds, "decoder": decoded, "held": held.rows, "ratios": ratios, "refused": played["refused"]}))


if __name__ == "__main__":
    main()
