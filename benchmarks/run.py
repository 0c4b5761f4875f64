"""Our program and romanimpreprocess 1.0.0 in turn on one exposure: ``make bench``.

Both calibrate the same simulated exposure of 4096 x 4096 pixels and 8 resultants, then do it again
with three noise layers, each time as a whole process. Prints a table and writes it to
docs/benchmarks.md, and everything that was measured to docs/benchmarks/latest.json. The exposure
and the package's environment are those of ``make parity``.

About a quarter of an hour, nearly all of it the package's. The machine should have nothing else to
do; where it had, the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
from package import LAYERS, PACKAGE, ROOT, environment, say, simulated, table  # noqa: E402

OURS, COMPATIBLE, THEIRS = "roman-dask-l2", "roman-dask-l2, its recipe", "romanimpreprocess"
"""`COMPATIBLE` is our program with the recipe that reproduces the package's numbers."""
STCAL = "stcal's fit alone"
"""The library's public function, in one process, on the raw ramp: no calibration around it."""
FOREIGN = (THEIRS, STCAL)
"""What runs in the package's environment."""

LATEST = report.RESULTS / "latest.json"
LIBRARIES = ("asdf", "astropy", "dask", "numba", "numpy", "scipy", "stcal")


@dataclass(frozen=True)
class Case:
    """One job that all programs do.

    Attributes
    ----------
    name, title : str
    noise : bool
        Noise layers after the calibration.
    module : str
        The package's documented command for it.
    programs : tuple of str
    likelihood : bool
        Ramps are fitted by maximum likelihood.
    """

    name: str
    title: str
    noise: bool
    module: str
    programs: tuple[str, ...]
    likelihood: bool = False


CASES = {
    case.name: case
    for case in (
        Case(
            "calibration",
            "calibration",
            False,
            "romanimpreprocess.L1_to_L2.gen_cal_image",
            (OURS, COMPATIBLE, THEIRS),
        ),
        Case(
            "likelihood",
            "calibration, likelihood fit",
            False,
            "romanimpreprocess.L1_to_L2.gen_cal_image",
            (OURS, COMPATIBLE, STCAL, THEIRS),
            likelihood=True,
        ),
        Case(
            "layers",
            f"calibration and the layers {', '.join(LAYERS)}",
            True,
            "romanimpreprocess.L1_to_L2.gen_noise_image",  # calibrates first
            (OURS, THEIRS),
        ),
    )
}


