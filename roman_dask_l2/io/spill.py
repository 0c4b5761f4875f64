"""The TEMP store: intermediate cubes and images of noise layers, in a Zarr store of their own.

One store per run, under a name of its own, so that runs that share a TEMP do not meet. Only whole
chunks are ever written, each by one task, so no locks are needed; a chunk is written under a
temporary name and renamed.

New files are dear where memory is: their pages must be found, on a virtual machine asked for from
its host. So where all tasks run in this process, files of chunks that are not needed any more are
not removed but written over, by another array of the store or, within `stores_in_turn`, of the next
one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import Window
from ..errors import InputError
from ..system.files import NEW, NOT_THROUGH, named, write_new
from ..system.processes import OWNER, own
from ..system.stopping import unfinished
from .atomic import require_writable

log = logging.getLogger(__name__)

LAYERS_IN_FLIGHT = 3
"""Noise layers that are worked on at a time, and share each window of a reference: with more, less
is read for each, and more is in memory and on the disk."""

TRIES = 20
"""Attempts to empty a directory."""


class NotWritten(RuntimeError):
    """A chunk that should be there is not."""


@dataclass(frozen=True)
class Spilled:
    """One array of the store, as a source that tasks read by window.

    Zarr makes the array and its description; chunks, which are not compressed, are read and written
    here as the plain files that they are: through zarr a tile's image takes three times as long,
    and a window that touches three chunks reads all three.

    Attributes
    ----------
    store : str
        Path of the Zarr store.
    name : str
    shape, chunks : tuple of int
    dtype : str
    reuse : bool
        Chunks are written to files that others do not need any more, if there are any.
    """

    store: str
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    reuse: bool = False

    def read(self, window: Window | None = None, plane: int | None = None) -> np.ndarray:
        """A window of the last two axes, all of the first, or plane `plane` of it.

        Raises
        ------
        NotWritten
            If a chunk of it was never written (or was dropped): that is not the same as zero.
        """
        window = window or Window(0, self.shape[-2], 0, self.shape[-1])
        lead_shape = self.shape[:-2] if plane is None else ()
        out = np.empty((*lead_shape, *window.shape), self.dtype)
        ny, nx = self.chunks[-2:]
        pieces = []
        for iy in range(window.y0 // ny, -(-window.y1 // ny)):
            for ix in range(window.x0 // nx, -(-window.x1 // nx)):
                chunk = Window(iy * ny, iy * ny + ny, ix * nx, ix * nx + nx)
                both = chunk.intersection(window)
                assert both is not None
                start = both.y0 - chunk.y0, both.x0 - chunk.x0
                pieces.append(((iy, ix), start, both.within(window)))
        with self._opened() as store:
            for j, image in enumerate(out.reshape(-1, *window.shape), plane or 0):
                lead = (j,) if self.shape[:-2] else ()
                for place, start, within in pieces:
                    self._read_rows(store, (*lead, *place), *start, image[within])
        return out

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            with _opened(self.store) as store:
                yield store
        except FileNotFoundError:
            raise NotWritten(f"{self.store}: is not there") from None

    def _read_rows(
        self, store: int, index: tuple[int, ...], y: int, x: int, part: np.ndarray
    ) -> None:
        """Fill `part` from the chunk's row `y` and column `x` on."""
        width = self.chunks[-1]
        whole = part.shape[1] == width and part.flags.c_contiguous
        rows = part if whole else np.empty((part.shape[0], width), self.dtype)
        path = self._path(index)
        try:
            fd = os.open(path, os.O_RDONLY | NOT_THROUGH, dir_fd=store)
        except FileNotFoundError:
            raise NotWritten(f"{self.store}/{path}: chunk was not written") from None
        try:
            view, start = rows.data.cast("B"), y * width * rows.itemsize
            while len(view):
                n = os.preadv(fd, [view], start)
                if n == 0:
                    raise OSError(f"{self.store}/{path}: ends before byte {start + len(view)}")
                view, start = view[n:], start + n
        finally:
            os.close(fd)
        if not whole:
            part[:] = rows[:, x : x + part.shape[1]]

    def put(self, values: np.ndarray, window: Window, plane: int | None = None) -> None:
        """Write whole chunks: `values` on a window, of plane `plane` where there is a first axis.

        Each chunk is written under another name and renamed, as zarr does, so that a chunk that is
        there is whole.
        """
        ny, nx = self.chunks[-2:]
        values = np.asarray(values, self.dtype)
        lead = () if plane is None else (plane,)
        for y in range(window.y0, window.y1, ny):
            for x in range(window.x0, window.x1, nx):
                chunk = values[y - window.y0 :, x - window.x0 :][:ny, :nx]
                if chunk.shape != (ny, nx):  # at the frame's edge, where chunks are whole, too
                    part, chunk = chunk, np.zeros((ny, nx), self.dtype)
                    chunk[: part.shape[0], : part.shape[1]] = part
                self._write_chunk((*lead, y // ny, x // nx), np.ascontiguousarray(chunk))

    def _write_chunk(self, index: tuple[int, ...], chunk: np.ndarray) -> None:
        path = self._path(index)
        part_path = f"{path}.{uuid.uuid4().hex}.partial"
        try:
            with _opened(self.store) as store:
                new = self._new(store, part_path, chunk.nbytes)
                with named(self.store), open(new, "wb", buffering=0) as file:
                    view = chunk.data.cast("B")
                    while len(view):
                        view = view[file.write(view) :]
                os.replace(part_path, path, src_dir_fd=store, dst_dir_fd=store)
        except FileNotFoundError:
            raise NotWritten(f"{self.store}: {self.name} is not there any more") from None

    def _new(self, store: int, path: str, size: int) -> int:
        """A file of this name to write `size` bytes to."""
        if self.reuse:
            spare = _spares.take(self.store, size)
            if spare is not None:
                os.rename(spare, path, src_dir_fd=store, dst_dir_fd=store)
                return os.open(path, os.O_WRONLY | NOT_THROUGH, dir_fd=store)
        return os.open(path, NEW, 0o666, dir_fd=store)

    def _path(self, index: tuple[int, ...]) -> str:
        """File of a chunk in the store."""
        return os.path.join(self.name, _SEPARATOR.join(["c", *map(str, index)]))

    def spare(self, store: int) -> None:
        """Keep the files of the chunks for others, in the store's own folder of such files."""
        counts = [-(-n // size) for n, size in zip(self.shape, self.chunks, strict=True)]
        size = math.prod(self.chunks) * np.dtype(self.dtype).itemsize
        with contextlib.suppress(FileExistsError):
            os.mkdir(_SPARE, dir_fd=store)
        for index in np.ndindex(*counts):
            to = os.path.join(_SPARE, uuid.uuid4().hex)
            with contextlib.suppress(FileNotFoundError):  # never written
                os.rename(self._path(index), to, src_dir_fd=store, dst_dir_fd=store)
                _spares.give(self.store, size, to)


_SEPARATOR = "."
"""Of the names of chunks: no folder for each row of them, as folders take long to make."""
_SPARE = "spare"
"""Folder of files that may be written over."""


class _Spares:
    """Files of stores of this process that may be written over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[str, int], list[str]] = {}
        self._arrays: dict[str, list[Spilled]] = {}

    def made(self, spilled: Spilled) -> None:
        with self._lock:
            self._arrays.setdefault(spilled.store, []).append(spilled)

    def left(self, store: str) -> list[Spilled]:
        """Arrays that were made in a store since this was asked last."""
        with self._lock:
            return self._arrays.pop(store, [])

    def give(self, store: str, size: int, path: str) -> None:
        with self._lock:
            self._files.setdefault((store, size), []).append(path)

    def take(self, store: str, size: int) -> str | None:
        with self._lock:
            files = self._files.get((store, size))
            return files.pop() if files else None

    def bytes(self, store: str) -> int:
        """Of all files of a store."""
        with self._lock:
            return sum(size * len(f) for (s, size), f in self._files.items() if s == store)

    def move(self, store: str, to: str) -> None:
        """The store has another name."""
        with self._lock:
            for key in [key for key in self._files if key[0] == store]:
                self._files[to, key[1]] = self._files.pop(key)

    def forget(self, store: str) -> None:
        with self._lock:
            for key in [key for key in self._files if key[0] == store]:
                del self._files[key]
            self._arrays.pop(store, None)


_spares = _Spares()


@contextlib.contextmanager
def _opened(store: str) -> Iterator[int]:
    """A store: a directory, whatever else others may have put in its place."""
    folder = os.open(store, os.O_RDONLY | os.O_DIRECTORY | NOT_THROUGH)
    try:
        yield folder
    finally:
        os.close(folder)


def _put_whole(store: int, name: str, data: bytes) -> None:
    """A file of a store that is there as a whole or not at all, in place of what was there."""
    part = f"{name}.{uuid.uuid4().hex}.partial"
    write_new(part, data, store)
    os.replace(part, name, src_dir_fd=store, dst_dir_fd=store)


@dataclass(frozen=True)
class TempStore:
    """A Zarr store that lives as long as a run.

    Attributes
    ----------
    path : str
    reuse : bool
        All tasks run in this process: files of arrays that are dropped are written over.
    """

    path: str
    reuse: bool = False

    def create(
        self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str
    ) -> Spilled:
        """Make an array of which nothing is written yet.

        Zarr describes it in memory; it would follow what others have put in the store's place.
        """
        import zarr
        from zarr.codecs import BytesCodec
        from zarr.storage import MemoryStore

        files: dict[str, Any] = {}
        zarr.create_array(
            store=MemoryStore(files),
            name=name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            serializer=BytesCodec(endian=sys.byteorder),
            compressors=None,  # noise does not compress
            chunk_key_encoding={"name": "default", "separator": _SEPARATOR},
            fill_value=0,
        )
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        with _opened(self.path) as store:
            _remove(store, name)
            os.mkdir(name, dir_fd=store)
            for file, content in files.items():
                _put_whole(store, file, content.to_bytes())
        spilled = Spilled(self.path, name, shape, chunks, dtype, self.reuse)
        if self.reuse:
            _spares.made(spilled)
        return spilled

    def write_note(self, name: str, value: dict[str, Any]) -> None:
        """Keep a few words beside the arrays; they are there as a whole or not at all."""
        with _opened(self.path) as store:
            _put_whole(store, f"{name}.json", json.dumps(value).encode())

    def note(self, name: str) -> dict[str, Any] | None:
        """A note, None if it was never written."""
        flags = os.O_RDONLY | os.O_NONBLOCK | NOT_THROUGH
        try:
            with _opened(self.path) as store:
                file = os.open(f"{name}.json", flags, dir_fd=store)
        except FileNotFoundError:
            return None
        with open(file) as text:
            value: dict[str, Any] = json.load(text)
        return value

    def drop(self, spilled: Spilled) -> None:
        """Remove an array and give its space back, or keep its files for other arrays."""
        with contextlib.suppress(OSError), _opened(self.path) as store:
            if self.reuse:
                spilled.spare(store)
            _remove(store, spilled.name)


def _remove(store: int, name: str) -> None:
    """Remove an array from a store; links are not followed."""
    shutil.rmtree(name, ignore_errors=True, dir_fd=store)


def temp_place(temp: Path) -> tuple[Path, str]:
    """Directory and stem of the store for the configuration's TEMP."""
    if os.path.isdir(temp):
        return temp, "roman-dask-l2"
    return temp.parent, temp.stem  # the old style: a file name in a scratch directory


def _store_name(stem: str) -> str:
    return f"{stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}.zarr"


def check_temp(temp: Path, needed: int = 0, key: str = "NOISE.TEMP") -> None:
    """There must be a writable directory for a store, with `needed` bytes free; `key` is where the
    configuration names it.

    Raises
    ------
    InputError
    """
    folder, _ = temp_place(temp)
    require_writable(folder, f"{key}: {temp}")
    size = len(os.fsencode(_store_name(temp_place(temp)[1])))
    if size > os.pathconf(folder, "PC_NAME_MAX"):
        raise InputError(f"{key}: {temp}: the name is too long, expected a directory")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{key}: {folder}: too little disk space, {free / 1e6:.0f} MB free of the "
            f"{needed / 1e6:.0f} MB needed"
        )


class _Turns:
    """Stores that wait for the next ones in their directories."""

    def __init__(self) -> None:
        self._waiting: dict[Path, list[tuple[Path, contextlib.ExitStack]]] = {}

    def leave(self, folder: Path, path: Path) -> None:
        kept = contextlib.ExitStack()
        kept.enter_context(unfinished(path))
        self._waiting.setdefault(folder, []).append((path, kept))

    @contextlib.contextmanager
    def one(self, folder: Path) -> Iterator[Path | None]:
        """A store that waits in a directory, which then waits no more."""
        waiting = self._waiting.get(folder)
        path, kept = waiting.pop() if waiting else (None, contextlib.ExitStack())
        with kept:
            yield path

    def end(self) -> None:
        for folder in self._waiting:
            while self._waiting[folder]:
                with self.one(folder) as path:
                    assert path is not None
                    remove_store(path)


_turns: _Turns | None = None


@contextlib.contextmanager
def stores_in_turn() -> Iterator[None]:
    """Within the block, stores with `reuse` that follow one another in one directory hand on their
    files, until its end."""
    global _turns
    if _turns is not None:
        yield
        return
    turns = _turns = _Turns()
    try:
        yield
    finally:
        _turns = None
        turns.end()


def _taken_over(folder: Path, path: Path, needed: int) -> bool:
    """Whether `path` is now a store that was left for the next one in a directory, with files that
    are of use."""
    if _turns is None:
        return False
    while True:
        with _turns.one(folder) as before:
            if before is None:
                return False
            if _spares.bytes(str(before)) <= 2 * needed and before.is_dir():
                with contextlib.suppress(OSError):
                    before.rename(path)  # it tells whose it is
                    _spares.move(str(before), str(path))
                    return True
            remove_store(before)


@contextlib.contextmanager
def temp_store(
    temp: Path, needed: int, keep: bool = False, key: str = "NOISE.TEMP", reuse: bool = False
) -> Iterator[TempStore]:
    """A store under `temp` for the time of the block.

    Parameters
    ----------
    temp : Path
        A directory, or a file name whose directory is meant.
    needed : int
        Bytes that will be written at most at a time.
    keep : bool
        Leave the store behind, and say where.
    key : str
        Where the configuration names `temp`.
    reuse : bool
        All tasks run in this process, see `TempStore`.

    Raises
    ------
    InputError
        If the directory is missing or not writable, or has too little space.
    """
    folder, stem = temp_place(temp)
    reuse &= not keep
    path = folder / _store_name(stem)
    handed_on = False
    try:
        there = reuse and _taken_over(folder, path, needed)
        check_temp(temp, needed - _spares.bytes(str(path)), key)
        if not there:
            path.mkdir(0o700)
            if not keep:
                own(path)
        with contextlib.nullcontext() if keep else unfinished(path):
            yield TempStore(str(path), reuse)
        if reuse and _turns is not None:
            _clear(path)
            _turns.leave(folder, path)
            handed_on = True
    finally:
        if keep:
            log.info("intermediate results are kept in %s", path)
        elif not handed_on:
            remove_store(path)


def _clear(path: Path) -> None:
    """Remove all from a store but files that may be written over."""
    arrays = _spares.left(str(path))
    with _opened(str(path)) as store:
        for spilled in arrays:
            spilled.spare(store)
        for name in os.listdir(store):
            if name.endswith(".json") and name != "zarr.json":
                os.unlink(name, dir_fd=store)
            elif name not in (_SPARE, OWNER, "zarr.json"):
                _remove(store, name)


def remove_store(path: Path) -> None:
    """Remove a TEMP store, in which tasks of a failed run may still be at work.

    It gets another name first, so that they find nothing any more. Its owner's name goes last: if
    this process is killed meanwhile, the next run can tell that the rest is of no use. What others
    have put there, such as a link to another directory, is left alone.

    Parameters
    ----------
    path : Path
    """
    _spares.forget(str(path))
    away = path.with_name(f"{path.stem.rsplit('-', 1)[0]}-{uuid.uuid4().hex[:8]}.zarr")
    try:
        if path.is_symlink():
            return
        path.rename(away)
        store = os.open(away, os.O_RDONLY | os.O_DIRECTORY | NOT_THROUGH)
    except OSError:  # somebody else is removing it, or it is not ours to remove
        return
    try:
        for _ in range(TRIES):
            _empty(store)
            shutil.rmtree(away, ignore_errors=True)  # does not follow links either
            if not away.exists():
                break
            time.sleep(0.1)  # a file that was just being opened came in behind us
    finally:
        os.close(store)


def _empty(store: int) -> None:
    """Remove all but the owner's name from a directory that is open."""
    with contextlib.suppress(OSError), os.scandir(store) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, ignore_errors=True, dir_fd=store)
            elif entry.name != OWNER:
                os.unlink(entry.name, dir_fd=store)
