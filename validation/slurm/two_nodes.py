"""The program on a SLURM of two nodes, of which one vanishes: second part of ``make slurm-test``.

Two slurmd in namespaces of their own on one machine (nodes.py says how), outputs in a directory
that both see, TEMP on a disk of each node where the program allows that. Work is spread over both
nodes; then one of them loses power, then its network for a while; clocks are two minutes apart.
Outputs are compared, bit for bit, with what this machine makes without SLURM.

The directory of the outputs is one of this machine: a node without network still sees it, which a
node with a network file system would not.

One line for each check; exit status 1 if one of them fails. Needs root and Debian.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import run as one_node
import yaml
from door import NOBODY, family, keys_in, listeners_of, tried
from nodes import ADDRESSES, HEAD, INTERFACE, Cluster, Node, inside, local
from run import (
    DEPLOY,
    OWN,
    ROOT,
    SLOW,
    SLURM,
    Work,
    attempt,
    attempts,
    call,
    ended,
    expect,
    jobs_of,
    logs,
    program,
    run,
    sbatch,
    settings,
    states,
    tiles_begun,
    wait_for,
)  # fmt: skip

one_node.LIMIT = 400
"""A lost node, a job that is sent again and a lock that is watched take their time."""
THREE = ("Ra", "Ra", "Ra")
APART = 120
"""Seconds between the clocks of the nodes."""


class Nodes(Work):
    """The work, and the cluster that does it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "slurm").mkdir()
        self.cluster = Cluster(folder / "slurm")
        self.three = self._undisturbed("three", GRAPH=SLOW, layers=THREE)
        self.n2 = self.cluster.nodes["n2"]

    def new_batch(self, name: str) -> Path:
        """As there, with TEMP on the disk of the node that does an exposure."""
        place = super().new_batch(name)
        campaign = yaml.safe_load((place / "campaign.yaml").read_text())
        campaign["template"]["NOISE"]["TEMP"] = str(local(self.cluster.folder) / name)
        (place / "campaign.yaml").write_text(yaml.safe_dump(campaign, sort_keys=False))
        for disk in self.disks(place):
            disk.mkdir(parents=True)
        (local(self.cluster.folder) / name).mkdir()
        return place

    def disks(self, place: Path) -> list[Path]:
        return [node.disk / place.name for node in self.cluster.nodes.values()]

    def same_batch(self, place: Path) -> None:
        super().same_batch(place)
        left = [path for disk in self.disks(place) for path in disk.iterdir()]
        expect(not left, f"left behind: {left}")
        done = [identity for identity, status in attempts(place) if status == "done"]
        expect(len(done) == len(set(done)) == 6, f"done are {done}")


def on_nodes(place: Path, token: str, **changes: object) -> None:
    """Settings of `--scheduler slurm`: one worker on each node."""
    settings(place, interface=INTERFACE, job_extra_directives=[f"--gres={token}:1"], **changes)


def both(jobs: Sequence[str]) -> None:
    found = call("squeue", "-h", "-a", "-r", "-t", "all", "-o", "%N", "-j", ",".join(jobs)).split()
    expect(
        {"n1", "n2"} <= set(found) or "n[1-2]" in found, f"jobs ran on {found}, not on both nodes"
    )


@contextlib.contextmanager
def held(place: Path) -> Iterator[dict[str, str]]:
    """Variables for work that stops in the middle of a tile for the block."""
    hold = place / "hold"
    hold.touch()
    try:
        yield {"HOLD": str(hold)}
    finally:
        hold.unlink(missing_ok=True)


