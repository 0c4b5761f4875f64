"""The ramp that noise is added to: the dark cube, or the exposure as the detector gave it."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.detector import BORDER, Window
from ..core.dq import PIXEL
from ..core.step import BoundStep
from ..engine import plan
from ..io.arrays import Placed
from ..io.references import Inputs
from ..io.spill import Spilled
from ..noise.read_noise import Border, base_plane

DO_NOT_USE = np.uint32(PIXEL["DO_NOT_USE"])
ROWS = 256
"""Rows of a plane that are read at a time."""
_BORDERS = 32
"""Borders of images in files that are kept, 0.3 MB each of a flight detector."""


@dataclass(frozen=True)
class UsableFlags:
    """Store of the only flag of a noisy image that its sky fit reads, DO_NOT_USE, as one byte.

    Attributes
    ----------
    store : Spilled
        (N, N) uint8.
    """

    store: Spilled

    def put(self, values: np.ndarray, window: Window) -> None:
        self.store.put((values & DO_NOT_USE).astype(np.uint8), window)

    def read(self, window: Window | None = None) -> np.ndarray:
        return self.store.read(window).astype(np.uint32)


@dataclass(frozen=True)
class DarkRamp:
    """The dark cube cast to Level-1 integers."""

    dark: Placed

    def read(self, window: Window | None = None) -> np.ndarray:
        return base_plane(self.dark.read(window))


@dataclass(frozen=True)
class Quiet:
    """The reference output without noise: its mean in every resultant."""

    median: Placed
    n_resultants: int

    def read(self, window: Window | None = None) -> np.ndarray:
        median = np.nan_to_num(self.median.read())
        return np.broadcast_to(median, (self.n_resultants, *median.shape))


@dataclass(frozen=True)
class ResultantPlane:
    """One resultant of a cube."""

    source: Placed
    index: int

    def read(self, window: Window) -> np.ndarray:
        source = self.source
        first = source.array.shape[0] - (source.planes or source.array.shape[0])
        plane = slice(first + self.index, first + self.index + 1)
        values: np.ndarray = source.array.read(window, plane)[0]
        return values.astype(source.dtype or values.dtype, copy=False)


@dataclass(frozen=True)
class OwnPlane:
    """One resultant of the exposure as the detector gave it, DN."""

    inputs: Inputs
    index: int

    def read(self, window: Window) -> np.ndarray:
        plane = ResultantPlane(self.inputs.sources["l1.data"], self.index)
        return _decoded(plane.read(window), window, self.inputs)


@dataclass(frozen=True)
class OwnOutput:
    """The reference output of the exposure as the detector gave it."""

    inputs: Inputs

    def read(self, window: Window | None = None) -> np.ndarray:
        n = self.inputs.exposure.n_resultants
        return np.stack([own_amp33(self.inputs, j) for j in range(n)])


_planes: list[np.ndarray] = []
"""Memory of planes for the next ones; both operations on it are atomic."""


@contextlib.contextmanager
def quiet_plane(inputs: Inputs, index: int, own: bool) -> Iterator[np.ndarray]:
    """A resultant of the ramp that noise is added to, uint16 (N, N), DN: of the dark cube, or the
    exposure's own; after the block its memory is that of the next one."""
    source = ResultantPlane(inputs.sources["l1.data" if own else "dark.data"], index)
    n = inputs.exposure.side
    try:
        plane = _planes.pop()
    except IndexError:
        plane = np.empty((n, n), np.uint16)
    if len(plane) != n:
        plane = np.empty((n, n), np.uint16)
    for y in range(0, n, ROWS):
        band = Window(y, min(y + ROWS, n), 0, n)
        values = source.read(band)
        plane[band.slices] = _decoded(values, band, inputs) if own else base_plane(values)
    yield plane
    _planes.append(plane)


def dark_border(own: bool, inputs: Inputs, steps: Sequence[BoundStep]) -> bool:
    """Whether noisy ramps have the dark's reference pixels before noise is added.

    With the exposure's own ramp they have them only in recipes that read the dark cube. A recipe
    without it compares them with the image of the exposure's own reference pixels, whose noise
    would be in the layer.
    """
    return not own or ("dark.data" in inputs.sources and _reads(steps, "dark.data"))


def reads_output_alone(steps: Sequence[BoundStep]) -> bool:
    """Whether a step reads the reference output, and no file about it."""
    names = [plan.input_names(bound) for bound in steps]
    return any("l1.amp33" in n and "read.amp33.med" not in n for n in names)


def _reads(steps: Sequence[BoundStep], array: str) -> bool:
    names = (name for bound in steps for name in plan.input_names(bound))
    return any(name.partition("@")[0] == array for name in names)


