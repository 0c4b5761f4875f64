"""All problems of a configuration and its files at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.model import load_config, readable_paths
from ..config.noise_labels import parse_all, warn_about
from .job import attempt, open_job

log = logging.getLogger(__name__)


def find_problems(config: Mapping[str, Any] | str | Path) -> list[str]:
    """All problems of a configuration and its files, one sentence each.

    Unlike `prepare` it checks the files even if keys of the configuration are wrong.
    """
    problems: list[str] = []
    loaded = attempt(problems, load_config, config)
    if loaded is not None:
        job = open_job(loaded, problems, noise=True)
        if job is not None and not problems:
            from .metadata import check_metadata

            attempt(problems, check_metadata, job)
            for note in job.notes:
                log.warning("%s", note)
        if loaded.NOISE is not None and not problems:
            warn_about(layer for layer, _ in parse_all(loaded.NOISE.LAYER))
        return problems
    for key, path in _paths_of(config).items():
        if key not in ("OUT", "NOISE.OUT", "NOISE.TEMP", "TEMP") and not os.path.isfile(path):
            problems.append(f"{key}: {path}: no such file")
    return problems


def _paths_of(config: Mapping[str, Any] | str | Path) -> dict[str, Path]:
    """Paths in a configuration that has other problems; none if it cannot be read at all."""
    import yaml

    if isinstance(config, Mapping):
        return readable_paths(dict(config), Path.cwd())
    try:
        raw = yaml.safe_load(Path(config).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return readable_paths(raw, Path(config).absolute().parent) if isinstance(raw, dict) else {}
