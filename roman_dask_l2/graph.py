"""From a recipe to lazy Dask arrays. The only module that builds Dask graphs.

A recipe's steps are cut into segments. Within a segment each tile is read once, with the halo that
all its steps need together, and the kernels run on it in turn; between segments arrays flow
through the Dask graph, halos exchanged by ``dask.array.overlap``. The default puts all steps on
the three-dimensional ramp into one segment; per-step mode puts every step into one of its own.
The numbers are the same, because a kernel's result on a pixel depends only on its halo.
"""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph

from .detector import BORDER, Grid, Window
from .io.references import Inputs
from .recipe import BoundStep
from .step import VARIABLES, Tile, accepted

if TYPE_CHECKING:  # imported where it is needed: a run that stores everything needs no arrays
    import dask.array as da

SECONDS = "seconds"
"""Key of a finished tile under which the time spent in each step stands."""
STORING = "store"
"""What the time is called that a tile spends on putting its results where they belong."""


class Sink(Protocol):
    """Where tasks put a variable tile by tile, and find it again: a place in a file or a store that
    every worker can reach. Putting the same tile twice must do no harm."""

    def put(self, values: np.ndarray, window: Window) -> None:
        """Store `values`, an array on `window` of the full frame."""

    def read(self, window: Window | None = None) -> np.ndarray:
        """What was stored on a window of the full frame."""


@dataclass(frozen=True)
class Tap:
    """A variable that is put somewhere as it is after some step."""

    step: str
    variable: str
    sink: Sink


@dataclass(frozen=True)
class Segment:
    """Steps that run on a tile one after the other.

    Attributes
    ----------
    steps : tuple of BoundStep
    enter : tuple of str
        Variables that come from earlier segments.
    leave : tuple of str
        Variables that later segments or the caller need.
    halo : int
        Pixels beyond the tile that the steps together look at.
    """

    steps: tuple[BoundStep, ...]
    enter: tuple[str, ...]
    leave: tuple[str, ...]
    halo: int

    @property
    def label(self) -> str:
        """What the dashboard and the progress bar call its tasks."""
        return (
            self.steps[0].name
            if len(self.steps) == 1
            else f"{self.steps[0].name}-to-" + (self.steps[-1].name)
        )


# -- the plan: plain data, no Dask ---------------------------------------------------------------


def summed_halo(steps: Sequence[BoundStep], leave: Iterable[str]) -> int:
    """Pixels that `steps` together need around a tile so that `leave` is right inside it.

    Worked out backwards: what a step writes must be right out to some distance, so what it reads
    must be right out to its halo beyond that.
    """
    need = dict.fromkeys(leave, 0)
    total = 0
    for bound in reversed(steps):
        step = bound.step
        reach = max((need.get(w, 0) for w in step.writes), default=0)
        halo = step.halo(bound.params)
        total = max(total, reach + halo, reach + step.reference_halo(bound.params))
        for name in (*step.reads, *step.optional_reads):
            need[name] = max(need.get(name, 0), reach + halo)
    return max(total, *need.values()) if need else total


def make_segments(
    steps: Sequence[BoundStep], results: Iterable[str], per_step: bool = False
) -> list[Segment]:
    """Cut a recipe into segments.

    A new segment begins before a step whose reduction looks at finished tiles, and before one that
    looks beyond its tile at two-dimensional arrays only: exchanging a thin border of those between
    tiles is cheaper than computing the whole ramp on a wider halo.
    """
    groups: list[list[BoundStep]] = []
    for bound in steps:
        step = bound.step
        flat_halo = step.halo(bound.params) > 0 and all(
            VARIABLES[name].dims == "yx" for name in step.reads
        )
        finished = step.reduction is not None and not step.reduction.thin
        if not groups or per_step or flat_halo or finished:
            groups.append([])
        groups[-1].append(bound)

    segments: list[Segment] = []
    needed = set(results)
    for group in reversed(groups):
        made = {w for b in group for w in b.step.writes}
        leave = tuple(sorted(made & needed))
        enter: set[str] = set()
        known: set[str] = set()
        for b in group:
            r = b.step.reduction
            wanted = {*b.step.reads, *b.step.optional_reads, *(r.reads if r else ())}
            enter |= wanted - known
            known |= set(b.step.writes)
        # A segment entered by a variable that it also writes needs the one made before it.
        needed = (needed - made) | enter
        halo = summed_halo(group, leave)
        segments.append(Segment(tuple(group), tuple(sorted(enter)), leave, halo))
    segments.reverse()
    return segments


