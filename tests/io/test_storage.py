"""The same numbers, however a file stores them, from many threads and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from storing import WAYS, store

from roman_dask_l2.core.detector import Window
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.layout import known_layout, read_head, read_layout
from roman_dask_l2.products.level2 import calibrate

ROOT = Path(__file__).parents[2]

WINDOWS = (None, Window(3, 40, 0, 256), Window(3, 40, 5, 200), Window(100, 200, 250, 256))
COMPRESSED = ("zlib", "bzp2", "lz4", "lz4 whole", "fortran zlib", "external zlib")


@pytest.fixture
def made(simulated):
    return simulated(conditions="plain", cosmic_rays=0, stars=0, seed=3)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_and_windows(way, made, tmp_path):
    """Two and three axes, floats and integers; from eight threads at once."""
    for file, keys in (("cal/gain.asdf", ["data"]), ("cal/dark.asdf", ["data", "dq"])):
        path = made.config.parent / file
        if way == "inline" and "dark" in file:
            continue  # some million numbers
        there = tmp_path / path.name
        store(path, way, there)
        for key in keys:
            plain, other = (read_layout(p).array("roman", key) for p in (path, there))
            expected = [plain.read(w) for w in WINDOWS]
            if way == "float16" and key == "data":
                expected = [e.astype(np.float16) for e in expected]
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(other.read, WINDOWS * 4))
            for i, values in enumerate(found):
                np.testing.assert_array_equal(values, expected[i % len(WINDOWS)])
                assert values.dtype.isnative
                assert values.flags.writeable
                assert values.flags.c_contiguous


@pytest.mark.parametrize("way", COMPRESSED)
def test_damaged_compressed_data(way, made, tmp_path):
    """One clear line that names the file: cut short, garbage in the middle, zeros."""
    path = tmp_path / "gain.asdf"
    store(made.caldir["gain"], way, path)
    array = read_layout(path).array("roman", "data")
    good = Path(array.path).read_bytes()
    start, used = array.packed.start, array.packed.used
    damages = [(2000, used // 2, b"\xff"), (used, 0, b"\0"), (1, used // 3, b"\xee")]
    if way.startswith("lz4"):
        damages.pop()  # it has no check sum
    for size, position, filling in damages:
        bad = bytearray(good)
        bad[start + position : start + position + size] = filling * min(size, used - position)
        Path(array.path).write_bytes(bad)
        status = os.stat(array.path)
        odd = replace(array, size_and_mtime=(status.st_size, status.st_mtime_ns))
        with pytest.raises(InputError, match="damaged") as caught:
            odd.read()
        assert str(caught.value).startswith(array.path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"zlib", b"zstd", "roman.data is compressed with 'zstd', expected zlib, bzp2, lz4 or no"),
        (b"source: 0", b"source: http://a/b.asdf", "lies in http://a/b.asdf, expected a file in"),
        (b"source: 0", b"source: gone.asdf", r"roman.data lies in .*gone\.asdf: no such file"),
        (b"source: 0", b"source: 0, strides: [1024]", "roman.data has no usable shape, offset"),
        (b"source: 0", b"source: 0\n    strides: [2048, 4]", "roman.data is larger than its block"),
        (b"source: 0", b"source: 0\n    offset: -8", "roman.data is larger than its block"),
    ],
)
def test_trees_that_cannot_be_used(old, new, message, made, tmp_path):
    path = tmp_path / "gain.asdf"
    store(made.caldir["gain"], "zlib", path)
    whole = path.read_bytes()
    assert old in whole
    if b"strides: [1024]" in new:
        new = b"source: 0\n    strides: [1024]"
    path.write_bytes(whole.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_layout(path).array("roman", "data")


@pytest.mark.parametrize(
    "data", ["[[1, 2], [3]]", "[1, two]", "[[1, 2], [3, null]]", "[3, {a: 1}]"]
)
def test_numbers_in_the_tree_that_are_none(data, tmp_path):
    path = tmp_path / "a.asdf"
    path.write_text(f"#ASDF 1.0.0\n%YAML 1.1\n---\nroman: {{data: {data}}}\n...\n")
    with pytest.raises(InputError, match=r"a\.asdf: roman\.data is not an array of numbers"):
        read_layout(path).array("roman", "data")


def test_a_file_beside_counts(made, tmp_path):
    """Who asks whether an input is what it was looks at the files beside it as well."""
    path = tmp_path / "gain.asdf"
    store(made.caldir["gain"], "external", path)
    before = known_layout(path)
    array = before.array("roman", "data")
    assert Path(array.path).parent == tmp_path
    beside = Path(array.path)
    beside.write_bytes(beside.read_bytes() + b" ")
    with pytest.raises(InputError, match="was changed while it was in use"):
        array.read()
    after = known_layout(path)
    assert after.content != before.content == read_layout(path).content or after is not before
    assert after.content == read_head(path)[1] != before.content
    assert after.array("roman", "data").read().shape == (256, 256)


# -- whole runs ----------------------------------------------------------------------------------


def with_files(made, folder, ways):
    """A configuration whose files are stored as `ways` has it by name; the L2 file is new."""
    shutil.copytree(made.config.parent, folder)
    for file in [folder / "l1.asdf", *(folder / "cal").iterdir()]:
        way = ways.get(file.stem, ways.get("*"))
        if way is not None:
            store(file, way)
    return folder / made.config.name


def image(config):
    layout = read_layout(config.with_name(yaml.safe_load(config.read_text())["OUT"]))
    return {n: layout.array("roman", n).read() for n in ("data", "dq", "err")}


MIXED = dict(zip(
    ("gain", "flat", "saturation", "l1", "dark", "read", "linearitylegendre", "mask", "biascorr",
     "ipc4d"),
    ("inline", "zlib", "bzp2", "lz4", "fortran", "quantity", "external", "big", "fortran zlib",
     "strided"), strict=True,
))  # fmt: skip


@pytest.mark.parametrize("scheduler", ["local", "synchronous", "local-cluster"])
def test_the_same_image(scheduler, made, tmp_path):
    """Bits of a run on plain files, with every other way mixed, on every scheduler."""
    plain = with_files(made, tmp_path / "plain", {})
    calibrate(plain, scheduler="synchronous")
    odd = with_files(made, tmp_path / "odd", MIXED)
    calibrate(odd, scheduler=scheduler, threads=None if scheduler == "synchronous" else 8, tile=64)
    for name, values in image(plain).items():
        np.testing.assert_array_equal(image(odd)[name], values, name)


BLOCKED = """
import sys, threading
from roman_dask_l2.cli.app import main

