"""Tables of the converters' integral non-linearity: one for each channel, read whole and once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.detector import Window
from ..errors import InputError
from .arrays import FileArray
from .layout import Layout
from .opened import Cache

_tables = Cache(4)


@dataclass(frozen=True)
class Values:
    """An array that every task needs whole, whatever its window."""

    array: FileArray
    dtype: str | None

    def read(self, window: Window | None = None) -> np.ndarray:
        """All of it; the same array for all tasks of a process, which cannot be written to."""
        made: np.ndarray = _tables.get((self.array.path, self.array), self._make)
        return made

    def _make(self) -> np.ndarray:
        return _frozen(self.array.read().astype(self.dtype, copy=False))


@dataclass(frozen=True)
class ChannelTables:
    """Corrections of all channels as one array, (channels, values) float64, DN."""

    arrays: tuple[FileArray, ...]

    def read(self, window: Window | None = None) -> np.ndarray:
        """All of it; the same array for all tasks of a process, which cannot be written to."""
        made: np.ndarray = _tables.get((self.arrays[0].path, self.arrays), self._make)
        return made

    def _make(self) -> np.ndarray:
        return _frozen(np.stack([array.read() for array in self.arrays]).astype(np.float64))


def _frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def channel_tables(layout: Layout, n_channels: int) -> ChannelTables:
    """The corrections ``inl_table.science_channel_01``, 02, .. of a file.

    Raises
    ------
    InputError
        If a channel is missing, or is not one number for each of ``value``, or if ``value`` does
        not ascend.
    """
    place = f"{layout.path}: roman.inl_table"
    names = [f"science_channel_{i:02d}" for i in range(1, n_channels + 1)]
    found = {name: layout.array("roman", "inl_table", name, "correction") for name in names}
    missing = [name for name, array in found.items() if array is None]
    if missing:
        which = missing[0] if len(missing) == 1 else f"{missing[0]} and {len(missing) - 1} more"
        raise InputError(f"{place} has no correction of {which}, expected {n_channels} channels")
    value = layout.array("roman", "value")
    arrays = tuple(array for array in found.values() if array is not None)
    if value is None:
        return ChannelTables(arrays)  # that it is missing is said of `value` itself
    if (
        len(value.shape) != 1
        or value.shape[0] < 2
        or (np.diff(value.read().astype(float)) <= 0).any()
    ):
        raise InputError(f"{layout.path}: roman.value does not ascend, expected a list of readings")
    for name, array in zip(names, arrays, strict=True):
        if array.shape != value.shape or np.dtype(array.dtype).kind not in "iuf":
            raise InputError(
                f"{place}.{name}.correction has shape {array.shape} and type "
                f"{np.dtype(array.dtype)}, expected {value.shape} numbers, as roman.value has"
            )
    return ChannelTables(arrays)
