"""Reading YAML files: one line says what is wrong and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..system.yaml_limits import check_node
from .messages import describe_value


def display_name(file: Path | None) -> str:
    """How messages call the configuration."""
    if file is None:
        return "configuration"
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def read_yaml(file: Path) -> dict[Any, Any]:
    """The mapping in a YAML file."""
    try:
        loader = yaml.SafeLoader(file.read_bytes())
        node = loader.get_single_node()
        check_node(node, keys=False)
        repeated = list(_repeated(node))
        data = loader.construct_document(node) if node is not None else None
    except OSError as err:
        raise InputError(f"{file}: cannot read the configuration: {err.strerror}") from None
    except yaml.YAMLError as err:
        raise InputError(f"{display_name(file)}: not valid YAML: {_yaml_reason(err)}") from None
    except (ValueError, RecursionError) as err:  # a date such as 2026-13-45; endless nesting
        raise InputError(f"{display_name(file)}: not valid YAML: {err}") from None
    if repeated:
        raise InputError(f"{display_name(file)}: {line}" for line in repeated)
    if data is None:
        raise InputError(
            f"{display_name(file)}: the file is empty, expected a mapping of keys to values"
        )
    if not isinstance(data, dict):
        raise InputError(
            f"{display_name(file)}: expected a mapping of keys to values, "
            f"found {describe_value(data)}"
        )
    return data


def is_recipe(file: Path) -> bool:
    """Whether a YAML file is a recipe."""
    try:
        return _kind(read_yaml(file)) == "recipe"
    except InputError:
        return False


def require_kind(raw: Mapping[Any, Any], wanted: str, file: Path) -> None:
    """A file of one kind may not stand where another is wanted.

    Parameters
    ----------
    raw : mapping
    wanted : str
        ``configuration`` or ``campaign``.
    file : Path

    Raises
    ------
    InputError
        Which kind it is, and how such a file is used.
    """
    found = _kind(raw)
    if found is not None and found != wanted:
        name = display_name(file)
        raise InputError(
            f"{name}: is a {found}, expected a {wanted}; {_USED[found].format(name=name)}"
        )


_MARKS = {
    "recipe": ({"steps"}, {"IN", "OUT", "CALDIR", "template"}),
    "campaign": ({"template", "exposures"}, {"IN", "OUT", "CALDIR", "steps"}),
    "configuration": ({"IN", "CALDIR"}, {"template", "exposures", "steps"}),
}
"""What a file of each kind has, and what it does not have."""
_USED = {
    "recipe": "a configuration names it by GRAPH, a command by --graph {name}",
    "campaign": "it is run by: roman-dask-l2 batch {name}",
    "configuration": "it is run by: roman-dask-l2 {name}",
}


def _kind(raw: Mapping[Any, Any]) -> str | None:
    """What a file plainly is; None if that cannot be told."""
    keys = set(raw)
    return next((k for k, (has, not_) in _MARKS.items() if has <= keys and not not_ & keys), None)


def _yaml_reason(err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(err, "problem", None) or str(err).splitlines()[0])


def _repeated(node: yaml.Node | None, within: tuple[int, ...] = ()) -> Iterator[str]:
    """Keys that stand twice in a mapping; YAML itself would silently take the last."""
    if id(node) in within:
        raise ValueError("an alias refers to itself")
    within = (*within, id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, within)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    yield f"key {key.value} stands twice, in lines {first[key.value]} and {line}"
                first.setdefault(key.value, line)
            yield from _repeated(value, within)
