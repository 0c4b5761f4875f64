"""Our program and romancal 1.1 in turn on one exposure, with the observatory's reference files.

Called by ``make bench``; alone: ``python benchmarks/observatory_bench.py``. The exposure (4096 x
4096 pixels, 8 resultants of 35 reads, polynomials of 11 coefficients) and romancal's environment
are those of ``make parity``. Our recipes run a few times each in turn, romancal once before them
and once after; then ours runs on an exposure of 55 resultants, for its memory. Prints the tables
and writes them to docs/benchmarks.md, all runs to docs/benchmarks/observatory.json.

About a quarter of an hour, nearly all of it romancal's, and 6 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import yaml

HERE = Path(__file__).resolve().parent
PARITY = HERE.parent / "validation" / "parity"
sys.path[:0] = [str(HERE), str(PARITY)]

import exposures  # noqa: E402
import measure  # noqa: E402
import observatory  # noqa: E402
import report  # noqa: E402
from ecosystem import PACKAGE, environment  # noqa: E402
from package import ROOT, say, table  # noqa: E402

THEIRS = "romancal"
RECIPES = ("romancal_1.1", "observatory")
LATEST = report.RESULTS / "observatory.json"
MANY = 55
"""Resultants of the second exposure."""
TARGETS = {"wall": 15.0, "cpu": 10.0}
"""Least ratios to romancal, of the recipe `romancal_1.1`."""
MOST_RESIDENT = 1.2e9


def configuration(folder: Path, l1: Path, name: str, recipe: str) -> Path:
    """A configuration for the files of ``make parity``."""
    references = sorted(p for p in folder.glob("*.asdf") if not p.stem.startswith("l1"))
    settings = {
        "IN": str(l1),
        "OUT": f"{name}.asdf",
        "GRAPH": recipe,
        "CALDIR": {path.stem: str(path) for path in references},
        "JUMPOUT": True,
    }
    path = folder.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def with_more_resultants(l1: Path, target: Path, n: int) -> Path:
    """The exposure with `n` resultants of one and two reads, interpolated in time."""
    with asdf.open(l1, memmap=False, lazy_load=False) as file:
        roman = file["roman"]
        meta = roman["meta"]["exposure"]
        times = np.array([np.mean(reads) for reads in meta["read_pattern"]])
        pattern, read = [], 1
        for j in range(n):
            pattern.append(list(range(read, read + 1 + j % 2)))
            read += 1 + j % 2
        data, amp33 = np.array(roman["data"]), np.array(roman["amp33"])
        at = np.interp([np.mean(reads) for reads in pattern], times, np.arange(len(times)))
        for key, cube in (("data", data), ("amp33", amp33)):
            more = np.empty((n, *cube.shape[1:]), cube.dtype)
            for j, where in enumerate(at):
                low = min(int(where), len(cube) - 2)
                share = where - low
                more[j] = np.rint((1 - share) * cube[low] + share * cube[low + 1])
            roman[key] = more
        meta["read_pattern"], meta["nresultants"] = pattern, n
        roman.pop("resultantdq", None)
        file.write_to(target)
    return target


def medians(runs: report.Runs) -> dict[str, Any]:
    """Medians of each program."""
    names = dict.fromkeys(run["program"] for run in runs)
    chosen = {name: [run for run in runs if run["program"] == name] for name in names}
    return {name: {"runs": len(some), **report.spread(some)} for name, some in chosen.items()}


def targets(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What was to be reached, and what was."""
    lines = []
    ours = found.get(RECIPES[0])
    if ours and THEIRS in found:
        for metric, wanted in TARGETS.items():
            value = report.ratio(found[THEIRS], ours, metric)["median"]
            what = f"{metric} of romancal over ours, recipe {RECIPES[0]}"
            lines.append((what, f"≥ {wanted:g}", f"{value:.1f}", report.reached(value >= wanted)))
    for name, values in found.items():
        if name != THEIRS:
            value = values["resident"]["median"]
            ok = report.reached(value <= MOST_RESIDENT)
            lines.append((f"peak resident, {name}", "≤ 1.2 GB", f"{value / 1e9:.2f} GB", ok))
    return lines


