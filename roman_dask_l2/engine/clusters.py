"""Dask clusters: started for a run, or joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from ..errors import ClusterError, InputError, NoWorkers
from ..system.processes import KEPT, ONE_THREAD, cpu_count
from ..system.workarounds import start_workers
from .backends import BACKENDS, Backend, Cluster, ClusterStarter, SchedulerOptions
from .door import check_protocol, security_of_others, security_of_run
from .private import private_scratch
from .progress import HEARTBEAT
from .watch import ANSWER, POLL, compare_versions, duration_text, explained, watched

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

WAIT = 300.0
"""Seconds without any worker after which a run is given up."""

WRITTEN = 3.0
"""Seconds after which a scheduler's file that cannot be read is none."""

ENVIRONMENT = {
    # Use freed memory again: with less, each large array is made of new pages.
    **{name: str(value) for name, value in KEPT.items()},
    # One thread per task: Dask has the others.
    **dict.fromkeys(ONE_THREAD, "1"),
}
"""What a worker's process must be born with: libraries look only once."""

CONFIGURATION: dict[str, Any] = {
    # A thread gets its next tile when it is free, so that few are in memory at a time.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    # A worker that died and is not back by then is given up and replaced.
    "distributed.deploy.lost-worker-timeout": "30s",
    # Until a worker's port for them is closed, it has no pages.
    "distributed.worker.http.routes": [],
    # Those of the scheduler show something and do nothing.
    "distributed.scheduler.http.routes": ["roman_dask_l2.engine.pages"],
}

WORKER_PROCESS = "roman_dask_l2.engine.worker_process"
"""What a worker loads first: it has no pages, and ends at once."""


# -- clusters ------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_cluster(start: ClusterStarter, options: SchedulerOptions) -> Iterator[Client]:
    """A client of a cluster that is started for the block, or that runs already."""
    from distributed import Client

    wait = WAIT if options.wait is None else options.wait
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIGURATION))
        client_log = logging.getLogger("distributed.client")
        client_log.addFilter(_no_report)
        stack.callback(client_log.removeFilter, _no_report)
        # It stays, as what it keeps out is said when futures are collected, which may be later.
        logging.getLogger("asyncio").addFilter(_no_interrupted_waits)
        over = stack.enter_context(_silence())
        stack.enter_context(warnings.catch_warnings())
        # The dashboard's address is logged anyway.
        warnings.filterwarnings("ignore", r"Port \d+ is already in use")
        cluster = start(options, stack)
        target = cluster.target
        try:
            # A scheduler of our own is there, however little time the workers have.
            limit = min(wait, ANSWER) if isinstance(target, str) else ANSWER
            client = Client(target, name="roman-dask-l2", timeout=limit, security=cluster.security)
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"{target}: no Dask scheduler answers there") from error
        stack.enter_context(client)
        stack.enter_context(_ended_at_once(cluster, over))
        log.info("dashboard: %s", client.dashboard_link)
        # Nannies take variables from here too, and these take precedence.
        with explained(client), _variables(cluster.environment):
            wanted = cluster.start_workers()
            _wait_for_workers(client, wanted, wait, cluster.describe)
            compare_versions(client)
        stack.enter_context(_same_versions(client))
        stack.enter_context(watched(client, wanted, wait, cluster.describe, cluster.maintain))
        with _report(options.performance_report), explained(client):
            yield client


def local_cluster(options: SchedulerOptions, stack: contextlib.ExitStack) -> Cluster:
    """Worker processes on this machine."""
    stack.enter_context(private_scratch())
    wanted, threads = _processes(options.workers, options.threads)
    security = security_of_run(options, stack)
    started = _local_cluster(threads, options.memory, options.interface, security)
    target = stack.enter_context(started)

    def ask_for_workers() -> int:
        target.scale(wanted)
        return wanted

    refill, kill = partial(_refill, target, wanted), partial(_kill_workers, target)
    return Cluster(target, ask_for_workers, refill, kill_workers=kill, environment=ENVIRONMENT)