def run_steps(
    steps: Sequence[BoundStep],
    variables: Mapping[str, np.ndarray],
    tile: Tile,
    inputs: Inputs,
    measured: Mapping[str, Mapping[str, Any]],
    seconds: dict[str, float] | None = None,
    taps: Callable[[str, Mapping[str, np.ndarray]], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run kernels one after the other on one tile. The specification of every other way to run.

    Parameters
    ----------
    steps : sequence of BoundStep
    variables : mapping
        What is there already, on the tile's window.
    tile : Tile
    inputs : Inputs
    measured : mapping
        Step name -> what its reduction found.
    seconds : dict, optional
        Processor time spent in each step (s) is added here.
    taps : callable, optional
        ``taps(step, variables)`` is called after each step.

    Returns
    -------
    dict
        All variables after the last step.
    """
    have = dict(variables)
    wanted = [name for b in steps for name in b.step.references_for(b.params).values()]
    shared: dict[str, Any] = {}
    for b in steps:
        began = time.thread_time()
        references = {}
        for keyword, name in b.step.references_for(b.params).items():
            wanted.remove(name)
            if not inputs.available(name):
                continue
            value = shared.pop(name) if name in shared else inputs.sources[name].read(tile.window)
            if name in wanted:
                shared[name] = value
            references[keyword] = value
        context = {
            "tile": tile,
            "exposure": inputs.exposure,
            "params": b.params,
            "measured": measured.get(b.name, {}),
        }
        reads: dict[str, Any] = {name: have[name] for name in b.step.reads}
        reads |= {name: have.get(name) for name in b.step.optional_reads}
        result = b.step.kernel(**reads, **references, **accepted(b.step.kernel, context))
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(b.step.writes, results, strict=True):
            have[name] = value
        del reads, result, results
        if taps is not None:
            taps(b.name, have)
        if seconds is not None:
            spent = time.thread_time() - began
            seconds[b.name] = seconds.get(b.name, 0.0) + spent
    return have


def feeding(steps: Sequence[BoundStep], reads: Iterable[str]) -> list[BoundStep]:
    """Those of `steps` that have a part in the value of `reads` after the last of them."""
    needed, kept = set(reads), []
    for b in reversed(steps):
        if needed & set(b.step.writes):
            kept.append(b)
            reduced = b.step.reduction.reads if b.step.reduction else ()
            needed |= {*b.step.reads, *b.step.optional_reads, *reduced}
    return kept[::-1]


# -- tasks: what runs on a worker ----------------------------------------------------------------


def _run_tile(
    window: np.ndarray,
    *arrays: np.ndarray,
    plan: _Fixed,
    inputs: Inputs,
    measured: Mapping[str, Any],
    ready: Any,
) -> np.ndarray:
    """One tile of a segment: a 1 x 1 object array that holds a dict of finished arrays.

    `arrays` are the variables `entering` through Dask, others were `stored` (and `ready` says that
    they all are). Variables of `sinks` are put there, and are not among the finished arrays.
    """
    if window.size == 0:  # Dask asks for the type
        return np.empty((0, 0), object)
    segment, entering, stored, sinks, taps = plan.values
    core: Window = window[0, 0]
    side = inputs.exposure.side
    outer = core.grown(segment.halo, side)
    seconds: dict[str, float] = {}
    variables = dict(zip(entering, arrays, strict=True))
    variables |= {name: sink.read(outer) for name, sink in stored.items()}
    cut = core.within(outer)

    def tapped(step: str, variables: Mapping[str, np.ndarray]) -> None:
        for tap in taps:
            if tap.step == step:
                tap.sink.put(variables[tap.variable][(..., *cut)], core)

    tile = Tile(outer, side)
    have = run_steps(segment.steps, variables, tile, inputs, measured, seconds, tapped)
    began = time.thread_time()
    for name, sink in sinks.items():
        sink.put(np.asarray(have[name][(..., *cut)], VARIABLES[name].dtype), core)
    seconds[STORING] = time.thread_time() - began
    # Copies, so that a small trimmed result does not keep the whole tile with its halo alive.
    done: dict[str, Any] = {
        name: np.array(have[name][(..., *cut)], dtype=VARIABLES[name].dtype)
        for name in segment.leave
        if name not in sinks
    }
    done[SECONDS] = seconds
    return _boxed(done)


def _run_stored(
    fixed: _Fixed, plan: _Fixed, inputs: Inputs, measured: Sequence[Any], ready: Any
) -> np.ndarray:
    """`_run_tile` where nothing enters through Dask."""
    window, names = fixed.values
    found = dict(zip(names, measured, strict=True))
    return _run_tile(_boxed(window), plan=plan, inputs=inputs, measured=found, ready=ready)


def _after(value: Any, done: Any) -> Any:
    """`value`, once `done` is there."""
    return value


def _unpacked(fixed: _Fixed, done: Any) -> Any:
    """The one value, once `done` is there."""
    return fixed.values[0]


def _boxed(value: Any) -> np.ndarray:
    box = np.empty((1, 1), object)
    box[0, 0] = value
    return box


def _pick(box: np.ndarray, name: str) -> np.ndarray:
    """One array of a finished tile."""
    return box[0, 0][name] if box.size else np.empty((0, 0))


def _pick_seconds(box: np.ndarray) -> dict[str, float]:
    """Time that a tile spent in each step."""
    seconds: dict[str, float] = box[0, 0][SECONDS]
    return seconds


def _total_seconds(tiles: Sequence[Mapping[str, float]]) -> Spent:
    """Runs when the last tile of a segment is finished."""
    steps = {name: sum(seconds[name] for seconds in tiles) for name in tiles[0]}
    return Spent(steps, time.time())


def _reduce_strip(
    window: Window,
    bound: BoundStep,
    before: Sequence[BoundStep],
    inputs: Inputs,
    measured: Mapping[str, Any],
) -> Any:
    """A thin reduction on one strip: run what precedes on the strip alone, then the partial."""
    reduction = bound.step.reduction
    assert reduction is not None
    side = inputs.exposure.side
    outer = window.grown(summed_halo(before, reduction.reads), side)
    have = run_steps(before, {}, Tile(outer, side), inputs, measured)
    cut = window.within(outer)
    reads = {name: np.ascontiguousarray(have[name][(..., *cut)]) for name in reduction.reads}
    return _partial(window, bound, inputs, **reads)


def _strip(
    window: Window,
    bound: BoundStep,
    before: Sequence[BoundStep],
    names: Sequence[str],
    values: Sequence[Any],
) -> Any:
    """`_reduce_strip`; `values` are the inputs, and what the steps called `names` measured."""
    inputs, *found = values
    return _reduce_strip(window, bound, before, inputs, dict(zip(names, found, strict=True)))


def _partial(window: Window, bound: BoundStep, inputs: Inputs, **reads: np.ndarray) -> Any:
    reduction = bound.step.reduction
    assert reduction is not None
    references = {
        keyword: inputs.sources[name].read(window)
        for keyword, name in reduction.references_for(bound.params).items()
        if inputs.available(name)
    }
    context = {
        "tile": Tile(window, inputs.exposure.side),
        "exposure": inputs.exposure,
        "params": bound.params,
    }
    return reduction.partial(**reads, **references, **accepted(reduction.partial, context))


def _combine(partials: Sequence[Any], bound: BoundStep, inputs: Inputs) -> Mapping[str, Any]:
    reduction = bound.step.reduction
    assert reduction is not None
    whole = {
        keyword: inputs.sources[name].read() if inputs.available(name) else None
        for keyword, name in reduction.whole.items()
    }
    context = {"exposure": inputs.exposure, "params": bound.params}
    return reduction.combine(partials, **whole, **accepted(reduction.combine, context))


def measure(steps: Sequence[BoundStep], inputs: Inputs) -> dict[str, Mapping[str, Any]]:
    """What the thin reductions of a recipe's first steps find, here and now, without Dask.

    Parameters
    ----------
    steps : sequence of BoundStep
        Those that apply, from the first one on, none of them with another kind of reduction.
    inputs : Inputs

    Returns
    -------
    dict
        Step name -> what its kernel gets as ``measured``.
    """
    measured: dict[str, Mapping[str, Any]] = {}
    for i, bound in enumerate(steps):
        reduction = bound.step.reduction
        if reduction is None:
            continue
        before = feeding(steps[:i], reduction.reads)
        windows = reduction.windows(inputs.exposure, bound.params)
        partials = [_reduce_strip(w, bound, before, inputs, measured) for w in windows]
        measured[bound.name] = _combine(partials, bound, inputs)
    return measured


def rehearse(steps: Sequence[BoundStep], inputs: Inputs) -> Iterator[str]:
    """Run kernels on a few blank pixels, the last step first, so that they are compiled.

    Parameters
    ----------
    steps : sequence of BoundStep
        Those that apply. What needs numbers that a thin reduction finds is left out: a run begins
        with that.
    inputs : Inputs

    Yields
    ------
    str
        What has run, or has failed: this does not judge what blank pixels do to a kernel.
    """
    exposure = inputs.exposure
    corner = Window(0, 2 * BORDER, 0, 2 * BORDER)

    def blank(names: Iterable[str], window: Window) -> dict[str, np.ndarray]:
        lead = {"ryx": (exposure.n_resultants,), "yx": ()}
        return {
            name: np.zeros((*lead[v.dims], *window.shape), v.dtype)
            for name in names
            for v in [VARIABLES[name]]
        }

    written = {name for b in steps for name in b.step.writes}
    for bound in reversed(steps):
        step, reduction = bound.step, bound.step.reduction
        if reduction is not None and not reduction.thin:
            window = reduction.windows(exposure, bound.params)[0]
            with contextlib.suppress(Exception):
                _partial(window, bound, inputs, **blank(reduction.reads, window))
            yield f"{bound.name}-measure"
        if reduction is None:
            reads = {*step.reads, *(written & set(step.optional_reads))}
            with contextlib.suppress(Exception):
                run_steps([bound], blank(reads, corner), Tile(corner, exposure.side), inputs, {})
            yield bound.name


# -- lazy arrays ---------------------------------------------------------------------------------


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
    """

    arrays: dict[str, da.Array]
    measured: dict[str, Delayed]
    seconds: list[Delayed]
    work: list[dict[str, int]]
    aside: dict[str, int]


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
    """
    sinks = dict(sinks or {})
    results = [name for name in results if name not in sinks]
    segments = make_segments(steps, [*results, *sinks], per_step)
    key = unique("inputs")
    shared = _last_task(key, {key: (_unpacked, _Fixed(inputs), [d.key for d in after])}, after)
    # Where several segments write a variable, only its last version goes to the sink.
    last = {name: i for i, s in enumerate(segments) for b in s.steps for name in b.step.writes}
    flow = _Flow(inputs, shared, {}, {}, {}, [])
    done: list[BoundStep] = []
    work: list[dict[str, int]] = []
    aside: dict[str, int] = {}
    for i, segment in enumerate(segments):
        reducing: dict[str, int] = {}
        for j, bound in enumerate(segment.steps):
            if bound.step.reduction is not None:
                before = [*done, *segment.steps[:j]]
                flow.measured[bound.name] = _reduction(bound, before, flow, reducing)
        done += segment.steps
        if not segment.leave:
            aside |= reducing
            continue
        putting = {n: sinks[n] for n in segment.leave if n in sinks and last[n] == i}
        tiles, seconds = _tiles(segment, grid, flow, putting, taps, in_flight)
        work.append(reducing | {tiles.name: math.prod(grid.shape)})
        for name in segment.leave:
            if name not in putting:
                flow.arrays[name] = _variable(tiles, name, grid, inputs.exposure.n_resultants)
        flow.stored.update(putting)
        flow.seconds.append(seconds)
    arrays = {name: flow.arrays[name] for name in results}
    return Lazy(arrays, flow.measured, flow.seconds, work, aside)


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
    fixed = _Fixed(segment, entering, stored, dict(putting), [t for t in taps if t.step in names])
    plan = delayed(_after)(fixed, None, dask_key_name=unique("plan"))
    ready = list(flow.seconds) if stored else []
    name = unique(segment.label)
    spent, end = unique(f"{segment.label}-seconds"), unique(f"{segment.label}-finished")
    places = list(np.ndindex(*grid.shape))
    seconds: dict[Any, Any] = {(spent, *place): (_pick_seconds, (name, *place)) for place in places}
    seconds[end] = (_total_seconds, list(seconds))
    if entering:
        tiles = _overlapped(name, entering, segment.halo, grid, flow, plan, measured, ready)
        whole = HighLevelGraph.from_collections(end, seconds, list[Any]([tiles]))
        return _Tiles(name, tiles.dask, grid), Delayed(end, whole, layer=end)
    tasks: dict[Any, Any] = {}
    for i, place in enumerate(places):
        before = [] if in_flight is None or i < in_flight else [(spent, *places[i - in_flight])]
        tasks[(name, *place)] = (
            _run_stored,
            _Fixed(grid.window(*place), list(measured)),
            plan.key,
            flow.shared.key,
            [value.key for value in measured.values()],
            [value.key for value in ready] + before,
        )
    needed = [plan, flow.shared, *measured.values(), *ready]
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
        _run_tile,
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
    lead = variable.dims == "ryx"
    chunks = (*(((n_resultants,),) if lead else ()), *grid.chunks)
    return da.map_blocks(
        _pick,
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
    if reduction.thin:
        thin = feeding(before, reduction.reads)
        known = {b.name: flow.measured[b.name] for b in thin if b.name in flow.measured}
        needed = [shared, *known.values()]
        strips = [(window, bound, thin, list(known)) for window in windows]
        partials = fan(f"{bound.name}-measure", _strip, strips, needed)
        end = unique(f"{bound.name}-combine")
        task = (_combine_fixed, _Fixed(bound), shared.key, partials.key)
        return _last_task(end, {end: task}, [shared, partials])
    stored = {name: flow.stored[name] for name in reduction.reads if name in flow.stored}
    names = [name for name in reduction.reads if name not in stored]
    sources = [flow.arrays[name] for name in names]
    ready = flow.seconds if stored else []
    label, end = unique(f"{bound.name}-measure"), unique(f"{bound.name}-combine")
    tasks: dict[Any, Any] = {}
    for i, window in enumerate(windows):
        pieces = [_overlapping(array, window) for array in sources]
        places = {name: [p for _, p in found] for name, found in zip(names, pieces, strict=True)}
        keys = [key for found in pieces for key, _ in found]
        fixed = _Fixed(window, bound, places, stored)
        waits = [d.key for d in ready]
        tasks[(label, i)] = (_reduce_finished, fixed, shared.key, keys, waits)
    work[label] = len(windows)
    tasks[end] = (_combine_fixed, _Fixed(bound), shared.key, list(tasks))
    return _last_task(end, tasks, [shared, *sources, *ready])


class _Fixed:
    """Arguments of a task that Dask shall not look into (it takes tuples for keys or tasks)."""

    def __init__(self, *values: Any) -> None:
        self.values = values


def unique(label: str) -> str:
    """A key that no other run has: several may share a cluster."""
    return f"{label}-{uuid.uuid4().hex}"


def fan(
    label: str,
    function: Callable[..., Any],
    calls: Iterable[Sequence[Any]],
    after: Sequence[Delayed] = (),
    work: dict[str, int] | None = None,
) -> Delayed:
    """A task for each of `calls`, and one that collects their results in a list.

    Parameters
    ----------
    label : str
        What the dashboard and the progress bar call them.
    function : callable
        ``function(*call, values)``, `values` being those of `after`. It is not looked into.
    calls : iterable of sequence
    after : sequence of Delayed
    work : dict, optional
        The tasks' name, and how many there are, are added to it.
    """
    name, end = unique(label), unique(f"{label}-all")
    waits = [value.key for value in after]
    tasks: dict[Any, Any] = {
        (name, i): (_call, _Fixed(function, *call), waits) for i, call in enumerate(calls)
    }
    if work is not None:
        work[name] = len(tasks)
    tasks[end] = (list, list(tasks))
    return _last_task(end, tasks, after)


def _call(fixed: _Fixed, values: list[Any]) -> Any:
    function, *arguments = fixed.values
    return function(*arguments, values)


def _last_task(key: str, tasks: dict[Any, Any], dependencies: Sequence[Any]) -> Delayed:
    """Many tasks as one layer, which costs far less than a ``delayed`` call for each."""
    layer = unique("layer")
    whole = HighLevelGraph.from_collections(layer, tasks, dependencies=list(dependencies))
    return Delayed(key, whole, layer=layer)


def _overlapping(array: da.Array, window: Window) -> list[tuple[Any, Window]]:
    """Keys of the blocks that meet a window, with the place of each on the frame."""
    edges = [np.cumsum([0, *sizes]) for sizes in array.chunks[-2:]]
    found = []
    for iy, ix in np.ndindex(*array.numblocks[-2:]):
        place = Window(*(int(v) for v in (*edges[0][iy : iy + 2], *edges[1][ix : ix + 2])))
        if place.meet(window) is not None:
            lead = (0,) * (array.ndim - 2)
            found.append(((array.name, *lead, iy, ix), place))
    return found


def _reduce_finished(fixed: _Fixed, inputs: Inputs, blocks: list[np.ndarray], ready: Any) -> Any:
    """A reduction's partial on a window of finished tiles."""
    window, bound, places, stored = fixed.values
    reads = {name: sink.read(window) for name, sink in stored.items()}
    rest = iter(blocks)
    for name, found in places.items():
        pieces = [(place, next(rest)) for place in found]
        first = pieces[0][1]
        whole = np.empty((*first.shape[:-2], *window.shape), first.dtype)
        for place, block in pieces:
            both = place.meet(window)
            whole[(..., *both.within(window))] = block[(..., *both.within(place))]
        reads[name] = whole
    return _partial(window, bound, inputs, **reads)


def _combine_fixed(fixed: _Fixed, inputs: Inputs, partials: Sequence[Any]) -> Any:
    return _combine(partials, fixed.values[0], inputs)


def applicable(steps: Sequence[BoundStep], inputs: Inputs) -> list[BoundStep]:
    """The steps of a recipe that apply to this exposure and its reference files."""
    return [b for b in steps if b.step.when(inputs.exposure, b.params, inputs.available)]


def task_graph(collections: Any) -> dict[Any, set[Any]]:
    """Keys of all tasks that some Dask collections need, each with those that it waits for.

    Parameters
    ----------
    collections : nested structure of Dask collections

    Returns
    -------
    dict of key to set of keys
    """
    from dask.base import unpack_collections
    from dask.core import flatten, get_dependencies

    found, _ = unpack_collections(collections)
    tasks = HighLevelGraph.merge(*(c.__dask_graph__() for c in found)).to_dict()
    pending = list(flatten([c.__dask_keys__() for c in found]))
    waits: dict[Any, set[Any]] = {}
    while pending:
        key = pending.pop()
        if key not in waits:
            waits[key] = get_dependencies(tasks, key)
            pending += waits[key]
    return waits
