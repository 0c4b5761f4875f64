"""The TEMP store: chunks as plain files that zarr can read, and nothing half written."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from roman_dask_l2.core.detector import Grid, Window
from roman_dask_l2.io.spill import NotWritten, Spilled, TempStore, stores_in_turn, temp_store
from roman_dask_l2.system.processes import OWNER

SIDE = 50


@pytest.fixture
def store(tmp_path):
    return TempStore(str(tmp_path / "store.zarr"))


def put_tiles(spilled, image, tile):
    grid = Grid(SIDE, tile)
    for place in np.ndindex(*grid.shape):
        window = grid.window(*place)
        spilled.put(image[window.slices], window)


@pytest.mark.parametrize("tile", [(50, 50), (16, 50), (16, 12), (7, 9)])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_zarr_reads_the_same(store, tile, dtype):
    image = (np.random.default_rng(1).random((SIDE, SIDE)) * 1000).astype(dtype)
    spilled = store.create("image", (SIDE, SIDE), tile, dtype)
    put_tiles(spilled, image, tile)
    array = zarr.open_array(store.path, path="image", mode="r")
    np.testing.assert_array_equal(array[:], image)
    np.testing.assert_array_equal(spilled.read(), image)


@settings(max_examples=50, deadline=None)
@given(
    tile=st.tuples(st.integers(3, SIDE), st.integers(3, SIDE)),
    ys=st.tuples(st.integers(0, SIDE - 1), st.integers(1, SIDE)),
    xs=st.tuples(st.integers(0, SIDE - 1), st.integers(1, SIDE)),
)
def test_any_window_of_any_tiles(tmp_path_factory, tile, ys, xs):
    window = Window(ys[0], max(ys[1], ys[0] + 1), xs[0], max(xs[1], xs[0] + 1))
    store = TempStore(str(tmp_path_factory.mktemp("any") / "store.zarr"))
    image = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    spilled = store.create("image", (SIDE, SIDE), tile, "float32")
    put_tiles(spilled, image, tile)
    np.testing.assert_array_equal(spilled.read(window), image[window.slices])


def test_planes_of_a_cube(store):
    cube = np.random.default_rng(2).integers(0, 65536, (3, SIDE, SIDE)).astype(np.uint16)
    spilled = store.create("cube", cube.shape, (1, 16, SIDE), "uint16")
    for j in (2, 0, 1):
        spilled.put(cube[j], Window(0, SIDE, 0, SIDE), j)
    window = Window(13, 35, 4, 40)
    np.testing.assert_array_equal(spilled.read(window), cube[:, 13:35, 4:40])
    np.testing.assert_array_equal(zarr.open_array(store.path, path="cube", mode="r")[:], cube)


def test_not_written_is_not_zero(store):
    spilled = store.create("image", (SIDE, SIDE), (16, SIDE), "float32")
    spilled.put(np.ones((16, SIDE), np.float32), Window(0, 16, 0, SIDE))
    assert (spilled.read(Window(0, 16, 0, SIDE)) == 1).all()
    with pytest.raises(NotWritten, match="c\\.1\\.0: chunk was not written"):
        spilled.read(Window(10, 20, 0, SIDE))
    store.drop(spilled)
    with pytest.raises(NotWritten):
        spilled.read(Window(0, 16, 0, SIDE))


def test_a_chunk_is_whole_or_not_there(store, monkeypatch):
    """A write that fails midway leaves the old chunk and nothing under its name."""
    spilled = store.create("image", (SIDE, SIDE), (SIDE, SIDE), "float32")
    whole = Window(0, SIDE, 0, SIDE)
    spilled.put(np.ones((SIDE, SIDE), np.float32), whole)

    def fails(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("roman_dask_l2.io.spill.os.replace", fails)
    with pytest.raises(OSError, match="no space"):
        spilled.put(np.zeros((SIDE, SIDE), np.float32), whole)
    assert (spilled.read() == 1).all()


def test_late_tasks_do_not_bring_a_store_back(store, tmp_path):
    spilled = store.create("image", (SIDE, SIDE), (SIDE, SIDE), "float32")
    store.drop(spilled)
    with pytest.raises(NotWritten, match="not there any more"):
        spilled.put(np.ones((SIDE, SIDE), np.float32), Window(0, SIDE, 0, SIDE))
    assert not (tmp_path / "store.zarr" / "image").exists()


def test_removed_under_the_hands_of_its_writers(tmp_path):
    """Tasks of a failed run go on in other threads: they end with an error, and bring nothing back,
    whatever they were doing when the store was removed."""
    errors: list[BaseException] = []
    began = threading.Barrier(3)

    def write(spilled: Spilled) -> None:
        began.wait()
        try:
            while True:
                for y in range(0, SIDE, 8):
                    rows = np.ones((8, SIDE), np.float32)
                    spilled.put(rows, Window(y, y + 8, 0, SIDE), y % 5)
        except NotWritten as error:
            errors.append(error)

    for attempt in range(30):
        with temp_store(tmp_path, 0) as store:
            arrays = [store.create(n, (5, SIDE, SIDE), (1, 8, 16), "float32") for n in "ab"]
            threads = [threading.Thread(target=write, args=(array,)) for array in arrays]
            for thread in threads:
                thread.start()
            began.wait()
            time.sleep(0.001 * (attempt % 10))
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert list(tmp_path.iterdir()) == []
        assert len(errors) == 2 * (attempt + 1)


def test_removal_that_is_killed_midway_can_be_told(tmp_path, monkeypatch):
    """What is left still names its owner until nothing else is left."""
    with temp_store(tmp_path, 0) as store:
        store.create("image", (SIDE, SIDE), (SIDE, SIDE), "float32")
        store.write_note("finished-0", {})
        seen = []
        rmtree = shutil.rmtree

        def killed(path, **how):
            seen.append(sorted(os.listdir(how.get("dir_fd") or path)))
            rmtree(path, **how)

        monkeypatch.setattr("roman_dask_l2.io.spill.shutil.rmtree", killed)
    assert seen[-1] == [OWNER]
    assert list(tmp_path.iterdir()) == []


def test_notes(store):
    store.create("image", (SIDE, SIDE), (SIDE, SIDE), "float32")
    assert store.note("finished-0") is None
    store.write_note("finished-0", {"label": "R", "median": 0.1})
    assert store.note("finished-0") == {"label": "R", "median": 0.1}


WHOLE = Window(0, SIDE, 0, SIDE)


def inodes(folder):
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def filled(store, name, value, shape=(SIDE, SIDE), tile=(16, SIDE)):
    spilled = store.create(name, shape, tile, "float32")
    put_tiles(spilled, np.full((SIDE, SIDE), value, np.float32), tile)
    return spilled


def test_files_are_written_over(tmp_path):
    """Those of a dropped array become those of another one: nothing of the old one is read."""
    with temp_store(tmp_path, 0, reuse=True) as store:
        first = filled(store, "first", 1)
        before = inodes(tmp_path)
        store.drop(first)
        second = store.create("second", (SIDE, SIDE), (16, SIDE), "float32")
        with pytest.raises(NotWritten, match="chunk was not written"):
            second.read(Window(0, 1, 0, SIDE))
        put_tiles(second, np.full((SIDE, SIDE), 2, np.float32), (16, SIDE))
        assert (second.read() == 2).all()
        assert {p.stat().st_ino for p in tmp_path.rglob("c.*")} <= before
        with pytest.raises(NotWritten):
            first.read(Window(0, 1, 0, SIDE))
        # Of another size, and more than there are.
        third = store.create("third", (3, SIDE, SIDE), (1, SIDE, SIDE), "uint16")
        for j in range(3):
            third.put(np.full((SIDE, SIDE), j, np.uint16), WHOLE, j)
        assert [third.read(plane=j).max() for j in range(3)] == [0, 1, 2]
        np.testing.assert_array_equal(
            zarr.open_array(store.path, path="second", mode="r")[:], second.read()
        )
    assert list(tmp_path.iterdir()) == []


def test_without_reuse_space_is_given_back(tmp_path):
    with temp_store(tmp_path, 0) as store:
        store.drop(filled(store, "first", 1))
        assert not list(tmp_path.rglob("c.*"))
        assert not list(tmp_path.rglob("spare"))


def test_stores_in_turn(tmp_path):
    """The next store takes the files of the last one, under a name of its own; of what was in
    arrays there is nothing. After the last one there is nothing left."""
    names, files = [], []
    with stores_in_turn():
        for stem in ("one", "two", "three"):
            with temp_store(tmp_path / stem, 10_000, reuse=True) as store:
                assert store.note("finished-0") is None
                names.append(os.path.basename(store.path))
                spilled = filled(store, f"image{stem}", 1)
                store.write_note("finished-0", {})
                files.append({p.stat().st_ino for p in tmp_path.rglob("c.*")})
                assert (spilled.read() == 1).all()
                assert len(list(tmp_path.glob("*.zarr"))) == 1
                assert (tmp_path / names[-1] / OWNER).exists()
        assert not list(tmp_path.rglob("c.*"))
    assert [name.split("-")[0] for name in names] == ["one", "two", "three"]
    assert files[0] == files[1] == files[2]
    assert list(tmp_path.iterdir()) == []


def test_two_stores_at_a_time_in_turn(tmp_path):
    with stores_in_turn():
        for _ in range(2):
            with (
                temp_store(tmp_path / "one", 10_000, reuse=True) as one,
                temp_store(tmp_path / "two", 10_000, reuse=True) as two,
            ):
                images = [filled(store, "image", value) for value, store in ((1, one), (2, two))]
                assert [image.read().mean() for image in images] == [1, 2]
                assert len(list(tmp_path.glob("*.zarr"))) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_failed_is_not_handed_on(tmp_path):
    def fails():
        with temp_store(tmp_path, 0, reuse=True) as store:
            filled(store, "image", 1)
            raise OSError("full")

    with stores_in_turn():
        with pytest.raises(OSError, match="full"):
            fails()
        assert list(tmp_path.iterdir()) == []


def test_what_is_far_too_large_is_not_handed_on(tmp_path):
    with stores_in_turn():
        with temp_store(tmp_path, 0, reuse=True) as store:
            filled(store, "image", 1)
        with temp_store(tmp_path, 100, reuse=True) as store:
            assert not list(tmp_path.rglob("spare"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_piles_up_over_thousands_of_stores(tmp_path):
    from roman_dask_l2.system import stopping

    before = set(stopping._unfinished)
    with stores_in_turn():
        for i in range(50):
            with temp_store(tmp_path / f"s{i}", 10_000, reuse=True) as store:
                filled(store, "image", i)
            assert len(stopping._unfinished - before) == 1
    assert stopping._unfinished == before
