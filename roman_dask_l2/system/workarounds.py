"""Every use of a name that another package keeps private, but for numba's in `core.jit`.

Such a name may change with any release. Each function says which version it was written for and
why the public way does not do, and falls back where the name is gone.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib.metadata
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import InputError


def forget_schemas() -> None:
    """Empty asdf's caches of schemas (asdf 6.0).

    asdf keeps the schemas of the last 128 files that it wrote and never looks at them again: 0.7 MB
    more with each exposure, 100 MB in all. Without these names memory grows by that much.
    """
    resolver = getattr(sys.modules.get("asdf._jsonschema.validators"), "RefResolver", None)
    for name in ("_get_subschemas_cache", "_find_in_subschemas"):
        with contextlib.suppress(AttributeError):
            getattr(resolver, name).cache_clear()


def model_tree(model: Any) -> Any:
    """The tree of a data model, whose entries can be exchanged unchecked (roman_datamodels 1.2).

    Arrays that are written elsewhere stand in it as placeholders, which the model would refuse.

    Raises
    ------
    InputError
        If models have no such tree any more: there is no other way to write the file.
    """
    try:
        return model._instance
    except AttributeError:
        version = importlib.metadata.version("roman_datamodels")
        raise InputError(
            f"roman_datamodels {version} cannot be used to write Level 2 files, expected 1.2"
        ) from None


def start_workers(cluster: Any, workers: int) -> None:
    """Start the missing workers of a cluster and wait until that is done (distributed 2026.8).

    ``cluster.scale`` does not wait, and only logs why workers cannot be started; it is what is left
    without this name.

    Parameters
    ----------
    cluster : distributed.SpecCluster
        Its `worker_spec` already describes the workers.
    workers : int
        How many workers there shall be.
    """
    correct = getattr(cluster, "_correct_state", None)
    if correct is None:
        cluster.scale(workers)
    else:
        cluster.sync(correct)


def run_on_workers(
    client: Any,
    function: Callable[..., Any],
    seconds: float,
    workers: Iterable[str] | None = None,
    on_error: str = "raise",
) -> dict[str, Any]:
    """What a function returns on the workers, waiting for `seconds` at most (distributed 2026.8).

    ``client.run``, which has no time limit, is what is left without this name.
    """
    addresses = None if workers is None else list(workers)
    run = getattr(client, "_run", None)
    if run is None:
        found: dict[str, Any] = client.run(function, workers=addresses, on_error=on_error)
        return found
    answers: dict[str, Any] = client.sync(
        run, function, workers=addresses, on_error=on_error, callback_timeout=seconds
    )
    return answers


def forget_request(client: Any) -> None:
    """Let the next result be asked for anew (distributed 2026.8).

    Results are fetched by a request that all who wait share. One that was cancelled because it took
    too long would make all that come after it fail at once. Without this name they do.
    """
    if hasattr(client, "_gather_future"):
        client._gather_future = None


def end_at_once() -> None:
    """Let a child process end as soon as its atexit functions have run (Python 3.11 to 3.14).

    Python would then clear all modules, one by one. That is all that is left out: threads have been
    joined by then. Nothing is done in a process that multiprocessing has not started, nor without
    this name: Python cannot be asked which function comes last.
    """
    run_the_others = getattr(atexit, "_run_exitfuncs", None)
    if run_the_others is None or multiprocessing.parent_process() is None:
        return

    def end() -> None:
        atexit.unregister(end)
        try:
            run_the_others()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    stream.flush()
            os._exit(0)

    atexit.register(end)


def parser_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser (Python 3.11 to 3.14); none without this name, so that the shell
    completes no file names."""
    return list(getattr(parser, "_actions", ()))
