"""Batches of one campaign from two nodes, on a file system that believes old things.

``make shared-test``. A directory is mounted twice, as two clients of one NFS server see it
(server.py): names and attributes are believed for a minute, which is longer than the test waits
for anything, so that whatever the program does not ask for anew stays old. Each program runs with
a host name and a process namespace of its own, and the server's clock goes ahead of theirs.

Where /dev/fuse cannot be had, that is said, and a model takes its place: functions of Python's
that give old answers (tests/helpers/stale.py), on an ordinary directory; then what a server does
wrong is not tried.

One line for each check; exit status 1 if one of them fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "slurm"))

from compare import differences  # noqa: E402

SLOW = str(HERE.parent / "slurm" / "slow.yaml")
BELIEVED, AHEAD, LIMIT = 60, 100, 240
"""Seconds for which a client believes; by which the server's clock goes ahead; after which what
should have ended is taken for hanging."""
EXPOSURES = 3


class Failed(Exception):
    """What a check has found."""


def expect(condition: object, message: str) -> None:
    if not condition:
        raise Failed(message)


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        expect(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.05)


class Shared:
    """A directory, and how two nodes see it."""

    def __init__(self, folder: Path, *, locks: bool, model: bool = False) -> None:
        self.back, self.model = folder / "back", model
        self.seen = [folder / "a", folder / "b"]
        for place in (self.back, *([] if model else self.seen)):
            place.mkdir(parents=True)
        self._server: subprocess.Popen[str] | None = None
        if model:
            for place in self.seen:
                place.symlink_to(self.back)
            return
        self._server = subprocess.Popen(
            [sys.executable, HERE / "server.py", self.back, str(BELIEVED), str(AHEAD),
             str(int(locks)), *self.seen],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = self._server.stdout.readline().strip()
        if said != "ready":
            raise OSError(1, said.removeprefix("no: ") or "the server ends at once")

    def tell(self, *words: object) -> list[dict[str, int]]:
        """Give the server a command; how many requests each client has made."""
        self._server.stdin.write(" ".join(map(str, words)) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait(10)


_programs: list[subprocess.Popen[str]] = []


def program(shared: Shared, node: int, place: str, *arguments: object, **variables: str) -> Any:
    """Start the program on a node, in a directory of the shared one."""
    command = [sys.executable, str(HERE / "client.py"), "-"]
    if not shared.model:
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*apart, *command[:-1], f"node-{node}"]
    more = {"STALE": str(BELIEVED)} if shared.model else {}
    process = subprocess.Popen(
        # The shell goes into the directory, not a child of this process that still stops it.
        ["sh", "-c", 'cd "$0" && exec "$@"', shared.seen[node] / place, *command,
         *map(str, arguments)],
        env={**os.environ, **more, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    _programs.append(process)
    return process


def ended(process: Any) -> tuple[int, str]:
    output, _ = process.communicate(timeout=LIMIT)
    return process.returncode, output


class Work:
    """A small campaign, and what this machine makes of it alone."""

    def __init__(self, folder: Path, model: bool) -> None:
        self.folder, self.model = folder, model
        self._shared: list[Shared] = []
        self.new = folder / "new"
        self._simulate()
        self.alone = shutil.copytree(self.new, folder / "alone")
        done = subprocess.run(
            [sys.executable, "-m", "roman_dask_l2", "batch", "campaign.yaml"],
            cwd=self.alone, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"the batch on an ordinary directory fails:\n{done.stderr}")

    def _simulate(self) -> None:
        from roman_dask_l2.simulation.simulate import simulate

        for folder in ("l1", "temp"):
            (self.new / folder).mkdir(parents=True)
        for obs in range(1, EXPOSURES + 1):
            made = simulate(self.new / "made", side=256, seed=obs)
            made.l1.rename(self.new / "l1" / f"{obs}.asdf")
        shutil.copy(made.fitswcs, self.new / "wcs.txt")
        (self.new / "made" / "cal").rename(self.new / "cal")
        shutil.rmtree(self.new / "made")
        keys = [path.stem for path in (self.new / "cal").iterdir()]
        noise = {"LAYER": ["Ra"], "TEMP": "temp", "OUT": "noise/{obs}_noise.asdf"}
        template = {
            "OUT": "out/{obs}.asdf", "FITSWCS": "wcs.txt", "FITSOUT": True, "SKYORDER": 1,
            "CALDIR": {key: f"cal/{key}.asdf" for key in keys}, "GRAPH": SLOW, "NOISE": noise,
        }  # fmt: skip
        campaign = {"template": template, "exposures": {"glob": "l1/{obs:d}.asdf"}, "SEED": 7}
        (self.new / "campaign.yaml").write_text(yaml.safe_dump(campaign, sort_keys=False))

    def place(self, name: str, *, locks: bool = True) -> tuple[Shared, Path]:
        """A copy of the campaign of which nothing is done, as the server sees it."""
        shared = Shared(self.folder / f"shared-{name}", locks=locks, model=self.model)
        self._shared.append(shared)
        return shared, shutil.copytree(self.new, shared.back / name)

    def close(self) -> None:
        for shared in self._shared:
            shared.close()

    def same(self, place: Path) -> None:
        for folder in ("out", "noise"):
            wanted = sorted(p.name for p in (self.alone / folder).iterdir())
            found = sorted(p.name for p in (place / folder).iterdir())
            expect(found == wanted, f"{folder}: {found}, expected {wanted}")
            for name in wanted:
                places = differences(self.alone / folder / name, place / folder / name)
                expect(not places, f"{name} differs in {', '.join(places[:5])}")
        left = list((place / "temp").iterdir())
        expect(not left, f"left behind: {left}")


def lines(place: Path) -> list[dict[str, Any]]:
    """All lines of a manifest; a line that is none is a failure."""
    found = []
    for text in (place / "campaign.manifest.jsonl").read_bytes().split(b"\n"):
        try:
            found += [json.loads(text)] if text.strip() else []
        except ValueError:
            raise Failed(f"the manifest has the line {text[:80]!r}") from None
    return found


def attempts(place: Path) -> list[tuple[str, str]]:
    return [(line["identity"], line["status"]) for line in lines(place) if "identity" in line]


def done_once(place: Path, but: int = 0) -> None:
    """Every exposure was worked on once, but so many, whose process was killed, twice."""
    made = [line for line in lines(place) if line.get("products")]
    wholly = [line["identity"] for line in made if line["status"] == "done"]
    expect(len(set(wholly)) == EXPOSURES, f"done are {wholly}\n{attempts(place)}")
    expect(len(wholly) == EXPOSURES, f"done twice: {wholly}")
    begun = [
        line["identity"] for line in lines(place) if "attempt" in line and not line.get("note")
    ]
    expect(EXPOSURES <= len(begun) <= EXPOSURES + but, f"begun were {begun}")


def well(*processes: Any) -> list[str]:
    """What programs said that end with status 0."""
    said = [ended(process) for process in processes]
    for code, output in said:
        expect(code == 0, f"status {code}: {output}")
        expect("Traceback" not in output, output)
    return [output for _, output in said]


def call(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True)


def finished(place: Path) -> list[Path]:
    """Noise files, which are made last."""
    return [*place.glob("noise/[0-9]_noise.asdf")]


def working(place: Path, node: int) -> bool:
    """A node writes a Level-2 file."""
    return any(place.glob(f"out/.*node-{node}-*.part.asdf"))


ONE_BY_ONE = ("batch", "campaign.yaml", "--in-flight", "1")


# -- checks --------------------------------------------------------------------------------------


def check_two_batches(work: Work) -> None:
    """Two batches from two nodes, for one of which the server stands still for 6 s, half of what
    counts as dead, while status is asked for: each exposure is done once"""
    shared, place = work.place("two")
    both = [program(shared, i, "two", "batch", "campaign.yaml", SLOW="2") for i in (0, 1)]
    if not shared.model:
        wait_for(lambda: working(place, 0) and working(place, 1), "two unfinished files")
        shared.tell("stall", 0, 6)
    while any(process.poll() is None for process in both):
        said = well(program(shared, 1, "two", "status", "campaign.yaml"))[0]
        expect("is ignored" not in said, f"status: {said}")
        time.sleep(5)
    well(*both)
    work.same(place)
    done_once(place)
    hosts = {line["host"] for line in lines(place) if line.get("products")}
    expect(shared.model or hosts == {"node-0", "node-1"}, f"only {hosts} did something")


def check_killed(work: Work) -> None:
    """One of two nodes is killed while it writes: the other waits for it, and takes over"""
    shared, place = work.place("killed")
    first = program(shared, 0, "killed", *ONE_BY_ONE, SLOW="600")
    wait_for(lambda: working(place, 0), "an unfinished file")
    second = program(shared, 1, "killed", "batch", "campaign.yaml")
    wait_for(lambda: len(finished(place)) == EXPOSURES - 1, "the other exposures")
    expect(working(place, 0), "the first was not at work when it was killed")
    first.kill()
    first.communicate()
    well(second)
    work.same(place)
    done_once(place, but=1)
    expect("interrupted" in [status for _, status in attempts(place)], f"{attempts(place)}")


def check_long_stall(work: Work) -> None:
    """The server does not answer a node, which has three exposures at work, until the other takes
    over: the first gives them up"""
    shared, place = work.place("long")
    first = program(shared, 0, "long", "batch", "campaign.yaml", SLOW="2")
    wait_for(lambda: working(place, 0), "an unfinished file")
    shared.tell("stall", 0, 600)
    well(program(shared, 1, "long", "batch", "campaign.yaml"))
    work.same(place)
    shared.tell("stall", 0, 0)
    said = well(first)[0]
    for i in range(1, EXPOSURES + 1):
        expect(f"obs={i}: was taken over by" in said, said)
    work.same(place)
    done_once(place, but=EXPOSURES)


FAULTS = (
    ("read", "EIO", "1.asdf"),  # the first Level-1 file
    ("write", "ESTALE", ".2.node-0-*.part.asdf"),
    ("rename", "EIO", "3.asdf"),
    ("unlink", "EIO", ".3.asdf.lock"),
)


def check_errors(work: Work) -> None:
    """EIO, ESTALE at a read, a write, a rename, a lock given back: a line each; then all is done"""
    shared, place = work.place("errors")
    for request, error, name in FAULTS:
        shared.tell("fail", 0, request, error, 9 if request == "read" else 1, name)
    code, output = ended(program(shared, 0, "errors", *ONE_BY_ONE))
    expect(shared.tell("counts")[0].get("failed", 0) >= len(FAULTS), f"not all happened:\n{output}")
    expect(code == 4 and "Traceback" not in output, f"status {code}: {output}")
    ends = dict(attempts(place))
    expect([*ends.values()] == ["failed"] * EXPOSURES, f"{ends}")
    for line in lines(place):
        if line["status"] == "failed":
            expect(".asdf" in line["error"], f"names no file: {line['error']}")
    well(program(shared, 1, "errors", "batch", "campaign.yaml"))
    work.same(place)
    done_once(place, but=3)


def check_changes(work: Work) -> None:
    """A node removes outputs, or wants them anew: the other sees what is not finished any more"""
    shared, place = work.place("changes")
    well(program(shared, 0, "changes", "batch", "campaign.yaml"))
    said = well(program(shared, 1, "changes", "batch", "campaign.yaml"))[0]
    expect("0 done, 3 finished before" in said, said)
    # Through the first node's mount; the other still believes in all of them.
    gone = ("out/2_asdf_to.fits", "noise/3_noise.asdf")
    call("rm", *(shared.seen[0] / "changes" / name for name in gone))
    said = well(program(shared, 1, "changes", "batch", "campaign.yaml"))[0]
    expect("2 done, 1 finished before" in said, said)
    said = well(program(shared, 1, "changes", "batch", "campaign.yaml", "--redo"))[0]
    expect("3 done, 0 finished before" in said, f"--redo, with files of the future: {said}")
    work.same(place)
    lines(place)


HAMMER = """
import sys, time
from pathlib import Path
from roman_dask_l2.batch.manifest import append
while time.time() < float(sys.argv[2]): pass
for i in range(int(sys.argv[3])):
    line = {"identity": f"{sys.argv[4]}-{i}", "attempt": "x" * (i * 7 % 300), "status": "done"}
    append(Path(sys.argv[1]), line)
    time.sleep(0.005)
