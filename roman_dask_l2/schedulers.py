"""How a graph runs: in threads of this process, or on a Dask cluster that is started or joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from .errors import ClusterError, InputError, NoWorkers, WorkersDied
from .progress import HEARTBEAT

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

SCHEDULERS = ("local", "synchronous", "local-cluster", "slurm")
"""``local``: threads of this process; ``synchronous``: one task after the other;
``local-cluster``: processes on this machine; ``slurm``: SLURM jobs. Beside these, the address of a
running Dask scheduler."""

WAIT = 300.0
"""Seconds without any worker after which a run is given up."""

POLL = 1.0
"""Seconds between looks at the cluster."""

SETTLE = 30.0
"""Seconds that a failed run waits for tasks that are still at work."""

HURRY = 2.0
"""Seconds that an interrupted one waits for them."""

WRITTEN = 3.0
"""Seconds after which a scheduler's file that cannot be read is none."""

ANSWER = 30.0
"""Seconds that a worker has to say which versions it has."""

ENVIRONMENT = {
    # Give freed memory back: workers are judged by what the system sees.
    "MALLOC_TRIM_THRESHOLD_": "65536",
    # One thread per task: Dask has the others.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
"""What a worker's process must be born with: libraries look only once."""

CONFIGURATION: dict[str, Any] = {
    # A thread gets its next tile when it is free, so that few are in memory at a time.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    # A worker that died and is not back by then is given up and replaced.
    "distributed.deploy.lost-worker-timeout": "30s",
}

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


def cpu_count() -> int:
    """Processors that this process may use (a SLURM job's share, not the node's)."""
    return len(os.sched_getaffinity(0))


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
        it (see `roman_dask_l2.memory`), e.g. ``8GB``.
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
        with scheduler.as_current(), _explained(scheduler):
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
    kind = _kind(scheduler, options)
    _check(scheduler, kind, options)
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
        with _cluster(kind, scheduler, **given) as client:
            yield client


# -- what was asked for --------------------------------------------------------------------------


def _kind(scheduler: str, options: Mapping[str, Any]) -> str:
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


def _check(scheduler: str, kind: str, options: Mapping[str, Any]) -> None:
    """Options must be usable, and with this scheduler."""
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
        from dask.utils import parse_bytes

        try:
            parse_bytes(options["memory"])
        except (ValueError, TypeError, AttributeError):
            problems.append(f"--memory {options['memory']}: expected an amount such as 8GB")
    if problems:
        raise InputError(problems)
    report = options["performance_report"]
    if report is not None:
        from .io.atomic import check_target

        check_target(Path(report).absolute(), f"--performance-report {report}")


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


# -- clusters ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(
    kind: str,
    scheduler: str,
    threads: int | None = None,
    workers: int | None = None,
    memory: str | None = None,
    interface: str | None = None,
    scheduler_file: str | Path | None = None,
    slurm_config: str | Path | None = None,
    wait: float = WAIT,
    performance_report: str | Path | None = None,
) -> Iterator[Client]:
    """A client of a cluster that is started for the block, or that runs already."""
    from distributed import Client

    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIGURATION))
        client_log = logging.getLogger("distributed.client")
        client_log.addFilter(_no_report)
        stack.callback(client_log.removeFilter, _no_report)
        stack.enter_context(warnings.catch_warnings())
        # The dashboard's address is told anyway.
        warnings.filterwarnings("ignore", r"Port \d+ is already in use")
        describe: Callable[[], str] = str
        care: Callable[[], None] = _nothing
        target: Any
        if kind == "local-cluster":
            wanted, threads = _processes(workers, threads)
            target = stack.enter_context(_local_cluster(threads, memory, interface))
            care = partial(_refill, target, wanted)
        elif kind == "slurm":
            jobs = _slurm(slurm_config, threads, memory, interface)
            target = stack.enter_context(jobs.cluster)
            describe, care = jobs.describe, jobs.replace
        else:
            target = _address(scheduler, scheduler_file, wait)
            wanted = workers or 1
        try:
            # A scheduler of our own is there, however little time the workers have.
            limit = min(wait, ANSWER) if isinstance(target, str) else ANSWER
            client = Client(target, name="roman-dask-l2", timeout=limit)
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"{target}: no Dask scheduler answers there") from error
        stack.enter_context(client)
        log.info("dashboard: %s", client.dashboard_link)
        if kind == "slurm":
            wanted = jobs.submit(workers or 1)
        # Nannies take variables from here too, and what stands here wins.
        with _explained(client), _variables(ENVIRONMENT if kind == "local-cluster" else {}):
            if kind == "local-cluster":
                target.scale(wanted)
            _wait_for_workers(client, wanted, wait, describe)
            _compare_versions(client)
        stack.enter_context(_watched(client, wanted, wait, describe, care))
        with _report(performance_report), _explained(client):
            yield client


