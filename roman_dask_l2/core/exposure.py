"""What is known about an exposure before any pixel is read: geometry, read pattern, times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import InputError

MOST_RESULTANTS = 32767
"""The index of a resultant must fit into int16."""


@dataclass(frozen=True)
class Exposure:
    """Small, hashable facts about one Level 1 exposure of one detector.

    Attributes
    ----------
    side : int
        Detector side N in pixels, border included.
    read_pattern : tuple of tuple of int
        Frames (counted from 0) averaged into each resultant.
    frame_time : float
        Seconds between frames.
    detector : str
        "WFI01" .. "WFI18".
    optical_element : str
    exposure_type : str
        ``meta.exposure.type``, such as "WFI_IMAGE".
    guide_window : tuple of int or None
        (xstart, xstop, ystart, ystop) of the guide window.
    encoding_offset : float
        DN added to the data before they were stored as uint16.
    exclude_first : bool
        The first resultant is not used by the ramp fit.
    """

    side: int
    read_pattern: tuple[tuple[int, ...], ...]
    frame_time: float
    detector: str = "WFI01"
    optical_element: str = "F158"
    guide_window: tuple[int, int, int, int] | None = None
    encoding_offset: float = 0.0
    exclude_first: bool = True
    exposure_type: str = "WFI_IMAGE"

    def __post_init__(self) -> None:
        for i, reads in enumerate(self.read_pattern):
            if not reads or list(reads) != list(range(reads[0], reads[0] + len(reads))):
                raise InputError(
                    f"read_pattern: resultant {i} is {list(reads)}, "
                    "expected consecutive frame numbers"
                )
        starts = [reads[0] for reads in self.read_pattern]
        if any(b <= a[-1] for a, b in zip(self.read_pattern, starts[1:], strict=False)):
            raise InputError("read_pattern: resultants overlap or are not in time order")
        if self.n_resultants > MOST_RESULTANTS:
            raise InputError(
                f"read_pattern: {self.n_resultants} resultants, expected at most {MOST_RESULTANTS}"
            )
        if self.n_resultants - self.start < 2:
            raise InputError(
                f"read_pattern: {self.n_resultants} resultants, "
                f"expected at least {self.start + 2} to fit a slope"
            )

    @property
    def n_resultants(self) -> int:
        """Number of resultants R."""
        return len(self.read_pattern)

    @property
    def start(self) -> int:
        """Index of the first resultant that the ramp fit uses."""
        return int(self.exclude_first)

    @property
    def detector_number(self) -> int:
        """1 for "WFI01" .. 18 for "WFI18"."""
        return int(self.detector[-2:])

    @cached_property
    def n_reads(self) -> np.ndarray:
        """Reads averaged into each resultant, float64 (R,)."""
        return np.array([len(reads) for reads in self.read_pattern], float)

    @cached_property
    def tbar(self) -> np.ndarray:
        """Mean time (s) of the reads of each resultant, float64 (R,)."""
        first = np.array([reads[0] for reads in self.read_pattern], float)
        return _single((first + (self.n_reads - 1) / 2) * self.frame_time)

    @cached_property
    def tau(self) -> np.ndarray:
        """Variance-weighted time (s) of each resultant, float64 (R,).

        The Poisson variance of resultant i is the electron rate times tau_i
        (Casertano et al. 2022, Roman-STScI-000394, eq. 14).
        """
        n = self.n_reads
        first = np.array([reads[0] for reads in self.read_pattern], float)
        return _single((first + (n - 1) * (2 * n - 1) / (6 * n)) * self.frame_time)


def index_dtype(n_resultants: int) -> str:
    """The dtype in which files store the index of a resultant (-1 for none)."""
    return "int8" if n_resultants <= 127 else "int16"


def _single(times: np.ndarray) -> np.ndarray:
    """Times rounded to float32, as processinfo stores them, so that the weights can be recomputed
    from the file."""
    return times.astype(np.float32).astype(np.float64)
