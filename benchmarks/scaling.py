"""How time and memory grow with the work: ``make bench-scaling``.

One thing is changed at a time, from one base: 4096 x 4096 pixels, 8 resultants, 2 threads, the
default tiles, page cache warm. Prints a table for each and writes them to docs/benchmarks.md, and
everything that was measured to docs/benchmarks/scaling.json.

The exposures are simulated when first asked for, which takes some minutes and 19 GB of disk, and
kept in out/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "validation" / "parity")]

import exposures  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
from package import ROOT, say, table  # noqa: E402

SCALING = report.RESULTS / "scaling.json"
PROGRAM = Path(sys.executable).with_name("roman-dask-l2")
TILE_STAGES = ("tiles", "compute")
"""What our program calls the stage that works on tiles, the first that it has."""


PROCESSORS = 2
"""That our program may use, whatever the machine has."""


@dataclass(frozen=True)
class Setting:
    """One way to run; `layers` > 0 makes that many noise layers of a calibrated exposure."""

    side: int = 4096
    resultants: int = 8
    threads: int = 2
    tile: str = ""
    layers: int = 0
    cold: bool = False

    @property
    def size(self) -> int:
        """Pixels of all resultants that are worked on."""
        return self.side**2 * self.resultants * max(self.layers, 1)


@dataclass(frozen=True)
class Section:
    """One table: what is changed, and the settings by the name of their row."""

    title: str
    head: str
    settings: dict[str, Setting] = field(default_factory=dict)


def sections(quick: bool) -> dict[str, Section]:
    """All that is measured, by the name that --only takes."""
    base = Setting(side=512) if quick else Setting()
    n = base.side
    sides = (256, 512) if quick else (1024, 2048, 4096)
    resultants = (4, 8) if quick else (4, 8, 16, 32)
    shapes = (f"128x{n}", f"64x{n}", f"32x{n}", "256", "512")
    layers = (1, 2) if quick else (1, 2, 4, 8)

    def vary(name: str, values: tuple) -> dict[str, Setting]:
        return {str(value): replace(base, **{name: value}) for value in values}

    return {
        "side": Section("Detector side", "side", vary("side", sides)),
        "resultants": Section("Resultants", "resultants", vary("resultants", resultants)),
        "threads": Section("Threads", "threads", vary("threads", (1, 2))),
        "tiles": Section(
            "Tiles",
            "rows x columns",
            {"default": base, **vary("tile", shapes)},
        ),
        "layers": Section(
            "Noise layers, of an exposure that is calibrated", "layers", vary("layers", layers)
        ),
        "cold": Section(
            "Page cache", "page cache", {"warm": base, "cold": replace(base, cold=True)}
        ),
    }


class Scaling:
    """Measures settings, each once however many tables it stands in."""

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        self._cpus = sorted(os.sched_getaffinity(0))[:PROCESSORS]
        self._done: dict[Setting, list[dict[str, Any]]] = {}
        self._ready: set[Path] = set()
        self.dropped = ""

    def runs(self, setting: Setting) -> list[dict[str, Any]]:
        """The runs of a setting, measured when first asked for."""
        if setting not in self._done:
            self._done[setting] = [self._run(setting) for _ in range(self._repeat)]
            runs = self._done[setting]
            say(
                f"{_words(setting)}: {statistics.median(r['wall'] for r in runs):.2f} s,"
                f" {max(r['resident'] for r in runs) / 1e9:.2f} GB resident,"
                f" {max(r['anonymous'] for r in runs) / 1e9:.2f} GB anonymous"
            )
        return self._done[setting]

    def _run(self, setting: Setting) -> dict[str, Any]:
        config = exposures.exposure(setting.side, setting.resultants)
        folder = config.parent
        if config not in self._ready and not setting.cold:
            exposures.warm(config)
            self._ready.add(config)
        command = [str(PROGRAM), self._config(config, setting), "--threads", str(setting.threads)]
        if setting.tile:
            command += ["--tile", setting.tile]
        if setting.layers:
            command.append("--noise-only")
            self._calibrated(config)
        else:
            (folder / "l2.asdf").unlink(missing_ok=True)
        os.sync()
        if setting.cold:
            self.dropped = measure.drop_cache([folder / "cal", folder])
            self._ready.clear()
        log = folder / "scaling.log"
        cost = measure.measure(command, cwd=folder, cpus=self._cpus, log=log)
        return {"size": setting.size, **cost.record(), "stages": report.stages(log)}

    def _config(self, config: Path, setting: Setting) -> str:
        """Name of the configuration file for a setting."""
        if not setting.layers:
            return config.name
        settings = yaml.safe_load(config.read_text())
        settings["NOISE"] = {
            # Read noise, Poisson noise and a sky of its own in each: all that layers do but O.
            "LAYER": [f"Rz4PbS2C{i}" for i in range(setting.layers)],
            "TEMP": "scaling_temp", "SEED": 15000, "OUT": "scaling_noise.asdf",
        }  # fmt: skip
        path = config.with_name(f"layers_{setting.layers}.yaml")
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path.name

    def _calibrated(self, config: Path) -> None:
        """Calibrate an exposure, unless that was done."""
        if not config.with_name("l2.asdf").is_file():
            measure.measure([PROGRAM, config.name, "--quiet"], cwd=config.parent)

    def again(self, settings: Mapping[str, Setting]) -> dict[str, list[float]]:
        """Tile stage (s) of exposures after the first of one process, by threads."""
        setting = next(iter(settings.values()))
        config = exposures.exposure(setting.side, setting.resultants)
        exposures.warm(config)
        threads = [str(s.threads) for s in settings.values()]
        command = [sys.executable, str(HERE / "again.py"), config.name]
        log = config.with_name("scaling.log")
        repeat = str(2 * self._repeat)
        measure.measure([*command, repeat, *threads], cwd=config.parent, cpus=self._cpus, log=log)
        found: dict[str, list[float]] = json.loads(log.read_text().splitlines()[-1])
        return found

    def clean(self) -> None:
        """Remove what the runs wrote."""
        for setting in self._done:
            folder = exposures.exposure(setting.side, setting.resultants).parent
            for pattern in ("l2*", "layers_*", "scaling*"):
                for path in folder.glob(pattern):
                    path.unlink()


def _words(setting: Setting) -> str:
    parts = [f"side {setting.side}", f"{setting.resultants} resultants"]
    parts.append(f"{setting.threads} threads")
    parts += [f"tiles {setting.tile}"] if setting.tile else []
    parts += [f"{setting.layers} layers"] if setting.layers else []
    return ", ".join(parts + ["cold"] * setting.cold)


def main() -> int:
    every = list(sections(False))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, nothing written")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=every,
        default=every,
        metavar="TABLE",
        help=f"some tables alone, the others stay as they are: {', '.join(every)}",
    )
    parser.add_argument(
        "--table", action="store_true", help="write the manual's tables again from scaling.json"
    )
    args = parser.parse_args()
    if args.table:
        report.put_into_page("scaling", page(json.loads(SCALING.read_text())["sections"]))
        return 0
    if args.repeat < 1:
        parser.error("--repeat: expected 1 or more")
    wanted = {name: s for name, s in sections(args.quick).items() if name in args.only}
    scaling = Scaling(args.repeat)
    info = {"date": report.now(), "commit": report.commit(), "machine": report.machine()}
    measured: dict[str, Any] = {}
    try:
        # Compile the kernels, all of them.
        small = Setting(side=256, layers=1)
        scaling._run(small)
        scaling._done[small] = []
        for name, section in wanted.items():
            rows = {row: scaling.runs(setting) for row, setting in section.settings.items()}
            measured[name] = {**info, "rows": rows}
            if name == "threads":
                measured[name]["again"] = scaling.again(section.settings)
            if name == "cold":
                measured[name]["dropped"] = scaling.dropped
    finally:
        scaling.clean()
    result = {"sections": measured} if args.quick else merged(measured, info["machine"])
    text = page(result["sections"], args.quick)
    say("\n" + text)
    if args.quick:
        say("Nothing was written: a quick run is for trying it.")
    else:
        report.write_json(SCALING, result)
        report.put_into_page("scaling", text)
        say(f"wrote {SCALING.relative_to(ROOT)} and {report.PAGE.relative_to(ROOT)}")
    return 0


def merged(measured: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured now, and the other tables as they were if they are of this machine."""
    old = json.loads(SCALING.read_text())["sections"] if SCALING.is_file() else {}
    kept = {name: s for name, s in old.items() if report.same_machine(s["machine"], machine)}
    both = kept | dict(measured)
    return {"sections": {name: both[name] for name in sections(False) if name in both}}


