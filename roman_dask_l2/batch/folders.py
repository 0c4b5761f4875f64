"""Folders that exposures write to: those of outputs are made, others must be there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..config.model import Config
from ..errors import InputError
from ..io.spill import temp_place


def output_folders(config: Config) -> list[tuple[str, Path]]:
    """Key and folder of each output."""
    files = [("OUT", config.OUT)]
    if config.NOISE is not None:
        files.append(("NOISE.OUT", config.NOISE.OUT))
    return [(key, Path(os.path.realpath(path)).parent) for key, path in files]


def make_folders(config: Config) -> None:
    """Make the folders of the outputs, where they are not there.

    Raises
    ------
    InputError
        If one cannot be made.
    """
    for key, folder in output_folders(config):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(_cannot_be_made(key, folder, error.strerror or str(error))) from None


def folders_to_make(configs: Iterable[Config]) -> list[Path]:
    """Those that are not there; nothing is made.

    Raises
    ------
    InputError
        If one could not be made.
    """
    missing: dict[Path, str] = {}
    for config in configs:
        for key, folder in output_folders(config):
            if folder not in missing and not folder.is_dir():
                missing[folder] = key
    problems = []
    for folder, key in missing.items():
        # A broken link or a file in the way exists, too.
        there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
        if not there.is_dir():
            problems.append(_cannot_be_made(key, folder, f"{there} is not a directory"))
        elif not os.access(there, os.W_OK | os.X_OK):
            problems.append(_cannot_be_made(key, folder, f"{there} is not writable"))
    if problems:
        raise InputError(problems)
    return list(missing)


def doubtful_folders(configs: Iterable[Config]) -> dict[str, int]:
    """What is wrong with folders as seen from this machine, and how many exposures it concerns.

    On the machine that will do them it may be different. Folders that will be made are left out.
    """
    found: dict[str, int] = {}
    for config in configs:
        folders = [item for item in output_folders(config) if item[1].is_dir()]
        if config.TEMP is not None:
            folders.append(("TEMP", config.TEMP))
        if config.NOISE is not None:
            folders.append(("NOISE.TEMP", temp_place(config.NOISE.TEMP)[0]))
        for key, folder in dict.fromkeys(folders):
            if not folder.is_dir():
                problem = f"{key}: the directory {folder} does not exist"
            elif not os.access(folder, os.W_OK | os.X_OK):
                problem = f"{key}: the directory {folder} is not writable"
            else:
                continue
            found[problem] = found.get(problem, 0) + 1
    return found


def _cannot_be_made(key: str, folder: Path, why: str) -> str:
    return f"{key}: the directory {folder} does not exist and cannot be made ({why})"
