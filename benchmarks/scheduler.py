"""Where Dask's scheduler becomes the limit: ``make bench-scheduler``.

Tasks that do nothing, so that what is left is what Dask needs for them:

* ``tiles``: graphs as one exposure after the other has them, up to a million tasks, given at once
  to a Dask scheduler, a process of its own, by a client in another. Its workers are simulated:
  they talk to the scheduler through the network of this machine as workers do, and say of each
  task that it is done.
* ``threads``: the same graphs in this process, as ``--scheduler local`` runs them.
* ``images``: a batch of 10,000 images on a Dask cluster with real workers, by the program's own
  code, with a function that does nothing in the place of the work.
* ``plan``: what is done before: finding the images, and that they are not finished.

About ten minutes on two processors. Prints a table, writes it to docs/scaling.md and everything to
docs/benchmarks/scheduler.json. At the end the bytes that travel for a real exposure are counted
(travels.py) and written to docs/schedulers.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import travels  # noqa: E402
from package import ROOT, say, table  # noqa: E402

RESULT = report.RESULTS / "scheduler.json"
PAGE = ROOT / "docs" / "scaling.md"
TILES = 64
"""Of an exposure: 4096 rows in bands of 64."""
CELLS = 8
"""Rows of cells in which the sky is measured."""
TASKS = (10_000, 100_000, 1_000_000)
WORKERS, THREADS = 100, 4
"""Simulated workers, and the threads of each."""
IMAGES = 10_000


# -- graphs --------------------------------------------------------------------------------------


def nothing(*_: Any) -> None:
    """A task."""


def exposure_graph(number: int) -> tuple[dict[Any, Any], str]:
    """The shape of the graph of one exposure's calibration, and its last key: what the border is
    measured from; tiles, and what they report, three times; the sky; the copy."""
    graph: dict[Any, Any] = {}

    def stage(name: str, after: list[Any], size: int = TILES) -> list[Any]:
        keys = [(f"{name}-{number}", i) for i in range(size)]
        graph.update(dict.fromkeys(keys, (nothing, *after)))
        return keys

    def end(name: str, after: list[Any]) -> list[Any]:
        graph[f"{name}-{number}"] = (nothing, *after)
        return [f"{name}-{number}"]

    found = end("combine", stage("measure", [], 2))
    for name in ("flat", "mask", "sky"):
        seconds = []
        for i, key in enumerate(stage(name, found)):
            graph[f"seconds-{name}-{number}", i] = (nothing, key)
            seconds.append((f"seconds-{name}-{number}", i))
        found = end(f"{name}-finished", seconds)
        if name == "mask":
            found = end("sky-combine", stage("sky-measure", found, CELLS))
    return graph, end("copy-all", stage("copy", found))[0]


def tile_graph(tasks: int) -> tuple[dict[Any, Any], str, int]:
    """A graph of many exposures, its last key, and the number of its tasks."""
    whole: dict[Any, Any] = {}
    ends = []
    while len(whole) < tasks:
        graph, end = exposure_graph(len(ends))
        whole |= graph
        ends.append(end)
    whole["all"] = (nothing, *ends)
    return whole, "all", len(whole)


# -- a scheduler with simulated workers ----------------------------------------------------------


@contextmanager
def scheduler() -> Iterator[tuple[str, int]]:
    """A Dask scheduler in a process of its own: its address and process number."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        settings = {
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
            # Simulated workers give nothing away, and have no heart that beats.
            "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "None",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": PATIENCE,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
             "--port", "0", "--no-dashboard", "--scheduler-file", file],
            env={**os.environ, **settings}, stderr=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
        try:
            while not file.is_file():
                if process.poll() is not None:
                    raise SystemExit("bench-scheduler: the Dask scheduler does not start")
                time.sleep(0.05)
            yield json.loads(file.read_text())["address"], process.pid
        finally:
            process.terminate()
            process.wait()


