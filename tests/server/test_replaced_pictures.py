"""A served file that becomes another picture while it is open, folders that are moved away, disks that turn read-only, and clocks that jump."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest

from fretsaw.errors import OutputError
from fretsaw.images import encode_image, read_image, write_image
from fretsaw.server.refusals import ReplacedError
from serving import photo


def opened(client, name="ball"):
    """Return the address of the first picture, with an object of two clicks."""
    first = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    client.post(f"{first}/objects", json={"name": name})
    for x in (60, 30):
        assert client.post(f"{first}/objects/1/clicks", json={"x": x, "y": 45}).status_code == 200
    return first


def shown(client, first, tmp_path):
    content = client.get(f"{first}/view.jpg")
    assert content.status_code == 200
    (tmp_path / "shown.jpg").write_bytes(content.content)
    return read_image(tmp_path / "shown.jpg")


OTHER = photo(9, 60, 80)


@pytest.mark.parametrize("how", ["written over", "another file in its place", "same size and time"])
def test_a_replaced_file_is_noticed_at_the_next_request_and_said(client, folder, tmp_path, how):
    first = opened(client)
    before = client.get(first).json()
    assert before["notice"] == ""
    if how == "another file in its place":
        write_image(tmp_path / "new.png", OTHER)
        os.replace(tmp_path / "new.png", folder / "0.png")
    else:
        status = (folder / "0.png").stat()
        write_image(folder / "0.png", OTHER)
        if how == "same size and time":
            os.utime(folder / "0.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    refused = client.post(f"{first}/objects/1/clicks", json={"x": 5, "y": 5})
    assert (refused.status_code, refused.json()["kind"]) == (409, "ReplacedError")
    assert "120 x 90 pixels before, 80 x 60 now" in refused.json()["reason"]
    assert "the work on the one before (1 object) is kept in earlier-" in refused.json()["reason"]
    after = client.get(first).json()
    assert (after["width"], after["height"], after["objects"]) == (80, 60, [])
    assert after["notice"] == refused.json()["reason"] == client.get(f"{first}/state").json()["notice"]
    assert np.abs(shown(client, first, tmp_path).astype(int) - OTHER).mean() < 4
    # Who has not heard of it is told too.
    late = client.post(f"{first}/objects/1/undo")
    assert (late.status_code, after["notice"] in late.json()["reason"]) == (404, True)
    assert client.post(f"{first}/objects", json={}).status_code == 201
    assert client.post(f"{first}/objects/1/clicks", json={"x": 40, "y": 30}).json()["rle"]["size"] == [60, 80]


def test_a_request_that_only_looks_sees_the_new_picture(client, folder, tmp_path):
    first = opened(client)
    write_image(folder / "0.png", OTHER)
    after = client.get(first).json()
    assert (after["width"], after["objects"], after["notice"] != "") == (80, [], True)


def test_the_work_comes_back_with_the_file_after_a_restart_too(make_client, folder, tmp_path):
    client = make_client()
    first = opened(client)
    before = client.get(first).json()["objects"]
    shutil.copy(folder / "0.png", tmp_path / "kept.png")
    write_image(folder / "0.png", OTHER)
    assert client.get(first).json()["objects"] == []
    client.post(f"{first}/objects", json={"name": "other"})
    for _ in range(2):
        client = make_client()
        shutil.copy(tmp_path / "kept.png", folder / "0.png")
        after = client.get(first).json()
        assert after["objects"] == before
        assert after["notice"].endswith("this one was here earlier, and its work (1 object) is back")
        assert len(client.post(f"{first}/objects/1/undo").json()["clicks"]) == 1
        assert len(client.post(f"{first}/objects/1/redo").json()["clicks"]) == 2
        before = client.get(first).json()["objects"]
        write_image(folder / "0.png", OTHER)
        assert [item["name"] for item in client.get(first).json()["objects"]] == ["other"]
    place = tmp_path / "data" / "images" / first.rpartition("/")[2]
    assert len(list(place.glob("earlier-*"))) == 1


def test_a_file_that_was_touched_or_saved_again_is_the_same_picture(client, folder):
    first = opened(client)
    before = client.get(first).json()
    os.utime(folder / "0.png")
    assert client.get(first).json() == before
    write_image(folder / "again.png", read_image(folder / "0.png"))
    os.replace(folder / "again.png", folder / "0.png")
    assert client.post(f"{first}/objects/1/clicks", json={"x": 5, "y": 80, "positive": False}).json()["undoable"] == 3


def test_a_file_that_is_half_written_or_gone_costs_nothing(client, folder):
    first = opened(client)
    content = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(content[:60])
    assert client.post(f"{first}/objects/1/undo").status_code == 422
    (folder / "0.png").unlink()
    assert len(client.post(f"{first}/objects/1/undo").json()["clicks"]) == 1
    (folder / "0.png").write_bytes(content)
    assert client.get(first).json()["objects"][0]["undoable"] == 1


def test_a_link_that_leads_out_of_the_folder_is_not_followed_later_either(client, folder, tmp_path):
    first = opened(client)
    write_image(tmp_path / "secret.png", OTHER)
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to(tmp_path / "secret.png")
    assert client.get(first).json()["width"] == 120


def test_a_cut_of_the_picture_before_is_not_taken_for_one_of_the_new(make_bench, folder):
    bench = make_bench()
    identity = bench.gallery.entries()[0].id
    with bench.sessions.use(identity) as picture:
        number, root = picture.objects.add().id, picture.embed()
        begun, gate = threading.Event(), threading.Event()
        cut = root.cut

        def slow(instances):
            begun.set()
            gate.wait(20)
            return cut(instances)

        root.cut = slow
        failure = []

        def work():
            try:
                picture.objects.auto(number)
            except ReplacedError as error:
                failure.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(20)
        write_image(folder / "0.png", photo(5))  # of the same size
        assert picture.refresh()
        picture.objects.add()
        gate.set()
        thread.join(20)
        assert "has become another picture" in failure[0]
        assert picture.record.objects[0].area == 0


def test_an_embedding_of_the_picture_before_is_not_used_for_the_new(make_bench, folder):
    bench = make_bench()
    identity = bench.gallery.entries()[0].id
    with bench.sessions.use(identity) as picture:
        picture.segmenter = Stand(picture.segmenter, folder, picture)
        assert np.array_equal(picture.embed().image, photo(5))


class Stand:
    """Stands for a segmenter; while it encodes for the first time, the file is replaced."""

    def __init__(self, segmenter, folder, picture):
        self._segmenter, self._folder, self._picture, self._replaced = segmenter, folder, picture, False

    def open(self, image, **options):
        session = self._segmenter.open(image, **options)
        if not self._replaced:
            self._replaced = True
            write_image(self._folder / "0.png", photo(5))
            thread = threading.Thread(target=self._picture.refresh)
            thread.start()
            thread.join(20)
            assert not thread.is_alive(), "who looks at the picture need not wait for the encoder"
        return session


# Folders that are moved away


@pytest.mark.parametrize("what", ["data", "picture"])
def test_nothing_makes_a_folder_anew_that_was_moved_away(make_bench, tmp_path, what):
    bench = make_bench()
    identity = bench.gallery.entries()[0].id
    with bench.sessions.use(identity) as picture:
        number = picture.objects.add("ball").id
        picture.objects.extend(number, "click", {}, lambda session: session.click(60, 45))
        place = tmp_path / "data" if what == "data" else bench.store.place(identity)
        view = bench.store.place(identity) / "view.jpg"
        view.unlink(missing_ok=True)
        place.rename(tmp_path / "moved")
        with pytest.raises(OutputError, match="moved away or deleted; put it back"):
            picture.view()
        with pytest.raises(OutputError, match="No such file"):
            picture.objects.extend(number, "click", {}, lambda session: session.click(30, 45))
        with pytest.raises(OutputError):
            picture.objects.add()
        with pytest.raises(OutputError, match="moved away or deleted; put it back"):
            bench.store._write_record(picture.record, 0)
        picture.let_go()
        picture.embed()  # its saving is given up, with a line in the log
        if what == "data":
            with pytest.raises(OutputError, match="moved away or deleted; put it back"):
                bench.sessions.thumbnail(identity)
        assert not place.exists()
        (tmp_path / "moved").rename(place)
        assert picture.view().exists()
        assert len(picture.objects.extend(number, "click", {}, lambda session: session.click(30, 45)).clicks) == 2


# Disks that turn read-only, and clocks that jump


@pytest.fixture
def own_disk(tmp_path):
    """A disk of its own below the server's lock, which may be turned read-only while the server is at work."""
    place = tmp_path / "data" / "images"
    place.mkdir(parents=True)
    if shutil.which("mount") is None:
        pytest.skip("needs mount, which is Linux's")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_turns_read_only_costs_what_was_not_answered_and_no_more(own_disk, client):
    first = opened(client)
    before = client.get(f"{first}/state").json()
    subprocess.run(["mount", "-o", "remount,ro", own_disk], check=True)
    for method, path, body in (
        ("POST", "objects/1/clicks", {"x": 5, "y": 5}),
        ("POST", "objects/1/undo", None),
        ("POST", "objects/1/reset", None),
        ("POST", "objects", {}),
        ("PATCH", "objects/1", {"name": "x"}),
        ("POST", "objects/1/auto", None),
    ):
        reply = client.request(method, f"{first}/{path}", json=body)
        assert (reply.status_code, "Read-only file system" in reply.json()["reason"]) == (507, True), path
    assert client.delete(first).status_code == 507
    assert client.post("/api/images", content=encode_image(photo(3), ".png")).status_code == 507
    # What only looks goes on.
    assert client.get(f"{first}/state").json() == before
    assert client.post(f"{first}/preview", json={"x": 5, "y": 5, "object": 1}).status_code == 200
    assert client.get(f"{first}/export?format=coco").status_code == 200
    others = [row["id"] for row in client.get("/api/images").json()["images"][1:]]
    assert client.get(f"/api/images/{others[0]}").status_code == 507
    subprocess.run(["mount", "-o", "remount,rw", own_disk], check=True)
    assert client.get(f"{first}/state").json() == before
    assert len(client.post(f"{first}/objects/1/undo").json()["clicks"]) == 1
    assert client.get(f"/api/images/{others[0]}").status_code == 200


