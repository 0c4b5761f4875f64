"""A directory, mounted twice, as two clients of one NFS server would see it.

``server.py FOLDER SECONDS AHEAD LOCKS MOUNT MOUNT``: each mount believes names, names that are not
there, and attributes for SECONDS; the clock of the server is AHEAD seconds; LOCKS is 1 where locks
are the server's, 0 where each client has its own (NFS's ``nolock``). As with NFS

- what is opened is asked for again: a file's attributes, a directory's names ("close to open");
- so are the attributes of a file that was locked, if locks are the server's;
- O_EXCL, link and rename are done by the server, at once;
- where a line is appended, the client says, from the size that it knows;
- a file that another client removed is gone for those who have it open, too (ESTALE); one that
  this client removes while it has it open is renamed to ``.nfs...`` until it is closed.

Unlike NFS, a client's own change of a directory does not make it ask for the other names in it
(harder for the program), and writes go to the server at once (easier).

Commands come on standard input: ``stall MOUNT SECONDS`` (no request is answered for so long),
``fail MOUNT REQUEST ERROR TIMES PATTERN`` (requests for files whose name fits), ``counts``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import stat
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from fuse import ENTRY, LOCK, SETATTR, TRANSFER, Connection, Refused, attributes

Times = tuple[int, int]


@dataclass
class Node:
    """What a client has a handle of."""

    fd: int
    lookups: int = 0
    open: int = 0
    hidden: tuple[int, bytes] | None = None
    """Directory and name it was given when it was removed while it was open."""
    names: dict[bytes, int] = field(default_factory=dict)
    """Of a directory: what the client believes; 0 for what is not there."""
    fresh: int = 0
    """When the client last asked for the attributes, as the inode's time of change."""