PATIENCE = "10 minutes"
"""How long a connection may wait for an answer. A graph of a million tasks keeps either side for
more than the 30 s after which a connection is given up otherwise."""


class SimulatedWorker:
    """Says of every task that it is done.

    Parameters
    ----------
    number : int
    threads : int
    """

    KIND = pickle.dumps(type(None))

    def __init__(self, number: int, threads: int) -> None:
        self._number, self._threads = number, threads
        self.done = 0

    async def run(self, address: str) -> None:
        """Until the scheduler goes away."""
        from distributed.comm import CommClosedError, connect

        comm = await connect(address)
        await comm.write(self._registration())
        answer = await comm.read()
        if answer["status"] != "OK":
            raise RuntimeError(f"the scheduler refuses a simulated worker: {answer}")
        try:
            while True:
                messages = await comm.read()
                tasks = [m for m in messages if m["op"] == "compute-task"]
                if tasks:
                    await comm.write([self._finished(task) for task in tasks])
                    self.done += len(tasks)
        except CommClosedError:
            return

    def _registration(self) -> dict[str, Any]:
        from distributed.versions import get_versions

        now = time.time()
        address = f"tcp://10.0.0.1:{self._number + 1}"  # nobody ever talks to it
        return {
            "op": "register-worker", "reply": False, "address": address,
            "status": "running", "nthreads": self._threads, "name": f"simulated-{self._number}",
            "now": now, "resources": {}, "memory_limit": 1 << 34, "local_directory": "",
            "services": {}, "nanny": None, "pid": 0, "versions": get_versions(), "metrics": METRICS,
            "extra": {}, "stimulus_id": f"connect-{self._number}", "server_id": f"s{self._number}",
        }  # fmt: skip

    def _finished(self, task: Mapping[str, Any]) -> dict[str, Any]:
        now = time.time()
        return {
            "op": "task-finished", "status": "OK", "key": task["key"], "run_id": task["run_id"],
            "stimulus_id": task["stimulus_id"], "nbytes": 16, "type": self.KIND,
            "typename": "NoneType", "metadata": {}, "thread": 1,
            "startstops": [{"action": "compute", "start": now, "stop": now + 1e-3}],
        }  # fmt: skip


METRICS = {
    "task_counts": {}, "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
    "digests_total_since_heartbeat": {}, "managed_bytes": 0,
    "spilled_bytes": {"memory": 0, "disk": 0}, "transfer": {}, "event_loop_interval": 0.02,
    "cpu": 0, "memory": 1 << 28, "time": 0, "host_net_io": {}, "num_fds": 10,
}  # fmt: skip


def on_simulated_workers(tasks: int, workers: int = WORKERS) -> dict[str, Any]:
    """One graph of empty tasks through a real scheduler, measured."""
    with scheduler() as (address, pid):
        before = _cpu(pid)
        made = asyncio.run(_through(address, tasks, workers))
        cpu = _cpu(pid) - before
        peak = measure._memory(pid)[0]
    return {
        **made, "workers": workers, "threads": workers * THREADS, "scheduler_cpu": round(cpu, 2),
        "scheduler_peak": peak,
    }  # fmt: skip


async def _through(address: str, tasks: int, workers: int) -> dict[str, Any]:
    import dask
    from dask.delayed import Delayed
    from distributed import Client, wait

    warnings.filterwarnings("ignore", "Sending large graph")
    dask.config.set({"distributed.comm.timeouts.tcp": PATIENCE})
    crew = [SimulatedWorker(number, THREADS) for number in range(workers)]
    lives = [asyncio.create_task(worker.run(address)) for worker in crew]
    async with Client(address, asynchronous=True) as client:
        while len((await client.scheduler.identity())["workers"]) < workers:
            await asyncio.sleep(0.05)
        began = time.perf_counter()
        graph, end, number = tile_graph(tasks)
        with dask.config.set({"optimization.fuse.active": False}):
            future = client.compute(Delayed(end, graph), optimize_graph=False)
            await wait(future)
        seconds = time.perf_counter() - began
        if future.status != "finished":
            raise RuntimeError(f"the graph failed: {await future.exception()}")
        future.release()
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)
    done = sum(worker.done for worker in crew)
    if done != number:
        raise RuntimeError(f"{number} tasks were given, {done} were done")
    return {"tasks": number, "seconds": round(seconds, 3)}


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- threads of one process ----------------------------------------------------------------------


