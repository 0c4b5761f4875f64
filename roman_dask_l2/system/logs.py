"""What the program says: lines for people, and one JSON object for each on request."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import InputError

PACKAGE_LOG = logging.getLogger(__name__.partition(".")[0])
"""The log of the whole package, to which every module's own one passes its lines."""

REPEATED = 50
"""Warnings and errors that are repeated at the end, at most."""
_PAGE = 4096
_LONGEST = 2048
"""Bytes of a JSON line, at most: with shorter ones no line crosses a page of the file."""


class Lines(logging.Handler):
    """Lines on standard error; warnings and errors that others have come after are said again at
    the end."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self._serious: dict[str, int] = {}
        self._buried = False

    def emit(self, record: logging.LogRecord) -> None:
        # Looked up each time: progress bars put their own stream there while they are drawn.
        sys.stderr.write(self.format(record) + "\n")
        if record.levelno >= logging.WARNING:
            self._serious.setdefault(record.getMessage(), record.levelno)
        elif self._serious:
            self._buried = True

    def repeat(self) -> None:
        """Say warnings and errors again, if other lines have come after them."""
        if not self._buried:
            return
        errors = sum(level >= logging.ERROR for level in self._serious.values())
        warnings = len(self._serious) - errors
        counts = [_count(n, what) for n, what in ((errors, "error"), (warnings, "warning")) if n]
        shown = list(self._serious)[:REPEATED]
        lines = [f"{' and '.join(counts)} on the way:", *(f"  {line}" for line in shown)]
        if len(self._serious) > REPEATED:
            lines.append(f"  and {len(self._serious) - REPEATED} more")
        sys.stderr.write("\n".join(lines) + "\n")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


class JsonLines(logging.Handler):
    """One JSON object a line, added to a file.

    Each is written at once, and is filled up with spaces where the next one might cross a page of
    the file: a reader never sees half a line, because a file system shows writes page by page.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        If the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(
                f"--log-json {path}: cannot be written ({error.strerror}), expected a file name"
            ) from None
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # a writer was killed in the middle of its line

    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "stage": getattr(record, "stage", None),
            "message": record.getMessage(),
            "fields": {"module": record.name.removeprefix("roman_dask_l2.")}
            | getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["fields"]["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            self._write(line)
        except (OSError, TypeError, ValueError):
            self.handleError(record)

    def _write(self, line: dict[str, Any]) -> None:
        data = _encoded(line)
        length = 400
        while len(data) >= _LONGEST:
            fields = {"module": line["fields"]["module"]}
            data = _encoded(line | {"message": line["message"][:length], "fields": fields})
            length //= 2
        size = os.fstat(self._file).st_size
        room = _PAGE - (size + len(data) + 1) % _PAGE
        os.write(self._file, data + b" " * (room if room < _LONGEST else 0) + b"\n")

    def close(self) -> None:
        os.close(self._file)
        super().close()


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode(errors="replace")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class Messages:
    """All that a command says.

    Parameters
    ----------
    program : str
        Begins the lines of the last errors.
    level : int
        Of the lines for people.
    """

    def __init__(self, program: str, level: int) -> None:
        self._program = program
        self._lines = Lines()
        self._lines.setLevel(level)
        self._json: JsonLines | None = None
        PACKAGE_LOG.handlers[:] = [self._lines]
        PACKAGE_LOG.setLevel(level)
        PACKAGE_LOG.propagate = False

    def also_to(self, path: Path | None) -> None:
        """Write JSON lines as well.

        Raises
        ------
        InputError
        """
        if path is not None:
            self._json = JsonLines(path)
            PACKAGE_LOG.addHandler(self._json)
            PACKAGE_LOG.setLevel(min(PACKAGE_LOG.level, logging.INFO))

    def end(self, status: int, problems: Iterable[str] = ()) -> None:
        """The command has ended: say again what was wrong on the way, then why it ended."""
        self._lines.repeat()
        for problem in problems:
            line = " ".join(str(problem).split())
            sys.stderr.write(f"{self._program}: error: {line}\n")
            self._note(logging.ERROR, line)
        self._note(logging.INFO, f"exit status {status}", status=status)
        if self._json is not None:
            PACKAGE_LOG.removeHandler(self._json)
            self._json.close()

    def _note(self, level: int, message: str, **fields: Any) -> None:
        """A line for the JSON file alone."""
        if self._json is not None:
            record = PACKAGE_LOG.makeRecord(
                PACKAGE_LOG.name,
                level,
                "",
                0,
                message,
                (),
                None,
                extra={"stage": "end", "fields": fields},
            )
            self._json.emit(record)
