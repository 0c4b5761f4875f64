"""What the report of an exposure is based on: its L2 file and the files that belong to it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..products.quality import degrees_of_freedom, reduced_chi_square
from . import expected, layers
from .image_scan import L2, ImageScan, scan_image
from .replay import Jumps, Ramp, Replay, find_jumps, open_replay, show_ramps


@dataclass
class Facts:
    """What a report is based on; `why_no_replay` and `why_no_noise` say why one is missing."""

    l2: L2
    seen: ImageScan
    replay: Replay | None
    ramps: list[Ramp]
    jumps: Jumps | None
    noise: layers.NoiseFile | None
    looked: list[layers.Seen]
    why_no_replay: str
    why_no_noise: str
    strange_noise: bool

    @property
    def chi_square(self) -> float | None:
        if not expected.reduced(self.l2):
            return None
        return reduced_chi_square(self.seen.chisq, degrees_of_freedom(self.l2.exposure))

    @property
    def expected_chi_square(self) -> float:
        return expected.chi_square(self.l2, self.seen, self.replay)

    @property
    def pixels(self) -> int:
        return self.l2.side**2


def gather(l2: L2, given: Path | None) -> Facts:
    """Read the image and the files that belong to it, once."""
    noise, strange, why_no_noise = None, False, "The configuration has no NOISE block."
    path = given or layers.find_noise(l2)
    if path is not None and given is None and not os.path.exists(path):
        why_no_noise = f"{path} is not there."
    elif path is not None:
        try:
            noise = layers.open_noise(path, l2)
        except InputError as error:
            if given is not None:
                raise
            why_no_noise, strange = error.problems[0], True
    seen = scan_image(l2)
    looked = layers.look(noise, l2, seen) if noise is not None else []
    replay, ramps, jumps, why_no_replay = None, [], None, ""
    try:
        replay = open_replay(l2)
        ramps, jumps = show_ramps(replay, seen.candidates), find_jumps(replay, l2)
    except InputError as error:
        why_no_replay = error.problems[0]
    return Facts(
        l2, seen, replay, ramps, jumps, noise, looked, why_no_replay, why_no_noise, strange
    )


def medsky(l2: L2) -> float:
    value = l2.info.get("medsky")
    return float(value) if isinstance(value, int | float) else math.nan
