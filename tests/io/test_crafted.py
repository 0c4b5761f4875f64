"""Files that asdf itself opens, made to have it read other files, run programs or unfold without
end: refused in one line, or read without any of that."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import asdf
import numpy as np
import pytest

from roman_dask_l2.errors import InputError
from roman_dask_l2.io.asdf_file import open_asdf
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.io.wcs import load_wcs

OPENED: list[str] = []
"""Files that were opened, programs, connections; while there is a list to add to."""


def _hook(event, arguments):
    if event == "open" and not isinstance(arguments[0], int):
        OPENED.append(str(arguments[0]))
    elif event.startswith(("os.system", "os.exec", "os.posix_spawn", "subprocess.", "socket.")):
        OPENED.append(f"{event} {arguments!r}")


sys.addaudithook(_hook)


@pytest.fixture
def elsewhere(tmp_path):
    """A good file that no other may name."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "secret.asdf"
    asdf.AsdfFile({"x": np.arange(4.0), "wcs": {"a": 1}}).write_to(path)
    return path


def written(folder, wcs):
    """A file whose tree has this text under ``wcs``, and one block."""
    path = folder / "case.asdf"
    asdf.AsdfFile({"wcs": "HERE", "data": np.arange(4.0)}).write_to(path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"wcs: HERE", f"wcs: {wcs}".encode()))
    return path


NDARRAY = "!core/ndarray-1.1.0 {datatype: float64, byteorder: little"
BEYOND = {
    "reference": "{$ref: 'ELSE#/wcs'}",
    "reference to a URL": "{$ref: 'http://127.0.0.1:9/a.asdf#/wcs'}",
    "reference inside": "{a: [{b: {$ref: 'file://ELSE#/x'}}]}",
    "reference to itself": "{$ref: '#/wcs'}",
    "absolute": NDARRAY + ", shape: [4], source: 'ELSE'}",
    "file URL": NDARRAY + ", shape: [4], source: 'file://ELSE'}",
    "upwards": NDARRAY + ", shape: [4], source: '../elsewhere/secret.asdf'}",
    "upwards, quoted": NDARRAY + ", shape: [4], source: '%2e%2e/elsewhere/secret.asdf'}",
    "http": NDARRAY + ", shape: [4], source: 'http://127.0.0.1:9/a.asdf'}",
    "text as data": "!core/ndarray-1.1.0 {datatype: int8, shape: [4], data: 'ELSE'}",
    "text as data alone": "!core/ndarray-1.1.0 {data: '../elsewhere/secret.asdf'}",
    "URL as data": "!core/ndarray-1.0.0 {data: 'http://127.0.0.1:9/a.asdf'}",
    "source alone": "!core/ndarray-1.1.0 {source: 'ELSE', byteorder: little}",
    "merged": "!core/ndarray-1.1.0 {<<: {data: 'ELSE'}}",
    "device": NDARRAY + ", shape: [4], source: '/dev/zero'}",
    "external array": "!core/externalarray-1.0.0 {fileuri: 'ELSE', target: 0, datatype: int8, "
    "shape: [1]}",
    "huge array": NDARRAY + ", shape: [1000000, 1000000], strides: [0, 0], source: 0}",
    "huge arrays": "["
    + ", ".join([NDARRAY + ", shape: [4000, 4000], strides: [0, 0], source: 0}"] * 2)
    + "]",
    "axes": "!transform/identity-1.2.0 {n_dims: 300000000}",
    "axes after one that is none": "[!transform/identity-1.2.0 {n_dims: .nan}, "
    "!transform/identity-1.2.0 {n_dims: 1e400}, !transform/identity-1.2.0 {n_dims: 300000000}]",
    "numbers of axes": "!transform/remap_axes-1.3.0 {mapping: [300000000]}",
    "axes of many": "[" + ", ".join(["!transform/identity-1.2.0 {n_dims: 90}"] * 200) + "]",
    "terms": "!transform/polynomial-1.2.0 {coefficients: " + NDARRAY
    + ", shape: [3000, 3000], strides: [0, 0], source: 0}}",
    "FITS header": "!<tag:astropy.org:astropy/fits/fits-1.2.0> [{header: [[NAXIS, 30000000]]}]",
    "FITS header of a WCS": "!<tag:astropy.org:astropy/wcs/wcs-1.0.0> {hdulist: "
    "!fits/fits-1.0.0 [{header: [[NAXIS, 30000000]]}], attrs: {}}",
    "table": "!<tag:astropy.org:astropy/table/table-1.3.0> {columns: [], colnames: [], qtable: no}",
    "aliases": "[&l0 [1, 1], " + ", ".join(f"&l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 40))
    + "]",
    "a circle": "&a [*a]",
    "levels": "[" * 500 + "]" * 500,
    "twice": "{a: 1, a: 2}",
    "a long number": "1" + ":59" * 2000,
}  # fmt: skip
WITHIN = {
    "program": "!!python/object/apply:os.system ['touch RAN']",
    "new object": "!!python/object/new:subprocess.Popen [[touch, RAN]]",
    "module": "!!python/module:antigravity x",
    "unknown tag": "!<asdf://nobody/tags/evil-1.0.0> {command: touch RAN}",
    "class": "!<tag:nowhere.org:x/y-1.0.0> {class: os.system, args: [touch RAN]}",
}
"""What asdf takes for plain values; a gwcs it is not."""


@pytest.mark.parametrize("name", [*BEYOND, *WITHIN])
def test_crafted_files(tmp_path, elsewhere, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    wcs = (BEYOND | WITHIN)[name].replace("ELSE", str(elsewhere))
    path = written(inside, wcs.replace("RAN", str(inside / "ran")))
    OPENED.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError) as refused:
            load_wcs(None, path)
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).startswith(str(path))
    if name in BEYOND:
        with pytest.raises(InputError), open_asdf(path):
            pass
        assert not [p for p in OPENED if p.startswith("socket")]
    assert not [p for p in OPENED if "secret" in p or "/dev/" in p or "subprocess" in p]
    assert sorted(p.name for p in inside.iterdir()) == ["case.asdf"]


