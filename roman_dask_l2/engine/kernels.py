"""Kernels on tiles, one after the other: the specification of every way to run them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.detector import BORDER, Window
from ..core.step import VARIABLES, BoundStep, Tile, accepted
from ..io.references import Inputs
from .plan import feeding, reference_lives, summed_halo
from .spilling import Remade, with_source


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
    ramp = Member(inputs, variables, measured, taps)
    return run_stack(steps, [ramp], tile, seconds)[0]


@dataclass(frozen=True)
class Member:
    """One ramp of a stack on a tile: its inputs, and what is there already.

    Attributes
    ----------
    inputs : Inputs
    variables : mapping
    measured : mapping
    taps : callable, optional
        See `run_steps`.
    """

    inputs: Inputs
    variables: Mapping[str, np.ndarray]
    measured: Mapping[str, Mapping[str, Any]]
    taps: Callable[[str, Mapping[str, np.ndarray]], None] | None = None


def run_stack(
    steps: Sequence[BoundStep],
    members: Sequence[Member],
    tile: Tile,
    seconds: dict[str, float] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Run kernels one after the other on the same tile of several ramps.

    Each window of a reference array that ramps share (it has the same source in their inputs) is
    read once, and a step's `prepare` is called once for all ramps of which it gets the same arrays.
    So is its kernel for ramps that are the same so far: those without noise of several exposures
    are, until a step looks at something of the exposure, such as where on the sky it is.

    Parameters
    ----------
    steps : sequence of BoundStep
    members : sequence of Member
    tile : Tile
    seconds : dict, optional
        Processor time spent in each step (s) is added here.

    Returns
    -------
    list of dict
        For each ramp all variables after the last step.
    """
    have = [dict(member.variables) for member in members]
    shared: dict[tuple[str, int], Any] = {}  # by name, and which source of that name
    # The first ramp that has had the same variables so far.
    twins = [0 if not one.variables and not members[0].variables else i
             for i, one in enumerate(members)]  # fmt: skip
    for b, names, kept in reference_lives(steps):
        began = time.thread_time()
        prepared: dict[tuple[Any, ...], Any] = {}  # by what it was made of
        for i, (member, variables) in enumerate(zip(members, have, strict=True)):
            if twins[i] != i and not _same_step(b, names, member, members[twins[i]]):
                twins[i] = i
            if twins[i] != i:
                variables.update({name: have[twins[i]][name] for name in b.step.writes})
                if member.taps is not None:
                    member.taps(b.name, variables)
                continue
            references = _references(names, member.inputs, tile, shared)
            context = {
                "tile": tile,
                "exposure": member.inputs.exposure,
                "params": b.params,
                "measured": member.measured.get(b.name, {}),
            }
            used = b.step.prepared_from(references)
            key = (member.inputs.exposure, *map(id, used.values()))
            if key not in prepared:
                prepared[key] = b.step.prepared(used, context)
            if b.step.spill is not None:
                correction = member.measured[b.name][b.step.spill.name]
                references[b.step.spill.name] = correction.read(tile.window)
            reads: dict[str, Any] = {name: variables[name] for name in b.step.reads}
            reads |= {name: variables.get(name) for name in b.step.optional_reads}
            results = b.step.apply(reads, references, context, prepared[key])
            for name, value in zip(b.step.writes, results, strict=True):
                variables[name] = value
            del reads, references, results
            if member.taps is not None:
                member.taps(b.name, variables)
        shared = {key: value for key, value in shared.items() if key[0] in kept}
        if seconds is not None:
            spent = time.thread_time() - began
            seconds[b.name] = seconds.get(b.name, 0.0) + spent
    return have


def _same_step(b: BoundStep, names: Mapping[str, str], one: Member, other: Member) -> bool:
    """Whether a step gets the same of two ramps, beside variables."""
    return (
        one.inputs.exposure == other.inputs.exposure
        and one.measured.get(b.name) is other.measured.get(b.name)
        and all(one.inputs.same(other.inputs, name) for name in names.values())
    )


def _references(
    names: Mapping[str, str], inputs: Inputs, tile: Tile, shared: dict[tuple[str, int], Any]
) -> dict[str, Any]:
    """Reference arrays of a step by keyword, out of `shared` or read into it."""
    references = {}
    for keyword, name in names.items():
        if not inputs.available(name):
            continue
        source = inputs.sources[name]
        if (name, id(source)) not in shared:
            shared[name, id(source)] = source.read(tile.window)
        references[keyword] = shared[name, id(source)]
    return references


def reduce_strip(
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
    names = reduction.reads_for(bound.params)
    outer = window.grown(summed_halo(before, names), side)
    have = run_steps(before, {}, Tile(outer, side), inputs, measured)
    cut = window.within(outer)
    reads = {name: np.ascontiguousarray(have[name][(..., *cut)]) for name in names}
    return partial_of(window, bound, inputs, **reads)


def partial_of(window: Window, bound: BoundStep, inputs: Inputs, **reads: np.ndarray) -> Any:
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


def combine_partials(
    partials: Sequence[Any], bound: BoundStep, inputs: Inputs
) -> Mapping[str, Any]:
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
        before = feeding(steps[:i], reduction.reads_for(bound.params))
        windows = reduction.windows(inputs.exposure, bound.params)
        partials = [reduce_strip(w, bound, before, inputs, measured) for w in windows]
        found = measured[bound.name] = combine_partials(partials, bound, inputs)
        if bound.step.spill is not None:
            measured[bound.name] = with_source(found, bound, Remade(bound, inputs, found))
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
        return {
            name: np.zeros((*v.lead(exposure.n_resultants), *window.shape), v.dtype)
            for name in names
            for v in [VARIABLES[name]]
        }

    written = {name for b in steps for name in b.step.writes}
    for bound in reversed(steps):
        step, reduction = bound.step, bound.step.reduction
        if reduction is not None and not reduction.thin:
            window = reduction.windows(exposure, bound.params)[0]
            with contextlib.suppress(Exception):
                names = reduction.reads_for(bound.params)
                partial_of(window, bound, inputs, **blank(names, window))
            yield f"{bound.name}-measure"
        if reduction is None:
            reads = {*step.reads, *(written & set(step.optional_reads))}
            with contextlib.suppress(Exception):
                run_steps([bound], blank(reads, corner), Tile(corner, exposure.side), inputs, {})
            yield bound.name
