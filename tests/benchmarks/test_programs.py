"""The benchmark programs: that they measure what they say, and write what they measured."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from roman_dask_l2.exposure import Exposure

HERE = Path(__file__).resolve().parent


def load(name):
    """One of the programs' modules, under a name that no other has."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


measure, report, exposures = load("measure"), load("report"), load("exposures")


@pytest.fixture(scope="module")
def bench():
    return load("run")


@pytest.fixture(scope="module")
def scaling():
    return load("scaling")


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
    code = "block = bytearray(90_000_000); block[::4096] = b'x' * len(block[::4096]); del block"
    assert measure.measure([sys.executable, "-c", code]).resident > 90e6


def test_bytes_read(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    nothing = measure.measure([sys.executable, "-S", "-c", "import sys"])
    code = "import sys; open(sys.argv[1], 'rb').read()"
    cost = measure.measure([sys.executable, "-S", "-c", code, file])
    assert cost.read - nothing.read == pytest.approx(3_000_000, abs=10_000)


def test_environment_processors_and_log(tmp_path):
    one = min(os.sched_getaffinity(0))
    code = "import os; print(os.environ['WORD'], *os.sched_getaffinity(0), os.getcwd())"
    log = tmp_path / "log"
    measure.measure(
        [sys.executable, "-c", f"import time; time.sleep(0.1); {code}"],
        env={"WORD": "known"}, cpus=[one], cwd=tmp_path, log=log,
    )  # fmt: skip
    assert log.read_text() == f"known {one} {tmp_path}\n"


def test_failure_is_an_error():
    code = "print('what went wrong'); raise SystemExit(7)"
    with pytest.raises(measure.CommandFailed, match="(?s)status 7.*what went wrong"):
        measure.measure([sys.executable, "-c", code])


def test_interruption_ends_the_process(monkeypatch):
    pids = []

    def interrupted(kind, pid, options):
        pids.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "waitid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(["sleep", "60"])
    assert not Path(f"/proc/{pids[0]}").exists()


def test_cache_of_files_alone(tmp_path, monkeypatch):
    """Without the right to drop everything, the files given are dropped."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(1_000_000))
    dropped = []

    def refuse(self, text):
        raise PermissionError(self)

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: dropped.append(os.fstat(fd).st_size))
    assert "input files only" in measure.drop_cache([tmp_path])
    assert dropped == [1_000_000]


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
    simulator = tmp_path / "source" / "roman_dask_l2" / "simulate.py"
    simulator.parent.mkdir(parents=True)
    (simulator.parent / "__init__.py").touch()
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
def runs(bench):
    ours, theirs = bench.OURS, bench.THEIRS
    return [
        *(run("calibration", ours, wall, stages={"open": 1.0, "tiles": 3.0}) for wall in (5, 6, 4)),
        run("calibration", theirs, 150, resident=4.2e9, anonymous=3e9),
        run("calibration", theirs, 160, resident=4.4e9, anonymous=3e9),
        *(run("layers", ours, wall, anonymous=1.3e9) for wall in (20, 22, 30)),
        run("layers", theirs, 513),
        run("first run", ours, 18.5),
        *(run("help", ours, wall) for wall in (0.4, 0.3, 0.2)),
    ]


def test_medians_and_ratios(bench, runs):
    found = bench.summary(runs)
    ours = found["medians"]["calibration"][bench.OURS]
    assert ours["runs"] == 3
    assert ours["wall"] == {"median": 5, "min": 4, "max": 6}
    ratio = found["ratios"]["calibration"][bench.OURS]
    assert ratio["wall"] == {"median": 31, "min": 25, "max": 40}
    assert ratio["resident"]["median"] == 4.3
    assert found["ratios"]["layers"][bench.OURS]["wall"]["median"] == 23.32


def test_targets(bench, runs):
    figures = {t["figure"]: t for t in bench.summary(runs)["targets"]}
    reached = {name: t["reached"] for name, t in figures.items()}
    assert reached == {
        "calibration: wall time, ratio": True,
        "calibration: CPU time, ratio": True,
        "calibration: peak resident": True,
        "calibration: peak anonymous": False,
        "with three layers: wall time, ratio": False,
        "with three layers: peak anonymous": False,
        "first run ever: more than later ones": False,
        "--help": True,
    }
    assert figures["first run ever: more than later ones"]["measured"] == 13.5


def result(bench, runs, **changes):
    return {
        "date": "2026-01-01 00:00 UTC", "commit": "abc", "threads": 2, "runs": runs,
        "machine": {"cpu": "X", "processors": 2, "memory_GB": 8.0, "kernel": "6"},
        "exposure": {"side": 4096, "resultants": 8}, **bench.summary(runs), **changes,
    }  # fmt: skip


def test_page(bench, runs):
    text = bench.page(result(bench, runs))
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert ["calibration", "roman-dask-l2", "3", "5.00 (4.00 to 6.00)"] == rows[2][:4]
    assert ["calibration", bench.OURS, "31.0 (25.0 to 40.0)"] in [row[:3] for row in rows]
    assert ["calibration: peak anonymous", "<= 0.7 GB", "1.00 GB", "not reached"] in rows
    assert ["before and after (interpreter, imports)", "1.00"] in rows
    assert "not quiet" not in text
    assert "not run this time" not in text


def test_page_tells_what_is_doubtful(bench, runs):
    runs[0]["others"] = 0.7
    for one in runs:
        if one["program"] == bench.THEIRS:
            one["from"] = "2025-12-24"
    text = bench.page(result(bench, runs))
    assert "during 1 of 13 runs other programs kept more than 0.1 processors busy, 0.7" in text
    assert "not run this time: its figures are those of 2025-12-24" in text
    alone = [one for one in runs if one["program"] != bench.THEIRS]
    assert "The package was not run." in bench.page(result(bench, alone))


def test_earlier_figures_only_of_this_machine(bench, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "LATEST", tmp_path / "latest.json")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    now = result(bench, [])
    assert bench._earlier(now) == []
    old = result(bench, runs)
    bench.LATEST.write_text(json.dumps(old))
    assert [r["wall"] for r in bench._earlier(now)] == [150, 160, 513]
    assert {r["from"] for r in bench._earlier(now)} == {old["date"]}
    for changes in (
        {"machine": now["machine"] | {"cpu": "Y"}},
        {"exposure": {"side": 1024, "resultants": 8}},
        {"threads": 1},
    ):
        assert bench._earlier(now | changes) == []


def test_commands(bench, tmp_path):
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
            assert (command[0] == "/env/bin/python") == (program == bench.THEIRS)
    assert all(settings == same[0] for same in written.values() for settings in same)
    assert written["layers"][0]["NOISE"]["LAYER"] == ["Rz4S2C1", "O", "Prb2"]
    assert "NOISE" not in written["calibration"][0]


def test_sections_start_from_one_base(scaling):
    base = scaling.Setting()
    for section in scaling.sections(False).values():
        for setting in section.settings.values():
            changed = [f for f in vars(base) if getattr(base, f) != getattr(setting, f)]
            assert len(changed) <= 1
    tables = scaling.sections(False)
    assert list(tables["resultants"].settings) == ["4", "8", "16", "32"]
    assert list(tables["layers"].settings) == ["1", "2", "4", "8"]


def rows_of(scaling, values, metric="wall"):
    return {name: [run("", "", 1, **{metric: v}) for v in found] for name, found in values.items()}


@pytest.mark.parametrize(
    ("table", "metric", "values", "words"),
    [
        ("resultants", "resident", {"4": [1e9], "32": [1.5e9, 1.9e9, 9e9]}, "1.90 GB (under 2 GB"),
        ("layers", "anonymous", {"1": [1e9], "8": [1.2e9]}, "1.20 (1.10 at most wanted: not"),
        ("threads", "stages", {"1": [{"tiles": 8.0}], "2": [{"tiles": 4.0}]},
         "2.00 times (1.6 wanted: reached"),
        ("threads", "stages", {"1": [{"open": 8.0}], "2": [{"open": 4.0}]}, "in it."),
    ],
)  # fmt: skip
def test_verdicts(scaling, table, metric, values, words):
    assert words in scaling.VERDICTS[table](rows_of(scaling, values, metric))


def test_some_tables_alone(scaling, tmp_path, monkeypatch):
    """What was not measured now stays, unless it is of another machine."""
    machine = {"cpu": "X", "processors": 2, "memory_GB": 8.0, "kernel": "6"}
    info = {"date": "today", "commit": "abc", "machine": machine}
    rows = {"warm": [run("", "", 3)], "cold": [run("", "", 9, disk_read=3e9)]}
    old = {
        "cold": {**info, "date": "before", "rows": rows, "dropped": "everything"},
        "tiles": {**info, "machine": machine | {"cpu": "Y"}, "rows": rows},
    }
    monkeypatch.setattr(scaling, "SCALING", tmp_path / "scaling.json")
    scaling.SCALING.write_text(json.dumps({"sections": old}))
    new = {"side": {**info, "rows": {"4096": [run("", "", 3)]}}}
    found = scaling.merged(new, machine)["sections"]
    assert list(found) == ["side", "cold"]
    text = scaling.page(found)
    assert "Measured before" in text
    assert "Measured today" in text
    assert "everything." in text
    cold = next(line for line in text.splitlines() if line.startswith("| cold"))
    assert [cell.strip() for cell in cold.split("|")[-4:-1]] == ["90.0", "", "3.00"]


def test_a_run_of_the_scaling_program(scaling, simulated, monkeypatch):
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
    program.clean()
    assert not list(config.parent.glob("*scaling*")) + list(config.parent.glob("l2*"))


# -- files ---------------------------------------------------------------------------------------


def test_stages_of_our_log(tmp_path):
    (tmp_path / "log").write_text(
        "06:24:49 open          0.01 s\n06:24:52   dq_init             0.01 s of thread time\n"
        "06:24:52 tiles         3.13 s\n06:24:53 wrote l2.asdf (4.05% of the pixels masked)\n"
        "06:24:54 wrote noise.asdf, 3 layers in 1.6 s\n"
    )
    assert report.stages(tmp_path / "log") == {"open": 0.01, "tiles": 3.13}


def test_stages_are_reported(simulated, tmp_path):
    """Our program still says what `stages` reads: the stage that works on tiles is among them."""
    program = Path(sys.executable).with_name("roman-dask-l2")
    config = simulated(conditions=(), seed=77).config
    measure.measure([program, config], log=tmp_path / "log")
    assert {"open", "write"} < set(report.stages(tmp_path / "log"))
    assert set(load("scaling").TILE_STAGES) & set(report.stages(tmp_path / "log"))


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


def test_the_page_shows_what_was_measured(bench, scaling):
    """Its tables are those that the programs make of their figures: nobody has typed any."""
    text = report.PAGE.read_text()
    for name, file, content, make in (
        ("bench", bench.LATEST, lambda found: found, bench.page),
        ("scaling", scaling.SCALING, lambda found: found["sections"], scaling.page),
    ):
        part = text.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0].strip()
        if file.is_file():
            assert part == make(content(json.loads(file.read_text()))).strip()
        else:
            assert part.startswith("Not measured yet")
