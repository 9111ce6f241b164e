"""A whole job over HTTP: open, cut, correct, take back, name, export; what is answered is what the library gives, and it survives everything."""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fretsaw import masks
from fretsaw.images import encode_image, read_mask
from fretsaw.interchange import coco, label_studio, labelme, yolo
from fretsaw.interchange.pictures import AnnotatedPicture, NamedMask
from fretsaw.server.workbench import Workbench
from serving import photo, tiny_segmenter


def mask_of(reply: dict) -> np.ndarray:
    return masks.decode_rle(reply["rle"])


def new_object(client, image: str, **body) -> str:
    reply = client.post(f"{image}/objects", json=body)
    assert reply.status_code == 201, reply.text
    return f"{image}/objects/{reply.json()['id']}"


def wait(client, job: dict) -> dict:
    """Follow a job by its events to the end and return its last state."""
    with client.stream("GET", f"/api/jobs/{job['id']}/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in reply.iter_lines() if line.startswith("data: ")]
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    return events[-1]


def test_the_list_shows_the_folder_and_its_subfolders(client):
    listed = client.get("/api/images").json()
    assert listed["folder"] == "photos"
    assert [(row["name"], row["objects"]) for row in listed["images"]] == [("0.png", 0), ("1.png", 0), ("deep/2.png", 0)]
    thumbnail = Image.open(io.BytesIO(client.get(listed["images"][2]["thumbnail"]).content))
    assert thumbnail.size == (120, 90)


def test_clicks_over_http_are_the_librarys_clicks(client, first, segmenter):
    opened = client.get(first).json()
    assert (opened["width"], opened["height"], opened["objects"]) == (120, 90, [])
    session = segmenter.open(photo(0))
    item = new_object(client, first, name="ball")
    for x, y, positive in ((60, 45, True), (10.5, 80.25, False), (40, 30, True)):
        expected = session.click(x, y, positive)
        reply = client.post(f"{item}/clicks", json={"x": x, "y": y, "positive": positive}).json()
        assert np.array_equal(mask_of(reply), expected.mask)
        assert (reply["change"], reply["score"]) == (None, pytest.approx(expected.score))
        assert tuple(reply["box"]) == expected.box
    assert reply["clicks"] == [[60, 45, True], [10.5, 80.25, False], [40, 30, True]]
    expected = session.box(20, 10, 100, 80)
    assert np.array_equal(mask_of(client.post(f"{item}/box", json={"x0": 20, "y0": 10, "x1": 100, "y1": 80}).json()), expected.mask)
    assert np.array_equal(read_mask(client.get(f"{item}/mask.png").content) > 0, expected.mask)
    # The server's worker and this process may add in another order (they have different numbers of threads), which moves a soft edge by one level of 255.
    served, cut = (np.array(picture).astype(int) for picture in (Image.open(io.BytesIO(client.get(f"{item}/cutout.png").content)), expected.cutout()))
    assert np.abs(served - cut)[..., 3].max() <= 1
    seen = (served[..., 3] > 0) & (cut[..., 3] > 0)
    assert np.array_equal(served[seen][:, :3], cut[seen][:, :3])


def test_scribbles_over_http_are_the_librarys_scribbles(make_client, first, segmenter):
    client = make_client()
    session = segmenter.open(photo(0))
    item = new_object(client, first, name="ball")
    session.click(60, 45)
    before = client.post(f"{item}/clicks", json={"x": 60, "y": 45}).json()
    line, dot = [[40, 30], [60.5, 30], [80, 55.25]], [[5, 80]]
    replies = []
    for points, positive in ((line, True), (dot, False)):
        expected = session.scribble(points, positive)
        replies.append(client.post(f"{item}/scribbles", json={"points": points, "positive": positive}).json())
        assert np.array_equal(mask_of(replies[-1]), expected.mask)
        assert replies[-1]["score"] == pytest.approx(expected.score)
    assert not np.array_equal(mask_of(before), expected.mask)
    # A scribble is shown as a scribble; the clicks that stand for it in the model are nobody's.
    assert replies[1]["clicks"] == [[60, 45, True]]
    assert replies[1]["scribbles"] == [{"points": line, "positive": True}, {"points": dot, "positive": False}]
    # One step each, which is taken back and made again whole.
    undone = client.post(f"{item}/undo?since={replies[1]['revision']}").json()
    assert np.array_equal(patched(mask_of(replies[1]), undone["change"]), mask_of(replies[0]))
    assert (undone["undoable"], undone["redoable"], undone["scribbles"]) == (2, 1, replies[0]["scribbles"])
    first_undone = client.post(f"{item}/undo").json()
    assert (first_undone["rle"], first_undone["clicks"], first_undone["scribbles"]) == (before["rle"], before["clicks"], [])
    # Another server finds them on disk, goes on from them, and exports the mask alone.
    client = make_client()
    redone = client.post(f"{item}/redo").json()
    assert (redone["rle"], redone["clicks"], redone["scribbles"]) == (replies[0]["rle"], [[60, 45, True]], replies[0]["scribbles"])
    session.undo()
    assert np.array_equal(mask_of(client.post(f"{item}/clicks", json={"x": 100, "y": 10}).json()), session.click(100, 10).mask)
    assert client.get(item).json()["scribbles"] == replies[0]["scribbles"]
    [picture] = coco.read({coco.PATH: client.get(f"{first}/export?format=coco").content})
    assert np.array_equal(picture.objects[0].mask, session.result.mask)


def test_the_longest_scribble_is_taken_and_one_point_more_is_not(client, first):
    most = client.get("/api/about").json()["limits"]["points"]
    item = new_object(client, first)
    points = [[number % 120, 45] for number in range(most + 1)]
    assert client.post(f"{item}/scribbles", json={"points": points[:-1]}).json()["undoable"] == 1
    refused = client.post(f"{item}/scribbles", json={"points": points})
    assert (refused.status_code, refused.json()["kind"]) == (422, "RequestError")
    assert refused.json()["reason"] == f"points: List should have at most {most} items after validation, not {most + 1}"
    assert client.get(item).json()["undoable"] == 1


def test_undo_and_redo_step_by_step(client, first):
    item = new_object(client, first)
    replies = [client.post(f"{item}/clicks", json={"x": x, "y": 45}).json() for x in (60, 20, 100)]
    undone = [client.post(f"{item}/undo").json() for _ in range(3)]
    assert [(reply["undoable"], reply["redoable"]) for reply in undone] == [(2, 1), (1, 2), (0, 3)]
    assert undone[0]["rle"] == replies[1]["rle"]
    assert undone[2]["area"] == 0
    refused = client.post(f"{item}/undo")
    assert refused.status_code == 422
    assert refused.json()["reason"].startswith("nothing to undo")
    assert client.post(f"{item}/redo").json()["rle"] == replies[0]["rle"]
    assert client.post(f"{item}/clicks", json={"x": 5, "y": 5}).json()["redoable"] == 0
    assert client.post(f"{item}/reset").json()["undoable"] == 0


def test_automatic_mask_and_a_painted_one(client, first):
    item = new_object(client, first)
    automatic = client.post(f"{item}/auto").json()
    assert np.array_equal(mask_of(automatic), photo(0).mean(axis=2) > 127.5)
    painted = mask_of(automatic).copy()
    painted[:10, :10] = True
    reply = client.put(f"{item}/mask", json={"rle": masks.uncompressed_rle(painted)}).json()
    assert np.array_equal(mask_of(reply), painted)
    assert client.post(f"{item}/undo").json()["rle"] == automatic["rle"]


def test_strokes_are_the_librarys_masks_and_only_their_box_travels(client, first, segmenter):
    item = new_object(client, first)
    clicked = client.post(f"{item}/clicks", json={"x": 60, "y": 45}).json()
    expected = mask_of(clicked).copy()
    covered = np.zeros((20, 30), bool)
    covered[5:15, 5:25] = True
    for adds, x, y in ((True, 0, 0), (False, 10, 5), (True, 90, 70)):
        before = expected.copy()
        expected[y : y + 20, x : x + 30][covered] = adds
        body = {"x": x, "y": y, "rle": masks.uncompressed_rle(covered), "adds": adds}
        reply = client.post(f"{item}/strokes?since={clicked['revision']}", json=body).json()
        assert (reply["rle"], reply["revision"]) == (None, clicked["revision"] + 1)
        assert tuple(reply["change"]["box"]) == masks.mask_to_box(before != expected)
        assert np.array_equal(patched(before, reply["change"]), expected)
        clicked = reply
    assert np.array_equal(mask_of(client.get(item).json()), expected)
    session = segmenter.open(photo(0))
    session.mask(expected)
    assert np.array_equal(mask_of(client.post(f"{item}/clicks", json={"x": 5, "y": 80}).json()), session.click(5, 80).mask)
    undone = client.post(f"{item}/undo?since={reply['revision'] + 1}").json()
    assert np.array_equal(patched(session.result.mask, undone["change"]), expected)
    # Who knows another mask gets the whole one; what changes nothing is no step; what lies outside is refused.
    assert client.post(f"{item}/undo?since=1").json()["change"] is None
    again = client.post(f"{item}/redo").json()
    idle = client.post(f"{item}/strokes", json={"x": 90, "y": 70, "rle": masks.uncompressed_rle(covered)}).json()
    assert (idle["undoable"], idle["rle"]) == (again["undoable"], again["rle"])
    assert client.post(f"{item}/strokes?since={again['revision']}", json=body).json()["change"]["box"] == [0, 0, 0, 0]
    for x, y in ((100, 70), (-1, 0)):
        refused = client.post(f"{item}/strokes", json={"x": x, "y": y, "rle": masks.uncompressed_rle(covered)})
        assert refused.status_code == 422
        assert "expected a stroke inside the picture" in refused.json()["reason"]


def patched(mask: np.ndarray, change: dict) -> np.ndarray:
    x0, y0, x1, y1 = change["box"]
    mask = mask.copy()
    mask[y0:y1, x0:x1] = masks.decode_rle(change["rle"])
    return mask


def test_parts_of_an_automatic_cut_survive_a_restart_are_exported_and_become_objects(make_client, first):
    client = make_client()
    item = new_object(client, first, name="ball")
    answered = client.post(f"{item}/auto", json={"instances": True}).json()
    assert [part["box"][0] for part in answered["parts"]] == [31, 60]
    client.post(f"{item}/clicks", json={"x": 5, "y": 5})
    assert client.get(item).json()["parts"] == []
    client = make_client()
    undone = client.post(f"{item}/undo").json()
    assert undone["parts"] == answered["parts"]
    [picture] = coco.read({coco.PATH: client.get(f"{first}/export?format=coco").content})
    assert [(part.name, int(part.mask.sum())) for part in picture.objects] == [("ball", part["area"]) for part in answered["parts"]]
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"{first}/export?format=cutout").content))
    assert packed.namelist() == ["0/01-ball.png", "0/02-ball.png"]
    *made, whole = client.post(f"{item}/split").json()
    assert [(part["name"], part["area"]) for part in made] == [("ball", part["area"]) for part in answered["parts"]]
    assert whole["deleted"]
    refused = client.post(f"{first}/objects/{made[0]['id']}/split")
    assert (refused.status_code, refused.json()["reason"]) == (422, "expected a mask of several pieces, got one that is connected")
    painted = np.zeros((90, 120), bool)
    painted[5:40, 70:100], painted[50:80, 10:40], painted[0, 0] = True, True, True
    client.put(f"{first}/objects/{made[0]['id']}/mask", json={"rle": masks.encode_rle(painted)})
    pieces = client.post(f"{first}/objects/{made[0]['id']}/split").json()
    assert [(piece["name"], piece["box"]) for piece in pieces[:-1]] == [("ball", [10, 50, 40, 80]), ("ball", [70, 5, 100, 40])]


