"""Batches that nothing disturbs: what is run, what is skipped, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli.app import main
from roman_dask_l2.products import level2
from roman_dask_l2.system import stopping

pytestmark = pytest.mark.usefixtures("blank_pictures")

pytestmark = pytest.mark.usefixtures("blank_pictures")

ROOT = Path(__file__).parents[2]


def batch(campaign, capsys, *options, name="batch"):
    """Run in this process; returns status, lines on stdout and on stderr."""
    status = main([name, str(campaign.file), "--quiet", *map(str, options)])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err.splitlines()


def dry(campaign, capsys, *options):
    """What would be done: identity -> (action, why)."""
    before = sorted(campaign.folder.rglob("*"))
    status, lines, _ = batch(campaign, capsys, "--dry-run", *options)
    assert status == 0
    assert sorted(campaign.folder.rglob("*")) == before  # it starts nothing and writes nothing
    cells = [line.split(maxsplit=2) for line in lines[1:-1]]
    return {identity: (action, why) for action, identity, why in cells}


def redone(done, capsys, *options):
    """Identities that a batch runs, and those that it leaves alone."""
    before = done.marks()
    plan = dry(done, capsys, *options)
    status, lines, _ = batch(done, capsys, *options)
    assert status == 0, lines
    after = done.marks()
    changed = {name for name in after if after[name] != before.get(name)}
    runs = {identity: why for identity, (action, why) in plan.items() if action == "run"}
    for identity in runs:
        values = dict(part.split("=") for part in identity.split(","))
        assert any(f"_{values['obs']}_{values['sca']}" in name for name in changed)
    return runs, changed


def test_a_whole_campaign(campaign, undisturbed, tools, capsys):
    plan = dry(campaign, capsys)
    assert list(plan) == tools.IDENTITIES
    assert set(plan.values()) == {("run", "l2 and noise: not there")}
    status, lines, errors = batch(campaign, capsys)
    assert (status, errors) == (0, [])
    assert [line.split()[:2] for line in lines[1:-1]] == [[i, "done"] for i in tools.IDENTITIES]
    assert lines[-1].startswith("4 done, 0 finished before, 0 failed; ")
    campaign.check(undisturbed)
    assert campaign.statuses() == {i: ["done"] for i in tools.IDENTITIES}
    for line in campaign.lines():
        assert {"attempt", "identity", "status", "started", "host", "pid", "share"} <= set(line)
        if line["status"] == "done":
            assert line["seconds"] >= sum(line["products"].values()) > 0
            assert line["cpu_seconds"] > 0
            assert line["peak_memory"] > 50e6
            assert line["memory"] > 50e6
            assert all(os.path.isfile(path) for path in line["output"])
            assert len(line["output"]) == 4
            assert set(line["fingerprint"]) == {"l2", "noise"}
    # again: nothing to do
    before = campaign.marks()
    assert set(dry(campaign, capsys).values()) == {("skip", "finished")}
    status, lines, _ = batch(campaign, capsys)
    assert status == 0
    assert lines[0].startswith("0 done, 4 finished before, 0 failed; ")
    assert campaign.marks() == before


def test_the_same_as_a_single_run(done, tools, tmp_path):
    """An exposure of a batch has the bits that its configuration gives by itself."""
    from roman_dask_l2.batch.campaign import load_campaign

    entry = load_campaign(done.file).entries[2]
    single = dict(entry.settings) | {"OUT": str(tmp_path / "a.asdf")}
    single["NOISE"] = single["NOISE"] | {"OUT": str(tmp_path / "b.asdf")}
    (done.folder / "single.yaml").write_text(yaml.safe_dump(single))
    assert main([str(done.folder / "single.yaml"), "--quiet", "--threads", "1"]) == 0
    assert tools.pixels(tmp_path / "a.asdf") == tools.pixels(done.out(1, 2))
    assert tools.pixels(tmp_path / "b.asdf") == tools.pixels(done.out(1, 2, noise=True))


def test_order_and_choice_change_no_bits(campaign, undisturbed, capsys):
    """One by one, backwards, with other tiles and threads, as a list instead of a glob."""
    template = campaign.settings["template"]
    template["IN"] = "l1/sim_L1_{filter}_{obs}_{sca}.asdf"
    campaign.settings["exposures"] = [
        {"sca": sca, "obs": obs, "filter": "F158"} for sca in (2, 1) for obs in (2, 1)
    ]
    campaign.write()
    assert batch(campaign, capsys, "--only", "obs=2,sca=2", "--tile", "64")[0] == 0
    assert batch(campaign, capsys, "--share", "2/2", "--scheduler", "synchronous")[0] == 0
    assert batch(campaign, capsys, "--limit", "1", "--threads", "1")[0] == 0
    assert len(campaign.statuses()) == 3
    assert batch(campaign, capsys, "--share", "1/2")[0] == 0
    campaign.check(undisturbed)
    assert {line["share"] for line in campaign.lines()} == {None, "2/2", "1/2"}


# -- what makes an exposure unfinished -----------------------------------------------------------


def rewrite(path, change):
    """Change an ASDF file as its owner would."""
    with asdf.open(path, lazy_load=False, memmap=False) as file:
        roman = file["roman"]
        change(roman)
        asdf.AsdfFile({"roman": roman}).write_to(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def brighter(roman):
    roman["data"] = np.asarray(roman["data"]) + np.asarray(roman["data"]).dtype.type(1)


def test_a_changed_exposure_is_redone(done, capsys):
    rewrite(done.l1(2, 1), brighter)
    runs, changed = redone(done, capsys)
    assert runs == {
        "filter=F158,obs=2,sca=1": "l2: IN changed; noise: the L2 file is made anew"
    } or runs == {"filter=F158,obs=2,sca=1": "l2 and noise: IN changed"}
    assert {name for name in changed if "noise" not in name} == {
        "sim_L2_F158_2_1.asdf", "sim_L2_F158_2_1_asdf_to.fits",
    }  # fmt: skip
    assert set(dry(done, capsys).values()) == {("skip", "finished")}


def test_a_changed_pixel_counts_even_if_time_and_size_do_not_show_it(done, capsys):
    path = done.l1(1, 1)
    rewrite(path, lambda roman: None)  # so that both have been written by the same program
    assert batch(done, capsys)[0] == 0
    status = path.stat()
    rewrite(path, brighter)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(redone(done, capsys)[0]) == ["filter=F158,obs=1,sca=1"]


def test_a_new_date_alone_does_not_count(done, capsys):
    for path in (done.l1(1, 1), done.folder / "cal1" / "flat.asdf", done.out(1, 1)):
        os.utime(path)
    shutil.copy(done.folder / "cal2" / "gain.asdf", done.folder / "x")
    os.replace(done.folder / "x", done.folder / "cal2" / "gain.asdf")
    assert set(dry(done, capsys).values()) == {("skip", "finished")}


def test_a_changed_reference_concerns_its_detector(done, capsys):
    rewrite(done.folder / "cal2" / "flat.asdf", brighter)
    runs, _ = redone(done, capsys)
    assert list(runs) == ["filter=F158,obs=1,sca=2", "filter=F158,obs=2,sca=2"]
    assert all("flat changed" in why for why in runs.values())


def test_changed_settings(done, capsys):
    done.edit(SKYORDER=2)
    assert set(dry(done, capsys).values()) == {("run", "l2 and noise: SKYORDER: 1 -> 2")}
    done.edit(SKYORDER=1, MASK={"HOT": 9})
    assert all("MASK." in why for _, why in dry(done, capsys).values())


def test_another_layer_leaves_the_calibration_alone(done, capsys):
    noise = done.settings["template"]["NOISE"]
    noise["LAYER"] = ["RS1", "O"]
    done.write()
    runs, changed = redone(done, capsys)
    assert all(why.startswith("noise: NOISE.LAYER: ") for why in runs.values())
    assert len(runs) == 4
    assert all("noise" in name for name in changed)
    assert len(changed) == 8
    done.settings["SEED"] += 1
    done.write()
    assert all("NOISE.SEED: " in why for _, why in dry(done, capsys).values())


def test_other_places_do_not_count(done, capsys):
    """References moved, TEMP elsewhere, other columns and options that change no number."""
    (done.folder / "cal1").rename(done.folder / "moved1")
    (done.folder / "cal2").rename(done.folder / "moved2")
    template = done.settings["template"]
    template["CALDIR"] = {k: f"moved{{sca}}/{k}.asdf" for k in template["CALDIR"]}
    template["NOISE"]["TEMP"] = str(done.folder)
    done.edit(RAMP_OPT_PARS={"slope": 0.4})  # the default, written out
    assert set(dry(done, capsys, "--tile", "64").values()) == {("skip", "finished")}


def test_another_version_is_redone(done, capsys, monkeypatch):
    from roman_dask_l2.products import provenance

    here = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: here | {"numpy": "99.1"})
    whys = {why for _, why in dry(done, capsys).values()}
    assert whys == {f"l2 and noise: numpy: {here['numpy']} -> 99.1"}
    monkeypatch.setattr(provenance, "versions", lambda: here | {"asdf": "99.1"})
    assert set(dry(done, capsys).values()) == {("skip", "finished")}


def test_a_changed_kernel_is_redone(done, capsys, monkeypatch):
    """Also if the version is the same, as in a checkout."""
    from roman_dask_l2.system import versions

    here = versions.versions()[versions.SOURCE]
    monkeypatch.setattr(versions, "source_mark", lambda package: "other")
    versions._versions.cache_clear()
    try:
        whys = {why for _, why in dry(done, capsys).values()}
    finally:
        versions._versions.cache_clear()
    assert whys == {f"l2 and noise: roman-dask-l2 source: {here} -> other"}


def test_which_sources_count(tmp_path):
    """Kernels do, what shows or starts things does not."""
    from roman_dask_l2.system import versions

    package = tmp_path / "package"
    shutil.copytree(ROOT / "roman_dask_l2", package)
    mark = versions.source_mark(package)
    assert mark == versions.versions()[versions.SOURCE]
    for name in versions.HARMLESS:
        assert (package / name).is_file() if name.endswith(".py") else (package / name).is_dir()
    for name in ("cli/app.py", "batch/run.py", "report/page.py", "engine/schedulers.py"):
        (package / name).write_text("changed = 1\n")
    assert versions.source_mark(package) == mark
    marks = {mark}
    for name in ("steps/flat.py", "noise/pearson.py", "io/l2.py", "core/median.py"):
        (package / name).write_text("changed = 1\n")
        marks.add(versions.source_mark(package))
    assert len(marks) == 5


def test_missing_and_broken_outputs(done, capsys):
    done.out(1, 1).unlink()
    noise = done.out(2, 1, noise=True)
    noise.write_bytes(noise.read_bytes()[:-200_000])
    (done.out(1, 2).with_name("sim_L2_F158_1_2_asdf_to.fits")).unlink()
    with open(done.out(2, 2).with_name("sim_L2_F158_2_2_noise_asdf_to.fits"), "r+b") as file:
        file.truncate(5000)
    plan = dry(done, capsys)
    assert plan["filter=F158,obs=1,sca=1"][1].startswith("l2: not there")
    assert "truncated" in plan["filter=F158,obs=2,sca=1"][1]
    assert plan["filter=F158,obs=1,sca=2"][1].startswith("l2: sim_L2_F158_1_2_asdf_to.fits is not")
    assert plan["filter=F158,obs=2,sca=2"][1].endswith("is not whole")
    before = done.marks()
    assert batch(done, capsys)[0] == 0
    assert done.marks()["sim_L2_F158_2_1.asdf"] == before["sim_L2_F158_2_1.asdf"]
    assert set(dry(done, capsys).values()) == {("skip", "finished")}


def test_files_of_another_program_are_not_taken_for_ours(done, capsys):
    with asdf.open(done.out(1, 1), lazy_load=False, memmap=False) as file:
        tree = {"roman": {"data": np.asarray(file["roman"]["data"])}}
    asdf.AsdfFile(tree).write_to(done.out(1, 1))
    assert "made by something else" in dry(done, capsys)["filter=F158,obs=1,sca=1"][1]


def test_a_lost_manifest_is_no_loss(done, capsys, undisturbed, tools):
    """It is a log: what is finished is seen from the files."""
    done.manifest.unlink()
    before = done.marks()
    assert batch(done, capsys)[0] == 0
    assert done.marks() == before
    assert done.statuses() == {identity: ["done"] for identity in tools.IDENTITIES}
    assert {line["note"] for line in done.lines()} == {"found finished"}
    assert batch(done, capsys)[0] == 0
    assert len(done.lines()) == 4
    done.check(undisturbed)


# -- choosing ------------------------------------------------------------------------------------


def test_redo(done, capsys, undisturbed):
    runs, changed = redone(done, capsys, "--redo", "--only", "sca=2,obs=1")
    assert runs == {"filter=F158,obs=1,sca=2": "l2 and noise: --redo"}
    assert len(changed) == 4
    done.check(undisturbed)


def test_limit_share_and_failed_only(campaign, capsys):
    plan = dry(campaign, capsys, "--limit", 1)
    assert [action for action, _ in plan.values()] == ["run", "later", "later", "later"]
    shares = [dry(campaign, capsys, "--share", f"{i}/3") for i in (1, 2, 3)]
    assert sum(len(part) for part in shares) == 4
    assert {i for part in shares for i in part} == set(dry(campaign, capsys))
    assert dry(campaign, capsys, "--share", "5/5", "--only", "obs=1,sca=1") == {}
    assert dry(campaign, capsys, "--failed-only") == {}
    campaign.l1(2, 2).unlink()
    template = campaign.settings["template"]
    template["IN"] = "l1/sim_L1_{filter}_{obs}_{sca}.asdf"
    campaign.settings["exposures"] = [
        {"sca": sca, "obs": obs, "filter": "F158"} for sca in (1, 2) for obs in (1, 2)
    ]
    campaign.write()
    assert batch(campaign, capsys, "--only", "obs=2,sca=2")[0] == 4
    assert list(dry(campaign, capsys, "--failed-only")) == ["filter=F158,obs=2,sca=2"]


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ([], ""),
        (["--share", "1/2"], ", 2 left out (2 by --share)"),
        (["--only", "obs=1,sca=1"], ", 3 left out (3 by --only)"),
        (["--failed-only"], ", 4 left out (4 by --failed-only)"),
        (
            ["--share", "1/2", "--only", "obs=1", "--failed-only"],
            ", 4 left out (2 by --share, 1 by --only, 1 by --failed-only)",
        ),
    ],
)
def test_a_dry_run_counts_what_is_left_out(campaign, capsys, options, left_out):
    _, lines, _ = batch(campaign, capsys, "--dry-run", *options)
    number = 4 - int(left_out[2:3] or 0)
    assert lines[-1] == f"{number} to run, 0 finished{left_out}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--share", "3/2"], "--share 3/2: expected i/n"),
        (["--only", "scar=1"], "no placeholder 'scar', did you mean 'sca'?"),
        (["--limit", "0"], "--limit 0: expected at least 1"),
        (["--tile", "7"], "--tile 7"),
        (["--threads", "0"], "--threads 0: expected at least 1"),
        (["--scheduler", "locl"], "--scheduler locl: expected one of"),
        (["--in-flight", "0"], "--in-flight 0: expected at least 1"),
    ],
)
def test_wrong_options(campaign, capsys, options, said):
    before = sorted(campaign.folder.rglob("*"))
    status, _, errors = batch(campaign, capsys, *options)
    assert status == 2
    assert len(errors) == 1
    assert said in errors[0]
    assert sorted(campaign.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scheduler", "nonsense", "--workers", "-3"], "--scheduler nonsense: expected one of"),
        (["--scheduler", "local-cluster", "--workers", "-3"], "--workers -3: expected at least 1"),
        (["--interface", "lo"], "--interface means nothing to --scheduler local"),
    ],
)
def test_a_dry_run_looks_at_the_scheduler_too(done, capsys, options, said):
    """And so does a batch that has nothing to do."""
    for more in (["--dry-run"], []):
        status, _, errors = batch(done, capsys, *more, *options)
        assert (status, len(errors)) == (2, 1)
        assert said in errors[0]


def test_a_manifest_that_cannot_be_written(campaign, capsys):
    campaign.settings["manifest"] = "nowhere/m.jsonl"
    campaign.write()
    status, _, errors = batch(campaign, capsys)
    assert status == 2
    assert "manifest: " in errors[0]
    assert campaign.outputs() == []


# -- one bad exposure ----------------------------------------------------------------------------


def test_one_bad_exposure_does_not_stop_the_others(campaign, undisturbed, capsys, tools):
    good = campaign.l1(2, 1).read_bytes()
    campaign.l1(2, 1).write_bytes(good[: len(good) // 2])
    status, lines, errors = batch(campaign, capsys)
    assert status == 4
    bad = "filter=F158,obs=2,sca=1"
    row = next(line for line in lines if line.startswith(bad))
    assert row.split()[1] == "failed"
    assert "sim_L1_F158_2_1.asdf: truncated" in row
    assert any(bad in line and "truncated" in line for line in errors)
    assert lines[-1].startswith("3 done, 0 finished before, 1 failed; ")
    last = [line for line in campaign.lines() if line["identity"] == bad][-1]
    assert (last["status"], last["output"]) == ("failed", [])
    assert "truncated" in last["error"]
    assert len(campaign.pixels()) == 12
    # mended
    before = campaign.marks()
    campaign.l1(2, 1).write_bytes(good)
    assert [i for i, (a, _) in dry(campaign, capsys).items() if a == "run"] == [bad]
    assert batch(campaign, capsys)[0] == 0
    campaign.check(undisturbed)
    assert before.items() <= campaign.marks().items()


def test_wrong_noise_is_told_before_the_calibration(campaign, capsys):
    campaign.settings["template"]["NOISE"]["TEMP"] = "nowhere/temp"
    campaign.write()
    told = f"NOISE.TEMP: the directory {campaign.folder / 'nowhere'} does not exist on this machine"
    _, _, errors = batch(campaign, capsys, "--dry-run")
    assert len(errors) == 1
    assert f"{told}; 4 exposures need it" in errors[0]
    status, lines, _ = batch(campaign, capsys)
    assert status == 4
    assert all("NOISE.TEMP" in line for line in lines[1:5])
    assert campaign.outputs() == []


def test_folders_of_outputs_are_made(campaign, capsys, undisturbed):
    """Not by a dry run, which says so."""
    for sca in (1, 2):
        (campaign.folder / f"l2_{sca}").rmdir()
    assert len(dry(campaign, capsys)) == 4
    _, lines, errors = batch(campaign, capsys, "--dry-run")
    made = ", ".join(str(campaign.folder / f"l2_{sca}") for sca in (1, 2))
    assert lines[-1] == f"4 to run, 0 finished; to be made: {made}"
    assert errors == []
    assert batch(campaign, capsys)[0] == 0
    campaign.check(undisturbed)
    assert batch(campaign, capsys, "--dry-run")[1][-1] == "0 to run, 4 finished"


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_folder_that_cannot_be_made(campaign, capsys, options):
    (campaign.folder / "l2_1").rmdir()
    (campaign.folder / "l2_1").write_text("in the way")
    before = sorted(campaign.folder.rglob("*"))
    status, _, errors = batch(campaign, capsys, *options)
    folder = campaign.folder / "l2_1"
    assert status == 2
    assert [line.partition("campaign.yaml: ")[2] for line in errors] == [
        f"{key}: the directory {folder} does not exist and cannot be made ({folder} is not a "
        "directory)"
        for key in ("OUT",)
    ]
    assert sorted(campaign.folder.rglob("*")) == before


def test_nothing_is_left_open_or_mapped_of_the_exposure_before(campaign, capsys):
    """Reference files of the detector stay open, the exposures before the last ones that were
    worked on together do not."""
    from roman_dask_l2.io import arrays as io_arrays
    from roman_dask_l2.io import opened

    assert batch(campaign, capsys, "--tile", "64")[0] == 0
    caches = [value for value in vars(io_arrays).values() if isinstance(value, opened.Cache)]
    paths = {key[0] for cache in caches for key in cache._entries}
    assert {path for path in paths if "/l1/" in path} <= {str(campaign.l1(i, 2)) for i in (1, 2)}
    assert str(campaign.folder / "cal2" / "dark.asdf") in paths
    assert not any(path.startswith(str(campaign.folder / "cal1")) for path in paths)


def test_schemas_do_not_pile_up(campaign, capsys):
    """asdf would keep those of 128 files."""
    from asdf._jsonschema.validators import RefResolver

    assert batch(campaign, capsys, "--only", "sca=1")[0] == 0
    one = RefResolver._find_in_subschemas.cache_info().currsize
    assert batch(campaign, capsys)[0] == 0
    assert RefResolver._find_in_subschemas.cache_info().currsize == one > 0


def test_reference_files_are_opened_once(campaign, capsys, monkeypatch):
    """Two exposures of each detector: each reference file is opened and decoded for the first."""
    from roman_dask_l2.io import opened

    seen, original = [], opened.OpenFile.__init__

    def noted(self, path, size_and_mtime):
        seen.append(path)
        original(self, path, size_and_mtime)

    monkeypatch.setattr(opened.OpenFile, "__init__", noted)
    assert batch(campaign, capsys)[0] == 0
    references = [path for path in seen if "/cal" in path]
    assert len(references) == len(set(references)) > 10


@pytest.mark.parametrize(("only", "second"), [("obs=1", "1_2"), ("sca=1", "2_1")])
def test_an_attempt_that_was_taken_for_dead_waits_for_the_other(
    only, second, campaign, capsys, monkeypatch
):
    """Its unfinished file was removed, and the other batch has made the exposure. Whether they are
    done one after the other or together."""
    from roman_dask_l2.batch import work
    from roman_dask_l2.batch.locks import lock_path

    make, calls = work._Attempt._make, []

    def stalled(attempt, config, reasons):
        calls.append(config.OUT.name)
        if len(calls) == 1:
            lock_path(config.OUT).unlink()
            assert campaign.run("--only", "obs=1,sca=1").returncode == 0
            raise FileNotFoundError(2, "No such file or directory", "unfinished")
        yield from make(attempt, config, reasons)

    monkeypatch.setattr(work._Attempt, "_make", stalled)
    status, lines, errors = batch(campaign, capsys, "--only", only)
    assert status == 0, lines
    assert calls == ["sim_L2_F158_1_1.asdf", f"sim_L2_F158_{second}.asdf"]
    assert "was taken over by another process, this process had stood still" in errors[0]
    assert campaign.statuses()["filter=F158,obs=1,sca=1"] == ["interrupted", "done"]


# -- what is said ---------------------------------------------------------------------------------


def test_progress_lines(campaign):
    done = campaign.run("--limit", "2")
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stderr.splitlines() if "obs=" in line)
    assert "1 done, 0 failed, 1 left, end about " in first
    assert "2 done, 0 failed, 0 left" in second
    assert "2 left" in done.stdout.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 3, done.stderr  # and one that says how many there are


# -- job arrays ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_for_job_arrays(campaign, undisturbed):
    """As SLURM calls it: ids need not begin at 1 nor follow each other."""
    script = ROOT / "deploy" / "slurm" / "array.sbatch"
    folder = os.path.dirname(sys.executable)
    for task in (10, 15, 20):
        variables = {"ID": task, "MIN": 10, "STEP": 5, "COUNT": 3}
        environment = {f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in variables.items()}
        done = subprocess.run(
            [script, campaign.file, "--tile", "128"], capture_output=True, text=True,
            env={**os.environ, **environment, "PATH": f"{folder}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    campaign.check(undisturbed)
    shares = [line["share"] for line in campaign.lines() if line["status"] == "done"]
    assert shares == ["1/3", "2/3", "3/3", "3/3"]
    outside = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([script, campaign.file], capture_output=True, text=True, env=outside)
    assert done.returncode != 0
    assert "not in a job array" in done.stderr


def test_reports(done, capsys, monkeypatch):
    """Of what is done, if there is none or it is older than its files; one that cannot be written
    does not keep the others from it, but is told."""
    pytest.importorskip("matplotlib")
    from roman_dask_l2.report import each

    broken = done.folder / "l2_2" / "sim_L2_F158_1_2_report.html"
    broken.mkdir()
    code, out, err = batch(done, capsys, "--report", "--only", "obs=1")
    made = done.folder / "l2_1" / "sim_L2_F158_1_1_report.html"
    whole = done.folder / "campaign_report.html"
    assert code == 4
    assert out[-1] == str(whole)
    assert any("filter=F158,obs=1,sca=2: no report: " in line for line in err)
    assert set(done.folder.glob("l2_*/*.html")) == {made, broken}
    assert 'href="l2_1/sim_L2_F158_1_1_report.html"' in whole.read_text()
    assert "l2_1/sim_L2_F158_2_1_report.html" not in whole.read_text()

    broken.rmdir()
    asked = []
    monkeypatch.setattr(each, "exposure_report", lambda path, **_: asked.append(path.name))
    only = ("--report", "--only", "sca=1")
    assert batch(done, capsys, *only)[0] == 0
    assert asked == ["sim_L2_F158_2_1.asdf"]
    noise = done.folder / "l2_1" / "sim_L2_F158_1_1_noise.asdf"
    os.utime(noise, (made.stat().st_mtime + 1, made.stat().st_mtime + 1))
    assert batch(done, capsys, *only)[0] == 0
    assert sorted(asked[1:]) == ["sim_L2_F158_1_1.asdf", "sim_L2_F158_2_1.asdf"]


def test_a_report_that_cannot_be_written_is_told_before_the_work(campaign, capsys):
    pytest.importorskip("matplotlib")
    (campaign.folder / "campaign_report.html").mkdir()
    code, out, err = batch(campaign, capsys, "--report")
    assert (code, out) == (2, [])
    assert "campaign_report.html" in err[-1]
    assert not campaign.manifest.exists()


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_signal_that_became_another_error(number, campaign, capsys, monkeypatch):
    """As the interpreter makes one of it within an import: no exposure has failed."""

    def interrupted(*_, **__):
        stopping._told.set()
        raise TypeError("expected a message argument")

    monkeypatch.setattr(level2, "calibrate", interrupted)
    monkeypatch.setattr(level2, "calibrate_together", interrupted)
    monkeypatch.setattr(stopping, "_told", threading.Event())
    status, out, _ = batch(campaign, capsys, "--only", "sca=1", "--in-flight", number)
    assert status == 1
    ends = f"0 done, 0 finished before, 0 failed, {number} interrupted"
    assert out[-1].startswith(ends + ", 1 left" * (number == "1"))
    assert list(campaign.statuses().values()) == [["interrupted"]] * int(number)
