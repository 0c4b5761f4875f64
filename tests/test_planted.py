"""Links, pipes and directories that others have planted in a shared directory are not followed, not
waited for, and not removed; what is made obeys the umask."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from roman_dask_l2.batch import leftovers, locks, manifest
from roman_dask_l2.core import jit
from roman_dask_l2.core.detector import Window
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.atomic import check_target, replacing
from roman_dask_l2.io.blocks import Block
from roman_dask_l2.io.fits import create_fits
from roman_dask_l2.io.inplace import InPlaceFile
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.io.spill import Spilled, remove_store, temp_store
from roman_dask_l2.io.wcs import load_wcs
from roman_dask_l2.system.files import is_private, open_regular, write_new
from roman_dask_l2.system.logs import JsonLines
from roman_dask_l2.system.processes import OWNER, is_orphan, own

KINDS = ("nothing", "file", "directory")


@pytest.fixture(params=KINDS)
def planted(request, tmp_path):
    """``planted(path)``: a link there, to something that must stay as it is."""
    target = tmp_path / "victim"
    if request.param == "file":
        target.write_text("precious")
    elif request.param == "directory":
        (target / "inside").mkdir(parents=True)
        (target / "inside" / "file").write_text("precious")
        (target / "file").write_text("precious")

    def seen():
        paths = [target, *target.rglob("*")] if os.path.lexists(target) else []
        return {p: p.read_text() if p.is_file() else None for p in paths}

    before = seen()
    links = []

    def plant(path):
        path.symlink_to(target)
        links.append(path)

    yield plant
    assert links
    assert seen() == before


@pytest.fixture(autouse=True)
def soon():
    """No test waits for a pipe."""

    def stop(*_):
        raise AssertionError("waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def of_another(monkeypatch):
    """``of_another(link)``: from now on whatever is there belongs to another user, not to root."""

    def change(link=None):
        if link is not None and os.getuid() == 0:
            os.chown(link, 12345, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12345)

    return change


def with_umask(mask, make):
    before = os.umask(mask)
    try:
        return make()
    finally:
        os.umask(before)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# -- locks -----------------------------------------------------------------------------------------


def test_a_link_is_no_lock(planted, shared):
    lock = shared / ".out.asdf.lock"
    planted(lock)
    with pytest.raises(InputError, match=r"the lock .*\.out\.asdf\.lock is a symbolic link, exp"):
        locks.take(lock, "token")
    assert lock.is_symlink()
    assert locks.holder(lock) is not None  # nobody goes on there
    assert not locks.is_mine(lock, "token")
    locks.release(lock)
    locks._touch(lock, "token")
    assert lock.is_symlink()


def test_a_pipe_is_no_lock(shared):
    lock = shared / ".out.asdf.lock"
    os.mkfifo(lock)
    with pytest.raises(InputError, match="is not a regular file"):
        locks.take(lock, "token")
    assert locks.holder(lock) is not None


@pytest.mark.parametrize(
    "text",
    ["[" * 4000, "{}", "[]", "null", '{"host": 1, "space": "", "pid": 1, "born": 0, "token": ""}',
     *(f'{{"host": "{os.uname().nodename}", "space": "", "pid": {pid}, "born": 0, "token": ""}}'
       for pid in ('"x"', "-1", 10**30, "null", "[]"))],
)  # fmt: skip
def test_locks_without_sense(shared, text):
    lock = shared / ".out.asdf.lock"
    lock.write_text(text)
    assert locks.read_owner(lock)[0] is None
    assert locks.take(lock, "token") == (False, locks.Owner("?", "", 0, 0.0, ""))


# -- TEMP ------------------------------------------------------------------------------------------


def test_a_store_is_the_users_own(shared):
    def make():
        with temp_store(shared, 0) as store:
            assert mode(store.path) == 0o700
            assert is_private(Path(store.path))
            store.create("cube", (8, 8), (8, 8), "float32").put(zeros(), Window(0, 8, 0, 8))
            write_new(Path(store.path) / "note", "x")

    for mask in (0o002, 0o022, 0o077):
        with_umask(mask, make)
        assert not list(shared.iterdir())


def zeros():
    import numpy as np

    return np.zeros((8, 8), np.float32)


def test_a_link_in_the_place_of_a_store_is_left(planted, shared):
    link = shared / "l2-0123abcd-99999-0123abcd.zarr"
    planted(link)
    remove_store(link)
    assert link.is_symlink()
    assert not is_orphan(link)


def test_links_in_a_store_are_removed_and_not_what_they_lead_to(planted, shared):
    with temp_store(shared, 0) as store:
        planted(Path(store.path) / "link")
    assert not list(shared.iterdir())


def test_a_store_that_was_exchanged_is_not_written_to(planted, shared):
    with temp_store(shared, 0) as store:
        spilled = store.create("inside", (8, 8), (8, 8), "float32")  # as the planted one has
        os.rename(store.path, shared / "away")
        planted(Path(store.path))
        with pytest.raises(OSError):  # noqa: PT011  (a loop, or not a directory)
            spilled.put(zeros(), Window(0, 8, 0, 8))
        for use in (
            spilled.read,
            lambda: store.create("another", (8, 8), (8, 8), "float32"),
            lambda: store.write_note("finished", {"label": "R"}),
            lambda: store.note("finished"),
        ):
            with pytest.raises(OSError):  # noqa: PT011
                use()
        store.drop(spilled)


@pytest.mark.parametrize("name", ["cube", "finished.json"])
def test_a_link_in_a_store_is_not_followed(planted, shared, name):
    """If somebody could put one there."""
    with temp_store(shared, 0) as store:
        link = Path(store.path) / name
        planted(link)
        if name == "cube":
            store.drop(Spilled(store.path, "cube", (8, 8), (8, 8), "float32"))
            with pytest.raises(FileExistsError):
                store.create("cube", (8, 8), (8, 8), "float32")
            assert link.is_symlink()
        else:
            with pytest.raises(OSError, match="symbolic"):
                store.note("finished")
            store.write_note("finished", {"label": "R"})  # takes its place
            assert store.note("finished") == {"label": "R"}


def test_the_owner_of_a_store_is_written_anew(planted, shared):
    planted(shared / OWNER)
    with pytest.raises(FileExistsError):
        own(shared)
    planted(shared / "store")
    with pytest.raises(OSError):  # noqa: PT011  (a loop, or not a directory)
        own(shared / "store")


def test_who_owns_a_store_is_believed_of_ones_own(shared, of_another):
    own(shared)
    text = (shared / OWNER).read_text().splitlines()
    (shared / OWNER).write_text(f"{text[0]}\n{2**22 + 1}\n1.0\n")
    assert is_orphan(shared)
    (shared / OWNER).unlink()
    os.mkfifo(shared / OWNER)
    assert not is_orphan(shared)
    (shared / OWNER).unlink()
    (shared / OWNER).write_text(f"{text[0]}\n{2**22 + 1}\n1.0\n")
    of_another()
    assert not is_orphan(shared)


# -- leftovers -------------------------------------------------------------------------------------


def left_behind(shared):
    """An exposure, and what a dead process has left of it."""
    out = shared / "l2.asdf"
    noise = SimpleNamespace(TEMP=shared, OUT=shared / "noise.asdf")
    config = SimpleNamespace(OUT=out, NOISE=noise, FITSOUT=False, TEMP=None)
    temp = leftovers.own_temp(config)
    part = out.with_name(".l2.elsewhere-1-n0123456-0123abcd.part.asdf")
    store = temp.with_name(f"{temp.stem}-99999-0123abcd.zarr")
    return config, part, store


def test_leftovers_that_are_links_stay(planted, shared):
    config, part, store = left_behind(shared)
    planted(part)
    planted(store)
    assert leftovers.remove_leftovers(config) == []
    assert leftovers.remove_orphans(config) == []
    assert part.is_symlink()
    assert store.is_symlink()


def test_leftovers_of_another_user_stay(shared, monkeypatch, of_another):
    config, part, store = left_behind(shared)
    part.write_text("x")
    os.utime(part, (1, 1))
    store.mkdir()
    (store / "file").write_text("x")
    of_another()
    assert leftovers.remove_leftovers(config) == []
    assert part.exists()
    assert (store / "file").exists()
    monkeypatch.undo()
    assert set(leftovers.remove_leftovers(config)) == {part, store}
    assert not part.exists()
    assert not store.exists()


# -- outputs ---------------------------------------------------------------------------------------


def writers(path):
    yield lambda: write_new(path, "text")
    yield lambda: InPlaceFile(path).create()
    yield lambda: create_fits(path, [Window(0, 8, 0, 8)], [None], [-32], [[]])


@pytest.mark.parametrize("which", range(3))
def test_a_link_in_the_place_of_a_new_file(planted, shared, which):
    planted(shared / "part")
    with pytest.raises(FileExistsError):
        list(writers(shared / "part"))[which]()


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_new_files_obey_the_umask(shared, which, mask):
    path = shared / "part"
    with_umask(mask, list(writers(path))[which])
    assert mode(path) == 0o666 & ~mask


def test_an_unfinished_file_that_was_exchanged_is_not_written_to(planted, shared):
    path = shared / "part"
    block = Block(str(path), 0, "<f4", Window(0, 8, 0, 8))
    planted(path)
    with pytest.raises(OSError, match="symbolic"):
        block.put(zeros(), Window(0, 8, 0, 8))
    with pytest.raises(OSError, match="symbolic"):
        InPlaceFile(path).finish({"a": 1})


def test_outputs_that_are_links_of_another_user(planted, shared, of_another):
    out = shared / "l2.asdf"
    planted(out)
    of_another(out)
    with pytest.raises(InputError, match=r"l2\.asdf: is a symbolic link of another user"):
        check_target(out)
    with pytest.raises(InputError, match="is a symbolic link of another user"), replacing(out):
        pass
    assert out.is_symlink()


@pytest.mark.parametrize("mask", [0o002, 0o027])
def test_locks_manifests_and_logs_obey_the_umask(shared, mask):
    def make():
        locks.take(shared / "lock", "token")
        manifest.append(shared / "manifest", {"a": 1})
        JsonLines(shared / "log").close()

    with_umask(mask, make)
    locks.release(shared / "lock")
    assert mode(shared / "manifest") == mode(shared / "log") == 0o666 & ~mask
    with_umask(mask, lambda: locks.take(shared / "lock", "token"))
    assert mode(shared / "lock") == 0o666 & ~mask
    locks.release(shared / "lock")


# -- manifest --------------------------------------------------------------------------------------


def test_a_manifest_that_is_a_link_of_another_user(planted, shared, of_another):
    path = shared / "manifest.jsonl"
    planted(path)
    of_another(path)
    for use in (lambda: manifest.append(path, {"a": 1}), lambda: manifest.require_writable(path)):
        with pytest.raises(InputError, match="manifest: .* is a symbolic link of another user"):
            use()


def test_a_manifest_may_be_ones_own_link(shared):
    (shared / "link").symlink_to("real")
    line = {"identity": "a", "attempt": 1, "status": "done"}
    manifest.append(shared / "link", line)
    assert json.loads((shared / "real").read_text()) == line
    assert manifest.read(shared / "link").last == {"a": line}


def test_a_manifest_that_is_a_pipe(shared):
    os.mkfifo(shared / "pipe")
    with pytest.raises(InputError, match="is not a regular file"):
        manifest.require_writable(shared / "pipe")
    with pytest.raises(InputError, match="is not a regular file"):
        manifest.read(shared / "pipe")


# -- compiled kernels ------------------------------------------------------------------------------


def kernels_kept_in(monkeypatch, shared, prepare):
    """Where compiled kernels go if neither the source's directory nor HOME can be written to."""
    import tempfile

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    access = os.access
    here = Path(jit.__file__).parent
    monkeypatch.setattr(jit.os, "access", lambda p, m: p != here and access(p, m))
    prepare(shared / f"user-{os.getuid()}")
    return Path(jit._cache_directory())


