"""The ramps behind an L2 image, computed again from the L1 file by the same steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import BORDER, Window
from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.step import BoundStep, Tile
from ..engine import kernels, plan
from ..errors import InputError
from ..io.l1 import open_l1
from ..io.layout import Layout, known_layout
from ..io.references import Inputs, open_inputs
from ..steps.ramp_subsets import EXCLUDING
from ..steps.registry import find_step
from .image_scan import L2

KINDS = ("normal", "cosmic ray", "saturating", "hot")
"""Kinds of ramps that are shown."""
SEEN = ("ramp", "groupdq", "rate", "dq", "endslice")
DIFFERENCES = "unused"
"""Variable of a fit of differences of resultants: those that it does not use."""
BANDS, ROWS = 8, 32
"""Number of bands, and rows in each, whose ramps are all computed again."""
AROUND = 2
"""Pixels around the one whose ramp is wanted, so that its window is not empty at the edge."""


@dataclass(frozen=True)
class Replay:
    """The steps up to the ramp fit, ready to be run again on any window.

    Attributes
    ----------
    steps : list of BoundStep
    inputs : Inputs
    measured : mapping
        Step name -> what its reduction found.
    """

    steps: Sequence[BoundStep]
    inputs: Inputs
    measured: Mapping[str, Mapping[str, Any]]

    @property
    def exposure(self) -> Exposure:
        return self.inputs.exposure

    @property
    def takes_out_jumps(self) -> bool:
        """Whether the ramp fit leaves out the differences that a jump has raised."""
        return DIFFERENCES in self.steps[-1].step.writes

    def run(self, window: Window) -> dict[str, np.ndarray]:
        """The variables `SEEN` on a window of the full frame, the ramp as it is fitted; if there is
        a step linearity, the ramp after it as ``with_dark``; and if the fit takes jumps out of the
        ramp, the differences (R - 1, y, x) that it does not use as ``unused``, and of them those
        that it took for jumps as ``dropped``."""
        side = self.exposure.side
        seen = (*SEEN, DIFFERENCES) if self.takes_out_jumps else SEEN
        outer = window.grown(plan.summed_halo(self.steps, seen), side)
        tile = Tile(outer, side)
        kept: dict[str, np.ndarray] = {}

        def keep(step: str, variables: Mapping[str, np.ndarray]) -> None:
            if step == "linearity":
                kept["with_dark"] = variables["ramp"].copy()

        have = kernels.run_steps(self.steps, {}, tile, self.inputs, self.measured, taps=keep)
        kept |= {name: have[name] for name in seen}
        if self.takes_out_jumps:
            unused = kept[DIFFERENCES] = kept[DIFFERENCES][:-1] != 0
            after = getattr(self.steps[-1].params, "flag_resultant", "after") == "after"
            flags = have["groupdq"][1:] if after else have["groupdq"][:-1]
            kept["dropped"] = unused & (flags & GROUP["JUMP_DET"] != 0)
        return {name: values[(..., *window.within(outer))] for name, values in kept.items()}

    def scalar(self, name: str) -> float | None:
        """A number of a reference file, None if it is not there."""
        source = self.inputs.sources.get(name)
        return None if source is None else float(source.read())

    def median(self, name: str, *plane: int) -> float | None:
        """Median of a reference array on the active pixels of every eighth row."""
        source = self.inputs.sources.get(name)
        if source is None:
            return None
        n = self.exposure.side
        rows = [
            source.read(Window(y, y + 1, 0, n))[(*plane, ..., slice(BORDER, n - BORDER))].ravel()
            for y in range(BORDER, n - BORDER, 8)
        ]
        values = np.concatenate(rows)
        values = values[np.isfinite(values)]
        return float(np.median(values)) if values.size else None

    def at(self, name: str, places: np.ndarray) -> np.ndarray | None:
        """Values of a reference array at active pixels, whose rows, ascending, and columns are the
        lines of `places`; only these rows are read."""
        source = self.inputs.sources.get(name)
        if source is None:
            return None
        if not places.size:
            return np.zeros(0, np.float32)
        rows, first = np.unique(places[0], return_index=True)
        columns = np.split(places[1] + BORDER, first[1:])
        n = self.exposure.side
        parts = [
            source.read(Window(y, y + 1, 0, n))[0, x]
            for y, x in zip((rows + BORDER).tolist(), columns, strict=True)
        ]
        return np.concatenate(parts)


def open_replay(l2: L2) -> Replay:
    """Open the files that an image was made from, and measure what its steps measured.

    Raises
    ------
    InputError
        Saying which file is not at hand or not the same any more, or which step is not ours.
    """
    made = l2.info.get("provenance", {})
    recipe = made.get("recipe", {})
    if recipe.get("code"):
        raise InputError(f"the step {next(iter(recipe['code']))} is not part of this program")
    steps = _steps(recipe)
    wanted = {"IN"} | {name.partition(".")[0] for b in steps for name in _references(b)}
    layouts = {
        key: _at_hand(key, file, l2.path.parent)
        for key, file in made.get("files", {}).items()
        if key in wanted
    }
    if "IN" not in layouts:
        raise InputError("the image does not say which Level-1 file it was made from")
    l1, exposure = open_l1(
        Path(layouts["IN"].path), exclude_first=bool(l2.info.get("exclude_first", True))
    )
    references = {key: Path(f.path) for key, f in layouts.items() if key not in ("IN", "l1")}
    inputs, problems = open_inputs(l1, exposure, references)
    if problems:
        raise InputError(problems)
    steps = plan.applicable(steps, inputs)
    return Replay(steps, inputs, kernels.measure(steps, inputs))


def _steps(recipe: Mapping[str, Any]) -> list[BoundStep]:
    """The recipe's steps up to the ramp fit, with the options that they had."""
    steps = []
    for entry in recipe.get("steps", []):
        name, options = next(iter(entry.items()))
        step = find_step(name, "the image")
        steps.append(BoundStep(step, step.params(**options)))
        if step.cal_step == "ramp_fit":
            return steps
    raise InputError("the recipe has no ramp fit of ours")


