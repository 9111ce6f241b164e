"""One picture at work: its pixels, its embedding, its record in step with the disk, and how much memory all that takes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
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
        source: Returns where the picture's file lies; raises `NotHereError` where it does not any more.
        segmenter: The model.
        store: Where work is saved: after every command, before it is answered.
        settings: Limits.

    Attributes:
        record: The picture as it is after the last command; a new value after each.
        objects: What can be done with its objects.
        lock: Held while the record is read and changed; never while the encoder or an automatic cut is at work.
        generation: Grows when the file becomes another picture; what was computed for an earlier one does not count any more.
    """

    def __init__(self, record: ImageRecord, source: Callable[[], Path], segmenter: Segmenter, store: Store, settings: ServerSettings) -> None:
        self.record = record
        self.lock = threading.RLock()
        self.segmenter, self.store, self.settings = segmenter, store, settings
        self.objects = ObjectEdits(self)
        self.generation = 0
        self._source = source
        self._stamp: tuple[int, ...] = ()
        self._encoding = threading.Lock()
        self._forgotten = False
        self._image: np.ndarray | None = None
        self._root: tuple[int, Session] | None = None  # with its generation
        self._measured: tuple[ImageRecord, int] = (record, record.nbytes)

    @property
    def embedded(self) -> bool:
        """Whether the embedding is in memory, so that clicks are answered at once."""
        return self._known_root(self.generation) is not None

    @property
    def nbytes(self) -> int:
        """Memory that would come free if the picture left: its record, its pixels, what the model and the refiner have seen of it, and its histories."""
        # Without the lock, so that nobody waits for a click on another picture.
        record, image, root = self.record, self._image, self._known_root(self.generation)
        if record is not self._measured[0]:
            self._measured = record, record.nbytes
        return self._measured[1] + (image.nbytes if image is not None else 0) + (root.nbytes if root is not None else 0) + self.objects.nbytes

    @contextmanager
    def changing(self) -> Generator[None, None, None]:
        """Hold the picture while it is read or changed.

        Raises:
            NotHereError: If its work has been deleted meanwhile.
        """
        with self.lock:
            if self._forgotten:
                raise NotHereError("expected a picture that is here, got one that was deleted meanwhile")
            yield

    def pixels(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, read when it is first asked for; see `refresh`.

        Raises:
            ImageError: If the file is no picture.
        """
        with self.changing():
            return self._read() if self._image is None else self._image

    def refresh(self) -> bool:
        """Look whether the file is still the one that was read, and return whether it has become another picture.

        That one starts anew, or where it was left when it had this name before; the work on the one before is put away, and `record.notice` says so. While
        the file is gone, work goes on with what was read.

        Raises:
            ImageError: If the file has changed and is no picture now; nothing has changed then.
        """
        with self.changing():
            if self._image is None or self._stamp_of_source() in ((), self._stamp):
                return False
            before = self.generation
            self._read()
            return self.generation != before

    def _stamp_of_source(self) -> tuple[int, ...]:
        """Return what changes when the file is written or replaced; () where it is gone."""
        try:
            status = self._source().stat()
        except (NotHereError, OSError):
            return ()
        return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev

    def _read(self) -> np.ndarray:
        """Read the file and bring the record in step with it."""
        stamp = self._stamp_of_source()  # first: what is written meanwhile is noticed by the next request
        image = images.read_image(self._source(), self.settings.pixels)
        found, size, record = images.image_hash(image), (image.shape[0], image.shape[1]), self.record
        if record.hash != found and (record.hash or (record.objects and record.size != size)):
            self._replace(found, size)
        elif not record.hash:
            self._identify(found, size)
        if self._image is None:
            self._image = image
        self._stamp = stamp
        return self._image

    def view(self) -> Path:
        """Return the picture as a JPEG for the page, upright and in RGB whatever the original is."""
        path = self.store.place(self.record.id) / VIEW
        with self.changing():
            image = self.pixels()
            if not path.exists():
                self.store.keep_file(self.record.id, VIEW, images.encode_image(image, ".jpg"))
        return path

    def embed(self) -> Session:
        """Return a session without prompts, from which all objects' sessions branch off; the embedding comes from disk, or is computed and saved."""
        while True:
            with self.changing():
                generation, image = self.generation, self.pixels()
            path, computed = self.store.place(self.record.id) / EMBEDDING, False
            # A lock of its own: who looks at the picture or names an object need not wait for the encoder. Inside it nobody waits for `lock`, whose holder
            # may wait for this one.
            with self._encoding:
                root = self._known_root(generation)
                if root is None:
                    try:
                        root = self.segmenter.open(image, saved=path)
                        with suppress(OSError):
                            os.utime(path)
                    except StaleSessionError:
                        root, computed = self.segmenter.open(image), True
                    self._root = generation, root
            if computed:
                self._keep(root, path, generation)
            if self.generation == generation:
                return root

    def _known_root(self, generation: int) -> Session | None:
        known = self._root
        return known[1] if known is not None and known[0] == generation else None

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
            self.store.forget(self.record.id)  # where the disk refuses, the picture is still here
            self._forgotten = True
            self.let_go()

    def _replace(self, found: str, size: tuple[int, int]) -> None:
        """Put the work on another picture away, and take up what was done on this one when it had the name before."""
        before = self.record
        aside = self.store.set_aside(before)
        self.generation += 1
        self.let_go()
        sizes = f"{before.size[1]} x {before.size[0]} pixels before, {size[1]} x {size[0]} now"
        kept = f"the work on the one before ({_counted(before)}) is kept in {aside} and comes back when its file does"
        notice = f"the file of this picture has become another picture ({sizes}); {kept}"
        found_again = self.store.bring_back(before.id, found)
        if found_again is None:
            self.record = ImageRecord(before.id, before.name, before.uploaded, notice=notice)
            self._identify(found, size)
            return
        after = replace(found_again, notice=f"{notice}; this one was here earlier, and its work ({_counted(found_again)}) is back")
        command = self.store.commit(found_again, "replaced", {}, [picture_effect(found_again, after)])
        self.record = replace(after, revision=command.revision, changed=command.time)

    def _identify(self, found: str, size: tuple[int, int]) -> None:
        """Note which picture this is."""
        if not self.record.revision and (earlier := self.store.bring_back(self.record.id, found)) is not None:
            self.record = earlier
            return
        before, after = self.record, replace(self.record, hash=found, size=size)
        if before.revision or before.objects:
            command = self.store.commit(before, "open", {}, [picture_effect(before, after)])
        else:
            command = self.store.begin(after, "open")
        self.record = replace(after, revision=command.revision, changed=command.time)

    def _keep(self, root: Session, path: Path, generation: int) -> None:
        """Save an embedding, unless the picture was deleted or replaced while it was computed; a disk that is full costs time later, and no click."""
        received = self.store.incoming()
        try:
            if not received.parent.is_dir():
                raise OutputError("the server's folder was moved away or deleted")
            root.save(received)
            with self.changing():
                if generation == self.generation:
                    os.replace(received, path)
            self.store.trim_embeddings(self.settings.disk_bytes)
        except (OSError, OutputError) as error:
            LOGGER.warning("%s: its embedding could not be saved and will be computed again: %s", self.record.name, error)
        finally:
            received.unlink(missing_ok=True)


def _counted(record: ImageRecord) -> str:
    count = len(record.living)
    return f"{count} object{'' if count == 1 else 's'}"
