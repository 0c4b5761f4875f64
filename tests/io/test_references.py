"""Reference files: every array is checked against the exposure before anything runs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from rewriting import rewrite_array

from roman_dask_l2.errors import InputError
from roman_dask_l2.io.arrays import Constant
from roman_dask_l2.io.l1 import open_l1
from roman_dask_l2.io.references import ARRAYS, open_inputs

R, SIDE = 4, 256
PATTERN = [[0], [1], [2, 3], [4]]
OBSERVATORY = ("linearity", "inverselinearity", "integralnonlinearity", "refpix", "photom")
"""Types that the simulator does not write; tests/io/test_rad_references.py has them."""
OPTIONAL_DQ = [n for n, a in ARRAYS.items() if n.endswith(".dq") and not a.required]
REFERENCES = [
    n
    for n, a in ARRAYS.items()
    if a.dims
    and n.partition(".")[0] not in ("l1", *OBSERVATORY)
    and n not in (*OPTIONAL_DQ, "flat.err")
]
REQUIRED = [n for n in REFERENCES if ARRAYS[n].required]


@pytest.fixture(scope="module")
def exposed(simulated):
    simulation = simulated(read_pattern=PATTERN, conditions="plain", dark_decay=True)
    return simulation, *open_l1(simulation.l1, exclude_first=True)


@pytest.fixture
def changed(exposed, tmp_path):
    """``changed({"dark.data": change, ..})``: the inputs and problems with arrays changed."""
    simulation, l1, exposure = exposed

    def change(changes):
        caldir = dict(simulation.caldir)
        for name, value in changes.items():
            key, _, rest = name.partition(".")
            if caldir[key].parent != tmp_path:
                caldir[key] = shutil.copy(caldir[key], tmp_path / f"my_{key}.asdf")
            rewrite_array(caldir[key], rest, value)
        return open_inputs(l1, exposure, caldir)

    return change


def test_nothing_is_wrong_with_what_is_right(changed):
    inputs, problems = changed({})
    assert problems == []
    expected = {
        n for n, a in ARRAYS.items() if a.required and n.partition(".")[0] not in OBSERVATORY
    } | {
        "dark.data", "read.resetnoise", "read.anc.U_PINK", "read.anc.C_PINK",
        "read.amp33.med", "read.amp33.std", "read.amp33.M_PINK", "read.amp33.RU_PINK",
        "biascorr.t0", "detector.read_time", "l1.data@first", "l1.amp33@first",
        "dark.data@first", "biascorr.data@first",
    }  # fmt: skip
    assert set(inputs.sources) == expected
    for name in REFERENCES:
        values = inputs.sources[name].read()
        assert values.shape[-1] in (SIDE, SIDE - 8, 128)
        assert values.dtype == ARRAYS[name].dtype or ARRAYS[name].dtype is None


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("how", ["narrow", "flat"])
def test_a_wrong_shape_names_both_files(name, how, changed, exposed, tmp_path):
    cut = {"narrow": lambda a: a[..., :-1].copy(), "flat": lambda a: a[0].copy()}[how]
    before = changed({})[0].sources[name].array.shape
    shape = cut(np.empty(before)).shape
    inputs, problems = changed({name: cut})
    key, _, rest = name.partition(".")
    assert len(problems) == 1
    line = problems[0]
    assert line.startswith(f"CALDIR.{key}: {tmp_path / f'my_{key}.asdf'}: roman.{rest} ")
    assert f"has shape {shape}, expected (" in line
    assert line.endswith(f"to fit {exposed[0].l1} with roman.data ({R}, {SIDE}, {SIDE})")
    assert name not in inputs.sources


@pytest.mark.parametrize("name", ["dark.data", "biascorr.data"])
def test_planes_of_a_cube(name, changed):
    """One more than the exposure's is the reference read: the last R count."""
    cube = changed({})[0].sources[name].read()
    more = np.concatenate([cube[:1] + 7, cube])
    stored = more if name == "dark.data" else more[..., 4:-4, 4:-4].copy()
    if name == "biascorr.data":
        stored = np.concatenate([cube[:1] + 7, cube])
    inputs, problems = changed({name: stored})
    assert problems == []
    np.testing.assert_array_equal(inputs.sources[name].read(), cube, strict=True)
    first = inputs.sources[f"{name}@first"].read()
    np.testing.assert_array_equal(first, more[:-1], strict=True)
    for wrong in (cube[1:], np.concatenate([more, cube[:1]])):
        problems = changed({name: wrong.copy()})[1]
        assert len(problems) == 1
        assert f"has shape {wrong.shape}" in problems[0]
        assert f"or {R + 1} planes" in problems[0]


