"""Large events: the flags that stcal gives the whole frame, whatever the tiles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from stcal.jump.jump import flag_large_events as stcal_flags
from stcal.jump.jump_class import JumpData

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import VARIABLES, Tile
from roman_dask_l2.steps import large_events
from roman_dask_l2.steps.large_events import (
    LargeEventsParams,
    bands,
    cut_outs,
    event_boxes,
    flag_large_events,
    frame_bytes,
    grow_flags,
    keep_flags,
    pack_flags,
    unpack,
)

DNU, SAT, JUMP = (np.uint8(GROUP[name]) for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET"))
REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])
EVENTS = ((60, 63, 9, 3, 2), (128, 200, 12, 5, 3), (190, 40, 6, 2, 4), (3, 128, 8, 3, 2),
          (100, 120, 5, 0, 3), (220, 220, 1, 0, 2))  # fmt: skip
"""Row, column, radius, radius of the saturated core, resultant."""


@pytest.fixture(scope="module")
def groupdq(exposure):
    """Snowballs, one of them across the border and one without a core, and single pixels."""
    r, n = exposure.n_resultants, exposure.side
    flags = np.zeros((r, n, n), np.uint8)
    y, x = np.mgrid[:n, :n]
    for row, column, radius, core, j in EVENTS:
        square = (y - row) ** 2 + (x - column) ** 2
        flags[j][square <= radius**2] |= JUMP
        if core:
            inside = square <= core**2
            flags[j:, inside] = (flags[j:, inside] & ~JUMP) | SAT
    flags[0] |= DNU
    rng = np.random.default_rng(2)
    flags[rng.integers(1, r, 300), rng.integers(0, n, 300), rng.integers(0, n, 300)] |= JUMP
    return flags


@pytest.fixture(scope="module")
def dq(groupdq):
    """As ramp fits fold the flags; reference pixels have none."""
    folded = np.bitwise_or.reduce(groupdq & (SAT | JUMP), axis=0).astype(np.uint32)
    good = ((groupdq & (DNU | SAT)) == 0).sum(axis=0)
    folded |= np.where(good < 2, np.uint32(DNU), np.uint32(0))
    border = np.ones(folded.shape, bool)
    border[4:-4, 4:-4] = False
    folded[border] = REFERENCE
    return folded


def measured(groupdq, exposure, params):
    partials = [keep_flags(pack_flags(groupdq[(..., *w.slices)])) for w in bands(exposure, params)]
    return grow_flags(partials, exposure, params)


def whole(groupdq, **options):
    """stcal by itself, with its parameters set by their names."""
    data = JumpData(dqflags={"GOOD": 0} | PIXEL)
    data.expand_large_events = True
    data.min_jump_area, data.min_sat_area, data.expand_factor = 6, 1, 1.9
    data.sat_required_snowball, data.min_sat_radius_extend = True, 0.5
    data.sat_expand, data.edge_size = 4, 0
    for name, value in options.items():
        setattr(data, name, value)
    return stcal_flags(groupdq[np.newaxis].copy(), 4, 2, data)[0][0]


def run(groupdq, dq, exposure, window, **options):
    params = LargeEventsParams(expand_large_events=True, **options)
    return flag_large_events(
        pack_flags(groupdq[(..., *window.slices)]),
        dq[window.slices],
        tile=Tile(window, exposure.side),
        exposure=exposure,
        params=params,
        measured=measured(groupdq, exposure, params),
    )


FRAME = Window(0, 256, 0, 256)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"min_jump_area": 150}, {"min_jump_area": 150}),
        ({"min_sat_area": 20}, {"min_sat_area": 20}),
        ({"expand_factor": 1.2}, {"expand_factor": 1.2}),
        ({"sat_required_snowball": False}, {"sat_required_snowball": False}),
        ({"min_sat_radius_extend": 4.0}, {"min_sat_radius_extend": 4.0}),
        ({"sat_expand": 5}, {"sat_expand": 10}),  # there it is added to the diameter
        ({"edge_size": 150}, {"edge_size": 150}),
    ],
)
def test_flags_are_those_of_stcal_and_each_option_acts(options, theirs, groupdq, dq, exposure):
    usual = whole(groupdq)
    expected = whole(groupdq, **theirs)
    assert np.count_nonzero(usual != groupdq) > 500
    assert bool(options) == bool((expected != usual).any())
    events, _ = run(groupdq, dq, exposure, FRAME, **options)
    assert np.array_equal(unpack(events, exposure.n_resultants), expected)


def test_pixel_flags_are_folded_anew_where_something_grew(groupdq, dq, exposure):
    grown = whole(groupdq)
    _, theirs = run(groupdq, dq, exposure, FRAME, do_not_use=False)
    folded = np.bitwise_or.reduce(grown & (SAT | JUMP), axis=0).astype(np.uint32)
    good = ((grown & (DNU | SAT)) == 0).sum(axis=0)
    folded |= np.where(good < 2, np.uint32(DNU), np.uint32(0))
    assert np.array_equal(theirs, np.where(dq & REFERENCE, dq, folded))
    assert np.count_nonzero((dq & JUMP != 0) & (theirs & JUMP == 0)) > 0  # saturation on top
    _, ours = run(groupdq, dq, exposure, FRAME)
    added = (grown & ~groupdq & (SAT | JUMP)).any(axis=0) & (dq & REFERENCE == 0)
    assert np.array_equal(ours, np.where(added, theirs | DNU, theirs))
    assert np.count_nonzero(ours != theirs) > 100


def test_tiles_make_no_difference(groupdq, dq, exposure, window):
    events, flags = run(groupdq, dq, exposure, FRAME)
    part_events, part_flags = run(groupdq, dq, exposure, window)
    assert np.array_equal(part_events, events[(..., *window.slices)])
    assert np.array_equal(part_flags, flags[window.slices])


def test_inputs_are_left_alone(groupdq, dq, exposure):
    events, before = pack_flags(groupdq), dq.copy()
    params = LargeEventsParams(expand_large_events=True)
    found = measured(groupdq, exposure, params)
    flag_large_events(
        events, dq, tile=Tile(FRAME, 256), exposure=exposure, params=params, measured=found
    )
    assert np.array_equal(events, pack_flags(groupdq))
    assert np.array_equal(dq, before)


def test_nothing_to_grow(exposure, dq):
    none = np.zeros((exposure.n_resultants, 256, 256), np.uint8)
    events, flags = run(none, dq, exposure, FRAME)
    assert not events.any()
    assert np.array_equal(flags, dq)


@pytest.mark.parametrize("n_resultants", [4, 8, 9, 17])
def test_packing(n_resultants):
    rng = np.random.default_rng(n_resultants)
    flags = rng.integers(0, 256, (n_resultants, 5, 7), np.uint8)
    packed = pack_flags(flags)
    assert packed.shape == (*VARIABLES["events"].lead(n_resultants), 5, 7)
    assert np.array_equal(unpack(packed, n_resultants), flags & (DNU | SAT | JUMP))
    first = packed[0] & 1 << 3 != 0
    assert np.array_equal(first, flags[3] & JUMP != 0)


def test_the_estimate_of_memory_grows_with_the_resultants(exposure):
    params = LargeEventsParams()
    few, many = (
        frame_bytes(
            dataclasses.replace(exposure, read_pattern=tuple((j,) for j in range(r))), params
        )
        for r in (8, 55)
    )
    assert many > few > exposure.side**2


@pytest.mark.parametrize("seed", range(3))
def test_cut_outs_make_no_difference(seed, monkeypatch):
    """Crowded frames, events of all sizes: squares of the frame against the frame."""
    exposure = Exposure(side=512, read_pattern=((0,), (1,), (2, 3), (4,), (5,)), frame_time=3.0)
    rng, n = np.random.default_rng(seed), 512
    flags = np.zeros((5, n, n), np.uint8)
    y, x = np.mgrid[:n, :n]
    for _ in range(60):
        row, column, j = *rng.integers(0, n, 2), rng.integers(1, 5)
        a, b, angle = rng.uniform(0.5, 25), rng.uniform(0.5, 8), rng.uniform(0, np.pi)
        u = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
        v = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
        flags[j][(u / a) ** 2 + (v / b) ** 2 <= 1] |= JUMP
        core = (y - row) ** 2 + (x - column) ** 2 <= rng.uniform(0, 6) ** 2
        if rng.uniform() < 0.7:
            flags[j:, core] = (flags[j:, core] & ~JUMP) | SAT
    flags[rng.integers(1, 5, 2000), rng.integers(0, n, 2000), rng.integers(0, n, 2000)] |= JUMP
    flags[0] |= DNU
    monkeypatch.setattr(large_events, "SQUARE", 64)
    events, _ = run(flags, np.zeros((n, n), np.uint32), exposure, Window(0, n, 0, n))
    expected = whole(flags)
    assert np.count_nonzero(expected != flags) > 5000
    assert np.array_equal(unpack(events, 5), expected)
    squares = cut_outs(event_boxes(np.bitwise_or.reduce(flags & 6), LargeEventsParams()), n,
                       LargeEventsParams())  # fmt: skip
    assert min(cut.shape[0] for cut in squares.values()) < 256  # it was not the whole frame