"""


def _hammer(shared: Shared, place: Path, count: int) -> tuple[set[str], int]:
    start = time.time() + 6
    both = [
        subprocess.Popen([sys.executable, "-c", HAMMER, shared.seen[node] / place.name / "m.jsonl",
                          str(start), str(count), str(node)])
        for node in (0, 1)
    ]  # fmt: skip
    _programs.extend(both)
    expect([p.wait(LIMIT) for p in both] == [0, 0], "a writer fails")
    found, torn = set(), 0
    for text in (place / "m.jsonl").read_bytes().split(b"\n"):
        try:
            found.add(json.loads(text)["identity"])
        except ValueError:
            torn += bool(text.strip())
    return {f"{node}-{i}" for node in (0, 1) for i in range(count)} - found, torn


def check_manifest(work: Work) -> None:
    """Two nodes add 200 lines each to a manifest, locks are the server's: none is lost or torn"""
    shared, place = work.place("manifest")
    lost, torn = _hammer(shared, place, 200)
    expect(not lost and not torn, f"{len(lost)} lines lost, {torn} torn")


def check_manifest_without_locks(work: Work) -> None:
    """The same where each node has its own locks: hardly one is lost"""
    shared, place = work.place("nolock", locks=False)
    lost, torn = _hammer(shared, place, 200)
    print(f"     without locks: {len(lost)} of 400 lines lost, {torn} torn", flush=True)
    expect(len(lost) <= 20, f"{len(lost)} lines lost, {torn} torn")


