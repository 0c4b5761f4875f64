"""Side by side with romanimpreprocess 1.0.0 on one simulated full frame: ``make parity``.

Installs the package from PyPI into an environment of its own, simulates an exposure with every
condition that it can read, runs it as it is, and compares what it writes with our bit-compatible
recipe, array by array. Then it goes from that recipe to the default one, one option at a time, so
that every difference between the default recipe and the package has a name and a size. Last it
compares the statistics of noise layers with the scatter between our own realisations, compares the
observatory's pipeline with our recipe for it, step by step (`observatory.py`), and gives our files
to romancal's steps and to PyIMCOM's way of reading them (`ecosystem.py`).

Exit status 1 if anything is outside its tolerance.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path

import asdf
import numpy as np
import yaml
from compare import compare, images, rows_table
from ecosystem import check_ecosystem
from likelihood import RECIPE, likelihood_tables
from observatory import observatory_tables
from package import LAYERS, PACKAGE, ROOT, environment, run_module, say, simulated, table

from roman_dask_l2.io.references import Inputs
from roman_dask_l2.products import layer_plan, noise_layers

# From the bit-compatible recipe to the default one: what is changed, and what it means.
CHAIN = [
    (
        "reference pixels without the dark cube, its last planes",
        {"refpix": {"through_dark": False, "first_planes": False}},
    ),
    (
        "dark current off the ramp, not the rate",
        {"dark_rate": None, "dark": "before ipc", "ramp_fit": {"dark_noise": True}},
    ),
    ("read noise as IPC correction amplifies it", {"ramp_fit": {"ipc_noise": True}}),
    ("two used resultants suffice before saturation", {"ramp_fit": {"truncated_min": 2}}),
    (
        "resultants that must not be used left out of the fit",
        {"dq_init": {"interpolate": True}, "ramp_fit": {"exclude": True}},
    ),
    (
        "references that cannot be right flagged, not used",
        {
            step: {"check_references": True}
            for step in ("saturation", "linearity", "ipc", "ramp_fit", "flat")
        },
    ),
    (
        "flags of further reference files joined",
        {step: {"reference_dq": True} for step in ("bias", "ipc", "ramp_fit", "flat")},
    ),
    ("mode of the sky without the reference border", {"medsky": {"border": False}}),
    ("sky without unusable pixels", {"sky": {"every_pixel": False}}),
    ("solid angle where the pixel is, not 4 pixels off", {"flat": {"area_shift": 0}}),
    (
        "errors in float32 until they are written",
        {"ramp_fit": {"half_precision_errors": False}, "flat": {"half_precision_errors": False}},
    ),
    ("chisq and dumo filled in", {"ramp_fit": {"quality": True}}),
]


SEEDS = 4
"""Our realisations of each layer; their range is the scatter that the package may differ by."""
PERCENTILES = (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=ROOT / "out" / "parity")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-docs", action="store_true", help="write docs/parity.md")
    parser.add_argument(
        "--calibrations",
        action="store_true",
        help="leave out the noise layers and the way from recipe to recipe",
    )
    args = parser.parse_args()
    if args.calibrations and args.write_docs:
        parser.error("docs/parity.md has tables that --calibrations leaves out")
    folder = args.directory.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    python = environment(folder / "venv")
    config = simulated(folder / f"seed{args.seed}", args.seed, python)
    package = run_package(config, python, noise=not args.calibrations)
    ours = run_ours(config, "romanimpreprocess_1.0")
    rows = compare(ours, package)
    first = rows_table(rows)
    say(f"\nromanimpreprocess_1.0 recipe against {PACKAGE}\n\n{first}\n")
    *fits, n_fits, wrong_fits = likelihood_tables(config, python, run_ours, RECIPE)
    say(f"{RECIPE} recipe against {PACKAGE} with romancal_ramp_fit\n\n{fits[0]}\n\n{fits[1]}\n")
    second, third, wrong = "", "", []
    if not args.calibrations:
        second = chain_table(config, ours)
        say(f"From romanimpreprocess_1.0 to l1_to_l2, one option at a time\n\n{second}\n")
        third, wrong = noise_table(config)
        say(f"Noise layers, DN/s\n\n{third}\n")
    observatory, n_steps, wrong_steps = observatory_tables(folder, args.seed)
    say(f"romancal_1.1 recipe against romancal 1.1\n\n{observatory}\n")
    if args.write_docs:
        write_docs(first, fits, second, third, observatory)
    others, unusable = check_ecosystem(folder)
    failed = [r.name for r in rows if r.outside] + wrong_fits + wrong + wrong_steps + unusable
    total = len(rows) + n_fits + n_steps + others + len(LAYERS) * (not args.calibrations)
    say(f"parity: {total - len(failed)} passed, {len(failed)} failed")
    if failed:
        say("failed: " + ", ".join(failed))
    return 1 if failed else 0


def run_package(config: Path, python: Path, *, noise: bool) -> Path:
    """Run the package on the configuration, unless its result is there."""
    if noise:  # makes the noise layers, and calibrates first
        run_module("romanimpreprocess.L1_to_L2.gen_noise_image", config, python, "package")
    elif not config.with_name("package.done").is_file():
        name = "package_calibration"
        run_module("romanimpreprocess.L1_to_L2.gen_cal_image", config, python, name)
    return config.with_name("package.asdf")


def run_ours(config: Path, recipe: str | Path) -> Path:
    """Run our program with a recipe on the same configuration."""
    name = Path(recipe).name.removesuffix(".yaml")
    settings = yaml.safe_load(config.read_text()) | {"OUT": f"ours_{name}.asdf"}
    ours = config.with_name(f"config_{name}.yaml")
    ours.write_text(yaml.safe_dump(settings))
    began = time.perf_counter()
    command = [sys.executable, "-m", "roman_dask_l2", str(ours), "--quiet", "--graph", str(recipe)]
    command.append("--no-noise")
    subprocess.run(command, check=True, cwd=ROOT)
    say(f"{name} took {time.perf_counter() - began:.0f} s")
    return config.with_name(settings["OUT"])


def chain_table(config: Path, compatible: Path) -> str:
    """The second table: what each step from the compatible to the default recipe changes."""
    recipe = yaml.safe_load((ROOT / "graphs" / "romanimpreprocess_1.0.yaml").read_text())
    default = yaml.safe_load((ROOT / "graphs" / "l1_to_l2.yaml").read_text())
    before, lines = images(compatible), []
    for i, (meaning, change) in enumerate(CHAIN, 1):
        recipe["steps"] = changed(recipe["steps"], change)
        recipe["name"] = f"chain_{i}"
        path = config.with_name(f"chain_{i}.yaml")
        path.write_text(yaml.safe_dump(recipe))
        out = run_ours(config, path)
        after = images(out)
        lines.append([meaning, *difference(before, after)])
        before = after
        for old in config.parent.glob(f"ours_chain_{i}*"):
            old.unlink()
    last = images(run_ours(config, "l1_to_l2"))
    differ = [n for n in last if not np.array_equal(last[n], before[n], equal_nan=True)]
    if differ:
        raise SystemExit(
            f"the chain ends at {recipe['steps']}, which is not the default {default['steps']}: "
            f"{', '.join(differ)} differ"
        )
    head = ["what changes", "rates that differ", "median", "99.9 %", "errors that differ"]
    return table([*head, "dq that differ (flags)"], lines)


def changed(steps: list, change: dict) -> list:
    """Steps with other options; None removes a step, "before X" puts one in."""
    result = []
    for entry in steps:
        name, options = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        for new, where in change.items():
            if where == f"before {name}":
                result.append(new)
        if name in change and change[name] is None:
            continue
        if isinstance(change.get(name), dict):
            options = options | change[name]
        result.append({name: options} if options else name)
    return result


def difference(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[str]:
    """Pixels whose rate, error and flags changed, with sizes relative to the error of the rate."""
    from roman_dask_l2.core.dq import PIXEL

    rate = np.abs(after["data_withsky"].astype(float) - before["data_withsky"])
    moved = rate > 0
    sigma = rate[moved] / np.maximum(before["err"][moved].astype(float), 1e-6)
    size = [f"{np.percentile(sigma, q):.2g} sigma" for q in (50, 99.9)] if moved.any() else ["", ""]
    bits = before["dq"] ^ after["dq"]
    flags = [f"{n} {c:,}" for n, bit in PIXEL.items() if (c := int(((bits & bit) != 0).sum()))]
    return [
        f"{moved.sum():,}",
        *size,
        f"{(before['err'] != after['err']).sum():,}",
        f"{(bits != 0).sum():,}" + (f" ({', '.join(flags)})" if flags else ""),
    ]


def noise_table(config: Path) -> tuple[str, list[str]]:
    """The third table, and the layers whose statistics are farther off than our scatter.

    Where the package is known to differ (it measures R layers against the exposure's own reference
    output, and so puts the exposure's banding into them), our realisations are made its way for
    the comparison, and in ours beside it.
    """
    theirs = array_of(config.with_name("package_noise.asdf"))
    ours = run_noise(config, "ours", [f"{la}C{i}" for la in LAYERS for i in range(SEEDS)])
    alike = run_noise(config, "alike", [f"{LAYERS[0]}C{i}" for i in range(SEEDS)])
    lines, wrong = [], []
    for j, label in enumerate(LAYERS):
        package = statistics(theirs[j])
        sampling = sampling_errors(theirs[j])
        mine = [statistics(ours[j * SEEDS + i]) for i in range(SEEDS)]
        compared = [statistics(image) for image in alike] if j == 0 else mine
        bad = []
        for name, value in package.items():
            values = np.array([s[name] for s in compared])
            # Four values can lie together by chance: their range is hardly ever less than twice
            # the standard deviation that sampling alone gives.
            scatter = max(np.ptp(values), 2 * sampling[name])
            if abs(value - values.mean()) > 2 * scatter:
                bad.append(f"{name}: {value:.5f} against {values.mean():.5f} +- {scatter:.5f}")
        if bad:
            say(f"{label}: " + "; ".join(bad))
            wrong.append(label)
        shown = ("0.1 %", "25 %", "50 %", "75 %", "99.9 %", "rows", "columns", "channels")
        rows = [("package", [package]), ("ours", mine)]
        rows += [("ours, made the package's way", compared)] if j == 0 else []
        for who, found in rows:
            means = [np.mean([s[n] for s in found]) for n in shown]
            lines.append([label, who, *(f"{m:+.4f}" for m in means)])
    head = ["layer", "", "0.1 %", "25 %", "median", "75 %", "99.9 %"]
    return table([*head, "rms of row means", "of column means", "of channel means"], lines), wrong


def run_noise(config: Path, name: str, labels: list[str]) -> np.ndarray:
    """Our layers of the bit-compatible recipe, "alike" with the package's noise-free ramp."""
    settings = yaml.safe_load(config.read_text())
    settings |= {"OUT": "ours_romanimpreprocess_1.0.asdf", "GRAPH": "romanimpreprocess_1.0"}
    settings["NOISE"] |= {"LAYER": labels, "OUT": f"noise_{name}.asdf"}
    settings["FITSOUT"] = False
    path = config.with_name(f"config_noise_{name}.yaml")
    path.write_text(yaml.safe_dump(settings))
    if name == "alike":
        original = layer_plan.base_inputs

        def with_own_amp33(inputs: Inputs) -> Inputs:
            changed = original(inputs)
            changed.sources["l1.amp33"] = inputs.sources["l1.amp33"]
            return changed

        layer_plan.base_inputs = with_own_amp33
    began = time.perf_counter()
    try:
        out = noise_layers.generate_noise(path).out
    finally:
        if name == "alike":
            layer_plan.base_inputs = original
    say(f"{len(labels)} noise layers took {time.perf_counter() - began:.0f} s")
    return array_of(out)


def array_of(path: Path) -> np.ndarray:
    with asdf.open(path, lazy_load=True, memmap=False) as file:
        return np.array(file["noise"])


def sampling_errors(image: np.ndarray) -> dict[str, float]:
    """Standard deviation of each of `statistics` for independent pixels, rows and columns.

    That of a percentile p is ``sqrt(p (1 - p) / n)`` over the density there; that of an rms of n
    means is the rms over ``sqrt(2 n)``.
    """
    found = {}
    for q in PERCENTILES:
        p, step = q / 100, min(q, 100 - q) / 300
        low, high = np.percentile(image, [q - 100 * step, q + 100 * step])
        found[f"{q:g} %"] = np.sqrt(p * (1 - p) / image.size) * (high - low) / (2 * step)
    values = statistics(image)
    for name, n in (("rows", image.shape[0]), ("columns", image.shape[1]), ("channels", 32)):
        found[name] = values[name] / np.sqrt(2 * n)
    return found


def statistics(image: np.ndarray) -> dict[str, float]:
    """Percentiles, and the scatter of row, column and channel means."""
    found = dict(
        zip((f"{q:g} %" for q in PERCENTILES), np.percentile(image, PERCENTILES), strict=True)
    )
    edges = [0, *range(124, image.shape[1], 128), image.shape[1]]
    # A few pixels of tiny gain would decide the means.
    low, high = np.percentile(image, [0.1, 99.9])
    clipped = np.clip(image, low, high)
    channels = [clipped[:, a:b].mean(dtype=float) for a, b in itertools.pairwise(edges)]
    found["rows"] = clipped.mean(axis=1, dtype=float).std()
    found["columns"] = clipped.mean(axis=0, dtype=float).std()
    found["channels"] = np.std(channels)
    return found


def write_docs(first: str, fits: list[str], second: str, third: str, observatory: str) -> None:
    """docs/parity.md, from what was measured just now."""
    text = f"""# Parity, measured

`make parity` simulates a 4096 x 4096 exposure with 8 resultants and every condition that
romanimpreprocess 1.0.0 can read, runs that package as it is, and compares. These are the tables
that it printed last; it fails if a pixel is outside its tolerance.

## The recipe `romanimpreprocess_1.0` against the package

{first}

The rates that differ do so in the last bit: the solid angle of a pixel has a closed form here, the
package takes differences of rounded sky coordinates, which are off by up to 3e-9.

## The likelihood fit against the package with `romancal_ramp_fit`

The same exposure, run through the package with `romancal_ramp_fit: True` and through our recipe
`{RECIPE}`. Pixels that differ by more than the tolerance for one of
the causes in the second table are left out of the first.

{fits[0]}

{fits[1]}

## From that recipe to the default one

Each line changes one more option; the last one gives the recipe `l1_to_l2`, which the program
checks. Sizes are in units of the pixel's own error.
[Coming from romanimpreprocess 1.0.0](differences.md) says why each was changed.

{second}

## Noise layers

Statistics of the layers of one exposure, in DN/s: percentiles of the pixels and the scatter of
row, column and channel means. For ours the mean of {SEEDS} realisations is shown; `make parity`
fails if the package is farther from it than twice their range (or four standard deviations of
sampling, if that is more). For the R layer that is tested
with our realisations made the package's way, with the exposure's own reference output in the
noise-free ramp: that is the whole of the difference.

{third}

## The recipe `romancal_1.1` against romancal 1.1

Reference files by the observatory's schemas and another exposure, with every condition that
romancal's steps tell apart: stars that saturate at each resultant, cosmic rays, missing and zero
coefficients, bad reference pixels, a guide window, a reference read with an encoding offset. Pixels
that differ by more than the tolerance for one of the causes are left out of "pixels outside".

{observatory}
"""
    (ROOT / "docs" / "parity.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