def slurm_jobs(options: SchedulerOptions, stack: contextlib.ExitStack) -> Cluster:
    """SLURM jobs with workers in them."""
    settings = _slurm_settings(options)
    folder = settings.pop("shared_temp_directory", None)
    security = security_of_run(options, stack, Path(folder) if folder else Path.cwd())
    stack.enter_context(private_scratch())
    jobs = _slurm(settings, security)
    target = stack.enter_context(jobs.cluster)

    def ask_for_workers() -> int:
        return jobs.submit(options.workers or 1)

    return Cluster(target, ask_for_workers, jobs.replace, jobs.describe, jobs.cancel)


def running_cluster(options: SchedulerOptions, stack: contextlib.ExitStack) -> Cluster:
    """A cluster that others have started."""
    wait = WAIT if options.wait is None else options.wait
    target = _address(options.scheduler, options.scheduler_file, wait)
    return Cluster(
        target, lambda: options.workers or 1, security=security_of_others(target, options)
    )


_EVERY_CLUSTER = {"workers", "wait", "performance_report", "insecure"}
_TLS = frozenset({"tls_ca_file", "tls_cert", "tls_key"})
_OF_OURS = _EVERY_CLUSTER | {"threads", "memory", "interface"}

BACKENDS["local-cluster"] = Backend(
    "--scheduler local-cluster", frozenset(_OF_OURS), partial(on_cluster, local_cluster)
)
BACKENDS["slurm"] = Backend(
    "--scheduler slurm", frozenset(_OF_OURS | {"slurm_config"}), partial(on_cluster, slurm_jobs)
)
BACKENDS["address"] = Backend(
    "a running cluster",
    frozenset(_EVERY_CLUSTER | _TLS | {"scheduler_file"}),
    partial(on_cluster, running_cluster),
)


@contextlib.contextmanager
def _same_versions(client: Client) -> Iterator[None]:
    """Those who join later are looked at before they get a task."""
    from .same_versions import same_versions

    with same_versions(client, log.warning):
        yield


def _no_report(record: logging.LogRecord) -> bool:
    """Where the scheduler is gone, the attempt to reach it again is ended; its traceback says
    nothing that the error does not say."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def _no_interrupted_waits(record: logging.LogRecord) -> bool:
    """Where a run is interrupted, each future that was waited for tells asyncio that it is
    cancelled, and nobody asks for that any more: a traceback for each, of no use."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ not in ("AllExit", "CommClosedError")


def _refill(cluster: Any, wanted: int) -> None:
    """Start workers in place of those that were given up."""
    if len(cluster.workers) < wanted:
        with _variables(ENVIRONMENT):
            cluster.scale(wanted)
            start_workers(cluster, wanted)  # they are born now, not when this is over


@contextlib.contextmanager
def _ended_at_once(cluster: Cluster, over: threading.Event) -> Iterator[None]:
    """Where the block is interrupted, its workers do not go on while the cluster closes."""
    try:
        yield
    except KeyboardInterrupt:
        over.set()
        cluster.kill_workers()
        raise


@contextlib.contextmanager
def _silence() -> Iterator[threading.Event]:
    """What distributed says once the event is set is left out: that it does not reach workers
    which were ended on purpose, for one."""
    over = threading.Event()

    def wanted(record: logging.LogRecord) -> bool:
        return not over.is_set()

    places: list[logging.Filterer] = [*logging.getLogger("distributed").handlers]
    places += [logging.getLogger("asyncio"), logging.getLogger("tornado.application")]
    for place in places:
        place.addFilter(wanted)
    try:
        yield over
    finally:
        for place in places:
            place.removeFilter(wanted)