# -- the page ------------------------------------------------------------------------------------


def page(measured: Mapping[str, Any], quick: bool = False) -> str:
    """The part of the manual's page that this program writes, Markdown."""
    parts = []
    headings = {report.heading(found) for found in measured.values()}
    parts += headings if len(headings) == 1 else []
    for name, section in sections(quick).items():
        if name not in measured:
            continue
        found = measured[name]
        parts.append(f"### {section.title}")
        parts += [report.heading(found)] if len(headings) > 1 else []
        further = [*FURTHER, *(["from disk GB"] if name == "cold" else [])]
        lines = [
            [row, *report.cells(report.spread(runs)), *_further(runs)[: len(further)]]
            for row, runs in found["rows"].items()
        ]
        parts.append(table([section.head, *report.COLUMNS.values(), *further], lines))
        if "dropped" in found:
            parts.append(f"Dropped from the page cache before each run: {found['dropped']}.")
        if name in VERDICTS:
            parts.append(VERDICTS[name](found["rows"]))
        if "again" in found:
            parts.append(_tiles_alone(found["again"]))
        parts += report.disturbances([run for runs in found["rows"].values() for run in runs])
    return report.joined(parts)


FURTHER = ("CPU ns per sample", "tile stage s")
"""Columns beside those of `report.COLUMNS`; a sample is a pixel of one resultant."""


