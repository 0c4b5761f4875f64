"""Memory of this process and this machine: what it takes, and what it may take."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

import psutil

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