def _kill_workers(cluster: Any) -> None:
    """End worker processes of this machine at once: what they are at is of no use any more, and on
    a busy machine they take longer to end by themselves than there is time for."""
    for nanny in list(cluster.workers.values()):
        nanny.close_gracefully("interrupted")  # it starts no other worker
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _processes(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Worker processes and threads of each, as LocalCluster chooses them."""
    from distributed.deploy.utils import nprocesses_nthreads

    if workers is None and threads is None:
        return nprocesses_nthreads()
    if workers is None:
        return max(1, cpu_count() // (threads or 1)), threads or 1
    return workers, threads or max(1, cpu_count() // workers)


def _local_cluster(threads: int, memory: str | None, interface: str | None, security: Any) -> Any:
    """A cluster without workers yet, so that its dashboard can be told at once."""
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=0,
            threads_per_worker=threads,
            memory_limit=memory or "auto",
            interface=interface,
            processes=True,
            dashboard_address="127.0.0.1:8787",
            security=security,
            protocol="tls://" if security.require_encryption else "tcp://",
            preload=WORKER_PROCESS,
        )
    except (OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):  # such as an interface that is not there
            raise InputError(f"--scheduler local-cluster: {cause}") from error
        raise ClusterError(f"the local cluster does not start: {cause}") from error


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of this process, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _slurm_settings(options: SchedulerOptions) -> dict[str, Any]:
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--scheduler slurm needs dask-jobqueue; pip install 'roman-dask-l2[slurm]'"
        ) from error
    from .slurm import load_settings

    file = None if options.slurm_config is None else Path(options.slurm_config)
    settings = load_settings(file, options.threads, options.memory, options.interface, ENVIRONMENT)
    check_protocol(settings, bool(options.insecure))
    return settings


def _slurm(settings: dict[str, Any], security: Any) -> Any:
    from .slurm import Jobs

    locked = security.require_encryption
    protocol = "tls://" if locked else settings.get("protocol", "tcp://")
    return Jobs(settings | {"protocol": protocol, "security": security if locked else None})


def _address(scheduler: str, file: str | Path | None, wait: float) -> str:
    """Address of a running scheduler; its file may still be on its way."""
    if file is None:
        return scheduler
    import json

    path, began, said = Path(file), time.monotonic(), False
    while True:
        try:
            return json.loads(path.read_text())["address"]
        except FileNotFoundError as error:
            if time.monotonic() - began > wait:
                raise ClusterError(
                    f"{path}: no scheduler wrote it within {duration_text(wait)}"
                ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Dask writes it in place: what is new may be half of it.
            if time.monotonic() - began > min(WRITTEN, wait):
                raise InputError(
                    f"--scheduler-file {path}: expected a file that dask scheduler has written"
                ) from error
        if not said:
            log.info("waiting for %s (limit %s)", path, duration_text(wait))
            said = True
        time.sleep(min(POLL, wait / 10))


def _wait_for_workers(
    client: Client, wanted: int, limit: float, describe: Callable[[], str]
) -> None:
    """Wait for the first worker; the others may join during the run."""
    began = spoken = time.monotonic()
    said = None
    while True:
        ready = len(client.nthreads())
        now = time.monotonic()
        if ready:
            more = "" if ready >= wanted else "; beginning, the others may join"
            log.info("%d of %d workers ready%s", ready, wanted, more)
            return
        if said is None or now - spoken > HEARTBEAT:  # once at least, however long the look took
            log.info("0 of %d workers ready, waiting (limit %s)", wanted, duration_text(limit))
            said, spoken = ready, now
        if now - began > limit:
            raise NoWorkers(
                f"none of {wanted} workers was ready within {duration_text(limit)} (--wait)",
                describe(),
            )
        time.sleep(min(POLL, limit / 10))


@contextlib.contextmanager
def _report(file: str | Path | None) -> Iterator[None]:
    if file is None:
        yield
        return
    from distributed import performance_report

    from ..io.atomic import replacing

    with replacing(Path(file)) as (part,):
        report = performance_report(filename=os.fspath(part))
        report.__enter__()
        yield
        report.__exit__(None, None, None)
    log.info("wrote %s", file)
