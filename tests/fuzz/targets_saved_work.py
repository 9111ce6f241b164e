"""Targets: what lies in a server's folder, its log and its record: read, or refused as damaged and repaired into something that can be read."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw import masks
from fretsaw.server import picture_log
from fretsaw.server.changes import Command, object_effect, picture_effect
from fretsaw.server.records import IMAGE_RECORD, ImageRecord, ObjectRecord
from fretsaw.server.refusals import DamagedError
from fretsaw.server.store import LOG, RECORD, Store
from fretsaw.types import Stroke

from .harness import Refused, Target
from .mutations import mutate_bytes, mutate_tree, seeded

IDENTITY = "0" * 24
SIZE = (6, 9)


def sound_work(rng: random.Random) -> tuple[list[Command], ImageRecord]:
    """Return some commands on a picture, and its record after them."""
    record = ImageRecord(IDENTITY, "a.png", True, "00", SIZE)
    commands = [Command(1, 1.0, "", "upload", {}, [picture_effect(None, record)])]
    rows: dict[int, ObjectRecord] = {}
    for number in range(2, rng.randrange(3, 12)):
        key = rng.randrange(1, 4)
        before = rows.get(key)
        item = before or ObjectRecord(key, "cat", "#000000", masks.encode_rle(np.zeros(SIZE, bool)))
        if before is not None:
            mask = np.zeros(SIZE, bool)
            mask[: rng.randrange(6), : rng.randrange(9)] = True
            steps, clicks = [*item.steps, f"{key}-{number}"], [*item.clicks, (1.5, 2.0, rng.random() < 0.5)]
            lines = [*item.scribbles, Stroke(((1.0, 1.0), (3.0, 2.0)))] if rng.random() < 0.3 else item.scribbles
            now = {"steps": steps, "position": len(steps), "clicks": clicks, "scribbles": lines, "rle": masks.encode_rle(mask), "revision": item.revision + 1}
            item = replace(item, **now) if rng.random() < 0.7 else replace(item, name=rng.choice(["dog", "", "猫"]), hidden=rng.random() < 0.5)
        commands.append(Command(number, float(number), "Ada", "click", {}, [object_effect(before, item)]))
        rows[key] = item
    return commands, replace(record, objects=list(rows.values()), revision=len(commands), changed=float(len(commands)))


def line(row: Any) -> bytes:
    text = json.dumps(row).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def log_file(rng: random.Random) -> dict[str, bytes]:
    """A log some of whose lines are broken, gone, doubled, moved, or sound with other values in them."""
    commands, _ = sound_work(rng)
    lines: list[bytes] = []
    for command in commands:
        whole, action = picture_log._line(command), rng.randrange(12)
        if action == 0:
            lines.append(mutate_bytes(rng, whole))
        elif action < 3:
            lines.append(line(mutate_tree(rng, json.loads(whole.partition(b" ")[2]), rng.choice([1, 1, 2]))))
        elif action != 3:
            lines += [whole] * (2 if action == 4 else 1)
    if rng.random() < 0.1:
        rng.shuffle(lines)
    return {LOG: b"".join(lines)[: None if rng.random() < 0.8 else rng.randrange(10, 400)]}


def record_file(rng: random.Random) -> dict[str, bytes]:
    """A record, mostly with a checksum that fits, before the log goes on or without one."""
    commands, record = sound_work(rng)
    whole = b"".join(map(picture_log._line, commands))
    row = mutate_tree(rng, json.loads(IMAGE_RECORD.dump_json(record)), rng.choice([0, 1, 1, 2]))
    text = json.dumps(row).encode()
    start = rng.choice([len(whole)] * 4 + [0, 7, 10**6, -1])
    content = b'{"log_bytes":%d,"checksum":"%08x","record":%s}' % (start, zlib.crc32(text), text)
    if rng.random() < 0.15:
        content = text if rng.random() < 0.5 else mutate_bytes(rng, content)
    return {RECORD: content} | ({LOG: whole} if rng.random() < 0.8 else {})


def saved_work(files: dict[str, bytes], folder: Path) -> bool:
    data = folder / "data"
    store = Store(data)
    try:
        place = store.place(IDENTITY)
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
        past = any(picture_log.sound(place / LOG)[0]) if LOG in files else False
        try:
            record = store.read(IDENTITY)
        except DamagedError as error:
            said, _ = store.repair(IDENTITY, "a.png")
            assert said.isprintable(), said
            repaired = store.read(IDENTITY)  # raises where the repair has left something that cannot be read
            if repaired is not None:
                store.commit(repaired, "test", {}, [])
                assert store.read(IDENTITY) is not None
            raise Refused(past_header=past or repaired is not None) from error
        if record is not None:
            store.commit(record, "test", {}, [])
            again = store.read(IDENTITY)
            assert again is not None
            assert again.objects == record.objects
        return record is not None
    finally:
        store.close()
        shutil.rmtree(data, ignore_errors=True)


COVERS = tuple(f"fretsaw.server.{name}" for name in ("picture_log", "changes", "salvage"))
TARGETS = [
    Target("picture-log", seeded(log_file), saved_work, COVERS),
    Target("picture-record", seeded(record_file), saved_work, COVERS),
]