def in_threads(tasks: int) -> dict[str, Any]:
    """The same graph in a process of its own, as --scheduler local runs graphs."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import scheduler, time, dask.threaded\n"
        "began = time.perf_counter(); graph, end, n = scheduler.tile_graph(int(sys.argv[2]))\n"
        "dask.threaded.get(graph, end, num_workers=2); print(n, time.perf_counter() - began)"
    )
    with tempfile.NamedTemporaryFile("r") as log:
        command = [sys.executable, "-c", code, str(HERE), str(tasks)]
        cost = measure.measure(command, log=Path(log.name))
        number, seconds = log.read().split()
    return {"tasks": int(number), "seconds": round(float(seconds), 3), "peak": cost.resident}


# -- images --------------------------------------------------------------------------------------


def write_campaign(folder: Path, images: int) -> Path:
    """A campaign of many images, all of them links to one small Level-1 file."""
    config = exposures.exposure(256)
    settings = yaml.safe_load(config.read_text())
    (folder / "l1").mkdir()
    (folder / "out").mkdir()
    l1 = config.parent / "l1.asdf"
    for i in range(images):
        os.symlink(l1, folder / "l1" / f"sim_L1_F158_{i // 18}_{i % 18 + 1}.asdf")
    template = {
        "CALDIR": {k: str(config.parent / v) for k, v in settings["CALDIR"].items()},
        "FITSWCS": str(config.parent / settings["FITSWCS"]),
        "OUT": "out/sim_L2_{filter}_{obs}_{sca}.asdf",
    }
    found = {"glob": "l1/sim_L1_{filter}_{obs:d}_{sca:d}.asdf"}
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump({"template": template, "exposures": found}))
    return path


def no_work(work: Any) -> dict[str, Any]:
    """In the place of the work on an image."""
    return {"identity": work.identity, "status": "done"}


def images_on_workers(images: int) -> list[dict[str, Any]]:
    """A batch of images of which nothing is done on 2 worker processes, and on 100 workers that
    are threads of this process; and what comes before it."""
    from roman_dask_l2.batch import cluster
    from roman_dask_l2.batch.outcome import Outcome
    from roman_dask_l2.batch.plan import Options, make_plan
    from roman_dask_l2.engine.clusters import CONFIGURATION

    rows = []
    with tempfile.TemporaryDirectory(dir=exposures.CACHE) as folder:
        path = write_campaign(Path(folder), images)
        began = time.perf_counter()
        plan = make_plan(path, Options())
        seconds = time.perf_counter() - began
        if len(plan.todo) != images:
            raise RuntimeError(f"{len(plan.todo)} of {images} images are to be run")
        rows.append({"what": "plan", "images": images, "seconds": round(seconds, 3)})
        cluster.on_worker = no_work  # type: ignore[attr-defined]
        import dask
        from distributed import Client, LocalCluster

        for workers, processes in ((2, True), (100, False)):
            with (
                dask.config.set(CONFIGURATION),
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=processes,
                    dashboard_address=None, memory_limit=None,
                ) as local,
                Client(local) as client,
            ):  # fmt: skip
                outcome = Outcome(plan)
                began = time.perf_counter()
                for _, record in cluster.on_cluster(outcome, plan.todo, client, 0):
                    outcome.records.append(record)
                seconds = time.perf_counter() - began
            if outcome.count("done") != images:
                raise RuntimeError(f"{outcome.count('done')} of {images} images came back")
            if any((Path(folder) / "out").iterdir()):
                raise RuntimeError("images were worked on")
            rows.append({
                "what": "images", "images": images, "workers": workers,
                "seconds": round(seconds, 3),
            })  # fmt: skip
    return rows


# -- the page ------------------------------------------------------------------------------------


def page(result: Mapping[str, Any]) -> str:
    """The part of the manual's page that this program writes, Markdown."""
    lines = []
    for row in result["tiles"]:
        what = f"a Dask scheduler, {row['workers']} simulated workers of {THREADS} threads"
        lines.append([what, f"{row['tasks']} tasks", *_each(row["seconds"], row["tasks"]),
                      f"{row['scheduler_peak'] / 1e9:.2f}"])  # fmt: skip
    for row in result["threads"]:
        each = _each(row["seconds"], row["tasks"])
        peak = f"{row['peak'] / 1e9:.2f}"
        lines.append(["threads of one process", f"{row['tasks']} tasks", *each, peak])
    for row in result["images"]:
        what = "finding out what is to be done"
        if row["what"] == "images":
            kind = "processes" if row["workers"] == 2 else "threads of one process"
            what = f"a batch on {row['workers']} workers, {kind}"
        lines.append([what, f"{row['images']} images", *_each(row["seconds"], row["images"]), ""])
    most = max(result["tiles"], key=lambda row: row["tasks"])
    slowest = most["seconds"] / most["tasks"]
    slow = max(row["seconds"] / row["images"] for row in result["images"] if row["what"] != "plan")
    cpu = 1e6 * most["scheduler_cpu"] / most["tasks"]
    per_tile = len(exposure_graph(0)[0]) / TILES
    threads = 0.1 / (per_tile * slowest)
    parts = [
        report.heading(result),
        table(["", "given at once", "s", "ms each", "peak GB"], lines),
        f"Of {most['tasks']} tasks the scheduler's process used {cpu:.0f} microseconds of CPU for"
        " each.",
        f"A tile makes {per_tile:.1f} tasks. If the work on it takes a thread 0.1 s, one scheduler"
        f" keeps {threads:.0f} threads busy with tiles. With images as tasks it starts"
        f" {1 / slow:.0f} in a second; if one takes a worker 5 s, that is enough for"
        f" {5 / slow:.0f} workers.",
    ]
    if result["load"] > 0.5:
        parts.append(
            f"The machine was not quiet: its load was {result['load']:.1f} before, and this had to"
            f" stand back behind others (nice {result['nice']})."
        )
    return report.joined(parts)


