"""How a graph runs: in threads of this process, or on a Dask cluster that is started or joined."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import dask

from ..errors import InputError
from ..system.processes import cpu_count
from . import clusters  # noqa: F401  (its backends)
from .amounts import parse_memory
from .backends import BACKENDS, Backend, SchedulerOptions
from .door import OPEN_DOOR
from .watch import explained

if TYPE_CHECKING:
    from distributed import Client


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
    tls_ca_file: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    insecure: bool | None = None,
    wait: float | None = None,
    performance_report: str | Path | None = None,
) -> Iterator[Client | None]:
    """Run Dask computations inside the block as asked.

    Parameters
    ----------
    scheduler : str or distributed.Client
        ``local`` (threads of this process), ``synchronous`` (one task after the other),
        ``local-cluster`` (processes on this machine), ``slurm`` (SLURM jobs), or the address of a
        running Dask scheduler, ``tls://host:port``. A client, such as this function yields, is used
        as it is and left open: so one cluster serves many calls, also from several threads.
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
    tls_ca_file, tls_cert, tls_key : str or Path, optional
        PEM files that let this process into a running cluster: the authority that signed its
        certificates, a certificate, and its key. Default: ``distributed.comm.tls`` of Dask's
        configuration.
    insecure : bool, optional
        Plain ``tcp://``: whoever reaches the ports of scheduler and workers can run code as you.
        Default: connections are encrypted, and only who has the key is let in.
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
    options = SchedulerOptions(
        scheduler,
        threads,
        workers,
        memory,
        interface,
        scheduler_file,
        slurm_config,
        tls_ca_file,
        tls_cert,
        tls_key,
        insecure or None,
        wait,
        performance_report,
    )
    with check_options(options).start(options) as client:
        yield client


@contextlib.contextmanager
def _in_threads(options: SchedulerOptions) -> Iterator[None]:
    # The function, not its name: for a name Dask imports distributed, to see if there is a client.
    threads = options.threads or cpu_count()
    with dask.config.set(scheduler=dask.threaded.get, num_workers=threads):
        yield


@contextlib.contextmanager
def _one_by_one(options: SchedulerOptions) -> Iterator[None]:
    with dask.config.set(scheduler=dask.local.get_sync):
        yield


_OF_THIS_PROCESS = frozenset({"threads", "memory"})
BACKENDS["local"] = Backend("--scheduler local", _OF_THIS_PROCESS, _in_threads)
# It has no threads to choose; but to name them is no mistake either.
BACKENDS["synchronous"] = Backend("--scheduler synchronous", _OF_THIS_PROCESS, _one_by_one)


# -- what was asked for --------------------------------------------------------------------------


def names() -> list[str]:
    """What ``--scheduler`` may be, beside an address."""
    known = ("local", "synchronous", "local-cluster", "slurm")
    others = sorted(set(BACKENDS) - {*known, "address"})
    return [*known, *others]


def _backend_name(options: SchedulerOptions) -> str:
    """The key in `BACKENDS`."""
    scheduler = options.scheduler
    if options.scheduler_file is not None:
        if scheduler != "local":
            raise InputError(f"--scheduler {scheduler} and --scheduler-file: expected one of them")
        return "address"
    if re.match(r"\w+://", scheduler):
        if not re.fullmatch(r"(tcp|tls)://(\[.+\]|[^:/]+):\d+", scheduler):
            raise InputError(f"--scheduler {scheduler}: expected an address tls://host:port")
        return "address"
    if scheduler not in names():
        expected = ", ".join(names())
        raise InputError(
            f"--scheduler {scheduler}: expected one of {expected} or an address tls://host:port"
        )
    return scheduler


def check_options(options: SchedulerOptions) -> Backend:
    """Options must be usable, and with this scheduler.

    Returns
    -------
    Backend
        That of the scheduler.

    Raises
    ------
    InputError
    """
    backend = BACKENDS[_backend_name(options)]
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "scheduler"}
    problems = [
        f"{_option(key)} means nothing to {backend.title}"
        for key, value in given.items()
        if value is not None and key not in backend.accepts
    ]
    for key in ("threads", "workers"):
        if given[key] is not None and given[key] < 1:
            problems.append(f"--{key} {given[key]}: expected at least 1")
    if options.wait is not None and not options.wait > 0:
        problems.append(f"--wait {options.wait}: expected seconds, more than 0")
    if options.memory is not None:
        try:
            parse_memory(options.memory, "8GB")
        except InputError as error:
            problems.append(str(error))
    problems += _about_the_door(options)
    if problems:
        raise InputError(problems)
    if options.performance_report is not None:
        from ..io.atomic import check_target

        report = options.performance_report
        check_target(Path(report).absolute(), f"--performance-report {report}")
    return backend


def _about_the_door(options: SchedulerOptions) -> list[str]:
    """What is wrong with certificates and addresses."""
    if options.scheduler.startswith("tcp://") and not options.insecure:
        return [
            f"--scheduler {options.scheduler}: {OPEN_DOOR}; expected tls://host:port, or --insecure"
        ]
    if options.scheduler.startswith("tls://") and options.insecure:
        return [f"--scheduler {options.scheduler} and --insecure: expected one of them"]
    files = {key: getattr(options, key) for key in ("tls_ca_file", "tls_cert", "tls_key")}
    if not any(files.values()):
        return []
    missing = [_option(key) for key, file in files.items() if file is None]
    if missing:
        return [f"{', '.join(missing)}: expected all of --tls-ca-file, --tls-cert, --tls-key"]
    return [
        f"{_option(key)} {file}: there is no such file"
        for key, file in files.items()
        if not Path(file).is_file()
    ]


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