def test_text_makes_named_objects(client, first):
    found = client.post(f"{first}/text", json={"names": ["left", "nowhere"]}).json()
    assert [(item["name"], item["area"]) for item in found] == [("left", 90 * 60)]


def test_a_model_without_a_mode_says_so(make_client, first):
    other = make_client(tiny_segmenter(text=None))
    refused = other.post(f"{first}/text", json={"names": ["cat"]})
    assert (refused.status_code, refused.json()["kind"]) == (409, "ModelError")
    assert "text" not in other.get("/api/about").json()["modes"]


def test_previews_change_nothing(client, first):
    item = new_object(client, first)
    client.post(f"{item}/clicks", json={"x": 60, "y": 45})
    before = client.get(item).json()
    preview = client.post(f"{first}/preview", json={"x": 20, "y": 20, "positive": False, "object": 1}).json()
    assert client.get(item).json() == before
    assert preview["rle"] == client.post(f"{item}/clicks", json={"x": 20, "y": 20, "positive": False}).json()["rle"]
    fresh = client.post(f"{first}/preview", json={"x": 60, "y": 45}).json()
    assert fresh["rle"] == before["rle"]


def test_other_objects_become_negative_clicks_on_request(client, first):
    left, whole = new_object(client, first), new_object(client, first)
    mask = np.zeros((90, 120), bool)
    mask[10:50, 10:60] = True
    client.put(f"{left}/mask", json={"rle": masks.encode_rle(mask)})
    assert client.post(f"{whole}/avoid").status_code == 422
    client.put(f"{whole}/mask", json={"rle": masks.encode_rle(~np.zeros((90, 120), bool))})
    reply = client.post(f"{whole}/avoid").json()
    [(x, y, positive)] = reply["clicks"]
    assert mask[round(y), round(x)]
    assert not positive
    assert reply["undoable"] == 2


