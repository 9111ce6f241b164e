"""How long a click takes over HTTP while eight people work at once: python benchmarks/server_load.py

One process serves, another one plays the people: each has a picture of up to 2 megapixels of their own, thinks (exponentially distributed, 5 s on average),
clicks somewhere on it, and waits for the mask. The server's decoder is timed in the same run, call by call, by a wrapper around it; the table shows the
time from request to parsed reply beside it. Only this machine's loopback is used.

    python benchmarks/server_load.py --users 8 --think 5 --seconds 120 --report load.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
MEGAPIXELS = 2.0


def make_pictures(folder: Path, count: int) -> None:
    """Write the example photos, enlarged to 2 megapixels, as many as there are people."""
    from fretsaw.images import read_image, write_image
    from fretsaw.layers.resampling import resize_image

    sources = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".png", ".jpg"))
    for number in range(count):
        image = read_image(sources[number % len(sources)])
        scale = (MEGAPIXELS * 1e6 / (image.shape[0] * image.shape[1])) ** 0.5
        write_image(folder / f"{number}.jpg", resize_image(image, int(image.shape[0] * scale), int(image.shape[1] * scale)))


class TimedDecoder:
    """Stands in front of a model's `decode` and notes how long each call takes."""

    def __init__(self, model: Any) -> None:
        self.seconds: list[float] = []
        self._decode = model.decode
        model.decode = self

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return self._decode(*arguments)
        finally:
            self.seconds.append(time.perf_counter() - started)


async def play(address: str, users: int, think: float, seconds: float, seed: int) -> dict[str, Any]:
    """Be all the people; returns the seconds of every click and the number of failures."""
    import httpx

    latencies: list[float] = []
    failures = 0
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        images = (await client.get("/api/images")).json()["images"]

        async def person(number: int) -> None:
            nonlocal failures
            rng = np.random.default_rng(seed + number)
            path = f"/api/images/{images[number]['id']}"
            picture = (await client.get(path)).json()
            made = (await client.post(f"{path}/objects", json={})).json()["id"]
            ends = time.perf_counter() + seconds
            while True:
                await asyncio.sleep(rng.exponential(think))
                if time.perf_counter() > ends:
                    return
                click = {"x": rng.uniform(0, picture["width"] - 1), "y": rng.uniform(0, picture["height"] - 1), "positive": bool(rng.random() < 0.7)}
                started = time.perf_counter()
                reply = await client.post(f"{path}/objects/{made}/clicks", json=click)
                failures += reply.status_code != 200
                reply.json()
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(person(number) for number in range(users)))
    return {"latencies": latencies, "failures": failures}


def serve(options: argparse.Namespace, folder: Path) -> tuple[Any, TimedDecoder, str]:
    """Start the server in a thread, with every picture embedded; returns it, its decoder and its address."""
    import uvicorn

    import fretsaw
    from fretsaw.server.app import create_app
    from fretsaw.server.settings import for_command
    from serving import tiny_segmenter

    segmenter = tiny_segmenter() if options.tiny else fretsaw.load(options.model, device=options.device)
    decoder = TimedDecoder(segmenter.parts.clicks)
    app = create_app(segmenter, for_command(folder, "127.0.0.1", None))
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False)
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True).start()
    address = f"http://127.0.0.1:{socket.getsockname()[1]}"
    embed_all(address)
    decoder.seconds.clear()
    return server, decoder, address


def embed_all(address: str) -> None:
    import httpx

    with httpx.Client(base_url=address, timeout=300) as client:
        for row in client.get("/api/images").json()["images"]:
            path = f"/api/images/{row['id']}"
            client.post(f"{path}/preview", json={"x": 5, "y": 5})
            print(f"embedded {row['name']}", file=sys.stderr, flush=True)


def percentile(values: list[float], q: float) -> float:
    return float(np.percentile(values, q)) if values else float("nan")


def print_rows(rows: dict[str, list[float]], options: argparse.Namespace, what: str) -> None:
    """Print the machine, what was done, and a row of milliseconds for each list of seconds."""
    import torch

    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}; Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{options.users} people, {what}, model {'tiny' if options.tiny else options.model or 'default'}")
    print(f"\n{'':<46}{'n':>6}{'p50':>9}{'p95':>9}{'mean':>9}  ms")
    for name, values in rows.items():
        mean = statistics.fmean(values) if values else float("nan")
        print(f"{name:<46}{len(values):>6}{1000 * percentile(values, 50):>9.0f}{1000 * percentile(values, 95):>9.0f}{1000 * mean:>9.0f}")


def serving_options(description: str | None, think: float) -> argparse.ArgumentParser:
    """Return the options of all benchmarks in which people click on a server.

    Args:
        description: Of the benchmark.
        think: Seconds between two clicks unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--think", type=float, default=think, help="seconds between a mask and the next click, on average")
    parser.add_argument("--model", default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model: what the server itself costs")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", metavar="ADDRESS", help=argparse.SUPPRESS)
    return parser


def run_clients(program: str, address: str, options: argparse.Namespace, passed_on: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark's people in a process of their own and return what they found."""
    command = [sys.executable, program, "--clients", address, *(text for name in passed_on for text in (f"--{name}", str(getattr(options, name))))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = serving_options(__doc__, think=5.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    if options.clients:
        print(json.dumps(asyncio.run(play(options.clients, options.users, options.think, options.seconds, options.seed))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        make_pictures(folder, options.users)
        server, decoder, address = serve(options, folder)
        played = run_clients(__file__, address, options, ("users", "think", "seconds", "seed"))
        server.should_exit = True
        time.sleep(1)
    show(options, played, decoder.seconds)


def show(options: argparse.Namespace, played: dict[str, Any], decoded: list[float]) -> None:
    clicks = played["latencies"]
    rows = {"click, from request to reply": clicks, "decoder alone, same run": decoded}
    print_rows(rows, options, f"{options.think:g} s between clicks, {options.seconds:g} s, {MEGAPIXELS:g} megapixels")
    ratios = {f"p{a} / decoder's p{b}": percentile(clicks, a) / percentile(decoded, b) for a, b in ((50, 50), (95, 50), (95, 95))}
    print("; ".join(f"{name} = {ratio:.2f}" for name, ratio in ratios.items()), f"; {played['failures']} failures")
    if options.report:
        options.report.write_text(json.dumps({"clicks": clicks, "decoder": decoded, "ratios": ratios, "failures": played["failures"]}))


if __name__ == "__main__":
    main()
