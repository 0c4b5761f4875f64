"""Bad input ends with one clear line, exit status 2 and no output file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli.app import main
from roman_dask_l2.products.validation import find_problems
from roman_dask_l2.simulation.simulate import simulate


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A small simulated exposure, not to be changed."""
    folder = tmp_path_factory.mktemp("template")
    simulate(folder, side=256, seed=3, conditions="plain", extra_plane=False)
    return folder


@pytest.fixture
def case(template, tmp_path):
    """A copy of it that a test may spoil."""
    folder = tmp_path / "case"
    shutil.copytree(template, folder)
    return Case(folder)


class Case:
    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "config.yaml"

    def edit(self, **changes) -> None:
        """Change top-level keys; None removes one."""
        settings = yaml.safe_load(self.config.read_text()) | changes
        kept = {k: v for k, v in settings.items() if v is not None}
        self.config.write_text(yaml.safe_dump(kept))

    def tree(self, key: str, change) -> None:
        """Rewrite a reference file (or the L1 file, key "l1") with a changed tree."""
        path = self.path(key)
        with asdf.open(path, lazy_load=False, memmap=False) as file:
            roman = file["roman"]
            change(roman)
            asdf.AsdfFile({"roman": roman}).write_to(path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)

    def path(self, key: str) -> Path:
        settings = yaml.safe_load(self.config.read_text())
        return self.folder / (settings["IN"] if key == "l1" else settings["CALDIR"][key])


def refused(case: Case, capsys, *words: str, options=()) -> str:
    """Run; expect status 2, one line with all `words`, and no new file."""
    before = sorted(p for p in case.folder.rglob("*"))
    status = main([str(case.config), "--quiet", *options])
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("roman-dask-l2: error: ")
    for word in words:
        assert word in lines[0]
    assert sorted(p for p in case.folder.rglob("*")) == before
    return lines[0]


def test_the_template_is_good(case):
    assert find_problems(case.config) == []
    assert main([str(case.config), "--quiet"]) == 0
    assert (case.folder / "l2.asdf").is_file()
    assert not list(case.folder.glob(".*part*"))


@pytest.mark.parametrize("key", ["IN", "OUT", "CALDIR"])
def test_missing_key(case, capsys, key):
    case.edit(**{key: None})
    refused(case, capsys, key)


def test_misspelt_key(case, capsys):
    case.edit(SKYORDR=2)
    refused(case, capsys, "SKYORDR", "SKYORDER")


def test_missing_configuration(tmp_path, capsys):
    assert main([str(tmp_path / "none.yaml"), "--quiet"]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["l1", "dark", "flat", "saturation"])
def test_missing_file(case, capsys, key):
    case.path(key).unlink()
    refused(case, capsys, case.path(key).name, "no such file")


@pytest.mark.parametrize("key", ["l1", "gain"])
def test_not_asdf(case, capsys, key):
    case.path(key).write_bytes(b"SIMPLE  =                    T")
    refused(case, capsys, case.path(key).name, "not an ASDF file")


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("key", ["l1", "linearitylegendre"])
def test_truncated(case, capsys, key, keep):
    path = case.path(key)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    refused(case, capsys, path.name, "truncated")


ARRAYS = [
    ("dark", "data"),
    ("dark", "dark_slope"),
    ("dark", "dq"),
    ("gain", "data"),
    ("ipc4d", "data"),
    ("linearitylegendre", "data"),
    ("linearitylegendre", "Smin"),
    ("linearitylegendre", "Smax"),
    ("linearitylegendre", "Sref"),
    ("linearitylegendre", "dq"),
    ("mask", "dq"),
    ("read", "data"),
    ("read", "resetnoise"),
    ("saturation", "data"),
    ("saturation", "dq"),
    ("flat", "data"),
    ("biascorr", "data"),
]


@pytest.mark.parametrize(("key", "name"), ARRAYS)
def test_wrong_shape_of_each_reference(case, capsys, key, name):
    def shorten(roman):
        roman[name] = np.ascontiguousarray(np.asarray(roman[name])[..., :-1])

    case.tree(key, shorten)
    line = refused(case, capsys, case.path(key).name, name, "shape", "expected")
    assert case.path("l1").name in line


@pytest.mark.parametrize("key", ["dark", "biascorr"])
def test_cube_with_one_plane_too_few(case, capsys, key):
    def drop(roman):
        roman["data"] = np.asarray(roman["data"])[1:]

    case.tree(key, drop)
    refused(case, capsys, case.path(key).name, "shape", case.path("l1").name)


def test_array_missing_in_reference(case, capsys):
    case.tree("dark", lambda roman: roman.pop("dark_slope"))
    refused(case, capsys, "dark.asdf", "dark_slope")


