"""A model of a client of a network file system, which believes what it has seen for a while.

Within a directory, ``stat`` and ``lstat`` (and so ``exists`` and their like) answer from what they
answered before, also that there is nothing. As with NFS, what is opened is asked for again ("close
to open"): a file's attributes, a directory's names; a name that was not there is not looked for
when it is opened to read; what this client changes itself it knows.
"""

from __future__ import annotations

import builtins
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Stale:
    """Functions of `os` and `open`, with old answers.

    Parameters
    ----------
    root : Path
        What lies below is on the network file system.
    seconds : float
        For which the client believes.
    """

    def __init__(self, root: Path, seconds: float) -> None:
        self._root, self._seconds = os.path.abspath(root) + "/", seconds
        self._known: dict[tuple[bool, str], tuple[float, Any]] = {}
        self.real = {name: getattr(os, name) for name in ("stat", "lstat", "open", *_CHANGES)}
        self._open = io.open

    def install(self, put: Callable[[Any, str, Any], None] = setattr) -> Stale:
        put(os, "stat", self._stat)
        put(os, "lstat", lambda path, **how: self._stat(path, follow_symlinks=False, **how))
        put(os, "open", self._os_open)
        for module in (io, builtins):
            put(module, "open", self._io_open)
        for name in _CHANGES:
            put(os, name, self._changing(self.real[name]))
        return self

    def _place(self, path: Any, how: dict[str, Any]) -> str | None:
        if isinstance(path, int) or any(how.get(k) is not None for k in _BESIDE):
            return None
        place = os.path.abspath(os.fsdecode(path))
        return place if f"{place}/".startswith(self._root) else None

    def _stat(self, path: Any, **how: Any) -> os.stat_result:
        place = self._place(path, how)
        if place is None:
            return self.real["stat"](path, **how)
        key = (how.get("follow_symlinks", True), place)
        until, answer = self._known.get(key, (0.0, None))
        if until < time.monotonic():
            try:
                answer = self.real["stat"](path, **how)
            except FileNotFoundError as error:
                answer = error
            self._known[key] = time.monotonic() + self._seconds, answer
        if isinstance(answer, OSError):
            raise FileNotFoundError(answer.errno, answer.strerror, path)
        return answer

    def _forget(self, place: str, below: bool = False) -> None:
        for key in list(self._known):
            if key[1] == place or (below and os.path.dirname(key[1]) == place):
                del self._known[key]

    def _believes_gone(self, place: str) -> bool:
        until, answer = self._known.get((True, place), (0.0, None))
        return isinstance(answer, OSError) and until >= time.monotonic()

    def _before(self, path: Any, place: str, new: bool) -> None:
        if not new and self._believes_gone(place):
            raise FileNotFoundError(2, "No such file or directory", path)

    def _os_open(self, path: Any, flags: int, *more: Any, **how: Any) -> int:
        place = self._place(path, how)
        if place is not None:
            self._before(path, place, bool(flags & os.O_CREAT))
            self._forget(place, below=True)
        return self.real["open"](path, flags, *more, **how)

    def _io_open(self, file: Any, mode: str = "r", *more: Any, **how: Any) -> Any:
        place = self._place(file, {})
        if place is not None:
            self._before(file, place, bool(set(mode) & set("wxa")))
            self._forget(place)
        return self._open(file, mode, *more, **how)

    def _changing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def change(*names: Any, **how: Any) -> Any:
            for name in names[:2]:
                if isinstance(name, str | bytes | os.PathLike):
                    self._forget(os.path.abspath(os.fsdecode(name)))
            return function(*names, **how)

        return change


_CHANGES = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "symlink", "utime")
_BESIDE = ("dir_fd", "src_dir_fd", "dst_dir_fd")


def install(root: Path, seconds: float) -> None:
    """For a whole process."""
    Stale(root, seconds).install()
