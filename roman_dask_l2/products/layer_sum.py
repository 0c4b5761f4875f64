"""Adding up the parts of a noise layer, and writing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from .base_ramp import DO_NOT_USE
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
        Of the tasks that it waited for; the last is that of `write_block_noise` on each tile, if
        anything was drawn in blocks.
    """
    index, planes = place
    n = exposure.side
    total = LayerSum(parts)
    # In bands of rows, added up whenever they are needed: a frame would be more than all else that
    # a thread has in memory.
    bands = [
        Window(y, min(y + BAND_ROWS, n - BORDER), BORDER, n - BORDER)
        for y in range(BORDER, n - BORDER, BAND_ROWS)
    ]
    for command, argument in layer.acting_on(ActsOn.RAMP):
        noise = DRAWINGS[command.letter]
        assert isinstance(noise, RampNoise)
        total.limits = noise.limits(argument, partial(_quartiles, total, total.ramp_noise, bands))
    without_draw = [0] if parts.drawn is None else results[-1]
    without_sky = None in without_draw  # no background to draw the noise of
    for command, argument in layer.acting_on(ActsOn.SUM):
        change = DRAWINGS[command.letter]
        assert isinstance(change, SumChange)
        found = change.find(argument, total.rows, parts.flags, exposure)
        without_sky |= found is None
        if found is not None:
            total.changes.append(found)
    total.largest = float(np.finfo(planes[0].dtype).max)
    clipped = unknown = without_rate = 0
    for window in bands:
        values = total.ramp_noise(window)
        clipped += total.outside(values)
        rows = total.finished(values, window)
        if not all_finite(rows):
            bad, hopeless = np.isnan(rows), total.without_rate(window)
            rows[bad] = 0
            unknown += int(np.count_nonzero(bad & ~hopeless))
            without_rate += int(np.count_nonzero(hopeless))
        for plane in planes:
            plane.put(rows, window)
    q25, middle, q75 = _quartiles(total, total.rows, bands)
    line = {
        "label": layer.label,
        "median": middle,
        "sigma": (q75 - q25) / SIGMA,
        "clipped": clipped / (n - 2 * BORDER) ** 2,
        "inadmissible": sum(count or 0 for count in without_draw),
        "not_finite": unknown,
        "without_rate": without_rate,
        "without_sky": without_sky,
    }
    store.write_note(note_name(index), line)
    for array in temporaries:
        store.drop(array)


def _quartiles(
    total: LayerSum, image: Callable[[Window], np.ndarray], bands: Sequence[Window]
) -> tuple[float, float, float]:
    """Quartiles of the usable pixels of an image, of which ``image(window)`` is a part."""
    return quartiles(partial(map, partial(total.usable, image), bands), finite=True)


@dataclass
class LayerSum:
    """A layer's image, added up from its parts wherever a window of it is asked for.

    Attributes
    ----------
    parts : LayerParts
    limits : tuple of float32, optional
        That the noise of the ramp is clipped to, DN/s.
    changes : list of callable
        ``change(rows, window=window)``, in turn, of the sum.
    largest : float
        Limit of the output's type.
    """

    parts: LayerParts
    limits: Limits | None = None
    changes: list[Callable[..., np.ndarray]] = field(default_factory=list)
    largest: float = np.inf

    def ramp_noise(self, window: Window) -> np.ndarray:
        """Image of the noisy ramp less that of the ramp without noise, DN/s."""
        rows = np.zeros(window.shape, np.float32)
        if self.parts.noisy is not None:
            rows += self.parts.noisy.read(window)
            rows -= self.parts.base.read(window)
        if self.parts.rate is not None:
            rows[self.without_rate(window)] = np.nan
        return rows

    def without_rate(self, window: Window) -> np.ndarray:
        """Pixels that have no rate, so no noise."""
        if self.parts.rate is None:
            return np.zeros(window.shape, np.bool_)
        rate = self.parts.rate.read(window)
        return ~np.isfinite(rate)

    def outside(self, noise: np.ndarray) -> int:
        """How many pixels of the ramp's noise the limits change."""
        if self.limits is None:
            return 0
        low, high = self.limits
        return int(np.count_nonzero((noise < low) | (noise > high)))

    def finished(self, noise: np.ndarray, window: Window) -> np.ndarray:
        """The image, from the ramp's noise, which is overwritten."""
        if self.limits is not None:
            np.clip(noise, *self.limits, out=noise)
        if self.parts.drawn is not None:
            noise += self.parts.drawn.read(window)
        for change in self.changes:
            noise = change(noise, window=window)
        if not all_finite(noise):
            noise[~np.isfinite(noise)] = np.nan  # not to be clipped to a number
        np.clip(noise, -self.largest, self.largest, out=noise)
        return noise

    def rows(self, window: Window) -> np.ndarray:
        """The image; NaN where it is not known."""
        return self.finished(self.ramp_noise(window), window)

    def usable(self, image: Callable[[Window], np.ndarray], window: Window) -> np.ndarray:
        """``image(window)``, NaN at pixels that statistics leave out."""
        rows = image(window)
        if self.parts.flags is not None:
            rows[self.parts.flags.read(window) & DO_NOT_USE != 0] = np.nan
        return rows