def test_kernels_of_ones_own_directory(monkeypatch, shared):
    found = kernels_kept_in(monkeypatch, shared, lambda folder: None)
    assert found == shared / f"user-{os.getuid()}" / "roman_dask_l2" / "numba"
    assert all(is_private(p) for p in (found, found.parent, found.parent.parent))


@pytest.mark.parametrize("kind", ["link", "open", "open inside", "file"])
def test_kernels_are_not_taken_from_others(monkeypatch, shared, tmp_path, kind):
    """They are pickled code: who may write there could run anything."""

    def prepare(folder):
        inside = (tmp_path / "real" if kind == "link" else folder) / "roman_dask_l2" / "numba"
        if kind == "file":
            folder.write_text("")
            return
        inside.mkdir(parents=True, mode=0o700)
        if kind == "link":
            folder.symlink_to(tmp_path / "real")
        else:
            folder.chmod(0o777 if kind == "open" else 0o700)
            inside.chmod(0o777 if kind == "open inside" else 0o700)

    found = kernels_kept_in(monkeypatch, shared, prepare)
    assert found.parent == shared
    assert found.name.startswith("roman_dask_l2-")
    assert is_private(found)


def test_kernels_of_another_user(monkeypatch, shared, of_another):
    def prepare(folder):
        folder.mkdir(mode=0o700)
        of_another()

    found = kernels_kept_in(monkeypatch, shared, prepare)
    assert found.name.startswith("roman_dask_l2-")


# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "/dev/null", "socket"])
def test_inputs_that_are_no_files(shared, what):
    path = Path(what) if what.startswith("/") else shared / what
    if what == "pipe":
        os.mkfifo(path)
    if what == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    with pytest.raises(InputError, match="is not a regular file, expected an image"):
        open_regular(path, "an image")
    for read in (read_layout, lambda p: load_wcs(p, None), lambda p: load_wcs(None, p)):
        with pytest.raises(InputError, match="is not a regular file, expected"):
            read(path)


def test_a_whole_run_obeys_the_umask(simulated, tmp_path):
    """Through the command line, in a process of its own."""
    import shutil

    made = simulated(seed=3, conditions="plain", cosmic_rays=0, stars=0, extra_plane=False)
    folder = tmp_path / "run"
    shutil.copytree(made.config.parent, folder)
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "roman_dask_l2", "run", str(folder / made.config.name)]
    subprocess.run(
        [*command, "--quiet", "--no-noise", "--scheduler", "synchronous"], check=True,
        preexec_fn=lambda: os.umask(0o027), timeout=300,
    )  # fmt: skip
    new = set(folder.iterdir()) - before
    assert new
    assert {mode(path) for path in new} == {0o640}
