"""Cases for what asdf makes of a file, its converters and those of gwcs and astropy, through
`load_wcs` and `open_asdf`; run by `test_reader.py` in a process of its own:
``python converter_cases.py WHAT CASES FOLDER``."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reader_cases import TEXTS, Trial, repeat, report

from roman_dask_l2.io.asdf_file import open_asdf
from roman_dask_l2.io.wcs import Wcs, load_wcs
from roman_dask_l2.simulation.simulate import simulate

S = "!transform/"
ARRAY = "!core/ndarray-1.1.0 {datatype: float64, byteorder: little, source: 0, "
PARTS = [
    "!<tag:stsci.edu:gwcs/frame2d-1.2.0> {name: d, axes_type: [SPATIAL, SPATIAL], "
    "axes_order: [0, 1], axes_names: [x, y], unit: [!unit/unit-1.0.0 pixel, !unit/unit-1.0.0 m]}",
    "!<tag:stsci.edu:gwcs/frame-1.2.0> {name: d, axes_type: [SPATIAL], naxes: NUMBER}",
    f"{S}identity-1.4.0 {{n_dims: NUMBER, inputs: [x, y], outputs: [x, y]}}",
    f"{S}remap_axes-1.5.0 {{mapping: [NUMBER, 0], n_inputs: NUMBER, inputs: [x], outputs: [x]}}",
    f"{S}polynomial-1.3.0 {{coefficients: {ARRAY}shape: [NUMBER, NUMBER], strides: [0, 0]}}, "
    "inputs: [x, y], outputs: [z]}",
    f"{S}ortho_polynomial-1.2.0 {{polynomial_type: chebyshev, inputs: [x, y], outputs: [z], "
    f"coefficients: {ARRAY}shape: [NUMBER, NUMBER], strides: [0, 0]}}}}",
    f"{S}tabular-1.4.0 {{lookup_table: {ARRAY}shape: [NUMBER, NUMBER], strides: [0, 0]}}, "
    "inputs: [x, y], outputs: [z]}",
    f"{S}compose-1.4.0 {{forward: [TEXT, TEXT], inputs: [x], outputs: [y]}}",
    f"{S}concatenate-1.4.0 {{forward: [TEXT, {S}shift-1.4.0 {{offset: 1.0, inputs: [x], "
    "outputs: [y]}], inputs: [x], outputs: [y]}",
    f"{S}math_functions-1.2.0 {{func_name: TEXT, inputs: [x], outputs: [y]}}",
    f"{S}fix_inputs-1.4.0 {{forward: [TEXT, {{keys: [0], values: [NUMBER]}}], inputs: [x]}}",
    f"{S}spline1d-1.2.0 {{inputs: [x], outputs: [y], knots: [0, NUMBER], coefficients: [1, 2], "
    "degree: NUMBER}",
    f"{S}rotate_sequence_3d-1.2.0 {{angles: [NUMBER], axes_order: TEXT, rotation_type: spherical, "
    "inputs: [x], outputs: [y]}",
    "!<tag:stsci.edu:gwcs/label_mapper-1.3.0> {mapper: [[NUMBER]], inputs: [x], outputs: [y], "
    "no_label: TEXT}",
    "!core/integer-1.1.0 {words: [NUMBER], sign: '+', string: TEXT}",
    "!core/complex-1.0.0 TEXT",
    "!core/constant-1.0.0 TEXT",
    "!unit/unit-1.0.0 TEXT",
    "!unit/quantity-1.3.0 {value: TEXT, unit: !unit/unit-1.0.0 m}",
    "!<tag:astropy.org:astropy/units/equivalency-1.2.0> [{name: TEXT, kwargs_names: [], "
    "kwargs_values: []}]",
    "!time/time-1.4.0 {value: TEXT, format: iso, scale: utc}",
    "!<tag:astropy.org:astropy/coordinates/skycoord-1.0.0> {frame: TEXT, "
    "representation_type: spherical}",
    "!<tag:astropy.org:astropy/coordinates/earthlocation-1.2.0> {x: TEXT, y: 1, z: 1}",
    "!<tag:astropy.org:astropy/coordinates/representation-1.2.0> {type: TEXT, components: {}}",
    "!<tag:astropy.org:astropy/coordinates/frames/itrs-1.2.0> {data: TEXT, "
    "frame_attributes: {obstime: TEXT}}",
    "!<tag:astropy.org:astropy/wcs/wcs-1.0.0> {hdulist: TEXT, attrs: {}}",
    "!<tag:astropy.org:astropy/fits/fits-1.2.0> [{header: [[SIMPLE, true], [NAXIS, NUMBER]]}]",
    "!<tag:astropy.org:astropy/table/table-1.3.0> {columns: [TEXT], colnames: [a], meta: {}, "
    "qtable: true}",
    "!<tag:astropy.org:astropy/table/ndarraymixin-1.0.0> {array: TEXT}",
    "!<tag:astropy.org:astropy/wcs/slicedwcs-1.1.0> {wcs: TEXT, slices_array: [NUMBER]}",
    "!<asdf://stsci.edu/datamodels/roman/tags/exposure-1.3.0> {type: TEXT, read_pattern: [[1]]}",
    "!<asdf://stsci.edu/datamodels/roman/tags/wfi_image-2.2.0> {meta: TEXT}",
    "!<asdf://stsci.edu/datamodels/roman/tags/file_date-1.0.0> TEXT",
]
"""What has a converter, with holes in it."""
NUMBERS = ["0", "1", "2", "3", "-1", "7", "64", "1000", "30000000", "1099511627776", "1.5", ".nan",
           ".inf", "9" * 400]  # fmt: skip
PLACE = re.compile(r"(?<=: )[^\n{}]+$|(?<=: )!\S+ \{.*\}$|(?<=- )[^\n{}]+$", re.MULTILINE)
"""Where something stands in a tree that can be replaced on its line."""

texts = st.sampled_from(TEXTS + NUMBERS + ["x", "icrs", "sin", "spherical"])


@st.composite
def parts(draw: Any, level: int = 0) -> str:
    """Something that has a converter, with values or others like it in its holes."""
    text = draw(st.sampled_from(PARTS))
    text = re.sub("NUMBER", lambda _: draw(st.sampled_from(NUMBERS)), text)
    inside = texts if level > 1 else st.one_of(texts, parts(level + 1))
    return re.sub("TEXT", lambda _: draw(inside), text)


def good_tree(folder: Path) -> str:
    """The tree of a gwcs that the program itself has made, as text."""
    made = simulate(folder / "made", side=256, seed=3, cosmic_rays=0, stars=0)
    wcs = load_wcs(made.fitswcs, None).gwcs(248)
    asdf.AsdfFile({"wcs": wcs}).write_to(folder / "made.asdf", all_array_storage="inline")
    raw = (folder / "made.asdf").read_bytes()
    return raw[: raw.index(b"\n...\n") + 5].decode()


def read(path: Path) -> None:
    """All that the program does with a file whose objects it has asdf make."""
    try:
        wcs = load_wcs(None, path)
        assert isinstance(wcs, Wcs)
        wcs.areas(248)
        wcs.gwcs(248)
    finally:
        with contextlib.suppress(Exception), open_asdf(path) as file:
            str(file.tree)


def run(what: str, cases: int, folder: Path) -> dict[str, Any]:
    """Try so many edits of a gwcs: how many were read and refused."""
    good = good_tree(folder)
    places = [found.span() for found in PLACE.finditer(good) if found.start() > good.index("wcs:")]
    numbers = np.arange(64, dtype="<f8").tobytes()
    data = b"\xd3BLK" + (48).to_bytes(2, "big") + bytes(8)
    data += b"".join(len(numbers).to_bytes(8, "big") for _ in range(3)) + bytes(16) + numbers
    trial = Trial(folder, read, Path(__file__).parents[2] / "roman_dask_l2")

    def one(edits: list[tuple[int, str]]) -> None:
        text = good
        for at, new in sorted(dict(edits).items(), reverse=True):
            begin, end = places[at]
            text = text[:begin] + new + text[end:]
        trial(text.encode("utf-8", "surrogatepass") + data)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edit = st.tuples(st.integers(0, len(places) - 1), st.one_of(texts, parts()))
        one([])
        assert trial.counts["read"] == 1
        repeat(given(st.lists(edit, min_size=1, max_size=2))(one), cases)
    return trial.counts


if __name__ == "__main__":
    report(run)