MODEL = (check_two_batches, check_changes)
"""Those that make sense without a server, too."""
CHECKS: tuple[Callable[[Work], None], ...] = (
    check_killed,  # takes longest
    check_long_stall,
    check_two_batches,
    check_changes,
    check_errors,
    check_manifest,
    check_manifest_without_locks,
)


def attempt(check: Callable[[Work], None], work: Work) -> bool:
    began, said = time.monotonic(), "ok  "
    what = " ".join((check.__doc__ or "").split())
    try:
        check(work)
    except Exception as error:  # whatever it is, the other checks go on
        said = "FAIL"
        what += f"\n     {type(error).__name__}: {error}".replace("\n", "\n     ")
    print(f"{said} {time.monotonic() - began:5.0f} s  {what}", flush=True)
    return said == "ok  "


def must_model(folder: Path) -> bool:
    """Whether there is no file system of our own to be had here; says why."""
    why = os.environ.get("WHY_NOT")
    if why is None:
        try:
            Shared(folder / "trial", locks=True).close()
            return False
        except OSError as error:
            why = error.strerror or str(error)
    print(
        f"NO FUSE FILE SYSTEM HERE ({why}): a model in Python takes its place; what a server does "
        "wrong is NOT tried", flush=True,
    )  # fmt: skip
    return True


