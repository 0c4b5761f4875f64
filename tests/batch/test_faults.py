"""What clusters do to batches: processes killed, files gone, disks full. All is done for real.

After each fault: nothing unfinished under a final name, what was finished is untouched, and running
the batch again gives the bits of an undisturbed run and leaves no stray file.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import subprocess
import sys
import time

import pytest

from .conftest import Campaign

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch):
    """A moment is one of a single exposure; test_together.py has those of several together."""
    command = Campaign.command

    def alone(case, *options, name="batch"):
        more = () if name != "batch" or "--in-flight" in options else ("--in-flight", "1")
        return command(case, *options, *more, name=name)

    monkeypatch.setattr(Campaign, "command", alone)


FIRST, SECOND = "filter=F158,obs=1,sca=1", "filter=F158,obs=2,sca=1"
SLOW = ("--threads", "1", "--tile", "64")
"""More and smaller tiles: the moments of a small detector last longer."""


# -- moments -------------------------------------------------------------------------------------


def begun(part) -> bool:
    """Whether the tree is being written in front of the arrays of an unfinished file."""
    with contextlib.suppress(OSError), open(part, "rb") as file:
        return file.read(5) == b"#ASDF"
    return False


def in_tiles(case, obs=2, sca=1):
    return any(not begun(part) for part in case.parts(case.out(obs, sca)))


def in_noise(case, obs=2, sca=1):
    return bool(case.cubes()) and case.out(obs, sca).exists()


def writing(case):
    """Any exposure: the moment is short."""
    return any(begun(p) for p in case.folder.glob("l2_?/.sim_L2_F158_?_?.*.part.asdf"))


def writing_noise(case):
    return any(begun(p) for p in case.folder.glob("l2_?/.sim_L2_F158_?_?_noise.*.part.asdf"))


MOMENTS = {"tiles": in_tiles, "writing": writing, "noise": in_noise, "writing noise": writing_noise}


def hidden(case):
    return [path.name for path in case.outputs() if path.name.startswith(".")]


def again(case, undisturbed, before=None, options=()):
    """Run again; everything must come out as if nothing had happened."""
    if before is None:
        before = case.marks()
    done = case.run(*options)
    assert done.returncode == 0, done.stderr
    case.check(undisturbed)
    after = case.marks()
    assert before.items() <= after.items(), "a finished file was touched"
    return done


def products_are_whole(case, undisturbed):
    """Whatever stands under a final name has the right bits."""
    for path in case.outputs():
        if not path.name.startswith("."):
            found = {path.name: case_pixels(path)}
            assert found.items() <= undisturbed.items()


case_pixels = None  # set by the fixture below


@pytest.fixture(autouse=True)
def _pixels(tools):
    global case_pixels
    case_pixels = tools.pixels


# -- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(campaign, undisturbed, tools, moment):
    """SIGKILL: no handler runs, no file is cleaned up."""
    with campaign.started(*SLOW) as process:
        tools.stop_when(process, lambda: MOMENTS[moment](campaign))
        process.send_signal(signal.SIGKILL)
        process.wait()
    (last,) = campaign.at_work()
    assert last["status"] == "running"
    assert last["attempt"] not in campaign.manifest.read_text()
    assert hidden(campaign) != []
    products_are_whole(campaign, undisturbed)
    again(campaign, undisturbed)
    assert campaign.statuses()[last["identity"]] == ["interrupted", "done"]
    interrupted = next(x for x in campaign.lines() if x["status"] == "interrupted")
    assert interrupted["attempt"] == last["attempt"]
    assert f"process {process.pid} on {platform.node()} was killed" in interrupted["error"]


def test_killed_again_and_again(campaign, undisturbed, tools):
    """Each time a little further on: what is finished is never done twice."""
    for moment in (lambda: in_tiles(campaign, 1), lambda: in_noise(campaign, 1),
                   lambda: in_tiles(campaign, 2, 1), lambda: in_noise(campaign, 1, 2)):  # fmt: skip
        with campaign.started(*SLOW) as process:
            tools.stop_when(process, moment)
            process.send_signal(signal.SIGKILL)
            process.wait()
    again(campaign, undisturbed)
    done = [states.count("done") for states in campaign.statuses().values()]
    assert done == [1, 1, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("moment", ["tiles", "noise"])
def test_interrupted(campaign, undisturbed, tools, moment, number):
    """What batch systems and people send first: everything is cleaned up."""
    with campaign.started(*SLOW) as process:
        tools.stop_when(process, lambda: MOMENTS[moment](campaign))
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; no unfinished file is left behind\n" in error
    assert "Traceback" not in error
    assert f"{SECOND}  interrupted" in out
    assert out.splitlines()[-1].startswith("1 done, 0 finished before, 0 failed, 1 interrupted, 2")
    assert hidden(campaign) == []
    assert list((campaign.folder / "temp").iterdir()) == []
    assert campaign.statuses()[SECOND] == ["interrupted"]
    products_are_whole(campaign, undisturbed)
    again(campaign, undisturbed)


def test_leftovers_of_finished_exposures(done, undisturbed, tools):
    """Killed after its last file was renamed: the next batch cleans up though it has nothing to do.
    What belongs to others stays."""
    host, out, temp = platform.node(), done.out(1, 1), done.folder / "temp"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    part = out.with_name(f".{out.stem}.{host}-{dead.pid}-0123abcd.part.asdf")
    elsewhere = out.with_name(f".{out.stem}_noise.elsewhere-1-0123abcd.part.asdf")
    ours = out.with_name(f".{out.stem}.{host}-{os.getpid()}-0123abcd.part.asdf")  # a single run
    other = out.with_name(f".another.{host}-{dead.pid}-0123abcd.part.asdf")
    for path in (part, elsewhere, ours, other):
        path.write_bytes(b"x")
    os.utime(elsewhere, (time.time() - 100,) * 2)  # one written lately could be a living process's
    from roman_dask_l2.batch.campaign import load_campaign
    from roman_dask_l2.batch.leftovers import own_temp

    campaign = load_campaign(done.file)
    store = own_temp(campaign.config(campaign.entries[0]))
    store = store.with_name(f"{store.stem}-{dead.pid}-0123abcd.zarr")
    kept = temp / f"roman-dask-l2-{dead.pid}-0123abcd.zarr"  # of a run with --keep-temp
    for folder in (store, kept):
        (folder / "cube0").mkdir(parents=True)
    before = done.marks()
    assert done.run("--dry-run").returncode == 0
    assert part.exists()
    assert store.exists()
    assert done.run().returncode == 0
    assert not part.exists()
    assert not elsewhere.exists()
    assert not store.exists()
    assert ours.exists()
    assert other.exists()
    assert kept.exists()
    assert done.marks() == before


# -- two at once ---------------------------------------------------------------------------------


def test_two_batches_at_once(campaign, undisturbed, tools):
    """They divide the work: nothing is done twice, and both say in the end that all is done."""
    with campaign.started("--threads", "1") as one, campaign.started("--threads", "1") as two:
        said = [process.communicate(timeout=300) for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), said
    campaign.check(undisturbed)
    assert campaign.statuses() == {i: ["done"] for i in tools.IDENTITIES}
    assert {line["pid"] for line in campaign.lines()} == {one.pid, two.pid}


def test_a_second_batch_waits_for_the_first(campaign, undisturbed, tools):
    with campaign.started(*SLOW) as first:
        tools.stop_when(first, lambda: in_tiles(campaign, 1))
        with campaign.started("--threads", "1") as second:
            deadline = time.monotonic() + 120
            while not campaign.lines() or len(campaign.statuses()) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert second.poll() is None  # three are done, and the one that is held
            first.send_signal(signal.SIGKILL)
            first.wait()
            _, error = second.communicate(timeout=120)
    assert second.returncode == 0, error
    assert f"{FIRST}: waiting for process {first.pid} on" in error
    campaign.check(undisturbed)
    assert campaign.statuses()[FIRST] == ["interrupted", "done"]


def test_what_fails_in_one_batch_is_not_tried_by_the_other(campaign, tools):
    with campaign.started(*SLOW) as first:
        tools.stop_when(first, lambda: in_tiles(campaign, 1))
        with campaign.started("--threads", "1", "--only", "obs=1,sca=1") as second:
            while "waiting for" not in (line := second.stderr.readline()):
                assert line
            os.truncate(campaign.folder / "cal1" / "flat.asdf", 3000)
            first.send_signal(signal.SIGCONT)
            out, _ = second.communicate(timeout=120)
        first.communicate(timeout=120)
    assert second.returncode == 4
    assert f"{FIRST}  failed" in out
    assert campaign.statuses()[FIRST] == ["failed"]


# -- files that go away --------------------------------------------------------------------------


def test_a_reference_file_vanishes(campaign, undisturbed, tools):
    """While the first detector is worked on, a file of the second one goes."""
    gone = campaign.folder / "cal2" / "dark.asdf"
    with campaign.started(*SLOW) as process:
        tools.stop_when(process, lambda: in_tiles(campaign))
        gone.rename(campaign.folder / "kept")
        process.send_signal(signal.SIGCONT)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 4
    assert out.count(f"CALDIR.dark: {gone}: no such file") == 2
    assert "Traceback" not in error
    assert out.splitlines()[-1].startswith("2 done, 0 finished before, 2 failed; ")
    assert hidden(campaign) == []
    (campaign.folder / "kept").rename(gone)
    again(campaign, undisturbed)
    assert [len(states) for states in campaign.statuses().values()] == [1, 1, 2, 2]


@pytest.mark.parametrize("tile", ["64", "64x256"], ids=["mapped", "read"])
def test_a_reference_file_is_truncated_in_use(campaign, undisturbed, tools, tile):
    """In the tile stage of the first exposure. Reading beyond the end of a file that is mapped
    would kill the process (SIGBUS); here it is an error of this exposure."""
    path = campaign.folder / "cal1" / "linearitylegendre.asdf"
    whole = path.read_bytes()
    with campaign.started("--threads", "1", "--tile", tile) as process:
        tools.stop_when(process, lambda: in_tiles(campaign, 1))
        os.truncate(path, 5000)
        process.send_signal(signal.SIGCONT)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 4, error
    rows = [line.split(maxsplit=5) for line in out.splitlines()[1:5]]
    assert [row[1] for row in rows] == ["failed", "failed", "done", "done"]
    first, second = rows[0][5], rows[1][5]
    assert str(path) in first
    assert "truncated" in first or "was changed while it was in use" in first
    assert "truncated" in second
    assert "Traceback" not in error
    assert hidden(campaign) == []
    path.write_bytes(whole)
    again(campaign, undisturbed)


@contextlib.contextmanager
def read_only(folder):
    """Nothing can be made, removed or renamed in the directory.

    Permission bits do not bind root: there it is made immutable (chattr +i) or, where the file
    system does not know that, a file takes its place.
    """
    if os.geteuid():
        folder.chmod(0o555)
        undo = [lambda: folder.chmod(0o755)]
    elif subprocess.run(["chattr", "+i", folder], capture_output=True).returncode == 0:
        undo = [lambda: subprocess.run(["chattr", "-i", folder], check=True)]
    else:
        aside = folder.with_name(folder.name + ".aside")
        folder.rename(aside)
        folder.write_bytes(b"")
        undo = [folder.unlink, lambda: aside.rename(folder)]
    try:
        yield
    finally:
        for action in undo:
            action()


def test_an_output_directory_becomes_read_only(campaign, undisturbed, tools):
    """That of the second detector, while the first one is worked on."""
    folder = campaign.folder / "l2_2"
    with campaign.started(*SLOW) as process:
        tools.stop_when(process, lambda: in_tiles(campaign))
        with read_only(folder):
            process.send_signal(signal.SIGCONT)
            out, error = process.communicate(timeout=120)
    assert process.returncode == 4
    assert out.count(f"OUT: the directory {folder} is not writable") == 2
    assert out.splitlines()[-1].startswith("2 done, 0 finished before, 2 failed; ")
    assert "Traceback" not in error
    assert hidden(campaign) == []
    again(campaign, undisturbed)


def test_an_output_directory_becomes_read_only_under_an_exposure(campaign, undisturbed, tools):
    """The directory that is being written to: not even the unfinished file can be removed."""
    folder = campaign.folder / "l2_1"
    with campaign.started(*SLOW) as process:
        tools.stop_when(process, lambda: in_tiles(campaign, 1))
        with read_only(folder):
            process.send_signal(signal.SIGCONT)
            out, error = process.communicate(timeout=120)
    assert process.returncode == 4
    assert out.splitlines()[-1].startswith("2 done, 0 finished before, 2 failed; ")
    assert "Traceback" not in error
    products_are_whole(campaign, undisturbed)
    assert not campaign.out(1, 1).exists()
    again(campaign, undisturbed)  # and what could not be removed then is gone now


# -- full disks ----------------------------------------------------------------------------------


def test_files_that_become_too_large(campaign, undisturbed):
    """A quota, by RLIMIT_FSIZE: as a full output disk, it is met while the file is made."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = campaign.run(preexec_fn=limit)
    assert done.returncode == 4, done.stderr
    assert done.stdout.count("File too large") == 4
    assert "Traceback" not in done.stderr
    assert campaign.outputs() == []
    assert list((campaign.folder / "temp").iterdir()) == []
    again(campaign, undisturbed)