def test_arrays_beside_and_below_are_read(tmp_path):
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        asdf.AsdfFile({"x": np.arange(4.0)}).write_to(folder / "beside.asdf")
    for source in ("beside.asdf", "below/beside.asdf", "./beside.asdf"):
        path = written(tmp_path, NDARRAY + f", shape: [4], source: {source}}}")
        with open_asdf(path) as file:
            assert list(file["wcs"]) == [0, 1, 2, 3]
        assert list(read_layout(path).array("wcs").read()) == [0, 1, 2, 3]


def test_a_link_beside_may_lead_elsewhere(tmp_path, elsewhere):
    """Who links a file decides that, not who wrote the one that names it."""
    (tmp_path / "beside.asdf").symlink_to(elsewhere)
    path = written(tmp_path, NDARRAY + ", shape: [4], source: beside.asdf}")
    assert list(read_layout(path).array("wcs").read()) == [0, 1, 2, 3]


def test_the_tag_of_an_entry(tmp_path):
    path = tmp_path / "a.asdf"
    for entry, tag in (("roman: !<asdf://a> {}", "asdf://a"), ("roman: {}", None), ("x: 1", None)):
        path.write_text(f"#ASDF 1.0.0\n%YAML 1.1\n---\n{entry}\n...\n")
        assert read_layout(path).tag == tag


def test_no_array_is_too_large_in_a_file_of_ones_own(simulated):
    """What is refused above is nothing that the program's own files have."""
    made = simulated(seed=3, conditions="plain", cosmic_rays=0, stars=0, extra_plane=False)
    for path in (made.l1, *made.caldir.values()):
        with open_asdf(Path(path)) as file:
            assert "roman" in file.tree


def test_numbers_too_large_for_their_type_are_infinite(tmp_path):
    """Without a word of NumPy's in the terminal."""
    array = f"!core/ndarray-1.1.0 {{data: [{10**71}, 1.0], datatype: float32, shape: [2]}}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = read_layout(written(tmp_path, array)).array("wcs").read()
    assert list(values) == [np.inf, 1]
