"""YAML that asks for more than a file of this program needs is refused before anything is made of
it: aliases that multiply, endless nesting, numbers that take hours."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

MOST_NODES = 300_000
"""Keys, values and items in one document: about 300 MB while it is read. An image of 512 x 512
pixels whose numbers stand in the tree has 262 657."""
MOST_LEVELS = 200
"""Mappings and lists in each other."""
MOST_DIGITS = 1000
"""Characters of a number."""
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


class TooMuch(ValueError):
    """The document has more than it may."""


@lru_cache(maxsize=1)
def plain_loader() -> Any:
    """A class of YAML loaders that count what they read, and make nothing but plain objects:
    unknown tags mean nothing to them."""
    import yaml

    base = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

    class Loader(base):  # type: ignore[misc,valid-type]
        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self._nodes = self._level = 0

        # These two are called at the beginning and end of each node.
        def descend_resolver(self, parent: Any, index: Any) -> None:
            self._nodes += 1
            self._level += 1
            if self._nodes > MOST_NODES:
                raise TooMuch(f"more than {MOST_NODES} keys and values")
            if self._level > MOST_LEVELS:
                raise TooMuch(f"more than {MOST_LEVELS} levels")

        def ascend_resolver(self) -> None:
            self._level -= 1

        def plain(self, node: Any) -> Any:
            if isinstance(node, yaml.MappingNode):
                return self.construct_yaml_map(node)
            if isinstance(node, yaml.SequenceNode):
                return self.construct_yaml_seq(node)
            return self.construct_scalar(node)

    Loader.add_constructor(None, Loader.plain)
    return Loader


def load_plain(text: bytes | str) -> tuple[Any, Any]:
    """The plain objects of a YAML document, and its root node; both None of an empty one.

    Raises
    ------
    ValueError
        If its values are not what their tags say, or `TooMuch`.
    yaml.YAMLError
        If it is not YAML.
    """
    import yaml

    try:
        loader = plain_loader()(text)
        try:
            root = loader.get_single_node()
            check_node(root)
            return (None if root is None else loader.construct_document(root)), root
        finally:
            loader.dispose()
    except (ValueError, yaml.YAMLError):
        raise
    except Exception as error:  # YAML's constructors fail in many ways
        line = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not valid YAML: {line[:300]}") from error


def check_node(root: Any, keys: bool = True) -> None:
    """What aliases make of a document counts as well; no key may stand twice.

    Parameters
    ----------
    root : yaml.Node or None
    keys : bool
        Look for keys that stand twice.

    Raises
    ------
    ValueError
    """
    import yaml

    sizes: dict[int, int] = {}  # nodes below each, aliases followed
    inside: set[int] = set()
    left = [] if root is None else [(root, False)]
    while left:
        node, done = left.pop()
        here = id(node)
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > MOST_DIGITS and node.tag in _NUMBERS:
                raise TooMuch(f"a number of {len(node.value)} characters")
            sizes[here] = 1
            continue
        pairs = isinstance(node, yaml.MappingNode)
        children = [n for pair in node.value for n in pair] if pairs else node.value
        if done:
            inside.discard(here)
            sizes[here] = 1 + sum(sizes[id(n)] for n in children)
            if sizes[here] > MOST_NODES:
                raise TooMuch(f"aliases stand for more than {MOST_NODES} keys and values")
        elif here in inside:
            raise ValueError("an alias refers to itself")
        elif here not in sizes:
            inside.add(here)
            left.append((node, True))
            left += [(n, False) for n in children]
            if pairs and keys:
                _check_keys(node)


def _check_keys(mapping: Any) -> None:
    seen = set()
    for key, _ in mapping.value:
        if not isinstance(key.value, str):
            continue
        if (key.tag, key.value) in seen:
            raise ValueError(f"the key {key.value[:100]!r} stands twice")
        seen.add((key.tag, key.value))
