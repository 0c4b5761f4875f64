"""What fuzzing has found, in its shortest form."""

from __future__ import annotations

import math

import pytest
from checks import check

META = ("roman", "meta")
FOUND = {
    "a name too long beside a missing key": [
        ("config", ("OUT",), "remove"),
        ("config", ("IN",), "set", "n" * 300),
    ],
    "backup beyond the ramp": [("config", ("SATURATION_BACKUP",), "set", 10**9)],
    "shape text": [("node", "l1", ("roman", "data"), "shape", "bool8")],
    "strides text": [("node", "biascorr", ("roman", "data"), "strides", "int7")],
    "guide window of text": [("set", "l1", (*META, "guide_star", "window_xstop"), "a/b")],
    "guide window of a list": [("set", "l1", (*META, "guide_star", "window_ystart"), ["x"])],
    "guide window infinite": [("set", "l1", (*META, "guide_star", "window_ystop"), math.inf)],
    "encoding offset of text": [("set", "l1", (*META, "instrument", "data_encoding_offset"), "x")],
    "encoding offset of a list": [("set", "l1", (*META, "exposure", "data_encoding_offset"), [1])],
    "frame time of 400 digits": [("set", "l1", (*META, "exposure", "frame_time"), 10**400)],
    "shape null": [("node", "l1", ("roman", "data"), "shape", None)],
    "shape a number": [("node", "flat", ("roman", "data"), "shape", 5)],
    "offset a list": [("node", "flat", ("roman", "data"), "offset", [256])],
    "strides a number": [("node", "linearitylegendre", ("roman", "data"), "strides", 5)],
    "strides too few": [("node", "gain", ("roman", "data"), "strides", [4])],
    "source a list": [("node", "saturation", ("roman", "data"), "source", [1024, 4])],
}


@pytest.mark.parametrize("name", FOUND)
def test_found(exposure, name):
    check(exposure, FOUND[name], run=False)
    check(exposure, FOUND[name], run=True)
