"""Dask workers as SLURM jobs: settings, submission, and what SLURM says of the jobs."""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ClusterError, InputError
from ..system.text import nearest
from ..system.workarounds import start_workers
from .amounts import parse_memory

log = logging.getLogger(__name__)

NUMBERS = ("cores", "processes", "job_cpu", "death_timeout")
LISTS = (
    "job_extra_directives", "job_directives_skip", "job_script_prologue", "worker_extra_args",
)  # fmt: skip
MAPPINGS = ("scheduler_options",)
"""Settings that are not text."""

NO_PAGES = (
    "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
    "--preload", "roman_dask_l2.engine.worker_process",
)  # fmt: skip
"""Options with which a worker has no pages, whatever stands before them: the last ones count."""
NO_ROUTES = "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'"
"""There is nothing at the port that Dask opens for them, until the worker closes it."""


def defaults_file() -> Path:
    """The commented file of defaults, ``deploy/slurm.yaml``."""
    for folder in (
        Path(str(importlib.resources.files("roman_dask_l2"))),
        Path(__file__).parents[2],  # a checkout, or an editable installation
    ):
        if (file := folder / "deploy" / "slurm.yaml").is_file():
            return file
    raise FileNotFoundError("deploy/slurm.yaml is not part of this installation")


def load_settings(
    file: Path | None = None,
    threads: int | None = None,
    memory: str | None = None,
    interface: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Arguments of ``dask_jobqueue.SLURMCluster``.

    Later ones win: deploy/slurm.yaml, ``jobqueue.slurm`` of Dask's configuration, `file`, options.

    Parameters
    ----------
    file : Path, optional
        YAML file with some of the keys of deploy/slurm.yaml.
    threads : int, optional
        Threads of each worker.
    memory : str, optional
        Memory of each worker, e.g. ``8GB``.
    interface : str, optional
        Network interface of workers and scheduler.
    environment : mapping, optional
        Variables that the job script sets before anything else.

    Raises
    ------
    InputError
        If the file cannot be read, or a key is unknown or of another kind than expected.
    """
    settings = yaml.safe_load(defaults_file().read_text())
    known = list(settings)
    settings |= _of_dask(known)
    if file is not None:
        given = _read(file, known)
        settings |= {key: value for key, value in given.items() if value is not None}
    if threads is not None:
        settings["cores"] = threads * settings["processes"]
    if memory is not None:
        settings["memory"] = f"{parse_memory(memory) * settings['processes']}B"
    if interface is not None:
        settings["interface"] = interface
    if settings["interface"] is not None:
        _check_interface(settings["interface"])
    settings["scheduler_options"] = {
        "dashboard_address": "127.0.0.1:8787",
        **settings["scheduler_options"],
    }
    settings["worker_extra_args"] = [*settings["worker_extra_args"], *NO_PAGES]
    exports = [f"export {name}={value}" for name, value in (environment or {}).items()]
    exports.append(NO_ROUTES)
    scratch = _scratch(settings.pop("local_directory"), settings["python"] or sys.executable)
    settings["job_script_prologue"] = [*exports, *settings["job_script_prologue"], *scratch]
    if not any(str(arg).startswith("--lifetime") for arg in settings["worker_extra_args"]):
        lifetime = _lifetime(settings["walltime"])
        settings["worker_extra_args"] = [*settings["worker_extra_args"], *lifetime]
    return {key: value for key, value in settings.items() if value is not None}


def _scratch(folder: str | None, python: str) -> list[str]:
    """Lines of a job script that make a directory for the worker's own files in which nobody else
    can put anything, and remove it. In `folder` variables of the node may stand."""
    place = "${TMPDIR:-/tmp}" if folder is None else folder
    make = f'{python} -m roman_dask_l2.engine.private "{place}" $$'
    return [
        f'DASK_TEMPORARY_DIRECTORY="$({make})" || exit 1',
        "export DASK_TEMPORARY_DIRECTORY",
        """trap 'rm -rf "$DASK_TEMPORARY_DIRECTORY"' EXIT""",
    ]


def _check_interface(interface: str) -> None:
    from distributed.utils import get_ip_interface

    try:
        get_ip_interface(interface)
    except ValueError as error:
        raise InputError(f"--scheduler slurm: interface {interface}: {error}") from error


def _of_dask(known: list[str]) -> dict[str, Any]:
    """What the user has set in ``jobqueue.slurm``: all that differs from dask-jobqueue's own."""
    import dask
    import dask_jobqueue

    shipped = yaml.safe_load((Path(dask_jobqueue.__file__).parent / "jobqueue.yaml").read_text())
    found = {}
    for key in known:
        # job_name is called name there
        name = "name" if key == "job_name" else key.replace("_", "-")
        value = dask.config.get(f"jobqueue.slurm.{name}", None)
        if value is not None and value != shipped["jobqueue"]["slurm"].get(name):
            found[key] = value
    return found


def _read(file: Path, known: list[str]) -> dict[str, Any]:
    where = f"--slurm-config {file}"
    try:
        given = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{where}: is not YAML ({str(error).splitlines()[0]})") from error
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected a mapping of keys to values")
    problems = []
    for key, value in given.items():
        if key not in known:
            near = nearest(str(key), known)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
            problems.append(f"{where}: unknown key {key}, {hint}")
        elif value is not None and (expected := _mismatch(key, value)):
            problems.append(f"{where}: {key} is {value!r}, expected {expected}")
    if problems:
        raise InputError(problems)
    return given


def _mismatch(key: str, value: Any) -> str:
    """What was expected for a setting, empty if that is what it is."""
    if key in NUMBERS:
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return "" if good else "a whole number from 1 up"
    if key in LISTS:
        good = isinstance(value, list) and all(isinstance(v, str | int | float) for v in value)
        return "" if good else "a list of texts"
    if key in MAPPINGS:
        return "" if isinstance(value, dict) else "a mapping"
    if key == "walltime":
        # YAML reads 12:00:00 as the number 43200, which SLURM would take for minutes.
        return "" if isinstance(value, str) else 'text such as "12:00:00", in quotes'
    if key == "memory":
        try:
            parse_memory(value)
        except InputError:
            return "an amount such as 16GB"
        return ""
    return "" if isinstance(value, str | int) else "text"


def _lifetime(walltime: str | None) -> list[str]:
    """Options with which workers leave in good order before their job's time is over."""
    seconds = parse_walltime(walltime or "")
    if seconds is None:
        return []
    # The stagger goes both ways and keeps workers from leaving all at once.
    return ["--lifetime", f"{seconds * 0.9:.0f}s", "--lifetime-stagger", f"{seconds * 0.05:.0f}s"]


def parse_walltime(text: str) -> int | None:
    """Seconds of a SLURM time limit (``M``, ``M:S``, ``H:M:S``, ``D-H[:M[:S]]``), None if none."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return None
    days, _, rest = text.rpartition("-")
    parts = [int(p) for p in rest.split(":")]
    if days or len(parts) == 3:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return (int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds) or None


REPLACEMENTS = 10
"""How often the jobs of a run are replaced, on average, before they are given up: a job that never
lives long is not sent again and again."""


class Jobs:
    """The SLURM jobs that hold the workers of a scheduler in this process.

    Parameters
    ----------
    settings : mapping
        As `load_settings` gives them.

    Attributes
    ----------
    cluster : dask_jobqueue.SLURMCluster

    Raises
    ------
    InputError
        If there is no SLURM here or a setting cannot be used.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from dask_jobqueue import SLURMCluster

        if shutil.which("sbatch") is None:
            raise InputError("--scheduler slurm: there is no sbatch on this machine")
        try:
            self.cluster = SLURMCluster(**settings)
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            # An interface that is not there, a log directory that cannot be made.
            reason = str(error.__cause__ or error).splitlines()[0]
            raise InputError(f"--scheduler slurm: {reason}") from error
        self._processes = settings["processes"]
        self._logs = settings.get("log_directory")
        self._wanted = self._replaced = 0
        self._ids: list[str] = []

    def submit(self, workers: int) -> int:
        """Submit jobs for so many workers; returns how many workers that makes.

        Raises
        ------
        ClusterError
            If SLURM refuses them.
        """
        self._wanted = math.ceil(workers / self._processes)
        # Not `cluster.scale`, which only logs what sbatch says against it.
        while len(self.cluster.worker_spec) < self._wanted:
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
        try:
            start_workers(self.cluster, workers)
        except RuntimeError as error:
            from distributed.core import Status

            for job in self.cluster.workers.values():
                if not job.job_id:
                    job.status = Status.failed  # or closing the cluster waits for it
            said = [line for line in str(error).splitlines() if line.startswith("sbatch: error")]
            reason = said[0] if said else str(error).splitlines()[0]
            raise ClusterError(f"SLURM refuses the job: {reason}", self._script()) from error
        self._note()
        log.info("submitted SLURM jobs %s", ", ".join(self._ids))
        return self._wanted * self._processes

    def replace(self) -> None:
        """Submit new jobs in place of those whose worker has gone."""
        self._note()
        lost = self._wanted - len(self.cluster.workers)
        if lost <= 0 or self._replaced >= REPLACEMENTS * self._wanted:
            return
        self._replaced += lost
        log.info("%d SLURM jobs are gone, submitting new ones", lost)
        self.cluster.scale(jobs=self._wanted)
        if self._replaced >= REPLACEMENTS * self._wanted:
            log.warning("%d SLURM jobs were replaced, no more will be", self._replaced)

    def cancel(self) -> None:
        """Cancel all jobs at once, without waiting for SLURM, which may take longer to answer than
        an interrupted run has: closing the cluster does so one by one."""
        self._note()
        if not self._ids:
            return
        with contextlib.suppress(OSError):
            subprocess.Popen(
                ["scancel", *self._ids],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def describe(self) -> str:
        """The job script, the state of the jobs, and the end of the last job's log."""
        self._note()
        parts = [self._script()]
        if self._ids:
            said = _queue(self._ids[-20:])
            parts.append("squeue says (job, state, reason):\n" + (said or "no such jobs"))
        found = [
            file
            for job in self._ids[::-1]
            for file in (Path(self._logs).glob(f"*-{job}.err") if self._logs else ())
        ]
        if found:
            lines = found[0].read_text(errors="replace").splitlines()[-10:]
            parts.append("\n".join([f"end of {found[0]}:", *lines]))
        return "\n\n".join(parts)

    def _script(self) -> str:
        return "job script:\n" + self.cluster.job_script().strip()

    def _note(self) -> None:
        """Remember the numbers of the jobs: the cluster forgets those that are gone."""
        known = [job.job_id for job in list(self.cluster.workers.values()) if job.job_id]
        self._ids += [job for job in known if job not in self._ids]


def _queue(ids: list[str]) -> str:
    command = ["squeue", "-h", "-t", "all", "-o", "%i %T %r", "-j", ",".join(ids)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout + done.stderr).strip()
