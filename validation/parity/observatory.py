"""Side by side with the observatory's pipeline, romancal 1.1, after every step.

``python observatory.py`` makes an environment with romancal, reference files by the observatory's
schemas and one full-frame exposure with every condition of its steps, runs romancal's pipeline in a
process of its own, and ours with the recipe ``romancal_1.1``. It compares twice:

* each of our steps on what romancal left before it, so that every difference is the step's own;
* what our program leaves after each step when it calibrates the exposure, and the Level 2 files.

Needs 6 GB of memory, 12 GB of disk and about 15 minutes. Exit status 1 if anything is outside its
tolerance without a cause. ``--recipe`` may name another recipe; steps of romancal that it does not
have are left out, and ``--each`` leaves out the second comparison, so that a single step can be
tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Set as AbstractSet
from pathlib import Path

import yaml
from ecosystem import environment
from observatory_compare import (
    STEPS,
    Left,
    Result,
    compare_files,
    compare_step,
    summary,
)
from observatory_ours import each_step, prepared, run_all
from package import ROOT, say

HERE = Path(__file__).parent
RECIPE = "romancal_1.1"
MADE_BY = ("observatory_inputs.py", "observatory_scene.py", "observatory_exposure.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=ROOT / "out" / "parity")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--detector", default="WFI18")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--python", type=Path, help="of an environment that has romancal already")
    parser.add_argument("--each", action="store_true", help="only the first comparison")
    parser.add_argument("--steps", default="", help="only these of our steps, comma-separated")
    parser.add_argument("--keep", action="store_true", help="keep what romancal's steps left")
    parser.add_argument("--write-docs", type=Path, help="write the tables to this file")
    args = parser.parse_args()
    text, compared, failed = observatory_tables(
        args.directory.resolve(),
        args.seed,
        detector=args.detector,
        recipe=args.recipe,
        python=args.python,
        each_only=args.each,
        only=set(filter(None, args.steps.split(","))),
        keep=args.keep,
    )
    say(text)
    if args.write_docs:
        args.write_docs.write_text(text)
    say(f"observatory: {compared - len(failed)} passed, {len(failed)} failed")
    if failed:
        say("failed: " + ", ".join(failed))
    return 1 if failed else 0


def observatory_tables(
    folder: Path,
    seed: int,
    *,
    detector: str = "WFI18",
    recipe: str = RECIPE,
    python: Path | None = None,
    each_only: bool = False,
    only: AbstractSet[str] = frozenset(),
    keep: bool = False,
) -> tuple[str, int, list[str]]:
    """Make everything that is missing, run both programs and compare.

    Parameters
    ----------
    folder : Path
    seed : int
    detector : str
    recipe : str
        Ours.
    python : Path, optional
        Interpreter of an environment that has romancal; without it one is made.
    each_only : bool
        Leave the second comparison out.
    only : set of str
        Steps of ours to compare; all if it is empty.
    keep : bool
        Keep what romancal's steps left (4 GB).

    Returns
    -------
    text : str
        Markdown tables.
    compared : int
        Arrays.
    failed : list of str
    """
    folder.mkdir(parents=True, exist_ok=True)
    python = python or environment(folder / "romancal")
    place = folder / f"observatory-{detector}-{seed}"
    inputs(place / "in", seed, detector, python)
    romancal(place, python)
    text, failed, compared = check(place, recipe, each_only=each_only, only=only)
    if not keep:
        shutil.rmtree(place / "out")
    return text, compared, failed


def inputs(folder: Path, seed: int, detector: str, python: Path) -> None:
    """Reference files and the exposure, unless they are there already."""
    stamp = folder / "made.json"
    by = {"seed": seed, "detector": detector}
    by |= {name: (HERE / name).read_text() for name in MADE_BY}
    if stamp.is_file() and json.loads(stamp.read_text()) == by:
        say(f"using the exposure in {folder}")
        return
    began = time.perf_counter()
    shutil.rmtree(folder.parent / "out", ignore_errors=True)
    program = [python, "-W", "ignore", HERE / MADE_BY[0], folder]
    subprocess.run([*program, "--seed", str(seed), "--detector", detector], check=True)
    stamp.write_text(json.dumps(by))
    say(f"made {folder} in {time.perf_counter() - began:.0f} s")


def romancal(place: Path, python: Path) -> None:
    """romancal's pipeline on the exposure, unless what it left is there already."""
    out = place / "out"
    if not (out / "l2.asdf").is_file():
        shutil.rmtree(out, ignore_errors=True)
        program = [python, "-W", "ignore", HERE / "romancal_pipeline.py"]
        with open(place / "romancal.log", "w") as log:
            subprocess.run(
                [*program, place / "in" / "l1.asdf", place / "in", out],
                check=True, stdout=log, stderr=log,
            )  # fmt: skip
    steps = json.loads((out / "steps.json").read_text())
    wall, cpu = (sum(s[k] for s in steps) for k in ("wall", "user"))
    cpu += sum(s["system"] for s in steps)
    peak = max(s["peak"] for s in steps)
    say(f"romancal: {wall:.0f} s, {cpu:.0f} s of processor time, {peak / 1e9:.2f} GB")


def configuration(place: Path, recipe: str) -> Path:
    """A configuration of our program for the exposure."""
    caldir = {path.stem: f"in/{path.name}" for path in sorted((place / "in").glob("*.asdf"))}
    del caldir["l1"]
    settings = {"IN": "in/l1.asdf", "OUT": "ours.asdf", "CALDIR": caldir, "JUMPOUT": True}
    path = place / "config.yaml"
    path.write_text(yaml.safe_dump(settings | {"GRAPH": recipe}))
    return path


def check(
    place: Path, recipe: str, *, each_only: bool, only: AbstractSet[str]
) -> tuple[str, list[str], int]:
    """Both comparisons: the tables, what has failed, and how much was compared."""
    job = prepared(configuration(place, recipe))
    left = Left(place / "out", job.exposure.side)
    mine = place / "ours"
    parts, results = [], []
    own: list[Result] = []
    for bound in job.steps:
        if bound.name not in STEPS or (only and bound.name not in only):
            continue
        if STEPS[bound.name] not in left.steps:
            continue
        made = each_step(job, bound, left, mine)
        own.append(compare_step(bound.name, made, left, job))
        shutil.rmtree(mine)
    parts.append("### Each step on what romancal left before it\n\n" + summary(own))
    results += own
    if not each_only:
        tapped = run_all(job, mine)
        chain: list[Result] = []
        for bound in job.steps:
            if bound.name in tapped and STEPS[bound.name] in left.steps:
                chain.append(compare_step(bound.name, tapped[bound.name], left, job, own))
        chain.append(compare_files(job.config.OUT, place / "out" / "l2.asdf", left, job, own))
        shutil.rmtree(mine)
        parts.append("### After every step of the program\n\n" + summary(chain))
        results += chain
    failed = [f"{r.step} {row.name}" for r in results for row in r.rows if row.outside]
    return "\n\n".join(parts), failed, sum(len(r.rows) for r in results)


if __name__ == "__main__":
    sys.exit(main())
