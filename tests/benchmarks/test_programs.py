"""The benchmark programs: that they measure what they say, and write what they measured."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.simulation.simulate import simulate

HERE = Path(__file__).resolve().parents[2] / "benchmarks"


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


@pytest.fixture(scope="module")
def batch():
    return load("batch")


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
         "the tile stage 2.00 times"),
        ("threads", "stages", {"1": [{"open": 8.0}], "2": [{"open": 4.0}]}, "in it."),
    ],
)  # fmt: skip
def test_verdicts(scaling, table, metric, values, words):
    assert words in scaling.VERDICTS[table](rows_of(scaling, values, metric))


def test_verdict_on_the_tile_stage_alone(scaling):
    text = scaling._tiles_alone({"1": [8.0, 9.0, 7.0], "2": [4.0, 6.0, 5.5]})
    assert "8.00 s (7.00 to 9.00) with 1, 5.50 s (4.00 to 6.00) with 2 threads, 1.45 times" in text
    assert "(1.6 wanted: not reached)" in text


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
    again = program.again({n: scaling.Setting(side=256, threads=int(n)) for n in "12"})
    assert {n: len(seconds) for n, seconds in again.items()} == {"1": 2, "2": 2}
    assert min(min(seconds) for seconds in again.values()) > 0
    program.clean()
    assert not list(config.parent.glob("*scaling*")) + list(config.parent.glob("l2*"))


# -- a campaign ----------------------------------------------------------------------------------


def exposure_of(i, sca, seconds, memory, began):
    return {
        "identity": f"filter=F158,obs={i},sca={sca}", "began": began, "seconds": seconds,
        "cpu_seconds": 2 * seconds, "peak_memory": 10**9, "memory": memory,
    }  # fmt: skip


@pytest.fixture
def batch_result(batch):
    """Four exposures of two detectors, half a second between them; then with a layer."""

    def one(factor):
        lengths, began, done = (9.0, 4.0, 5.0, 4.2), 100.0, []
        for i, seconds in enumerate(lengths):
            spent = seconds * factor
            done.append(exposure_of(i % 2 + 1, i // 2 + 1, spent, 1e9 + 5e6 * i, began))
            began += spent + 0.5
        return run("", "", 30) | {"resident": 1.2e9, "bytes": 4 * 10**8 * factor, "exposures": done}

    return {
        "date": "2026-01-01 00:00 UTC", "commit": "abc", "threads": 2,
        "machine": {"cpu": "X", "processors": 2, "memory_GB": 8.0, "kernel": "6"},
        "campaign": {"side": 4096, "resultants": 8, "detectors": 2, "exposures": 4},
        "cases": {"calibration": [one(1)], "layer": [one(2)]},
    }  # fmt: skip


def test_exposures_after_the_first(batch, batch_result):
    found = batch.summary(batch_result["cases"]["calibration"])
    assert found["seconds"] == pytest.approx((4 + 5 + 4.2) / 3 + 0.5)
    assert found["cpu_seconds"] == pytest.approx(2 * (4 + 5 + 4.2) / 3)
    assert (found["least"], found["most"], found["first"]) == (4, 5, 9)
    assert found["other_detector"] == 5
    assert found["growth"] == pytest.approx(100 * 5e6 / 1.01e9)


def test_growth(batch):
    assert batch.growth([100, 101, 102, 103]) == pytest.approx(100 / 101.5)
    assert batch.growth([5, 5, 5]) == pytest.approx(0)


def test_page_of_a_campaign(batch, batch_result):
    text = batch.page(batch_result)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert ["calibration: an exposure", "< 5 s", "4.90 s", "reached"] in rows
    growth = "calibration: growth of resident memory"
    assert [growth, "< 1 %", "0.50 %", "reached"] in rows
    for line in batch_result["cases"]["calibration"][0]["exposures"]:
        line["memory"] = 1e9 + 3e7 * line["began"]
        line["began"] *= 1.3
    text = batch.page(batch_result)
    assert "not reached" in text


def test_what_it_means_for_a_survey(batch, batch_result):
    survey = batch.Survey(exposures=1000, detectors=10, layers=3)
    text = batch.survey_page(batch_result, survey)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    # 8.8 CPU s to calibrate and as much for a layer; 4.9 s and 4.4 s of two processors
    assert ["a layer of read noise", "8.8 s", "8.8 s", "0.40 GB"] in rows
    assert ["10000 images, calibration", "24 h", "27 h", "4.0 TB"] in rows
    assert ["10000 images with 3 layers", "98 h", "101 h", "16.0 TB"] in rows
    assert "1000 exposures with 10 detectors, so 10000 images" in text


def test_a_quick_batch(batch, tmp_path, monkeypatch, capsys):
    """The whole program on small detectors: it measures what it shows, and writes nothing."""
    monkeypatch.setattr(batch.exposures, "CACHE", tmp_path)
    monkeypatch.setattr(batch.exposures, "_simulate", lambda to, how: simulate(to, **how))
    written = []
    monkeypatch.setattr(batch.report, "write_json", lambda *a: written.append(a))
    monkeypatch.setattr(batch.report, "put_into_page", lambda *a: written.append(a))
    small = batch.exposures.campaign
    monkeypatch.setattr(batch.exposures, "campaign", lambda side, d, n: small(side, 2, 2))
    monkeypatch.setattr(sys, "argv", ["batch.py", "--quick"])
    assert batch.main() == 0
    text = capsys.readouterr().out
    assert "Nothing was written" in text
    assert written == []
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    seconds = next(float(row[1]) for row in rows if row[0] == "calibration")
    least, most = next(row[3] for row in rows if row[0] == "calibration").split(" to ")
    assert 0 < float(least) <= float(most)
    assert seconds > 0
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("bench*"))
    assert len(list((folder / "l1").iterdir())) == 4


# -- the scheduler -------------------------------------------------------------------------------


def test_a_quick_scheduler(tmp_path):
    """A real scheduler with simulated workers, the same in threads, and a batch of images that
    are not worked on; as a program, because the scheduler gets its code."""
    before = {p: p.read_bytes() for p in (report.ROOT / "docs").glob("benchmarks/*.json")}
    said = subprocess.run(
        [sys.executable, HERE / "scheduler.py", "--quick"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in said.stdout.splitlines() if "|" in x]
    assert [row[1] for row in rows[2:]] == ["2081 tasks", "2081 tasks", *["100 images"] * 3]
    assert all(float(row[3]) > 0 for row in rows[2:])
    assert "Nothing was written" in said.stdout
    assert {p: p.read_bytes() for p in (report.ROOT / "docs").glob("benchmarks/*.json")} == before


def test_the_shape_of_graphs(simulated, tmp_path):
    """The graphs of empty tasks are as large as the program's own for so many tiles."""
    from dask.callbacks import Callback

    from roman_dask_l2.products.level2 import calibrate

    scheduler, keys = load("scheduler"), []
    config = simulated(conditions=(), seed=77).config

    class Count(Callback):
        def _posttask(self, key, *_):
            keys.append(key)

    with Count():
        calibrate(traffic_settings(config, tmp_path), tile=32)
    graph, end = scheduler.exposure_graph(5)
    assert len(graph) == pytest.approx(len(keys), rel=0.05)
    assert end in graph
    assert all(key in graph for task in graph.values() for key in task[1:])


