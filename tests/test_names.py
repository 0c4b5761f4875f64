"""Names and paths of files, however odd: they work, or are refused before the work; and outputs
that are symbolic links."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import yaml

from roman_dask_l2.batch.locks import lock_path
from roman_dask_l2.cli.app import main
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.atomic import check_target, parse_part, replacing
from roman_dask_l2.io.dataset import open_l2
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.products.validation import find_problems
from roman_dask_l2.report import write_report
from roman_dask_l2.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("blank_pictures")

SIDE = 256
ODD = ["a#b?c%20d:e", "-a 'b\"&;[c]*{ä}星\\"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    noise = {"LAYER": ["PS2", "RS2"], "TEMP": ".", "SEED": 1, "OUT": "noise.asdf"}
    return simulate(
        folder, side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0, wcs="gwcs",
        config={"NOISE": noise},
    )  # fmt: skip


@pytest.fixture
def copied(plain, tmp_path):
    shutil.copytree(plain.directory, tmp_path / "exposure")
    return tmp_path / "exposure"


def settings(folder, **changes):
    """The configuration with other keys; those of NOISE as ``NOISE_OUT``."""
    found = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in changes.items():
        if key in ("NOISE_OUT", "NOISE_TEMP"):
            found["NOISE"][key[6:]] = value
        else:
            found[key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(found))
    return folder / "config.yaml"


def refused(config):
    """What `validate` says; a run says the same, with status 2."""
    problems = find_problems(config)
    assert main([str(config), "--quiet"]) == 2
    assert problems
    return problems


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_names_work(name, copied):
    """In every place where a configuration has a path."""
    folder = copied.rename(copied.with_name(name))
    (folder / "cal").rename(folder / f"{name} cal")
    (folder / "l1.asdf").rename(folder / f"{name}.asdf")
    (folder / "gwcs.asdf").rename(folder / f"{name} gwcs.asdf")
    (folder / f"{name} temp").mkdir()
    caldir = {p.stem: f"{name} cal/{p.name}" for p in (folder / f"{name} cal").glob("*.asdf")}
    config = settings(
        folder, IN=f"{name}.asdf", OUT=f"{name} l2.asdf", GWCS=f"{name} gwcs.asdf",
        CALDIR=caldir, NOISE_OUT=f"{name} noise.asdf", NOISE_TEMP=f"{name} temp",
    )  # fmt: skip
    assert find_problems(config) == []
    assert main([str(config), "--quiet", "--report"]) == 0
    assert {p.name for p in folder.iterdir() if p.is_file()} == {
        f"{name}.asdf", f"{name} gwcs.asdf", f"{name} l2.asdf", f"{name} l2_asdf_to.fits",
        f"{name} noise.asdf", f"{name} noise_asdf_to.fits", f"{name} l2_report.html",
        "config.yaml", "wcs.txt", "truth.asdf",
    }  # fmt: skip
    data = open_l2(folder / f"{name} l2.asdf")
    assert np.isfinite(data["ra"][:2, :2].values).all()


def test_the_coordinates_of_an_exposure_with_an_odd_name(tmp_path):
    made = simulate(
        tmp_path / "a", side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0, wcs="l1"
    )
    config = made.directory.rename(tmp_path / "a#b%20") / "config.yaml"
    assert find_problems(config) == []
    assert calibrate(config).out.exists()
    with pytest.raises(InputError, match="without #"):
        simulate(tmp_path / "a#b", side=SIDE)


def test_two_slashes_in_front(copied):
    config = settings(
        copied, IN=f"/{copied}/l1.asdf", OUT=f"//{copied}//l2.asdf", GWCS=f"/{copied}//gwcs.asdf"
    )
    assert find_problems(config) == []
    assert calibrate(config).out == copied / "l2.asdf"


def test_names_of_outputs_have_a_limit(copied):
    longest = "l" * 115 + ".asdf"
    config = settings(copied, OUT=longest)
    assert find_problems(config) == []
    assert calibrate(config).out.name == longest
    config = settings(copied, OUT="l" + longest)
    assert refused(config) == [
        f"{copied / ('l' + longest)}: its name has 121 characters, expected 120 at most, as "
        "meta.filename of a Level 2 file"
    ]
    for name in ("l" * 240 + ".asdf", "l" * 300 + ".asdf", "星" * 82 + ".asdf"):
        assert any("too long" in line for line in refused(settings(copied, OUT=name)))
        config = settings(copied, OUT="l2.asdf", NOISE_OUT=name)
        (line,) = [line for line in refused(config) if "asdf_to" not in line]
        assert "too long" in line
        settings(copied, NOISE_OUT="noise.asdf")
    assert not [p for p in copied.iterdir() if "part" in p.name]


@pytest.mark.parametrize("key", ["IN", "GWCS", "NOISE_TEMP", "CALDIR"])
def test_long_names_of_inputs_are_told(key, copied):
    name = "l" * 300
    value = yaml.safe_load((copied / "config.yaml").read_text())["CALDIR"] | {"gain": name}
    lines = refused(settings(copied, **{key: value if key == "CALDIR" else name}))
    assert any("too long" in line for line in lines), lines


@pytest.mark.parametrize("text", ["l2\n.asdf", "l2\t.asdf", "l2\x1b[31m.asdf", "l2\udcff.asdf"])
def test_names_that_break_lines_or_are_not_text(text, copied):
    raw = yaml.safe_load((copied / "config.yaml").read_text()) | {"OUT": f"{copied}/{text}"}
    for key in ("OUT", "IN", "GWCS"):
        changed = raw | {"OUT": "l2.asdf"} | {key: f"{copied}/{text}"}
        problems = [p for p in find_problems(changed) if key in p]
        assert len(problems) == 1
        assert "control character or is not UTF-8" in problems[0]
        assert problems[0].isprintable()
        with pytest.raises(InputError, match="control character"):
            calibrate(changed)


# -- symbolic links ------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to a place"])
def test_an_output_that_is_a_link(there, copied, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    links = {
        "l2.asdf": "image", "l2_asdf_to.fits": "image.fits", "noise.asdf": "layers",
        "noise_asdf_to.fits": "layers.fits", "l2_report.html": "page",
    }  # fmt: skip
    for link, target in links.items():
        if there:
            (store / target).write_text("old")
        (copied / link).symlink_to(os.path.join("..", "store", target))
    assert find_problems(copied / "config.yaml") == []
    assert main([str(copied / "config.yaml"), "--quiet", "--report"]) == 0
    for link, target in links.items():
        assert (copied / link).is_symlink()
        assert (store / target).stat().st_size > 1000
    assert {p.name for p in store.iterdir()} == set(links.values())
    assert not [*copied.glob(".*"), *store.glob(".*")]


def test_a_failed_run_leaves_what_a_link_points_to(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link.asdf").symlink_to("target")

    def fail():
        with replacing(tmp_path / "link.asdf") as (part,):
            assert part.parent == tmp_path
            assert parse_part(part.name) is None or parse_part(part.name).final == "target"
            part.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "target").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.asdf", "target"]


@pytest.mark.parametrize("key", ["OUT", "NOISE_OUT"])
def test_links_that_lead_nowhere_are_refused(key, copied, tmp_path):
    name = "linked.asdf"
    link = copied / name
    config = settings(copied, **{key: name})
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for target, words in (
        (name, "is a symbolic link that leads nowhere"),  # to itself
        (copied / "cal", "is a directory"),
        (tmp_path / "gone" / "image.asdf", "does not exist"),
        (fifo, "is a device or pipe"),
        ("/dev/null", "is a device or pipe"),
    ):
        link.symlink_to(target)
        lines = refused(config)
        assert any(str(link) in line and words in line for line in lines), lines
        assert link.is_symlink()
        link.unlink()


def test_a_link_to_an_input_is_refused(copied):
    (copied / "linked.asdf").symlink_to("cal/gain.asdf")
    (line,) = refused(settings(copied, OUT="linked.asdf"))
    assert "OUT and CALDIR.gain are the same file" in line


def test_reports_follow_links_too(copied, tmp_path):
    config = copied / "config.yaml"
    calibrate(config)
    (tmp_path / "page.html").symlink_to("real.html")
    write_report(config, tmp_path / "page.html")
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "real.html").stat().st_size > 1000
    with pytest.raises(InputError, match="device or pipe"):
        check_target(tmp_path.joinpath("/dev/null"))
    with pytest.raises(InputError, match="made from this|not there|no such file"):
        generate_noise(settings(copied, OUT="other.asdf"))


def test_one_lock_for_all_names_of_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.asdf").symlink_to("folder/image.asdf")
    (tmp_path / "link of link.asdf").symlink_to("link.asdf")
    expected = tmp_path / "folder" / ".image.asdf.lock"
    for name in ("folder/image.asdf", "link.asdf", "link of link.asdf"):
        assert lock_path(tmp_path / name) == expected
    (tmp_path / "loop").symlink_to("loop")
    assert lock_path(tmp_path / "loop").name == ".loop.lock"
