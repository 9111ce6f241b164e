"""The pictures at work, as many as memory holds; the others lie on disk and come back when they are asked for."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fretsaw import frames, images
from fretsaw.api import Segmenter
from fretsaw.server.gallery import Gallery
from fretsaw.server.heap import give_back
from fretsaw.server.open_picture import OpenPicture
from fretsaw.server.records import ImageRecord
from fretsaw.server.refusals import DamagedError, LimitError, NotHereError
from fretsaw.server.settings import ServerSettings
from fretsaw.server.store import ORIGINAL, Store
from fretsaw.server.workers import Lane, Workers

THUMBNAIL_SIDE = 256


@dataclass(frozen=True, slots=True)
class Summary:
    """What the list of pictures shows of one.

    Attributes:
        id: Of the picture.
        name: Its file's.
        uploaded: Whether it was.
        objects: How many living objects have a mask.
        names: Of the living objects.
        changed: Seconds since 1970.
        damaged: Why its work cannot be read, or "".
    """

    id: str
    name: str
    uploaded: bool
    objects: int = 0
    names: tuple[str, ...] = ()
    changed: float = 0.0
    damaged: str = ""


@dataclass(slots=True)
class _Encoding:
    """An embedding that is being computed or read.

    Attributes:
        future: Ends when the embedding is there.
        waiting: Requests that wait for it.
        opened: Whether somebody has opened the picture: it is computed then even if nobody waits.
    """

    future: Future[Any]
    waiting: int = 0
    opened: bool = False


class Sessions:
    """Finds pictures by id, keeps the recently used ones in memory and lets the others go.

    Attributes:
        evicted: How many pictures have left memory so far.
    """

    def __init__(self, segmenter: Segmenter, store: Store, gallery: Gallery, model: Workers, settings: ServerSettings) -> None:
        self.evicted = 0
        self._segmenter, self._store, self._gallery, self._model, self._settings = segmenter, store, gallery, model, settings
        self._pictures: OrderedDict[str, OpenPicture] = OrderedDict()
        self._encodings: dict[str, _Encoding] = {}
        self._summaries: dict[str, tuple[tuple[int, ...], Summary]] = {}
        self._users: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Memory of all pictures at work."""
        with self._lock:
            return sum(picture.nbytes for picture in self._pictures.values())

    def __len__(self) -> int:
        return len(self._pictures)

    @contextmanager
    def use(self, identity: str) -> Generator[OpenPicture, None, None]:
        """Give a picture for as long as the block runs; it does not leave memory meanwhile.

        Raises:
            NotHereError: If there is no such picture.
            DamagedError: If its saved work cannot be read.
        """
        with self._lock:
            picture = self._pictures.get(identity) or self._open(identity)
            self._pictures[identity] = picture
            self._pictures.move_to_end(identity)
            self._users[identity] = self._users.get(identity, 0) + 1
        try:
            yield picture
        finally:
            with self._lock:
                self._users[identity] -= 1
                if not self._users[identity]:
                    del self._users[identity]
                evicted = self._evict()
            if evicted:
                give_back()

    def is_ready(self, identity: str) -> bool:
        """Return whether a picture's embedding is in memory."""
        picture = self._pictures.get(identity)
        return picture is not None and picture.embedded

    def prepare(self, identity: str) -> None:
        """Queue the embedding of a picture that somebody has opened, once however many ask.

        Raises:
            QueueFullError: If the queue is full.
        """
        with self._lock:
            self._encoding(identity).opened = True

    @contextmanager
    def encoding(self, identity: str) -> Generator[Future[Any], None, None]:
        """Give the future of a picture's embedding to one who waits for it. When all who waited have left and nobody has opened the picture, it is dropped.

        Raises:
            QueueFullError: If the queue is full.
        """
        with self._lock:
            encoding = self._encoding(identity)
            encoding.waiting += 1
        try:
            yield encoding.future
        finally:
            with self._lock:
                encoding.waiting -= 1
                dropped = not encoding.waiting and not encoding.opened
            if dropped:
                encoding.future.cancel()  # has no effect once it has begun

    def _encoding(self, identity: str) -> _Encoding:
        """Return what computes a picture's embedding; the lock is held."""
        encoding = self._encodings.get(identity)
        if encoding is None or encoding.future.done():
            encoding = _Encoding(self._model.submit(lambda: self._embed(identity), Lane.SLOW))
            self._encodings[identity] = encoding
        return encoding

    def upload(self, received: Path, name: str) -> str:
        """Take a received file in, if it is a picture, and return its id.

        Raises:
            ImageError: If it is none, or too large.
            LimitError: If there are too many uploads.
        """
        try:
            images.read_image(received, self._settings.pixels)
            if sum(1 for _ in self._store.identities()) >= self._settings.uploads:
                raise LimitError(f"expected at most {self._settings.uploads} pictures with saved work; delete some")
            return self._store.keep_upload(received, name)
        finally:
            received.unlink(missing_ok=True)

    def forget(self, identity: str) -> None:
        """Delete an upload, or the work on a picture of the folder, readable or not. Clicks that wait for the picture are refused.

        Raises:
            NotHereError: If there is no such picture.
        """
        try:
            with self.use(identity) as picture:
                picture.forget()
                with self._lock:
                    if self._pictures.get(identity) is picture:
                        del self._pictures[identity]
        except DamagedError:
            with self._lock:  # nobody can have it open
                self._store.forget(identity)

    def thumbnail(self, identity: str) -> Path:
        """Return a small JPEG of a picture, made when it is first asked for."""
        source = self._source(identity)
        status = source.stat()
        key = hashlib.sha256(f"{identity} {status.st_mtime_ns} {status.st_size}".encode()).hexdigest()[:32]
        path = self._store.folder / "thumbnails" / f"{key}.jpg"
        if not path.exists():
            image = images.read_image(source, self._settings.pixels)
            scale = min(1.0, THUMBNAIL_SIDE / max(image.shape[:2]))
            small = frames.resize_image(image, max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
            self._store.keep_thumbnail(path.name, images.encode_image(small, ".jpg"))
        return path

    def _embed(self, identity: str) -> None:
        try:
            with self.use(identity) as picture:
                picture.refresh()
                picture.embed()
        finally:
            with self._lock:
                self._encodings.pop(identity, None)
            give_back()  # the encoder takes and frees many times what it leaves

    def _open(self, identity: str) -> OpenPicture:
        record = self._store.read(identity)
        self._source(identity)  # whether there is such a picture
        if record is None:
            record = ImageRecord(identity, self._gallery.name_of(identity) or "", uploaded=False)
        else:
            self._store.sweep_steps(record)
        return OpenPicture(record, lambda: self._source(identity), self._segmenter, self._store, self._settings)

    def _source(self, identity: str) -> Path:
        return self._store.place(identity) / ORIGINAL if self._store.is_upload(identity) else self._gallery.path_of(identity)

    def _evict(self) -> int:
        """Let the least recently used pictures go that nobody holds, and return how many went; all they know is on disk. The lock is held."""
        evicted = 0
        total = sum(picture.nbytes for picture in self._pictures.values())
        for identity in list(self._pictures)[:-1]:
            if total <= self._settings.memory_bytes:
                break
            if identity not in self._users:
                picture = self._pictures.pop(identity)
                total -= picture.nbytes
                picture.let_go()
                evicted += 1
        self.evicted += evicted
        return evicted

    def summaries(self) -> list[Summary]:
        """Return what the list shows of every picture with saved work, the served folder's first, in the order of its listing."""
        return [summary for identity in self._known() if (summary := self._summary(identity)) is not None]

    def records(self) -> Iterator[ImageRecord]:
        """Yield what is known about every picture whose saved work can be read, in the order of `summaries`."""
        for summary in self.summaries():
            if not summary.damaged and (record := self._store.read_only(summary.id)) is not None:
                yield record

    def _known(self) -> list[str]:
        listed = [entry.id for entry in self._gallery.entries()]
        known = set(self._store.identities())
        others = sorted(identity for identity in known - set(listed) if self._store.is_upload(identity))
        return [identity for identity in listed if identity in known] + others

    def _summary(self, identity: str) -> Summary | None:
        """Return a summary, read again only where the picture's files have changed; None where it was deleted meanwhile."""
        stamp = self._store.stamp(identity)
        known = self._summaries.get(identity)
        if known is not None and known[0] == stamp:
            return known[1]
        name, uploaded = self._gallery.name_of(identity), self._store.is_upload(identity)
        try:
            record = self._store.read_only(identity)
        except DamagedError as error:
            summary = Summary(identity, name or f"picture-{identity[:8]}", uploaded, damaged=str(error))
        else:
            if record is None:
                return None
            names = tuple(item.name for item in record.living)
            summary = Summary(identity, record.name, uploaded, sum(item.area > 0 for item in record.living), names, record.changed)
        self._summaries[identity] = (stamp, summary)
        return summary

    def record(self, identity: str) -> ImageRecord:
        """Return what the disk knows about a picture, without reading it.

        Raises:
            NotHereError: If there is no such picture.
            DamagedError: If its saved work cannot be read.
        """
        record = self._store.read_only(identity)
        if record is None:
            name = self._gallery.name_of(identity)
            if name is None:
                raise NotHereError("expected a picture of the served folder or an upload, got an id of neither")
            record = ImageRecord(identity, name, uploaded=False)
        return record
