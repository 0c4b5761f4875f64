"""Corrections of every pixel that are made strip by strip before any tile: on disk, in memory or
again whenever they are read.

Whichever it is, the kernel's tile reads the correction from a source that stands in what the step
has measured. So fused tiles, one layer per step, strips of later reductions and a single pixel that
is looked at get it in one and the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..core.detector import Window
from ..core.exposure import Exposure
from ..core.step import BoundStep, Spill, accepted
from ..io.references import Inputs
from ..io.spill import Spilled


class Scratch(Protocol):
    """Where corrections go."""

    def create(
        self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str
    ) -> Spilled:
        """Make an array of which nothing is written yet."""


def spill_bytes(bound: BoundStep, exposure: Exposure) -> int:
    """Bytes on disk of a step's correction, 0 without one."""
    spill = bound.step.spill
    if spill is None:
        return 0
    return exposure.n_resultants * exposure.side**2 * np.dtype(spill.dtype).itemsize


def spill_of(bound: BoundStep) -> Spill:
    """The declaration, of a step that has one."""
    spill = bound.step.spill
    assert spill is not None
    return spill


class _Strip:
    """One strip, its references read once for all resultants."""

    def __init__(
        self, window: Window, bound: BoundStep, inputs: Inputs, measured: Mapping[str, Any]
    ) -> None:
        self._spill = spill_of(bound)
        part = self._spill.part(window)
        context = {"measured": measured, "exposure": inputs.exposure, "params": bound.params}
        self._arguments = (
            accepted(self._spill.make, context)
            | {"window": window}
            | {
                keyword: inputs.sources[name].read(part)
                for keyword, name in self._spill.references.items()
            }
        )

    def plane(self, j: int) -> np.ndarray:
        made: np.ndarray = self._spill.make(plane=j, **self._arguments)
        return made.astype(self._spill.dtype, copy=False)


def strip_array(
    window: Window, bound: BoundStep, inputs: Inputs, measured: Mapping[str, Any]
) -> np.ndarray:
    """A step's correction on a strip, (R, y, x)."""
    strip = _Strip(window, bound, inputs, measured)
    return np.stack([strip.plane(j) for j in range(inputs.exposure.n_resultants)])


def write_strip(
    window: Window,
    bound: BoundStep,
    target: Spilled,
    inputs: Inputs,
    measured: Mapping[str, Any],
) -> None:
    """The same, resultant by resultant into the store."""
    strip = _Strip(window, bound, inputs, measured)
    for j in range(inputs.exposure.n_resultants):
        target.put(strip.plane(j), window, j)


@dataclass(frozen=True, eq=False)
class Strips:
    """A correction whose strips are in memory."""

    windows: Sequence[Window]
    arrays: Sequence[np.ndarray]

    def read(self, window: Window) -> np.ndarray:
        """The correction on a window, (R, y, x)."""
        first = self.arrays[0]
        out = np.empty((len(first), *window.shape), first.dtype)
        for strip, values in zip(self.windows, self.arrays, strict=True):
            both = strip.intersection(window)
            if both is not None:
                out[(..., *both.within(window))] = values[(..., *both.within(strip))]
        return out


@dataclass(frozen=True, eq=False)
class Remade:
    """A correction of which what is read is made at that moment: for single pixels and a few
    bands, nothing is worth keeping."""

    bound: BoundStep
    inputs: Inputs
    measured: Mapping[str, Any]

    def read(self, window: Window) -> np.ndarray:
        """The correction on a window, (R, y, x)."""
        exposure = self.inputs.exposure
        spill = spill_of(self.bound)
        out = np.empty((exposure.n_resultants, *window.shape), spill.dtype)
        for place in spill.strips(exposure, self.bound.params):
            both = place.intersection(window)
            if both is None:
                continue
            strip = _Strip(place, self.bound, self.inputs, self.measured)
            for j in range(exposure.n_resultants):
                out[(j, *both.within(window))] = strip.plane(j)[both.within(place)]
        return out


def with_source(measured: Mapping[str, Any], bound: BoundStep, source: Any) -> dict[str, Any]:
    """What a step has measured as its kernel gets it: with the correction, and without what that
    alone was made of."""
    spill = spill_of(bound)
    kept = {name: value for name, value in measured.items() if name not in spill.only}
    return kept | {spill.name: source}


def after_writing(
    measured: Mapping[str, Any], bound: BoundStep, target: Spilled, written: Any
) -> dict[str, Any]:
    """`with_source` once all strips are `written`."""
    return with_source(measured, bound, target)


def with_strips(
    measured: Mapping[str, Any],
    bound: BoundStep,
    windows: Sequence[Window],
    arrays: Sequence[np.ndarray],
) -> dict[str, Any]:
    """`with_source` where the strips stay in memory."""
    return with_source(measured, bound, Strips(windows, arrays))