def _each(seconds: float, number: int) -> list[str]:
    return [f"{seconds:.1f}", f"{1e3 * seconds / number:.2f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, nothing written")
    parser.add_argument("--table", action="store_true", help="write the page again from the JSON")
    args = parser.parse_args()
    if args.table:
        report.put_into_page("scheduler", page(json.loads(RESULT.read_text())), PAGE)
        travels.write(json.loads(travels.RESULT.read_text()))
        return 0
    exposures.exposure(256)
    result: dict[str, Any] = {
        "date": report.now(),
        "commit": report.commit(),
        "machine": report.machine(),
        "versions": report.versions(sys.executable, "dask", "distributed"),
        "load": os.getloadavg()[0],
        "nice": os.nice(0),
    }
    sizes = (2_000,) if args.quick else TASKS
    workers = 10 if args.quick else WORKERS
    for name, run in (
        ("tiles", lambda n: on_simulated_workers(n, workers)),
        ("threads", in_threads),
    ):
        result[name] = []
        for size in sizes:
            result[name].append(run(size))
            say(f"{name}: {result[name][-1]}")
    result["images"] = images_on_workers(100 if args.quick else IMAGES)
    text = page(result)
    say("\n" + text)
    if args.quick:
        say("Nothing was written: a quick run is for trying it.")
    else:
        report.write_json(RESULT, result)
        report.put_into_page("scheduler", text, PAGE)
        say(f"wrote {RESULT.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")
        travels.write(travels.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