class Mount:
    """One client."""

    def __init__(self, folder: str, place: str, seconds: float, ahead: float, locks: bool) -> None:
        self._seconds, self._ahead = seconds, ahead
        self._nodes = {1: Node(os.open(folder, os.O_PATH))}
        self._numbers: dict[tuple[int, int], int] = {self._key(self._nodes[1].fd): 1}
        self._last, self._guard = 1, threading.RLock()
        self._files: dict[int, tuple[int, int]] = {}  # handle -> descriptor, node
        self._listings: dict[int, list[bytes]] = {}
        self.until = 0.0
        self.faults: list[list] = []
        self.counts: dict[str, int] = {}
        self.connection = Connection(Path(place), self.handle, locks=locks)

    # -- requests

    def handle(self, name: str, node: int, body: bytes) -> bytes:
        while (rest := self.until - time.monotonic()) > 0:
            time.sleep(min(rest, 0.1))
        self.counts[name] = self.counts.get(name, 0) + 1
        self._fail(name, node, body)
        return getattr(self, f"_{name}")(node, body)

    def _fail(self, name: str, node: int, body: bytes) -> None:
        for fault in self.faults:
            wanted, number, times, pattern = fault
            if wanted == name and times > 0 and fnmatch.fnmatch(self._called(node, body), pattern):
                fault[2] -= 1
                self.counts["failed"] = self.counts.get("failed", 0) + 1
                raise OSError(number, "")

    def _called(self, node: int, body: bytes) -> str:
        """Name of the file that a request is about; for what acts on a name, with it."""
        here = os.readlink(f"/proc/self/fd/{self._nodes[node].fd}").rpartition("/")[2]
        if stat.S_ISDIR(os.fstat(self._nodes[node].fd).st_mode):
            return os.fsdecode(body.rstrip(b"\0").rpartition(b"\0")[2])
        return here

    def _node(self, number: int) -> Node:
        node = self._nodes[number]
        if os.fstat(node.fd).st_nlink == 0:
            raise OSError(errno.ESTALE, "")
        return node

    @staticmethod
    def _key(fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def _path(self, number: int) -> str:
        return f"/proc/self/fd/{self._node(number).fd}"

    def _entry(self, folder: int, name: bytes) -> bytes:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._node(folder).fd)
        with self._guard:
            key = self._key(fd)
            number = self._numbers.get(key)
            if number is None:
                self._last += 1
                number = self._numbers[key] = self._last
                self._nodes[number] = Node(fd)
            else:
                os.close(fd)
            node = self._nodes[number]
            node.lookups += 1
            self._nodes[folder].names[name] = number
            status = os.fstat(node.fd)
        return self._pack_entry(number) + attributes(status, self._ahead)

    def _pack_entry(self, number: int) -> bytes:
        whole, rest = int(self._seconds), int(self._seconds % 1 * 1e9)
        return ENTRY.pack(number, 1, whole, whole, rest, rest)

    def _attributes(self, status: os.stat_result) -> bytes:
        whole, rest = int(self._seconds), int(self._seconds % 1 * 1e9)
        return struct.pack("<QII", whole, rest, 0) + attributes(status, self._ahead)

    def _lookup(self, node: int, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        try:
            return self._entry(node, name)
        except FileNotFoundError:
            self._nodes[node].names[name] = 0
            return self._pack_entry(0) + bytes(88)  # nothing there, to be believed

    def _forget(self, node: int, body: bytes) -> bytes:
        self._drop(node, struct.unpack_from("<Q", body)[0])
        return b""

    def _batch_forget(self, node: int, body: bytes) -> bytes:
        (count,) = struct.unpack_from("<I", body)
        for i in range(count):
            self._drop(*struct.unpack_from("<QQ", body, 8 + 16 * i))
        return b""

    def _interrupt(self, node: int, body: bytes) -> bytes:
        return b""

    def _drop(self, number: int, lookups: int) -> None:
        with self._guard:
            node = self._nodes.get(number)
            if node is None or number == 1:
                return
            node.lookups -= lookups
            if node.lookups <= 0 and not node.open:
                del self._numbers[self._key(node.fd)], self._nodes[number]
                os.close(node.fd)

    def _getattr(self, node: int, body: bytes) -> bytes:
        return self._attributes(os.fstat(self._node(node).fd))

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, a_ns, m_ns, _, mode, _, uid, gid, _ = (
            SETATTR.unpack_from(body)
        )
        path = self._path(node)
        if valid & 1:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(path, size)
        if valid & 0x30:
            was, now, ahead = os.stat(path), time.time_ns(), int(self._ahead * 1e9)
            seen = atime * 10**9 + a_ns - ahead, mtime * 10**9 + m_ns - ahead
            times = tuple(
                old if not valid & given else now if valid & at_once else told
                for old, told, given, at_once in zip(
                    (was.st_atime_ns, was.st_mtime_ns), seen, (16, 32), (128, 256), strict=True
                )
            )
            os.utime(path, ns=times)
        return self._getattr(node, b"")

    def _readlink(self, node: int, body: bytes) -> bytes:
        return os.fsencode(os.readlink("", dir_fd=self._node(node).fd))

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target = body.rstrip(b"\0").split(b"\0")
        os.symlink(target, name, dir_fd=self._node(node).fd)
        return self._entry(node, name)

    def _mknod(self, node: int, body: bytes) -> bytes:
        mode, device, umask, _ = struct.unpack_from("<4I", body)
        name = body[16:].rstrip(b"\0")
        os.mknod(name, mode & ~umask, device, dir_fd=self._node(node).fd)
        return self._entry(node, name)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        mode, umask = struct.unpack_from("<II", body)
        name = body[8:].rstrip(b"\0")
        os.mkdir(name, mode & ~umask, dir_fd=self._node(node).fd)
        return self._entry(node, name)

    def _unlink(self, node: int, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        if not self._hide(node, name):
            os.unlink(name, dir_fd=self._node(node).fd)
        self._nodes[node].names[name] = 0
        return b""

    def _hide(self, folder: int, name: bytes) -> bool:
        """Rename what this client has open instead of removing it."""
        with self._guard:
            here = self._node(folder).fd
            try:
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                return False
            number = self._numbers.get((status.st_dev, status.st_ino), 0)
            if not number or not self._nodes[number].open or stat.S_ISDIR(status.st_mode):
                return False
            hidden = f".nfs{number:016x}".encode()
            os.rename(name, hidden, src_dir_fd=here, dst_dir_fd=here)
            self._nodes[number].hidden = folder, hidden
            return True

    def _rmdir(self, node: int, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        os.rmdir(name, dir_fd=self._node(node).fd)
        self._nodes[node].names[name] = 0
        return b""

    def _rename(self, node: int, body: bytes, start: int = 8) -> bytes:
        (to,) = struct.unpack_from("<Q", body)
        old, new = body[start:].rstrip(b"\0").split(b"\0")
        self._hide(to, new)
        os.rename(old, new, src_dir_fd=self._node(node).fd, dst_dir_fd=self._node(to).fd)
        self._nodes[to].names[new] = self._nodes[node].names.pop(old, -1)
        self._nodes[node].names[old] = 0
        return b""

    def _rename2(self, node: int, body: bytes) -> bytes:
        if struct.unpack_from("<I", body, 8)[0]:
            raise OSError(errno.EINVAL, "")
        return self._rename(node, body, 16)

    def _link(self, node: int, body: bytes) -> bytes:
        (old,) = struct.unpack_from("<Q", body)
        name = body[8:].rstrip(b"\0")
        os.link(self._path(old), name, dst_dir_fd=self._node(node).fd, follow_symlinks=True)
        return self._entry(node, name)

    # -- open files

    def _opened(self, number: int, fd: int) -> bytes:
        with self._guard:
            self._files[fd] = fd, number
            self._nodes[number].open += 1
        return struct.pack("<QII", fd, 0, 0)

    def _flags(self, flags: int) -> int:
        """What the server opens: it knows nothing of appending, that is the client's business."""
        kept = flags & os.O_ACCMODE
        return (os.O_RDWR if kept == os.O_WRONLY else kept) | os.O_CLOEXEC

    def _open(self, node: int, body: bytes) -> bytes:
        fd = os.open(self._path(node), self._flags(struct.unpack_from("<I", body)[0]))
        self.connection.forget_attributes(node)
        return self._opened(node, fd)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, umask, _ = struct.unpack_from("<4I", body)
        name, folder = body[16:].rstrip(b"\0"), self._node(node).fd
        how = self._flags(flags) | os.O_CREAT | flags & (os.O_EXCL | os.O_TRUNC) | os.O_NOFOLLOW
        fd = os.open(name, how, mode & ~umask, dir_fd=folder)
        entry = self._entry(node, name)
        return entry + self._opened(self._nodes[node].names[name], fd)

    def _file(self, handle: int) -> int:
        fd, _ = self._files[handle]
        if os.fstat(fd).st_nlink == 0:
            raise OSError(errno.ESTALE, "")
        return fd

    def _read(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = TRANSFER.unpack_from(body)
        return os.pread(self._file(handle), size, offset)

    def _write(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = TRANSFER.unpack_from(body)
        data = memoryview(body)[TRANSFER.size : TRANSFER.size + size]
        return struct.pack("<II", os.pwrite(self._file(handle), data, offset), 0)

    def _fsync(self, node: int, body: bytes) -> bytes:
        self._file(struct.unpack_from("<Q", body)[0])  # the tests' disks do not lose power
        return b""

    def _flush(self, node: int, body: bytes) -> bytes:
        handle, _, _, owner = struct.unpack_from("<QIIQ", body)
        self._unlock(node, owner)
        self._file(handle)
        return b""

    def _release(self, node: int, body: bytes) -> bytes:
        self._unlock(node, struct.unpack_from("<Q", body, 16)[0])
        with self._guard:
            fd, number = self._files.pop(struct.unpack_from("<Q", body)[0])
            os.close(fd)
            open_file = self._nodes[number]
            open_file.open -= 1
            if not open_file.open and open_file.hidden is not None:
                folder, name = open_file.hidden
                with contextlib.suppress(OSError, KeyError):
                    os.unlink(name, dir_fd=self._nodes[folder].fd)
        return b""

    def _statfs(self, node: int, body: bytes) -> bytes:
        found = os.fstatvfs(self._nodes[1].fd)
        return struct.pack(
            "<5Q4I6I", found.f_blocks, found.f_bfree, found.f_bavail, found.f_files,
            found.f_ffree, found.f_bsize, 255, found.f_frsize, *[0] * 7,
        )  # fmt: skip

    # -- directories

    def _opendir(self, node: int, body: bytes) -> bytes:
        fd = os.open(self._path(node), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._look_again(node)
        self._listings[fd] = [b".", b"..", *map(os.fsencode, os.listdir(fd))]
        return struct.pack("<QII", fd, 0, 0)

    def _look_again(self, folder: int) -> None:
        """Names that are not what the client believes are forgotten."""
        fd = self._node(folder).fd
        for name, believed in list(self._nodes[folder].names.items()):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                number = self._numbers.get((status.st_dev, status.st_ino), -1)
            except FileNotFoundError:
                number = 0
            if number != believed:
                self._nodes[folder].names.pop(name, None)
                self.connection.forget_name(folder, name)

    def _readdir(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = TRANSFER.unpack_from(body)
        data = b""
        for i, name in enumerate(self._listings[handle][offset:], offset + 1):
            one = struct.pack("<QQII", i + 1, i, len(name), 0) + name
            one += bytes(-len(one) % 8)
            if len(data) + len(one) > size:
                break
            data += one
        return data

    def _releasedir(self, node: int, body: bytes) -> bytes:
        handle = struct.unpack_from("<Q", body)[0]
        self._listings.pop(handle, None)
        os.close(handle)
        return b""

    def _fsyncdir(self, node: int, body: bytes) -> bytes:
        return b""

    # -- locks

    def _getlk(self, node: int, body: bytes) -> bytes:
        _, _, start, end, _, _, _, _ = LOCK.unpack_from(body)
        return struct.pack("<QQII", start, end, fcntl.F_UNLCK, 0)

    def _setlk(self, node: int, body: bytes, wait: bool = False) -> bytes:
        _, owner, _, _, kind, *_ = LOCK.unpack_from(body)
        file, me = self._key(self._nodes[node].fd), (id(self), owner)
        if kind == fcntl.F_UNLCK:
            self._unlock(node, owner)
            return b""
        with LOCKED:
            while HELD.get(file, me) != me:
                if not wait:
                    raise OSError(errno.EAGAIN, "")
                LOCKED.wait(1)
            HELD[file] = me
        self.connection.forget_attributes(node)
        return b""

    def _unlock(self, node: int, owner: int) -> None:
        with LOCKED:
            file = self._key(self._nodes[node].fd)
            if HELD.get(file) == (id(self), owner):
                del HELD[file]
                LOCKED.notify_all()

    def _setlkw(self, node: int, body: bytes) -> bytes:
        return self._setlk(node, body, wait=True)


LOCKED = threading.Condition()
HELD: dict[tuple[int, int], tuple[int, int]] = {}
"""File -> client and owner that has locked it."""


def main() -> int:
    folder, seconds, ahead, locks, *places = sys.argv[1:]
    try:
        mounts = [Mount(folder, p, float(seconds), float(ahead), locks == "1") for p in places]
    except Refused as error:
        print(f"no: {error.strerror}", flush=True)
        return 3
    print("ready", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "stall":
            mounts[int(rest[0])].until = time.monotonic() + float(rest[1])
        elif command == "fail":
            request, error, times, pattern = rest[1:]
            mounts[int(rest[0])].faults.append(
                [request, getattr(errno, error), int(times), pattern]
            )
        print(json.dumps([mount.counts for mount in mounts]), flush=True)
    for mount in mounts:
        mount.connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
