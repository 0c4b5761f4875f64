"""Dask tasks and their keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, Task, TaskRef


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
        ``function(*call, values)``, `values` being those of `after`.
    calls : iterable of sequence
    after : sequence of Delayed
    work : dict, optional
        The tasks' name, and how many there are, are added to it.
    """
    name, end = unique(label), unique(f"{label}-all")
    values = references_to(after)
    tasks: dict[Any, Task] = {
        (name, i): Task((name, i), function, *call, values) for i, call in enumerate(calls)
    }
    if work is not None:
        work[name] = len(tasks)
    tasks[end] = Task(end, list, List(*map(TaskRef, tasks)))
    return last_task(end, tasks, after)


def references_to(values: Iterable[Delayed]) -> List:
    """The values as one argument of a task, which so waits for them."""
    return List(*(TaskRef(value.key) for value in values))


def named(values: Mapping[str, Delayed]) -> Task:
    """A mapping of names to values as one argument of a task."""
    return Task(None, _mapping, list(values), references_to(values.values()))


def _mapping(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def constant(label: str, value: Any, after: Sequence[Delayed] = ()) -> Delayed:
    """A value that tasks share, there once those of `after` are."""
    key = unique(label)
    return last_task(key, {key: Task(key, _first, value, references_to(after))}, after)


def _first(value: Any, done: Any) -> Any:
    return value


def last_task(key: str, tasks: dict[Any, Task], dependencies: Sequence[Any]) -> Delayed:
    """Many tasks as one layer, which costs far less than a ``delayed`` call for each."""
    # The layer has the key's name: Dask's blockwise takes the one for the other.
    whole = HighLevelGraph.from_collections(key, tasks, dependencies=list(dependencies))
    return Delayed(key, whole, layer=key)


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
