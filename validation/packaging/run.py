"""Build sdist and wheel, install them in an environment of their own, run outside the repository.

    python validation/packaging/run.py

The wheel is built from the sdist, so what the sdist lacks the wheel lacks. No extra is installed:
what is needed and not declared shows here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--side", "256")


def run(*command: object, cwd: Path, wanted: int = 0) -> str:
    """Output of a command that must end as it should; nothing of the repository is in its way."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode != wanted:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, made from the sdist."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    builder = folder / "builder"
    run(sys.executable, "-m", "venv", builder, cwd=folder)
    run(builder / "bin/python", *pip[1:], "install", "setuptools>=77", cwd=folder)
    program = (
        "import shutil, sys, os; from setuptools import build_meta\n"
        f"os.chdir({str(copied(folder))!r}); print(build_meta.build_sdist({str(folder)!r}))"
    )
    name = run(builder / "bin/python", "-c", program, cwd=folder).splitlines()[-1]
    with tarfile.open(folder / name) as sdist:
        inside = {member.name.partition("/")[2] for member in sdist}
    lacking = {"LICENSE", "README.md", "pyproject.toml", "deploy/slurm.yaml"} - inside
    if lacking:
        sys.exit(f"not in the sdist: {sorted(lacking)}")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / name, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def copied(folder: Path) -> Path:
    """The files that git knows: building leaves nothing in the repository, and takes nothing that
    happens to lie there."""
    files = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, files):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    return folder / "source"


def check_contents(wheel: Path) -> None:
    """Every module, recipe and default is in it."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"roman_dask_l2/graphs/{p.name}" for p in (ROOT / "graphs").glob("*.yaml")}
    wanted |= {f"roman_dask_l2/deploy/{p.name}" for p in (ROOT / "deploy").glob("*.yaml")}
    tracked = run("git", "ls-files", "roman_dask_l2", cwd=ROOT).split()
    if lacking := (wanted | set(tracked)) - inside:
        sys.exit(f"not in the wheel: {sorted(lacking)}")


def use(wheel: Path, folder: Path) -> None:
    """Install it and do what a user does."""
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=folder)
    python, program = venv / "bin/python", venv / "bin/roman-dask-l2"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=folder)
    version = run(program, "--version", cwd=folder).split()[-1]
    code = (
        "from importlib.metadata import version; import roman_dask_l2, pathlib, sys\n"
        "from roman_dask_l2.config.recipe import shipped\n"
        "assert roman_dask_l2.__version__ == version('roman-dask-l2') == sys.argv[1]\n"
        "home = pathlib.Path(roman_dask_l2.__file__).parent\n"
        "assert home.is_relative_to(sys.prefix), home\n"
        "assert (home / 'py.typed').is_file()\n"
        "assert all(path.is_relative_to(home) for path in shipped().values())\n"
        "assert (home / 'deploy' / 'slurm.yaml').is_file()\n"
        "assert len(shipped()) >= 2"
    )
    run(python, "-c", code, version, cwd=folder)
    run(program, "simulate", "s", *SMALL, cwd=folder)
    run(program, "validate", "s/config.yaml", cwd=folder)
    for recipe in ("l1_to_l2", "romanimpreprocess_1.0"):
        run(program, "s/config.yaml", "--graph", recipe, cwd=folder)
    run(program, "graph", "s/config.yaml", "-o", "drawing.svg", cwd=folder)
    run(program, "schema", "-o", "schema.json", cwd=folder)
    run(program, "completion", "bash", cwd=folder, wanted=2)  # its extra is not there
    run(program, "s/config.yaml", "--scheduler", "slurm", cwd=folder, wanted=2)  # nor is this one
    run(program, "s/none.yaml", cwd=folder, wanted=2)
    for made in ("s/l2.asdf", "drawing.svg", "schema.json"):
        if not (folder / made).is_file():
            sys.exit(f"{made} was not written")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        check_contents(wheel)
        use(wheel, folder)
        sys.stdout.write(f"{wheel.name}: builds, installs and runs\n")


if __name__ == "__main__":
    main()