def _further(runs: report.Runs) -> list[str]:
    tile = tile_stage(runs)
    return [
        f"{_median(runs, 'cpu') / runs[0]['size'] * 1e9:.1f}",
        "" if tile is None else f"{tile:.2f}",
        f"{_median(runs, 'disk_read') / 1e9:.2f}",
    ]


def tile_stage(runs: report.Runs) -> float | None:
    """Median wall time of the stage that works on tiles, s; None if the program names none."""
    for name in TILE_STAGES:
        values = [run["stages"][name] for run in runs if name in run["stages"]]
        if values:
            return statistics.median(values)
    return None


def _median(runs: report.Runs, metric: str) -> float:
    return statistics.median(run[metric] for run in runs)


def _two_threads(rows: Mapping[str, report.Runs]) -> str:
    one, two = tile_stage(rows["1"]), tile_stage(rows["2"])
    whole = _median(rows["1"], "wall") / _median(rows["2"], "wall")
    text = f"Two threads are {whole:.2f} times as fast as one, start and end of the program in it"
    if not one or not two:
        return text + "."
    return (
        f"{text}; the tile stage {one / two:.2f} times. Beside it goes the import of the libraries"
        " that write the file: for one thread on the other processor, for two on theirs."
    )


def _tiles_alone(again: Mapping[str, Sequence[float]]) -> str:
    one, two = (statistics.median(again[n]) for n in ("1", "2"))
    ranges = ", ".join(
        f"{statistics.median(v):.2f} s ({min(v):.2f} to {max(v):.2f}) with {n}"
        for n, v in again.items()
    )
    return (
        f"The tile stage of exposures after the first of a process, which has nothing beside it:"
        f" {ranges} threads, {one / two:.2f} times"
        f" (1.6 wanted: {report.reached(one / two >= 1.6)})."
    )


def _many_resultants(rows: Mapping[str, report.Runs]) -> str:
    name = max(rows, key=int)
    resident = _median(rows[name], "resident") / 1e9
    verdict = report.reached(resident < 2)
    return (
        f"Peak resident with {name} resultants: {resident:.2f} GB (under 2 GB wanted: {verdict})."
    )


def _flat_in_layers(rows: Mapping[str, report.Runs]) -> str:
    parts = []
    for metric in ("resident", "anonymous"):
        values = [_median(runs, metric) for runs in rows.values()]
        growth = max(values) / min(values)
        verdict = report.reached(growth <= 1.1)
        parts.append(f"largest over least {metric} {growth:.2f} (1.10 at most wanted: {verdict})")
    names = list(rows)
    return f"Memory from {names[0]} to {names[-1]} layers: " + ", ".join(parts) + "."


VERDICTS: dict[str, Callable[[Mapping[str, report.Runs]], str]] = {
    "threads": _two_threads,
    "resultants": _many_resultants,
    "layers": _flat_in_layers,
}
"""What is to be said below a table."""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except measure.CommandFailed as failed:
        sys.exit(f"bench-scaling: {failed}")
