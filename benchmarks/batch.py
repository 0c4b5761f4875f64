"""A campaign through ``roman-dask-l2 batch``: ``make bench-batch``.

12 exposures of 4096 x 4096 pixels and 8 resultants on 3 detectors, on two processors, one after the
other in one process: calibration only, and with one layer of read noise. One exposure of each
detector is simulated, the other three are copies of its file; this takes some minutes and 21 GB of
disk when first asked for; they are kept in out/benchmarks/. Prints a table and writes it to
docs/benchmarks.md, what it means for a survey to docs/scaling.md, and everything that was measured
to docs/benchmarks/batch.json.

What an exposure costs is told by the program's own manifest; the whole process is measured beside
that. Two exposures are made before, which are not counted: then all kernels are compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
from package import ROOT, say, table  # noqa: E402

BATCH = report.RESULTS / "batch.json"
SCALING_PAGE = ROOT / "docs" / "scaling.md"
PROGRAM = Path(sys.executable).with_name("roman-dask-l2")
PROCESSORS = 2
"""That the program may use, whatever the machine has."""
FASTEST = 5.0
"""Seconds for the calibration of an exposure, to be reached."""
GROWTH = 1.0
"""Per cent of resident memory for each exposure, to be stayed under."""
SETTINGS = {"SKYORDER": 2, "SLICEOUT": True}
"""Of every exposure: those of the simulated configurations from which traffic.py takes its bytes.
So the tables of docs/scaling.md speak of the same calibration."""


@dataclass(frozen=True)
class Case:
    """One way to go through the campaign."""

    title: str
    layers: tuple[str, ...] = ()


CASES = {
    "calibration": Case("calibration"),
    "layer": Case("calibration and the layer Rz4S2C1", ("Rz4S2C1",)),
}


@dataclass(frozen=True)
class Survey:
    """What is assumed; no plan of the mission."""

    exposures: int = 2000
    detectors: int = 18
    layers: int = 4

    @property
    def images(self) -> int:
        return self.exposures * self.detectors


def write_campaign(folder: Path, case: Case, name: str) -> Path:
    """The campaign file for a case; nothing of it is done."""
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    (out / "temp").mkdir(parents=True)
    keys = sorted(path.stem for path in (folder / "cal_1").iterdir())
    template: dict[str, Any] = {
        "CALDIR": {key: f"../cal_{{sca}}/{key}.asdf" for key in keys},
        "FITSWCS": "../wcs.txt",
        **SETTINGS,
    }
    if case.layers:
        template["NOISE"] = {"LAYER": list(case.layers), "TEMP": "temp"}
    found = {"glob": "../l1/sim_L1_{filter}_{obs:d}_{sca:d}.asdf"}
    campaign = {"template": template, "exposures": found}
    campaign |= {"SEED": 15000} if case.layers else {}
    path = out / "campaign.yaml"
    path.write_text(yaml.safe_dump(campaign, sort_keys=False))
    return path


def run(folder: Path, case: Case, threads: int, limit: int | None = None) -> dict[str, Any]:
    """One batch, measured; its outputs are removed."""
    name = "bench_batch"
    campaign = write_campaign(folder, case, name)
    command = [str(PROGRAM), "batch", str(campaign), "--threads", str(threads), "--quiet"]
    command += [] if limit is None else ["--limit", str(limit)]
    cpus = sorted(os.sched_getaffinity(0))[:PROCESSORS]
    try:
        os.sync()  # what was written before is not our work
        cost = measure.measure(command, cwd=folder, cpus=cpus)
        lines = ended(campaign.with_name("campaign.manifest.jsonl"))
        written = sum(on_disk(Path(path)) for line in lines for path in line.pop("output"))
        return {**cost.record(), "bytes": written // len(lines), "exposures": lines}
    finally:
        shutil.rmtree(folder / name)


def on_disk(path: Path) -> int:
    """Bytes of a file that were written; holes were not."""
    return path.stat().st_blocks * 512


def ended(manifest: Path) -> list[dict[str, Any]]:
    """What the manifest says of the exposures, in the order in which they were done."""
    keys = (
        "identity",
        "together",
        "seconds",
        "cpu_seconds",
        "peak_memory",
        "memory",
        "products",
        "output",
    )
    found = []
    for text in manifest.read_text().splitlines():
        line = json.loads(text)
        if line["status"] == "done":
            began = datetime.fromisoformat(line["started"]).timestamp()
            ended = datetime.fromisoformat(line["ended"]).timestamp()
            found.append({"began": began, "ended": ended, **{key: line[key] for key in keys}})
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the exposures after the first of each run, or after those that ran together with it.

    Returns
    -------
    dict
        ``seconds`` from the end of these to that of the last, so that all that is
        done between exposures is in it, and ``cpu_seconds``, both for each; ``least`` and ``most``
        seconds of one; ``other_detector`` seconds of the first exposures of further detectors;
        ``first`` seconds; ``peak`` and ``anonymous`` bytes; ``growth`` of the resident memory,
        per cent for each exposure, the largest of all runs.
    """
    spans, cpu, own, changed, first, growths = [], [], [], [], [], []
    for one in runs:
        done = one["exposures"]
        k = done[0].get("together", 1)
        ends = [line.get("ended", line["began"] + line["seconds"]) for line in done]
        spans.append((ends[-1] - ends[k - 1]) / (len(done) - k))
        first.append(done[0]["seconds"])
        cpu += [line["cpu_seconds"] for line in done[k:]]
        own += [line["seconds"] for line in done[k:]]
        for before, line in zip(done[:-1], done[1:], strict=True):
            if _detector(before) != _detector(line):
                changed.append(line["seconds"])
        growths.append(growth([line["memory"] for line in done[k:]]))
    return {
        "seconds": float(np.median(spans)),
        "cpu_seconds": float(np.mean(cpu)),
        "least": min(own),
        "most": max(own),
        "other_detector": float(np.mean(changed)) if changed else float("nan"),
        "first": float(np.median(first)),
        "peak": max(one["resident"] for one in runs),
        "anonymous": max(one["anonymous"] for one in runs),
        "growth": max(growths),
    }


