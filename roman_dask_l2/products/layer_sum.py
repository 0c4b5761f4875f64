"""The parts of a noise layer, added up and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..config.noise_labels import Layer
from ..core.detector import BORDER, Window
from ..core.exposure import Exposure
from ..core.median import quartiles
from ..io.arrays import Placed
from ..io.blocks import Block
from ..io.spill import Spilled, TempStore
from ..steps.common import all_finite
from ..steps.sky import subtract_model
from .layer_tasks import DO_NOT_USE, fit_image_sky

BAND_ROWS = 256
"""Rows that are worked on at a time where a task makes a whole image."""
SIGMA = 1.34896
"""Interquartile range of a Gaussian, in standard deviations."""


def note_name(index: int) -> str:
    """Name of the note that a layer is finished."""
    return f"finished-{index}"


def finish_layer(
    layer: Layer,
    images: tuple[Spilled | None, Any, Spilled | None, Placed | None],
    place: tuple[int, list[Block]],
    exposure: Exposure,
    store: TempStore,
    rubbish: Sequence[Spilled],
    parts: list[Any],
) -> None:
    """Add the parts up, subtract the layer's own sky, write it, and note its statistics."""
    index, planes = place
    n = exposure.side
    total = LayerSum(*images)
    # In bands of rows, added up whenever they are needed: a frame would be more than all else that
    # a thread has in memory.
    bands = [
        Window(y, min(y + BAND_ROWS, n - BORDER), BORDER, n - BORDER)
        for y in range(BORDER, n - BORDER, BAND_ROWS)
    ]
    if layer.read is not None and layer.read.clip is not None:
        values = partial(map, partial(total.usable, total.read_noise), bands)
        total.limits = clip_limits(quartiles(values, finite=True), layer.read.clip)
    drawn = [0] if images[2] is None else parts[-1]
    without_sky = None in drawn  # no background to draw the noise of
    if layer.sky_order is not None:
        coefs = fit_image_sky(total.rows, total.flags, layer.sky_order, exposure)
        without_sky |= coefs is None
        if coefs is not None:
            total.sky = partial(subtract_model, coefs=coefs, order=layer.sky_order, side=n)
    total.largest = float(np.finfo(planes[0].dtype).max)
    clipped = unknown = 0
    for window in bands:
        noise = total.read_noise(window)
        clipped += total.outside(noise)
        rows = total.finished(noise, window)
        if not all_finite(rows):
            bad = np.isnan(rows)
            rows[bad] = 0
            unknown += int(np.count_nonzero(bad))
        for plane in planes:
            plane.put(rows, window)
    values = partial(map, partial(total.usable, total.rows), bands)
    q25, middle, q75 = quartiles(values, finite=True)
    line = {
        "label": layer.label,
        "median": middle,
        "sigma": (q75 - q25) / SIGMA,
        "clipped": clipped / (n - 2 * BORDER) ** 2,
        "inadmissible": sum(n or 0 for n in drawn),
        "not_finite": unknown,
        "without_sky": without_sky,
    }
    store.write_note(note_name(index), line)
    for array in rubbish:
        store.drop(array)


@dataclass
class LayerSum:
    """A layer's image, added up from its parts wherever a window of it is asked for.

    Attributes
    ----------
    read, base : Spilled or None
        Image of the noisy ramp, and of the ramp without noise.
    light : Spilled or None
        P and O.
    flags : Placed or None
        Of the L2 image; DO_NOT_USE has no part in statistics.
    limits : tuple of float32, optional
        Of the read noise.
    sky : callable, optional
        ``sky(rows, window=window)`` less the layer's own sky.
    largest : float
        What the output can hold.
    """

    read: Spilled | None
    base: Any
    light: Spilled | None
    flags: Placed | None = None
    limits: tuple[np.float32, np.float32] | None = None
    sky: Callable[..., np.ndarray] | None = None
    largest: float = np.inf

    def read_noise(self, window: Window) -> np.ndarray:
        rows = np.zeros(window.shape, np.float32)
        if self.read is not None:
            rows += self.read.read(window)
            rows -= self.base.read(window)
        return rows

    def outside(self, noise: np.ndarray) -> int:
        """How many pixels of the read noise the limits change."""
        if self.limits is None:
            return 0
        low, high = self.limits
        return int(np.count_nonzero((noise < low) | (noise > high)))

    def finished(self, noise: np.ndarray, window: Window) -> np.ndarray:
        """The image, from its read noise, which is overwritten."""
        if self.limits is not None:
            np.clip(noise, *self.limits, out=noise)
        if self.light is not None:
            noise += self.light.read(window)
        if self.sky is not None:
            noise = self.sky(noise, window=window)
        if not all_finite(noise):
            noise[~np.isfinite(noise)] = np.nan  # not to be clipped to a number
        np.clip(noise, -self.largest, self.largest, out=noise)
        return noise

    def rows(self, window: Window) -> np.ndarray:
        """The image; NaN where it is not known."""
        return self.finished(self.read_noise(window), window)

    def usable(self, image: Callable[[Window], np.ndarray], window: Window) -> np.ndarray:
        """``image(window)``, NaN where statistics must not look."""
        rows = image(window)
        if self.flags is not None:
            rows[self.flags.read(window) & DO_NOT_USE != 0] = np.nan
        return rows


def clip_limits(quarters: tuple[float, float, float], q: float) -> tuple[np.float32, np.float32]:
    """Median -+ q sigma of an image with these quartiles, sigma from the interquartile range."""
    q25, middle, q75 = quarters
    reach = q * (q75 - q25) / SIGMA
    if not np.isfinite(reach):  # no pixel can be used
        return np.float32(-np.inf), np.float32(np.inf)
    return np.float32(middle - reach), np.float32(middle + reach)
