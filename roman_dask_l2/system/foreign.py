"""One thread at a time in packages that hold locks while they import and configure themselves.

asdf looks for its extensions with its configuration locked, and imports them there; an extension
that is imported elsewhere at that moment asks for the configuration. Two threads that go these two
ways wait for each other for ever, and where packages import each other in a circle, one of two
threads sees a module that is only half there. So: tasks use none of them but what `load` gives, and
everything that opens, makes or writes their objects does it in `alone`.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

_lock = threading.RLock()
_loaded: dict[str, Any] = {}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other thread of this process is in such a block: for all work with asdf, astropy, gwcs and
    roman_datamodels."""
    with _lock:
        yield


def load(name: str) -> Any:
    """A module of another package, for a kernel.

    Parameters
    ----------
    name : str
        Dotted name.

    Returns
    -------
    module
        Once it is loaded, without waiting for `alone`.
    """
    if name not in _loaded:
        with alone():
            _loaded[name] = importlib.import_module(name)
    return _loaded[name]


def load_all(names: Iterable[str]) -> None:
    """`load` before the first task what tasks would load otherwise."""
    for name in names:
        load(name)


@contextlib.contextmanager
def quick_yaml() -> Iterator[None]:
    """PyYAML's compiled parser for those who ask for its slow one by name.

    asdf and roman_datamodels read hundreds of kilobytes of manifests when they are first used,
    which takes 1.6 s with the parser in Python and a tenth of that with libyaml's.
    """
    import yaml

    slow = yaml.SafeLoader
    try:
        if yaml.__with_libyaml__:
            yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment,misc]
        yield
    finally:
        yaml.SafeLoader = slow  # type: ignore[misc]


def load_asdf() -> Any:
    """asdf with all its extensions, which are read with the quick parser."""
    if "asdf" not in _loaded:
        with alone(), quick_yaml():
            import asdf

            asdf.get_config().extensions  # noqa: B018  (read now)
            _loaded["asdf"] = asdf
    return _loaded["asdf"]
