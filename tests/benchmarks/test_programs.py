"""The benchmark programs measure what they say, and the manual shows what they measured."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest
from programs import load

from roman_dask_l2.core.exposure import Exposure

pytestmark = pytest.mark.slow

measure, report, exposures = load("measure"), load("report"), load("exposures")
bench, scaling, batch, scheduler = map(load, ("run", "scaling", "batch", "scheduler"))

# -- measuring -----------------------------------------------------------------------------------

PARENT = """
import pathlib, subprocess, sys, time
block = bytearray(60_000_000)
block[::4096] = b"x" * len(block[::4096])
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
pathlib.Path(sys.argv[1]).write_bytes(bytes(5_000_000))
child.wait()
time.sleep(0.1)
"""
CHILD = """
import time
block = bytearray(50_000_000)
block[::4096] = b"x" * len(block[::4096])
began, spent = time.perf_counter(), time.process_time()
while time.process_time() - spent < 0.4 or time.perf_counter() - began < 0.6:
    pass
"""


def test_cost_of_a_process_and_its_child(tmp_path):
    file = tmp_path / "written"
    cost = measure.measure([sys.executable, "-c", PARENT, file, CHILD])
    assert file.stat().st_size == 5_000_000
    assert cost.wall >= 0.7
    assert cost.cpu == cost.user + cost.system
    assert 0.4 <= cost.cpu <= cost.wall * 2
    assert 110e6 < cost.anonymous < 160e6
    assert cost.anonymous < cost.resident < 220e6
    assert 5_000_000 <= cost.written < 5_100_000
    assert 20 < cost.samples <= cost.wall / measure.PERIOD + 1
    assert cost.others >= 0
    assert json.loads(json.dumps(cost.record()))["wall"] == round(cost.wall, 3)


def test_memory_of_short_life_is_in_the_peak():
    """The kernel's own peak does not miss what lived between two samples."""
    # The peak counts only where it is above what a new process begins with: the peak of this one.
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 50_000_000
    code = "import sys; block = bytearray(b'x') * int(sys.argv[1]); del block"
    assert measure.measure([sys.executable, "-c", code, str(size)]).resident > size