DAY = 86_400.0


@pytest.mark.parametrize("jump", [-20_000 * DAY, -DAY, 40_000 * DAY], ids=["to 1971", "a day back", "a century on"])
def test_clocks_that_jump_change_no_answer(make_client, monkeypatch, jump):
    client = make_client()
    first = opened(client)
    before, clock = client.get(first).json()["objects"], time.time
    monkeypatch.setattr(time, "time", lambda: max(0.0, clock() + jump))
    assert client.get(first).json()["objects"] == before
    assert client.post(f"{first}/objects/1/undo", headers={"fretsaw-person": "Ada"}).status_code == 200
    uploaded = client.post("/api/images?name=late.png", content=encode_image(photo(3), ".png")).json()["id"]
    monkeypatch.setattr(time, "time", clock)
    assert client.post(f"{first}/objects/1/redo").json()["rle"] == before[0]["rle"]
    client = make_client(disk_bytes=0)
    log = client.get(f"{first}/log").json()
    assert [row["revision"] for row in log] == list(range(1, len(log) + 1))
    assert [row["name"] for row in log][-2:] == ["undo", "redo"]
    assert log[-2]["person"] == "Ada"
    assert (log[-2]["time"] - log[-3]["time"] < 0) == (jump < 0)
    assert client.get(first).json()["objects"][0]["rle"] == before[0]["rle"]
    assert uploaded in [row["id"] for row in client.get("/api/images").json()["images"]]


@pytest.mark.parametrize("jump", [-20_000 * DAY, 40_000 * DAY])
def test_times_of_files_that_jump_leave_caches_right(make_client, folder, tmp_path, jump):
    """Pictures, embeddings and thumbnails whose times lie in another century."""
    client = make_client()
    first = opened(client)
    thumbnail, before = client.get(f"{first}/thumbnail.jpg").content, client.get(first).json()
    now = time.time() + jump
    for path in (*(tmp_path / "data").rglob("*"), *folder.rglob("*.png")):
        if path.is_file():
            os.utime(path, (max(0.0, now), max(0.0, now)))
    assert client.get(first).json() == before
    assert client.get(f"{first}/thumbnail.jpg").content == thumbnail
    client = make_client()
    assert client.post(f"{first}/objects/1/undo").json()["undoable"] == 1
    write_image(folder / "0.png", OTHER)
    os.utime(folder / "0.png", (0, 0))
    assert client.get(first).json()["width"] == 80
    assert client.get(f"{first}/thumbnail.jpg").content != thumbnail