seen = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        seen.append((threading.current_thread().name, name.partition(".")[0]))

sys.meta_path.insert(0, Watch())
status = main(sys.argv[1:])
main_thread = threading.main_thread().name
model, *_ = [t for t, name in seen if name == "roman_datamodels"]
assert model != main_thread
by_tasks = {name for t, name in seen if t not in (main_thread, model)}
by_model = {name for t, name in seen if t == model}
print(status, *sorted(by_tasks & by_model - set(sys.stdlib_module_names) - {"numpy", "lz4"}),
      *sorted(by_tasks & {"asdf", "gwcs", "astropy", "roman_datamodels", "scipy", "stcal"}))
"""


@pytest.mark.parametrize("detector", ["WFI01", "WFI18"])
def test_tasks_import_nothing_that_others_import(detector, simulated, tmp_path):
    """Two threads that import the same packages may wait for each other for ever."""
    made = simulated(detector=detector, wfi18_transient=detector == "WFI18", seed=3)
    config = with_files(made, tmp_path / "odd", {"gain": "zlib", "flat": "bzp2", "l1": "lz4"})
    options = yaml.safe_load(config.read_text()) | {"correct_wfi18_transient": True}
    config.write_text(yaml.safe_dump(options))
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(config), "--quiet", "--threads", "2"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "0\n", done.stdout + done.stderr


def stress(made, folder, n, at_a_time):
    """Runs of their own processes, each with other files stored in other ways."""
    names = [*MIXED]
    ways = [way for way in WAYS if way != "inline"]

    def one(i):
        chosen = {name: ways[(i + 3 * j) % len(ways)] for j, name in enumerate(names)}
        chosen["gain"] = "inline" if i % 2 else chosen["gain"]
        config = with_files(made, folder / str(i), chosen)
        done = subprocess.run(
            [sys.executable, "-m", "roman_dask_l2", str(config), "--quiet",
             "--threads", str(1 + i % 8), "--tile", "64"],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        left = list((folder / str(i)).glob(".*part*"))
        shutil.rmtree(folder / str(i))
        return i, done.returncode, done.stderr, left

    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(one, range(n)))


def test_some_processes_with_mixed_files(made, tmp_path):
    for i, status, error, left in stress(made, tmp_path, 6, 3):
        assert (status, left) == (0, []), (i, error)


@pytest.mark.faults
def test_fifty_processes_with_mixed_files(made, tmp_path):
    for i, status, error, left in stress(made, tmp_path, 50, 8):
        assert (status, left) == (0, []), (i, error)