def test_no_other_array_may_have_a_plane_more(changed):
    problems = changed({"ipc4d.data": np.ones((4, 3, SIDE - 8, SIDE - 8), np.float32)})[1]
    assert "has shape (4, 3, 248, 248), expected (3, 3, 248, 248)" in problems[0]
    assert "planes" not in problems[0]


def test_any_number_of_legendre_terms(changed):
    for terms in (1, 7):
        coef = np.ones((terms, SIDE, SIDE), np.float32)
        inputs, problems = changed({"linearitylegendre.data": coef})
        assert problems == []
        assert inputs.sources["linearitylegendre.data"].read().shape == coef.shape


@pytest.mark.parametrize("name", ["dark.dq", "mask.dq", "saturation.dq", "linearitylegendre.dq"])
def test_flags_are_not_floats(name, changed):
    problems = changed({name: lambda a: a.astype(np.float32)})[1]
    assert len(problems) == 1
    assert "has type <f4, expected uint32" in problems[0]
    assert changed({name: lambda a: a.astype(np.int32)})[1] == []


def test_numbers_are_numbers(changed):
    problems = changed({"gain.data": lambda a: a.astype(np.complex64)})[1]
    assert len(problems) == 1
    assert "roman.data has type <c8, expected float32 or float64" in problems[0]
    assert changed({"gain.data": lambda a: a.astype(np.int16)})[1] == []


@pytest.mark.parametrize("name", [*REQUIRED, "read.anc.C_PINK", "dark_decay.decay_table"])
def test_a_missing_array(name, changed, tmp_path):
    inputs, problems = changed({name: None})
    key, _, rest = name.partition(".")
    assert problems == [f"CALDIR.{key}: {tmp_path / f'my_{key}.asdf'}: no roman.{rest}"]
    assert not inputs.available(name)


def test_all_problems_at_once(changed, exposed, tmp_path):
    """Every array wrong, one line each."""
    problems = changed({name: lambda a: a[..., 1:].copy() for name in REQUIRED})[1]
    assert len(problems) == len(REQUIRED)
    simulation, l1, exposure = exposed
    (tmp_path / "text.asdf").write_text("no")
    caldir = simulation.caldir | {
        "gain": tmp_path / "gone.asdf",
        "flat": tmp_path / "text.asdf",
        "mask": tmp_path,
    }
    inputs, problems = open_inputs(l1, exposure, caldir)
    assert sorted(problems) == [
        f"CALDIR.flat: {tmp_path / 'text.asdf'}: not an ASDF file",
        f"CALDIR.gain: {tmp_path / 'gone.asdf'}: no such file",
        f"CALDIR.mask: {tmp_path}: is a directory, expected an ASDF file",
    ]
    assert inputs.available("dark.data")
    assert not inputs.available("gain.data")


def test_a_reference_output_that_cannot_be_used(changed):
    names = {f"read.amp33.{k}" for k in ("med", "std", "M_PINK", "RU_PINK")}
    for change in (
        {"read.amp33.valid": False},
        {"read.amp33.M_PINK": None},
        {"read.amp33.std": None},
        {"read.amp33": None},
    ):
        inputs, problems = changed(change)
        assert problems == []
        assert not names & set(inputs.sources)
        assert "read.amp33.valid" not in inputs.sources
    inputs, _ = changed({"read.amp33.valid": None})
    assert names <= set(inputs.sources)


def test_decay_of_another_detector(changed):
    for table in ({"WFI07": {"amplitude": 1.0, "time_constant": 2.0}}, {"WFI01": {"amplitude": 1}}):
        problems = changed({"dark_decay.decay_table": table})[1]
        assert len(problems) == 1
        assert problems[0].endswith("has no amplitude and time_constant for WFI01")


def test_scalars_are_known_at_once(changed):
    inputs, _ = changed({})
    assert isinstance(inputs.sources["read.anc.C_PINK"], Constant)
    assert inputs.sources["read.anc.C_PINK"].read() == pytest.approx(0.8)


# -- the exposure itself -------------------------------------------------------------------------


