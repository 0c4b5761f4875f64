"""SIGTERM and Ctrl-C end a run, whatever its threads do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from roman_dask_l2.cli import app
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.system import stopping
from roman_dask_l2.system.logs import Messages
from roman_dask_l2.system.processes import born

ROOT = Path(__file__).parents[2]

# A C function that never returns and that no signal interrupts; PyDLL keeps the interpreter's lock.
STUCK = """
import ctypes, os, sys
from roman_dask_l2.cli import app
from roman_dask_l2.products import job, level2
from roman_dask_l2.io.arrays import FileArray

def stuck(*_, **__):
    library = ctypes.{library}(None)
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    os.write(1, b"stuck\\n")
    library.pthread_mutex_lock(mutex)

{where} = stuck
sys.argv[1:] = {arguments}
sys.exit(app.main())
"""
PLACES = {
    "a tile": ("CDLL", "FileArray.read", 1),
    "the model": ("CDLL", "level2.l2_model", 1),
    "the main thread": ("CDLL", "job.prepare", 1),
    "the main thread with a part file": ("CDLL", "level2._compute", 1),
    "a tile with the interpreter's lock": ("PyDLL", "FileArray.read", -signal.SIGKILL),
}


def test_the_times_add_up():
    """Ten seconds in all, with some to spare."""
    assert stopping.GRACE + stopping._REMOVING < 9
    assert "timeout 9 " in stopping._SHELL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_runs_that_are_stuck(number, simulated, tmp_path):
    """All at the same time, because each has its seconds to clean up."""
    made = simulated(conditions=(), stars=0, seed=3)
    running = {}
    for name, (library, where, _) in PLACES.items():
        folder = tmp_path / name.replace(" ", "_").replace("'", "")
        shutil.copytree(made.config.parent, folder)
        arguments = [str(folder / made.config.name), "--threads", "2", "--quiet"]
        program = STUCK.format(library=library, where=where, arguments=arguments)
        running[name] = folder, subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    for _, process in running.values():
        assert process.stdout.readline() == "stuck\n"
    for _, process in running.values():
        os.kill(process.pid, number)
    for name, (folder, process) in running.items():
        _, error = process.communicate(timeout=120)
        assert process.returncode == PLACES[name][2], (name, error)
        assert "interrupted" in error.splitlines()[-1], name
        assert "Traceback" not in error, name
        left = [path.name for path in folder.rglob(".*part*")]
        if process.returncode == 1:
            assert left == [], name
            assert "no unfinished file is left behind" in error
        else:
            assert "the next run removes them" in error


def test_a_second_signal_ends_it_at_once(simulated, tmp_path):
    program = STUCK.format(library="CDLL", where="level2.l2_model", arguments=[]).replace(
        "sys.exit(app.main())",
        "stopping = __import__('roman_dask_l2.system.stopping').system.stopping\n"
        "stopping.GRACE, stopping._SHELL, stopping._APART = 90, 'head -c 1 && cat', 0\n"
        "import threading\n"
        "stopper = stopping.Stopper()\n"
        "others = stopping.elsewhere(lambda: 'others have files')\n"
        "others.__enter__()\n"
        "thread = threading.Thread(target=stuck)\n"
        "while True:\n"
        "    try:\n"  # around the start too: the thread may say "stuck" before that returns
        "        if thread.ident is None: thread.start()\n"
        "        thread.join()\n"
        "    except KeyboardInterrupt: print('first', flush=True)\n",
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        _, error = process.communicate(timeout=120)
        assert time.monotonic() - sent < 60
    assert process.returncode == 1
    assert "interrupted; others have files (a thread did not end" in error


# Where the interpreter drops an exception with a line on stderr, or a library with none.
DROPPED = {
    "a destructor": "class Slow:\n    __del__ = wait\nSlow()",
    "a weak reference": "import weakref\nclass Thing: pass\nthing = Thing()\n"
    "link = weakref.ref(thing, wait)\ndel thing",
    "foreign code": "import ctypes\nctypes.CFUNCTYPE(None)(wait)()",
    "a library": "with stopping.heard():\n    try: wait()\n    except BaseException: pass",
    # The interpreter looks for signals while it writes its error, which then is a TypeError.
    "an import": "import sys, types\nclass Name(str): __repr__ = wait\n"
    "sys.modules['m'] = types.ModuleType('m')\nsys.modules['m'].__name__ = Name('m')\n"
    "with stopping.heard():\n    from m import missing",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("where", DROPPED)
def test_where_an_exception_gets_lost(where, number):
    """The signal is heard all the same, once."""
    program = (
        "import time\nfrom roman_dask_l2.system import stopping\nstopper = stopping.Stopper()\n"
        "def wait(*_):\n    print('here', flush=True)\n    end = time.monotonic() + 60\n"
        "    while time.monotonic() < end: time.sleep(0.01)\n"
        "try:\n"
        + "".join(f"    {line}\n" for line in DROPPED[where].splitlines())
        + "    while True: time.sleep(0.01)\n"
        "except KeyboardInterrupt:\n"
        "    for _ in range(50): time.sleep(0.01)\n"  # cleans up undisturbed
        "    print('clean', flush=True)\n    stopper.end(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        out, error = process.communicate(timeout=120)
    assert (process.returncode, out, error) == (1, "clean\n", "")


@pytest.mark.parametrize("error", [TypeError("odd"), InputError("bad"), None])
def test_a_signal_explains_whatever_came_of_it(error, monkeypatch):
    def act(args):
        stopping._told.set()
        if error:
            raise error
        return 0

    monkeypatch.setattr(stopping, "_told", threading.Event())
    said = app._act(SimpleNamespace(action=act, log_json=None, debug=False), Messages("x", 0))
    assert said == (1, ["interrupted; no unfinished file is left behind"])


def test_no_shell_stays_behind(tmp_path):
    """It ends with its process, which it is a child of no more then."""
    program = (
        "from roman_dask_l2.system.stopping import Stopper\n"
        "stopper = Stopper(); print(stopper._shell.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        shell = int(process.stdout.readline())
        assert Path(f"/proc/{shell}").exists()
        process.kill()
    deadline = time.monotonic() + 60
    while born(shell) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_directory_that_is_being_filled(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt, match=f"{tmp_path} is incomplete"),
        stopping.incomplete(tmp_path),
    ):
        raise KeyboardInterrupt


def test_a_pipe_is_no_input(tmp_path):
    """Opening it would wait for ever for its other end."""
    path = tmp_path / "pipe.asdf"
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"pipe\.asdf: is not a regular file"):
        read_layout(path)
