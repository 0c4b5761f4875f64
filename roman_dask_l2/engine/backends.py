"""What a scheduler is to this program, and the table of those that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class SchedulerOptions:
    """What a user asks of a scheduler; None where nothing is asked for.

    Attributes
    ----------
    scheduler : str
        A name in `BACKENDS`, or the address of a running Dask scheduler.
    threads, workers : int or None
    memory, interface : str or None
    scheduler_file, slurm_config, performance_report : str, Path or None
    tls_ca_file, tls_cert, tls_key : str, Path or None
    insecure : bool or None
    wait : float or None
        Seconds.
    """

    scheduler: str = "local"
    threads: int | None = None
    workers: int | None = None
    memory: str | None = None
    interface: str | None = None
    scheduler_file: str | Path | None = None
    slurm_config: str | Path | None = None
    tls_ca_file: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    insecure: bool | None = None
    wait: float | None = None
    performance_report: str | Path | None = None


@dataclass(frozen=True)
class Backend:
    """One way to run Dask graphs.

    Attributes
    ----------
    title : str
        What messages call it.
    accepts : frozenset of str
        Options in `SchedulerOptions` that mean something to it.
    start : callable
        ``start(options)``: a context in which Dask computes there; it yields the client, or None
        where there is no cluster.
    """

    title: str
    accepts: frozenset[str]
    start: Callable[[SchedulerOptions], AbstractContextManager[Client | None]]


BACKENDS: dict[str, Backend] = {}
"""Name -> backend. ``address`` is that of a cluster which runs already."""


def _nothing() -> None:
    """There is nothing to maintain."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up, its workers not yet asked for.

    Attributes
    ----------
    target : object
        What ``distributed.Client`` connects to: a cluster, or an address.
    start_workers : callable
        Starts them, and returns how many are expected.
    maintain : callable
        Called now and then: replaces workers that were lost.
    describe : callable
        Why there may be no workers, for the message of a run that is given up.
    kill_workers : callable
        Called where the run is interrupted, before the cluster is closed.
    environment : mapping of str to str
        Variables that the workers' processes are born with.
    security : distributed.Security or None
        What is needed to be let in; a cluster that is started knows by itself.
    """

    target: Any
    start_workers: Callable[[], int]
    maintain: Callable[[], None] = _nothing
    describe: Callable[[], str] = str
    kill_workers: Callable[[], None] = _nothing
    environment: Mapping[str, str] = field(default_factory=dict)
    security: Any = None


ClusterStarter = Callable[[SchedulerOptions, ExitStack], Cluster]
"""``start(options, stack)``: what is to be closed after the run is left to the stack."""
