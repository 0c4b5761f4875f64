"""What is shown while a run lasts, and what stands in the log."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from roman_dask_l2.batch.outcome import Outcome
from roman_dask_l2.cli import app
from roman_dask_l2.config.model import load_config
from roman_dask_l2.engine import progress
from roman_dask_l2.engine.progress import Progress, Row, Stage, _Group
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.system import logs

ROOT = Path(__file__).parents[2]
STAGES = ["open", "tiles", "sky", "mask", "write"]


@pytest.fixture
def lines():
    """Records of the program's log."""
    log = logging.getLogger("roman_dask_l2")
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append(record)

    keep, before = Keep(), (log.level, log.handlers[:])
    log.handlers[:] = [keep]
    log.setLevel(logging.INFO)
    yield found
    log.setLevel(before[0])
    log.handlers[:] = before[1]


@pytest.fixture
def config(simulated, tmp_path):
    noise = {"LAYER": ["RS2", "Pb", "RC1"], "TEMP": str(tmp_path), "SEED": 1,
             "OUT": str(tmp_path / "noise.asdf")}  # fmt: skip
    return load_config(simulated().config).replace(
        OUT=str(tmp_path / "l2.asdf"), SLICEOUT=True, FITSOUT=False, NOISE=noise
    )


@pytest.fixture(scope="module")
def client():
    from distributed import Client

    with Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as client:
        yield client


def staged(lines):
    return [record for record in lines if getattr(record, "stage", None)]


def counts(stages):
    return {stage.name: (stage.done, stage.total) for stage in stages}


def test_one_line_for_each_stage(config, lines, monkeypatch):
    seen = []
    original = Progress._ends
    monkeypatch.setattr(
        Progress,
        "_ends",
        lambda self, stage, when: (seen.append(stage), original(self, stage, when)),
    )
    made = calibrate(config, tile=64, show_progress=True)
    found = staged(lines)
    assert [record.stage for record in found] == STAGES
    for record in found:
        # What is told at once and what --timings says later are two clocks.
        assert record.fields["seconds"] == pytest.approx(made.seconds[record.stage], abs=0.5)
    assert re.search(r"tiles +\d+\.\d\d s, 16 tiles$", found[1].getMessage())
    totals = counts({s.name: s for s in seen}.values())
    assert set(totals) == {"tiles", "sky", "mask"}
    assert all(done == total for done, total in totals.values())  # no task more, none less


def test_noise_layers_are_stages(config, lines):
    calibrate(config)
    generate_noise(config, tile=64, show_progress=True)
    told = [r.stage for r in staged(lines) if r.stage.startswith("layer")]
    assert sorted(told) == ["layer 1 of 3 RS2", "layer 2 of 3 Pb", "layer 3 of 3 RC1"]


def test_a_cluster_is_asked(config, lines, client, monkeypatch):
    monkeypatch.setattr(progress, "LOOK", 0.02)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.1)
    made = calibrate(config, tile=64, scheduler=client, show_progress=True)
    found = staged(lines)
    assert [record.stage for record in found] == STAGES
    for record in found:
        assert record.fields["seconds"] == pytest.approx(made.seconds[record.stage], abs=0.5)
    beats = [r for r in lines if hasattr(r, "fields") and "progress" in r.fields]
    shown = [beat.fields["progress"][0] for beat in beats if "tiles" in beat.getMessage()]
    assert shown
    assert all(0 <= row["done"] <= row["total"] == 16 for row in shown if row["stage"] == "tiles")
    assert any(beat.getMessage().endswith("; 2 workers") for beat in beats)
    lines.clear()
    generate_noise(config, tile=64, scheduler=client, show_progress=True)
    told = [r.stage for r in staged(lines) if r.stage.startswith("layer")]
    assert len(told) == len(set(told)) == 3


def test_what_a_lost_worker_had_done_counts_again():
    shown = Progress(True)
    stages = [Stage("tiles", {"a": 4}, "tiles", began=1.0), Stage("sky", {"b": 2})]
    shown._stages = stages
    shown._answer({"a": _Group(4, 0, 0), "b": _Group(2, 0, 0)}, 2)
    assert counts(stages) == {"tiles": (0, 4), "sky": (0, 2)}
    shown._answer({"a": _Group(0, 1, 9), "b": _Group(2, 0, 0)}, 2)
    assert stages[0].ended == 9 == stages[1].began
    shown._answer({"a": _Group(1, 1, 9), "b": _Group(2, 0, 0)}, 1)
    assert stages[0].ended is None
    assert counts(stages)["tiles"] == (3, 4)
    shown._answer({"b": _Group(0, 9, 12)}, 1)  # forgotten is done
    assert counts(stages) == {"tiles": (4, 4), "sky": (2, 2)}
    assert stages[1].ended == 12


