"""Amounts of memory, read as Dask reads them."""

from __future__ import annotations

from ..errors import InputError


def parse_memory(memory: str | float, example: str = "1GB") -> int:
    """Bytes of an amount such as ``1GB`` or ``512MiB``.

    Raises
    ------
    InputError
        If it is no amount; the message gives an `example`.
    """
    from dask.utils import parse_bytes

    try:
        if any(c.isdigit() for c in str(memory)):  # Dask takes "MB" for one
            return int(parse_bytes(memory))
    except (ValueError, TypeError, AttributeError, OverflowError):
        pass
    raise InputError(f"--memory {memory}: expected an amount such as {example}")
