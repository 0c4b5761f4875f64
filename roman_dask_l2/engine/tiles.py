"""What the task of a tile does: read, run the kernels, put the results where they belong."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.detector import Window
from ..core.step import VARIABLES, Tile
from ..io.references import Inputs
from .kernels import Member, run_stack, run_steps
from .plan import Segment, Sink, Tap

SECONDS = "seconds"
"""Key of a finished tile under which the time spent in each step stands."""
STORING = "store"
"""What the time is called that a tile spends on putting its results where they belong."""


# -- tasks: what runs on a worker ----------------------------------------------------------------


@dataclass(frozen=True)
class TilePlan:
    """What the tiles of a segment share.

    Attributes
    ----------
    segment : Segment
    entering : list of str
        Variables that come through Dask.
    stored : dict of str to Sink
        Variables that were stored by earlier segments.
    sinks : dict of str to Sink
        Where variables are put; they are not among the finished arrays.
    taps : list of Tap
    """

    segment: Segment
    entering: list[str]
    stored: dict[str, Sink]
    sinks: dict[str, Sink]
    taps: list[Tap]

    def nothing_to_do(self, measured: Mapping[str, Any]) -> bool:
        """Whether all that the segment makes is stored already."""
        there = all(name in self.stored and name in self.sinks for name in self.segment.leave)
        return (there and not self.taps) and all(
            b.step.idle is not None and b.step.idle(measured[b.name]) for b in self.segment.steps
        )

    def tapping(self, core: Window, outer: Window) -> Callable[..., None]:
        """What puts variables that are tapped on a tile, as `run_steps` calls it."""
        cut = core.within(outer)

        def tapped(step: str, variables: Mapping[str, np.ndarray]) -> None:
            for tap in self.taps:
                if tap.step == step:
                    tap.sink.put(variables[tap.variable][(..., *cut)], core)

        return tapped


def run_tile(
    window: Window | np.ndarray,
    *arrays: np.ndarray,
    plan: TilePlan,
    inputs: Inputs,
    measured: Mapping[str, Any],
    ready: Any,
) -> np.ndarray:
    """One tile of a segment: a 1 x 1 object array that holds a dict of finished arrays.

    `arrays` are the variables that enter through Dask, with a window in a 1 x 1 array; `ready` says
    that all others are stored.
    """
    if isinstance(window, np.ndarray):
        if window.size == 0:  # Dask asks for the type
            return np.empty((0, 0), object)
        core: Window = window[0, 0]
    else:
        core = window
    segment = plan.segment
    side = inputs.exposure.side
    if plan.nothing_to_do(measured):
        return boxed({SECONDS: dict.fromkeys([*(b.name for b in segment.steps), STORING], 0.0)})
    outer = core.grown(segment.halo, side)
    seconds: dict[str, float] = {}
    variables = dict(zip(plan.entering, arrays, strict=True))
    variables |= {name: sink.read(outer) for name, sink in plan.stored.items()}
    cut = core.within(outer)
    tile, tapped = Tile(outer, side), plan.tapping(core, outer)
    have = run_steps(segment.steps, variables, tile, inputs, measured, seconds, tapped)
    began = time.thread_time()
    for name, sink in plan.sinks.items():
        sink.put(np.asarray(have[name][(..., *cut)], VARIABLES[name].dtype), core)
    seconds[STORING] = time.thread_time() - began
    # Copies, so that a small trimmed result does not keep the whole tile with its halo alive.
    done: dict[str, Any] = {
        name: np.array(have[name][(..., *cut)], dtype=VARIABLES[name].dtype)
        for name in segment.leave
        if name not in plan.sinks
    }
    done[SECONDS] = seconds
    return boxed(done)


def run_tiles(
    window: Window,
    plans: Sequence[TilePlan],
    inputs: Sequence[Inputs],
    measured: Sequence[Mapping[str, Any]],
    ready: Any,
) -> np.ndarray:
    """One tile of a segment of several ramps that share references; all goes to sinks."""
    segment = plans[0].segment
    side = inputs[0].exposure.side
    outer = window.grown(segment.halo, side)
    cut = window.within(outer)
    seconds = dict.fromkeys([*(b.name for b in segment.steps), STORING], 0.0)
    todo, members = [], []
    for plan, given, found in zip(plans, inputs, measured, strict=True):
        if not plan.nothing_to_do(found):
            stored = {name: sink.read(outer) for name, sink in plan.stored.items()}
            todo.append(plan)
            members.append(Member(given, stored, found, plan.tapping(window, outer)))
    have = run_stack(segment.steps, members, Tile(outer, side), seconds)
    began = time.thread_time()
    for plan, variables in zip(todo, have, strict=True):
        for name, sink in plan.sinks.items():
            sink.put(np.asarray(variables[name][(..., *cut)], VARIABLES[name].dtype), window)
    seconds[STORING] = time.thread_time() - began
    return boxed({SECONDS: seconds})


def boxed(value: Any) -> np.ndarray:
    box = np.empty((1, 1), object)
    box[0, 0] = value
    return box


def pick_variable(box: np.ndarray, name: str) -> np.ndarray:
    """One array of a finished tile."""
    return box[0, 0][name] if box.size else np.empty((0, 0))


def pick_seconds(box: np.ndarray) -> dict[str, float]:
    """Time that a tile spent in each step."""
    seconds: dict[str, float] = box[0, 0][SECONDS]
    return seconds


def total_seconds(tiles: Sequence[Mapping[str, float]]) -> Spent:
    """Runs when the last tile of a segment is finished."""
    steps = {name: sum(seconds[name] for seconds in tiles) for name in tiles[0]}
    return Spent(steps, time.time())


@dataclass(frozen=True)
class Spent:
    """Where the time of a segment went.

    Attributes
    ----------
    steps : dict of str to float
        Processor time of each step, summed over tiles, s.
    finished : float
        Unix time at which the last tile was finished.
    """

    steps: dict[str, float]
    finished: float