def test_objects_are_named_hidden_thrown_away_and_taken_back(client, first):
    item = new_object(client, first, name="a", color="#123456")
    client.post(f"{item}/clicks", json={"x": 60, "y": 45})
    changed = client.patch(item, json={"name": "<b>cat</b>", "hidden": True}).json()
    assert (changed["name"], changed["color"], changed["hidden"], changed["undoable"]) == ("<b>cat</b>", "#123456", True, 1)
    client.patch(item, json={"deleted": True})
    assert client.get(first).json()["objects"] == []
    assert client.patch(item, json={"deleted": False}).json()["undoable"] == 1
    assert len(client.get(first).json()["objects"]) == 1
    assert new_object(client, first).endswith("/2")


def test_everything_is_there_after_a_restart(make_client, first):
    client = make_client()
    item = new_object(client, first, name="ball")
    client.post(f"{item}/auto")
    client.post(f"{item}/clicks", json={"x": 30, "y": 30, "positive": False})
    client.post(f"{item}/clicks", json={"x": 60, "y": 45})
    client.post(f"{item}/undo")
    expected = client.post(f"{item}/redo").json()["rle"]
    client.post(f"{item}/undo")
    before = client.get(first).json()
    later = make_client()
    after = later.get(first).json()
    assert after["objects"] == before["objects"]
    redone = later.post(f"{item}/redo").json()
    assert (redone["undoable"], redone["redoable"]) == (3, 0)
    assert redone["rle"] == expected


