"""Run a command as a whole process and say what it cost.

    python benchmarks/measure.py roman-dask-l2 config.yaml --threads 2

What is measured, and how:

* wall: from before the process is made until it has ended, s.
* user and system CPU: of the process and of all it has waited for, from ``wait4``.
* resident: the kernel's own peak of the largest process (``ru_maxrss``, and ``VmHWM`` as sampled);
  where several run at the same time, the largest sampled sum if that is more. Pages of mapped
  files count.
* anonymous: largest sum of ``RssAnon`` over the process tree, sampled every 20 ms. Memory that is
  the program's own, without pages of files.
* read and written: what went through system calls (``rchar``, ``wchar``). Mapped files do not.
* disk_read, disk_written: what came from and goes to storage (``read_bytes``, ``write_bytes``).

Bytes are read from ``/proc/PID/io`` after the process has ended and before it is reaped:
until then the kernel keeps its counts, those of its reaped children included. So they are exact,
and nothing in the measured process has to help. The sampler is a thread of the measuring process;
its time is not in the process's.

This needs Linux, and nothing beyond Python's own library. ``ru_maxrss`` of a new process begins at
the peak of the one that made it; where it is no higher than that, it is not used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.02
"""Seconds between samples."""
TREE_PERIOD = 0.2
"""Seconds between looks for new child processes, which cost more."""


class CommandFailed(RuntimeError):
    """A measured command did not end with status 0."""


@dataclass(frozen=True)
class Cost:
    """What a command has cost.

    Attributes
    ----------
    wall, user, system : float
        s.
    resident, anonymous : int
        Peaks, bytes.
    read, written, disk_read, disk_written : int
        Bytes.
    samples : int
        How often memory was looked at.
    others : float
        Processors that were busy with anything else meanwhile, on average. Above 0.1 or so the
        times say little.
    stolen : float
        Processors that the machine under this virtual one took away, on average.
    load : float
        The load average (1 minute) before.
    """

    wall: float
    user: float
    system: float
    resident: int
    anonymous: int
    read: int
    written: int
    disk_read: int
    disk_written: int
    samples: int
    others: float
    stolen: float
    load: float

    @property
    def cpu(self) -> float:
        """User and system CPU, s."""
        return self.user + self.system

    def record(self) -> dict[str, float]:
        """For JSON, times to the millisecond."""
        values = {"cpu": self.cpu, **dataclasses.asdict(self)}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}


def measure(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    cpus: Iterable[int] | None = None,
    log: Path | None = None,
) -> Cost:
    """Run a command to its end and measure it.

    Parameters
    ----------
    command : sequence of str
    cwd : Path, optional
    env : mapping, optional
        Added to this process's environment.
    cpus : iterable of int, optional
        Processors that it may use; default: those of this process.
    log : Path, optional
        File for what it says on its two outputs.

    Returns
    -------
    Cost

    Raises
    ------
    CommandFailed
        If its exit status is not 0, with the last lines of what it said.
    """
    with contextlib.ExitStack() as stack:
        if log is None:
            output = stack.enter_context(tempfile.TemporaryFile("w+b"))
        else:
            output = stack.enter_context(open(log, "w+b"))
        load, machine, own = os.getloadavg()[0], _machine_time(), time.process_time()
        inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(part) for part in command],
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if cpus is not None:
            os.sched_setaffinity(process.pid, cpus)
        sampler = _Sampler(process.pid)
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            wall = time.perf_counter() - began
            sampler.stop()
            io = _fields(Path(f"/proc/{process.pid}/io"))
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            sampler.stop()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        own = time.process_time() - own
        busy, stolen = (b - a for a, b in zip(machine, _machine_time(), strict=True))
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").splitlines()[-20:]
            raise CommandFailed(
                f"{' '.join(map(str, command))}: ended with status {process.returncode}\n"
                + "\n".join(said)
            )
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        resident=max(
            usage.ru_maxrss * 1024 if usage.ru_maxrss > inherited else 0, sampler.resident
        ),
        anonymous=sampler.anonymous,
        read=io["rchar"],
        written=io["wchar"],
        disk_read=io["read_bytes"],
        disk_written=max(io["write_bytes"] - io["cancelled_write_bytes"], 0),
        samples=sampler.samples,
        others=max(busy - cpu - own, 0.0) / wall,
        stolen=max(stolen, 0.0) / wall,
        load=load,
    )


class _Sampler:
    """Looks at the memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.resident = self.anonymous = self.samples = 0
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        pids, looked = [self._pid], 0.0
        while True:
            now = time.monotonic()
            if now - looked > TREE_PERIOD:
                pids, looked = _tree(self._pid), now
            found = [_memory(pid) for pid in pids]
            peaks, resident, anonymous = zip(*found, strict=True)
            self.resident = max(self.resident, sum(resident), *peaks)
            self.anonymous = max(self.anonymous, sum(anonymous))
            self.samples += 1
            if self._end.wait(PERIOD):
                return


def _tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        for listed in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in listed.read_text().split()]
    return found


def _memory(pid: int) -> tuple[int, int, int]:
    """Peak resident, resident and anonymous bytes of a process; zero if it has ended."""
    try:
        status = _fields(Path(f"/proc/{pid}/status"))
    except OSError:
        status = {}
    peak, resident, anonymous = (1024 * status.get(n, 0) for n in ("VmHWM", "VmRSS", "RssAnon"))
    return peak, resident, anonymous


def _fields(path: Path) -> dict[str, int]:
    """The whole numbers in a file of lines such as ``name: 12 kB``."""
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        first = value.split()[:1]
        if first and first[0].isdigit():
            fields[name] = int(first[0])
    return fields


def _machine_time() -> tuple[float, float]:
    """Seconds that all processors together were busy, and that were stolen, since the start."""
    values = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = values[:8]
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def drop_cache(folders: Iterable[Path]) -> str:
    """Empty the page cache, as far as we may.

    Parameters
    ----------
    folders : iterable of Path
        Whose files are dropped, where the whole cache cannot be.

    Returns
    -------
    str
        What was dropped.
    """
    os.sync()  # what is not written yet cannot be dropped
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
        return "the whole page cache (programs and libraries too)"
    except OSError:
        pass
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "input files only (to drop everything takes root)"


def main() -> int:
    if len(sys.argv) < 2:
        sys.stderr.write("measure.py: expected a command\n")
        return 2
    try:
        cost = measure(sys.argv[1:])
    except (CommandFailed, OSError) as error:
        sys.stderr.write(f"measure.py: {error}\n")
        return 1
    sys.stdout.write(json.dumps(cost.record(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