def reference_pixels(inputs: Inputs, index: int, of_dark: bool) -> Border:
    """The reference pixels of a resultant before noise is added: the mean of darks, or the
    exposure's own."""
    plane = (
        ResultantPlane(inputs.sources["dark.data"], index) if of_dark else OwnPlane(inputs, index)
    )
    return border(plane, inputs.exposure.side)


def reset_noise(inputs: Inputs) -> Border:
    """The reset noise of the reference pixels, DN; 0 where no file gives it."""
    n, source = inputs.exposure.side, inputs.sources.get("read.resetnoise")
    if source is None:
        shapes = (2 * BORDER, n), (n, 2 * BORDER)
        return Border(*(np.zeros(shape, np.float32) for shape in shapes))
    return border(source, n)


def own_amp33(inputs: Inputs, index: int) -> np.ndarray:
    """The reference output of a resultant as the detector gave it, uint16 (N, 128), DN."""
    sources, exposure = inputs.sources, inputs.exposure
    values = sources["l1.amp33"].read()[index].astype(np.float32)
    if "l1.reference_amp33" in sources:
        values += sources["l1.reference_amp33"].read()
    return base_plane(np.rint(values - np.float32(exposure.encoding_offset)))


def border(source: Placed | ResultantPlane | OwnPlane, n: int) -> Border:
    """The reference pixels of an image of n x n pixels; read-only."""
    return _border(source, n) if isinstance(source, OwnPlane) else _border_of_file(source, n)


@lru_cache(maxsize=_BORDERS)  # its columns are a read of the whole file, for every layer again
def _border_of_file(source: Placed | ResultantPlane, n: int) -> Border:
    return _border(source, n)


def _border(source: Placed | ResultantPlane | OwnPlane, n: int) -> Border:
    bands = (0, BORDER), (n - BORDER, n)
    found = Border(
        np.concatenate([source.read(Window(*band, 0, n)) for band in bands]).astype(np.float32),
        np.concatenate([source.read(Window(0, n, *band)) for band in bands], 1).astype(np.float32),
    )
    for values in found:
        values.flags.writeable = False
    return found


def read_noise(source: Placed, n: int) -> np.ndarray:
    """White noise of one read, float32 (n, n), DN: one image for all threads, which take it column
    by column; read-only."""
    with _reading:
        return _read_noise(source, n)


_reading = threading.Lock()


def forget_planes() -> None:
    """Free what is kept for the next resultant: calibrations need the memory."""
    _planes.clear()
    _read_noise.cache_clear()


@lru_cache(maxsize=1)
def _read_noise(source: Placed, n: int) -> np.ndarray:
    image = np.asarray(source.read(Window(0, n, 0, n)), np.float32)
    image.flags.writeable = False
    return image


# -- as exposures --------------------------------------------------------------------------------


def base_inputs(inputs: Inputs) -> Inputs:
    """The dark cube as an exposure: its image is subtracted from those of noisy ramps."""
    exposure = dataclasses.replace(inputs.exposure, encoding_offset=0.0, guide_window=None)
    sources = dict(inputs.sources)
    for name in ("l1.reference_read", "l1.reference_amp33", "l1.resultantdq"):
        sources.pop(name, None)
    sources["l1.data"] = DarkRamp(inputs.sources["dark.data"])
    if "read.amp33.med" in sources:
        sources["l1.amp33"] = Quiet(sources["read.amp33.med"], exposure.n_resultants)
    elif "l1.amp33" in sources:  # nothing is known of its noise
        sources["l1.amp33"] = OwnOutput(inputs)
    return Inputs(exposure, sources, inputs.layouts)


def noisy_inputs(inputs: Inputs, cube: tuple[Spilled, Spilled], own: bool) -> Inputs:
    """A noisy ramp in the store as an exposure; `own`: of the exposure's own ramp."""
    exposure = dataclasses.replace(inputs.exposure, encoding_offset=0.0)
    if not own:
        exposure = dataclasses.replace(exposure, guide_window=None)
    sources = dict(inputs.sources)
    for name in ("l1.reference_read", "l1.reference_amp33"):
        sources.pop(name, None)
    if not own:
        sources.pop("l1.resultantdq", None)
    sources["l1.data"], sources["l1.amp33"] = cube
    return Inputs(exposure, sources, inputs.layouts)


def _decoded(values: np.ndarray, window: Window, inputs: Inputs) -> np.ndarray:
    """A resultant as the detector gave it, before the reference read was subtracted on board."""
    values = values.astype(np.float32) - np.float32(inputs.exposure.encoding_offset)
    if inputs.available("l1.reference_read"):
        values += inputs.sources["l1.reference_read"].read(window)
    return base_plane(np.rint(values))