def page(result: Mapping[str, Any]) -> str:
    """The part of the manual's page that this program writes, Markdown."""
    found = result["medians"]
    lines = [[name, str(v["runs"]), *report.cells(v)] for name, v in found.items()]
    parts = [
        report.heading(result),
        f"{result['side']} x {result['side']} pixels, {result['resultants']} resultants,"
        f" {result['threads']} threads, detector {result['detector']}; page cache and numba cache"
        " warm. Medians, wall time with its range.",
        table(["program", "runs", *report.COLUMNS.values()], lines),
        "Figures to reach:",
        table(["figure", "wanted", "measured", ""], targets(found)),
        *report.disturbances(result["runs"]),
    ]
    return report.joined(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=ROOT / "out" / "parity")
    parser.add_argument("--detector", default="WFI02")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3, help="of ours, of each recipe")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", action="store_true", help="do not run romancal")
    parser.add_argument("--many", type=int, default=MANY, help="resultants of the other exposure")
    parser.add_argument("--dry-run", action="store_true", help="write nothing into docs")
    args = parser.parse_args()
    folder = args.directory.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = environment(folder / "romancal")
    place = folder / f"observatory-{args.detector}-1"
    observatory.inputs(place / "in", 1, args.detector, python)
    result = run(place, python, args)
    text = page(result)
    say(text)
    if not args.dry_run:
        report.write_json(LATEST, result)
        report.put_into_page("observatory", text)
    return 0


def run(place: Path, python: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run everything; what was measured."""
    l1 = place / "in" / "l1.asdf"
    program = [Path(sys.executable).with_name("roman-dask-l2"), "run"]
    options = ["--threads", str(args.threads), "--quiet"]
    runs: list[dict[str, Any]] = []

    def once(name: str, command: list[Any], keep: bool = True) -> None:
        cost = measure.measure(command, cwd=place, log=place / "bench.log")
        if keep:
            runs.append({"program": name, **cost.record()})
        say(f"{name}: {cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU, {cost.resident / 1e9:.2f} GB")

    def theirs() -> None:
        script = PARITY / "romancal_pipeline.py"
        arguments = [l1, place / "in", place / "bench_romancal", "--light"]
        once(THEIRS, [python, "-W", "ignore", script, *arguments])

    configs = {name: configuration(place / "in", l1, f"bench_{name}", name) for name in RECIPES}
    for name, config in configs.items():  # compiles, and fills the page cache
        exposures.warm_files((place / "in").glob("*.asdf"))
        once(name, [*program, config, *options], keep=False)
    if not args.ours:
        theirs()
    for _ in range(args.runs):
        for name, config in configs.items():
            once(name, [*program, config, *options])
    if not args.ours:
        theirs()
    if args.many:
        many = with_more_resultants(l1, place / "l1_many.asdf", args.many)
        name = f"{RECIPES[0]}, {args.many} resultants"
        config = configuration(place / "in", many, "bench_many", RECIPES[0])
        once(name, [*program, config, *options])
        os.unlink(many)
    for path in place.glob("bench_*.asdf"):
        path.unlink()
    with asdf.open(l1) as file:
        shape = file["roman"]["data"].shape
    return {
        "date": report.now(),
        "commit": report.commit(),
        "machine": report.machine(),
        "versions": {"romancal": PACKAGE, **report.versions(sys.executable, "numba", "numpy")},
        "side": shape[-1],
        "resultants": shape[0],
        "threads": args.threads,
        "detector": args.detector,
        "runs": runs,
        "medians": medians(runs),
    }


if __name__ == "__main__":
    sys.exit(main())
