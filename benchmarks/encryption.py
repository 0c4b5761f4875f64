"""What the encryption of a run's cluster costs.

    python benchmarks/encryption.py      writes the table of docs/security.md

The same calibration on two local workers, as whole processes: with the key of the run, and with
``--insecure``, in turn. How many bytes there are to encrypt is in docs/schedulers.md.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
from package import ROOT, say, table  # noqa: E402

PAGE = ROOT / "docs" / "security.md"
RESULT = report.RESULTS / "encryption.json"
SIDE, PAIRS = 1024, 5
WAYS = {"with the key of the run": [], "--insecure": ["--insecure"]}


def pairs(config: Path, folder: Path, n: int) -> dict[str, list[dict[str, float]]]:
    """Wall time and processor time (s) of `n` runs each way, in turn, after one that warms up."""
    raw, here = yaml.safe_load(config.read_text()), config.parent
    raw["CALDIR"] = {key: str(here / path) for key, path in raw["CALDIR"].items()}
    raw |= {"IN": str(here / raw["IN"]), "FITSWCS": str(here / raw["FITSWCS"])}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(raw | {"OUT": str(folder / "l2.asdf"), "FITSOUT": False}))
    program = [Path(sys.executable).with_name("roman-dask-l2"), "run", file, "--quiet"]
    cluster = ["--scheduler", "local-cluster", "--workers", "2", "--threads", "1"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for i in range(n + 1):
        for name, options in WAYS.items():
            cost = measure.measure([*program, *cluster, *options], cwd=folder)
            say(f"{name}: {cost.wall:.2f} s wall, {cost.cpu:.2f} s CPU")
            if i:
                found[name].append({"wall": cost.wall, "cpu": cost.cpu, "others": cost.others})
    return found


def page(result: Mapping[str, Any]) -> str:
    """The part of the manual's page that this program writes, Markdown."""

    def cells(runs: Sequence[Mapping[str, float]], metric: str) -> str:
        values = sorted(run[metric] for run in runs)
        return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"

    rows = [[k, cells(v, "wall"), cells(v, "cpu")] for k, v in result["runs"].items()]
    n = len(next(iter(result["runs"].values())))
    what = (
        f"Measured {result['date']}, commit {result['commit'] or 'unknown'}: a calibration of"
        f" {result['side']} x {result['side']} pixels as a whole process, start and end of two"
        f" workers included; medians of {n} runs in turn, with their range."
    )
    return report.joined([what, table(["cluster", "wall s", "CPU s"], rows)])


def run(side: int = SIDE, n: int = PAIRS) -> dict[str, Any]:
    """Measure; what `page` needs."""
    config = exposures.exposure(side)
    with tempfile.TemporaryDirectory(dir=exposures.CACHE) as folder:
        found = pairs(config, Path(folder), n)
    return {"date": report.now(), "commit": report.commit(), "side": side, "runs": found}


if __name__ == "__main__":
    result = run()
    report.write_json(RESULT, result)
    report.put_into_page("encryption", page(result), PAGE)
    say(f"wrote {RESULT.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")
