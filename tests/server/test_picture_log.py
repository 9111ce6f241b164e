"""Work on disk: every command is there before its answer, what was answered survives any damage that can be survived, and one folder has one owner."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fretsaw import cli, masks
from fretsaw.errors import BusyError, DataError, StaleSessionError
from fretsaw.images import encode_image
from fretsaw.server import picture_log
from fretsaw.server.changes import Command, object_effect, replay
from fretsaw.server.check import check
from fretsaw.server.records import IMAGE_RECORD, ImageRecord, ObjectRecord
from fretsaw.server.refusals import DamagedError
from fretsaw.server.store import COMMANDS_BETWEEN_RECORDS, LOG, RECORD, Store
from serving import photo

IDENTITY = "0" * 24
EMPTY = masks.encode_rle(np.zeros((4, 5), bool))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


def begun(store: Store) -> ImageRecord:
    record = ImageRecord(IDENTITY, "a.png", uploaded=True, hash="00", size=(4, 5))
    store.begin(record, "upload")
    return store.read(IDENTITY)


def put(store: Store, record: ImageRecord, item: ObjectRecord, name: str = "test") -> ImageRecord:
    """Commit one object as it is now."""
    before = next((row for row in record.objects if row.id == item.id), None)
    store.commit(record, name, {}, [object_effect(before, item)])
    after = store.read(IDENTITY)
    store.keep_record(after)
    return after


# The log itself


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
EDITS = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXTS,
        "hidden": st.booleans(),
        "deleted": st.booleans(),
        "steps": st.lists(st.sampled_from(["1-1", "1-2", "1-3", "1-4"]), unique=True),
        "clicks": st.lists(st.tuples(st.floats(0, 4), st.floats(0, 3), st.booleans()), max_size=4),
        "prompt_box": st.none() | st.tuples(*[st.floats(0, 4)] * 4),
        "area": st.integers(0, 20),
    },
)


@settings(max_examples=60, deadline=None)
@given(commands=st.lists(st.tuples(st.integers(1, 3), EDITS), max_size=12))
def test_a_record_is_what_its_commands_made_it(tmp_path_factory, commands):
    store = Store(tmp_path_factory.mktemp("log"))
    try:
        record = begun(store)
        expected: dict[int, ObjectRecord] = {}
        for number, edit in commands:
            before = expected.get(number) or ObjectRecord(number, "", "#000000", EMPTY)
            item = ObjectRecord(**{name: getattr(before, name) for name in before.__slots__} | edit)
            item.position = min(item.position, len(item.steps))
            expected[number] = item
            record = put(store, record, item)
            assert {row.id: row for row in record.objects} == expected
        assert record.revision == 1 + len(commands)
    finally:
        store.close()


def test_a_torn_line_was_never_answered_and_the_next_command_replaces_it(store):
    record = begun(store)
    before = put(store, record, ObjectRecord(1, "one", "#000000", EMPTY))
    path = store.place(IDENTITY) / LOG
    sound = path.read_bytes()
    after = put(store, before, ObjectRecord(2, "two", "#000000", EMPTY))
    whole = path.read_bytes()
    for length in range(len(sound), len(whole)):
        path.write_bytes(whole[:length])
        assert store.read(IDENTITY).objects == before.objects, length
    for torn in (whole[:-1], whole[: len(sound) + 9], whole[:-9] + b"\0" * 9):
        path.write_bytes(torn)
        again = store.read(IDENTITY)
        assert put(store, again, ObjectRecord(2, "two", "#000000", EMPTY)).objects == after.objects


def test_a_line_takes_as_much_room_however_long_the_history_is(store):
    record, sizes = begun(store), []
    path = store.place(IDENTITY) / LOG
    item = ObjectRecord(1, "", "#000000", EMPTY)
    for number in range(1, 301):
        grown = ObjectRecord(1, "", "#000000", EMPTY, steps=[*item.steps, f"1-{number}"], position=number, clicks=[*item.clicks, (1.0, 2.0, True)])
        store.commit(record, "click", {}, [object_effect(None if number == 1 else item, grown)])
        record = ImageRecord(record.id, record.name, True, "00", (4, 5), [grown], revision=record.revision + 1)
        item = grown
        sizes.append(path.stat().st_size)
    lines = np.diff(sizes)
    assert lines[-10:].max() <= lines[10:20].max() + 20
    assert store.read(IDENTITY).objects == [item]


def test_after_enough_commands_the_rest_of_the_log_need_not_be_read(store, monkeypatch):
    record = begun(store)
    for number in range(COMMANDS_BETWEEN_RECORDS + 5):
        record = put(store, record, ObjectRecord(1, f"name {number}", "#000000", EMPTY))
    starts = []
    read = picture_log.read
    monkeypatch.setattr(picture_log, "read", lambda path, start=0: starts.append(start) or read(path, start))
    assert store.read(IDENTITY) == record
    assert starts[0] > 0.9 * COMMANDS_BETWEEN_RECORDS / (COMMANDS_BETWEEN_RECORDS + 6) * (store.place(IDENTITY) / LOG).stat().st_size
    # The log alone says the same.
    (store.place(IDENTITY) / RECORD).unlink()
    assert store.read(IDENTITY) == record


@pytest.mark.parametrize("effects", [[{"object": 1}, 3], [{"object": [1]}], [{"splice": {}}], [{"object": 1, "splice": {"steps": 3}}], ["x"], [{"picture": 3}]])
def test_effects_that_do_not_fit_are_one_error(effects):
    with pytest.raises(DataError):
        replay({}, [Command(1, 0.0, "", "x", {}, effects)])


def test_commands_come_in_their_order():
    with pytest.raises(DataError, match="expected command 1, got 2"):
        replay({}, [Command(2, 0.0, "", "x", {}, [])])


def test_what_could_not_be_read_back_is_not_written(store):
    record = begun(store)
    before = (store.place(IDENTITY) / LOG).read_bytes()
    for strange in (("x",), "lone \ud800", 7, None):
        with pytest.raises(DataError, match=r"read back|written as JSON"):
            put(store, record, ObjectRecord(1, strange, "#000000", EMPTY))  # type: ignore[arg-type]
    assert (store.place(IDENTITY) / LOG).read_bytes() == before
    assert store.read(IDENTITY) == record


def test_a_log_that_somebody_else_has_written_is_not_written_over(store):
    record = begun(store)
    path = store.place(IDENTITY) / LOG
    other = path.read_bytes() + picture_log._line(Command(2, 0.0, "", "other", {}, [object_effect(None, ObjectRecord(1, "theirs", "#000000", EMPTY))]))
    path.write_bytes(other)
    with pytest.raises(StaleSessionError, match="somebody else"):
        store.commit(record, "mine", {}, [object_effect(None, ObjectRecord(1, "mine", "#000000", EMPTY))])
    assert path.read_bytes() == other
    assert put(store, store.read(IDENTITY), ObjectRecord(2, "mine", "#000000", EMPTY)).revision == 3


def test_a_full_disk_leaves_the_log_as_it_was(store, monkeypatch):
    record = begun(store)
    path = store.place(IDENTITY) / LOG
    before, write = path.read_bytes(), os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) <= 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Exception, match="No space left"):
        put(store, record, ObjectRecord(1, "x" * 200, "#000000", EMPTY))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert put(store, record, ObjectRecord(1, "y", "#000000", EMPTY)).objects[0].name == "y"


def test_nobody_else_may_read_the_files_and_they_are_on_the_disk_before_the_answer(make_client, first, tmp_path, monkeypatch):
    client, synced = make_client(), []
    client.post(f"{first}/objects", json={})
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")) or fsync(descriptor))
    assert client.post(f"{first}/objects/1/clicks", json={"x": 60, "y": 45}).status_code == 200
    assert [Path(name).name for name in synced if name.endswith(LOG)] == [LOG]
    assert any("/steps" in name for name in synced)
    for path in (tmp_path / "data" / "images").rglob("*"):
        if path.name != "embedding.safetensors":  # can be made again
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# Damage


def damaged_server(make_client, folder: Path, data: Path) -> tuple[str, Path]:
    """Return the address and the folder of a picture with two clicks, of a server that has ended."""
    client = make_client()
    first = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    client.post(f"{first}/objects", json={"name": "ball"})
    for x in (60, 30):
        client.post(f"{first}/objects/1/clicks", json={"x": x, "y": 45})
    client.__exit__(None, None, None)
    return first, data / "images" / first.rpartition("/")[2]


def broken_in_the_middle(place: Path) -> None:
    lines = (place / LOG).read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"ball", b"bell")
    (place / LOG).write_bytes(b"\n".join(lines))


def broken_record(place: Path) -> None:
    (place / RECORD).write_bytes(b'{"log_bytes": 0, "checksum": "00000000", "record": {}}')


def no_json(place: Path) -> None:
    (place / RECORD).write_bytes(b"\xff{")


def nested(place: Path) -> None:
    (place / RECORD).write_bytes(b"[" * 200_000)


def wrong_values(place: Path) -> None:
    record = {"id": place.name, "name": ["x"], "uploaded": False, "objects": [{"id": "three"}]}
    (place / RECORD).write_text(json.dumps(record))


def folder_in_its_place(place: Path) -> None:
    (place / LOG).unlink()
    (place / LOG).mkdir()


@pytest.mark.parametrize("damage", [broken_in_the_middle, broken_record, no_json, nested, wrong_values, folder_in_its_place])
def test_a_damaged_picture_costs_no_other_and_is_repaired_or_deleted(make_client, folder, tmp_path, damage):
    first, place = damaged_server(make_client, folder, tmp_path / "data")
    damage(place)
    client = make_client()
    rows = client.get("/api/images").json()["images"]
    assert [row["damaged"] != "" for row in rows] == [True, False, False]
    other = f"/api/images/{rows[1]['id']}"
    assert client.post(f"{other}/objects", json={}).status_code == 201
    assert client.post(f"{other}/objects/1/clicks", json={"x": 60, "y": 45}).status_code == 200
    for reply in (client.get(first), client.post(f"{first}/objects/1/clicks", json={"x": 5, "y": 5}), client.get(f"{first}/export")):
        assert (reply.status_code, reply.json()["kind"]) == (409, "DamagedError")
        assert str(tmp_path) not in reply.text
    assert client.get(f"{first}/thumbnail.jpg").status_code == 200
    assert client.post("/api/exports", json={"format": "coco"}).status_code == 202
    client.__exit__(None, None, None)
    findings = {row.identity: row for row in check(tmp_path / "data")}
    whole_log = damage not in (broken_in_the_middle, folder_in_its_place)
    assert findings[place.name].trouble
    assert findings[place.name].lost is not whole_log
    assert all(not row.lost for identity, row in findings.items() if identity != place.name)
    assert any(file.name in (LOG, RECORD) for file in (tmp_path / "data" / "damaged").rglob("*"))
    client = make_client()
    assert [row["damaged"] for row in client.get("/api/images").json()["images"]] == ["", "", ""]
    assert client.get(first).status_code == 200
    # What could be read is there: all of it where only the record beside a whole log was broken; without its name, where the command that gave it was.
    names = [item["name"] for item in client.get(first).json()["objects"]]
    assert names == (["ball"] if whole_log else [""] if damage is broken_in_the_middle else [])
    if names:
        assert client.post(f"{first}/objects/1/undo").json()["undoable"] == 1
    assert client.post(f"{first}/objects", json={"name": "new"}).status_code == 201


@pytest.mark.parametrize("change", ["gone", "twice", "swapped"])
def test_what_lies_around_a_whole_line_that_is_gone_or_there_twice_is_brought_back(make_client, folder, tmp_path, change):
    first, place = damaged_server(make_client, folder, tmp_path / "data")
    lines = (place / LOG).read_bytes().splitlines(keepends=True)
    at = len(lines) - 2
    tail = {"gone": lines[at + 1 :], "twice": [lines[at], *lines[at:]], "swapped": [lines[at + 1], lines[at]]}[change]
    (place / LOG).write_bytes(b"".join([*lines[:at], *tail]))
    [finding] = check(tmp_path / "data")
    assert finding.lost is (change == "gone")
    assert "could be read" in finding.mended
    client = make_client()
    [item] = client.get(first).json()["objects"]
    assert (item["name"], len(item["clicks"]), item["undoable"]) == ("ball", 2, 2)
    assert len(client.post(f"{first}/objects/1/undo").json()["clicks"]) == 1


def busy_server(make_client) -> tuple[str, list[dict]]:
    """Return the address of a picture with every kind of command behind it, and its objects; the server has ended."""
    client = make_client()
    first = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    for name, xs in (("ball", (60, 30, 90)), ("cat", (70,)), ("dog", (10, 20))):
        item = f"{first}/objects/{client.post(f'{first}/objects', json={'name': name}).json()['id']}"
        for x in xs:
            client.post(f"{item}/clicks", json={"x": x, "y": 45})
        client.post(f"{item}/undo")
        client.post(f"{item}/clicks", json={"x": 33, "y": 50})
        client.post(f"{item}/scribbles", json={"points": [[5, 5], [9, 9]], "positive": False})
        client.patch(item, json={"color": "#123456"})
    objects = client.get(first).json()["objects"]
    client.__exit__(None, None, None)
    return first, objects


MASKS_SET_BY = {"click", "undo", "scribble"}


def test_whichever_line_of_a_log_is_damaged_all_others_are_brought_back(make_client, folder, tmp_path):
    """Before a record.json stands beside it, and the first line too."""
    data = tmp_path / "data"
    first, before = busy_server(make_client)
    place = data / "images" / first.rpartition("/")[2]
    assert not (place / RECORD).exists()
    whole = (place / LOG).read_bytes().splitlines(keepends=True)
    kept = {path.name: path.read_bytes() for path in (place / "steps").iterdir()}
    commands = [json.loads(line.partition(b" ")[2]) for line in whole]
    last_masks = {row["arguments"]["object"]: number for number, row in enumerate(commands) if row["name"] in MASKS_SET_BY}
    for number, (line, command) in enumerate(zip(whole[:-1], commands, strict=False)):
        for name, content in kept.items():
            (place / "steps" / name).write_bytes(content)
        (place / RECORD).unlink(missing_ok=True)
        (place / LOG).write_bytes(b"".join([*whole[:number], line[:40] + b"#" + line[41:], *whole[number + 1 :]]))
        [finding] = check(data, folder)
        assert (finding.lost, finding.name) == (True, "0.png")
        assert "1 broken lines" in finding.mended
        assert f"command {number + 1} is lost" in finding.mended
        store = Store(data)
        record = store.read(place.name)
        store.close()
        assert (record.revision, record.size, record.name) == (len(whole), (90, 120), "0.png")
        assert (record.hash == "") == (number == 0)
        for item, was in zip(record.objects, before, strict=True):
            lost = command["name"] if command["effects"][0].get("object") == item.id else ""
            assert item.name == ("" if lost == "add" else was["name"])
            assert item.color == was["color"] or lost == "describe"
            if last_masks[item.id] != number:
                assert ([list(click) for click in item.clicks], item.rle, item.position) == (was["clicks"], was["rle"], was["undoable"])


def test_a_repaired_picture_without_its_first_command_goes_on(make_client, folder, tmp_path):
    first, before = busy_server(make_client)
    log = tmp_path / "data" / "images" / first.rpartition("/")[2] / LOG
    log.write_bytes(b"#" + log.read_bytes()[1:])
    assert [row.lost for row in check(tmp_path / "data", folder)] == [True]
    client = make_client()
    after = client.get(first).json()
    assert (after["name"], after["objects"]) == ("0.png", before)
    taken_back = client.post(f"{first}/objects/1/undo").json()
    assert client.post(f"{first}/objects/1/redo").json()["rle"] == before[0]["rle"] != taken_back["rle"]
    client = make_client()
    assert [item["rle"] for item in client.get(first).json()["objects"]] == [item["rle"] for item in before]


@settings(max_examples=60, deadline=None)
@given(commands=st.lists(st.tuples(st.integers(1, 3), EDITS), max_size=8), data=st.data())
def test_any_damage_of_a_log_is_repaired_into_something_that_can_be_read(tmp_path_factory, commands, data):
    store = Store(tmp_path_factory.mktemp("log"))
    try:
        record = begun(store)
        for number, edit in commands:
            before = next((row for row in record.objects if row.id == number), ObjectRecord(number, "", "#000000", EMPTY))
            item = ObjectRecord(**{name: getattr(before, name) for name in before.__slots__} | edit)
            item.position = min(item.position, len(item.steps))
            record = put(store, record, item)
        path = store.place(IDENTITY) / LOG
        lines = path.read_bytes().splitlines(keepends=True)
        kinds = data.draw(st.lists(st.sampled_from(["kept", "kept", "gone", "broken", "twice"]), min_size=len(lines), max_size=len(lines)))
        path.write_bytes(b"".join({"kept": line, "gone": b"", "broken": b"x" + line, "twice": 2 * line}[kind] for line, kind in zip(lines, kinds, strict=True)))
        store.repair(IDENTITY, "a.png")
        found = store.read(IDENTITY)
        if found is None:
            assert not {"kept", "twice"} & set(kinds)
            return
        last = max((number for number, kind in enumerate(kinds, 1) if kind in ("kept", "twice")), default=0)
        assert found.revision == last
        if not {"gone", "broken"} & set(kinds):
            assert found.objects == record.objects
        if found.size != (0, 0):
            assert put(store, found, ObjectRecord(9, "new", "#000000", masks.encode_rle(np.zeros(found.size, bool)))).revision == last + 1
    finally:
        store.close()


def test_a_folder_that_is_moved_away_is_not_made_anew_and_goes_on_when_it_is_back(make_client, folder, tmp_path):
    client = make_client()
    first = f"/api/images/{client.get('/api/images').json()['images'][0]['id']}"
    client.post(f"{first}/objects", json={"name": "ball"})
    assert client.post(f"{first}/objects/1/clicks", json={"x": 60, "y": 45}).status_code == 200
    (tmp_path / "data").rename(tmp_path / "moved")
    refused = client.post(f"{first}/objects/1/clicks", json={"x": 30, "y": 45})
    assert refused.status_code == 507
    assert refused.json()["reason"] == "expected to save the change, got: No such file or directory"
    assert not (tmp_path / "data").exists()
    (tmp_path / "moved").rename(tmp_path / "data")
    assert len(client.post(f"{first}/objects/1/clicks", json={"x": 30, "y": 45}).json()["clicks"]) == 2


def test_a_damaged_picture_can_be_deleted(make_client, folder, tmp_path):
    first, place = damaged_server(make_client, folder, tmp_path / "data")
    broken_in_the_middle(place)
    client = make_client()
    assert client.delete(first).status_code == 204
    assert client.get(first).json()["objects"] == []
    assert client.post(f"{first}/objects", json={}).status_code == 201


def not_there(path: Path) -> None:
    path.unlink()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def json_inside(path: Path) -> None:
    """A sound container with broken JSON inside."""
    from safetensors.numpy import save

    path.write_bytes(save({"logits": np.zeros((1, 1, 4, 4), np.float32)}, {"format": "fretsaw-step-1", "step": "{"}))


def values_inside(path: Path) -> None:
    from safetensors.numpy import save

    step = {"clicks": [{"x": "a"}], "box": [1], "score": None, "instances": 3}
    path.write_bytes(save({"logits": np.zeros((1, 1, 4, 4), np.float32)}, {"format": "fretsaw-step-1", "step": json.dumps(step)}))


@pytest.mark.parametrize("damage", [not_there, cut_off, json_inside, values_inside])
@pytest.mark.parametrize("act", ["clicks", "undo", "reset", "preview"])
def test_an_interaction_that_cannot_be_read_costs_undo_and_nothing_else(make_client, folder, tmp_path, damage, act):
    first, place = damaged_server(make_client, folder, tmp_path / "data")
    damage(place / "steps" / "1-1")
    client = make_client()
    before = client.get(first).json()["objects"][0]
    body = {"x": 5, "y": 80, "positive": False, **({"object": 1} if act == "preview" else {})}
    reply = client.post(f"{first}/preview" if act == "preview" else f"{first}/objects/1/{act}", json=None if act in ("undo", "reset") else body)
    assert reply.status_code == 200, reply.text
    after = client.get(f"{first}/objects/1").json()
    assert after["undoable"] == {"clicks": 2, "undo": 0, "reset": 0, "preview": 1}[act]
    if act == "clicks":
        after = client.post(f"{first}/objects/1/undo").json()
    if act in ("clicks", "preview"):
        assert after["rle"] == before["rle"]
    assert client.post(f"{first}/objects/1/clicks", json={"x": 60, "y": 45}).status_code == 200


def test_records_of_earlier_versions_are_read_and_gone_on_with(make_client, folder, tmp_path):
    first, place = damaged_server(make_client, folder, tmp_path / "data")
    store = Store(tmp_path / "data")
    record = store.read(place.name)
    store.close()
    row = json.loads(IMAGE_RECORD.dump_json(record))
    del row["revision"]
    (place / LOG).unlink()
    (place / RECORD).write_text(json.dumps(row))
    client = make_client()
    assert client.get(first).json()["objects"][0]["clicks"] == [[60, 45, True], [30, 45, True]]
    assert client.post(f"{first}/objects/1/undo").json()["clicks"] == [[60, 45, True]]
    client = make_client()
    assert client.get(first).json()["objects"][0]["clicks"] == [[60, 45, True]]


# Owners


def test_a_second_server_on_a_folder_is_refused_by_name_and_touches_nothing(store, tmp_path):
    for name in ("exports", "incoming"):
        (tmp_path / "data" / name / "mine").write_bytes(b"kept")
    with pytest.raises(BusyError, match=f"a server \\(process {os.getpid()} on "):
        Store(tmp_path / "data")
    for name in ("exports", "incoming"):
        assert (tmp_path / "data" / name / "mine").read_bytes() == b"kept"
    with pytest.raises(BusyError):
        next(check(tmp_path / "data"))


def test_a_folder_is_free_when_its_server_ends(make_client, tmp_path):
    make_client()
    make_client().__exit__(None, None, None)
    Store(tmp_path / "data").close()


def test_damage_of_one_upload_keeps_the_picture(make_client, tmp_path):
    client = make_client()
    image = client.post("/api/images?name=mine.png", content=encode_image(photo(1), ".png")).json()["id"]
    client.__exit__(None, None, None)
    (tmp_path / "data" / "images" / image / LOG).write_bytes(b"\0" * 50)
    store = Store(tmp_path / "data")
    with pytest.raises(DamagedError):
        store.read(image)
    store.close()
    assert [row.lost for row in check(tmp_path / "data")] == [True]
    client = make_client()
    assert [row["damaged"] for row in client.get("/api/images").json()["images"] if row["uploaded"]] == [""]
    assert client.get(f"/api/images/{image}").json()["width"] == 120


def test_the_command_repairs_and_says_what_it_did(make_client, folder, tmp_path):
    runner, serve = CliRunner(), ["serve", str(folder), "--data", str(tmp_path / "data"), "--check"]
    _, place = damaged_server(make_client, folder, tmp_path / "data")
    clean = runner.invoke(cli.app, serve)
    assert (clean.exit_code, clean.output) == (0, "1 pictures with saved work, 0 of them damaged\n")
    (place / "steps" / "1-1").write_bytes(b"")
    steps = runner.invoke(cli.app, serve)
    assert steps.exit_code == 0
    assert steps.output.startswith("0.png: 1 interactions cannot be read; their objects keep their masks")
    broken_in_the_middle(place)
    broken = runner.invoke(cli.app, serve)
    assert broken.exit_code == 1
    assert "a broken line after command 1, with 2 sound ones behind it" in broken.output
    assert runner.invoke(cli.app, serve).exit_code == 0
