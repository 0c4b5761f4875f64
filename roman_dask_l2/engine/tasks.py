"""Dask tasks and their keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph


class Fixed:
    """Arguments of a task that Dask shall not look into (it takes tuples for keys or tasks)."""

    def __init__(self, *values: Any) -> None:
        self.values = values


def unique(label: str) -> str:
    """A key that no other run has: several may share a cluster."""
    return f"{label}-{uuid.uuid4().hex}"


def fan(
    label: str,
    function: Callable[..., Any],
    calls: Iterable[Sequence[Any]],
    after: Sequence[Delayed] = (),
    work: dict[str, int] | None = None,
) -> Delayed:
    """A task for each of `calls`, and one that collects their results in a list.

    Parameters
    ----------
    label : str
        What the dashboard and the progress bar call them.
    function : callable
        ``function(*call, values)``, `values` being those of `after`. It is not looked into.
    calls : iterable of sequence
    after : sequence of Delayed
    work : dict, optional
        The tasks' name, and how many there are, are added to it.
    """
    name, end = unique(label), unique(f"{label}-all")
    waits = [value.key for value in after]
    tasks: dict[Any, Any] = {
        (name, i): (_call, Fixed(function, *call), waits) for i, call in enumerate(calls)
    }
    if work is not None:
        work[name] = len(tasks)
    tasks[end] = (list, list(tasks))
    return last_task(end, tasks, after)


def _call(fixed: Fixed, values: list[Any]) -> Any:
    function, *arguments = fixed.values
    return function(*arguments, values)


def last_task(key: str, tasks: dict[Any, Any], dependencies: Sequence[Any]) -> Delayed:
    """Many tasks as one layer, which costs far less than a ``delayed`` call for each."""
    layer = unique("layer")
    whole = HighLevelGraph.from_collections(layer, tasks, dependencies=list(dependencies))
    return Delayed(key, whole, layer=layer)


def task_graph(collections: Any) -> dict[Any, set[Any]]:
    """Keys of all tasks that some Dask collections need, each with those that it waits for.

    Parameters
    ----------
    collections : nested structure of Dask collections

    Returns
    -------
    dict of key to set of keys
    """
    from dask.base import unpack_collections
    from dask.core import flatten, get_dependencies

    found, _ = unpack_collections(collections)
    tasks = HighLevelGraph.merge(*(c.__dask_graph__() for c in found)).to_dict()
    pending = list(flatten([c.__dask_keys__() for c in found]))
    waits: dict[Any, set[Any]] = {}
    while pending:
        key = pending.pop()
        if key not in waits:
            waits[key] = get_dependencies(tasks, key)
            pending += waits[key]
    return waits
