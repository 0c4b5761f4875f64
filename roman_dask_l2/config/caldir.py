"""The names of reference files in a configuration: two names for one thing, and files not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.reference_types import NOT_GIVEN, OTHER_NAMES


def one_name_each(given: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """A block CALDIR with one name for each file, without those that are not given.

    Parameters
    ----------
    given : mapping
        As the user wrote it.

    Returns
    -------
    files : dict
        Without entries that are empty or N/A.
    problems : list of str
        One sentence for each file with two names.
    """
    # A key that is not known stays, to be reported.
    files = {k: v for k, v in given.items() if not _is_absent(k, v)}
    problems = []
    for other, key in OTHER_NAMES.items():
        if other in files and key in files:
            problems.append(
                f"CALDIR.{key} and CALDIR.{other} are both given, expected one of these two names "
                "for one file"
            )
        if other in files:
            files.setdefault(key, files[other])
            del files[other]
    return files, problems


def _is_absent(key: Any, value: Any) -> bool:
    text = value.strip().upper() if isinstance(value, str) else value
    return text == NOT_GIVEN or (value is None and key in OTHER_NAMES)


def as_given(line: str, caldir: Any) -> str:
    """A message with the name of a file that the user gave it."""
    for other, key in OTHER_NAMES.items():
        if isinstance(caldir, Mapping) and other in caldir and key not in caldir:
            line = line.replace(f"CALDIR.{key}:", f"CALDIR.{other}:")
            line = line.replace(f"CALDIR.{key} ", f"CALDIR.{other} ")
    return line


def add_other_names(schema: dict[str, Any]) -> None:
    """In the JSON Schema of CALDIR: the observatory's names of files beside the survey's."""
    for other, key in OTHER_NAMES.items():
        schema["properties"][other] = schema["properties"][key] | {
            "description": f"The observatory's name of {key}."
        }
