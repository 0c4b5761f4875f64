"""What files say of themselves: tags of Level 1 files, kinds and detectors of reference files,
optical elements, null decays."""

from __future__ import annotations

import logging
import shutil

import asdf
import numpy as np
import pytest
import roman_datamodels as rdm

from roman_dask_l2.cli.app import main
from roman_dask_l2.config.model import Caldir
from roman_dask_l2.core.reference_types import OWN, REFTYPES
from roman_dask_l2.io.kinds import RAW, _known_tags
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.validation import find_problems
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256
SIMULATED = sorted(OWN | {"dark", "gain", "read", "saturation", "flat", "mask", "dark_decay"})
"""Types that the simulator writes; tests/io/test_rad_references.py has the others."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return simulate(
        folder, side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0, dark_decay=True
    )


@pytest.fixture
def copied(plain, tmp_path):
    """A copy of the exposure whose files may be changed."""
    shutil.copytree(plain.directory, tmp_path / "exposure")
    return tmp_path / "exposure"


def edit(path, change):
    """Change the tree of an ASDF file, `roman` as a plain dict."""
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        change(file["roman"])
        file.write_to(f"{path}.new")
    shutil.move(f"{path}.new", path)


def retag(path, tag):
    """Another tag for `roman`, as text: no library would write it."""
    data = path.read_bytes()
    old = b"!<" + read_layout(path).tag.encode() + b">"
    new = b"" if tag is None else b"!<" + tag.encode() + b">"
    place = data.index(b"roman: " + old) + len(b"roman: ")
    room = len(old) - len(new)
    assert room >= 0
    path.write_bytes(data[:place] + new + b" " * room + data[place + len(old) :])


def problems_of(folder):
    """What `validate` says; a run must refuse the same, and leave nothing behind."""
    config = folder / "config.yaml"
    found = find_problems(config)
    if found:
        assert main([str(config), "--quiet"]) == 2
        assert not [*folder.glob("l2*"), *folder.glob(".*.part*")]
    return found


# -- tags of the exposure ------------------------------------------------------------------------


def test_tags_are_those_of_roman_datamodels():
    extensions = asdf.get_config().extensions
    assert rdm
    known = {t.tag_uri for e in extensions for t in e.tags if t.tag_uri.startswith(RAW)}
    assert len(known) > 5
    assert set(_known_tags()) == known
    assert _known_tags()[0] == f"{RAW}1.0.0"


@pytest.mark.parametrize("tag", _known_tags())
def test_old_exposures_are_migrated(tag, copied):
    l1 = copied / "l1.asdf"
    node = rdm.datamodels.ScienceRawModel._node_type.create_fake_data(tag=tag)
    with asdf.open(l1, memmap=False, lazy_load=False) as file:
        new = file["roman"]
        for name in ("data", "amp33"):
            node[name] = np.array(new[name])
        for name in ("read_pattern", "frame_time"):
            node["meta"]["exposure"][name] = new["meta"]["exposure"][name]
        node["meta"]["instrument"].update({"detector": "WFI01", "optical_element": "F158"})
    asdf.AsdfFile({"roman": node}).write_to(l1)
    assert read_layout(l1).tag == tag
    assert problems_of(copied) == []
    made = calibrate(copied / "config.yaml")
    with rdm.open(made.out) as model:
        model.validate()
        assert isinstance(model, rdm.datamodels.ImageModel)
        assert model.meta.exposure.frame_time == 3.04


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        (f"{RAW}9.9.9", f"the tag {RAW}9.9.9"),
        (None, "no tag"),
        ("asdf://stsci.edu/datamodels/roman/tags/wfi_image-2.2.0", "wfi_image-2.2.0"),
    ],
)
def test_other_tags_are_refused(tag, words, copied):
    retag(copied / "l1.asdf", tag)
    (line,) = problems_of(copied)
    assert line.startswith(f"{copied / 'l1.asdf'}: roman has ")
    assert words in line
    assert f"{RAW}1.0.0 to " in line


def test_metadata_that_make_no_image_are_refused(copied):
    l1 = copied / "l1.asdf"
    data = l1.read_bytes()
    assert data.count(b"type: WFI_IMAGE") == 1
    l1.write_bytes(data.replace(b"type: WFI_IMAGE", b"type: WFI_IMAGX"))  # of the same length
    (line,) = problems_of(copied)
    assert line.startswith(f"{l1}: ")
    assert "WFI_IMAGX" in line


# -- reference files -----------------------------------------------------------------------------


def test_every_key_has_its_kinds():
    assert set(REFTYPES) == set(Caldir.model_fields)
    kinds = [kind for kinds in REFTYPES.values() for kind in kinds]
    # The arrays tell these two apart.
    assert [kind for kind in set(kinds) if kinds.count(kind) > 1] == ["LINEARITY"]


def test_the_simulator_writes_what_files_are(plain):
    for key, path in plain.caldir.items():
        meta = read_layout(path).value("roman", "meta")
        assert meta["reftype"] == REFTYPES[key][0]
        assert meta["instrument"]["detector"] == "WFI01"
    flat = read_layout(plain.caldir["flat"]).value("roman", "meta", "instrument")
    assert flat["optical_element"] == "F158"


@pytest.mark.parametrize("key", SIMULATED)
def test_another_kind_is_refused(key, copied):
    path = copied / "cal" / f"{key}.asdf"
    edit(path, lambda roman: roman["meta"].update(reftype="DISTORTION"))
    assert problems_of(copied) == [
        f"CALDIR.{key}: {path}: meta.reftype is 'DISTORTION', expected {REFTYPES[key][0]}"
    ]


def test_a_read_noise_file_is_no_gain(copied):
    shutil.copy(copied / "cal" / "read.asdf", copied / "cal" / "gain.asdf")
    (line,) = problems_of(copied)
    assert line.endswith("gain.asdf: meta.reftype is 'READNOISE', expected GAIN")


@pytest.mark.parametrize("key", SIMULATED)
def test_another_detector_is_refused(key, copied):
    path = copied / "cal" / f"{key}.asdf"
    edit(path, lambda roman: roman["meta"]["instrument"].update(detector="WFI18"))
    expected = [
        f"CALDIR.{key}: {path}: meta.instrument.detector is 'WFI18', expected WFI01, which made "
        "the exposure"
    ]
    # One table of decays is for all detectors.
    assert find_problems(copied / "config.yaml") == ([] if key == "dark_decay" else expected)


def test_the_flat_of_another_filter_is_refused(copied):
    path = copied / "cal" / "flat.asdf"
    edit(path, lambda roman: roman["meta"]["instrument"].update(optical_element="F062"))
    (line,) = problems_of(copied)
    assert line.startswith(f"CALDIR.flat: {path}: meta.instrument.optical_element is 'F062'")
    assert "expected F158" in line


SILENT = {
    "no meta": lambda roman: roman.pop("meta"),
    "meta is null": lambda roman: roman.update(meta=None),
    "empty": lambda roman: roman.update(meta={}),
    "not known": lambda roman: roman["meta"].update(reftype="?", instrument={"detector": "?"}),
    "null": lambda roman: roman["meta"].update(reftype=None, instrument=None),
    "not configured": lambda roman: roman["meta"].update(instrument={"detector": "NOT_CONFIGURED"}),
    "small letters": lambda roman: roman["meta"].update(
        reftype=roman["meta"]["reftype"].lower(), instrument={"detector": "wfi_01"}
    ),
}


@pytest.mark.parametrize("change", SILENT.values(), ids=SILENT)
def test_files_that_say_nothing_are_taken(change, copied):
    for path in (copied / "cal").glob("*.asdf"):
        edit(path, change)
    assert problems_of(copied) == []


# -- decay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [(None, 25.0), (6.0, None), (None, None)])
def test_a_null_decay_is_no_correction(entry, copied, caplog):
    path = copied / "cal" / "dark_decay.asdf"
    table = {"WFI01": dict(zip(("amplitude", "time_constant"), entry, strict=True))}
    edit(path, lambda roman: roman.update(decay_table=table))
    with caplog.at_level(logging.WARNING):
        made = calibrate(copied / "config.yaml")
    said = [r.getMessage() for r in caplog.records if "decay" in r.getMessage()]
    assert said == [
        f"CALDIR.dark_decay: {path}: decay_table has no decay for WFI01: it is not corrected"
    ]
    with rdm.open(made.out) as model:
        assert model.meta.cal_step.dark_decay == "SKIPPED"
        assert model.meta.ref_file.darkdecaysignal == "N/A"
        data = np.array(model.data)
    config = copied / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "dark_decay" not in line))
    with rdm.open(calibrate(config).out) as model:
        np.testing.assert_array_equal(data, np.array(model.data))


BAD_DECAYS = {
    "not a number": ({"amplitude": float("nan"), "time_constant": 25.0}, "amplitude nan"),
    "infinite": ({"amplitude": 6.0, "time_constant": float("inf")}, "time_constant inf"),
    "negative": ({"amplitude": 6.0, "time_constant": -1.0}, "time_constant -1.0"),
    "zero": ({"amplitude": 6.0, "time_constant": 0}, "time_constant 0"),
    "text": ({"amplitude": "six", "time_constant": 25.0}, "amplitude 'six'"),
    "half": ({"amplitude": 6.0}, "no amplitude and time_constant"),
    "no mapping": (7.0, "no amplitude and time_constant"),
}


@pytest.mark.parametrize(("entry", "words"), BAD_DECAYS.values(), ids=BAD_DECAYS)
def test_decays_that_cannot_be(entry, words, copied):
    path = copied / "cal" / "dark_decay.asdf"
    edit(path, lambda roman: roman.update(decay_table={"WFI01": entry}))
    (line,) = problems_of(copied)
    assert line.startswith(f"CALDIR.dark_decay: {path}: decay_table has {words}")
    assert "WFI01" in line


# -- optical elements ----------------------------------------------------------------------------


@pytest.mark.parametrize("element", ["GRISM", "PRISM", "DARK", "NOT_CONFIGURED"])
def test_what_is_no_image_is_warned_of(element, tmp_path, caplog):
    made = simulate(
        tmp_path, side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0,
        optical_element=element,
    )  # fmt: skip
    assert find_problems(made.config) == []
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        result = calibrate(made.config)
    assert (
        [r.getMessage() for r in caplog.records if f"element {element}" in r.getMessage()]
        == [r.getMessage() for r in caplog.records if "surface brightness" in r.getMessage()]
        != []
    )
    with rdm.open(result.out) as model:
        model.validate()
        photometry = model.meta.photometry
        assert photometry.conversion_megajanskys is None
        assert photometry.pixel_area is None


@pytest.mark.parametrize("element", ["G150", "P127", "F999", "f158"])
def test_unknown_elements_are_refused(element, copied):
    l1 = copied / "l1.asdf"
    data = l1.read_bytes()
    assert data.count(b"optical_element: F158") == 1
    l1.write_bytes(data.replace(b"optical_element: F158", b"optical_element: " + element.encode()))
    (line,) = problems_of(copied)
    assert line.startswith(f"{l1}: meta.instrument.optical_element is {element!r}, expected one of")
