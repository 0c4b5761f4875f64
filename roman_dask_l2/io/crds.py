"""Reference files that CRDS, the observatory's Calibration Reference Data System, chooses.

Everything comes from the cache in ``CRDS_PATH``: the rules (mappings) of the context and the files.
Nothing is asked of a server or fetched from one, so that compute nodes need no network and all
exposures of a night see the same rules. What is not in the cache, ``crds sync`` puts there.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.reference_types import OWN, observatory_name
from ..errors import InputError
from ..system.foreign import alone
from .layout import Layout
from .opened import Cache

PLACE = "CALDIR: crds"
_NONE = "n/a"
"""How CRDS says that the rules name no file on purpose."""

_contexts = Cache(4)


@dataclass(frozen=True)
class Choice:
    """What CRDS chose for an exposure.

    Attributes
    ----------
    context : str
        Name of the rules, such as ``roman_0001.pmap``.
    software : str
        Version of the package crds.
    files : mapping of str to Path
        Key of CALDIR -> file in the cache.
    absent : tuple of str
        Keys for which the rules say that there is no file.
    """

    context: str
    software: str
    files: Mapping[str, Path] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = [f"{observatory_name(k)} {path.name}" for k, path in self.files.items()]
        names += [f"{observatory_name(k)} N/A" for k in self.absent]
        return f"CRDS context {self.context}: {', '.join(names)}"


def choose(l1: Layout, keys: Sequence[str]) -> Choice:
    """The reference files of an exposure, by the rules of CRDS.

    Parameters
    ----------
    l1 : Layout
    keys : sequence of str
        Of CALDIR.

    Returns
    -------
    Choice

    Raises
    ------
    InputError
        The package or its cache is missing, a file is not in the cache, or the rules do not know
        what to choose.
    """
    cache = _cache_folder()
    header = dict(match_parameters(l1))
    with alone():
        try:
            import crds
            from crds.core import config
        except ImportError:
            raise InputError(
                f"{PLACE} needs the package crds: pip install 'roman-dask-l2[crds]'"
            ) from None
        context = os.environ.get("CRDS_CONTEXT") or _context_in_use(cache)
        mapping = _contexts.get((str(cache), context), lambda: _load(cache, context))
        wanted = [key for key in keys if key not in OWN]
        found = {
            key: str(_best(mapping, header, observatory_name(key), l1, context)) for key in wanted
        }
        files, absent, problems = {}, [], []
        for key, name in found.items():
            path = Path(config.locate_file(name, "roman")) if _is_file(name) else None
            if path is not None and path.is_file():
                files[key] = path
            elif path is not None:
                problems.append(
                    f"{PLACE}: {path.name}, the {observatory_name(key)} chosen by {context}, is "
                    f"not in the cache {cache}"
                )
            elif name.upper().removeprefix("NOT FOUND ").strip() == _NONE.upper():
                absent.append(key)
            else:
                why = " ".join(name.removeprefix("NOT FOUND").split())
                problems.append(
                    f"{PLACE}: {context} has no {observatory_name(key)} for {l1.path} ({why})"
                )
    if problems:
        raise InputError(problems)
    return Choice(context, str(crds.__version__), files, tuple(absent))


def match_parameters(l1: Layout) -> Iterator[tuple[str, str]]:
    """What the rules look at: ``ROMAN.META.INSTRUMENT.DETECTOR`` and the like, and its value."""
    yield from _flat(l1.value("roman", "meta", default={}), "ROMAN.META")


def _flat(node: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping) and set(node) >= {"value", "scale"}:  # an astropy Time
        node = node["value"]
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{name}.{str(key).upper()}")
    elif node is not None and not isinstance(node, list):
        yield name, node.isoformat() if hasattr(node, "isoformat") else str(node)


def _cache_folder() -> Path:
    text = os.environ.get("CRDS_PATH", "").strip()
    if not text:
        raise InputError(
            f"{PLACE}: the environment variable CRDS_PATH is not set, expected the folder of the "
            "CRDS cache"
        )
    folder = Path(text)
    if not folder.is_dir():
        raise InputError(f"{PLACE}: CRDS_PATH is {text}, which is no folder")
    return folder


def _context_in_use(cache: Path) -> str:
    """The context that the cache says is in use, for a user who names none."""
    path = cache / "config" / "roman" / "server_config"
    try:
        # crds would end the process if there is nothing of the kind.
        return str(ast.literal_eval(path.read_text())["operational_context"])
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):
        raise InputError(
            f"{PLACE}: CRDS_CONTEXT is not set, and the cache {cache} does not say which context "
            "is in use (config/roman/server_config)"
        ) from None


def _load(cache: Path, context: str) -> Any:
    """The rules of a context."""
    from crds.core import rmap

    if not (cache / "mappings" / "roman" / Path(context).name).is_file():
        raise InputError(f"{PLACE}: the context {context} is not in the cache {cache}")
    try:
        return rmap.load_mapping(context)
    except Exception as error:
        line = " ".join(str(error).split())
        raise InputError(f"{PLACE}: the context {context} cannot be used ({line})") from error


def _best(mapping: Any, header: Mapping[str, str], kind: str, l1: Layout, context: str) -> Any:
    try:
        return mapping.get_best_references(header, include=[kind])[kind]
    except Exception as error:
        line = " ".join(str(error).split())
        raise InputError(f"{PLACE}: {context} has no {kind} for {l1.path} ({line})") from error


def _is_file(name: str) -> bool:
    return not name.upper().startswith(("NOT FOUND", "N/A"))
