"""Every code block of the README, the tutorial, the how-to pages and some others is run, in order.

Each page has a directory of its own that looks like a fresh clone, or like what the tutorial left.
What a block prints is compared with the ``text`` block after it, see `tests/helpers/printed.py`:
the words must be the same, numbers within a tolerance, but for times and sizes of memory. How
blocks are told apart:

``sh``
    Run by bash; working directory and exported variables are kept for the next block.
``python``
    Run in this process, all blocks of a page in one namespace.
``yaml``
    Its first line is ``# FILE``, and it is written there (``# FILE, continued`` adds to it).
``<!-- file PATH -->``
    The block below it is a file of docs/examples, put where a user would have saved it.
``json``
    Must be JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from printed import VARIES, difference

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BESIDE = ("report.md", "others.md", "drawings.md")
"""Pages whose reader works in the folder of the exposure."""
ALONE = ["README.md", "docs/tutorial.md", "docs/flags.md", *(f"docs/{name}" for name in BESIDE)]
PAGES = [*(ROOT / name for name in ALONE), *DOCS.glob("howto/*.md")]
NOT_RUN = {"{include}", "{math}", "{toctree}", "{note}"}
"""What is no code."""
BLOCK = re.compile(r"^```([\w{}]+)[ ]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDES, INCLUDED = re.compile(r"<!-- file (\S+) -->\n.*?<!-- end -->", re.DOTALL), "{file}"
FILE = re.compile(r"# ([\w./-]+\.yaml)(, continued)?\n")
STAND_INS = {
    "sbatch": r"""
# Runs the job here: one task of an array after the other; with --wait, until it ends; else in the
# background, as a process group with the job's number.
set -eu
array= wait=no
while [[ ${1:-} == -* ]]; do
    case $1 in
        --array=*) array=${1#*=} ;;
        --wait) wait=yes ;;
        --ntasks=*) export SLURM_NTASKS=${1#*=} ;;
        --cpus-per-task=*) export SLURM_CPUS_PER_TASK=${1#*=} ;;
        *) echo "sbatch: error: unknown option $1" >&2; exit 1 ;;
    esac
    shift
done
script=$(mktemp "$PWD/.job-XXXXXX"); cp "$1" "$script"; shift
export SLURM_JOB_ID=$$
if [ -n "$array" ]; then
    export SLURM_ARRAY_TASK_MIN=${array%-*} SLURM_ARRAY_TASK_MAX=${array#*-} SLURM_ARRAY_TASK_STEP=1
    export SLURM_ARRAY_TASK_COUNT=$((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1))
    for id in $(seq "${array%-*}" "${array#*-}"); do
        SLURM_ARRAY_TASK_ID=$id bash "$script" "$@"
    done
elif [ $wait = yes ]; then
    bash "$script" "$@"
else
    setsid bash "$script" "$@" >/dev/null 2>&1 &
    echo "Submitted batch job $!"
fi
""",
    "srun": r"""
set -eu
while [[ ${1:-} == -* ]]; do
    case $1 in
        --output=*) output=${1#*=} ;;
        --ntasks=* | --cpus-per-task=* | --kill-on-bad-exit=*) ;;
        *) echo "srun: error: unknown option $1" >&2; exit 1 ;;
    esac
    shift
done
# Whoever ends it ends its tasks.
setsid "$@" >"$output" 2>&1 &
trap 'kill -TERM -- -$! || true' TERM
status=0
until wait $! || status=$?; ! kill -0 $! 2>/dev/null; do :; done
exit $status
""",
    "scancel": r"""
[[ $1 != --* ]] || exit 1  # knows no steps: the script ends them otherwise
for job; do kill -TERM -- "-$job" || true; done
""",
}
"""SLURM's commands, for a machine without it. A page that uses one has to say so."""
DECLARED = "stand-ins"
LINKS = {"l2.asdf": "sim_L2_H158_1_2.asdf", str(ROOT / "graphs/l1_to_l2.yaml"): "my_recipe.yaml"}
"""Files under the names that a reader of these pages has given them."""


def blocks(page):
    """(language, rest of the fence, text) of all blocks.

    A file's language is `INCLUDED`; the rest of a fence below a comment `VARIES` is that comment.
    """
    text = INCLUDES.sub(rf"```{INCLUDED} \1\n```", page.read_text())
    text = re.sub(rf"{VARIES}\n+```text\n", f"```text {VARIES}\n", text)
    return BLOCK.findall(text)


def name(page):
    return str(page.relative_to(ROOT))


# -- what the pages work on ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory):
    """The folder ``exposure`` as the tutorial leaves it, and two more exposures."""
    from roman_dask_l2.products.level2 import calibrate
    from roman_dask_l2.products.noise_layers import generate_noise
    from roman_dask_l2.simulation.simulate import simulate

    folder = tmp_path_factory.mktemp("docs") / "tutorial"
    made = simulate(folder / "exposure", side=512)  # all as the tutorial has it
    for sca in (1, 2):
        simulate(folder / f"night/{sca}", side=256, detector=f"WFI0{sca}", seed=sca)
    (made.directory / "temp").mkdir()
    written = dict((f, text) for f, text in _files(DOCS / "tutorial.md"))
    with made.config.open("a") as config:
        config.write(written["exposure/config.yaml"])
    (folder / "campaign.yaml").write_text(written["campaign.yaml"])
    calibrate(made.config)
    generate_noise(made.config)
    return folder


