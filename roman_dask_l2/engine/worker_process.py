"""What the process of a worker does at its beginning and its end, for ``dask worker --preload``."""

from __future__ import annotations

from typing import Any

from ..system.workarounds import end_at_once


def dask_setup(worker: Any) -> None:
    """Close the port of the worker's pages, before the worker is known to the scheduler.

    Every worker of distributed opens one, also with ``--no-dashboard``.
    """
    worker.http_server.stop()
    worker.services.pop("dashboard", None)


def dask_teardown(worker: Any) -> None:
    """The worker has closed: its process ends without taking the modules apart.

    That takes seconds, with all that is loaded, and on a busy machine longer than the four after
    which the nanny kills it and says so.
    """
    end_at_once()
