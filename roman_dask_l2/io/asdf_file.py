"""Opening ASDF files with asdf itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..system.foreign import alone


@contextlib.contextmanager
def open_asdf(path: str | os.PathLike[str], **options: Any) -> Iterator[Any]:
    """An ``asdf.AsdfFile``, closed at the end of the block; its arrays are read when asked for.

    Parameters
    ----------
    path : path
        Taken as it is: asdf reads a name as a URL, in which ``//``, ``#``, ``?`` and ``%20`` mean
        something else.
    **options
        As for ``asdf.open``.
    """
    options = {"lazy_load": True, "memmap": False} | options
    # The address is for arrays that lie in files beside this one.
    uri = Path(path).absolute().as_uri()
    with alone(), open(path, "rb") as stream:
        import asdf

        with asdf.open(stream, uri=uri, **options) as file:
            yield file