def test_bytes_read(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    nothing = measure.measure([sys.executable, "-S", "-c", "import sys"])
    code = "import sys; open(sys.argv[1], 'rb').read()"
    cost = measure.measure([sys.executable, "-S", "-c", code, file])
    assert cost.read - nothing.read == pytest.approx(3_000_000, abs=10_000)


def test_failure_is_an_error():
    code = "print('what went wrong'); raise SystemExit(7)"
    with pytest.raises(measure.CommandFailed, match="(?s)status 7.*what went wrong"):
        measure.measure([sys.executable, "-c", code])


# -- exposures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("resultants", [4, 8, 16, 32])
def test_read_patterns(resultants):
    pattern = exposures.read_pattern(resultants)
    assert len(pattern) == resultants
    assert [f for reads in pattern for f in reads] == list(range(pattern[-1][-1] + 1))
    frames = tuple(tuple(reads) for reads in pattern)
    assert Exposure(256, frames, 3.04).n_resultants == resultants


def test_exposures_are_kept_until_the_simulator_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(exposures, "CACHE", tmp_path)
    monkeypatch.setattr(exposures, "ROOT", tmp_path / "source")
    simulator = tmp_path / "source" / "roman_dask_l2" / "simulation" / "simulate.py"
    simulator.parent.mkdir(parents=True)
    for folder in simulator.parents[:2]:
        (folder / "__init__.py").touch()
    body = (
        "import pathlib\ndef simulate(folder, **options):\n    pathlib.Path(folder, {!r}).touch()"
    )
    simulator.write_text(body.format("first"))
    config = exposures.exposure(256, 4)
    assert config == tmp_path / "side256_resultants4" / "config.yaml"
    (config.parent / "mine").touch()
    assert exposures.exposure(256, 4) == config
    assert {p.name for p in config.parent.iterdir()} == {"first", "mine", "made.json"}
    simulator.write_text(body.format("second"))
    exposures.exposure(256, 4)
    assert {p.name for p in config.parent.iterdir()} == {"second", "made.json"}


# -- what is made of the figures -----------------------------------------------------------------


def run(case, program, wall, **values):
    costs = dict.fromkeys(report.METRICS, 1e9) | {"wall": wall, "cpu": wall}
    quiet = {"others": 0.0, "stolen": 0.0, "size": 10**8, "stages": {}}
    return {"case": case, "program": program, **costs, **quiet, **values}


@pytest.fixture
def runs():
    ours, theirs = bench.OURS, bench.THEIRS
    return [
        *(run("calibration", ours, wall) for wall in (5, 6, 4)),
        run("calibration", theirs, 150, resident=4.2e9),
        run("calibration", theirs, 160, resident=4.4e9),
        *(run("layers", ours, wall, anonymous=1.3e9) for wall in (20, 22, 30)),
        run("layers", theirs, 513),
        *(run("likelihood", ours, wall) for wall in (8, 7, 9)),
        run("likelihood", bench.STCAL, 32),
        run("likelihood", theirs, 240),
        run("first run", ours, 18.5),
        *(run("help", ours, wall) for wall in (0.4, 0.3, 0.2)),
    ]


def test_medians_ratios_and_targets(runs):
    found = bench.summary(runs)
    ours = found["medians"]["calibration"][bench.OURS]
    assert (ours["runs"], ours["wall"]) == (3, {"median": 5, "min": 4, "max": 6})
    ratio = found["ratios"]["calibration"][bench.OURS]
    assert ratio["wall"] == {"median": 31, "min": 25, "max": 40}
    assert ratio["resident"]["median"] == 4.3
    fits = found["ratios"]["likelihood"]
    assert fits[bench.OURS]["cpu"]["median"] == 30
    assert fits[bench.STCAL]["cpu"]["median"] == 7.5
    figures = {t["figure"]: t for t in found["targets"]}
    assert figures["likelihood fit: CPU time over that with fixed weights"]["measured"] == 1.6
    assert {name for name, figure in figures.items() if figure["reached"]} == {
        "calibration: wall time, ratio", "calibration: CPU time, ratio",
        "calibration: peak resident", "--help",
        "likelihood fit: CPU time over that with fixed weights", "likelihood fit: peak resident",
    }  # fmt: skip
    assert figures["first run ever: more than later ones"]["measured"] == 13.5


def test_earlier_figures_only_of_this_machine(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "LATEST", tmp_path / "latest.json")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    now = {
        "date": "2026-01-01 00:00 UTC", "runs": [], "threads": 2, "machine": {"cpu": "X"},
        "exposure": {"side": 4096, "resultants": 8},
    }  # fmt: skip
    assert bench._earlier(now) == []
    old = now | {"runs": runs}
    bench.LATEST.write_text(json.dumps(old))
    assert [r["wall"] for r in bench._earlier(now)] == [150, 160, 513, 32, 240]
    assert {r["from"] for r in bench._earlier(now)} == {old["date"]}
    for changes in (
        {"machine": {"cpu": "Y"}},
        {"exposure": {"side": 1024, "resultants": 8}},
        {"threads": 1},
    ):
        assert bench._earlier(now | changes) == []


def test_commands(tmp_path):
    """Both programs get the same settings, beside the names of what they write."""
    config = tmp_path / "config.yaml"
    config.write_text("IN: l1.asdf\nOUT: old.asdf\nNOISE: {LAYER: [X], OUT: y.asdf}\nSKYORDER: 2\n")
    programs = bench.Bench(config, Path("/env/bin/python"), 2, [0])
    written = {}
    for name, case in bench.CASES.items():
        for program in case.programs:
            command = programs.command(case, program)
            file = next(part for part in command if part.endswith(".yaml"))
            settings = bench.yaml.safe_load((tmp_path / file).read_text())
            outputs = [settings.pop("OUT")]
            if case.noise:
                noise = settings["NOISE"]
                outputs += [noise.pop("OUT"), Path(noise.pop("TEMP")).name]
            assert all(out.startswith("bench_") for out in outputs)
            written.setdefault(name, []).append(settings)
            assert (command[0] == "/env/bin/python") == (program in bench.FOREIGN)
            assert settings.get("romancal_ramp_fit", False) == (name == "likelihood")
    assert all(settings == same[0] for same in written.values() for settings in same)
    assert written["layers"][0]["NOISE"]["LAYER"] == ["Rz4S2C1", "O", "Prb2"]
    assert "NOISE" not in written["calibration"][0]


def test_a_run_of_the_scaling_program(simulated, monkeypatch):
    """One run as it is stored: what a setting asks for reaches the command."""
    config = simulated(conditions=(), seed=77).config
    monkeypatch.setattr(scaling.exposures, "exposure", lambda side, resultants: config)
    commands = []
    measure_it = scaling.measure.measure
    monkeypatch.setattr(
        scaling.measure, "measure", lambda c, **how: commands.append(c) or measure_it(c, **how)
    )
    program = scaling.Scaling(1)
    (plain,) = program.runs(scaling.Setting(side=256, threads=1, tile="64x256"))
    assert plain["size"] == 256 * 256 * 8
    assert plain["wall"] > 0
    assert set(scaling.TILE_STAGES) & set(plain["stages"])
    assert commands[0][2:] == ["--threads", "1", "--tile", "64x256"]
    (layers,) = program.runs(scaling.Setting(side=256, layers=2))
    assert layers["size"] == 2 * plain["size"]
    assert config.with_name("scaling_noise.asdf").is_file()
    assert "--noise-only" in commands[-1]
    again = program.again({n: scaling.Setting(side=256, threads=int(n)) for n in "12"})
    assert {n: len(seconds) for n, seconds in again.items()} == {"1": 2, "2": 2}
    assert min(min(seconds) for seconds in again.values()) > 0
    program.clean()
    assert not list(config.parent.glob("*scaling*")) + list(config.parent.glob("l2*"))


# -- files ---------------------------------------------------------------------------------------


def test_stages_are_reported(simulated, tmp_path):
    """Our program still says what `stages` reads: the stage that works on tiles is among them."""
    program = Path(sys.executable).with_name("roman-dask-l2")
    config = simulated(conditions=(), seed=77).config
    measure.measure([program, config], log=tmp_path / "log")
    assert {"open", "write"} < set(report.stages(tmp_path / "log"))
    assert set(scaling.TILE_STAGES) & set(report.stages(tmp_path / "log"))


def test_only_what_is_between_the_markers_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(report.PAGE.read_text())
    before = page.read_text()
    for name in ("bench", "scaling"):
        report.put_into_page(name, f"the new {name}\n", page)
        report.put_into_page(name, f"the newer {name}\n", page)
    after = page.read_text()
    assert after.count("the newer") == 2
    assert "the new " not in after
    outside = before.split("<!-- bench: begin -->")[0], before.split("<!-- scaling: end -->")[1]
    assert after.startswith(outside[0])
    assert after.endswith(outside[1])
    with pytest.raises(SystemExit, match="other: begin"):
        report.put_into_page("other", "", page)


def whole(found):
    return found


def test_the_page_shows_what_was_measured():
    """Its tables are those that the programs make of their figures: nobody has typed any."""
    for page, name, file, content, make in (
        (report.PAGE, "bench", bench.LATEST, whole, bench.page),
        (report.PAGE, "scaling", scaling.SCALING, lambda found: found["sections"], scaling.page),
        (report.PAGE, "batch", batch.BATCH, whole, batch.page),
        (batch.SCALING_PAGE, "survey", batch.BATCH, whole, batch.survey_page),
        (scheduler.PAGE, "scheduler", scheduler.RESULT, whole, scheduler.page),
    ):
        text = page.read_text()
        part = text.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0].strip()
        if file.is_file():
            assert part == make(content(json.loads(file.read_text()))).strip()
        else:
            assert part.startswith("Not measured yet")