def test_pictures_leave_memory_and_come_back_the_same(make_client):
    client = make_client(memory_bytes=1, workers=2)
    bench = _bench(client)
    addresses = [f"/api/images/{row['id']}" for row in client.get("/api/images").json()["images"]]
    items = [new_object(client, address) for address in addresses]
    for item in items:
        client.post(f"{item}/clicks", json={"x": 60, "y": 45})
    expected = [client.get(item).json() for item in items]
    assert bench.sessions.evicted >= 3
    assert len(bench.sessions) <= 2
    for item, before in zip(items, expected, strict=True):
        client.post(f"{item}/clicks", json={"x": 5, "y": 5, "positive": False})
        assert client.post(f"{item}/undo").json()["rle"] == before["rle"]


def _bench(client) -> Workbench:
    """The workbench behind a client, past the layers around the application."""
    layers = [client.app]
    while not hasattr(layers[0], "state"):
        layer = layers.pop(0)
        layers += [getattr(layer, "_app", None), *(cell.cell_contents for cell in getattr(layer, "__closure__", None) or ())]
    return layers[0].state.bench


def test_embeddings_come_from_disk_and_are_computed_again_only_when_they_are_gone(make_client, first, segmenter, monkeypatch):
    calls = []
    encode = segmenter.parts.clicks.encode
    monkeypatch.setattr(segmenter.parts.clicks, "encode", lambda *asked: calls.append(1) or encode(*asked))
    item = new_object(make_client(), first)
    make_client().post(f"{item}/clicks", json={"x": 60, "y": 45})
    assert len(calls) == 1
    client = make_client(disk_bytes=0)
    client.post(f"{item}/clicks", json={"x": 5, "y": 45})
    assert len(calls) == 1
    _bench(client).store.trim_embeddings(0)
    make_client().post(f"{item}/undo")
    assert len(calls) == 2


