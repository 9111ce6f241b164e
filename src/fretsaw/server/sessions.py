"""The pictures at work, as many as memory holds; the others lie on disk and come back when they are asked for."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from fretsaw import frames, images
from fretsaw.api import Segmenter
from fretsaw.server.gallery import Gallery
from fretsaw.server.pieces import Piece
from fretsaw.server.refusals import LimitError, NotHereError
from fretsaw.server.settings import Settings
from fretsaw.server.store import ImageRecord, Store
from fretsaw.server.workers import Lane, Workers

THUMBNAIL_SIDE = 256


class Sessions:
    """Finds pictures by id, keeps the recently used ones in memory and lets the others go.

    Attributes:
        evicted: How many pictures have left memory so far.
        encoding: Futures of embeddings that are being computed or read, by picture.
    """

    def __init__(self, segmenter: Segmenter, store: Store, gallery: Gallery, model: Workers, settings: Settings) -> None:
        self.evicted = 0
        self.encoding: dict[str, Future] = {}
        self._segmenter, self._store, self._gallery, self._model, self._settings = segmenter, store, gallery, model, settings
        self._pieces: OrderedDict[str, Piece] = OrderedDict()
        self._users: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Memory of all pictures at work."""
        with self._lock:
            return sum(piece.nbytes for piece in self._pieces.values())

    def __len__(self) -> int:
        return len(self._pieces)

    @contextmanager
    def use(self, identity: str) -> Iterator[Piece]:
        """Give a picture for as long as the block runs; it does not leave memory meanwhile.

        Raises:
            NotHereError: If there is no such picture.
        """
        with self._lock:
            piece = self._pieces.get(identity) or self._piece(identity)
            self._pieces[identity] = piece
            self._pieces.move_to_end(identity)
            self._users[identity] = self._users.get(identity, 0) + 1
        try:
            yield piece
        finally:
            with self._lock:
                self._users[identity] -= 1
                if not self._users[identity]:
                    del self._users[identity]
                self._evict()

    def is_ready(self, identity: str) -> bool:
        """Return whether a picture's embedding is in memory."""
        piece = self._pieces.get(identity)
        return piece is not None and piece.embedded

    def prepare(self, identity: str) -> Future:
        """Queue the embedding of a picture, once however many ask; returns its future.

        Raises:
            BusyError: If the queue is full.
        """
        with self._lock:
            future = self.encoding.get(identity)
            if future is not None and not future.done():
                return future
            future = self._model.submit(lambda: self._embed(identity), Lane.SLOW)
            self.encoding[identity] = future
        future.add_done_callback(lambda _: self.encoding.pop(identity, None))
        return future

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
        """Delete an upload, or the work on a picture of the folder.

        Raises:
            NotHereError: If there is no such picture.
        """
        with self.use(identity) as piece, piece.lock:
            self._store.forget(identity)
            with self._lock:
                self._pieces.pop(identity, None)

    def thumbnail(self, identity: str) -> Path:
        """Return a small JPEG of a picture, made when it is first asked for."""
        source = self._source(identity, self._store.read(identity))
        status = source.stat()
        key = hashlib.sha256(f"{identity} {status.st_mtime_ns} {status.st_size}".encode()).hexdigest()[:32]
        path = self._store.folder / "thumbnails" / f"{key}.jpg"
        if not path.exists():
            image = images.read_image(source, self._settings.pixels)
            scale = min(1.0, THUMBNAIL_SIDE / max(image.shape[:2]))
            small = frames.resize_image(image, max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
            images.write_bytes(path, images.encode_image(small, ".jpg"))
        return path

    def _embed(self, identity: str) -> None:
        with self.use(identity) as piece:
            piece.embed()

    def _piece(self, identity: str) -> Piece:
        record = self._store.read(identity)
        source = self._source(identity, record)
        if record is None:
            record = ImageRecord(identity, self._gallery.name_of(identity) or "", uploaded=False)
        else:
            self._store.sweep_steps(record)
        return Piece(record, source, self._segmenter, self._store, self._settings)

    def _source(self, identity: str, record: ImageRecord | None) -> Path:
        if record is not None and record.uploaded:
            return self._store.place(identity) / "original"
        return self._gallery.path_of(identity)

    def _evict(self) -> None:
        """Let the least recently used pictures go that nobody holds; all they know is on disk."""
        total = sum(piece.nbytes for piece in self._pieces.values())
        for identity in list(self._pieces)[:-1]:
            if total <= self._settings.memory_bytes:
                return
            if identity not in self._users:
                total -= self._pieces.pop(identity).nbytes
                self.evicted += 1

    def records(self) -> Iterator[ImageRecord]:
        """Yield what is known about every picture with saved work, the served folder's first, in the order of its listing."""
        listed = [entry.id for entry in self._gallery.entries()]
        known = set(self._store.identities())
        others = sorted(known - set(listed))
        for identity in [identity for identity in listed if identity in known] + others:
            record = self._store.read(identity)
            if record is not None and (record.uploaded or identity in listed):
                yield record

    def record(self, identity: str) -> ImageRecord:
        """Return what the disk knows about a picture, without reading it.

        Raises:
            NotHereError: If there is no such picture.
        """
        record = self._store.read(identity)
        if record is None:
            name = self._gallery.name_of(identity)
            if name is None:
                raise NotHereError("expected a picture of the served folder or an upload, got an id of neither")
            record = ImageRecord(identity, name, uploaded=False)
        return record
