"""The TEMP store: intermediate cubes and images of noise layers, in a Zarr store of their own.

One store per run, under a name of its own, so that runs that share a TEMP do not meet. Only whole
chunks are ever written, each by one task, so no locks are needed; zarr writes a chunk under a
temporary name and renames it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..detector import Window
from ..errors import InputError
from .atomic import require_writable

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Noise layers that are worked on at a time: the next one's cube is made while this one is
finished."""


@dataclass(frozen=True)
class Spilled:
    """One array of the store, as a source that tasks read by window.

    Attributes
    ----------
    store : str
        Path of the Zarr store.
    name : str
    """

    store: str
    name: str

    def open(self) -> Any:
        """The Zarr array."""
        import zarr

        with zarr.config.set({"array.write_empty_chunks": True}):
            return zarr.open_array(self.store, path=self.name, mode="r+")

    def read(self, window: Window | None = None) -> np.ndarray:
        """A window of the last two axes, all of the first.

        Raises
        ------
        RuntimeError
            If a chunk of it was never written: that is not the same as zero.
        """
        array: Any = self.open()
        window = window or Window(0, array.shape[-2], 0, array.shape[-1])
        ranges = [range(-(-n // c)) for n, c in zip(array.shape[:-2], array.chunks, strict=False)]
        ny, nx = array.chunks[-2:]
        ranges += [range(window.y0 // ny, -(-window.y1 // ny))]
        ranges += [range(window.x0 // nx, -(-window.x1 // nx))]
        folder = Path(self.store) / self.name / "c"
        for index in itertools.product(*ranges):
            if not folder.joinpath(*map(str, index)).is_file():
                raise RuntimeError(f"{folder}: chunk {index} was not written")
        return np.asarray(array[(..., *window.slices)])

    def put(self, values: np.ndarray, window: Window) -> None:
        """Write one tile of an image."""
        self[window.slices] = values

    def __setitem__(self, place: Any, values: np.ndarray) -> None:
        """Write whole chunks."""
        self.open()[place] = values


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
        """Make an array of which nothing is written yet."""
        import zarr

        zarr.create_array(
            store=self.path,
            name=name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            compressors=None,  # noise does not compress
            fill_value=0,
            overwrite=True,
        )
        return Spilled(self.path, name)

    def drop(self, spilled: Spilled) -> None:
        """Remove an array and give its space back."""
        shutil.rmtree(Path(self.path) / spilled.name, ignore_errors=True)


def temp_place(temp: Path) -> tuple[Path, str]:
    """Directory and stem of the store for the configuration's TEMP."""
    if temp.is_dir():
        return temp, "roman-dask-l2"
    return temp.parent, temp.stem  # the old style: a file name in a scratch directory


def check_temp(temp: Path, needed: int = 0) -> None:
    """There must be a writable directory for the configuration's TEMP, with `needed` bytes free.

    Raises
    ------
    InputError
    """
    folder, _ = temp_place(temp)
    require_writable(folder, f"NOISE.TEMP: {temp}")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"NOISE.TEMP: {folder}: too little disk space, {free / 1e6:.0f} MB free of the "
            f"{needed / 1e6:.0f} MB needed"
        )


@contextlib.contextmanager
def temp_store(temp: Path, needed: int, keep: bool = False) -> Iterator[TempStore]:
    """A store under `temp` for the time of the block.

    Parameters
    ----------
    temp : Path
        A directory, or a file name whose directory is meant.
    needed : int
        Bytes that will be written at most at a time.
    keep : bool
        Leave the store behind, and say where.

    Raises
    ------
    InputError
        If the directory is missing or not writable, or has too little space.
    """
    check_temp(temp, needed)
    folder, stem = temp_place(temp)
    path = folder / f"{stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}.zarr"
    path.mkdir()
    try:
        yield TempStore(str(path))
    finally:
        if keep:
            log.warning("intermediate results are kept in %s", path)
        else:
            shutil.rmtree(path, ignore_errors=True)
