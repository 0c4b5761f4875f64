"""What the process of a worker does at its beginning and its end, for ``dask worker --preload``."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from typing import Any

from ..system.workarounds import end_at_once


def dask_setup(worker: Any) -> None:
    """Close the port of the worker's pages, before the worker is known to the scheduler.

    Every worker of distributed opens one, also with ``--no-dashboard``. And Ctrl-C, which a
    terminal sends to all processes, is for the program, which has the worker's nanny end it: the
    worker would die of it with a traceback.
    """
    by_nanny = multiprocessing.parent_process() is not None
    if by_nanny and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.http_server.stop()
    worker.services.pop("dashboard", None)


def dask_teardown(worker: Any) -> None:
    """The worker has closed: its process ends without taking the modules apart.

    That takes seconds, with all that is loaded, and on a busy machine longer than the four after
    which the nanny kills it and says so.
    """
    end_at_once()
