"""Progress of a local run: a bar on a terminal, a heartbeat line elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from dask.callbacks import Callback

log = logging.getLogger(__name__)

HEARTBEAT = 30.0
"""Seconds between lines where there is no terminal."""


class _Tasks(Callback):
    """Counts finished tasks and tells `show(done, total)`."""

    def __init__(self, show: Any) -> None:
        super().__init__()
        self._show, self._lock = show, threading.Lock()
        self._done = self._total = 0

    def _start_state(self, dsk: Any, state: Any) -> None:
        self._total = len(state["ready"]) + len(state["waiting"])

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        with self._lock:
            self._done += 1
        self._show(self._done, self._total)


@contextlib.contextmanager
def progress(title: str, enabled: bool = True) -> Iterator[None]:
    """Show how far the Dask computation inside the block is.

    Parameters
    ----------
    title : str
    enabled : bool
        False shows nothing.
    """
    if not enabled:
        yield
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            with _Tasks(lambda done, total: bar.update(task, completed=done, total=total)):
                yield
    else:
        last = time.monotonic()

        def beat(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= HEARTBEAT:
                last = time.monotonic()
                log.info("%s: %d of %d tasks done", title, done, total)

        with _Tasks(beat):
            yield
