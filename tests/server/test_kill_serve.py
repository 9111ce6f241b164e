"""Killed at any moment, a server has lost nothing that it had answered, and goes on from there."""

from __future__ import annotations

import io
import json
import os
import random
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from fretsaw.images import encode_image
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


# Killed in the midst of an import, an upload, an export

MANY = 30
"""Pictures of such a round: enough for a kill to fall between two of them."""


def annotate(folder: Path) -> None:
    """Write labelme's annotations of two objects beside each picture."""
    for path in sorted(folder.rglob("*.png")):
        corners = [[[10, 10], [50, 12], [40, 60]], [[70, 20], [100, 20], [100, 70], [70, 70]]]
        shapes = [{"label": f"thing {number}", "points": points, "shape_type": "polygon"} for number, points in enumerate(corners)]
        row = {"version": "5.0.0", "imagePath": path.name, "imageHeight": 90, "imageWidth": 120, "shapes": shapes}
        path.with_suffix(".json").write_text(json.dumps(row))


def ended(client: httpx.Client, job: str) -> dict:
    """Wait for a job's end."""
    while (row := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        time.sleep(0.01)
    return row


def objects(client: httpx.Client) -> dict[str, list[tuple[str, dict]]]:
    """Names and masks by picture; no picture is damaged."""
    rows = client.get("/api/images").json()["images"]
    assert [row["name"] for row in rows if row["damaged"]] == []
    return {row["name"]: [(item["name"], item["rle"]) for item in client.get(f"/api/images/{row['id']}/state").json()["objects"]] for row in rows}


def leftovers(data: Path) -> list[str]:
    """Files that a server takes away at its start, and unfinished ones."""
    return [path.name for name in ("incoming", "exports") for path in (data / name).iterdir()] + [path.name for path in data.rglob("*.part")]


def killed_while_importing(tmp_path: Path, moment: float) -> None:
    annotate(make_folder(tmp_path / "photos", MANY))
    server = ServerProcess(tmp_path / "photos", tmp_path / "data")
    try:
        server.client.post("/api/imports", json={})
        time.sleep(moment)
    finally:
        server.kill()
    server = ServerProcess(tmp_path / "photos", tmp_path / "data")
    try:
        assert {len(rows) for rows in objects(server.client).values()} <= {0, 2}, "a picture's objects come all together or not at all"
        assert leftovers(tmp_path / "data") == []
        assert ended(server.client, server.client.post("/api/imports", json={}).json()["id"])["state"] == "done"
        found = objects(server.client)
        assert len(found) == MANY
        assert len({json.dumps(rows) for rows in found.values()}) == 1
        assert [name for name, _ in next(iter(found.values()))] == ["thing 0", "thing 1"]
    finally:
        server.kill()


def killed_while_uploading(tmp_path: Path, moment: float) -> None:
    server = ServerProcess(make_folder(tmp_path / "photos", 1), tmp_path / "data")
    answered: dict[str, bytes] = {}

    def send(first: int) -> None:
        for number in range(first, 10_000, 2):
            content = encode_image(np.random.default_rng(number).integers(0, 256, (90, 120, 3), dtype=np.uint8), ".png")
            try:
                reply = server.client.post("/api/images", params={"name": f"{number}.png"}, content=content)
            except httpx.HTTPError:
                return
            if reply.status_code == 201:
                answered[reply.json()["id"]] = content

    threads = [threading.Thread(target=send, args=(first,)) for first in range(2)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(moment)
    finally:
        server.kill()
        for thread in threads:
            thread.join(60)
    server = ServerProcess(tmp_path / "photos", tmp_path / "data")
    try:
        there = {row["id"] for row in server.client.get("/api/images").json()["images"] if row["uploaded"]}
        objects(server.client)
        assert answered.keys() <= there
        assert len(there - answered.keys()) <= len(threads), "more than what was under way came without an answer"
        for identity in there:
            assert server.client.get(f"/api/images/{identity}").json()["width"] == 120
            kept = (tmp_path / "data" / "images" / identity / "original").read_bytes()
            assert answered.get(identity, kept) == kept
        assert leftovers(tmp_path / "data") == []
        assert {path.name for path in (tmp_path / "data" / "images").iterdir()} <= there | {
            row["id"] for row in server.client.get("/api/images").json()["images"]
        }, "no folder of a picture that nobody knows"
    finally:
        server.kill()


def killed_while_exporting(tmp_path: Path, moment: float) -> None:
    annotate(make_folder(tmp_path / "photos", MANY))
    server = ServerProcess(tmp_path / "photos", tmp_path / "data")
    try:
        ended(server.client, server.client.post("/api/imports", json={}).json()["id"])
        before = objects(server.client)
        server.client.post("/api/exports", json={"format": "png"})
        time.sleep(moment)
    finally:
        server.kill()
    server = ServerProcess(tmp_path / "photos", tmp_path / "data")
    try:
        assert objects(server.client) == before
        assert leftovers(tmp_path / "data") == []
        job = server.client.post("/api/exports", json={"format": "png"}).json()["id"]
        assert ended(server.client, job)["state"] == "done"
        with zipfile.ZipFile(io.BytesIO(server.client.get(f"/api/jobs/{job}/file").content)) as archive:
            assert archive.testzip() is None
            assert sum(name.endswith(".png") for name in archive.namelist()) >= MANY
    finally:
        server.kill()


KILLED = {"import": killed_while_importing, "upload": killed_while_uploading, "export": killed_while_exporting}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_kill_in_the_midst_of_long_work_leaves_all_or_nothing_of_each_picture(tmp_path, name):
    KILLED[name](tmp_path, 0.4)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("name", KILLED)
def test_a_kill_at_any_moment_of_long_work_leaves_all_or_nothing_of_each_picture(tmp_path, name, number):
    seed = int(os.environ.get("FRETSAW_FAULT_SEED", random.randrange(10**6)))
    print(f"FRETSAW_FAULT_SEED={seed}")
    KILLED[name](tmp_path, random.Random(f"{seed} {name} {number}").uniform(0.0, 1.5))
