"""The manifest: whole lines whatever happens, and a reader that forgives."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time

import pytest

from roman_dask_l2.batch import begun, manifest
from roman_dask_l2.errors import InputError


def line(identity="a=1", status="done", **more):
    return {"identity": identity, "attempt": "x", "status": status, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.jsonl"


def test_last_line_counts(path):
    for status in ("running", "failed", "running"):
        manifest.append(path, line(status=status))
    manifest.append(path, line("a=2"))
    history = manifest.read(path)
    assert {k: v["status"] for k, v in history.last.items()} == {"a=1": "running", "a=2": "done"}
    assert [entry["status"] for entry in history.ended] == ["failed", "done"]


ATTEMPT = "0" * 31


def test_what_has_begun_and_not_ended(path, tmp_path):
    """It stands for the last line of its exposure, until the manifest has its end."""
    manifest.append(path, line(status="failed"))
    for i in "12":
        begun.note(path, line(f"a={i}", "running", attempt=ATTEMPT + i))
    history = manifest.read(path)
    assert {k: v["status"] for k, v in history.last.items()} == {"a=1": "running", "a=2": "running"}
    assert [entry["status"] for entry in history.ended] == ["failed"]
    manifest.append(path, line(attempt=ATTEMPT + "1"))
    assert {k: v["status"] for k, v in manifest.read(path).last.items()} == {
        "a=1": "done", "a=2": "running",
    }  # fmt: skip
    begun.forget(path, ATTEMPT + "1", ATTEMPT + "2")
    assert list(tmp_path.iterdir()) == [path]


def test_notes_that_are_none(path, tmp_path):
    """Torn, of another name, a link, a pipe: left out; what a killed process has left goes."""
    begun.note(path, line("a=1", "running", attempt=ATTEMPT + "1"))
    folder = begun.folder_of(path)
    (folder / f"{ATTEMPT}2.json").write_text('{"identity": "a=2", "att')
    (folder / f"{ATTEMPT}3.json").write_text(json.dumps(line("a=3", "running")))
    (tmp_path / "elsewhere").write_text(json.dumps(line("a=4", "running", attempt=ATTEMPT + "4")))
    (folder / f"{ATTEMPT}4.json").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / f"{ATTEMPT}5.json")
    (folder / "notes.txt").touch()
    assert list(manifest.read(path).last) == ["a=1"]
    begun.tidy(path)
    assert len(list(folder.iterdir())) == 6
    os.utime(folder / f"{ATTEMPT}2.json", (0, 0))
    begun.tidy(path)
    assert len(list(folder.iterdir())) == 5


def test_a_link_in_the_place_of_the_notes(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    begun.folder_of(path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        begun.note(path, line(status="running", attempt=ATTEMPT + "1"))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert begun.read(path) == {}


def test_no_manifest_yet(path):
    assert manifest.read(path).last == {}


def test_a_torn_line_is_reported_and_closed(path, caplog):
    """A writer was killed in the middle of its write: the next line is not glued to the rest."""
    manifest.append(path, line("a=1"))
    with open(path, "a") as file:
        file.write('{"identity": "a=2", "att')
    with caplog.at_level(logging.WARNING, "roman_dask_l2"):
        assert list(manifest.read(path).last) == ["a=1"]
    assert "line 2 is torn" in caplog.text
    manifest.append(path, line("a=3"))
    assert list(manifest.read(path).last) == ["a=1", "a=3"]
    assert json.loads(path.read_text().splitlines()[2])["identity"] == "a=3"


@pytest.mark.parametrize("text", ["rubbish", "[]", "7", '{"identity": "a"}', '"identity"', "\x00"])
def test_other_lines_are_reported(path, caplog, text):
    path.write_text(f"{text}\n{json.dumps(line())}\n")
    with caplog.at_level(logging.WARNING, "roman_dask_l2"):
        assert list(manifest.read(path).last) == ["a=1"]
    assert "line 1 is not readable" in caplog.text


def _write_many(path, who, count):
    for i in range(count):
        manifest.append(path, line(f"{who}={i}", error="x" * (i * 37 % 900)))


def test_many_writers(path):
    """Eight processes at once, one of them killed: every line is whole, none is lost."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, w, 200)) for w in "abcdefg"]
    victim = context.Process(target=_write_many, args=(path, "h", 10**9))
    for process in (*writers, victim):
        process.start()
    for process in writers:
        process.join()
        assert process.exitcode == 0
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    manifest.append(path, line("end=1"))
    found = manifest.read(path).last
    assert {f"{w}={i}" for w in "abcdefg" for i in range(200)} <= set(found)
    assert list(found)[-1] == "end=1"
    for text in path.read_text().splitlines():
        assert json.loads(text)["status"] == "done"


def test_a_full_disk_leaves_no_half_line(path):
    """In a process of its own, with a limit on the size of files."""
    import resource

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            for i in range(100):
                manifest.append(path, line(f"a={i}", error="x" * 200))
        except OSError:
            os._exit(3)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    process.join()
    assert process.exitcode == 3
    assert path.read_text().endswith("}\n")
    assert list(manifest.read(path).last) == ["a=0", "a=1", "a=2"]


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="manifest: .*no/m.jsonl cannot be written"):
        manifest.require_writable(tmp_path / "no" / "m.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        manifest.read(tmp_path)


def test_lines_are_quick(path):
    """A hundred thousand images later it must still be read in no time."""
    text = json.dumps(line(output=["/some/where/" * 5] * 4, error=None))
    path.write_text("".join(text.replace("a=1", f"a={i}") + "\n" for i in range(100_000)))
    began = time.process_time()  # whatever else the machine does
    assert len(manifest.read(path).last) == 100_000
    assert time.process_time() - began < 10


@pytest.mark.parametrize("how", ["short", "refused"])
def test_a_note_that_cannot_be_written_leaves_nothing(how, tmp_path, monkeypatch):
    """A full disk: part of it is written, or nothing."""
    write = os.write

    def full(file, data):
        if how == "refused":
            raise OSError(28, "No space left on device")
        return write(file, data[:5])

    monkeypatch.setattr(os, "write", full)
    path = tmp_path / "m.jsonl"
    with pytest.raises(OSError, match="No space left"):
        begun.note(path, line("a=1", "running", attempt=ATTEMPT + "1"))
    assert list(tmp_path.iterdir()) == []
