"""Adding up the parts of a noise layer, and writing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.noise_commands.command import ActsOn
from ..config.noise_labels import Layer
from ..core.detector import BORDER, Window
from ..core.exposure import Exposure
from ..core.median import quartiles
from ..io.arrays import Placed
from ..io.blocks import Block
from ..io.spill import Spilled, TempStore
from ..steps.common import all_finite
from ..system.processes import give_back
from .base_ramp import DO_NOT_USE
from .block_noise import WithoutDraw
from .noise_commands.drawing import SIGMA, Limits, RampNoise, SumChange
from .noise_commands.registry import DRAWINGS

BAND_ROWS = 256
"""Rows that are worked on at a time where a task makes a whole image."""


def note_name(index: int) -> str:
    """Name of the note that a layer is finished."""
    return f"finished-{index}"


@dataclass(frozen=True)
class LayerParts:
    """Images that a layer is added up from, in the store.

    Attributes
    ----------
    noisy, base : Spilled or None
        Image of the noisy ramp, and of the ramp without noise.
    drawn : Spilled or None
        Noise that was drawn in blocks.
    flags : Placed or None
        Of the L2 image: pixels with DO_NOT_USE are left out of statistics. None: none is.
    rate : Placed or None
        Rate of the L2 image: a pixel that has none has no noise either, and is left out of
        statistics. None: the ramp fit gives every pixel a rate.
    """

    noisy: Spilled | None
    base: Any
    drawn: Spilled | None
    flags: Placed | None
    rate: Placed | None = None


def finish_layer(
    layer: Layer,
    parts: LayerParts,
    place: tuple[int, list[Block]],
    exposure: Exposure,
    store: TempStore,
    temporaries: Sequence[Spilled],
    results: list[Any],
) -> None:
    """Add the parts up, subtract the layer's own sky, write it, and note its statistics.

    Parameters
    ----------
    layer : Layer
    parts : LayerParts
    place : (int, list of Block)
        Index of the layer, and its planes in the output files.
    exposure : Exposure
    store : TempStore
        Where its statistics are noted.
    temporaries : sequence of Spilled
        Arrays that are deleted when it is finished.
    results : list
        Of the tasks that it waited for; the last are those of `write_block_noise`, if
        anything was drawn in blocks.
    """
    give_back()  # memory that tiles have freed would add to that of the image
    index, planes = place
    total = LayerSum(parts, exposure.side)
    for command, argument in layer.acting_on(ActsOn.RAMP):
        noise = DRAWINGS[command.letter]
        assert isinstance(noise, RampNoise)
        total.clip(noise.limits(argument, total.quartiles))
    total.add_drawn()
    told: list[WithoutDraw | None] = [] if parts.drawn is None else results[-1]
    without_sky = None in told  # no background to draw the noise of
    without_draw = [counts for counts in told if counts is not None]
    for command, argument in layer.acting_on(ActsOn.SUM):
        change = DRAWINGS[command.letter]
        assert isinstance(change, SumChange)
        found = change.find(argument, total.rows, parts.flags, exposure)
        without_sky |= found is None
        if found is not None:
            total.change(found)
    total.clip_to(float(np.finfo(planes[0].dtype).max))
    total.write(planes)
    q25, middle, q75 = total.quartiles()
    line = {
        "label": layer.label,
        "median": middle,
        "sigma": (q75 - q25) / SIGMA,
        "clipped": total.clipped / total.image.size,
        "inadmissible": sum(counts.active for counts in without_draw),
        "inadmissible_unmasked": sum(counts.unmasked for counts in without_draw),
        "not_finite": total.unknown,
        "without_rate": total.without_rate,
        "without_sky": without_sky,
    }
    store.write_note(note_name(index), line)
    for array in temporaries:
        store.drop(array)


class LayerSum:
    """A layer's image, added up from its parts in memory, a band of rows at a time.

    Parameters
    ----------
    parts : LayerParts
    side : int
        Of the detector.

    Attributes
    ----------
    image : ndarray (N-8, N-8) of float32
        DN/s; NaN where it is not known.
    clipped : int
        Pixels of the ramp's noise that were clipped.
    unknown, without_rate : int
        Pixels that were not finite when the image was written, and those that have no rate.
    """

    def __init__(self, parts: LayerParts, side: int) -> None:
        self._parts = parts
        self._active = Window(BORDER, side - BORDER, BORDER, side - BORDER)
        self._bands = [
            Window(y, min(y + BAND_ROWS, side - BORDER), BORDER, side - BORDER)
            for y in range(BORDER, side - BORDER, BAND_ROWS)
        ]
        self.image = np.zeros(self._active.shape, np.float32)
        self._unused = None if parts.flags is None else np.zeros(self._active.shape, np.bool_)
        self.clipped = self.unknown = self.without_rate = 0
        for window in self._bands:
            rows = self.rows(window)
            if parts.noisy is not None:
                np.subtract(parts.noisy.read(window), parts.base.read(window), out=rows)
            if parts.rate is not None:
                rows[self._without_rate(window)] = np.nan
            if parts.flags is not None and self._unused is not None:
                flags = parts.flags.read(window) & DO_NOT_USE
                self._unused[window.within(self._active)] = flags != 0

    def rows(self, window: Window) -> np.ndarray:
        """Part of the image: a view."""
        return self.image[window.within(self._active)]

    def quartiles(self) -> tuple[float, float, float]:
        """Quartiles of the usable pixels."""
        return quartiles(lambda: map(self._usable, self._bands), finite=True)

    def _usable(self, window: Window) -> np.ndarray:
        """Part of the image, NaN at pixels that statistics leave out."""
        rows = self.rows(window)
        if self._unused is None:
            return rows
        return np.where(self._unused[window.within(self._active)], np.float32(np.nan), rows)

    def _without_rate(self, window: Window) -> np.ndarray:
        """Pixels that have no rate, so no noise."""
        assert self._parts.rate is not None
        return ~np.isfinite(self._parts.rate.read(window))

    def clip(self, limits: Limits | None) -> None:
        """Clip the noise of the ramp, DN/s."""
        if limits is None:
            return
        low, high = limits
        for window in self._bands:
            rows = self.rows(window)
            self.clipped += int(np.count_nonzero((rows < low) | (rows > high)))
            np.clip(rows, low, high, out=rows)

    def add_drawn(self) -> None:
        """Add the noise that was drawn in blocks."""
        for window in self._bands:
            rows = self.rows(window)
            if self._parts.drawn is not None:
                rows += self._parts.drawn.read(window)
            if not all_finite(rows):
                rows[~np.isfinite(rows)] = np.nan  # not to be clipped to a number

    def change(self, change: Callable[..., np.ndarray]) -> None:
        """``change(rows, window=window)`` of all rows."""
        for window in self._bands:
            self.rows(window)[:] = change(self.rows(window), window=window)

    def clip_to(self, largest: float) -> None:
        """Clip what the type of the output does not hold."""
        for window in self._bands:
            rows = self.rows(window)
            if not all_finite(rows):
                rows[~np.isfinite(rows)] = np.nan
            np.clip(rows, -largest, largest, out=rows)

    def write(self, planes: Sequence[Block]) -> None:
        """Write the image, 0 where it is not known; there it remains NaN in memory."""
        for window in self._bands:
            rows = self.rows(window)
            if not all_finite(rows):
                bad = np.isnan(rows)
                rows = np.where(bad, np.float32(0), rows)
                lacking = 0
                if self._parts.rate is not None:
                    lacking = int(np.count_nonzero(bad & self._without_rate(window)))
                self.without_rate += lacking
                self.unknown += int(np.count_nonzero(bad)) - lacking
            for plane in planes:
                plane.put(rows, window)
