"""Bytes that travel between the processes of a Dask cluster for one exposure.

    python benchmarks/travels.py      writes the table of docs/schedulers.md

A scheduler and two workers are processes of their own, as on a cluster, and this one is the
program. In each of them every message that it sends is counted, with both ends of its connection.
``make bench-scheduler`` does this, too.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import report  # noqa: E402
from package import ROOT, say, table  # noqa: E402

PAGE = ROOT / "docs" / "schedulers.md"
RESULT = report.RESULTS / "travels.json"
SIDE = 1024
LAYERS = ("Rz4S2C1", "Prb2")
ROLES = ("program", "scheduler", "workers")
WAYS = (
    ("program", "scheduler"), ("scheduler", "program"), ("scheduler", "workers"),
    ("workers", "scheduler"), ("workers", "workers"),
)  # fmt: skip
"""Columns of the table."""

Counts = dict[tuple[str, str], int]
"""Bytes by local and remote address."""


@contextlib.contextmanager
def cluster(workers: int = 2) -> Iterator[str]:
    """A Dask scheduler and its workers, processes as others would have started them: its
    address."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file]

        def start(what: str, *arguments: Any) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *common, *arguments]
            return subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)

        processes = [start("scheduler", "--port", "0")]
        processes += [start("worker", "--no-nanny", "--nthreads", "1") for _ in range(workers)]
        try:
            yield _address(file, processes[0])
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    while True:
        with contextlib.suppress(OSError, ValueError):  # not there yet, or half of it
            return json.loads(file.read_text())["address"]
        if process.poll() is not None:
            raise SystemExit("bench-scheduler: the Dask scheduler does not start")
        time.sleep(0.05)


def count() -> None:
    """From now on this process counts what it sends."""
    from distributed.comm import tcp

    write, sent = tcp.TCP.write, {}

    async def counted(self: Any, *args: Any, **kwargs: Any) -> int:
        size = await write(self, *args, **kwargs)
        key = self.local_address, self.peer_address
        sent[key] = sent.get(key, 0) + size
        return size

    tcp.TCP.write, tcp.sent = counted, sent


def sent() -> Counts:
    """What this process has sent so far."""
    from distributed.comm import tcp

    return dict(tcp.sent)


def flows(found: Mapping[str, Iterable[Counts]]) -> dict[str, int]:
    """Bytes from role to role: an address belongs to who sends from there. One from which nothing
    was sent yet is the end of a worker's older connection.

    Parameters
    ----------
    found : mapping of str to iterable of dict
        The counts of each process by its role.
    """
    whose = {local: r for r, all_of in found.items() for counts in all_of for local, _ in counts}
    total = {f"{a} to {b}": 0 for a, b in WAYS}
    for role, all_of in found.items():
        for counts in all_of:
            for (_, peer), size in counts.items():
                way = f"{role} to {whose.get(peer, 'workers')}"
                total[way] = total.get(way, 0) + size
    return total


def measured(config: Path, tile: Any = None) -> dict[str, dict[str, int]]:
    """What is sent for the calibration of an exposure, and for its noise layers.

    Parameters
    ----------
    config : Path
        With a NOISE block.
    tile : optional
        As for `roman_dask_l2.calibrate`.
    """
    from roman_dask_l2.engine.schedulers import running
    from roman_dask_l2.products.level2 import calibrate
    from roman_dask_l2.products.noise_layers import generate_noise

    if __name__ != "__main__":  # the other processes cannot import this file
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
    count()
    with cluster() as address, running(address, workers=2, insecure=True) as client:
        client.wait_for_workers(2, timeout=60)
        client.run(count)
        client.run_on_scheduler(count)

        def now() -> dict[str, int]:
            workers = list(client.run(sent).values())
            here = {k: n for k, n in sent().items() if k[1] == address}
            return flows(
                {
                    "program": [here],
                    "scheduler": [client.run_on_scheduler(sent)],
                    "workers": workers,
                }
            )

        states = [now()]
        for make in (calibrate, generate_noise):
            make(config, scheduler=client, tile=tile)
            states.append(now())
    spent = [
        {way: after[way] - before[way] for way in after}
        for before, after in zip(states[:-1], states[1:], strict=True)
    ]
    return dict(zip(("calibration", "noise"), spent, strict=True))


def configuration(config: Path, folder: Path) -> Path:
    """The same exposure with noise layers, its outputs elsewhere."""
    raw = yaml.safe_load(config.read_text())
    here = config.parent
    raw["CALDIR"] = {key: str(here / path) for key, path in raw["CALDIR"].items()}
    raw |= {"IN": str(here / raw["IN"]), "FITSWCS": str(here / raw["FITSWCS"])}
    raw |= {"OUT": str(folder / "l2.asdf"), "FITSOUT": False, "SLICEOUT": True}
    raw["NOISE"] = {
        "LAYER": list(LAYERS), "TEMP": str(folder), "SEED": 1, "OUT": str(folder / "noise.asdf"),
    }  # fmt: skip
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def page(result: Mapping[str, Any]) -> str:
    """The part of the manual's page that this program writes, Markdown."""
    side, resultants = result["side"], result["resultants"]
    names = {"calibration": "calibration", "noise": f"{len(result['layers'])} noise layers"}
    lines = [
        [names[stage], *(f"{found[f'{a} to {b}'] / 1e3:.0f}" for a, b in WAYS)]
        for stage, found in result["kB"].items()
    ]
    head = ["kB for one exposure", *(f"{a} to {b}" for a, b in WAYS)]
    size = 2e-6 * side**2 * resultants
    what = (
        f"Measured {result['date']}, commit {result['commit'] or 'unknown'}: an exposure of"
        f" {side} x {side} pixels and {resultants} resultants ({size:.1f} MB), two workers,"
        f" {result['tiles']} tiles; the layers are {' and '.join(result['layers'])}. Signs of life"
        " are in it."
    )
    return report.joined([what, table(head, lines)])


def run(side: int = SIDE) -> dict[str, Any]:
    """Measure; what `page` needs."""
    config = exposures.exposure(side)
    with tempfile.TemporaryDirectory(dir=exposures.CACHE) as folder:
        found = measured(configuration(config, Path(folder)))
    return {
        "date": report.now(), "commit": report.commit(), "side": side, "resultants": 8,
        "layers": list(LAYERS), "tiles": -(-side // 64), "kB": found,
    }  # fmt: skip


def write(result: Mapping[str, Any]) -> None:
    report.write_json(RESULT, result)
    report.put_into_page("travels", page(result), PAGE)
    say(f"wrote {RESULT.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    write(run())