# -- bytes ---------------------------------------------------------------------------------------

COUNTED = """
import json, sys
from pathlib import Path
from roman_dask_l2.io import arrays
from roman_dask_l2.products.level2 import calibrate

def counts():
    lines = Path("/proc/self/io").read_text().splitlines()
    return {k: int(v) for k, v in (line.split(": ") for line in lines)}

calibrate(sys.argv[1])  # imports, and what is read but once
arrays.keep_open([])
before = counts()
calibrate(sys.argv[1])
print(json.dumps({k: v - before[k] for k, v in counts().items()}))
"""


def test_arithmetic_of_bytes(simulated, tmp_path):
    """What the arrays say that is read and written, against what the kernel counts. Beside pixels,
    headers and trees are read, schemas too."""
    traffic = load("traffic")
    config = simulated(conditions=(), seed=77, side=512).config
    settings = traffic_settings(config, tmp_path)
    said = subprocess.run(
        [sys.executable, "-c", COUNTED, settings], check=True, capture_output=True, text=True
    )
    counted = json.loads(said.stdout.splitlines()[-1])
    found = traffic.traffic(traffic.prepare(settings))
    read = found["l1"] + found["references"] + found["products"]
    assert read < counted["rchar"] < 1.03 * read + 2e6
    assert found["written"] < counted["wchar"] < 1.01 * found["written"] + 2e5
    assert found["l1_file"] == pytest.approx(config.with_name("l1.asdf").stat().st_size, rel=0.01)


def traffic_settings(config, folder):
    """The same exposure, its Level-2 file elsewhere and without FITS copy."""
    raw = yaml.safe_load(config.read_text())
    here = config.parent
    raw["CALDIR"] = {key: str(here / path) for key, path in raw["CALDIR"].items()}
    raw |= {"IN": str(here / raw["IN"]), "FITSWCS": str(here / raw["FITSWCS"])}
    raw |= {"OUT": str(folder / "l2.asdf"), "FITSOUT": False}
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder / "config.yaml"


def test_bytes_of_a_larger_detector(simulated):
    """A small exposure taken for a larger one gives what the larger one gives."""
    traffic = load("traffic")
    job = traffic.prepare(simulated(conditions=(), seed=77).config)
    large = traffic.traffic(traffic.enlarged(job, 512))
    real = traffic.prepare(simulated(conditions=(), seed=77, side=512).config)
    for key, exact in traffic.traffic(real).items():
        same = pytest.approx(exact, rel=0.03) if "l1" in key or "files" in key else exact
        assert large[key] == same, key  # how far a file can be packed depends on its pixels


def test_the_page_shows_the_arithmetic_of_bytes(simulated):
    traffic = load("traffic")
    config = simulated(side=256, read_pattern=exposures.read_pattern(8), seed=1).config
    assert traffic.page(config).strip() in traffic.PAGE.read_text()


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


def whole(found):
    return found


def test_the_page_shows_what_was_measured(bench, scaling, batch):
    """Its tables are those that the programs make of their figures: nobody has typed any."""
    scheduler = load("scheduler")
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
