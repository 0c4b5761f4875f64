"""How a graph runs: in threads of this process, or on a Dask cluster that is started or joined."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from ..errors import InputError
from ..system.processes import cpu_count
from .amounts import parse_memory
from .clusters import cluster_client
from .watch import explained

if TYPE_CHECKING:
    from distributed import Client

SCHEDULERS = ("local", "synchronous", "local-cluster", "slurm")
"""``local``: threads of this process; ``synchronous``: one task after the other;
``local-cluster``: processes on this machine; ``slurm``: SLURM jobs. Beside these, the address of a
running Dask scheduler."""

_USED = {
    "local": {"threads", "memory"},
    "synchronous": {"threads", "memory"},  # as it was: nothing to choose, but no mistake either
    "local-cluster": {"threads", "workers", "memory", "interface", "wait", "performance_report"},
    "slurm": {
        "threads", "workers", "memory", "interface", "slurm_config", "wait", "performance_report",
    },
    "address": {"workers", "wait", "performance_report", "scheduler_file"},
}  # fmt: skip
"""Options that mean something to a scheduler."""


def in_flight() -> int | None:
    """Tiles that may be under way at a time: as many as there are threads. (With more of them Dask
    follows one chain of tiles to its end before it begins another.) None on a cluster, whose
    workers come and go: the first tiles may begin when most workers are still to come."""
    if dask.config.get("scheduler", None) in (dask.threaded.get, dask.local.get_sync):
        return dask.config.get("num_workers", None) or cpu_count()
    return None


@contextlib.contextmanager
def running(
    scheduler: str | Client = "local",
    threads: int | None = None,
    *,
    workers: int | None = None,
    memory: str | None = None,
    interface: str | None = None,
    scheduler_file: str | Path | None = None,
    slurm_config: str | Path | None = None,
    wait: float | None = None,
    performance_report: str | Path | None = None,
) -> Iterator[Client | None]:
    """Run Dask computations inside the block as asked.

    Parameters
    ----------
    scheduler : str or distributed.Client
        One of `SCHEDULERS`, or the address of a running scheduler, ``tcp://host:port``. A client,
        such as this function yields, is used as it is and left open: so one cluster serves many
        calls, also from several threads.
    threads : int, optional
        Threads of this process (default: its processors) or of each worker.
    workers : int, optional
        Worker processes to start (``slurm``: default 1; ``local-cluster``: default by number of
        processors), or that are expected on a running cluster.
    memory : str, optional
        Memory of each worker, or of this process, which chooses tiles and threads to stay under
        it (see `roman_dask_l2.products.memory`), e.g. ``8GB``.
    interface : str, optional
        Network interface of scheduler and workers, e.g. ``ib0``.
    scheduler_file : str or Path, optional
        The file that ``dask scheduler --scheduler-file`` writes, instead of an address.
    slurm_config : str or Path, optional
        Settings of ``slurm``, see deploy/slurm.yaml.
    wait : float, optional
        Seconds without any worker, at the start or later, after which the run is given up;
        default `WAIT`.
    performance_report : str or Path, optional
        HTML file in which Dask tells what ran where and when, written if all goes well.

    Yields
    ------
    distributed.Client or None
        None without a cluster.

    Raises
    ------
    InputError
        Unknown scheduler, or options that cannot be used (with it).
    ClusterError
        No workers, no scheduler, or other versions of packages there than here.
    WorkersDied
        If one task ends worker after worker.
    """
    if not isinstance(scheduler, str):
        with scheduler.as_current(), explained(scheduler):
            yield scheduler
        return
    options = {
        "threads": threads,
        "workers": workers,
        "memory": memory,
        "interface": interface,
        "scheduler_file": scheduler_file,
        "slurm_config": slurm_config,
        "wait": wait,
        "performance_report": performance_report,
    }
    kind = check_options(scheduler, options)
    if kind == "synchronous":
        with dask.config.set(scheduler=dask.local.get_sync):
            yield None
    elif kind == "local":
        # The function, not its name: for a name Dask imports distributed, to see if there is a
        # client.
        with dask.config.set(scheduler=dask.threaded.get, num_workers=threads or cpu_count()):
            yield None
    else:
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        with cluster_client(kind, scheduler, **given) as client:
            yield client


# -- what was asked for --------------------------------------------------------------------------


def kind_of(scheduler: str, options: Mapping[str, Any]) -> str:
    """The key in `_USED`."""
    if options["scheduler_file"] is not None:
        if scheduler != "local":
            raise InputError(f"--scheduler {scheduler} and --scheduler-file: expected one of them")
        return "address"
    if re.match(r"\w+://", scheduler):
        if not re.fullmatch(r"(tcp|tls)://(\[.+\]|[^:/]+):\d+", scheduler):
            raise InputError(f"--scheduler {scheduler}: expected an address tcp://host:port")
        return "address"
    if scheduler not in SCHEDULERS:
        expected = ", ".join(SCHEDULERS)
        raise InputError(
            f"--scheduler {scheduler}: expected one of {expected} or an address tcp://host:port"
        )
    return scheduler


def check_options(scheduler: str, options: Mapping[str, Any]) -> str:
    """Options must be usable, and with this scheduler.

    Returns
    -------
    str
        The kind of the scheduler.

    Raises
    ------
    InputError
    """
    kind = kind_of(scheduler, options)
    name = "a running cluster" if kind == "address" else f"--scheduler {scheduler}"
    problems = [
        f"{_option(key)} means nothing to {name}"
        for key, value in options.items()
        if value is not None and key not in _USED[kind]
    ]
    for key in ("threads", "workers"):
        if options[key] is not None and options[key] < 1:
            problems.append(f"--{key} {options[key]}: expected at least 1")
    if options["wait"] is not None and not options["wait"] > 0:
        problems.append(f"--wait {options['wait']}: expected seconds, more than 0")
    if options["memory"] is not None:
        try:
            parse_memory(options["memory"], "8GB")
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(problems)
    report = options["performance_report"]
    if report is not None:
        from ..io.atomic import check_target

        check_target(Path(report).absolute(), f"--performance-report {report}")
    return kind


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
