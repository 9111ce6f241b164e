"""Several people at once: nobody's click waits for somebody else's slow work, nobody's leaving costs another, and what is deleted stays deleted."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from fretsaw.api import Segmenter
from fretsaw.errors import FretsawError
from fretsaw.images import encode_image
from fretsaw.interchange import coco
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.methods.sam_ref.model import SamRef
from fretsaw.server.jobs import Jobs
from fretsaw.server.refusals import NotHereError
from fretsaw.server.workbench import Workbench
from fretsaw.server.workers import ClientGoneError, Lane, Workers, wait_for
from fretsaw.types import Click, RefinerState
from served import ServerProcess
from serving import make_folder, photo, tiny_segmenter
from tiny import CHANNELS, tiny_sam2


def identities(bench: Workbench) -> list[str]:
    return [entry.id for entry in bench.gallery.entries()]


# Workers


def test_work_of_one_group_takes_one_thread():
    workers, gate, order = Workers(2, 10, "test"), threading.Event(), []
    first = workers.submit(lambda: gate.wait(10), group="a")
    behind = [workers.submit(lambda number=number: order.append(number), group="a") for number in range(3)]
    assert workers.submit(lambda: "other", group="b").result(5) == "other"
    assert not any(future.done() for future in behind)
    gate.set()
    assert first.result(5)
    for future in behind:
        future.result(5)
    assert order == [0, 1, 2]
    workers.close()


def test_a_shared_future_outlives_one_who_leaves():
    class Gone:
        async def receive(self):
            return {"type": "http.disconnect"}

    async def leave(shared: bool) -> Future:
        future: Future = Future()
        with pytest.raises(ClientGoneError):
            await wait_for(future, Gone(), shared)
        return future

    assert not asyncio.run(leave(shared=True)).cancelled()
    assert asyncio.run(leave(shared=False)).cancelled()


def test_an_encoding_is_dropped_only_when_nobody_waits_for_it_any_more(make_bench):
    bench, gate = make_bench(workers=2), threading.Event()
    identity = identities(bench)[0]
    blocker = bench.model.submit(lambda: gate.wait(10), Lane.SLOW)  # the slow lane's one worker
    with bench.sessions.encoding(identity) as one:
        with bench.sessions.encoding(identity) as other:
            assert one is other
        assert not one.cancelled()
    assert one.cancelled()
    bench.sessions.prepare(identity)
    with bench.sessions.encoding(identity) as opened:
        pass
    assert not opened.cancelled()  # somebody has the picture open
    gate.set()
    opened.result(30)
    assert blocker.result(5)
    assert bench.sessions.is_ready(identity)


def test_one_client_who_hangs_up_costs_another_nothing(tmp_path):
    server = ServerProcess(make_folder(tmp_path / "photos"), tmp_path / "data", 1.0)
    try:
        base = server.base
        rows = httpx.get(f"{base}/api/images").json()["images"]
        first, second = (f"{base}/api/images/{row['id']}" for row in rows[:2])
        for image in (first, second):
            httpx.post(f"{image}/objects", json={})
        httpx.post(f"{first}/objects/1/clicks", json={"x": 60, "y": 45}, timeout=60)
        with ThreadPoolExecutor(3) as pool:
            cut = pool.submit(httpx.post, f"{first}/objects/1/auto", timeout=60)  # holds the slow lane for a second, so that the encoding waits
            time.sleep(0.3)

            def hang_up() -> None:
                with pytest.raises(httpx.TimeoutException):
                    httpx.post(f"{second}/objects/1/clicks", json={"x": 60, "y": 45}, timeout=0.3)

            leaving = pool.submit(hang_up)
            staying = pool.submit(httpx.post, f"{second}/objects/1/clicks", json={"x": 60, "y": 45}, timeout=60)
            leaving.result(60)
            assert staying.result(60).status_code == 200
            assert cut.result(60).status_code == 200
    finally:
        server.kill()


# Slow work


def test_clicks_wait_neither_for_a_cut_on_another_picture_nor_on_their_own(make_client, first):
    """Two cuts of a second each; twelve clicks, on both pictures, come back long before them."""
    client = make_client(tiny_segmenter(pause=1.5), workers=2)
    rows = client.get("/api/images").json()["images"]
    images = [f"/api/images/{row['id']}" for row in rows[:2]]
    for image in images:
        for _ in range(2):
            client.post(f"{image}/objects", json={})
        client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45})
    with ThreadPoolExecutor(2) as pool:
        cuts = [pool.submit(client.post, f"{image}/objects/1/auto") for image in images]
        time.sleep(0.2)
        started = time.monotonic()
        for number in range(6):
            for image in images:
                assert client.post(f"{image}/objects/2/clicks", json={"x": 10 + number, "y": 45}).status_code == 200
        answered = time.monotonic() - started
        assert not any(cut.done() for cut in cuts), f"twelve clicks took {answered:.2f} s"
        assert [cut.result(30).status_code for cut in cuts] == [200, 200]
    # The cut joined what was done meanwhile.
    for image in images:
        assert [item["undoable"] for item in client.get(image).json()["objects"]] == [2, 6]


def test_a_stopped_job_that_hangs_is_left_behind_and_the_next_one_runs():
    jobs, gate, late = Jobs(), threading.Event(), []

    def stuck(job):
        job.tell(total=1)
        gate.wait(30)
        try:
            job.tell(done=1)
        finally:
            late.append(job.state)

    first = jobs.start("import", stuck)
    second = jobs.start("export", lambda job: job.tell(note="ran"))
    while first.total == 0:
        time.sleep(0.01)
    jobs.stop(first.id)
    deadline = time.monotonic() + 10
    while second.state != "done" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (first.state, second.state, second.note) == ("stopped", "done", "ran")
    gate.set()
    while not late:
        time.sleep(0.01)
    assert (late, first.state, first.done) == (["stopped"], "stopped", 0)
    started = time.monotonic()
    third = jobs.start("import", lambda job: gate.clear() or gate.wait(60))
    while third.state == "waiting":
        time.sleep(0.01)
    jobs.close()
    assert time.monotonic() - started < 10


# What leaves memory, and what is deleted


def test_a_picture_in_use_does_not_leave_memory(make_bench):
    """Memory holds no picture at all: those that nobody uses go, the one in use stays the same however many others come."""
    bench = make_bench(memory_bytes=0)
    first, *others = identities(bench)
    with bench.sessions.use(first) as picture:
        number = picture.objects.add().id
        for _ in range(3):
            for other in others:
                with bench.sessions.use(other) as passing:
                    passing.pixels()
            with bench.sessions.use(first) as again:
                assert again is picture
        assert bench.sessions.evicted >= 2
        picture.objects.extend(number, "click", {}, lambda session: session.click(60, 45))
    with bench.sessions.use(others[0]), bench.sessions.use(others[1]):
        pass
    with bench.sessions.use(first) as later:
        assert later is not picture
        assert later.objects.find(number).clicks == [(60, 45, True)]


def test_what_leaves_memory_is_freed_at_once(make_bench):
    """Without waiting for Python's search for cycles, which pictures are too few objects to set off."""
    bench = make_bench(memory_bytes=0)
    first, second, _ = identities(bench)
    gc.disable()
    try:
        with bench.sessions.use(first) as picture:
            number = picture.objects.add().id
            picture.objects.extend(number, "click", {}, lambda session: session.click(60, 45))
            held = [weakref.ref(picture.pixels()), weakref.ref(picture.embed())]
        del picture
        with bench.sessions.use(second):
            pass
        assert all(reference() is None for reference in held)
    finally:
        gc.enable()


