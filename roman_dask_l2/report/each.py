"""Reports of all exposures of a campaign that are done, and of the campaign."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from ..config.model import Config
from ..errors import InputError
from .campaign import campaign_report
from .exposure import exposure_report, report_path

log = logging.getLogger(__name__)


def write_reports(campaign: Path, done: Iterable[tuple[str, Config]]) -> tuple[Path | None, int]:
    """Write the reports of exposures that have none, or one that is older than their files; then
    that of the campaign, which links to them.

    What goes wrong with one report is a warning and does not keep the others from being written.

    Parameters
    ----------
    campaign : Path
        The campaign file.
    done : iterable of (str, Config)
        Identity and configuration of exposures that are done.

    Returns
    -------
    written : Path or None
        The campaign's report; None if it could not be written.
    failed : int
        Reports that could not be written.
    """
    stale = [(identity, config) for identity, config in done if is_stale(config)]
    failed = 0
    for i, (identity, config) in enumerate(stale, 1):
        noise = config.NOISE.OUT if config.NOISE and config.NOISE.OUT.exists() else None
        try:
            exposure_report(config.OUT, noise=noise)
        except Exception as error:
            failed += 1
            _warn(identity, error)
        else:
            log.info("%s: report %d of %d", identity, i, len(stale))
    try:
        return campaign_report(campaign), failed
    except Exception as error:
        _warn(str(campaign), error)
        return None, failed + 1


def is_stale(config: Config) -> bool:
    """Whether an exposure's report is missing, or older than one of its files."""
    report = report_path(config.OUT)
    if not report.is_file():
        return True
    made = [config.OUT, *([config.NOISE.OUT] if config.NOISE else [])]
    newest = max((path.stat().st_mtime for path in made if path.exists()), default=0.0)
    return report.stat().st_mtime < newest


def _warn(what: str, error: Exception) -> None:
    log.debug("%s: no report", what, exc_info=True)
    if isinstance(error, InputError):
        text = "; ".join(error.problems)
    else:
        text = f"{type(error).__name__}: {error}"
    log.warning("%s: no report: %s", what, " ".join(text.split()))
