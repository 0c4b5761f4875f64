"""What can be simulated: conditions, noise levels, and what all parts share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import BORDER
from ..core.dq import MASK_GROWTH

_EDGES = (0, 1, 2, 4, 10, 26, 32, 34, 35)
READ_PATTERN = [list(range(a, b)) for a, b in zip(_EDGES[:-1], _EDGES[1:], strict=True)]
"""Eight resultants of 35 frames."""

CONDITIONS: dict[str, str] = {
    "ad_floor": "raw value 0 in every resultant, in the middle one, or from it on",
    "off_range": "unsaturated signal above Smax or below Smin of the linearity (stars there)",
    "no_sat_check": "saturation threshold NaN, or NO_SAT_CHECK in the saturation file",
    "flat": "flat file outside [0.1, 10]: low, high, zero, negative",
    "gain": "gain file at or below 0.1 e/DN",
    "hot": "dark current of 20, 200, 2000 e/s (these saturate), HOT in mask and dark dq",
    "dead": "no response to light, DEAD in the mask",
    "masked": "each flag of the mask-growth table in turn in the mask",
    "dark_dq": "WARM, UNRELIABLE_DARK in the dark file",
    "linearity_dq": "NO_LIN_CORR, REFERENCE_PIXEL, NONLINEAR in the linearity file",
    "dropout": "DROPOUT in the middle resultant of the L1 file's own resultantdq",
    "nan_reference": "NaN in single pixels of each reference array in turn (not in 'all')",
    "saturation": "for each resultant stars that first saturate there, stars that fill up amid its"
    " reads, and saturating stars on the edge and in the corner of the active array",
    "guide_window": "a guide window in the middle of the detector, across tile borders",
    "guide_window_edge": "a guide window in the corner of the detector (not in 'all')",
}
"""What can be switched on by name, and what it puts where."""
ALL = [c for c in CONDITIONS if c not in ("guide_window_edge", "nan_reference")]
"""The conditions of ``conditions="all"``: those that go together in one exposure."""

NOISE = {
    "read": 6.5,  # rms over the pixels, of one read
    "reset": 12.0,
    "U_PINK": 0.5,  # 1/f of each channel
    "C_PINK": 0.8,  # 1/f common to the channels
    "M_PINK": 1.0,  # part of the common 1/f that the reference output sees (no unit)
    "RU_PINK": 0.3,  # 1/f of the reference output alone
    "amp33": 5.0,  # white noise of the reference output
}
"""Noise levels, DN. The 1/f noise is not in the calibrated `err`: set it to 0 for chi-squares."""

OBSERVATORY_NOISE = NOISE | {"C_PINK": 2.0, "amp33": 2.0}
"""Noise levels with the observatory's reference files: more for its correction to take out."""

GAIN = 1.8  # e/DN, nominal: true rates are those of a pixel of this gain
RESET_LAG = 0.1  # frames between reset and first read, in which very bright stars fill up
WELL = 1.12  # full well over threshold, so that a full pixel that loses charge by IPC shows it
ORDER = 4  # of the linearity
BAND = 32  # rows that are drawn from one random stream and worked on at once, to stay in cache
DARK_DECAY = {"amplitude": 6.0, "time_constant": 25.0}  # DN_raw, s
WFI18 = ((60.0, 0.35), (-6.0, 1.2))  # DN_raw, s: sum of a exp(-t/ta) in the first resultant
REFERENCES = ("survey", "observatory")
"""Whose reference files describe the detector."""
PACKED = {"zlib", "bzp2", "lz4"}
UNITS = {"gain": "electron / DN", "flat": "", "ipc4d": "", "dark_slope": "DN / s"}  # else DN

DETECTOR_STREAMS = {
    "jitter", "places", "sref", "smax", "curvature", "gain", "response", "dark", "threshold",
    "inl", "ipc x", "ipc y", "ipc xy", "read", "reset", "pedestal", "amp33 med", "amp33 std",
    "bias",
}  # fmt: skip
"""Random streams of what the reference files tell; all others but "stars" are of the exposure."""