def lock_on(place: Path, node: str) -> bool:
    """Whether a process of a node works on an exposure."""
    for lock in (place / "out").glob(".*.lock"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(lock.read_text())["host"] == node:
                return True
    return False


def alive(process: subprocess.Popen[str]) -> bool:
    """Raises with its output if a program has ended before its time."""
    if process.poll() is None:
        return True
    raise one_node.Failed(f"status {process.returncode}: {process.communicate()[0]}")


# -- undisturbed ---------------------------------------------------------------------------------


def check_two_nodes(work: Nodes) -> None:
    """Calibration and noise by `--scheduler slurm`, a worker on each node."""
    place = work.place("two-nodes")
    on_nodes(place, "a")
    status, output = run("config.yaml", *SLURM, "--workers", 2, cwd=place)
    expect(status == 0, output)
    both(jobs_of(place))
    work.same(place, work.plain)


def check_array(work: Nodes) -> None:
    """A batch as an array over both nodes, TEMP on each one's own disk."""
    place = work.new_batch("array")
    job = sbatch("--gres=b:1", *ARRAY, "campaign.yaml", cwd=place)
    expect(set(ended(job).values()) == {"COMPLETED"}, logs(place))
    both([job])
    work.same_batch(place)


def check_one_allocation(work: Nodes) -> None:
    """Scheduler, workers and program in one allocation over both nodes, which find each other by
    their names."""
    place = work.place("one-allocation")
    job = allocation(place, "config.yaml")
    state = ended(job)[job]
    expect(state == "COMPLETED", f"{state}: {(place / f'roman-dask-l2-{job}.out').read_text()}")
    both([job])
    work.same(place, work.plain)


ARRAY = ("--cpus-per-task=1", "--mem=1G", "--array=1-2", DEPLOY / "array.sbatch")


def allocation(place: Path, *arguments: object, **variables: str) -> str:
    return sbatch(
        "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem-per-cpu=1G",
        DEPLOY / "one-allocation.sbatch", *arguments, cwd=place,
        PYTHON=sys.executable, DASHBOARD="127.0.0.1:0", **variables,
    )  # fmt: skip


# -- the door ------------------------------------------------------------------------------------


def try_the_door_from(work: Nodes, node: Node, place: Path, at_least: int) -> None:
    """From one node: who has no key gets in nowhere on head and nodes, who has it does; what
    listens on the loopback address of another machine cannot be reached with it either."""
    (folder,) = keys_in(place)
    machines = {os.readlink(other.network): ADDRESSES[n] for n, other in work.cluster.nodes.items()}
    machines[os.readlink("/proc/self/ns/net")] = HEAD
    network, loopback = set(), set()
    for process in family(place):
        with contextlib.suppress(OSError, psutil.Error):
            home = machines[os.readlink(f"/proc/{process.pid}/ns/net")]
            for host, port in listeners_of(process):
                if host.startswith("127."):
                    loopback.add(f"{home}:{port}")
                else:
                    network.add(f"{home if host == '0.0.0.0' else host}:{port}")
    expect(len(network) >= at_least, f"only {network} listen, expected {at_least}")
    homes = {address.partition(":")[0] for address in network}
    expect(len(homes) >= 2, f"all listen on {homes}")
    there = ("nsenter", f"--net={node.network}")
    for who in (("--user", NOBODY), ()):
        said = tried(*who, *network, *loopback, before=there)
        expect(len(said) == 2 * len(network | loopback), f"{said}")
        expect(all(line.startswith("refused") for line in said), f"{said}")
    said = tried("--keys", folder, *network, before=there)
    inside = [line for line in said if line.startswith("let in tls")]
    expect(len(inside) >= 3, f"with the key only {inside}, of {said}")
    expect(loopback, "nothing listens on loopback, not even the dashboard")
    said = tried("--keys", folder, *loopback, before=there)
    expect(all(line.startswith("refused") for line in said), f"{said}")


def check_door_between_nodes(work: Nodes) -> None:
    """Nobody gets into a run on two nodes from one of them without its key."""
    place = work.place("door-between-nodes", GRAPH=SLOW, layers=OWN)
    on_nodes(place, "d")
    with held(place) as variables:
        process = program("config.yaml", *SLURM, "--workers", 2, cwd=place, **variables)
        wait_for(lambda: tiles_begun(place) or not alive(process), "tiles")
        both(jobs_of(place))
        # Scheduler, two nannies, two workers.
        try_the_door_from(work, work.n2, place, 5)
    output, _ = process.communicate(timeout=one_node.LIMIT)
    expect(process.returncode == 0, output)
    work.same(place, work.own)
    expect(not keys_in(place), f"{keys_in(place)} is left")


def check_door_of_an_allocation(work: Nodes) -> None:
    """The same for one allocation over both nodes."""
    place = work.place("door-of-an-allocation", GRAPH=SLOW, layers=OWN)
    with held(place) as variables:
        job = allocation(place, "config.yaml", "--tile", 64, **variables)
        wait_for(lambda: list(place.glob(".l2.*")), "an unfinished file")
        try_the_door_from(work, work.n2, place, 3)
    state = ended(job)[job]
    log = (place / f"roman-dask-l2-{job}.out").read_text()
    expect(state == "COMPLETED", f"{state}: {log}")
    work.same(place, work.own)
    expect(not keys_in(place), f"{keys_in(place)} is left")


# -- clocks --------------------------------------------------------------------------------------


def clock(place: Path, seconds: int, *, server: bool = True) -> dict[str, str]:
    """Variables with which bash scripts, and what they start, see another time on n2. Files have
    their times from a file server (NFS), or what is touched from who touches it (parallel file
    systems)."""
    folder = place / "clock"
    folder.mkdir()
    library = folder / "clock.so"
    source = ROOT / "validation" / "slurm" / "clock.c"
    call("cc", "-O2", "-shared", "-fPIC", "-o", library, source)
    (folder / "clock.sh").write_text(
        f'if [ "$(uname -n)" = n2 ]; then export LD_PRELOAD={library} CLOCK_AHEAD={seconds} '
        f"CLOCK_OF_FILES={'server' if server else 'mine'}; fi\n"
    )
    return {"BASH_ENV": str(folder / "clock.sh")}


def batch_on(node: str, place: Path, *options: str, **variables: str) -> str:
    """Submit a batch of all exposures that runs on one node; its log is ``NODE-JOB.log``."""
    script = place / "batch.sh"
    script.write_text(
        "#!/usr/bin/env bash\ndate +%s.%N >clock-$(uname -n)\n"
        'exec roman-dask-l2 batch campaign.yaml --threads 1 "$@"\n'
    )
    log = f"--output={node}-%j.log"
    return sbatch(f"--nodelist={node}", "--mem=1G", log, script, *options, cwd=place, **variables)


def check_clocks(work: Nodes, seconds: int, server: bool) -> None:
    place = work.new_batch(f"clocks{seconds:+d}")
    how = {**clock(place, seconds, server=server), "SLOW": "0.6"}
    jobs = [batch_on(node, place, **how) for node in ("n1", "n2")]
    for job in jobs:
        expect(ended(job)[job] == "COMPLETED", logs(place))
    began = {n: float((place / f"clock-{n}").read_text()) for n in ("n1", "n2")}
    apart = began["n2"] - began["n1"]
    expect(abs(apart - seconds) < 30, f"the clocks are {apart:.0f} s apart, expected {seconds}")
    statuses = [status for _, status in attempts(place)]
    expect(set(statuses) <= {"running", "done"}, f"the manifest says {statuses}\n{logs(place)}")
    expect("taken over" not in logs(place), logs(place))
    hosts = {line["host"] for line in lines(place) if line.get("status") == "done"}
    expect(hosts == {"n1", "n2"}, f"exposures were done on {hosts}")
    work.same_batch(place)
    # What was made before this moment is made again, whatever the clock says.
    again = batch_on("n2", place, "--redo", "--limit", "1", **how)
    expect(ended(again)[again] == "COMPLETED", logs(place))
    text = (place / f"n2-{again}.log").read_text()
    expect("1 done" in text, f"--redo by the other clock: {text}")


def lines(place: Path) -> list[dict[str, Any]]:
    text = (place / "campaign.manifest.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "identity" in line]


def check_clock_ahead(work: Nodes) -> None:
    """A batch on each node, one clock two minutes ahead, times of files from a server: no lock of a
    living process is taken."""
    check_clocks(work, APART + 5, True)


def check_clock_behind(work: Nodes) -> None:
    """The same, one clock two minutes behind, signs of life by the clock of who gives them."""
    check_clocks(work, -APART - 5, False)


def check_workers_with_other_clocks(work: Nodes) -> None:
    """A worker whose clock is two minutes behind joins, and works."""
    place = work.place("clock-of-worker", GRAPH=SLOW, layers=OWN)
    on_nodes(place, "c")
    # So slow that the second worker comes before the end.
    variables = {"SLOW": "2", **clock(place, -APART - 5)}
    status, output = run(
        "config.yaml", *SLURM, "--workers", 2, "--wait", 60, cwd=place, **variables
    )
    expect(status == 0, output)
    expect("2 of 2 workers ready" in output, f"not all workers joined\n{output}")
    work.same(place, work.own)


# -- a node vanishes -----------------------------------------------------------------------------


class Moment:
    """All checks that want a fault wait until the others are ready for it too.

    Parameters
    ----------
    parties : int
    fault : callable
    """

    def __init__(self, parties: int, fault: Callable[[], None]) -> None:
        self._barrier = threading.Barrier(max(parties, 1), fault)

    def come(self) -> None:
        self._barrier.wait(one_node.LIMIT)

    def give_up(self) -> None:
        """The others need not wait for a check that has failed."""
        self._barrier.abort()


def layer_begun(place: Path) -> bool:
    """The noise file has its hidden part: a layer is on its way, whose pixels come at its end."""
    return any(place.glob(".noise.*"))


def disturbed_run(
    work: Nodes, name: str, token: str, begun: Callable[[Path], bool], moment: Moment
) -> tuple[Path, str, float]:
    """A run with a worker on each node, which is at work when the moment comes, and goes on.

    Returns
    -------
    Path, str, float
        Its directory, what it said, and how many seconds it took from the fault on.
    """
    place = work.place(name, GRAPH=SLOW, layers=OWN)
    on_nodes(place, token)
    hold = place / "hold"
    process = program("config.yaml", *SLURM, "--workers", 2, cwd=place, SLOW="1", HOLD=str(hold))
    wait_for(lambda: begun(place) or not alive(process), "its files")
    hold.touch()
    before = jobs_of(place)
    both(before)
    moment.come()
    began = time.monotonic()
    hold.unlink()
    output, _ = process.communicate(timeout=one_node.LIMIT)
    expect(process.returncode == 0, output)
    work.same(place, work.own)
    return place, output, time.monotonic() - began


def disturbed_batch(work: Nodes, name: str, token: str, moment: Moment) -> tuple[Path, str, float]:
    """A batch on a worker of each node, which both have an exposure locked when the moment comes.

    Returns
    -------
    Path, str, float
        Its directory, what it said, and how many seconds it took from the fault on.
    """
    place = work.new_batch(name)
    on_nodes(place, token)
    with held(place) as variables:
        process = program(
            "batch", "campaign.yaml", *SLURM[:4], "--workers", 2, cwd=place, **variables
        )
        wait_for(
            lambda: (lock_on(place, "n1") and lock_on(place, "n2")) or not alive(process),
            "locks of both nodes",
        )
        moment.come()
        began = time.monotonic()
    output, _ = process.communicate(timeout=one_node.LIMIT)
    expect(process.returncode == 0, output)
    return place, output, time.monotonic() - began


def check_vanishes_in_tiles(work: Nodes, moment: Moment) -> str:
    """A node vanishes while tiles are made: the other one makes them."""
    _, output, seconds = disturbed_run(work, "vanishes-in-tiles", "d", tiles_begun, moment)
    expect("1 of 2 workers ready" in output, f"the loss of the worker is not told\n{output}")
    return f"the run ended {seconds:.0f} s after it"


def check_vanishes_in_a_layer(work: Nodes, moment: Moment) -> str:
    """A node vanishes while a layer is made: the other one goes on."""
    _, output, seconds = disturbed_run(work, "vanishes-in-a-layer", "e", layer_begun, moment)
    expect("1 of 2 workers ready" in output, f"the loss of the worker is not told\n{output}")
    return f"the run ended {seconds:.0f} s after it"


def check_vanishes_while_a_layer_is_written(work: Nodes, moment: Moment) -> str:
    """A node vanishes when it has written half a band of a layer's pixels: the other one writes the
    layer."""
    place = work.place("vanishes-in-writing", GRAPH=SLOW, layers=THREE)
    on_nodes(place, "a")
    hold = place / "hold"
    hold.touch()
    process = program("config.yaml", *SLURM, "--workers", 2, cwd=place, HOLD_WRITING=str(hold))
    # Three layers are ready at the same time, so that both nodes write one.
    wait_for(lambda: (place / "written").exists() or not alive(process), "half a band")
    both(jobs_of(place))
    moment.come()
    began = time.monotonic()
    output, _ = process.communicate(timeout=one_node.LIMIT)
    expect(process.returncode == 0, output)
    expect("1 of 2 workers ready" in output, f"the loss of the worker is not told\n{output}")
    hold.unlink()
    (place / "written").unlink()
    work.same(place, work.three)
    return f"the run ended {time.monotonic() - began:.0f} s after it"


def check_vanishes_with_a_lock(work: Nodes, moment: Moment) -> str:
    """A node vanishes with an exposure of an array locked: SLURM sends its job again, which waits
    for the lock and makes what is left."""
    place = work.new_batch("vanishes-with-a-lock")
    with held(place) as variables:
        job = sbatch("--gres=f:1", *ARRAY, "campaign.yaml", cwd=place, **variables)
        wait_for(lambda: lock_on(place, "n1") and lock_on(place, "n2"), "locks of both nodes")
        both([job])
        moment.come()
        began = time.monotonic()
    expect(set(ended(job).values()) == {"COMPLETED"}, f"{states(job)}\n{logs(place)}")
    seconds = time.monotonic() - began
    killed = [identity for identity, status in attempts(place) if status == "interrupted"]
    expect(len(killed) == 1, f"interrupted are {killed}, expected one")
    clean_disk(place)
    work.same_batch(place)
    return f"all was done {seconds:.0f} s after it"


def clean_disk(place: Path) -> None:
    """A batch on the node that was away: nothing is left to do, what is left on its disk goes."""
    job = batch_on("n2", place)
    state = ended(job)[job]
    text = (place / f"n2-{job}.log").read_text()
    expect(state == "COMPLETED" and "0 done, 6 finished before, 0 failed" in text, text)


def check_vanishes_from_workers_of_a_batch(work: Nodes, moment: Moment) -> str:
    """A node vanishes with an exposure locked that a Dask worker makes: another worker makes it
    when the lock has had no sign of life for its time."""
    place, output, seconds = disturbed_batch(work, "vanishes-from-a-batch", "g", moment)
    expect("6 done, 0 finished before, 0 failed" in output, output)
    clean_disk(place)
    work.same_batch(place)
    return f"all was done {seconds:.0f} s after it"


def check_vanishes_from_an_allocation(work: Nodes, moment: Moment) -> str:
    """A node vanishes from an allocation: SLURM ends the job and begins it again on two nodes."""
    place = work.place("vanishes-from-an-allocation", GRAPH=SLOW, layers=OWN)
    with held(place) as variables:
        job = allocation(place, "config.yaml", "--tile", 64, **variables)
        wait_for(lambda: list(place.glob(".l2.*")), "an unfinished file")
        moment.come()
        began = time.monotonic()
    state = ended(job)[job]
    log = (place / f"roman-dask-l2-{job}.out").read_text()
    expect(state == "COMPLETED", f"{state}: {log}")
    work.same(place, work.own)
    return f"the job ended {time.monotonic() - began:.0f} s after it"


def vanish(work: Nodes) -> None:
    """n2 loses power; it is back when SLURM knows that it was lost."""
    began = time.monotonic()
    work.n2.vanish()

    def come_back() -> None:
        with contextlib.suppress(OSError):
            while not work.cluster.states()["n2"].startswith("down"):
                time.sleep(0.5)
                if time.monotonic() - began > one_node.LIMIT:
                    return
            print(
                f"     SLURM took the node for lost after {time.monotonic() - began:.0f} s",
                flush=True,
            )
            work.n2.start()

    threading.Thread(target=come_back, daemon=True).start()


# -- the network is cut, and heals ---------------------------------------------------------------

SHORT, LONG = 10.0, 38.0
"""Seconds without network: less and more than Dask's limit of 30 s for a connection."""


def partition(work: Nodes, seconds: float) -> None:
    work.n2.cut()

    def heal() -> None:
        time.sleep(seconds)
        work.n2.heal()

    threading.Thread(target=heal, daemon=True).start()


def check_short_partition(work: Nodes, moment: Moment) -> str:
    """A node's network is gone for 10 s while tiles are made: nothing is done again."""
    place, output, seconds = disturbed_run(work, "short-partition", "a", tiles_begun, moment)
    expect(len(jobs_of(place)) == 2, f"jobs {jobs_of(place)}, expected two")
    expect("1 of 2 workers ready" not in output.partition("2 of 2")[2], output)
    return f"the run ended {seconds:.0f} s after the cut"


def check_long_partition(work: Nodes, moment: Moment) -> str:
    """A node's network is gone for 38 s while tiles are made: the other node makes them, and the
    cut-off worker's tiles do no harm."""
    _, output, seconds = disturbed_run(work, "long-partition", "b", tiles_begun, moment)
    expect("1 of 2 workers ready" in output, f"the loss of the worker is not told\n{output}")
    return f"the run ended {seconds:.0f} s after the cut"


def check_long_partition_of_a_batch(work: Nodes, moment: Moment) -> str:
    """A node's network is gone for 38 s while its worker has an exposure locked: it is made once,
    or again when the worker has gone."""
    place, _, seconds = disturbed_batch(work, "partition-of-a-batch", "c", moment)
    clean_disk(place)
    work.same_batch(place)
    return f"all was done {seconds:.0f} s after the cut"


def check_partition_of_an_array(work: Nodes, moment: Moment) -> str:
    """A node's network is gone while its job of an array works: nothing happens to it."""
    place = work.new_batch("partition-of-an-array")
    with held(place) as variables:
        job = sbatch("--gres=d:1", *ARRAY, "campaign.yaml", cwd=place, **variables)
        wait_for(lambda: lock_on(place, "n1") and lock_on(place, "n2"), "locks of both nodes")
        moment.come()
        began = time.monotonic()
    expect(set(ended(job).values()) == {"COMPLETED"}, f"{states(job)}\n{logs(place)}")
    statuses = [status for _, status in attempts(place)]
    expect(set(statuses) <= {"running", "done"}, f"the manifest says {statuses}")
    work.same_batch(place)
    return f"all was done {time.monotonic() - began:.0f} s after the cut"


# -- all of it -----------------------------------------------------------------------------------

PLAIN = (
    check_two_nodes,
    check_array,
    check_one_allocation,
    check_door_between_nodes,
    check_door_of_an_allocation,
    check_clock_ahead,
    check_clock_behind,
    check_workers_with_other_clocks,
)
VANISHING = (
    check_vanishes_with_a_lock,
    check_vanishes_from_workers_of_a_batch,
    check_vanishes_in_tiles,
    check_vanishes_in_a_layer,
    check_vanishes_while_a_layer_is_written,
    check_vanishes_from_an_allocation,
)
SHORTLY = (check_short_partition,)
LONGER = (check_long_partition, check_long_partition_of_a_batch, check_partition_of_an_array)


def at_once(
    work: Nodes, checks: Sequence[Callable[..., Any]], fault: Callable[[], None] | None = None
) -> list[bool]:
    """Checks that wait for the same fault, or for none, side by side."""
    if not checks:
        return []
    moment = None if fault is None else Moment(len(checks), fault)

    def one(check: Callable[..., Any]) -> bool:
        def told(work: Work) -> object:
            try:
                return check(work) if moment is None else check(work, moment)
            except BaseException:
                if moment is not None:
                    moment.give_up()
                raise

        told.__doc__ = " ".join((check.__doc__ or "").split()).rstrip(".")
        return attempt(told, work)

    pool = ThreadPoolExecutor(4 if moment is None else len(checks))
    try:
        return list(pool.map(one, checks))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def check_nothing_left(work: Nodes) -> None:
    """No job is left in SLURM, and no process of ours on the nodes."""
    wait_for(lambda: not call("squeue", "-h").strip(), "the end of all jobs")


def all_checks(options: argparse.Namespace, folder: Path) -> int:
    """What the head does."""
    began = time.monotonic()
    chosen = [
        [check for check in checks if options.only in check.__name__]
        for checks in (PLAIN, VANISHING, SHORTLY, LONGER)
    ]
    work = Nodes(folder)
    good = []
    try:
        work.cluster.start()
        print(f"two nodes: {work.cluster.states()}", flush=True)
        good += at_once(work, chosen[0])
        for checks, fault in zip(
            chosen[1:],
            (
                lambda: vanish(work),
                lambda: partition(work, SHORT),
                lambda: partition(work, LONG),
            ),
            strict=True,
        ):
            work.cluster.until_idle()
            good += at_once(work, checks, fault)
        good.append(attempt(check_nothing_left, work))
    except OSError as error:
        print(f"FAIL {error}\n{work.cluster.log()}", flush=True)
        good.append(False)
    finally:
        for process in one_node._programs:
            process.kill()
        work.cluster.stop()
    print(f"{sum(good)} of {len(good)} checks passed in {time.monotonic() - began:.0f} s")
    return 0 if len(good) > 1 and all(good) else 1


def interrupted(number: int, frame: object) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    parser.add_argument("--keep", action="store_true", help="keep the directory of the test")
    parser.add_argument("--head", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'validation' / 'slurm'}"
    if options.head is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupted)
        try:
            return all_checks(options, options.head)
        except KeyboardInterrupt:
            os._exit(130)  # what its threads wait for will not come
    one_node.install(
        (*one_node.PACKAGES, "iproute2", "gcc", "libc6-dev"), (*one_node.PROGRAMS, "ip", "cc")
    )
    folder = Path(tempfile.mkdtemp(prefix="two-nodes-"))
    folder.chmod(0o755)  # munge wants its socket where everybody can reach it
    try:
        return inside([sys.executable, *sys.argv, "--head", str(folder)])
    finally:
        if options.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
