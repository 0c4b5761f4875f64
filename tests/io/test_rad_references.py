"""Reference files as the observatory writes them, by every version of its schemas."""

from __future__ import annotations

import pickle

import asdf
import numpy as np
import pytest
from rad_files import MODELS, arrays, versions, write_rad

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.reference_types import OTHER_NAMES, OWN, REFTYPES, observatory_name
from roman_dask_l2.io.l1 import open_l1
from roman_dask_l2.io.references import ARRAYS, open_inputs

SIDE = 256
BY_VERSION = [(kind, tag) for kind in MODELS for tag in versions(kind)]


@pytest.fixture(scope="module")
def exposed(simulated):
    simulation = simulated(conditions="plain")
    return open_l1(simulation.l1, exclude_first=True)


@pytest.fixture
def opened(exposed, tmp_path):
    """``opened(kind, change)``: inputs and problems with one file, its tree changed."""

    def make(kind, change=None, **options):
        path = write_rad(tmp_path / f"{kind}.asdf", kind, SIDE, **options)
        if change is not None:
            with asdf.open(path, memmap=False, lazy_load=False) as file:
                change(file["roman"])
                asdf.AsdfFile({"roman": dict(file["roman"])}).write_to(path)
        return open_inputs(*exposed, {OTHER_NAMES.get(kind, kind): path}, used=())

    return make


def test_every_type_is_tried():
    assert {observatory_name(key) for key in set(REFTYPES) - OWN} == set(MODELS)
    assert len(BY_VERSION) > 30
    for kind in MODELS:
        assert {tag.rpartition("-")[2][0] for tag in versions(kind)} == {"1", "2"}


@pytest.mark.parametrize(("kind", "tag"), BY_VERSION)
def test_every_version_is_read(kind, tag, opened):
    inputs, problems = opened(kind, tag=tag)
    assert problems == []
    key = OTHER_NAMES.get(kind, kind)
    window = Window(0, SIDE, 0, SIDE)
    for name in (n for n in ARRAYS if n.startswith(f"{key}.")):
        wanted = arrays(kind, SIDE, False)
        for part in name.split(".")[1:]:
            wanted = wanted.get(part) if isinstance(wanted, dict) else None
        if name == "integralnonlinearity.table":
            tables = arrays(kind, SIDE, False)["inl_table"]
            wanted = np.stack([tables[c]["correction"] for c in sorted(tables)])
        if wanted is None:
            assert not inputs.available(name)
            assert not ARRAYS[name].required
        elif name == "dark_decay.decay_table":
            assert inputs.sources[name].read() == {"WFI01": wanted["WFI01"]}
        elif name == "photom.phot_table":
            numbers = {"photmjsr": 0.5, "uncertainty": 0.01, "pixelareasr": 2.8e-13}
            assert inputs.sources[name].read() == {"F158": numbers | {"collecting_area": 3.6}}
        elif np.shape(wanted) == (SIDE - 8, SIDE - 8):
            assert np.array_equal(inputs.sources[name].read(window)[4:-4, 4:-4], wanted)
        else:
            assert np.array_equal(inputs.sources[name].read(), wanted)


def test_a_cube_of_other_resultants_is_left_out(exposed, tmp_path, opened):
    inputs, problems = opened("dark", tag=versions("dark")[0])
    assert problems == []
    assert not inputs.available("dark.data")
    assert any("roman.data has shape (2, 256, 256)" in note for note in inputs.notes)
    references = {"dark": tmp_path / "dark.asdf"}
    (line,) = open_inputs(*exposed, references, used={"dark.data"})[1]
    assert line.startswith(f"CALDIR.dark: {references['dark']}: roman.data has shape (2, 256, 256)")


@pytest.mark.parametrize("kind", MODELS)
def test_another_type_is_refused(kind, opened):
    key = OTHER_NAMES.get(kind, kind)
    problems = opened(kind, lambda roman: roman["meta"].update(reftype="BAM"))[1]
    assert [p for p in problems if f"meta.reftype is 'BAM', expected {REFTYPES[key][0]}" in p]


@pytest.mark.parametrize("kind", MODELS)
def test_another_detector_is_refused(kind, opened):
    problems = opened(kind, detector="WFI07")[1]
    found = ["meta.instrument.detector is 'WFI07', expected WFI01" in line for line in problems]
    assert found == ([] if kind == "darkdecaysignal" else [True])


@pytest.mark.parametrize("kind", MODELS)
def test_another_optical_element_is_refused(kind, opened):
    def change(roman):
        roman["meta"]["instrument"]["optical_element"] = "F062"

    problems = opened(kind, change)[1]
    found = ["optical_element is 'F062', expected F158" in line for line in problems]
    assert found == ([True] if kind in ("flat", "distortion") else [])


# -- tables of the non-linearity of the converter ------------------------------------------------


def test_the_tables_are_read_once_and_kept_whole(opened):
    source = opened("integralnonlinearity")[0].sources["integralnonlinearity.table"]
    copy = pickle.loads(pickle.dumps(source))
    table = source.read(Window(0, 8, 0, 8))
    assert table is copy.read()
    assert (table.shape, table.dtype) == ((2, 65536), np.float64)
    assert len(pickle.dumps(source)) < 10_000
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["science_channel_02"], "has no correction of science_channel_02, expected 2 channels"),
        (
            ["science_channel_01", "science_channel_02"],
            "has no correction of science_channel_01 and 1 more, expected 2 channels",
        ),
    ],
)
def test_missing_channels(gone, words, opened):
    def change(roman):
        for name in gone:
            del roman["inl_table"][name]

    (line,) = opened("integralnonlinearity", change)[1]
    assert words in line


def test_tables_that_do_not_fit_their_values(opened):
    def shorten(roman):
        roman["inl_table"]["science_channel_02"]["correction"] = np.zeros(9)

    (line,) = opened("integralnonlinearity", shorten)[1]
    assert "roman.inl_table.science_channel_02.correction has shape (9,)" in line

    def descend(roman):
        roman["value"] = np.arange(65536, dtype=np.uint16)[::-1].copy()

    (line,) = opened("integralnonlinearity", descend)[1]
    assert "roman.value does not ascend" in line

    (line,) = opened("integralnonlinearity", lambda roman: roman.update(value=None))[1]
    assert line.endswith("no roman.value")


def test_responses_are_complex(opened, exposed, tmp_path):
    refpix = {name: values.real for name, values in arrays("refpix", SIDE, False).items()}
    asdf.AsdfFile({"roman": refpix}).write_to(tmp_path / "refpix.asdf")
    problems = open_inputs(*exposed, {"refpix": tmp_path / "refpix.asdf"})[1]
    assert len(problems) == 3
    assert "roman.gamma has type <f8, expected complex128" in problems[0]