WINDOW = ("window_xstart", "window_xstop", "window_ystart", "window_ystop")
BAD_L1 = {
    "no data": ({"data": None}, "no roman.data, expected a Level 1 file"),
    "two dimensions": ({"data": np.zeros((4, 4), np.uint16)}, r"has shape \(4, 4\), expected"),
    "not square": ({"data": np.zeros((4, 256, 384), np.uint16)}, "expected .resultants, N, N"),
    "odd side": ({"data": np.zeros((4, 200, 200), np.uint16)}, "side 200, expected a multiple of"),
    "small": ({"data": np.zeros((4, 128, 128), np.uint16)}, "a multiple of 128 from 256 up"),
    "pattern": ({"meta.exposure.read_pattern": [[0], [1], [2]]}, "has 3 resultants, roman.data"),
    "no pattern": ({"meta.exposure.read_pattern": None}, "no roman.meta.exposure.read_pattern"),
    "words": ({"meta.exposure.read_pattern": ["a", "b", "c", "d"]}, "read_pattern or frame_time"),
    "gap": ({"meta.exposure.read_pattern": [[0], [1], [2, 4], [5]]}, "consecutive frame numbers"),
    "order": ({"meta.exposure.read_pattern": [[0], [5], [2], [6]]}, "not in time order"),
    "empty": ({"meta.exposure.read_pattern": [[0], [], [2], [6]]}, "consecutive frame numbers"),
    "no time": ({"meta.exposure.frame_time": 0.0}, "frame_time is 0.0, expected seconds > 0"),
    "detector": ({"meta.instrument.detector": "WFI19"}, "'WFI19', expected WFI01..WFI18"),
    "one digit": ({"meta.instrument.detector": "WFI1"}, "'WFI1', expected WFI01..WFI18"),
    "half a read": ({"meta.exposure.read_pattern": [[0], [1.5], [2], [3]]}, "1.5 is not a whole"),
    "offset": ({"meta.instrument.data_encoding_offset": "x"}, "l1.asdf: meta.instrument.data_"),
    "no offset": ({"meta.instrument.data_encoding_offset": np.nan}, "offset is nan, expected"),
    "large": ({"meta.instrument.data_encoding_offset": 1e10}, "offset is 1.*, expected a number"),
    "yes": ({"meta.instrument.data_encoding_offset": True}, "offset is True, expected a number"),
    "window": ({"meta.guide_star": dict.fromkeys(WINDOW, 1.5)}, "l1.asdf: meta.guide_star.window_"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_L1.values(), ids=BAD_L1)
def test_bad_exposures(changes, message, tmp_path):
    import asdf

    exposure = {"read_pattern": PATTERN, "frame_time": 3.0}
    meta = {"exposure": exposure, "instrument": {"detector": "WFI01", "optical_element": "F158"}}
    tree = {"roman": {"data": np.zeros((R, SIDE, SIDE), np.uint16), "meta": meta}}
    path = tmp_path / "l1.asdf"
    asdf.AsdfFile(tree).write_to(path)
    assert open_l1(path, exclude_first=True)[1].n_resultants == R
    for key, value in changes.items():
        rewrite_array(path, key, value)
    with pytest.raises(InputError, match=message) as caught:
        open_l1(path, exclude_first=True)
    assert str(caught.value).count(str(path)) == 1


def test_exposure(simulated):
    simulation = simulated(side=640, wfi18_transient=True, detector="WFI18", reference_read=1000)
    _, exposure = open_l1(simulation.l1, exclude_first=False)
    assert exposure.side == 640
    assert exposure.detector_number == 18
    assert exposure.encoding_offset == 1000
    assert exposure.guide_window == (312, 328, 312, 328)
    assert exposure.start == 0
    assert exposure.read_pattern[0] == (1,)


def test_optional_arrays_of_the_exposure(exposed, changed, tmp_path):
    simulation, _, _ = exposed
    path = shutil.copy(simulation.l1, tmp_path / "l1.asdf")
    rewrite_array(path, "reference_read", np.zeros((SIDE, SIDE - 1), np.uint16))
    l1, exposure = open_l1(path, exclude_first=True)
    problems = open_inputs(l1, exposure, simulation.caldir)[1]
    assert problems == [
        f"{path}: roman.reference_read has shape (256, 255), expected (256, 256) to fit {path} "
        "with roman.data (4, 256, 256)"
    ]