def _files(page):
    for language, _, text in blocks(page):
        if language == "yaml":
            yield FILE.match(text)[1], text


def _clone(folder):
    """A clone in which `make` has installed everything: the programs are those of this test."""
    for part in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / part, folder)
    (folder / "tests" / "core").mkdir(parents=True)
    for part in ("conftest.py", "core/test_linalg.py"):  # a part of the tests, for all of them
        shutil.copy(ROOT / "tests" / part, folder / "tests" / part)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in ("python", "python3"):
        _script(programs / program, f'exec "{sys.executable}" "$@"\n')
    _script(programs / "roman-dask-l2", f'exec "{sys.executable}" -m roman_dask_l2 "$@"\n')
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    for extra in ("plots", "test"):
        (folder / ".venv" / f".{extra}").touch()
    return programs


def _script(path, text):
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)


class Reader:
    """Somebody who types in what a page says."""

    def __init__(self, folder, environment):
        self.folder, self.here = folder, folder
        self.environment = environment
        self.names = {"__name__": "__main__"}

    def sh(self, text):
        kept = self.folder / ".kept"
        after = f'\nexport -p > "{kept}"; pwd >> "{kept}"\n'
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{text}{after}"],
            cwd=self.here, env=self.environment, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        *exported, here = kept.read_text().splitlines()
        self.here = Path(here)
        probe = "\n".join([*exported, "exec env -0"])
        found = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
        self.environment = dict(item.split("=", 1) for item in found.stdout.split("\0") if item)
        return done.stdout

    def python(self, text):
        printed, before = io.StringIO(), Path.cwd()
        os.chdir(self.here)
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(text, "block", "exec"), self.names)
        finally:
            os.chdir(before)
        return printed.getvalue()

    def yaml(self, text):
        file = FILE.match(text)
        assert file, f"a YAML block without a file:\n{text}"
        with (self.here / file[1]).open("a" if file[2] else "w") as out:
            out.write(text)
        return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks(page, tutorial, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    own = {"PYTHONPATH", "CALIBRATION", "MY_DATA", "SCRATCH", "INTERFACE", "DASHBOARD"}
    own |= {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in own and not key.startswith(("PYTEST_", "SLURM_", "COV_"))
    }
    environment["SIDE"] = "512"  # of `make demo`
    programs = _clone(tmp_path)
    if page.name not in ("README.md", "tutorial.md"):
        shutil.copytree(tutorial, tmp_path, dirs_exist_ok=True)
        shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
        environment["PATH"] = f"{programs}:{environment['PATH']}"
    if page.name in BESIDE:
        shutil.copytree(tutorial / "exposure", tmp_path, dirs_exist_ok=True)
        for place, link in LINKS.items():
            (tmp_path / link).symlink_to(place)
        environment["HOME"] = str(tmp_path / "home")
    if page.name == "README.md":
        made = tutorial / "exposure"
        shutil.copy(made / "l1.asdf", tmp_path)
        shutil.copy(made / "wcs.txt", tmp_path)
        (tmp_path / "scratch").mkdir()
        monkeypatch.setenv("CALIBRATION", str(made / "cal"))  # for Python, too
        monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
        environment |= {key: os.environ[key] for key in ("CALIBRATION", "SCRATCH")}
    for command, text in STAND_INS.items():
        _script(programs / command, text)
    reader = Reader(tmp_path, environment)
    printed = ""
    for language, rest, text in blocks(page):
        if language == "text":
            problem = difference(text, printed, numbers=rest != VARIES)
            assert not problem, f"{problem}\nexpected:\n{text}\nfound:\n{printed}"
        elif language == "json":
            json.loads(text)
        elif language == INCLUDED:
            file = (page.parent / rest).resolve()
            assert file.parent == DOCS / "examples"
            shutil.copy(file, reader.here)
        elif language not in NOT_RUN:
            printed = {"sh": reader.sh, "python": reader.python, "yaml": reader.yaml}[language](
                text
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_stand_ins_are_declared(page):
    code = "".join(text for language, _, text in blocks(page) if language == "sh")
    used = {command for command in STAND_INS if re.search(rf"\b{command}\b", code)}
    if "--scheduler slurm" in code:
        used |= {"sbatch", "scancel"}
    if "one-allocation" in code:
        used.add("srun")
    told = [p for p in page.read_text().split("\n\n") if DECLARED in p]
    assert all(any(f"`{command}`" in p for p in told) for command in used), used


def test_every_page_is_run():
    assert importlib.util.find_spec("matplotlib")  # the tutorial draws
    assert len(PAGES) == len(ALONE) + len(list((DOCS / "howto").iterdir()))
