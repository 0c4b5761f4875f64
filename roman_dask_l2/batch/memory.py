"""Memory: what a process may have, what an exposure takes, and what it took."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..config import Config
from ..errors import InputError
from ..job import prepare
from ..memory import choose, parse_memory, project
from ..noise.label import Layer, parse_all
from ..pipeline import parse_tile
from ..provenance import Product
from ..schedulers import cpu_count

if TYPE_CHECKING:
    from .plan import Plan

MARGIN = 1.25
"""Over the projected memory of a calibration: what it was at most for sides of 1024 and 2048."""
NOISE = 24
"""Bytes for each pixel of the frame that noise layers take more, measured for the same sides."""
USABLE = 0.9
"""Part of a worker's memory that an exposure may take: at 95 % Dask kills the worker."""
_NODE = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU")


def reset_peak() -> None:
    """Let the system measure the peak from now on, where it can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Largest resident memory of this process, bytes, since `reset_peak` (or since it started)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Resident memory of this process now, bytes."""
    return psutil.Process().memory_info().rss


def available() -> int:
    """Bytes that processes of this job may still take: free memory, or what is left under the
    limits of the control group, SLURM and the process."""
    limits = [psutil.virtual_memory().available, *_control_groups()]
    used = psutil.Process().memory_info()
    for kind, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, used.rss)):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - taken)
    if slurm := _slurm():
        limits.append(slurm - used.rss)
    return max(int(min(limits)), 0)


def _slurm() -> int | None:
    """Memory of this SLURM job on this node, bytes."""
    per_node, per_cpu = (os.environ.get(name, "") for name in _NODE)
    if per_node.isdigit() and int(per_node):  # 0 means all
        return int(per_node) << 20
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if per_cpu.isdigit() and cpus.isdigit() and int(per_cpu):
        return int(per_cpu) * int(cpus) << 20
    return None


def _control_groups() -> list[int]:
    """What is left under the limits of the control groups that this process is in, bytes."""
    left = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / name.lstrip("/")
        for place in (folder, *folder.parents):
            try:
                limit, usage = ((place / n).read_text().strip() for n in names)
            except OSError:
                continue
            if limit.isdigit() and int(limit) < 1 << 60:
                left.append(int(limit) - int(usage))
            if place == root:
                break
    return left


def layers_of(config: Config, product: Product) -> list[Layer]:
    """The layers of a product."""
    if product == "l2" or config.NOISE is None:
        return []
    return [layer for layer, _ in parse_all(config.NOISE.LAYER)]


def projected(config: Config, product: Product, tile: str | None, threads: int | None) -> float:
    """Bytes that making a product takes at most."""
    job = prepare(config)
    size = parse_tile(tile, job.exposure.side)
    return project(job, size, threads or cpu_count(), layers_of(config, product))


def require_enough(plan: Plan) -> None:
    """``--memory`` must be enough for the first exposure: the others are much like it.

    Raises
    ------
    InputError
        With numbers.
    """
    options = plan.options
    if options.memory is None or not plan.todo:
        return
    item = plan.todo[0]
    try:
        job = prepare(item.config)
    except InputError:  # that exposure fails by itself
        return
    threads = 1 if options.scheduler == "synchronous" else options.threads or cpu_count()
    tile = None if options.tile is None else parse_tile(options.tile, job.exposure.side)
    for product in item.reasons:
        layers = layers_of(item.config, product)
        choose(job, parse_memory(options.memory), threads, tile, layers)


def needed(plan: Plan) -> int:
    """Bytes that an exposure takes: ``--memory``, the most that the manifest knows of, or else a
    projection.

    0 if it cannot be told.
    """
    if plan.options.memory is not None:
        return int(parse_memory(plan.options.memory))
    peaks = [
        line["peak_memory"]
        for line in plan.history.ended
        if line["status"] == "done" and line.get("products")
    ]
    if peaks or not plan.todo:
        return max(peaks, default=0)
    try:
        job = prepare(plan.todo[0].config)
    except InputError:
        return 0
    options = plan.options
    tile = parse_tile(options.tile, job.exposure.side)
    calibration = project(job, tile, options.threads or cpu_count())
    noise = NOISE * job.exposure.side**2 if job.config.NOISE is not None else 0.0
    return int(MARGIN * calibration + noise)