def growth(memory: Sequence[float]) -> float:
    """Slope of a straight line through values of successive exposures, per cent of their mean."""
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    return float(100 * slope / np.mean(memory))


def _detector(line: Mapping[str, Any]) -> str:
    return line["identity"].rpartition("sca=")[2]


def targets(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Rows of the table of figures to reach."""
    rows = []
    if "calibration" in found:
        seconds = found["calibration"]["seconds"]
        verdict = report.reached(seconds < FASTEST)
        rows.append(["calibration: an exposure", f"< {FASTEST:g} s", f"{seconds:.2f} s", verdict])
    for name, values in found.items():
        verdict = report.reached(values["growth"] < GROWTH)
        figure = f"{CASES[name].title}: growth of resident memory"
        rows.append([figure, f"< {GROWTH:g} %", f"{values['growth']:.2f} %", verdict])
    return rows


def page(result: Mapping[str, Any]) -> str:
    """The part of the page of benchmarks that this program writes, Markdown."""
    found = {name: summary(runs) for name, runs in result["cases"].items()}
    n, detectors = result["campaign"]["exposures"], result["campaign"]["detectors"]
    side, size = result["campaign"]["side"], result["campaign"]["resultants"]
    parts = [
        report.heading(result),
        f"{n} exposures of {side} x {side} pixels and {size} resultants, {detectors} detectors"
        f" (copies of one for each detector); one process, {result['threads']} threads; page cache"
        " and numba cache warm.",
    ]
    head = ["job", "s", "CPU s", "one took s", "first of another detector s", "first of all s",
            "peak resident GB", "peak anonymous GB", "resident, % more with each"]  # fmt: skip
    lines = [
        [CASES[name].title, f"{v['seconds']:.2f}", f"{v['cpu_seconds']:.2f}",
         f"{v['least']:.2f} to {v['most']:.2f}", f"{v['other_detector']:.2f}", f"{v['first']:.2f}",
         *(f"{v[key] / 1e9:.2f}" for key in ("peak", "anonymous")), f"{v['growth']:.2f}"]
        for name, v in found.items()
    ]  # fmt: skip
    parts += [table(head, lines), "Figures to reach:"]
    parts.append(table(["figure", "wanted", "measured", ""], targets(found)))
    parts += report.disturbances([one for runs in result["cases"].values() for one in runs])
    return report.joined(parts)


def survey_page(result: Mapping[str, Any], survey: Survey | None = None) -> str:
    """What the measured cost of an exposure means for a survey, Markdown."""
    survey = survey or Survey()
    found = {name: summary(runs) for name, runs in result["cases"].items()}
    kinds = {name: runs[0]["bytes"] for name, runs in result["cases"].items()}
    threads = result["threads"]

    def row(what: str, cal: float, layers: float, number: int = 1) -> list[str]:
        """Cost of so many calibrations and layers of each image, times a number of images."""
        cpu, wall, size = (
            number
            * (cal * values["calibration"] + layers * (values["layer"] - values["calibration"]))
            for values in (
                {name: v["cpu_seconds"] for name, v in found.items()},
                {name: v["seconds"] for name, v in found.items()},
                kinds,
            )
        )
        if number == 1:
            return [what, f"{cpu:.1f} s", f"{wall * threads:.1f} s", f"{size / 1e9:.2f} GB"]
        hours = (f"{seconds / 3600:.0f} h" for seconds in (cpu, wall * threads))
        return [what, *hours, f"{size / 1e12:.1f} TB"]

    lines = [
        row("calibration of an image", 1, 0),
        row("a layer of read noise", 0, 1),
        row(f"an image with {survey.layers} layers", 1, survey.layers),
        row(f"{survey.images} images, calibration", 1, 0, survey.images),
        row(f"{survey.images} images with {survey.layers} layers", 1, survey.layers, survey.images),
    ]
    parts = [
        report.heading(result),
        f"Assumed, and no plan of the mission: {survey.exposures} exposures with"
        f" {survey.detectors} detectors, so {survey.images} images, and {survey.layers} layers of"
        " read noise (Rz4S2C1) for each.",
        table(["", "CPU", f"{threads} processors reserved", "written"], lines),
    ]
    parts += report.disturbances([one for runs in result["cases"].values() for one in runs])
    return report.joined(parts)


def main() -> int:
    args = _arguments()
    if args.table:
        _write(json.loads(BATCH.read_text()))
        return 0
    side, detectors, each = (args.side or 256, 3, 2) if args.quick else (4096, 3, 4)
    folder = exposures.campaign(side, detectors, each)
    result: dict[str, Any] = {
        "date": report.now(),
        "commit": report.commit(),
        "machine": report.machine(),
        "campaign": {
            "side": side, "resultants": 8, "detectors": detectors, "exposures": detectors * each,
        },
        "threads": args.threads,
        "cases": {},
    }  # fmt: skip
    run(folder, CASES["layer"], args.threads, limit=2)  # compiles the kernels
    for name, case in CASES.items():
        exposures.warm_files(path for path in folder.rglob("*") if path.is_file())
        result["cases"][name] = [run(folder, case, args.threads) for _ in range(args.repeat)]
    say("\n" + page(result) + "\n" + survey_page(result))
    if args.quick:
        say("Nothing was written: a quick run is for trying it.")
    else:
        report.write_json(BATCH, result)
        _write(result)
        pages = f"{report.PAGE.relative_to(ROOT)} and {SCALING_PAGE.relative_to(ROOT)}"
        say(f"wrote {BATCH.relative_to(ROOT)}, {pages}")
    return 0


def _write(result: Mapping[str, Any]) -> None:
    report.put_into_page("batch", page(result))
    report.put_into_page("survey", survey_page(result), SCALING_PAGE)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, nothing written")
    parser.add_argument("--side", type=int, help="detector side with --quick (default: 256)")
    parser.add_argument("--repeat", type=int, default=1, help="batches of each (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--table", action="store_true", help="write the manual's tables again from batch.json"
    )
    args = parser.parse_args()
    if args.repeat < 1 or args.threads < 1:
        parser.error("--repeat and --threads: expected 1 or more")
    if args.side and not args.quick:
        parser.error("--side: only with --quick")
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except measure.CommandFailed as failed:
        sys.exit(f"bench-batch: {failed}")
