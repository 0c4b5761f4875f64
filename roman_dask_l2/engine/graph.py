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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, Task, TaskRef

from ..core.detector import Grid
from ..core.step import VARIABLES, BoundStep
from ..io.references import Inputs
from ..io.spill import Spilled
from .measuring import Flow, measure_segment
from .plan import Segment, Sink, Tap, input_names, last_writers, make_segments, stackable
from .spilling import Scratch
from .tasks import constant, named, references_to, unique
from .tiles import TilePlan, pick_seconds, pick_variable, run_tile, run_tiles, total_seconds

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
    last = last_writers(segments)
    flow = Flow(inputs, shared, {}, {}, {}, [])
    spilled: list[Spilled] = []
    done: list[BoundStep] = []
    work: list[dict[str, int]] = []
    aside: dict[str, int] = {}
    for i, segment in enumerate(segments):
        reducing = measure_segment(segment.steps, done, flow, scratch, spilled)
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
class Ramp:
    """A member of a stack.

    Attributes
    ----------
    inputs : Inputs
    sinks : mapping of str to Sink
        Where what is made of it is put: the same variables for all members.
    after : sequence of Delayed
        What must be done before it is read.
    taps : sequence of Tap
    scratch : Scratch, optional
        See `build`, both.
    """

    inputs: Inputs
    sinks: Mapping[str, Sink]
    after: Sequence[Delayed] = ()
    taps: Sequence[Tap] = ()
    scratch: Scratch | None = None


def build_stack(
    steps: Sequence[BoundStep],
    ramps: Sequence[Ramp],
    grid: Grid,
    in_flight: int | None = None,
) -> list[Lazy]:
    """The same for ramps that share their references: the task of a tile works on all of them, and
    reads each window of a reference array once, see `kernels.run_stack`.

    Returns
    -------
    list of Lazy
        For each ramp. What they share, `seconds`, `work` and `aside`, is in all of them.

    Raises
    ------
    ValueError
        If not all that passes from segment to segment has a sink, see `plan.stackable`.
    """
    names = list(ramps[0].sinks)
    if not stackable(steps, names):
        raise ValueError(f"a stack needs a sink for all that passes between segments, has {names}")
    segments = make_segments(steps, names)
    flows = [
        Flow(ramp.inputs, constant("inputs", ramp.inputs, ramp.after), {}, {}, {}, [])
        for ramp in ramps
    ]
    # In one piece: on a worker too a source that ramps share is one object.
    after = list({done.key: done for ramp in ramps for done in ramp.after}.values())
    shared = constant("stack", [ramp.inputs for ramp in ramps], after)
    lazy = [Lazy({}, flow.measured, [], [], {}, []) for flow in flows]
    seconds: list[Delayed] = []
    done: list[BoundStep] = []
    for segment in segments:
        work: dict[str, int] = {}
        for i, (flow, ramp, one) in enumerate(zip(flows, ramps, lazy, strict=True)):
            earlier = [*zip(ramps[:i], flows[:i], strict=True)]
            twin = next((f for r, f in earlier if _same_ramp(r, ramp, segment, done)), None)
            if twin is None:
                work |= measure_segment(segment.steps, done, flow, ramp.scratch, one.spilled)
            else:
                flow.measured.update(twin.measured)
        done += segment.steps
        if not segment.leave:
            for one in lazy:
                one.aside.update(work)
            continue
        names_ = {b.name for b in segment.steps}
        plans = []
        for flow, ramp in zip(flows, ramps, strict=True):
            stored = {name: flow.stored[name] for name in segment.enter}
            putting = {name: ramp.sinks[name] for name in segment.leave}
            taps_ = [tap for tap in ramp.taps if tap.step in names_]
            plans.append(TilePlan(segment, [], stored, putting, taps_))
        found = [{k: v for k, v in flow.measured.items() if k in names_} for flow in flows]
        plan = constant("plan", plans)
        given = {
            "plans": TaskRef(plan.key),
            "inputs": TaskRef(shared.key),
            "measured": List(*map(named, found)),
        }
        needed = [plan, shared, *(value for values in found for value in values.values())]
        ready = list(seconds) if segment.enter else []
        tiles, spent = _chain(segment, grid, run_tiles, given, needed, ready, in_flight)
        seconds.append(spent)
        for flow, tile_plan, one in zip(flows, plans, lazy, strict=True):
            flow.stored.update(tile_plan.sinks)
            flow.seconds.append(spent)
            one.seconds.append(spent)
            one.work.append(work | {tiles.name: math.prod(grid.shape)})
    return lazy


def _same_ramp(one: Ramp, other: Ramp, segment: Segment, done: Sequence[BoundStep]) -> bool:
    """Whether the steps of a segment measure the same on two ramps: before all tiles, of inputs
    that they share."""
    measuring = [b for b in segment.steps if b.step.reduction is not None]
    if one.inputs.exposure != other.inputs.exposure or not measuring:
        return False
    reductions = [(b.step.reduction, b.step.spill) for b in measuring]
    if any(reduction and not reduction.thin or spill for reduction, spill in reductions):
        return False
    used = [*done, *segment.steps[: segment.steps.index(measuring[-1]) + 1]]
    names = {name for b in used for name in input_names(b)}
    return all(one.inputs.same(other.inputs, name) for name in names)


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
    flow: Flow,
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
    if entering:
        name = unique(segment.label)
        seconds, end = _timing(name, segment, grid)
        tiles = _overlapped(name, entering, segment.halo, grid, flow, plan, measured, ready)
        whole = HighLevelGraph.from_collections(end, seconds, list[Any]([tiles]))
        return _Tiles(name, tiles.dask, grid), Delayed(end, whole, layer=end)
    given = {
        "plan": TaskRef(plan.key),
        "inputs": TaskRef(flow.shared.key),
        "measured": named(measured),
    }
    needed: list[Any] = [plan, flow.shared, *measured.values()]
    return _chain(segment, grid, run_tile, given, needed, ready, in_flight)


def _timing(name: str, segment: Segment, grid: Grid) -> tuple[dict[Any, Task], str]:
    """Tasks for the time spent on the tiles `name`, and the key of that on all."""
    spent, end = f"{name}-seconds", unique(f"{segment.label}-finished")
    seconds: dict[Any, Task] = {
        (spent, *place): Task((spent, *place), pick_seconds, TaskRef((name, *place)))
        for place in np.ndindex(*grid.shape)
    }
    seconds[end] = Task(end, total_seconds, List(*map(TaskRef, seconds)))
    return seconds, end


def _chain(
    segment: Segment,
    grid: Grid,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    needed: Sequence[Any],
    ready: Sequence[Delayed],
    in_flight: int | None,
) -> tuple[_Tiles, Delayed]:
    """A task ``function(window, **given, ready=...)`` for each tile, of which only `in_flight` are
    under way at a time; `needed` are the collections behind `given`."""
    name = unique(segment.label)
    seconds, end = _timing(name, segment, grid)
    places = list(np.ndindex(*grid.shape))
    tasks: dict[Any, Task] = {}
    for i, place in enumerate(places):
        before: list[Any] = []
        if in_flight is not None and i >= in_flight:
            before = [(f"{name}-seconds", *places[i - in_flight])]
        tasks[(name, *place)] = Task(
            (name, *place),
            function,
            grid.window(*place),
            **given,
            ready=List(*references_to(ready), *map(TaskRef, before)),
        )
    whole = HighLevelGraph.from_collections(
        name, tasks | seconds, dependencies=list[Any]([*needed, *ready])
    )
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
    flow: Flow,
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