@contextlib.contextmanager
def mounted(folder):
    """A file system of 16 MB."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_disk(campaign):
    """TEMP on a small disk."""
    with mounted(campaign.folder / "temp") as folder:
        yield folder


def fill_up(folder):
    """Not a byte is free any more."""
    with open(folder / "big", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_temp_fills_up(campaign, undisturbed, tools, small_disk):
    """Another program fills TEMP in the middle of the noise of the first exposure."""
    with campaign.started(*SLOW) as process:
        tools.stop_when(process, lambda: in_noise(campaign, 1))
        fill_up(small_disk)
        process.send_signal(signal.SIGCONT)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 4, error
    rows = [line.split(maxsplit=5) for line in out.splitlines()[1:5]]
    assert [row[1] for row in rows] == ["failed"] * 4
    assert "No space left on device" in rows[0][5]
    assert all("too little disk space" in row[5] for row in rows[1:])
    assert "Traceback" not in error
    assert [path.name for path in small_disk.iterdir()] == ["big"]
    assert hidden(campaign) == []
    assert campaign.out(1, 1).exists()  # its calibration was finished, and is kept
    (small_disk / "big").unlink()
    again(campaign, undisturbed)


def test_temp_is_full_from_the_start(campaign, undisturbed, small_disk):
    (small_disk / "big").write_bytes(b"x" * 15_500_000)
    done = campaign.run()
    assert done.returncode == 4
    assert done.stdout.count("NOISE.TEMP") == 4
    assert done.stdout.count("too little disk space") == 4
    assert campaign.outputs() == []  # told before the calibration
    (small_disk / "big").unlink()
    again(campaign, undisturbed)


def test_an_output_disk_fills_up(campaign, undisturbed, tools):
    """That of the second detector: not even a lock can be written there."""
    with mounted(campaign.folder / "l2_2") as folder:
        with campaign.started(*SLOW) as process:
            tools.stop_when(process, lambda: in_tiles(campaign))
            fill_up(folder)
            process.send_signal(signal.SIGCONT)
            out, error = process.communicate(timeout=120)
        assert process.returncode == 4, error
        assert out.count("cannot be written (No space left on device)") == 2
        assert out.splitlines()[-1].startswith("2 done, 0 finished before, 2 failed; ")
        assert "Traceback" not in error
        assert [path.name for path in folder.iterdir()] == ["big"]
        (folder / "big").unlink()
        again(campaign, undisturbed)


def test_the_manifest_cannot_be_written_any_more(campaign, undisturbed, tools):
    """It is a log: that is no reason to stop; the next batch sees from the files what is done."""
    with campaign.started("--threads", "1") as process:
        tools.stop_when(process, lambda: in_tiles(campaign, 1))
        campaign.manifest.rename(campaign.folder / "kept")
        campaign.manifest.mkdir()
        process.send_signal(signal.SIGCONT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert f"{campaign.manifest}: {FIRST} cannot be noted (Is a directory)" in error
    campaign.manifest.rmdir()
    (campaign.folder / "kept").rename(campaign.manifest)
    again(campaign, undisturbed)