Given = int | Sequence[Sequence[float]] | np.ndarray | None  # how many, or a table
FLAGS_BY_CONDITION: dict[
    tuple[str, str], list[tuple[str, ...]]
] = {  # (file, condition): by place, in turn
    ("mask", "hot"): [("HOT",)],
    ("dark", "hot"): [("HOT", "UNRELIABLE_DARK")],
    ("mask", "dead"): [("DEAD",)],
    ("mask", "masked"): [(flag,) for flag in MASK_GROWTH],
    ("dark", "dark_dq"): [("WARM",), ("UNRELIABLE_DARK",)],
    ("linearitylegendre", "linearity_dq"): [("NO_LIN_CORR",), ("REFERENCE_PIXEL",), ("NONLINEAR",)],
    ("saturation", "no_sat_check"): [(), ("NO_SAT_CHECK",)],
}
NAN_ARRAYS = [
    *[("linearitylegendre", name) for name in ("data", "Smin", "Smax", "Sref")],
    *[(key, "data") for key in ("gain", "dark", "flat", "ipc4d", "biascorr", "read", "saturation")],
    ("dark", "dark_slope"),
]
OBSERVATORY_FLAGS: dict[tuple[str, str], list[tuple[str, ...]]] = {
    **{(file, name): flags for (file, name), flags in FLAGS_BY_CONDITION.items()
       if file != "linearitylegendre"},
    ("linearity", "linearity_dq"): FLAGS_BY_CONDITION["linearitylegendre", "linearity_dq"],
    ("flat", "flat"): [(), (), (), ("NO_FLAT_FIELD",)],
}  # fmt: skip
"""`FLAGS_BY_CONDITION` of the observatory's files."""
OBSERVATORY_NAN_ARRAYS = [
    *[(key, "coeffs") for key in ("linearity", "inverselinearity")],
    *[(key, "data") for key in ("gain", "flat", "readnoise", "saturation")],
    ("dark", "dark_slope"),
]
"""`NAN_ARRAYS` of the observatory's files."""


@dataclass(frozen=True)
class Simulation:
    """Paths of one simulated exposure.

    Attributes
    ----------
    directory : Path
    l1 : Path
        The Level-1 file.
    caldir : dict of str to Path
        Reference files by their key in CALDIR.
    fitswcs : Path
        FITS header with the world coordinates.
    config : Path
        Configuration, ready to run.
    truth : Path
        What should come out, see `simulate`.
    gwcs : Path or None
        ASDF file with the world coordinates, if one was asked for.
    """

    directory: Path
    l1: Path
    caldir: dict[str, Path]
    fitswcs: Path
    config: Path
    truth: Path
    gwcs: Path | None = None


@dataclass(frozen=True)
class Seeds:
    """From which all random streams follow.

    Attributes
    ----------
    exposure, detector, sky : int
    """

    exposure: int
    detector: int
    sky: int

    def of(self, stream: str) -> int:
        """The seed of a stream."""
        if stream in DETECTOR_STREAMS:
            return self.detector
        return self.sky if stream == "stars" else self.exposure


@dataclass
class Run:
    """What all parts of one simulation share."""

    side: int
    pattern: list[list[int]]
    frame_time: float
    seeds: Seeds
    noise: dict[str, float]
    threads: int
    places: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.side - 2 * BORDER

    def rng(self, name: str, *index: int) -> np.random.Generator:
        """The random stream of this name and index."""
        seed = np.random.SeedSequence(
            self.seeds.of(name), spawn_key=(zlib.crc32(name.encode()), *index)
        )
        return np.random.Generator(np.random.SFC64(seed))

    def plane(self, name: str, mean: float, sigma: float, side: int | None = None) -> np.ndarray:
        """A (side, side) float32 pattern of normal values; the active array if not told."""
        out = self.rng(name).standard_normal((side or self.n,) * 2, dtype=np.float32)
        out *= np.float32(sigma)
        out += np.float32(mean)
        return out

    def at(self, condition: str) -> np.ndarray:
        """(k, 2) places of a condition; none if it is off."""
        return self.places.get(condition, np.empty((0, 2), np.int64))

    def put(self, array: np.ndarray, condition: str, values: Sequence[Any]) -> None:
        """Set the pixels of a condition in an active or full array, taking `values` in turn."""
        shift = BORDER if array.shape[-1] == self.n else 0
        for i, (y, x) in enumerate(self.at(condition) - shift):
            array[..., y, x] = values[i % len(values)]

    def bands(self, work: Callable[[int, slice], None], stop: int, step: int = BAND) -> None:
        """Call ``work(i, i-th slice of 0..stop)`` for all i, in threads."""
        parts = [slice(a, min(a + step, stop)) for a in range(0, stop, step)]
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, range(len(parts)), parts))