def test_a_picture_that_was_replaced_starts_anew(make_client, first, folder):
    client = make_client()
    item = new_object(client, first, name="old")
    client.post(f"{item}/clicks", json={"x": 60, "y": 45})
    (folder / "0.png").write_bytes(encode_image(photo(7, 40, 50), ".png"))
    opened = make_client().get(first).json()
    assert (opened["width"], opened["height"], opened["objects"]) == (50, 40, [])


def test_two_people_on_two_pictures(client, segmenter):
    """Clicks of both, interleaved and at once, give what each would have got alone."""
    addresses = [f"/api/images/{row['id']}" for row in client.get("/api/images").json()["images"][:2]]
    places = [[(60, 45), (20, 20), (100, 80), (5, 60)], [(30, 45), (90, 20), (70, 80), (110, 10)]]

    def work(who: int) -> list[dict]:
        item = new_object(client, addresses[who])
        return [client.post(f"{item}/clicks", json={"x": x, "y": y}).json() for x, y in places[who]]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (0, 1)))
    for who in (0, 1):
        session = segmenter.open(photo(who))
        for reply, (x, y) in zip(found[who], places[who], strict=True):
            assert np.array_equal(mask_of(reply), session.click(x, y).mask)


def test_uploads_work_like_the_folders_pictures(client):
    reply = client.post("/api/images?name=..%2F..%2Fmy%20cat.png", content=encode_image(photo(4), ".png"))
    assert reply.status_code == 201
    opened = reply.json()
    assert (opened["name"], opened["uploaded"], opened["width"]) == ("my cat.png", True, 120)
    item = new_object(client, f"/api/images/{opened['id']}")
    assert client.post(f"{item}/clicks", json={"x": 60, "y": 45}).status_code == 200
    assert [row["name"] for row in client.get("/api/images").json()["images"] if row["uploaded"]] == ["my cat.png"]
    assert client.delete(f"/api/images/{opened['id']}").status_code == 204
    assert client.get(f"/api/images/{opened['id']}").status_code == 404


