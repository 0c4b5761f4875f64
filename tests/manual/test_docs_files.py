"""Files that are written hold what the page on files says, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits

from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise

DOCS = Path(__file__).resolve().parents[2] / "docs"
SIDE, LABELS = 256, ["RS2", "OC1", "PbS2"]
KINDS = {
    "number": (float, int),
    "integer": int,
    "boolean": bool,
    "mapping": dict,
    "text": str,
    "list": list,
    "list of lists": list,
    "list of mappings": list,
}


@pytest.fixture(scope="module")
def said():
    """Heading -> its rows, name -> (shape, type)."""
    text = (DOCS / "formats.md").read_text()
    found = {}
    for part in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        rows = [[c.strip() for c in line.strip("| ").split(" | ")] for line in table_lines(body)]
        found[heading] = {row[0].strip("`"): (row[1], row[2]) for row in rows}
    return found


def table_lines(body):
    return [line.replace("| |", "|  |") for line in body.splitlines() if line.startswith("| `")]


ONLY_FIXED = {"excluded"}
ONLY_LIKELIHOOD = {"noise_ratio", "unused_differences"}
NULL = {"weights", "ramp_opt_pars", "jump_detect_pars", "K"}
"""What the likelihood fit has no number for."""


@pytest.fixture(scope="module", params=["l1_to_l2", "l1_to_l2_likelihood"])
def files(request, tmp_path_factory):
    """An image and noise layers, written with everything that can be asked for."""
    from roman_dask_l2.simulation.simulate import simulate

    folder = tmp_path_factory.mktemp("files")
    (folder / "temp").mkdir()
    noise = {"LAYER": LABELS, "TEMP": "temp", "SEED": 1, "OUT": "noise.asdf"}
    made = simulate(folder, side=SIDE, config={
        "NOISE": noise, "NOISE_PRECISION": 32, "JUMPOUT": True, "GRAPH": request.param,
    })  # fmt: skip
    return calibrate(made.config), generate_noise(made.config)


@pytest.fixture(scope="module")
def trees(files):
    with (
        asdf.open(files[0].out, memmap=False, lazy_load=False) as image,
        asdf.open(files[1].out, memmap=False, lazy_load=False) as noise,
    ):
        yield image.tree, noise.tree


def sizes(tree):
    n, r = SIDE, tree["processinfo"]["meta"]["ngrp"]
    coefs = len(tree["processinfo"]["skycoefs"])
    jumps = len(tree["roman"]["jump_indices"])
    return {"n": jumps, "N-8": n - 8, "N": n, "R": r, "B": -(-r // 8), "C": coefs, "L": len(LABELS)}


def shape_of(text, known):
    parts = [part.strip() for part in text.strip("()").split(",")]
    return tuple(known[part] if part in known else int(part) for part in parts)


def check(node, rows, known, may_lack=()):
    """Every entry of a mapping has its row, and every row its entry, of its shape and type."""
    assert set(node) | set(may_lack) == set(rows), set(node) ^ set(rows)
    for name, value in node.items():
        shape, kind = rows[name]
        if value is None and name in NULL:
            continue
        if hasattr(value, "dtype") and np.ndim(value):
            value = np.asarray(value)
            assert value.dtype.name == kind, name
            assert value.shape == shape_of(shape, known), name
        else:
            assert not shape, f"{name}: not an array"
            assert isinstance(value, KINDS[kind]), f"{name}: {type(value)}, not {kind}"


def test_image(said, trees):
    tree = trees[0]
    arrays = {name: value for name, value in tree["roman"].items() if name != "meta"}
    assert all(hasattr(value, "dtype") for value in arrays.values())
    may_lack = {"dq2"} - set(arrays)
    check(arrays, said["roman"], sizes(tree), may_lack)
    check({"mask": tree["mask"]}, said["mask"], sizes(tree))
    extra = set(tree) - {"roman", "mask", "processinfo", "asdf_library", "history"}
    assert not extra, "no section on the page"


def test_processinfo(said, trees):
    info = trees[0]["processinfo"]
    by_likelihood = info["weights"] is None
    check(
        info, said["processinfo"], sizes(trees[0]), ONLY_FIXED if by_likelihood else ONLY_LIKELIHOOD
    )
    assert (info["ramp_opt_pars"] is None) == (info["meta"]["K"] is None) == by_likelihood
    for part in ("meta", "timings", "provenance"):
        check(info[part], said[f"processinfo.{part}"], sizes(trees[0]))


def test_noise(said, trees):
    image, tree = trees
    entries = {k: v for k, v in tree.items() if k not in ("asdf_library", "history")}
    check(entries, said["The noise file"], sizes(image))
    for statistics in tree["statistics"]:
        check(statistics, said["statistics"], sizes(image))


def test_fits_copies(files, trees):
    text = (DOCS / "formats.md").read_text()
    rows = re.findall(r"^\| (\d) \| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    with fits.open(files[0].fits) as copy:
        found = [(str(i), hdu.name, hdu.data.dtype.name) for i, hdu in enumerate(copy)]
        assert found == rows
        masked = np.asarray(trees[0]["mask"])
        assert (copy["MASKED"].data[masked] == -1000).all()


def test_what_is_computed_is_described(said, files):
    """The units of the table are those of the variables, and each array has a meaning."""
    from roman_dask_l2.core.step import VARIABLES
    from roman_dask_l2.io.l2_arrays import IMAGE_ARRAYS, variable_of

    for name in IMAGE_ARRAYS:
        variable = VARIABLES[variable_of(name)]
        assert variable.meaning
        assert (
            variable.unit or variable.dtype.startswith(("uint", "int", "bool")) or name == "chisq"
        )
        assert name in said["roman"]
