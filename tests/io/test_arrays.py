"""Arrays in ASDF files, read by window, however they are stored."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import asdf
import numpy as np
import pytest
from astropy import units
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.core.detector import Window
from roman_dask_l2.errors import InputError
from roman_dask_l2.io import opened, packed
from roman_dask_l2.io.arrays import Constant, FileArray, PixelArea, Placed, ReadTime
from roman_dask_l2.io.layout import read_layout

SHAPE = (3, 40, 600)
WINDOWS = {
    "all": None,
    "full rows": Window(7, 19, 0, 600),
    "part of rows": Window(7, 19, 100, 501),
    "narrow strip": Window(3, 38, 590, 600),
    "one pixel": Window(39, 40, 599, 600),
    "no rows": Window(7, 7, 0, 600),
    "no columns": Window(7, 9, 5, 5),
}
STORED = {
    "float32": lambda a: a.astype("<f4"),
    "float64": lambda a: a.astype("<f8"),
    "big-endian float32": lambda a: a.astype(">f4"),
    "big-endian float64": lambda a: a.astype(">f8"),
    "uint16": lambda a: a.astype("<u2"),
    "big-endian uint16": lambda a: a.astype(">u2"),
    "bool": lambda a: a % 2 == 0,
    "quantity": lambda a: units.Quantity(a.astype("<f4"), "DN"),
    "big-endian quantity": lambda a: units.Quantity(a.astype(">f4"), "DN / s", copy=False),
    "part of a block": lambda a: np.concatenate([a[:1], a]).astype("<f4")[1:],
    "fortran order": lambda a: np.asfortranarray(a.astype("<f4")),
    "every second row": lambda a: np.repeat(a.astype("<f4"), 2, axis=1)[:, ::2],
}


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(1).integers(0, 60000, SHAPE)


def write(path, value, pad=0, **options):
    """An ASDF file with the array under roman.data; `pad` shifts the start of its block."""
    asdf.AsdfFile({"roman": {"pad": "x" * pad, "data": value}}).write_to(path, **options)
    return read_layout(path).array("roman", "data")


def expected(values, stored, window, planes=slice(None)):
    cut = (..., *(window.slices if window is not None else (slice(None), slice(None))))
    return (values % 2 == 0 if stored == "bool" else values)[planes][cut]


@pytest.mark.parametrize("stored", STORED)
def test_windows(stored, values, tmp_path):
    source = write(tmp_path / "a.asdf", STORED[stored](values))
    assert source.shape == SHAPE
    strides = b"strides:" in (tmp_path / "a.asdf").read_bytes().partition(b"\n...")[0]
    assert (source.offset is None) == strides  # asdf decodes
    assert strides or stored != "fortran order"
    for window in WINDOWS.values():
        for planes in (slice(None), slice(1, None), slice(2, 3)):
            found = source.read(window, planes)
            np.testing.assert_array_equal(found, expected(values, stored, window, planes))
            assert found.dtype == np.dtype(source.dtype).newbyteorder("=")
            assert found.dtype.isnative
            assert found.flags.aligned
            assert found.flags.writeable
            assert found.flags.c_contiguous


@pytest.mark.parametrize("pad", range(8))
def test_any_offset(pad, values, tmp_path):
    """Blocks begin where the tree ends: at any byte."""
    source = write(tmp_path / "a.asdf", values.astype("<f8"), pad)
    for window in WINDOWS.values():
        found = source.read(window)
        assert found.flags.aligned
        np.testing.assert_array_equal(found, expected(values, "", window))


def test_offsets_are_all_there(values, tmp_path):
    small = values[:, :4, :4].astype("<f8")
    offsets = {write(tmp_path / "a.asdf", small, pad).offset % 8 for pad in range(9)}
    assert len(offsets) > 4


@pytest.mark.parametrize("compression", ["zlib", "bzp2"])
@pytest.mark.parametrize("stored", ["float32", "big-endian float32", "quantity"])
def test_compressed(stored, compression, values, tmp_path):
    options = {"all_array_compression": compression}
    source = write(tmp_path / "a.asdf", STORED[stored](values), **options)
    assert source.offset is None
    for window in WINDOWS.values():
        found = source.read(window, slice(1, None))
        np.testing.assert_array_equal(found, expected(values, stored, window, slice(1, None)))
        assert found.dtype.isnative


def test_inline(values, tmp_path):
    """Numbers in the YAML tree."""
    small = values[:, :5, :600]
    options = {"all_array_storage": "inline"}
    source = write(tmp_path / "a.asdf", small.astype(float), **options)
    assert source.offset is None
    assert source.shape == small.shape
    window = Window(1, 4, 7, 9)
    np.testing.assert_array_equal(source.read(window), small[:, 1:4, 7:9])
    np.testing.assert_array_equal(source.read(), small)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(600,), (40, 600), (3, 2, 40, 600), (3, 3, 4, 40, 60)])
def test_other_dimensions(shape, compression, tmp_path):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    source = write(tmp_path / "a.asdf", values, all_array_compression=compression)
    np.testing.assert_array_equal(source.read(), values, strict=True)
    if len(shape) > 1:
        for window in (Window(7, 19, 0, shape[-1]), Window(7, 19, 10, 51), Window(0, 40, 3, 5)):
            found = source.read(window)
            np.testing.assert_array_equal(found, values[(..., *window.slices)], strict=True)


@given(data=st.data())
def test_any_window(data, tmp_path_factory):
    values = np.arange(3 * 17 * 90, dtype=np.float32).reshape(3, 17, 90)
    path = tmp_path_factory.getbasetemp() / "any_window.asdf"
    source = read_layout(path).array("roman", "data") if path.exists() else write(path, values)
    y = sorted(data.draw(st.tuples(st.integers(0, 17), st.integers(0, 17))))
    x = sorted(data.draw(st.tuples(st.integers(0, 90), st.integers(0, 90))))
    planes = slice(*sorted(data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))))
    window = Window(*y, *x)
    found = source.read(window, planes)
    np.testing.assert_array_equal(found, values[planes][(..., *window.slices)], strict=True)


def test_what_is_read_is_ones_own(values, tmp_path):
    """Not a view of the file or of a cache: both must survive what a kernel does to it."""
    for options in ({}, {"all_array_compression": "zlib"}):
        source = write(tmp_path / "a.asdf", values.astype("<f4"), **options)
        for window in WINDOWS.values():
            source.read(window)[...] = -1
            np.testing.assert_array_equal(source.read(window), expected(values, "", window))


def test_sources_travel_as_paths(values, tmp_path):
    source = write(tmp_path / "a.asdf", values.astype("<f4"))
    source.read()
    packed = pickle.dumps(source)
    assert len(packed) < 1000
    assert pickle.loads(packed) == source
    np.testing.assert_array_equal(pickle.loads(packed).read(WINDOWS["one pixel"]),
                                  expected(values, "", WINDOWS["one pixel"]))  # fmt: skip


def test_many_threads_decode_once(values, tmp_path, monkeypatch):
    source = write(tmp_path / "a.asdf", values.astype("<f4"), all_array_compression="zlib")
    decoded = []
    decode = FileArray._decode
    monkeypatch.setattr(FileArray, "_decode", lambda self: decoded.append(1) or decode(self))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: source.read(WINDOWS["part of rows"]), range(32)))
    assert len(decoded) == 1
    for part in found:
        np.testing.assert_array_equal(part, expected(values, "", WINDOWS["part of rows"]))


def test_threads_share_a_file(values, tmp_path):
    source = write(tmp_path / "a.asdf", values.astype(">f4"))
    windows = [Window(y, y + 1, x, 600) for y in range(40) for x in (0, 300)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.read, windows))
    for window, part in zip(windows, found, strict=True):
        np.testing.assert_array_equal(part, expected(values, "", window))


def test_the_cache_is_bounded():
    cache, made = opened.Cache(2), []

    def make(key):
        return cache.get(key, lambda: made.append(key) or key)

    assert [make(k) for k in "aabab"] == list("aabab")
    assert made == ["a", "b"]
    make("c")  # drops a, the one not used for longest
    make("b")
    make("a")
    assert made == ["a", "b", "c", "a"]
    assert len(cache._entries) == 2


def test_a_failed_entry_is_tried_again():
    cache = opened.Cache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert cache.get("a", lambda: 5) == 5


# -- files that go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["all", "full rows", "narrow strip"])
def test_a_file_that_ends_too_early(window, values, tmp_path):
    path = tmp_path / "a.asdf"
    source = write(path, values.astype("<f4"))
    os.truncate(path, source.offset + 100)
    status = os.stat(path)
    size_and_mtime = (status.st_size, status.st_mtime_ns)
    short = FileArray(
        source.path, source.key, source.shape, source.dtype, source.offset, size_and_mtime
    )
    with pytest.raises(InputError, match=r"a\.asdf: ends too early"):
        short.read(WINDOWS[window])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_changed(compression, values, tmp_path):
    path = tmp_path / "a.asdf"
    source = write(path, values.astype("<f4"), all_array_compression=compression)
    write(path, values.astype("<f4") + 1, pad=3, all_array_compression=compression)
    with pytest.raises(InputError, match=r"a\.asdf: was changed while it was in use"):
        source.read(WINDOWS["full rows"])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_vanished(compression, values, tmp_path):
    path = tmp_path / "a.asdf"
    source = write(path, values.astype("<f4"), all_array_compression=compression)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.asdf: cannot be read \(No such file"):
        source.read()


# -- places on the detector ----------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_placed_takes_the_last_planes(compression, tmp_path):
    cube = np.arange(4 * 256 * 256, dtype=np.float32).reshape(4, 256, 256)
    source = write(tmp_path / "a.asdf", cube, all_array_compression=compression)
    for planes, first in ((4, 0), (3, 1), (None, 0)):
        placed = Placed(source, 256, "float32", planes)
        np.testing.assert_array_equal(placed.read(), cube[first:], strict=True)
        window = Window(250, 256, 3, 200)
        found = placed.read(window)
        np.testing.assert_array_equal(found, cube[(slice(first, None), *window.slices)])


@pytest.mark.parametrize("lead", [(), (3,), (3, 3)])
def test_active_arrays_are_zero_on_the_border(lead, window, tmp_path):
    active = np.random.default_rng(2).uniform(1, 2, (*lead, 248, 248)).astype(np.float32)
    full = np.zeros((*lead, 256, 256), np.float32)
    full[..., 4:252, 4:252] = active
    planes = 2 if len(lead) == 1 else None
    if planes:
        full = full[1:]
    placed = Placed(write(tmp_path / "a.asdf", active), 256, "float32", planes)
    np.testing.assert_array_equal(placed.read(window), full[(..., *window.slices)], strict=True)


@pytest.mark.parametrize(
    ("stored", "wanted", "found"),
    [
        ("<f8", "float32", "float32"),
        (">f4", "float32", "float32"),
        ("<u2", "float32", "float32"),
        ("<i4", "uint32", "uint32"),
        ("<f4", None, "float32"),
        (">f8", None, "float64"),
        ("<i2", None, "float32"),
    ],
)
def test_types(stored, wanted, found, tmp_path):
    values = np.arange(256 * 256).reshape(256, 256) % 1000
    placed = Placed(write(tmp_path / "a.asdf", values.astype(stored)), 256, wanted)
    result = placed.read(Window(3, 9, 0, 256))
    np.testing.assert_array_equal(result, values[3:9].astype(found), strict=True)


def test_small_sources():
    assert Constant({"a": 1}).read(Window(0, 1, 0, 1)) == {"a": 1}
    times = ReadTime(18, 256, 0.4)
    window = Window(5, 9, 100, 256)
    np.testing.assert_array_equal(times.read(window), times.read()[window.slices], strict=True)


def test_pixel_area_is_one_on_the_border(window):
    class Spline:
        def window(self, y0, y1, x0, x1):
            return np.arange(y0, y1)[:, None] * 1000.0 + np.arange(x0, x1)

    y, x = np.mgrid[window.slices]
    active = (y >= 4) & (y < 252) & (x >= 4) & (x < 252)
    expected = np.where(active, (y - 4) * 1000.0 + x - 4, 1)
    np.testing.assert_array_equal(PixelArea(Spline(), 256).read(window), expected, strict=True)


# -- lz4, piece by piece -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    """Several pieces of 4 MB."""
    rng = np.random.default_rng(17)
    return rng.integers(0, 300, (3, 1400, 1100)).astype("<u2")


def test_pieces_of_a_packed_array(large, tmp_path):
    source = write(tmp_path / "a.asdf", large, all_array_compression="lz4")
    assert source.offset is None
    assert source.packed is not None
    for window in (Window(0, 1400, 0, 1100), Window(0, 1, 0, 1100), Window(700, 1399, 3, 9)):
        np.testing.assert_array_equal(source.read(window), large[(..., *window.slices)])
        part = source.read(window, slice(1, 3))
        np.testing.assert_array_equal(part, large[(slice(1, 3), *window.slices)], strict=True)
    np.testing.assert_array_equal(source.read(), large)


def test_a_piece_is_unpacked_once_while_it_is_wanted(large, tmp_path, monkeypatch):
    source = write(tmp_path / "a.asdf", large, all_array_compression="lz4")
    unpacked = []
    unpack = packed.Pieces._unpack
    monkeypatch.setattr(
        packed.Pieces, "_unpack", lambda self, i: unpacked.append(i) or unpack(self, i)
    )
    windows = [Window(y, y + 50, 0, 1100) for y in range(0, 1400, 50)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(source.read, windows))
    for window, part in zip(windows, found, strict=True):
        np.testing.assert_array_equal(part, large[(..., *window.slices)])
    assert len(unpacked) == len(set(unpacked)) == 3  # of 9.2 MB


def test_a_damaged_packed_array(large, tmp_path):
    path = tmp_path / "a.asdf"
    source = write(path, large, all_array_compression="lz4")
    with open(path, "r+b") as file:
        file.seek(source.packed.start + 8)
        file.write(bytes(100_000))
    status = os.stat(path)
    damaged = replace(source, size_and_mtime=(status.st_size, status.st_mtime_ns))
    with pytest.raises(InputError, match=r"a\.asdf: damaged"):
        damaged.read()
