"""Workers that join with other versions than the program's leave before they have had a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin
from distributed.core import Status

from ..system.versions import versions

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "roman-dask-l2-versions"


def difference(here: dict[str, str], there: dict[str, str]) -> str:
    """The first package that differs, in words; empty if none does."""
    for name, version in here.items():
        if there.get(name) != version:
            return f"has {name} {there.get(name)}, here it is {version}"
    return ""


class SameVersions(WorkerPlugin):
    """Set up on a worker when it joins, before it looks at the tasks that it was given.

    A worker that cannot even load this module fails at that, and gets no task either.

    Parameters
    ----------
    here : dict of str to str
        Versions of the program, as `versions` gives them.
    """

    name = TOPIC

    def __init__(self, here: dict[str, str]) -> None:
        self.here = here

    def setup(self, worker: Any) -> None:
        """Let the worker leave if it has something else."""
        differs = difference(self.here, versions())
        if differs:
            worker.log_event(TOPIC, f"worker {worker.address} {differs}: it gets no task")
            # Begins nothing from now on; it can close only when it is up, for its nanny waits.
            worker.status = Status.closing_gracefully
            worker.loop.call_later(0.1, worker.close, reason=differs)


@contextmanager
def same_versions(client: Client, warn: Any) -> Iterator[None]:
    """Refuse late workers with other versions, for the block.

    Parameters
    ----------
    client : distributed.Client
    warn : callable
        Called with what is to be said of such a worker.
    """
    client.subscribe_topic(TOPIC, lambda event: warn(str(event[1])))
    client.register_plugin(SameVersions(versions()), name=TOPIC)
    try:
        yield
    finally:
        if client.cluster is None:  # ours ends with the block; its workers may have ended already
            with suppress(Exception):  # the scheduler may be gone
                client.unsubscribe_topic(TOPIC)
                client.unregister_worker_plugin(TOPIC)
