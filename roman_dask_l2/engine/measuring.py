"""Tasks that measure something on the frame before a step works on tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef

from ..core.detector import Window
from ..core.step import BoundStep
from ..io.references import Inputs
from ..io.spill import Spilled
from .kernels import combine_partials, partial_of, reduce_strip
from .plan import Sink, feeding
from .spilling import Scratch, after_writing, spill_of, strip_array, with_strips, write_strip
from .tasks import last_task, named, references_to, unique

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True)
class Flow:
    """What there is so far while a graph is built.

    Attributes
    ----------
    inputs : Inputs
    shared : Delayed
        The inputs as tasks get them.
    arrays : dict of str to dask.array.Array
        Variables that pass through Dask.
    stored : dict of str to Sink
        Variables that wait in a sink, once all of `seconds` are there.
    measured : dict of str to Delayed
    seconds : list of Delayed
    """

    inputs: Inputs
    shared: Delayed
    arrays: dict[str, da.Array]
    stored: dict[str, Sink]
    measured: dict[str, Delayed]
    seconds: list[Delayed]


def measure_segment(
    steps: Sequence[BoundStep],
    done: Sequence[BoundStep],
    flow: Flow,
    scratch: Scratch | None,
    spilled: list[Spilled],
) -> dict[str, int]:
    """Tasks for what the steps of a segment measure, noted in `flow`; `done` are those before it.
    Returns the tasks on finished tiles, and how many there are."""
    work: dict[str, int] = {}
    for j, bound in enumerate(steps):
        if bound.step.reduction is not None:
            found = _reduction(bound, [*done, *steps[:j]], flow, work)
            if bound.step.spill is not None:
                found = _corrected(bound, found, flow, scratch, spilled)
            flow.measured[bound.name] = found
    return work


def _reduction(
    bound: BoundStep, before: Sequence[BoundStep], flow: Flow, work: dict[str, int]
) -> Delayed:
    """What a step measures on the frame, as a delayed mapping; its tasks on finished tiles are
    added to `work`."""
    reduction = bound.step.reduction
    assert reduction is not None
    shared = flow.shared
    windows = reduction.windows(flow.inputs.exposure, bound.params)
    reads = reduction.reads_for(bound.params)
    if reduction.thin:
        thin = feeding(before, reads)
        known = {b.name: flow.measured[b.name] for b in thin if b.name in flow.measured}
        needed = [shared, *known.values()]
        given = TaskRef(shared.key), named(known)
        label, end = unique(f"{bound.name}-measure"), unique(f"{bound.name}-combine")
        tasks: dict[Any, Task] = {
            (label, i): Task((label, i), reduce_strip, window, bound, thin, *given)
            for i, window in enumerate(windows)
        }
        partials = List(*map(TaskRef, tasks))
        tasks[end] = Task(end, combine_partials, partials, bound, TaskRef(shared.key))
        return last_task(end, tasks, needed)
    stored = {name: flow.stored[name] for name in reads if name in flow.stored}
    names = [name for name in reads if name not in stored]
    sources = [flow.arrays[name] for name in names]
    ready = flow.seconds if stored else []
    label, end = unique(f"{bound.name}-measure"), unique(f"{bound.name}-combine")
    tasks = {}
    for i, window in enumerate(windows):
        pieces = [_overlapping(array, window) for array in sources]
        places = {name: [p for _, p in found] for name, found in zip(names, pieces, strict=True)}
        tasks[(label, i)] = Task(
            (label, i),
            _reduce_finished,
            (window, bound, places, stored),
            TaskRef(shared.key),
            List(*(TaskRef(key) for found in pieces for key, _ in found)),
            references_to(ready),
        )
    work[label] = len(windows)
    partials = List(*map(TaskRef, tasks))
    tasks[end] = Task(end, combine_partials, partials, bound, TaskRef(shared.key))
    return last_task(end, tasks, [shared, *sources, *ready])


def _corrected(
    bound: BoundStep,
    found: Delayed,
    flow: Flow,
    scratch: Scratch | None,
    spilled: list[Spilled],
) -> Delayed:
    """What a step has `found` on the frame, with its correction once all strips are made."""
    exposure = flow.inputs.exposure
    spill = spill_of(bound)
    windows = spill.strips(exposure, bound.params)
    label, end = unique(f"{bound.name}-correction"), unique(f"{bound.name}-corrected")
    given = TaskRef(flow.shared.key), TaskRef(found.key)
    keys = [(label, i) for i in range(len(windows))]
    made = List(*map(TaskRef, keys))
    if scratch is None:
        tasks: dict[Any, Task] = {
            key: Task(key, strip_array, window, bound, *given)
            for key, window in zip(keys, windows, strict=True)
        }
        tasks[end] = Task(end, with_strips, TaskRef(found.key), bound, windows, made)
    else:
        shape = (exposure.n_resultants, exposure.side, exposure.side)
        target = scratch.create(label, shape, (1, *windows[0].shape), spill.dtype)
        spilled.append(target)
        tasks = {
            key: Task(key, write_strip, window, bound, target, *given)
            for key, window in zip(keys, windows, strict=True)
        }
        tasks[end] = Task(end, after_writing, TaskRef(found.key), bound, target, made)
    return last_task(end, tasks, [flow.shared, found])


def _overlapping(array: da.Array, window: Window) -> list[tuple[Any, Window]]:
    """Keys of the blocks that overlap a window, with the place of each on the frame."""
    edges = [np.cumsum([0, *sizes]) for sizes in array.chunks[-2:]]
    found = []
    for iy, ix in np.ndindex(*array.numblocks[-2:]):
        place = Window(*(int(v) for v in (*edges[0][iy : iy + 2], *edges[1][ix : ix + 2])))
        if place.intersection(window) is not None:
            lead = (0,) * (array.ndim - 2)
            found.append(((array.name, *lead, iy, ix), place))
    return found


def _reduce_finished(
    what: tuple[Window, BoundStep, Mapping[str, list[Window]], Mapping[str, Sink]],
    inputs: Inputs,
    blocks: list[np.ndarray],
    ready: Any,
) -> Any:
    """A reduction's partial on a window of finished tiles.

    `what` is the window, the step, the places of the `blocks` by variable, and what is stored.
    """
    window, bound, places, stored = what
    reads = {name: sink.read(window) for name, sink in stored.items()}
    rest = iter(blocks)
    for name, found in places.items():
        pieces = [(place, next(rest)) for place in found]
        first = pieces[0][1]
        whole = np.empty((*first.shape[:-2], *window.shape), first.dtype)
        for place, block in pieces:
            both = place.intersection(window)
            assert both is not None
            whole[(..., *both.within(window))] = block[(..., *both.within(place))]
        reads[name] = whole
    return partial_of(window, bound, inputs, **reads)