def test_deleting_an_upload_while_clicks_run_leaves_nothing(make_client, tmp_path):
    client = make_client(tiny_segmenter(pause=0.05))
    for attempt in range(4):
        image = f"/api/images/{client.post('/api/images?name=x.png', content=encode_image(photo(attempt), '.png')).json()['id']}"
        client.post(f"{image}/objects", json={})
        client.post(f"{image}/objects/1/clicks", json={"x": 60, "y": 45})

        def click(number: int, image: str = image) -> int:
            act = {"json": {"x": 10 + number, "y": 45}}
            return client.post(f"{image}/objects/1/{'auto' if number % 4 == 3 else 'clicks'}", **({} if number % 4 == 3 else act)).status_code

        with ThreadPoolExecutor(6) as pool:
            clicks = [pool.submit(click, number) for number in range(12)]
            while not any(future.done() for future in clicks):
                time.sleep(0.002)
            assert client.delete(image).status_code == 204
            assert {future.result(60) for future in clicks} <= {200, 404}
        assert client.get(image).status_code == 404
        assert list((tmp_path / "data" / "images").iterdir()) == []
        assert all(not row["uploaded"] for row in client.get("/api/images").json()["images"])


def test_a_picture_that_is_deleted_while_it_is_encoded_stays_deleted(make_bench, monkeypatch, tmp_path):
    bench = make_bench()
    identity = bench.sessions.upload(written(bench, photo()), "mine.png")
    begun, gate = threading.Event(), threading.Event()
    encode = bench.segmenter.parts.clicks.encode
    monkeypatch.setattr(bench.segmenter.parts.clicks, "encode", lambda *asked: (begun.set(), gate.wait(10), encode(*asked))[2])
    with bench.sessions.encoding(identity) as encoding:
        assert begun.wait(10)
        bench.sessions.forget(identity)
        gate.set()
        with pytest.raises(NotHereError):
            encoding.result(30)
    assert list((tmp_path / "data" / "images").iterdir()) == []
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


