"""Who is let in: by the keys of a run, by certificates of a cluster that others have started, or
everybody, where that was asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .backends import SchedulerOptions
from .keys import run_keys, security_of

log = logging.getLogger(__name__)

OPEN_DOOR = "whoever reaches the ports of scheduler and workers can run code as you"
"""What plain tcp:// means."""


def security_of_run(
    options: SchedulerOptions, stack: contextlib.ExitStack, folder: Path | None = None
) -> Any:
    """Keys of the run; without any an object that asks for none, whatever Dask's configuration
    says."""
    if options.insecure:
        from distributed import Security

        log.warning("--insecure: %s", OPEN_DOOR)
        return Security(require_encryption=False)
    return stack.enter_context(run_keys(folder))


def security_of_others(target: str, options: SchedulerOptions) -> Any:
    """What lets this process into a cluster that others have started."""
    from distributed import Security

    files = (options.tls_ca_file, options.tls_cert, options.tls_key)
    locked = target.startswith("tls://")
    if options.insecure and (locked or any(files)):
        what = target if locked else "--tls-ca-file, --tls-cert, --tls-key"
        raise InputError(f"{what} and --insecure: expected one of them")
    if not locked:
        if not options.insecure:
            raise InputError(f"{target}: {OPEN_DOOR}; expected tls://host:port, or --insecure")
        log.warning("--insecure: %s", OPEN_DOOR)
        return Security(require_encryption=False)
    if any(files):
        authority, certificate, key = (Path(f) for f in files if f is not None)
        security = security_of(authority, certificate, key)
    else:
        security = Security(require_encryption=True)
        found = security.get_tls_config_for_role("client")
        if not (found["ca_file"] and found["cert"]):
            raise InputError(
                f"{target}: expected --tls-ca-file, --tls-cert and --tls-key, or "
                "distributed.comm.tls in Dask's configuration"
            )
    try:
        security.get_connection_args("client")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        named = ", ".join(str(f) for f in files if f is not None) or "distributed.comm.tls"
        raise InputError(f"{named}: no usable certificates and key ({error})") from error
    return security


def check_protocol(settings: Mapping[str, Any], insecure: bool) -> None:
    """Settings of SLURM open no door that was not asked for, and close none that was."""
    own = settings["scheduler_options"]
    for where, given in (("", settings), ("scheduler_options: ", own)):
        protocol = given.get("protocol")
        if protocol is None:
            continue
        at = f"--scheduler slurm: {where}protocol {protocol}"
        if not insecure and not str(protocol).startswith("tls"):
            raise InputError(f"{at}: {OPEN_DOOR}; expected tls://, or --insecure")
        if insecure and str(protocol).startswith("tls"):
            raise InputError(f"{at} and --insecure: expected one of them")
    if "security" in own:
        raise InputError(
            "--scheduler slurm: scheduler_options: security means nothing, expected the keys of "
            "the run, or --insecure"
        )
    if own.get("jupyter") and not insecure:
        raise InputError(
            "--scheduler slurm: scheduler_options: jupyter: whoever reaches the dashboard can run "
            "code as you; expected --insecure"
        )
