"""What an ASDF file holds, said without reading its arrays."""

from __future__ import annotations

import asdf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.errors import InputError
from roman_dask_l2.io.layout import read_layout


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Three blocks: a plain, a compressed and a short one; then the block index."""
    path = tmp_path_factory.mktemp("layout") / "good.asdf"
    rng = np.random.default_rng(1)
    file = asdf.AsdfFile(
        {
            "roman": {
                "data": rng.integers(0, 9, (3, 20, 30), np.uint16),
                "packed": rng.integers(0, 9, (50, 60), np.int32),
                "short": np.arange(7.0),
                "listed": [1.5, 2, 3],
                "number": 4,
                "nothing": None,
                "meta": {"name": "x", "flag": True},
            }
        }
    )
    file.set_array_compression(file["roman"]["packed"], "zlib")
    file.write_to(path)
    return path


def test_arrays(good):
    layout = read_layout(good)
    data = layout.array("roman", "data")
    assert (data.shape, data.dtype) == ((3, 20, 30), "<u2")
    assert layout.array("roman", "packed").offset is None
    assert layout.array("roman", "short").shape == (7,)
    with asdf.open(good) as file:
        for name in ("data", "packed", "short", "listed"):
            np.testing.assert_array_equal(layout.array("roman", name).read(), file["roman"][name])


def test_values(good):
    layout = read_layout(good)
    assert layout.value("roman", "meta", "name") == "x"
    assert layout.value("roman", "meta", "flag") is True
    assert layout.value("roman", "meta", "other") is None
    assert layout.value("roman", "number", "deeper", default=7) == 7
    assert layout.array("roman", "other") is None
    assert layout.array("roman", "nothing") is None
    for name in ("number", "meta"):
        with pytest.raises(InputError, match=rf"good\.asdf: roman\.{name} is not an array"):
            layout.array("roman", name)


def test_roman_datamodels_are_plain_trees_here(simulated):
    """Tags and extensions need not be known."""
    layout = read_layout(simulated(dark_decay=True).l1)
    assert layout.array("roman", "data").shape == (8, 256, 256)
    assert layout.value("roman", "meta", "exposure", "read_pattern")[2] == [2, 3]


def test_nothing_but_headers_is_read(simulated, monkeypatch):
    from roman_dask_l2.io import scan

    taken = 0

    def counting(path, what):
        file = open(path, "rb")  # noqa: SIM115
        read = file.read

        class Counted:
            def __enter__(self):
                return self

            def __exit__(self, *args):
                file.close()

            def read(self, n=-1):
                nonlocal taken
                block = read(n)
                taken += len(block)
                return block

            def __getattr__(self, name):
                return getattr(file, name)

        return Counted()

    path = simulated(side=640, wfi18_transient=True, detector="WFI18", reference_read=1000).caldir[
        "dark"
    ]
    assert path.stat().st_size > 10_000_000
    monkeypatch.setattr(scan, "open_regular", counting)
    read_layout(path)
    assert 0 < taken < 2_000_000


def test_content_follows_every_pixel(good, tmp_path):
    """The mark in the L2 file: equal for equal content, another for another pixel or value."""
    digests = set()
    for i, change in enumerate((0, 0, 1)):
        path = tmp_path / f"{i}.asdf"
        values = np.zeros((20, 30), np.float32)
        values[3, 4] = change
        asdf.AsdfFile({"roman": {"data": values}}).write_to(path)
        digests.add(read_layout(path).content)
    assert len(digests) == 2
    asdf.AsdfFile({"roman": {"data": values, "number": 5}}).write_to(path)
    digests.add(read_layout(path).content)
    assert len(digests) == 3


# -- bad files -----------------------------------------------------------------------------------


BAD = {
    "not ASDF": (b"SIMPLE  =                    T", "not an ASDF file"),
    "empty": (b"", "not an ASDF file"),
    "no end of the tree": (b"#ASDF 1.0.0\n%YAML 1.1\n--- {}\n", "truncated, the ASDF tree"),
    "no YAML": (b"#ASDF 1.0.0\n%YAML 1.1\n--- {a: [1\n...\n", "not a readable ASDF file"),
    "no mapping": (b"#ASDF 1.0.0\n%YAML 1.1\n--- [1, 2]\n...\n", "has no tree"),
    "bytes": (b"#ASDF 1.0.0\n%YAML 1.1\n--- {a: \xff\xfe}\n...\n", "not a readable ASDF file"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_files_that_are_not_asdf(content, message, tmp_path):
    path = tmp_path / "bad.asdf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_layout(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.asdf: no such file"):
        read_layout(tmp_path / "gone.asdf")
    with pytest.raises(InputError, match="is a directory, expected an ASDF file"):
        read_layout(tmp_path)


@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_off_anywhere(share, good, tmp_path_factory):
    """Wherever a file ends before its last array does, it is one clear error."""
    whole = good.read_bytes()
    end = whole.index(b"#ASDF BLOCK INDEX")
    path = tmp_path_factory.getbasetemp() / "cut.asdf"
    path.write_bytes(whole[: int(share * end)])
    with pytest.raises(InputError) as caught:  # noqa: PT012
        layout = read_layout(path)
        for name in ("data", "packed", "short"):
            layout.array("roman", name)
    assert "cut.asdf" in str(caught.value)
    assert len(caught.value.problems) == 1


def test_without_its_block_index_a_file_is_whole(good, tmp_path):
    whole = good.read_bytes()
    path = tmp_path / "cut.asdf"
    path.write_bytes(whole[: whole.index(b"#ASDF BLOCK INDEX")])
    assert read_layout(path).blocks == read_layout(good).blocks


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"shape: [3, 20, 30]", b"shape: [3, 99, 30]", "data is larger than its block"),
        (b"datatype: uint16", b"datatype: uint99", "data has unsupported type uint99"),
        (b"source: 0", b"source: 9", "truncated, the data of roman.data are missing"),
    ],
)
def test_trees_that_do_not_fit_their_blocks(old, new, message, good, tmp_path):
    whole = good.read_bytes()
    assert old in whole
    path = tmp_path / "odd.asdf"
    path.write_bytes(whole.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_layout(path).array("roman", "data")
