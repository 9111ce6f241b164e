"""One picture at work: its pixels, its embedding, its record in step with the disk, and how much memory all that takes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fretsaw import images
from fretsaw.api import Segmenter
from fretsaw.errors import OutputError, StaleSessionError
from fretsaw.server.changes import object_effect, picture_effect
from fretsaw.server.object_edits import ObjectEdits
from fretsaw.server.records import ImageRecord, ObjectRecord
from fretsaw.server.refusals import NotHereError
from fretsaw.server.settings import ServerSettings
from fretsaw.server.store import EMBEDDING, VIEW, Store
from fretsaw.session import Session

LOGGER = logging.getLogger("fretsaw.server")


class OpenPicture:
    """A picture and what the model knows of it. Methods may be called from several threads; they wait for each other.

    Args:
        record: What the disk knows.
        source: The picture's file.
        segmenter: The model.
        store: Where work is saved: after every command, before it is answered.
        settings: Limits.

    Attributes:
        record: The picture as it is after the last command; a new value after each.
        objects: What can be done with its objects.
        lock: Held while the record is read and changed; never while the encoder or an automatic cut is at work.
    """

    def __init__(self, record: ImageRecord, source: Path, segmenter: Segmenter, store: Store, settings: ServerSettings) -> None:
        self.record = record
        self.lock = threading.RLock()
        self.segmenter, self.store, self.settings = segmenter, store, settings
        self.objects = ObjectEdits(self)
        self._source = source
        self._encoding = threading.Lock()
        self._forgotten = False
        self._image: np.ndarray | None = None
        self._root: Session | None = None
        self._measured: tuple[ImageRecord, int] = (record, record.nbytes)

    @property
    def embedded(self) -> bool:
        """Whether the embedding is in memory, so that clicks are answered at once."""
        return self._root is not None

    @property
    def nbytes(self) -> int:
        """Memory that would come free if the picture left: its record, its pixels, what the model and the refiner have seen of it, and its histories."""
        # Without the lock, so that nobody waits for a click on another picture.
        record, image, root = self.record, self._image, self._root
        if record is not self._measured[0]:
            self._measured = record, record.nbytes
        return self._measured[1] + (image.nbytes if image is not None else 0) + (root.nbytes if root is not None else 0) + self.objects.nbytes

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the picture while it is read or changed.

        Raises:
            NotHereError: If its work has been deleted meanwhile.
        """
        with self.lock:
            if self._forgotten:
                raise NotHereError("expected a picture that is here, got one that was deleted meanwhile")
            yield

    def pixels(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, read when it is first asked for.

        A file that has become another picture starts anew: the work on the one before is put away.

        Raises:
            ImageError: If the file is no picture.
        """
        with self.changing():
            if self._image is None:
                image = images.read_image(self._source, self.settings.pixels)
                found = images.image_hash(image)
                if self.record.hash and self.record.hash != found:
                    self.store.set_aside(self.record)
                    self.objects.forget()
                    self.record = ImageRecord(self.record.id, self.record.name, self.record.uploaded)
                if not self.record.hash:
                    self._identify(found, (image.shape[0], image.shape[1]))
                self._image = image
            return self._image

    def view(self) -> Path:
        """Return the picture as a JPEG for the page, upright and in RGB whatever the original is."""
        path = self.store.place(self.record.id) / VIEW
        with self.changing():
            image = self.pixels()
            if not path.exists():
                images.write_bytes(path, images.encode_image(image, ".jpg"), mode=0o600)
        return path

    def embed(self) -> Session:
        """Return a session without prompts, from which all objects' sessions branch off; the embedding comes from disk, or is computed and saved."""
        image = self.pixels()
        # A lock of its own: who looks at the picture or names an object need not wait for the encoder.
        with self._encoding:
            if self._root is None:
                path = self.store.place(self.record.id) / EMBEDDING
                try:
                    root = self.segmenter.open(image, saved=path)
                    os.utime(path)
                except StaleSessionError:
                    root = self.segmenter.open(image)
                    self._keep(root, path)
                self._root = root
            return self._root

    def commit(self, name: str, arguments: Mapping[str, Any], *changes: tuple[ObjectRecord | None, ObjectRecord]) -> None:
        """Write a command to the log and then change the record; where the disk refuses, nothing has changed.

        Args:
            name: Of the command, for example "click".
            arguments: With what; small, for people to read.
            changes: Each changed object before, None where it is new, and after.

        Raises:
            OutputError: If the disk refuses.
            StaleSessionError: If somebody else has written the log.
        """
        effects = [object_effect(before, after) for before, after in changes]
        command = self.store.commit(self.record, name, arguments, effects)
        rows = {item.id: item for item in self.record.objects} | {after.id: after for _, after in changes}
        self.record = replace(self.record, objects=list(rows.values()), revision=command.revision, changed=command.time)
        try:
            self.store.keep_record(self.record)
        except OutputError as error:  # the log says it all; only the next opening is slower
            LOGGER.warning("%s: its record could not be written beside its log: %s", self.record.name, error)

    def let_go(self) -> None:
        """Free what the picture holds in memory; picture and objects refer to each other, so that Python alone would free it much later."""
        self._root = self._image = None
        self.objects.forget()

    def forget(self) -> None:
        """Delete the work on the picture, and its file if it was uploaded; whatever still waits for the picture is refused."""
        with self.changing():
            self._forgotten = True
            self.store.forget(self.record.id)
            self.let_go()

    def _identify(self, found: str, size: tuple[int, int]) -> None:
        """Note which picture this is."""
        before, after = self.record, replace(self.record, hash=found, size=size)
        if before.revision or before.objects:
            command = self.store.commit(before, "open", {}, [picture_effect(before, after)])
        else:
            command = self.store.begin(after, "open")
        self.record = replace(after, revision=command.revision, changed=command.time)

    def _keep(self, root: Session, path: Path) -> None:
        """Save an embedding, unless the picture was deleted while it was computed; a disk that is full costs time later, and no click."""
        received = self.store.incoming()
        try:
            root.save(received)
            with self.changing():
                os.replace(received, path)
            self.store.trim_embeddings(self.settings.disk_bytes)
        except (OSError, OutputError) as error:
            LOGGER.warning("%s: its embedding could not be saved and will be computed again: %s", self.record.name, error)
        finally:
            received.unlink(missing_ok=True)
