"""From a recipe to lazy Dask arrays. The only module that builds Dask graphs.

A recipe's steps are cut into segments. Within a segment each tile is read once, with the halo that
all its steps need together, and the kernels run on it in turn; between segments arrays flow
through the Dask graph, halos exchanged by ``dask.array.overlap``. The default puts all steps on
the three-dimensional ramp into one segment; per-step mode puts every step into one of its own.
The numbers are the same, because a kernel's result on a pixel depends only on its halo.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, Task, TaskRef

from ..core.detector import Grid, Window
from ..core.step import VARIABLES, BoundStep
from ..io.references import Inputs
from ..io.spill import Spilled
from .kernels import combine_partials, partial_of, reduce_strip
from .plan import Segment, Sink, Tap, feeding, make_segments
from .spilling import Scratch, after_writing, spill_of, strip_array, with_strips, write_strip
from .tasks import constant, last_task, named, references_to, unique
from .tiles import TilePlan, pick_seconds, pick_variable, run_tile, total_seconds

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True)
class Lazy:
    """A pipeline as lazy Dask collections.

    Attributes
    ----------
    arrays : dict of str to dask.array.Array
        Variables on the full frame, one chunk per tile.
    measured : dict of str to Delayed
        Step name -> what its reduction finds.
    seconds : list of Delayed
        For each segment, the time `Spent`. Once these are there, all tiles are finished and what
        goes to a sink has been put there.
    work : list of dict of str to int
        The names of the tasks that do the work of these segments, and how many each has.
    aside : dict of str to int
        The same for what is measured and no tile waits for.
    spilled : list of Spilled
        Corrections in the scratch store; once all of `seconds` are there nobody reads them.
    """

    arrays: dict[str, da.Array]
    measured: dict[str, Delayed]
    seconds: list[Delayed]
    work: list[dict[str, int]]
    aside: dict[str, int]
    spilled: list[Spilled]


def build(
    steps: Sequence[BoundStep],
    inputs: Inputs,
    grid: Grid,
    results: Iterable[str],
    per_step: bool = False,
    after: Sequence[Delayed] = (),
    sinks: Mapping[str, Sink] | None = None,
    taps: Sequence[Tap] = (),
    in_flight: int | None = None,
    scratch: Scratch | None = None,
) -> Lazy:
    """Build the Dask graph of a recipe on one exposure. Reads no pixels.

    Parameters
    ----------
    steps : sequence of BoundStep
        Those that apply, see `applicable`.
    inputs : Inputs
    grid : Grid
    results : iterable of str
        Variables that the caller wants as lazy arrays.
    per_step : bool
        One Dask layer per step instead of one task per tile.
    after : sequence of Delayed
        What must be done before the first tile is read, such as writing what it reads.
    sinks : mapping of str to Sink, optional
        Variables that are put somewhere by the task that makes them, and read there by later
        segments: no frame stays in memory or travels between workers.
    taps : sequence of Tap, optional
        Variables to put somewhere as they are after some step.
    in_flight : int, optional
        Tile i waits for tile i - `in_flight`. Dask takes tiles in an order that has no regard to
        where they lie; neighbours in turn find more of what they read unpacked or cached.
    scratch : Scratch, optional
        Where steps with a `Spill` put their corrections; without it they stay in memory.
    """
    sinks = dict(sinks or {})
    results = [name for name in results if name not in sinks]
    segments = make_segments(steps, [*results, *sinks], per_step)
    shared = constant("inputs", inputs, after)
    # Where several segments write a variable, only its last version goes to the sink; or one that
    # it is as good as never different from.
    last = {
        name: i
        for i, s in enumerate(segments)
        for b in s.steps
        for name in b.step.writes
        if b.step.idle is None
    }
    flow = _Flow(inputs, shared, {}, {}, {}, [])
    spilled: list[Spilled] = []
    done: list[BoundStep] = []
    work: list[dict[str, int]] = []
    aside: dict[str, int] = {}
    for i, segment in enumerate(segments):
        reducing: dict[str, int] = {}
        for j, bound in enumerate(segment.steps):
            if bound.step.reduction is not None:
                before = [*done, *segment.steps[:j]]
                found = _reduction(bound, before, flow, reducing)
                if bound.step.spill is not None:
                    found = _corrected(bound, found, flow, scratch, spilled)
                flow.measured[bound.name] = found
        done += segment.steps
        if not segment.leave:
            aside |= reducing
            continue
        putting = {n: sinks[n] for n in segment.leave if n in sinks and last.get(n, 0) <= i}
        tiles, seconds = _tiles(segment, grid, flow, putting, taps, in_flight)
        work.append(reducing | {tiles.name: math.prod(grid.shape)})
        for name in segment.leave:
            if name not in putting:
                flow.arrays[name] = _variable(tiles, name, grid, inputs.exposure.n_resultants)
        flow.stored.update(putting)
        flow.seconds.append(seconds)
    arrays = {name: flow.arrays[name] for name in results}
    return Lazy(arrays, flow.measured, flow.seconds, work, aside, spilled)


@dataclass(frozen=True)
class _Flow:
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


_OBJECTS = np.empty((0, 0), object)


def _windows(grid: Grid) -> da.Array:
    """The tiles' windows as a Dask array of one element per tile."""
    import dask.array as da

    ny, nx = grid.shape
    values = np.empty((ny, nx), object)
    for iy in range(ny):
        for ix in range(nx):
            values[iy, ix] = grid.window(iy, ix)
    return da.from_array(values, chunks=1, name=f"windows-{uuid.uuid4().hex}", asarray=False)


