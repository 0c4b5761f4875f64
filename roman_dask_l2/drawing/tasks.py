"""The Dask graph of a small detector as a picture: every task, and what it waits for."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..engine.schedulers import running
from ..engine.tasks import task_graph
from ..products.calibration import Target, calibration_graph, l2_file
from ..products.job import Job, prepare
from .canvas import Canvas, Circle, Line, Rect, Text

SIDE = 256
"""Side of the detector whose graph is drawn."""
TILE = (64, SIDE)
LABELS = 250
"""Width of the column with the names of tasks."""
ROW = 74
PITCH = 30
_UNIQUE = re.compile(r"-[0-9a-f]{32}|-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
COLORS = ("blue", "orange", "green", "purple", "grey")


def draw_tasks(graph: str | Path, per_step: bool = False) -> Canvas:
    """Draw the tasks that calibrate a simulated exposure of a small detector.

    Parameters
    ----------
    graph : str or Path
        The recipe.
    per_step : bool
        One Dask layer for each step.

    Raises
    ------
    InputError
        If the recipe cannot be used.
    """
    from ..config.model import load_config
    from ..simulation.simulate import simulate

    with TemporaryDirectory() as folder:
        made = simulate(Path(folder), side=SIDE, detector="WFI18", wfi18_transient=True)
        config = load_config(made.config).replace(GRAPH=str(graph), FITSOUT=False)
        job = prepare(config)
        return _drawn(job, tasks_of(job, per_step))


Task = tuple[str, tuple[int, ...], int]
"""Name and place of a task, and a number where these alone are ambiguous."""


def tasks_of(job: Job, per_step: bool = False) -> dict[Task, set[Task]]:
    """The tasks of a calibration, each with those that it waits for."""
    # As many threads as tiles, so that no tile has to wait for another to finish.
    with TemporaryDirectory() as folder, running("local", SIDE // TILE[0]):
        file = l2_file(job, Path(folder) / "l2.asdf")
        tasks, _ = calibration_graph([Target(job, file)], TILE, per_step)
        found = task_graph(tasks)
    plain = _named(found)
    return {
        plain[key]: {plain[need] for need in found[key]}
        for key in sorted(found, key=plain.__getitem__)
    }


def _named(found: Mapping[Any, set[Any]]) -> dict[Any, Task]:
    """Keys without what makes them unique; those that are equal then are numbered in the order of
    what they wait for and of what waits for them."""
    where: dict[Any, tuple[str, tuple[int, ...]]] = {}
    for key in found:
        name, *place = key if isinstance(key, tuple) else (key,)
        where[key] = _UNIQUE.sub("", str(name)).strip("_"), tuple(int(i) for i in place)
    followers: dict[Any, list[Any]] = defaultdict(list)
    for key, needs in found.items():
        for need in needs:
            followers[need].append(where[key])
    origins: dict[Any, str] = {}

    def origin(key: Any) -> str:
        if key not in origins:
            text = repr((where[key], sorted(origin(need) for need in found[key])))
            origins[key] = hashlib.sha256(text.encode()).hexdigest()
        return origins[key]

    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
    named: dict[Any, Task] = {}
    for key in sorted(found, key=lambda key: (where[key], origin(key), sorted(followers[key]))):
        named[key] = (*where[key], seen[where[key]])
        seen[where[key]] += 1
    return named


def _direct(waits: Mapping[Task, set[Task]]) -> dict[Task, set[Task]]:
    """Without the waits that follow from others, which would hide the rest of the picture."""
    before: dict[Task, set[Task]] = {}

    def all_before(task: Task) -> set[Task]:
        if task not in before:
            before[task] = waits[task].union(*(all_before(need) for need in waits[task]))
        return before[task]

    return {
        task: needs - set().union(*(all_before(need) for need in needs))
        for task, needs in waits.items()
    }


def _drawn(job: Job, waits: Mapping[Task, set[Task]]) -> Canvas:
    rows = _rows(waits)
    width = min(max(PITCH * max(len(keys) for _, keys in rows), 520), 1000)
    tied = {*(need for needs in waits.values() for need in needs)}
    tied |= {task for task, needs in waits.items() if needs}
    canvas = Canvas(f"Dask graph of {job.recipe.name}", LABELS + width + 60, 100 + ROW * len(rows))
    rows_, columns = TILE
    canvas.add(
        Text(20, 40, f"{job.recipe.name}: {len(waits)} tasks", 22, bold=True),
        Text(
            20, 62, f"{SIDE} x {SIDE} pixels in tiles of {rows_} x {columns}; each task runs when "
            "those above it that it is tied to are done", 13, "soft",
        ),
    )  # fmt: skip
    places: dict[Task, tuple[float, float]] = {}
    keys_of = dict(rows)
    colors: dict[str, str] = {}
    for i, (name, keys) in enumerate(rows):
        y = 110.0 + ROW * i
        colors[name] = COLORS[i % len(COLORS)]
        pitch = min(3 * PITCH, width / len(keys))
        start = LABELS + 20 + (width - (len(keys) - 1) * pitch) / 2
        if not tied.intersection(keys):  # aside, where no line passes
            start = LABELS + 20 + width - (len(keys) - 1) * pitch
        for j, key in enumerate(keys):
            places[key] = (start + j * pitch, y)
    nodes: list[Rect | Circle | Text] = []
    for name, keys in rows:
        y = places[keys[0]][1]
        canvas.add(Rect(12, y - 22, canvas.width - 24, 44, "band", radius=8))
        count = f" x {len(keys)}" if len(keys) > 1 else ""
        nodes.append(Text(24, y + 5, name + count, 13, colors[name], bold=True))
    for key, needs in _direct(waits).items():
        for need in sorted(needs):
            (x0, y0), (x1, y1) = places[need], places[key]
            canvas.add(Line(x0, y0, x1, y1, colors[need[0]], 1.1, curved=True, opacity=0.45))
    for key, (x, y) in places.items():
        where = f" {key[1]}" if key[1] else ""
        nodes.append(
            Circle(
                x,
                y,
                min(8, 0.4 * width / len(keys_of[key[0]])),
                colors[key[0]],
                tip=f"{key[0]}{where}",
            )
        )
    canvas.add(*nodes)
    return canvas


def _rows(
    waits: Mapping[Task, set[Task]],
) -> list[tuple[str, list[Task]]]:
    """Tasks of one name are in one row, below everything that they wait for."""
    depth: dict[Task, int] = {}

    def deep(key: Task) -> int:
        if key not in depth:
            depth[key] = 1 + max((deep(k) for k in waits[key]), default=0)
        return depth[key]

    groups: dict[str, list[Task]] = defaultdict(list)
    for key in waits:
        groups[key[0]].append(key)
    order = sorted(groups, key=lambda name: (min(deep(k) for k in groups[name]), name))
    return [(name, sorted(groups[name])) for name in order]
