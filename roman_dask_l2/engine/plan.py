"""How a recipe is cut into segments that run on a tile; plain data, no Dask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..core.detector import Window
from ..core.step import VARIABLES, BoundStep
from ..io.references import Inputs


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


def input_names(bound: BoundStep, *, needed: bool = False) -> list[str]:
    """Arrays of the input files that a step asks for, its reduction and spill included.

    Parameters
    ----------
    bound : BoundStep
    needed : bool
        Only those that it cannot do without: what a function has no default for.
    """
    step, params = bound.step, bound.params
    references = step.references_for(params)
    uses: list[tuple[Callable[..., object], Mapping[str, str]]] = []
    if step.prepare is not None:
        taken = inspect.signature(step.prepare).parameters
        uses.append((step.prepare, {k: name for k, name in references.items() if k in taken}))
        references = {k: name for k, name in references.items() if k not in taken}
    uses.append((step.kernel, references))
    if step.reduction is not None:
        reduction = step.reduction
        uses.append((reduction.partial, reduction.references_for(params)))
        if not needed:  # what is read whole may always be missing
            uses.append((reduction.combine, reduction.whole))
    if step.spill is not None:
        uses.append((step.spill.make, step.spill.references))
    names: list[str] = []
    for function, references in uses:
        parameters = inspect.signature(function).parameters
        for keyword, name in references.items():
            if not needed or parameters[keyword].default is inspect.Parameter.empty:
                names.append(name)
    return names


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
            wanted = {*b.step.reads, *b.step.optional_reads, *(r.reads_for(b.params) if r else ())}
            enter |= wanted - known
            known |= set(b.step.writes)
        # A segment entered by a variable that it also writes needs the one made before it.
        needed = (needed - made) | enter
        halo = summed_halo(group, leave)
        segments.append(Segment(tuple(group), tuple(sorted(enter)), leave, halo))
    segments.reverse()
    return segments


def last_writers(segments: Sequence[Segment]) -> dict[str, int]:
    """The segment that makes the version of a variable which goes to its sink: the last one, or one
    that the last is as good as never different from."""
    return {
        name: i
        for i, segment in enumerate(segments)
        for bound in segment.steps
        for name in bound.step.writes
        if bound.step.idle is None
    }


def stackable(steps: Sequence[BoundStep], sinks: Iterable[str]) -> bool:
    """Whether all that passes from one segment of `steps` to the next goes to a sink, each variable
    in one version."""
    names = set(sinks)
    segments = make_segments(steps, names)
    last = last_writers(segments)
    stored: set[str] = set()
    for i, segment in enumerate(segments):
        if not set(segment.enter) <= stored:
            return False
        if any(name not in names or last.get(name, 0) > i for name in segment.leave):
            return False
        stored |= set(segment.leave)
    return True


def feeding(steps: Sequence[BoundStep], reads: Iterable[str]) -> list[BoundStep]:
    """Those of `steps` that have a part in the value of `reads` after the last of them."""
    needed, kept = set(reads), []
    for b in reversed(steps):
        if needed & set(b.step.writes):
            kept.append(b)
            r = b.step.reduction
            reduced = r.reads_for(b.params) if r else ()
            needed |= {*b.step.reads, *b.step.optional_reads, *reduced}
    return kept[::-1]


def applicable(steps: Sequence[BoundStep], inputs: Inputs) -> list[BoundStep]:
    """The steps of a recipe that apply to this exposure and its reference files."""
    return [b for b in steps if b.step.when(inputs.exposure, b.params, inputs.available)]


def reference_lives(
    steps: Sequence[BoundStep],
) -> list[tuple[BoundStep, Mapping[str, str], frozenset[str]]]:
    """How long reference arrays stay in memory while steps run on a tile.

    Returns
    -------
    list of tuple
        For each step: the step, its references (keyword -> name), and the names of all references
        that a later step reads too, which are kept until then.
    """
    lives = []
    later: frozenset[str] = frozenset()
    for bound in reversed(steps):
        names = bound.step.references_for(bound.params)
        lives.append((bound, names, later))
        later |= frozenset(names.values())
    return lives[::-1]