def _no_report(record: logging.LogRecord) -> bool:
    """Where the scheduler is gone, the attempt to reach it again is ended; its traceback says
    nothing that the error does not say."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def _nothing() -> None:
    """No care is needed."""


def _refill(cluster: Any, wanted: int) -> None:
    """Start workers in place of those that were given up."""
    if len(cluster.workers) < wanted:
        with _variables(ENVIRONMENT):
            cluster.scale(wanted)
            cluster.sync(cluster._correct_state)  # they are born now, not when this is over


def _processes(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Worker processes and threads of each, as LocalCluster chooses them."""
    from distributed.deploy.utils import nprocesses_nthreads

    if workers is None and threads is None:
        return nprocesses_nthreads()
    if workers is None:
        return max(1, cpu_count() // (threads or 1)), threads or 1
    return workers, threads or max(1, cpu_count() // workers)


def _local_cluster(threads: int, memory: str | None, interface: str | None) -> Any:
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


def _slurm(
    file: str | Path | None, threads: int | None, memory: str | None, interface: str | None
) -> Any:
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--scheduler slurm needs dask-jobqueue; pip install 'roman-dask-l2[slurm]'"
        ) from error
    from .slurm import Jobs, load_settings

    path = None if file is None else Path(file)
    return Jobs(load_settings(path, threads, memory, interface, ENVIRONMENT))


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
                raise ClusterError(f"{path}: no scheduler wrote it within {_span(wait)}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Dask writes it in place: what is new may be half of it.
            if time.monotonic() - began > min(WRITTEN, wait):
                raise InputError(
                    f"--scheduler-file {path}: expected a file that dask scheduler has written"
                ) from error
        if not said:
            log.info("waiting for %s (limit %s)", path, _span(wait))
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
            log.info("0 of %d workers ready, waiting (limit %s)", wanted, _span(limit))
            said, spoken = ready, now
        if now - began > limit:
            raise NoWorkers(
                f"none of {wanted} workers was ready within {_span(limit)} (--wait)", describe()
            )
        time.sleep(min(POLL, limit / 10))


def _compare_versions(client: Client, workers: Collection[str] | None = None) -> None:
    """Workers (all, or these) must have what we have: other versions may give other bits."""
    from .provenance import versions

    here = versions()
    try:
        there = _ask(client, versions, ANSWER, workers)
    except ImportError as error:
        raise ClusterError(f"the workers have another environment than this: {error}") from error
    except TimeoutError as error:
        if workers is not None:  # one that has just come: the others go on
            raise
        raise ClusterError(f"a worker does not answer within {_span(ANSWER)}") from error
    for address, found in there.items():
        for name, version in here.items():
            if found.get(name) != version:
                raise ClusterError(
                    f"worker {address} has {name} {found.get(name)}, here it is {version}: "
                    "results could differ"
                )


@contextlib.contextmanager
def _report(file: str | Path | None) -> Iterator[None]:
    if file is None:
        yield
        return
    from distributed import performance_report

    from .io.atomic import replacing

    with replacing(Path(file)) as (part,):
        report = performance_report(filename=os.fspath(part))
        report.__enter__()
        yield
        report.__exit__(None, None, None)
    log.info("wrote %s", file)


# -- what happens on the way ---------------------------------------------------------------------


class _Watch(threading.Thread):
    """Looks at the cluster now and then, and ends the run if nobody is left to do it."""

    def __init__(
        self,
        client: Client,
        wanted: int,
        limit: float,
        describe: Callable[[], str],
        care: Callable[[], None],
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.problem: ClusterError | None = None
        self._client, self._wanted, self._limit = client, wanted, limit
        self._describe, self._care = describe, care
        self._known: set[str] = set()
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        self.join(timeout=10)

    def run(self) -> None:
        last, seen = self._wanted, time.monotonic()
        while not self._over.wait(min(POLL, self._limit / 10)):
            try:
                workers = set(self._client.nthreads())
                ready = len(workers)
                now = time.monotonic()
                self._look_at(workers - self._known)
                self._known = workers
            except ClusterError as error:
                self._give_up(error)
            except Exception:  # no scheduler: the client sees that by itself; a worker that has
                continue  # gone again is looked at when it comes back
            if ready != last:
                log.info("%d of %d workers ready", ready, self._wanted)
                last = ready
            if ready:
                seen = now
            elif now - seen > self._limit:
                span = _span(self._limit)
                message = f"all workers are gone, none came back within {span} (--wait)"
                self._give_up(NoWorkers(message, self._describe()))
            try:
                self._care()
            except Exception:
                log.exception("lost workers cannot be replaced")

    def _look_at(self, late: Collection[str]) -> None:
        """Workers that have joined since the last look."""
        if late:
            _compare_versions(self._client, late)

    def _give_up(self, problem: ClusterError) -> None:
        """End whatever waits for results."""
        from distributed import Future

        if self.problem is None:
            self.problem = problem
        waiting: list[Any] = [Future(key, self._client) for key in list(self._client.futures)]
        self._client.cancel(waiting, force=True)


_watches: weakref.WeakKeyDictionary[Any, _Watch] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _watched(client: Client, *how: Any) -> Iterator[None]:
    watch = _Watch(client, *how)
    _watches[client] = watch
    watch.start()
    try:
        yield
    finally:
        watch.stop()


@contextlib.contextmanager
def _explained(client: Client) -> Iterator[None]:
    """Say in plain words what went wrong with a cluster; leave no task at work behind."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    try:
        yield
    except (ClusterError, WorkersDied):  # said already, in a block inside this one
        raise
    except KilledWorker as error:
        _settle(client)
        raise WorkersDied(
            f"task {_name(error.task)} was tried {error.allowed_failures + 1} times and its worker "
            f"died each time, the last at {error.last_worker.address}; the usual cause is too "
            "little memory (--memory, fewer --threads)"
        ) from error
    except (CancelledError, CommClosedError) as error:
        watch = _watches.get(client)
        if watch is not None and watch.problem is not None:
            raise watch.problem from error
        # Not the names of all tasks that were at work, only why they are given up.
        lines = str(error).splitlines()
        reason = next((line for line in lines if "for reason: " in line), (lines or [""])[-1])
        raise ClusterError(f"the Dask scheduler is gone or gave up the run: {reason}") from error
    except BaseException as error:
        _settle(client, HURRY if isinstance(error, KeyboardInterrupt) else SETTLE)
        raise


def _name(key: Any) -> str:
    """A task's key for people: step and tile, without the random part."""
    name, *index = key if isinstance(key, tuple) else (key,)
    plain = re.sub(r"-[0-9a-f]{32}", "", str(name))
    return f"{plain} ({', '.join(map(str, index))})" if index else plain


def _settle(client: Client, limit: float = SETTLE) -> None:
    """Wait for tasks that were at work when the run failed: they cannot be stopped, and would
    write into files that are about to be removed."""
    end = time.monotonic() + limit
    with contextlib.suppress(Exception):
        time.sleep(0.1)  # until the workers know that nobody wants the others
        busy: dict[str, set[Any]] = _ask(client, _at_work, limit, on_error="ignore")
        while any(busy.values()) and time.monotonic() < end:
            time.sleep(0.1)
            left = max(end - time.monotonic(), 0.1)
            now = _ask(client, _at_work, left, on_error="ignore")
            busy = {worker: keys & now.get(worker, set()) for worker, keys in busy.items()}


def _ask(
    client: Client,
    function: Callable[..., Any],
    seconds: float,
    workers: Collection[str] | None = None,
    on_error: str = "raise",
) -> dict[str, Any]:
    """What a function returns on the workers; one that stands still is not waited for for ever."""
    return client.sync(
        client._run,
        function,
        workers=None if workers is None else list(workers),
        on_error=on_error,
        callback_timeout=seconds,
    )


def _at_work(dask_worker: Any) -> set[Any]:
    """Keys of the tasks that are computed at this moment; runs on the workers."""
    return {task.key for task in dask_worker.state.executing}


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 30 == 0 else f"{seconds:g} s"