def written(bench: Workbench, picture: np.ndarray) -> Path:
    path = bench.store.incoming()
    path.write_bytes(encode_image(picture, ".png"))
    return path


def test_objects_that_were_thrown_away_leave_room_for_others(make_client, first):
    client = make_client(objects=2)
    for number in range(1, 6):
        assert client.post(f"{first}/objects", json={}).json()["id"] == number
        client.patch(f"{first}/objects/{number}", json={"deleted": True})
    for _ in range(2):
        client.post(f"{first}/objects", json={})
    reply = client.patch(f"{first}/objects/1", json={"deleted": False})
    assert (reply.status_code, reply.json()["kind"]) == (429, "LimitError")


# With a refiner


@pytest.mark.parametrize("map_scale", [1, 2])
def test_an_imported_mask_is_mended_by_a_refiner_of_any_map(make_client, folder, tmp_path, map_scale):
    torch.manual_seed(0)
    model = tiny_sam2(128)
    refiner = SamRef(width=8, blocks=1, channels=CHANNELS, map_scale=map_scale).eval()
    segmenter = Segmenter("tiny", tiny_segmenter(clicks=model).parts, refiner=refiner)
    client = make_client(segmenter)
    first = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    mask = photo().mean(axis=2) > 127.5
    sent = next(iter(coco.write([AnnotatedPicture("0.png", (90, 120), (NamedMask("ball", mask),))])))[1]
    job = client.post("/api/annotations?name=mine.json", content=sent).json()
    while client.get(f"/api/jobs/{job['id']}").json()["state"] in ("waiting", "running"):
        time.sleep(0.01)
    for act, body in (("clicks", {"x": 60, "y": 45}), ("clicks", {"x": 5, "y": 5, "positive": False}), ("undo", None), ("redo", None), ("auto", None)):
        reply = client.post(f"{first}/objects/1/{act}", json=body)
        assert reply.status_code == 200, reply.text
    client = make_client(segmenter)
    assert client.post(f"{first}/objects/1/undo").json()["undoable"] == 3


# A session's clicks are all or none


def test_several_clicks_with_a_refiner_are_made_all_or_not_at_all(segmenter):
    class Failing:
        map_scale = 1

        def prepare(self, pixels, embedding):
            return None

        def refine(self, features, coords, labels, logits, previous, state):
            if coords.shape[1] > 1:
                raise FretsawError("the second click")
            return logits, RefinerState()

    session = Segmenter("tiny", segmenter.parts, refiner=Failing()).open(photo())
    session.mask(photo().mean(axis=2) > 127.5)
    session.mask(photo(1).mean(axis=2) > 127.5)
    session.undo()
    before, undone = session.history, session.undone
    with pytest.raises(FretsawError, match="the second click"):
        session.clicks([Click(60, 45), Click(30, 30)])
    assert (session.history, session.undone) == (before, undone)


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
def test_a_stuck_import_does_not_outlive_sigterm(tmp_path):
    """An annotation file that never ends: a named pipe that nobody writes."""
    folder = make_folder(tmp_path / "photos")
    os.mkfifo(folder / "annotations.json")
    server = ServerProcess(folder, tmp_path / "data")
    try:
        base = server.base
        assert httpx.get(f"{base}/api/images", timeout=30).status_code == 200
        with suppress(httpx.TimeoutException):
            httpx.post(f"{base}/api/imports", json={}, timeout=2)
        assert httpx.get(f"{base}/health", timeout=30).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
    finally:
        server.kill()
