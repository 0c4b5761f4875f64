"""A worker without web pages, for ``dask worker --preload``.

Every worker of distributed opens a port for them, also with ``--no-dashboard``.
"""

from __future__ import annotations

from typing import Any


def dask_setup(worker: Any) -> None:
    """Close the port, before the worker is known to the scheduler."""
    worker.http_server.stop()
    worker.services.pop("dashboard", None)