def test_flags_stored_as_floats(case, capsys):
    def to_float(roman):
        roman["dq"] = np.asarray(roman["dq"]).astype("f4")

    case.tree("mask", to_float)
    refused(case, capsys, "mask.asdf", "float", "uint32")


def test_read_pattern_of_other_length(case, capsys):
    # As text, so that the file keeps the tags of its data model; the tree's length stays the same.
    raw = case.path("l1").read_bytes()
    end = raw.index(b"\n...\n")
    head = raw[:end]
    assert head.count(b"- [34]") + head.count(b", [34]") >= 1
    head = head.replace(b", [34]]", b"]      ").replace(b"- [34]\n", b"      \n")
    case.path("l1").write_bytes(head + raw[end:])
    refused(case, capsys, "read_pattern", "7", "8")


def test_gain_without_a_finite_value(case, capsys):
    def spoil(roman):
        roman["data"] = np.full_like(np.asarray(roman["data"]), np.nan)

    case.tree("gain", spoil)
    refused(case, capsys, "gain.asdf", "finite")


def test_unknown_recipe(case, capsys):
    refused(case, capsys, "l1_to_l3", "l1_to_l2", options=["--graph", "l1_to_l3"])


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["dq_init", "saturaton"], ["saturaton", "saturation"]),
        (["dq_init", {"saturation": {"groww": 2}}], ["groww", "grow"]),
        (["dq_init", {"saturation": {"grow": "two"}}], ["saturation", "grow"]),
        (["saturation", "dq_init"], ["saturation", "groupdq"]),
        (["dq_init", "nowhere.to_be:found"], ["nowhere.to_be:found"]),
        (["dq_init"], ["rate"]),
    ],
)
def test_bad_recipe(case, capsys, tmp_path, steps, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "mine", "steps": steps}))
    refused(case, capsys, *words, options=["--graph", str(recipe)])


def test_no_wcs(case, capsys):
    case.edit(FITSWCS=None)
    refused(case, capsys, "WCS")


def test_unusable_wcs(case, capsys):
    (case.folder / "wcs.txt").write_text("nothing of the kind")
    refused(case, capsys, "wcs.txt")


def test_out_in_missing_directory(case, capsys):
    case.edit(OUT="nowhere/l2.asdf")
    refused(case, capsys, "nowhere", "does not exist")


def test_out_in_unwritable_directory(case, capsys):
    case.edit(OUT="/proc/l2.asdf")  # nobody, not even root, makes files there
    refused(case, capsys, "/proc", "not writable")


def test_out_equal_to_in(case, capsys):
    case.edit(OUT="l1.asdf")
    refused(case, capsys, "OUT", "IN")


@pytest.mark.parametrize("options", [["--tile", "9"], ["--tile", "a"], ["--threads", "0"]])
def test_bad_options(case, capsys, options):
    refused(case, capsys, options[0], options=options)


def test_unknown_scheduler(case, capsys):
    refused(case, capsys, "--scheduler", "local", options=["--scheduler", "lokal"])


def test_validate_says_everything_at_once(case, capsys):
    case.path("gain").unlink()
    case.path("flat").write_bytes(b"no")
    case.edit(OUT="nowhere/l2.asdf", FITSWCS=None, GRAPH="l1_to_l3")
    assert main(["validate", str(case.config)]) == 2
    text = capsys.readouterr().err
    for word in ("gain.asdf", "flat.asdf", "nowhere", "WCS", "l1_to_l3"):
        assert word in text
    assert len(text.strip().splitlines()) == 5


def test_validate_goes_on_after_a_wrong_key(case, capsys):
    case.path("gain").unlink()
    case.edit(SKYORDR=1)
    assert main(["validate", str(case.config)]) == 2
    text = capsys.readouterr().err
    assert "SKYORDR" in text
    assert "gain.asdf" in text


def test_too_little_disk(case, capsys, monkeypatch):
    class Full:
        free = 1000

    monkeypatch.setattr("roman_dask_l2.products.job.shutil.disk_usage", lambda path: Full)
    refused(case, capsys, "disk space", "MB")


def test_debug_shows_the_traceback(case):
    case.edit(OUT="nowhere/l2.asdf")
    done = subprocess.run(
        [sys.executable, "-m", "roman_dask_l2", str(case.config), "--debug"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_failure_while_writing_leaves_nothing(case, capsys, monkeypatch):
    def full(block, *args):
        raise OSError(28, "No space left on device")

    old = case.folder / "l2.asdf"
    old.write_bytes(b"what was there before")
    monkeypatch.setattr("roman_dask_l2.io.blocks.Block.put", full)
    assert main([str(case.config), "--quiet"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert old.read_bytes() == b"what was there before"
    assert not list(case.folder.glob(".*part*"))
