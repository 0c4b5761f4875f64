"""The tests with other interpreters and other versions of packages: ``make test-versions``.

    python validation/versions/run.py [--only 3.11-oldest 3.13 ...] [arguments for pytest]

For each case an environment is made in out/versions/ and the tests are run in it. A case whose
interpreter is not on this machine is named and counts as failed. Options of pytest follow a ``--``:
``make test-versions ARGS="--only 3.11-oldest -- -x tests/io"``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from oldest import FILE, ROOT, constraints

CASES = {"3.11-oldest": FILE, "3.11": None, "3.12": None, "3.13": None}
"""Python's version -> a file of constraints, or None for the newest packages."""


def interpreter(version: str) -> Path | None:
    """A Python of this version that can make environments."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [f"python{version}", *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    for place in places:
        path = shutil.which(place)
        probe = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
        if path:
            said = subprocess.run([path, "-c", probe], capture_output=True, text=True)
            if said.returncode == 0 and said.stdout.strip() == version:
                return Path(path)
    return None


def environment(case: str) -> Path | None:
    """The Python of an environment with this checkout, made anew."""
    python = interpreter(case.removesuffix("-oldest"))
    if python is None:
        print(f"{case}: no such Python on this machine", flush=True)
        return None
    folder = ROOT / "out" / "versions" / case
    print(f"{case}: installing into {folder.relative_to(ROOT)}", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "-qq"]
    command += ["--disable-pip-version-check", "-e", f"{ROOT}[test]"]
    if limits := CASES[case]:
        command += ["-c", limits]
    done = subprocess.run(command)
    return folder / "bin" / "python" if done.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    if FILE.read_text() != constraints((ROOT / "pyproject.toml").read_text()):
        raise SystemExit(f"{FILE.name} is not what pyproject.toml says: run oldest.py")
    failed = []
    for case in options.only:
        python = environment(case)
        command = [python, "-m", "pytest", "-q", "-n", "2", *options.pytest]
        good = python is not None and subprocess.run(command, cwd=ROOT).returncode == 0
        print(f"{case}: {'passed' if good else 'FAILED'}", flush=True)
        failed += [] if good else [case]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