def test_exports_hold_the_masks_that_are_shown(client, first):
    item = new_object(client, first, name="ball")
    mask = mask_of(client.post(f"{item}/auto").json())
    [picture] = coco.read({coco.PATH: client.get(f"{first}/export?format=coco").content})
    assert picture.objects[0].name == "ball"
    assert np.array_equal(picture.objects[0].mask, mask)
    [picture] = label_studio.read({label_studio.PATH: client.get(f"{first}/export?format=label-studio").content})
    assert np.array_equal(picture.objects[0].mask, mask)
    png = client.get(f"{first}/export?format=png")
    assert png.headers["content-disposition"] == "attachment; filename*=UTF-8''0-01-ball.png"
    assert np.array_equal(read_mask(png.content) > 0, mask)
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"{first}/export?format=yolo").content))
    files = {name: packed.read(name) for name in packed.namelist()}
    assert np.array_equal(yolo.read(files, {"0.png": (90, 120)})[0].objects[0].mask, mask)
    cutout = Image.open(io.BytesIO(client.get(f"{first}/export?format=cutout").content))
    y, x = np.nonzero(mask)
    assert cutout.size == (x.max() - x.min() + 1, y.max() - y.min() + 1)
    refused = client.get(f"{first}/export?format=docx")
    assert "expected a format out of png, coco" in refused.json()["reason"]


def test_the_whole_folder_is_cut_and_packed(client):
    job = wait(client, client.post("/api/auto").json())
    assert (job["state"], job["done"], job["total"]) == ("done", 3, 3)
    job = wait(client, client.post("/api/exports", json={"format": "png"}).json())
    assert (job["state"], job["has_file"]) == ("done", True)
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"/api/jobs/{job['id']}/file").content))
    assert {"0/01-object.png", "1/01-object.png", "deep/2/01-object.png"} < set(packed.namelist())
    for number, name in enumerate(("0", "1", "deep/2")):
        assert np.array_equal(read_mask(packed.read(f"{name}/01-object.png")) > 0, photo(number).mean(axis=2) > 127.5)
    assert wait(client, client.post("/api/exports", json={"format": "coco", "images": []}).json())["state"] == "failed"


def test_annotations_beside_the_pictures_become_objects(make_client, folder):
    ball = photo(0).mean(axis=2) > 127.5
    corner = np.zeros((90, 120), bool)
    corner[:20, :30] = True
    pictures = [
        AnnotatedPicture("0.png", (90, 120), (NamedMask("ball", ball), NamedMask("corner", corner))),
        AnnotatedPicture("somewhere/2.png", (90, 120), (NamedMask("ball", ball),)),
        AnnotatedPicture("strange.png", (90, 120), (NamedMask("ball", ball),)),
    ]
    for path, content in (*coco.write(pictures[::2]), *labelme.write(pictures[1:2])):
        (folder / Path(path).name).write_bytes(content)
    (folder / "1.json").write_text('{"shapes": 3, "imagePath": "1.png"}')
    client = make_client()
    rows = client.get("/api/images").json()["images"]
    assert sorted((row["format"], row["name"]) for row in client.get("/api/annotations").json()) == [("coco", "annotations.json"), ("labelme", "")]
    job = wait(client, client.post("/api/imports", json={}).json())
    assert (job["state"], job["done"]) == ("done", 3)
    assert job["note"].startswith("3 objects; 1 picture is not here; 1 file gave nothing, first 1.json: expected labelme's shapes")
    first = f"/api/images/{rows[0]['id']}"
    objects = client.get(first).json()["objects"]
    assert [(item["name"], item["undoable"]) for item in objects] == [("ball", 1), ("corner", 1)]
    assert np.array_equal(mask_of(objects[0]), ball)
    # No model was needed so far; a click goes on from the mask that was read, and undo comes back to it.
    assert client.post(f"{first}/objects/2/clicks", json={"x": 5, "y": 5}).json()["undoable"] == 2
    assert np.array_equal(mask_of(client.post(f"{first}/objects/2/undo").json()), corner)
    job = wait(client, client.post("/api/imports", json={"name": "annotations.json"}).json())
    assert (job["state"], len(client.get(first).json()["objects"])) == ("done", 2)
    sent = next(iter(coco.write([AnnotatedPicture("1.png", (90, 120), (NamedMask("sent", corner),))])))[1]
    assert wait(client, client.post("/api/annotations?name=mine.json", content=sent).json())["note"] == "1 object"
    refused = client.post("/api/annotations?name=page.json", content=b"<html>")
    assert (refused.status_code, refused.json()["kind"]) == (422, "DataError")
    assert "page.json: expected a file of coco" in refused.json()["reason"]
    assert client.post("/api/imports", json={"name": "../x"}).status_code == 404


