"""Files that are kept open, and small caches: what reading by window stands on."""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..errors import InputError


class OpenFile:
    """A file descriptor, and a map of the file where partial rows are wanted."""

    def __init__(self, path: str, size_and_mtime: tuple[int, int]) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        status = os.fstat(self.fd)
        if (status.st_size, status.st_mtime_ns) != size_and_mtime:
            os.close(self.fd)
            raise InputError(f"{path}: was changed while it was in use")
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None

    @property
    def map(self) -> mmap.mmap:
        with self._lock:
            if self._map is None:
                self._map = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
            return self._map

    def read_into(self, buffer: memoryview, offset: int, path: str) -> None:
        while len(buffer):
            n = os.preadv(self.fd, [buffer], offset)
            if n == 0:
                raise InputError(f"{path}: ends too early (truncated file?)")
            buffer, offset = buffer[n:], offset + n

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            os.close(self.fd)


class Cache:
    """A small bounded per-process cache; an entry is made once even if threads race for it."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._entries: OrderedDict[Any, Any] = OrderedDict()
        self._making: dict[Any, threading.Lock] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._entries:
                    return self._entries[key]
            value = make()
            with self._lock:
                self._entries[key] = value
                self._making.pop(key, None)
                while len(self._entries) > self._size:
                    self._entries.popitem(last=False)
            return value

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        """Drop all other keys."""
        with self._lock:
            for key in [key for key in self._entries if not wanted(key)]:
                del self._entries[key]
