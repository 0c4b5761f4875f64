"""What a killed process leaves behind: unfinished files, TEMP stores, its lock.

Everything here belongs to an exposure of the campaign and is touched only by who holds its lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from ..config.model import Config
from ..io.atomic import Part, parse_part
from ..io.spill import remove_store, temp_place
from ..products.scratch import scratch_place
from ..system.files import clock_ahead, is_ours, status_now
from ..system.processes import is_orphan, process_lives
from .fingerprint import product_files
from .locks import AWAY, BEAT, DEAD_AFTER, holder, lock_path

log = logging.getLogger(__name__)

RECENT = DEAD_AFTER - 2 * BEAT
"""Seconds since a process on another machine wrote, if it may be alive. Less than `DEAD_AFTER`: one
that died between two beats wrote after its last one."""
_STORE = re.compile(r"(?P<stem>.+)-\d+-[0-9a-f]{8}\.zarr")


def own_temp(config: Config) -> Path | None:
    """NOISE.TEMP of an exposure in a batch: in the directory that the configuration names, a store
    whose name tells the exposure. None without a NOISE block."""
    if config.NOISE is None:
        return None
    folder, _ = temp_place(config.NOISE.TEMP)
    out = config.NOISE.OUT
    digest = hashlib.blake2b(os.path.realpath(out).encode(), digest_size=4).hexdigest()
    return folder / f"{out.stem}-{digest}.zarr"


def find_leftovers(configs: Mapping[str, Config]) -> set[str]:
    """Identities of the exposures of which something was left behind.

    Every directory is looked through once, however many exposures write there.
    """
    owners: dict[tuple[Path, str], str] = {}
    for identity, config in configs.items():
        for path in (*_finals(config), lock_path(config.OUT)):
            owners[path.parent, path.name] = identity
        temp, scratch = own_temp(config), scratch_place(config)[0]
        if temp is not None:
            owners[temp.parent, temp.stem] = identity
        owners[scratch.parent, scratch.stem] = identity
    found = set()
    for folder in {folder for folder, _ in owners}:
        for name in _names(folder):
            part, store, away = parse_part(name), _STORE.fullmatch(name), AWAY.fullmatch(name)
            key = part.final if part else store["stem"] if store else away[1] if away else name
            if (part or store or away or name.endswith(".lock")) and (folder, key) in owners:
                found.add(owners[folder, key])
    return found


def _finals(config: Config) -> set[Path]:
    """The files of an exposure, where they really lie: what is left of them is beside them."""
    files = (path for paths in product_files(config).values() for path in paths)
    return {Path(os.path.realpath(p)) if os.path.islink(p) else p for p in files}


def remove_leftovers(config: Config) -> list[Path]:
    """Remove what dead processes left of an exposure; its lock is held by the caller.

    A part file that a living process of this machine writes is left: a single run takes no locks.
    So is one of another machine or container that was written lately: its process may only have
    been stalled. And so is whatever is another user's, or a link.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    finals = _finals(config)
    for folder in {p.parent for p in finals}:
        for name in _names(folder):
            part = parse_part(name)
            path = folder / name
            if not part or folder / part.final not in finals or not is_ours(path):
                continue
            if not _in_use(path, part):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(path)
    lock = lock_path(config.OUT)
    for path in (lock.with_name(name) for name in _names(lock.parent)):
        away = AWAY.fullmatch(path.name)
        if away and away[1] == lock.name and is_ours(path) and holder(path) is None:
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    removed += remove_stores(config)
    for path in removed:
        log.info("removed %s, left by a process that was killed", path)
    return removed


def remove_stores(config: Config) -> list[Path]:
    """Remove the TEMP stores of an exposure; its lock is held by the caller."""
    temp, scratch = own_temp(config), scratch_place(config)[0]
    stores = [] if temp is None else _stores(temp)
    # Those of a calibration have the same name in single runs, which take no locks.
    stores += [path for path in _stores(scratch) if is_orphan(path)]
    for path in stores:
        remove_store(path)
    return stores


def _stores(temp: Path) -> list[Path]:
    return [
        temp.with_name(name)
        for name in _names(temp.parent)
        if (store := _STORE.fullmatch(name))
        and store["stem"] == temp.stem
        and is_ours(temp.with_name(name))
    ]


def remove_orphans(config: Config) -> list[Path]:
    """Remove what single runs that were killed on this machine left: unfinished files of these
    outputs, and their TEMP stores.

    Single runs take no locks: only what belongs to a process that is known to be gone is removed.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    finals = _finals(config)
    for folder in {p.parent for p in finals}:
        for name in _names(folder):
            part, path = parse_part(name), folder / name
            if not part or folder / part.final not in finals or not part.near:
                continue
            if part.pid != os.getpid() and is_ours(path) and not _in_use(path, part):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(path)
    folders = {scratch_place(config)[0].parent}
    if config.NOISE is not None:
        folders.add(temp_place(config.NOISE.TEMP)[0])
    for folder in folders:
        for name in _names(folder):
            path = folder / name
            if _STORE.fullmatch(name) and is_orphan(path):
                remove_store(path)
                removed.append(path)
    for path in removed:
        log.info("removed %s, left by a process that was killed", path)
    return removed


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _in_use(path: Path, part: Part) -> bool:
    if part.near and part.pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        if not part.near:
            status = status_now(path)
            silent = 0.0 if status is None else time.time() - status.st_mtime
            return silent + clock_ahead(path.parent) < RECENT
        return process_lives(part.pid, path.stat().st_mtime)
    return False
