"""Killed at any moment, a server has lost nothing that it had answered, and goes on from there."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from served import ServerProcess
from serving import make_folder

PICTURES = 2
PAUSE = 0.05


def command(chance: random.Random, client: httpx.Client, image: str) -> tuple[str, str, dict | None]:
    """Return a random request on a picture: method, address, body."""
    number = chance.randint(1, 2)
    item, x, y = f"{image}/objects/{number}", chance.randint(0, 119), chance.randint(0, 89)
    stroke = {"x": 5 * number, "y": 7, "rle": {"size": [9, 11], "counts": [0, 99]}, "adds": chance.random() < 0.7}
    return chance.choice(
        [
            *[("POST", f"{item}/clicks", {"x": x, "y": y, "positive": chance.random() < 0.7})] * 4,
            ("POST", f"{item}/undo", None),
            ("POST", f"{item}/redo", None),
            ("POST", f"{item}/strokes", stroke),
            ("POST", f"{item}/scribbles", {"points": [[x, y], [60, 45]]}),
            ("POST", f"{item}/auto", None),
            ("PATCH", item, {"name": f"name {chance.randint(0, 99)}"}),
            ("PATCH", item, {"hidden": chance.random() < 0.5}),
            ("POST", f"{item}/reset", None) if chance.random() < 0.2 else ("PATCH", item, {"color": "#123456"}),
        ]
    )


def work(seed: int, client: httpx.Client, image: str, answered: dict[str, dict], stop: threading.Event) -> int:
    """Send commands until the server is gone; note the state of each object after every answer, and return how many there were."""
    chance, count = random.Random(seed), 0
    while not stop.is_set():
        method, path, body = command(chance, client, image)
        try:
            reply = client.request(method, path, json=body)
        except httpx.HTTPError:
            break
        assert reply.status_code in (200, 422), reply.text  # 422: nothing to undo
        if reply.status_code == 200:
            row = reply.json()
            answered[f"{image}/objects/{row['id']}"] = {name: value for name, value in row.items() if name != "change"}
            count += 1
    return count


def killed(seed: int, tmp_path: Path) -> None:
    """One round: work on two pictures at once, a kill, and a look at what is there."""
    chance = random.Random(seed)
    server = ServerProcess(make_folder(tmp_path / "photos", PICTURES), tmp_path / "data", PAUSE)
    answered: dict[str, dict] = {}
    try:
        images = [f"/api/images/{row['id']}" for row in server.client.get("/api/images").json()["images"]]
        for image in images:
            for number in (1, 2):
                assert server.client.post(f"{image}/objects", json={}).status_code == 201
                answered[f"{image}/objects/{number}"] = server.client.get(f"{image}/objects/{number}").json()
        stop = threading.Event()
        with ThreadPoolExecutor(PICTURES) as pool:
            people = [pool.submit(work, seed + number, server.client, image, answered, stop) for number, image in enumerate(images)]
            time.sleep(chance.uniform(0.5, 3))
            server.kill()
            stop.set()
            counts = [person.result(60) for person in people]
    finally:
        server.kill()
    assert sum(counts) > 0
    server = ServerProcess(tmp_path / "photos", tmp_path / "data", PAUSE)
    try:
        assert [row["damaged"] for row in server.client.get("/api/images").json()["images"]] == [""] * PICTURES
        for image in images:
            ahead = 0
            for number in (1, 2):
                item = f"{image}/objects/{number}"
                now, then = server.client.get(item).json(), answered[item]
                del now["change"]
                then.pop("change", None)
                if now != then:  # the one command that was made and not answered any more
                    ahead += 1
                    assert now["revision"] in (then["revision"], then["revision"] + 1)
                for _ in range(now["undoable"]):
                    assert server.client.post(f"{item}/undo").status_code == 200
                for _ in range(now["undoable"]):
                    again = server.client.post(f"{item}/redo").json()
                assert not now["undoable"] or again["rle"] == now["rle"]
                assert server.client.post(f"{item}/clicks", json={"x": 60, "y": 45}).status_code == 200
            assert ahead <= 1, "more was found than one unanswered command explains"
    finally:
        server.kill()


@pytest.mark.slow
def test_nothing_answered_is_lost(tmp_path):
    killed(1, tmp_path)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", range(10, 110, 10))
def test_nothing_answered_is_lost_at_any_moment(tmp_path, seed):
    killed(seed, tmp_path)
