"""Opening ASDF files with asdf itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..system.files import open_regular
from ..system.foreign import alone, load_asdf
from .scan import naming_file, scan_open
from .tree import parse_checked_tree


@contextlib.contextmanager
def open_asdf(path: str | os.PathLike[str], **options: Any) -> Iterator[Any]:
    """An ``asdf.AsdfFile``, closed at the end of the block; its arrays are read when asked for.

    The tree is looked through first: asdf would expand whatever aliases stand for, and read any
    file, or fetch it from another machine, that the tree names.

    Parameters
    ----------
    path : path
        Taken as it is: asdf reads a name as a URL, in which ``//``, ``#``, ``?`` and ``%20`` mean
        something else.
    **options
        As for ``asdf.open``.

    Raises
    ------
    InputError
        If it is no ASDF file, or its tree names files that lie elsewhere or has what takes much
        to be made.
    OSError
        If it cannot be read.
    """
    options = {"lazy_load": True, "memmap": False} | options
    # The address is for arrays that lie in files beside this one.
    uri = Path(path).absolute().as_uri()
    with alone(), open_regular(path, "an ASDF file") as stream:
        with naming_file(Path(path)):
            head, _, _, _ = scan_open(stream, Path(path))
            parse_checked_tree(str(path), head)
        stream.seek(0)
        with load_asdf().open(stream, uri=uri, **options) as file:
            yield file
