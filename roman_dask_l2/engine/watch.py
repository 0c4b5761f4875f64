"""Watching a cluster: runs without workers are given up, failures are explained."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError, NoWorkers, WorkersDied
from ..system.workarounds import run_on_workers

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between looks at the cluster."""

SETTLE = 30.0
"""Seconds that a failed run waits for tasks that are still at work."""

HURRY = 2.0
"""Seconds that an interrupted one waits for them."""

ANSWER = 30.0
"""Seconds that a worker has to say which versions it has."""


def compare_versions(client: Client) -> None:
    """The workers that are there must have what we have: other versions may give other bits."""
    from ..system.versions import versions
    from .same_versions import difference

    here = versions()
    try:
        there = _ask(client, versions, ANSWER)
    except ImportError as error:
        raise ClusterError(f"the workers have another environment than this: {error}") from error
    except TimeoutError as error:
        raise ClusterError(f"a worker does not answer within {duration_text(ANSWER)}") from error
    for address, found in there.items():
        if differs := difference(here, found):
            raise ClusterError(f"worker {address} {differs}: results could differ")


# -- what happens on the way ---------------------------------------------------------------------


class _Watch(threading.Thread):
    """Looks at the cluster now and then, and ends the run if nobody is left to do it."""

    def __init__(
        self,
        client: Client,
        wanted: int,
        limit: float,
        describe: Callable[[], str],
        maintain: Callable[[], None],
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.problem: ClusterError | None = None
        self._client, self._wanted, self._limit = client, wanted, limit
        self._describe, self._maintain = describe, maintain
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        self.join(timeout=10)

    def run(self) -> None:
        last, seen = self._wanted, time.monotonic()
        while not self._over.wait(min(POLL, self._limit / 10)):
            try:
                ready = len(self._client.nthreads())
                now = time.monotonic()
            except Exception:  # no scheduler: the client sees that by itself
                continue
            if ready != last:
                log.info("%d of %d workers ready", ready, self._wanted)
                last = ready
            if ready:
                seen = now
            elif now - seen > self._limit:
                span = duration_text(self._limit)
                message = f"all workers are gone, none came back within {span} (--wait)"
                self._give_up(NoWorkers(message, self._describe()))
            try:
                self._maintain()
            except Exception:
                log.exception("lost workers cannot be replaced")

    def _give_up(self, problem: ClusterError) -> None:
        """End whatever waits for results."""
        from distributed import Future

        if self.problem is None:
            self.problem = problem
        waiting: list[Any] = [Future(key, self._client) for key in list(self._client.futures)]
        self._client.cancel(waiting, force=True)


_watches: weakref.WeakKeyDictionary[Any, _Watch] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def watched(client: Client, *how: Any) -> Iterator[None]:
    watch = _Watch(client, *how)
    _watches[client] = watch
    watch.start()
    try:
        yield
    finally:
        watch.stop()


@contextlib.contextmanager
def explained(client: Client) -> Iterator[None]:
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
    on_error: str = "raise",
) -> dict[str, Any]:
    """What a function returns on the workers; one that stands still is not waited for for ever."""
    return run_on_workers(client, function, seconds, on_error=on_error)


def _at_work(dask_worker: Any) -> set[Any]:
    """Keys of the tasks that are computed at this moment; runs on the workers."""
    return {task.key for task in dask_worker.state.executing}


def duration_text(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 30 == 0 else f"{seconds:g} s"