def test_a_job_is_stopped_between_two_pictures(make_client):
    client = make_client(tiny_segmenter(pause=0.3))
    job = client.post("/api/auto").json()
    client.delete(f"/api/jobs/{job['id']}")
    job = wait(client, job)
    assert job["state"] == "stopped"
    assert job["done"] < 3


def test_health_metrics_and_openapi(client, first):
    item = new_object(client, first)
    client.post(f"{item}/clicks", json={"x": 60, "y": 45})
    assert client.get("/health").json()["status"] == "UP"
    figures = client.get("/metrics").text
    assert 'fretsaw_requests_total{method="POST",route="/api/images/{identity}/objects/{number}/clicks",status="200"} 1.0' in figures
    assert "fretsaw_memory_bytes" in figures
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/api/images/{identity}/objects/{number}/clicks"]["post"]["description"] == "Add a click."
    assert all("description" in operation for path in paths.values() for operation in path.values())


def test_the_log_tells_what_was_done_and_by_whom(make_client, first):
    client = make_client()
    item = new_object(client, first, name="ball")
    client.post(f"{item}/clicks", json={"x": 60, "y": 45}, headers={"fretsaw-person": "Ada%C3%9F%0A"})
    client.post(f"{item}/undo")
    client.patch(item, json={"name": "cat"})
    client = make_client()
    rows = client.get(f"{first}/log").json()
    assert [(row["revision"], row["name"]) for row in rows] == [(1, "open"), (2, "add"), (3, "click"), (4, "undo"), (5, "describe")]
    assert rows[2]["arguments"] == {"object": 1, "x": 60, "y": 45, "positive": True}
    assert [row["person"] for row in rows] == ["", "", "Ada\u00df", "", ""]
    assert rows[4]["arguments"] == {"object": 1, "name": "cat"}
    assert client.get(f"/api/images/{'0' * 24}/log").status_code == 404


def test_rows_that_could_not_be_imported_are_told(client, first):
    mask = {"size": [90, 120], "counts": masks.encode_rle(photo(0).mean(axis=2) > 127.5)["counts"]}
    content = {
        "images": [{"id": 1, "file_name": "0.png", "width": 120, "height": 90}],
        "categories": [{"id": 1, "name": "ball"}, {"id": 2, "name": ["x"]}],
        "annotations": [{"id": number, "image_id": 1, "category_id": number, "segmentation": mask} for number in (1, 2)],
    }
    job = wait(client, client.post("/api/annotations?name=odd.json", content=json.dumps(content).encode()).json())
    assert (job["state"], job["note"].split(";")[0]) == ("done", "1 object, 1 left out: 1 annotation")
    assert "; first: odd.json: category 2: " in job["note"]
    assert [item["name"] for item in client.get(first).json()["objects"]] == ["ball"]
    assert client.get("/api/images").status_code == 200


@pytest.mark.parametrize("fault", [KeyError(2), MemoryError(), RecursionError(), OSError(5, "x"), IndexError("x")], ids=lambda fault: type(fault).__name__)
def test_whatever_a_reader_raises_ends_an_import_in_one_line(client, fault, monkeypatch):
    sent = next(iter(coco.write([AnnotatedPicture("1.png", (90, 120), (NamedMask("sent", np.ones((90, 120), bool)),))])))[1]

    def broken(*arguments, **options):
        raise fault

    monkeypatch.setattr(AnnotatedPicture, "__post_init__", broken)
    job = wait(client, client.post("/api/annotations?name=mine.json", content=sent).json())
    assert job["state"] == "failed"
    assert job["reason"].startswith("mine.json: expected COCO's annotations")
    assert "KeyError" not in job["reason"]
    assert client.get("/api/images").status_code == 200