class Bench:
    """Runs the programs and keeps what they cost."""

    def __init__(self, config: Path, python: Path | None, threads: int, cpus: list[int]) -> None:
        self.folder = config.parent
        self.runs: list[dict[str, Any]] = []
        self._base = yaml.safe_load(config.read_text())
        self._python, self._threads, self._cpus = python, threads, cpus

    def command(self, case: Case, program: str) -> list[str]:
        """The command line, relative to the exposure's folder; writes its configuration."""
        name = f"bench_{case.name}_{list(case.programs).index(program)}"
        settings = self._base | {"OUT": f"{name}.asdf", "FITSOUT": True, "SLICEOUT": True}
        settings.pop("NOISE", None)
        if case.likelihood:
            settings["romancal_ramp_fit"] = True
        if case.noise:
            # A folder for ours, a file for theirs: a file's name serves for both.
            temp = str(self.folder / f"{name}_temp.asdf")
            settings["NOISE"] = {
                "LAYER": list(LAYERS), "TEMP": temp, "SEED": 15000, "OUT": f"{name}_noise.asdf",
            }  # fmt: skip
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        if program == THEIRS:
            return [str(self._python), "-m", case.module, f"{name}.yaml"]
        if program == STCAL:
            return [str(self._python), str(HERE / "stcal_fit.py"), f"{name}.yaml"]
        ours = [str(Path(sys.executable).with_name("roman-dask-l2")), f"{name}.yaml"]
        ours += ["--threads", str(self._threads)]
        return [*ours, "--graph", "romanimpreprocess_1.0"] if program == COMPATIBLE else ours

    def clear(self) -> None:
        """Remove what earlier runs wrote, and let the disk finish with it."""
        for path in self.folder.glob("bench_*"):
            if path.is_file():
                path.unlink()
        os.sync()

    def run(
        self, case: Case, program: str, kind: str = "", env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One measured process; kept under `kind` or the case's name, not kept if that is "-"."""
        self.clear()
        command, log = self.command(case, program), self.folder / "bench_log.txt"
        cost = measure.measure(command, cwd=self.folder, env=env, cpus=self._cpus, log=log)
        record = {"case": kind or case.name, "program": program, **cost.record()}
        if program not in FOREIGN:
            record["stages"] = report.stages(log)
        say(
            f"{record['case'] if kind != '-' else 'warm-up'}, {program}: {cost.wall:.2f} s,"
            f" {cost.cpu:.2f} s CPU, {cost.resident / 1e9:.2f} GB resident,"
            f" {cost.anonymous / 1e9:.2f} GB anonymous"
            + (f", {cost.others:.1f} processors busy with others" * (cost.others > report.BUSY))
        )
        if kind != "-":
            self.runs.append(record)
        return record

    def help(self) -> None:
        """How long it takes to be told how the program is used."""
        command = [Path(sys.executable).with_name("roman-dask-l2"), "--help"]
        cost = measure.measure(command, cpus=self._cpus)
        self.runs.append({"case": "help", "program": OURS, **cost.record()})


def main() -> int:
    args = _arguments()
    if args.table:
        report.put_into_page("bench", page(json.loads(LATEST.read_text())))
        return 0
    quick = args.quick
    with_package = not args.no_package and not quick
    python = None
    if quick:
        config = exposures.exposure(args.side or 1024)
    else:
        folder = args.directory.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        python = environment(folder / "venv")
        config = simulated(folder / f"seed{args.seed}", args.seed, python)
    cpus = sorted(os.sched_getaffinity(0))[: args.threads]
    result: dict[str, Any] = {
        "date": report.now(),
        "commit": report.commit(),
        "machine": report.machine(),
        "exposure": {"side": (args.side or 1024) if quick else 4096, "resultants": 8},
        "threads": args.threads,
        "versions": {OURS: report.versions(sys.executable, OURS, *LIBRARIES)},
    }
    if with_package and python is not None:
        name = PACKAGE.partition("==")[0]
        result["versions"][THEIRS] = report.versions(python, name, "asdf", "numpy", "scipy")
    earlier = _earlier(result) if args.no_package and not quick else []

    exposures.warm(config)
    bench = Bench(config, python, args.threads, cpus)
    cases = [CASES[name] for name in args.cases]
    times = {OURS: args.repeat, COMPATIBLE: args.repeat}
    times |= dict.fromkeys(FOREIGN, args.package_repeat if with_package else 0)
    try:
        for case in cases:
            for program in case.programs:
                if program not in FOREIGN:
                    bench.run(case, program, "-")
        for i in range(max(times.values())):
            for case in cases:
                for program in case.programs:
                    if i < times[program]:
                        bench.run(case, program)
        if CASES["calibration"] in cases:
            with tempfile.TemporaryDirectory() as empty:
                bench.run(cases[0], OURS, "first run", {"NUMBA_CACHE_DIR": empty})
        for _ in range(5):
            bench.help()
    finally:
        bench.clear()
    result["runs"] = [*bench.runs, *earlier]
    result |= summary(result["runs"])
    text = page(result)
    say("\n" + text)
    if quick:
        say("Nothing was written: a quick run is for trying it.")
    elif sorted(args.cases) != sorted(CASES):
        say("Nothing was written: not all cases were measured.")
    else:
        report.write_json(LATEST, result)
        report.put_into_page("bench", text)
        say(f"wrote {LATEST.relative_to(ROOT)} and {report.PAGE.relative_to(ROOT)}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, ours alone, nothing written")
    parser.add_argument("--side", type=int, help="detector side with --quick (default: 1024)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of ours (default: 3)")
    parser.add_argument("--package-repeat", type=int, default=1, help="the package's (default: 1)")
    parser.add_argument(
        "--no-package",
        action="store_true",
        help="do not run the package; take its runs of latest.json if they are of this machine",
    )
    parser.add_argument("--threads", type=int, default=2, help="and processors (default: 2)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "out" / "parity",
        help="as of make parity (out/parity)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the exposure (default: 1)")
    parser.add_argument(
        "--table", action="store_true", help="write the manual's tables again from latest.json"
    )
    args = parser.parse_args()
    if args.repeat < 1 or args.package_repeat < 1 or args.threads < 1:
        parser.error("--repeat, --package-repeat and --threads: expected 1 or more")
    if args.side and not args.quick:
        parser.error("--side: only with --quick; the package knows flight detectors alone")
    return args


def _earlier(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The package's runs of an earlier benchmark on this machine, marked with their date."""
    if not LATEST.is_file():
        say(f"{LATEST.relative_to(ROOT)} is not there: no figures of the package")
        return []
    latest = json.loads(LATEST.read_text())
    alike = all(latest.get(key) == result[key] for key in ("exposure", "threads"))
    if not alike or not report.same_machine(latest["machine"], result["machine"]):
        say("latest.json is of another machine or exposure: no figures of the package")
        return []
    runs = [run for run in latest["runs"] if run["program"] in FOREIGN]
    return [{"from": latest["date"], **run} for run in runs]


def summary(runs: report.Runs) -> dict[str, Any]:
    """Medians by case and program, ratios by case, and the figures that were to be reached."""
    medians: dict[str, dict[str, Any]] = {}
    for run in runs:
        medians.setdefault(run["case"], {})[run["program"]] = None
    for case, programs in medians.items():
        for program in programs:
            own = [r for r in runs if r["case"] == case and r["program"] == program]
            programs[program] = {"runs": len(own), **report.spread(own)}
    ratios = {
        case: {
            program: {
                metric: report.ratio(programs[THEIRS], values, metric)
                for metric in ("wall", "cpu", "resident", "anonymous")
            }
            for program, values in programs.items()
            if program != THEIRS
        }
        for case, programs in medians.items()
        if THEIRS in programs
    }
    return {"medians": medians, "ratios": ratios, "targets": targets(medians, ratios)}


def targets(medians: Mapping[str, Any], ratios: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures to reach beside the measured ones, as far as they were measured."""
    found: list[dict[str, Any]] = []

    def add(what: str, wanted: float, value: float, least: bool, unit: str = "") -> None:
        sign = ">=" if least else "<="
        ok = value >= wanted if least else value <= wanted
        found.append(
            {"figure": what, "wanted": f"{sign} {wanted:g}{unit}", "measured": round(value, 3),
             "unit": unit, "reached": ok}
        )  # fmt: skip

    for case, title, cpu, resident, anonymous in (
        ("calibration", "calibration", 14, 1.2, 0.7),
        ("layers", "with three layers", None, None, 1.2),
    ):
        if OURS in ratios.get(case, {}):  # the package's alone may be of an earlier benchmark
            values = ratios[case][OURS]
            add(f"{title}: wall time, ratio", 25, values["wall"]["median"], True)
            if cpu:
                add(f"{title}: CPU time, ratio", cpu, values["cpu"]["median"], True)
        ours = medians.get(case, {}).get(OURS)
        if ours:
            if resident:
                add(f"{title}: peak resident", resident, ours["resident"]["median"] / 1e9, False,
                    " GB")  # fmt: skip
            add(f"{title}: peak anonymous", anonymous, ours["anonymous"]["median"] / 1e9, False,
                " GB")  # fmt: skip
    if "likelihood" in medians and "calibration" in medians:
        cpu = [medians[case][OURS]["cpu"]["median"] for case in ("likelihood", "calibration")]
        add("likelihood fit: CPU time over that with fixed weights", 2, cpu[0] / cpu[1], False)
        resident = medians["likelihood"][OURS]["resident"]["median"] / 1e9
        add("likelihood fit: peak resident", 1.2, resident, False, " GB")
    if "first run" in medians:
        wall = [medians[case][OURS]["wall"]["median"] for case in ("first run", "calibration")]
        add("first run ever: more than later ones", 12, wall[0] - wall[1], False, " s")
    if "help" in medians:
        add("--help", 0.5, medians["help"][OURS]["wall"]["median"], False, " s")
    return found


def page(result: Mapping[str, Any]) -> str:
    """The part of the manual's page that this program writes, Markdown."""
    medians, ratios, runs = result["medians"], result["ratios"], result["runs"]
    lines = []
    for name, case in CASES.items():
        for program in case.programs:
            values = medians.get(name, {}).get(program)
            if values:
                lines.append([case.title, program, str(values["runs"]), *report.cells(values)])
    parts = [report.heading(result)]
    side, n = result["exposure"]["side"], result["exposure"]["resultants"]
    parts.append(
        f"{side} x {side} pixels, {n} resultants, {result['threads']} threads; page cache and"
        " numba cache warm. Medians, wall time with its range."
    )
    parts.append(table(["job", "program", "runs", *report.COLUMNS.values()], lines))
    if ratios:
        lines = [
            [CASES[case].title, program]
            + [
                f"{r['median']:.1f}"
                + (f" ({r['min']:.1f} to {r['max']:.1f})" if r["min"] != r["max"] else "")
                for r in values.values()
            ]
            for case, programs in ratios.items()
            for program, values in programs.items()
        ]
        head = ["job", "", "wall", "CPU", "peak resident", "peak anonymous"]
        parts += [f"How many times more {PACKAGE} takes:", table(head, lines)]
    dates = {run["from"] for run in runs if "from" in run}
    if dates:
        parts.append(
            f"**The package was not run this time: its figures are those of {', '.join(dates)},"
            " measured on the same machine.**"
        )
    if not ratios:
        parts.append("The package was not run.")
    lines = [
        [t["figure"], t["wanted"], f"{t['measured']:.2f}{t['unit']}", report.reached(t["reached"])]
        for t in result["targets"]
    ]
    parts += ["Figures to reach:", table(["figure", "wanted", "measured", ""], lines)]
    parts.append(_stage_table(runs))
    parts += report.disturbances(runs)
    return report.joined(parts)


def _stage_table(runs: report.Runs) -> str:
    """Where the calibration's wall time goes, by the program's own timers."""
    own = [r for r in runs if r["case"] == "calibration" and r["program"] == OURS and r["stages"]]
    if not own:
        return ""
    values = {
        name: sorted(r["stages"].get(name, 0.0) for r in own)[len(own) // 2]
        for name in own[0]["stages"]
    }
    wall = sorted(r["wall"] for r in own)[len(own) // 2]
    values["before and after (interpreter, imports)"] = wall - sum(values.values())
    lines = [[name, f"{seconds:.2f}"] for name, seconds in values.items()]
    return "Where the wall time of our calibration goes:\n\n" + table(["stage", "s"], lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except measure.CommandFailed as failed:
        sys.exit(f"bench: {failed}")
