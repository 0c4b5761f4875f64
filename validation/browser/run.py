"""Reports in a real browser: ``make report-test``.

Installs Chromium from the distribution's packages where it is missing (as root, with apt-get), and
runs the tests of this folder. Arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from browser import NAMES, find

HERE = Path(__file__).parent


def install() -> None:
    """Chromium, if it is missing and we may."""
    if find():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"no {', '.join(NAMES)}; install one of them, or run this as root on Debian")
    print("installing chromium", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    if not find():
        sys.exit("apt-get has installed no chromium")


def main() -> int:
    install()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "browser", str(HERE), *sys.argv[1:]]
    return subprocess.run(command, cwd=HERE.parents[1]).returncode


if __name__ == "__main__":
    sys.exit(main())
