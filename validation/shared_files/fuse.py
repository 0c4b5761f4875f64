"""The kernel's FUSE protocol (version 7.31), as much of it as a file system of files needs.

Spoken here directly, because no library lets a server of files say what a client of NFS would
still believe: how long names and attributes count, and when they are asked for again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

HEADER = struct.Struct("<IIQQIIIHH")
ANSWER = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<6Q10I")
ENTRY = struct.Struct("<4Q2I")
LOCK = struct.Struct("<QQQQIIII")
SETATTR = struct.Struct("<IIQQQQQQ8I")
TRANSFER = struct.Struct("<QQIIQII")
MOST = 1 << 17
"""Bytes of one write."""

NAMES = {
    1: "lookup", 2: "forget", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 8: "mknod",
    9: "mkdir", 10: "unlink", 11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read",
    16: "write", 17: "statfs", 18: "release", 20: "fsync", 25: "flush", 27: "opendir",
    28: "readdir", 29: "releasedir", 30: "fsyncdir", 31: "getlk", 32: "setlk", 33: "setlkw",
    35: "create", 36: "interrupt", 42: "batch_forget", 45: "rename2",
}  # fmt: skip
_INIT, _DESTROY = 26, 38
_WITHOUT_ANSWER = (2, 36, 42)
_ASYNC_READ, _POSIX_LOCKS, _BIG_WRITES, _FLOCK = 1, 1 << 1, 1 << 5, 1 << 10
_AUTO_INVAL_DATA, _PARALLEL = 1 << 12, 1 << 18
_INVAL_INODE, _INVAL_ENTRY = 2, 3


class Refused(OSError):
    """/dev/fuse or mounting is not to be had here."""


class Connection:
    """A mounted file system; each request is answered by a thread of its own.

    Parameters
    ----------
    place : Path
        Where to mount.
    handler : callable
        ``handler(name, node, body)`` gives the bytes of the answer or raises `OSError`.
    locks : bool
        POSIX locks and flock are asked of the handler; else they hold within this mount only.
    """

    def __init__(self, place: Path, handler: Callable[..., bytes], *, locks: bool) -> None:
        self.place, self._handler, self._locks = place, handler, locks
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(error.errno, f"/dev/fuse: {error.strerror}") from None
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,default_permissions"
        _call("mount", b"tests", os.fsencode(place), b"fuse.shared", 0, options.encode())
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, MOST + 8192)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # unmounted
            _, code, unique, node, *_ = HEADER.unpack_from(request)
            body = request[HEADER.size :]
            if code == _INIT:
                self._reply(unique, self._begin(body))
            elif code == _DESTROY:
                self._reply(unique)
            else:
                threading.Thread(
                    target=self._answer, args=(code, unique, node, body), daemon=True
                ).start()

    def _begin(self, body: bytes) -> bytes:
        _, _, ahead, flags = struct.unpack_from("<4I", body)
        wanted = _ASYNC_READ | _BIG_WRITES | _AUTO_INVAL_DATA | _PARALLEL
        if self._locks:
            wanted |= _POSIX_LOCKS | _FLOCK
        return struct.pack(
            "<4IHHIIHHI7I", 7, 31, ahead, flags & wanted, 64, 48, MOST, 1, 0, 0, 0, *[0] * 7
        )

    def _answer(self, code: int, unique: int, node: int, body: bytes) -> None:
        name = NAMES.get(code)
        try:
            if name is None:
                raise OSError(errno.ENOSYS, "")
            data, status = self._handler(name, node, body), 0
        except OSError as error:
            data, status = b"", -(error.errno or errno.EIO)
        except Exception:
            import traceback

            traceback.print_exc()
            data, status = b"", -errno.EIO
        if code not in _WITHOUT_ANSWER:
            self._reply(unique, data, status)

    def _reply(self, unique: int, data: bytes = b"", status: int = 0) -> None:
        with contextlib.suppress(OSError):  # the one who asked was killed
            os.writev(self._device, [ANSWER.pack(ANSWER.size + len(data), status, unique), data])

    def forget_attributes(self, node: int) -> None:
        """The client asks for the attributes of a file when it next needs them."""
        self._reply(0, struct.pack("<Qqq", node, -1, 0), _INVAL_INODE)

    def forget_name(self, folder: int, name: bytes) -> None:
        """The client asks for a name in a directory when it next needs it."""
        body = struct.pack("<QII", folder, len(name), 0) + name + b"\0"
        self._reply(0, body, _INVAL_ENTRY)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            _call("umount2", os.fsencode(self.place), 2)
        os.close(self._device)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise Refused(number, f"{name}: {os.strerror(number)}")


def attributes(status: os.stat_result, ahead: float) -> bytes:
    """`status` for the kernel; times of a clock that is `ahead` by so many seconds."""
    times = [
        t + int(ahead * 1e9) for t in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    ]
    return ATTRIBUTES.pack(
        status.st_ino, status.st_size, status.st_blocks, *(t // 10**9 for t in times),
        *(t % 10**9 for t in times), status.st_mode, status.st_nlink, status.st_uid,
        status.st_gid, status.st_rdev, 4096, 0,
    )  # fmt: skip
