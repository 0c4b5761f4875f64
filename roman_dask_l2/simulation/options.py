"""What `simulate` is asked for, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import check_side
from ..errors import InputError
from .detector import condition_names
from .settings import (
    NOISE,
    OBSERVATORY_NOISE,
    PACKED,
    READ_PATTERN,
    REFERENCES,
    Given,
    Run,
    Seeds,
)

DITHER = 0.125
"""How far a dither may go, in sides of the detector."""


@dataclass(frozen=True, eq=False)
class Options:
    """The arguments of `simulate`, which explains them.

    Raises
    ------
    InputError
        For options that cannot be.
    """

    directory: Path
    side: int
    read_pattern: Sequence[Sequence[int]] | None
    frame_time: float
    seed: int
    detector: str
    optical_element: str
    conditions: str | Iterable[str]
    sky: float | np.ndarray
    stars: Given
    cosmic_rays: Given
    noise: Mapping[str, float] | None
    guide_window: Sequence[int] | None
    reference_read: int | None
    extra_plane: bool | None
    amp33: bool
    biascorr: bool | None
    dark_decay: bool | None
    wfi18_transient: bool
    array_format: Mapping[str, str] | None
    wcs: str | None
    config: Mapping[str, Any] | None
    threads: int
    detector_seed: int | None
    sky_seed: int | None
    dither: tuple[float, float] | None
    cal: Path | None
    references: str
    ipc: bool | None

    def __post_init__(self) -> None:
        check_side(self.side, "simulate")
        if set("#?%") & set(str(self.directory.absolute())):  # asdf would write elsewhere
            raise InputError(
                f"{self.directory}: expected a directory without #, ? and % in its name"
            )
        if self.references not in REFERENCES:
            raise InputError(
                f"references {self.references!r}: expected {' or '.join(map(repr, REFERENCES))}"
            )
        if not self.of_observatory and self.ipc is False:
            raise InputError("ipc: the survey's recipes need the file, expected True")
        # An iterable of conditions may be one that can be read only once.
        chosen = condition_names(self.conditions)
        if self.of_observatory:
            chosen = self._of_observatory(chosen)
        object.__setattr__(self, "conditions", chosen)
        usual = [[f + self.of_observatory for f in reads] for reads in READ_PATTERN]
        given = usual if self.read_pattern is None else self.read_pattern
        pattern = [[int(f) for f in reads] for reads in given]
        object.__setattr__(self, "read_pattern", pattern)
        frames = [f for reads in pattern for f in reads]
        if not all(pattern) or frames != sorted(set(frames)) or len(pattern) < 3:
            raise InputError(
                f"read pattern {pattern}: expected 3 or more resultants, frames ascending"
            )
        if self.dither is not None and max(map(abs, self.dither)) > self.side * DITHER:
            raise InputError(
                f"dither {self.dither}: expected at most {self.side * DITHER:g} pixels, "
                f"{DITHER:g} of the side"
            )
        if self.wcs is None:
            object.__setattr__(self, "wcs", "distortion" if self.of_observatory else "fits")
        known = ("fits", "gwcs", "l1", *["distortion"] * self.of_observatory)
        if self.wcs not in known:
            listed = ", ".join(map(repr, known[:-1]))
            raise InputError(f"wcs {self.wcs!r}: expected {listed} or {known[-1]!r}")
        if self.wfi18_transient and self.detector != "WFI18":
            raise InputError(f"wfi18_transient: only WFI18 has it, not {self.detector}")
        words = {word for how in self.formats.values() for word in how.split("+")}
        if unknown := words - PACKED - {"float64", "big-endian", "quantity"}:
            raise InputError(f"array_format: unknown {sorted(unknown)}")

    def _of_observatory(self, names: set[str]) -> set[str]:
        """The conditions that are left with the observatory's files; other options must fit."""
        pattern, problems = self.read_pattern, []
        if pattern is not None and any(f < 1 for reads in pattern for f in reads):
            problems.append(f"read pattern {pattern}: expected frames counted from 1")
        for name in ("biascorr", "extra_plane", "array_format"):
            if getattr(self, name):
                problems.append(f"{name}: the observatory's reference files have no such thing")
        if self.conditions != "all" and "off_range" in names:
            problems.append("conditions: off_range: the observatory's linearity has no range")
        if problems:
            raise InputError(problems)
        return names - {"off_range"}

    @property
    def of_observatory(self) -> bool:
        """Whether the observatory's reference files describe the detector."""
        return self.references == "observatory"

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias correction; `biascorr`, or as the reference files have it."""
        return not self.of_observatory if self.biascorr is None else self.biascorr

    @property
    def has_dark_decay(self) -> bool:
        """Whether there is dark decay; `dark_decay`, or as the reference files have it."""
        return self.of_observatory if self.dark_decay is None else self.dark_decay

    @property
    def has_ipc(self) -> bool:
        """Whether there is inter-pixel capacitance; `ipc`, or as the reference files have it."""
        return not self.of_observatory if self.ipc is None else self.ipc

    @property
    def formats(self) -> dict[str, str]:
        """`array_format`; empty if there is none."""
        return dict(self.array_format or {})

    @property
    def n_taken_out(self) -> int:
        """Resultants at the start of the read pattern that are not planes of the L1 cube: 0 or 1,
        the reference read."""
        return 0 if self.reference_read is None else 1

    @property
    def has_extra_plane(self) -> bool:
        """Whether the cubes of reference files have one plane more than the exposure."""
        return bool(self.n_taken_out) if self.extra_plane is None else self.extra_plane

    @property
    def window(self) -> list[int] | None:
        """The guide window (xstart, xstop, ystart, ystop), given or of a condition; or None."""
        if self.guide_window is not None:
            return [int(v) for v in self.guide_window]
        if "guide_window" in self.conditions:
            return [self.side // 2 - 8, self.side // 2 + 8] * 2
        if "guide_window_edge" in self.conditions:
            return [0, 16, self.side - 16, self.side]
        return None

    def run(self) -> Run:
        """What all parts of the simulation share; no condition has its places yet."""
        pattern = [list(reads) for reads in self.read_pattern or ()]
        noise = (OBSERVATORY_NOISE if self.of_observatory else NOISE) | dict(self.noise or {})
        return Run(self.side, pattern, self.frame_time, self.seeds, noise, self.threads)

    @property
    def seeds(self) -> Seeds:
        """Those that are not given are that of the exposure."""
        detector, sky = (
            self.seed if seed is None else seed for seed in (self.detector_seed, self.sky_seed)
        )
        return Seeds(self.seed, detector, sky)

    @property
    def folder(self) -> Path:
        """Where the reference files lie."""
        return self.directory / "cal" if self.cal is None else self.cal