def _references(bound: BoundStep) -> list[str]:
    step, params = bound.step, bound.params
    names = list(step.references_for(params).values())
    if step.reduction is not None:
        names += step.reduction.references_for(params).values()
        names += step.reduction.whole.values()
    if step.spill is not None:
        names += step.spill.references.values()
    return names


def _at_hand(key: str, file: Mapping[str, Any], folder: Path) -> Layout:
    """An input file where it was, or beside the image, if it is still the same."""
    path = Path(file["path"])
    if not path.exists():
        path = folder / file["name"]
    if not path.exists():
        raise InputError(f"{key}, {file['path']}, is not there")
    layout = known_layout(path)
    if layout.content != file["content"]:
        raise InputError(f"{key}, {path}, is not the file that the image was made from")
    return layout


@dataclass(frozen=True)
class Ramp:
    """One pixel's ramp.

    Attributes
    ----------
    kind : str
    y, x : int
        On the active array.
    signal : ndarray (R,)
        Linear DN, as fitted.
    flags : ndarray (R,) of uint8
    rate : float
        Fitted slope, before the flat, DN/s.
    end : int
        Resultants before saturation.
    with_dark : ndarray (R,) or None
        Linear DN, before dark current is subtracted.
    excluded : ndarray (R,) of bool or None
        Resultants that were left out of the fit because of their flags; None: none.
    unused : ndarray (R - 1,) of bool or None
        Differences to the next resultant that the fit does not use; None: it fits resultants.
    dropped : ndarray (R - 1,) of bool or None
        Of them, those that it took for jumps.
    """

    kind: str
    y: int
    x: int
    signal: np.ndarray
    flags: np.ndarray
    rate: float
    end: int
    with_dark: np.ndarray | None = None
    excluded: np.ndarray | None = None
    unused: np.ndarray | None = None
    dropped: np.ndarray | None = None

    def segments(self) -> list[np.ndarray]:
        """Resultants between which all differences are used, for each row of such differences."""
        assert self.unused is not None
        edges = np.diff((~self.unused).astype(np.int8), prepend=0, append=0)
        starts, ends = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
        return [np.arange(a, b + 1) for a, b in zip(starts, ends, strict=True)]


def show_ramps(
    replay: Replay, candidates: Mapping[str, list[tuple[float, int, int]]]
) -> list[Ramp]:
    """A ramp of each kind: the best candidate; of those that saturate the one with the clearest
    turn in its middle, of jumps that were taken out the one that is as high as the ramp."""
    chosen = []
    for kind in KINDS:
        places = candidates.get(kind)
        if not places:
            continue
        if kind == "saturating":
            ramps = [_ramp(replay, kind, y, x) for _, y, x in places]
            middle = replay.exposure.n_resultants / 2
            chosen.append(min(ramps, key=lambda ramp: abs(ramp.end - middle - 0.5)))
        elif kind == "cosmic ray" and replay.takes_out_jumps:
            ramps = [_ramp(replay, kind, y, x) for _, y, x in places]
            chosen.append(min(ramps, key=lambda ramp: _imbalance(ramp, replay.exposure)))
        else:
            _, y, x = places[0]
            chosen.append(_ramp(replay, kind, y, x))
    return chosen


