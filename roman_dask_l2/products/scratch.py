"""Where a calibration puts corrections that are too large for the memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config.model import Config
from ..core.exposure import Exposure
from ..core.step import BoundStep
from ..engine.spilling import spill_bytes
from ..io.spill import TempStore, check_temp, temp_place, temp_store


def scratch_place(config: Config) -> tuple[Path, str]:
    """Path of the store without what makes it unique, and the key of the configuration that names
    its directory.

    The store's name tells the exposure, so that what a killed process leaves can be found.
    """
    folder, key = config.OUT.parent, "OUT"
    if config.TEMP is not None:
        folder, key = config.TEMP, "TEMP"
    elif config.NOISE is not None:
        there = temp_place(config.NOISE.TEMP)[0]
        # It may exist only on the machine that makes the noise layers.
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            folder, key = there, "NOISE.TEMP"
    digest = hashlib.blake2b(os.path.realpath(config.OUT).encode(), digest_size=4).hexdigest()
    return folder / f"{config.OUT.stem[:60]}-{digest}-corrections", key


def scratch_needed(steps: Sequence[BoundStep], exposure: Exposure) -> int:
    """Bytes that the corrections of a recipe take on disk."""
    return sum(spill_bytes(bound, exposure) for bound in steps)


def check_scratch(config: Config, steps: Sequence[BoundStep], exposure: Exposure) -> None:
    """There must be a place for the corrections, if the recipe has any.

    Raises
    ------
    InputError
    """
    if needed := scratch_needed(steps, exposure):
        place, key = scratch_place(config)
        check_temp(place, needed, key)


@contextlib.contextmanager
def scratch_store(
    config: Config, steps: Sequence[BoundStep], exposure: Exposure
) -> Iterator[TempStore | None]:
    """A store for the corrections for the time of the block; None if the recipe has none.

    Raises
    ------
    InputError
        If its directory is missing or not writable, or has too little space.
    """
    needed = scratch_needed(steps, exposure)
    if not needed:
        yield None
        return
    place, key = scratch_place(config)
    with temp_store(place, needed, key=key) as store:
        yield store
