"""The TEMP store: intermediate cubes and images of noise layers, in a Zarr store of their own.

One store per run, under a name of its own, so that runs that share a TEMP do not meet. Only whole
chunks are ever written, each by one task, so no locks are needed; a chunk is written under a
temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import CHANNEL_WIDTH, Window
from ..errors import InputError
from ..system.files import NEW, NOT_THROUGH, named, write_new
from ..system.processes import OWNER, own
from ..system.stopping import unfinished
from .atomic import require_writable

log = logging.getLogger(__name__)

LAYERS_IN_FLIGHT = 3
"""Noise layers that are worked on at a time, and share each window of a reference: with more, less
is read for each, and more is in memory and on the disk."""

STRIP = 4 * CHANNEL_WIDTH
"""Columns of a chunk of a noisy ramp, which is made strip by strip: whole channels, whose noise
runs through all rows."""
STRIP_ROWS = 512
"""Rows of a chunk of what it is made from, which is written row by row and read strip by strip."""
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
    """

    store: str
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str

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
                try:
                    new = os.open(part_path, NEW, 0o666, dir_fd=store)
                except FileNotFoundError:
                    self._make_folders(index, store)
                    new = os.open(part_path, NEW, 0o666, dir_fd=store)
                with named(self.store), open(new, "wb", buffering=0) as file:
                    view = chunk.data.cast("B")
                    while len(view):
                        view = view[file.write(view) :]
                os.replace(part_path, path, src_dir_fd=store, dst_dir_fd=store)
        except FileNotFoundError:
            raise NotWritten(f"{self.store}: {self.name} is not there any more") from None

    def _make_folders(self, index: tuple[int, ...], store: int) -> None:
        """One level at a time, beginning in the array: a task that outlives a failed run must not
        bring its store back."""
        folder = self.name
        for part in ("c", *map(str, index[:-1])):
            folder = os.path.join(folder, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, dir_fd=store)

    def _path(self, index: tuple[int, ...]) -> str:
        """File of a chunk in the store, as zarr's default names it."""
        return os.path.join(self.name, "c", *map(str, index))


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
    """

    path: str

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
            fill_value=0,
        )
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        with _opened(self.path) as store:
            _remove(store, name)
            os.mkdir(name, dir_fd=store)
            for file, content in files.items():
                _put_whole(store, file, content.to_bytes())
        return Spilled(self.path, name, shape, chunks, dtype)

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
        """Remove an array and give its space back."""
        with contextlib.suppress(OSError), _opened(self.path) as store:
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


@contextlib.contextmanager
def temp_store(
    temp: Path, needed: int, keep: bool = False, key: str = "NOISE.TEMP"
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

    Raises
    ------
    InputError
        If the directory is missing or not writable, or has too little space.
    """
    check_temp(temp, needed, key)
    folder, stem = temp_place(temp)
    path = folder / _store_name(stem)
    path.mkdir(0o700)
    try:
        if not keep:
            own(path)
        with contextlib.nullcontext() if keep else unfinished(path):
            yield TempStore(str(path))
    finally:
        if keep:
            log.info("intermediate results are kept in %s", path)
        else:
            remove_store(path)


def remove_store(path: Path) -> None:
    """Remove a TEMP store, in which tasks of a failed run may still be at work.

    It gets another name first, so that they find nothing any more. Its owner's name goes last: if
    this process is killed meanwhile, the next run can tell that the rest is of no use. What others
    have put there, such as a link to another directory, is left alone.

    Parameters
    ----------
    path : Path
    """
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