def test_rate_and_time_left_tell_the_truth():
    stage = Stage("tiles", {"a": 100}, "tiles", began=0.0)
    assert stage.row(50.0).text == "0 of 100 tiles"  # compiling: nothing is known
    stage._done["a"] = 2
    assert stage.row(60.0).text == "2 of 100 tiles"
    stage._done["a"] = 22
    assert stage.row(70.0).text == "22 of 100 tiles, 2.0/s, 39.0 s left"
    # Nothing moves: the time left grows.
    assert stage.row(100.0).text == "22 of 100 tiles, 30.0/min, 2 min 36 s left"


def until(condition):
    """Wait, however long a busy machine takes."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_heartbeats_are_rare(lines, monkeypatch):
    monkeypatch.setattr(progress, "LOOK", 0.01)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.25)
    with Progress(True) as shown, shown.showing(lambda: [Row("batch", text="1 done")]):
        began = time.monotonic()
        until(lambda: len(lines) >= 3)
        took = time.monotonic() - began
    assert len(lines) <= took / 0.25 + 1
    assert {record.getMessage() for record in lines} == {"batch: 1 done"}
    assert progress.HEARTBEAT == 0.25


def test_a_log_hears_no_more_than_twice_a_minute(lines, monkeypatch):
    """The heartbeat as it is, by a clock of our own."""
    began = time.monotonic()
    ticks = itertools.count()
    spoken = []
    # It is later with every look at it, by less than a second.
    clock = SimpleNamespace(time=time.time, monotonic=lambda: began + 0.25 * next(ticks))
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "LOOK", 0.001)

    def rows():
        spoken.append(clock.monotonic() - 0.25)
        return [Row("batch", text="1 done")]

    with Progress(True) as shown, shown.showing(rows):
        until(lambda: len(spoken) >= 3)
    apart = [b - a for a, b in itertools.pairwise([began, *spoken])]
    assert len(spoken) == len(lines)
    assert min(apart) > 29
    assert progress.HEARTBEAT == 30


def test_a_batch_tells_how_far_it_is(lines):
    plan = SimpleNamespace(todo=["a", "b", "c"], beyond=[], finished=[])
    outcome = Outcome(plan)
    assert outcome.rows()[0].text == "0 done, 0 failed, 3 left, 0 at work"
    outcome.in_flight = {"a": None, "b": None}
    outcome.add({"identity": "a", "status": "done", "seconds": 2.0})
    (row,) = outcome.rows()
    assert (row.done, row.total) == (1, 3)
    assert re.fullmatch(
        r"1 done, 0 failed, 2 left, end about \d\d:\d\d \(in .*\), 1 at work", row.text
    )
    assert lines[-1].fields["identity"] == "a"
    # The end comes nearer while the next one is at work, but not nearer than those after it.
    now = time.monotonic()
    outcome._began, outcome._last = now - 1000, now
    assert "(in 33 min 20 s)" in outcome.rows()[0].text
    outcome._last, outcome._began = now - 400, now - 1400
    assert "(in 26 min 40 s)" in outcome.rows()[0].text
    outcome._last, outcome._began = now - 4000, now - 5000
    assert "(in 16 min 40 s)" in outcome.rows()[0].text


# -- the command line ----------------------------------------------------------------------------


@pytest.fixture
def file(config, tmp_path):
    settings = dict(config.raw)
    settings["CALDIR"] = {k: str(p) for k, p in config.references().items() if k != "ipc4d"}
    settings |= {"IN": str(config.IN), "FITSWCS": str(config.FITSWCS)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_log_file_for_programs(file, tmp_path):
    """Without a terminal: plain lines, rich is not imported; JSON beside them."""
    out = tmp_path / "log.jsonl"
    program = (
        "import sys; from roman_dask_l2.cli import app\n"
        "status = app.main(sys.argv[1:])\n"
        "sys.exit(status or ('rich' in sys.modules and 9))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file), "--no-noise", "--log-json", str(out)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warning = "no CALDIR.ipc4d, inter-pixel capacitance is not corrected"
    said = done.stderr.splitlines()
    assert said[-2] == "1 warning on the way:"
    assert said[-1].endswith(warning)
    text = out.read_bytes()
    assert text.endswith(b"\n")
    records = [json.loads(line) for line in text.splitlines()]
    assert all(list(r) == ["time", "level", "stage", "message", "fields"] for r in records)
    assert [r["stage"] for r in records if r["stage"]] == [*STAGES, "end"]
    assert [r["level"] for r in records if warning in r["message"]] == ["WARNING"]
    assert records[-1]["fields"]["status"] == 0
    assert records == sorted(records, key=lambda r: r["time"])


def test_bars_on_a_terminal(file):
    """A real terminal: bars while it lasts, plain lines above them, nothing left in the end."""
    main, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "roman_dask_l2", str(file), "--no-noise", "--tile", "32"],
        stderr=end, cwd=ROOT, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(end)
    shown = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data
    os.close(main)
    assert process.wait() == 0
    text = shown.decode()
    assert "━" in text
    assert re.search(r"\d+ of 64 tiles", text)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n")
    for stage in STAGES:
        assert re.search(rf"^\d\d:\d\d:\d\d {stage} +\d+\.\d\d s", plain, re.MULTILINE), plain
    assert plain.rstrip().splitlines()[-1].endswith("inter-pixel capacitance is not corrected")


def test_errors_come_last_and_in_json(file, tmp_path, capsys):
    settings = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(settings | {"SKYORDER": -1}))
    out = tmp_path / "log.jsonl"
    assert app.main([str(file), "--log-json", str(out)]) == 2
    assert app.main([str(file), "--log-json", str(out)]) == 2  # adds to it
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["level"] for r in records] == ["ERROR", "INFO"] * 2
    assert "SKYORDER is -1" in records[0]["message"]
    capsys.readouterr()
    assert app.main([str(file), "--log-json", str(tmp_path / "no" / "log")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("roman-dask-l2: error: --log-json")


def test_a_reader_never_sees_half_a_line(tmp_path):
    """Even where a file system shows a write page by page: no line crosses a page."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"torn": ')  # by a writer that was killed
    handler = logs.JsonLines(path)
    over = threading.Event()

    def write():
        for i in range(1500):
            length = (i * 37) % 1500
            handler.handle(logging.LogRecord("x", 20, "", 0, "é\0" * length + str(i), (), None))
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    looks = 0
    while not over.is_set():
        data = path.read_bytes()
        assert data.endswith(b"\n")
        for line in data.splitlines()[1:][-3:]:
            json.loads(line)
        looks += 1
    writer.join()
    handler.close()
    assert looks > 5
    start = 0
    written = path.read_bytes().splitlines(keepends=True)
    assert len(written) == 1501
    for line in written:
        assert start // 4096 == (start + len(line) - 1) // 4096
        start += len(line)
        assert line.startswith(b'{"torn') or json.loads(line)


def test_long_messages_are_cut(tmp_path):
    handler = logs.JsonLines(tmp_path / "log.jsonl")
    try:
        raise ValueError("x" * 9000)
    except ValueError:
        record = logging.LogRecord("x", 40, "", 0, "y" * 9000, (), sys.exc_info())
    handler.handle(record)
    handler.close()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(line) < 4096
    assert json.loads(line)["message"] == "y" * 400


def test_warnings_are_repeated_only_where_they_are_buried(capsys):
    messages = logs.Messages("roman-dask-l2", logging.INFO)
    logs.PACKAGE_LOG.warning("one")
    messages.end(0)
    assert len(capsys.readouterr().err.splitlines()) == 1
    messages = logs.Messages("roman-dask-l2", logging.INFO)
    logs.PACKAGE_LOG.warning("one")
    logs.PACKAGE_LOG.error("two")
    logs.PACKAGE_LOG.warning("one")
    logs.PACKAGE_LOG.info("more")
    messages.end(2, ["three"])
    assert capsys.readouterr().err.splitlines()[4:] == [
        "1 error and 1 warning on the way:", "  one", "  two", "roman-dask-l2: error: three",
    ]  # fmt: skip