def _imbalance(ramp: Ramp, exposure: Exposure) -> float:
    """How far the heights of the jumps of a ramp and of the rest of it are apart."""
    assert ramp.dropped is not None
    height = float(excess(ramp.signal[:, np.newaxis], exposure)[ramp.dropped].sum())
    rest = float(np.ptp(ramp.signal[exposure.start :])) - height
    ratio = height / max(rest, 1.0)
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def _ramp(replay: Replay, kind: str, y: int, x: int) -> Ramp:
    place = Window(y + BORDER, y + BORDER + 1, x + BORDER, x + BORDER + 1)
    window = place.grown(AROUND, replay.exposure.side)
    have = replay.run(window)
    i, j = place.within(window)
    flags = have["groupdq"][:, i, j].ravel()
    saturated = flags & GROUP["SATURATED"] != 0
    end = int(np.argmax(saturated)) if saturated.any() else len(flags)
    signal = have["ramp"][:, i, j].ravel()
    with_dark = have["with_dark"][:, i, j].ravel() if "with_dark" in have else None
    excludes = any(getattr(b.params, "exclude", False) for b in replay.steps)
    excluded = flags & EXCLUDING != 0 if excludes else None
    rate = float(have["rate"][i, j].item())
    unused, dropped = (
        have[name][:, i, j].ravel() if name in have else None for name in (DIFFERENCES, "dropped")
    )
    return Ramp(kind, y, x, signal, flags, rate, end, with_dark, excluded, unused, dropped)


@dataclass(frozen=True)
class Jumps:
    """When cosmic rays hit some rows.

    Attributes
    ----------
    counts : ndarray (R - 1,) of int
        Jumps between a resultant and the next.
    pixels : int
        Active pixels that were looked at.
    differ : int
        Of them, pixels whose flags are not those of the image.
    """

    counts: np.ndarray
    pixels: int
    differ: int


LATER = PIXEL["SATURATED"] | PIXEL["JUMP_DET"]
"""Flags that only the steps up to the ramp fit set, so that they must be the same in the image."""


def find_jumps(replay: Replay, l2: L2) -> Jumps:
    """Look at all ramps of some bands of rows, evenly spread over the image."""
    exposure = replay.exposure
    side = l2.side
    counts = np.zeros(exposure.n_resultants - 1, np.int64)
    pixels = differ = 0
    dq = l2.array("roman", "dq")
    assert dq is not None
    rows = min(ROWS, side // BANDS)
    for y in np.linspace(0, side - rows, BANDS).astype(int).tolist():
        window = Window(y + BORDER, y + BORDER + rows, BORDER, side + BORDER)
        have = replay.run(window)
        dropped = have.get("dropped")
        jump = have["groupdq"] & GROUP["JUMP_DET"] != 0 if dropped is None else dropped
        hit = jump.any(axis=0)
        charges = excess(have["ramp"][:, hit], exposure)
        reach = 1 if dropped is None else 0
        for flags, charge in zip(jump[:, hit].T, charges.T, strict=True):
            for when in jump_intervals(flags, charge, reach):
                counts[when] += 1
        pixels += hit.size
        stored = dq.read(Window(y, y + rows, 0, side))
        differ += int(np.count_nonzero((stored ^ have["dq"]) & LATER))
    return Jumps(counts, pixels, differ)


def excess(ramps: np.ndarray, exposure: Exposure) -> np.ndarray:
    """The signal gained from each resultant to the next beyond the median of the ramp's rates.

    Parameters
    ----------
    ramps : ndarray (R, n)
        DN. The fitted slope will not do: it is drawn up by the jump, most of all in long intervals.

    Returns
    -------
    ndarray (R - 1, n)
        DN.
    """
    spans = np.diff(exposure.tbar)[:, np.newaxis]
    steps = np.diff(ramps, axis=0)
    return steps - np.median((steps / spans)[exposure.start :], axis=0) * spans


def jump_intervals(flags: np.ndarray, steps: np.ndarray, reach: int = 1) -> list[int]:
    """Between which resultants the jumps of a ramp lie.

    A charge that arrives between resultants i and i + 1 shows in the difference to the next and in
    the one to the next but one, and one amid the reads of a resultant shows before and after it. So
    flags one after the other are one jump, where the ramp rises most.

    Parameters
    ----------
    flags : ndarray of bool
        Resultants (R,) flagged JUMP_DET; or differences (R - 1,) that were taken out of the fit.
    steps : ndarray (R - 1,)
        From `excess`, DN.
    reach : int
        1 if a flag may come from the next but one; 0 if the differences themselves are flagged.

    Returns
    -------
    list of int
        The earlier resultant of each interval.
    """
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    found = []
    for first, end in edges.reshape(-1, 2).tolist():
        found.append(first + int(np.argmax(steps[first : end + reach])))
    return found