def _tiles(
    segment: Segment,
    grid: Grid,
    flow: _Flow,
    putting: Mapping[str, Sink],
    taps: Sequence[Tap],
    in_flight: int | None,
) -> tuple[_Tiles, Delayed]:
    """Finished tiles (dicts) of one segment, and the time `Spent` on all."""
    stored = {name: flow.stored[name] for name in segment.enter if name in flow.stored}
    entering = [name for name in segment.enter if name not in stored]
    names = {b.name for b in segment.steps}
    measured = {k: v for k, v in flow.measured.items() if k in names}
    tapped = [tap for tap in taps if tap.step in names]
    plan = constant("plan", TilePlan(segment, entering, stored, dict(putting), tapped))
    ready = list(flow.seconds) if stored else []
    name = unique(segment.label)
    spent, end = unique(f"{segment.label}-seconds"), unique(f"{segment.label}-finished")
    places = list(np.ndindex(*grid.shape))
    seconds: dict[Any, Task] = {
        (spent, *place): Task((spent, *place), pick_seconds, TaskRef((name, *place)))
        for place in places
    }
    seconds[end] = Task(end, total_seconds, List(*map(TaskRef, seconds)))
    if entering:
        tiles = _overlapped(name, entering, segment.halo, grid, flow, plan, measured, ready)
        whole = HighLevelGraph.from_collections(end, seconds, list[Any]([tiles]))
        return _Tiles(name, tiles.dask, grid), Delayed(end, whole, layer=end)
    tasks: dict[Any, Task] = {}
    for i, place in enumerate(places):
        before = [] if in_flight is None or i < in_flight else [(spent, *places[i - in_flight])]
        tasks[(name, *place)] = Task(
            (name, *place),
            run_tile,
            grid.window(*place),
            plan=TaskRef(plan.key),
            inputs=TaskRef(flow.shared.key),
            measured=named(measured),
            ready=List(*references_to(ready), *map(TaskRef, before)),
        )
    needed: list[Any] = [plan, flow.shared, *measured.values(), *ready]
    whole = HighLevelGraph.from_collections(name, tasks | seconds, dependencies=needed)
    return _Tiles(name, whole, grid), Delayed(end, whole, layer=name)


@dataclass(frozen=True)
class _Tiles:
    """Keys (name, iy, ix) of a graph."""

    name: str
    graph: HighLevelGraph
    grid: Grid

    def array(self) -> da.Array:
        """As a Dask array of objects, one for each tile."""
        import dask.array as da

        ny, nx = self.grid.shape
        return da.Array(self.graph, self.name, ((1,) * ny, (1,) * nx), meta=_OBJECTS)


def _overlapped(
    name: str,
    entering: Sequence[str],
    halo: int,
    grid: Grid,
    flow: _Flow,
    plan: Delayed,
    measured: Mapping[str, Delayed],
    ready: Sequence[Delayed],
) -> da.Array:
    """Tiles of a segment that gets variables through Dask, with their halo."""
    import dask.array as da

    arrays: list[Any] = []
    for variable in entering:
        array = flow.arrays[variable]
        if halo:
            depth = (*(0,) * (array.ndim - 2), halo, halo)
            array = da.overlap.overlap(
                array, depth=dict(enumerate(depth)), boundary="none", allow_rechunk=False
            )
        arrays += [array, "ryx"[-array.ndim :]]
    return da.blockwise(
        run_tile,
        "yx",
        _windows(grid),
        "yx",
        *arrays,
        plan=plan,
        inputs=flow.shared,
        measured=dict(measured),
        ready=list(ready),
        name=name,
        concatenate=True,
        align_arrays=False,
        dtype=object,
        meta=_OBJECTS,
    )


def _variable(tiles: _Tiles, name: str, grid: Grid, n_resultants: int) -> da.Array:
    """One variable of finished tiles as a Dask array."""
    import dask.array as da

    variable = VARIABLES[name]
    lead = variable.lead(n_resultants)
    chunks = (*((n,) for n in lead), *grid.chunks)
    return da.map_blocks(
        pick_variable,
        tiles.array(),
        name,
        name=f"{name}-{uuid.uuid4().hex}",
        dtype=variable.dtype,
        chunks=chunks,
        new_axis=[0] if lead else None,
        meta=np.empty((0,) * len(chunks), variable.dtype),
    )


def _reduction(
    bound: BoundStep, before: Sequence[BoundStep], flow: _Flow, work: dict[str, int]
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
    flow: _Flow,
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