def go_apart() -> None:
    """Go on in a mount namespace of our own: nothing stays mounted, whatever happens."""
    how = ["unshare", "--mount", "--propagation", "private"]
    how += ["--map-root-user"] if os.geteuid() else []
    tried = subprocess.run([*how, "true"], capture_output=True, text=True)
    if tried.returncode:
        os.environ["WHY_NOT"] = tried.stderr.strip()
        return
    os.environ["APART"] = "1"
    os.execvp("unshare", [*how, sys.executable, *sys.argv])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    parser.add_argument("--keep", action="store_true", help="keep the directory of the test")
    parser.add_argument("--model", action="store_true", help="as where there is no /dev/fuse")
    options = parser.parse_args()
    if options.model:
        os.environ["WHY_NOT"] = "--model"
    elif "APART" not in os.environ:
        go_apart()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["PYTHONPATH"] = f"{ROOT}:{HERE.parent / 'slurm'}:{ROOT / 'tests' / 'helpers'}"
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="shared-test-"))
    try:
        model = must_model(folder)
        work = Work(folder, model)
        chosen = [c for c in CHECKS if options.only in c.__name__ and (c in MODEL or not model)]
        pool = ThreadPoolExecutor(3)
        try:
            good = list(pool.map(lambda check: attempt(check, work), chosen))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in _programs:
                process.kill()
                process.wait()
            work.close()
    finally:
        if options.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(good)} of {len(good)} checks passed in {time.monotonic() - began:.0f} s")
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
