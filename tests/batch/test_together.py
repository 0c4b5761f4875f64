"""Exposures that have their references in common are calibrated together in a batch."""

import dataclasses
import json
import signal

import pytest

from roman_dask_l2.batch.locks import lock_path
from roman_dask_l2.batch.plan import Options, make_plan, stacks
from roman_dask_l2.batch.work import run_together
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.arrays import FileArray
from roman_dask_l2.products import level2
from roman_dask_l2.system.memory import peak

TOGETHER = level2.calibrate_together


@pytest.fixture
def stacked(monkeypatch):
    """The numbers of exposures that were calibrated together."""
    numbers = []

    def noted(jobs, *given, **options):
        numbers.append(len(jobs))
        return TOGETHER(jobs, *given, **options)

    monkeypatch.setattr(level2, "calibrate_together", noted)
    return numbers


def works(campaign, **options):
    return [item.work for item in make_plan(campaign.file, Options(**options)).todo]


def test_one_by_one_and_together(campaign, undisturbed):
    """The campaign that nothing has disturbed is done in stacks of two."""
    assert campaign.run("--in-flight", "1").returncode == 0
    campaign.check(undisturbed)


def test_which_run_together(campaign):
    """Those of a detector, in the order in which the first of each is due."""
    plan = make_plan(campaign.file, Options())
    names = [[item.identity[-11:] for item in some] for some in stacks(plan.todo, 3)]
    assert names == [["obs=1,sca=1", "obs=2,sca=1"], ["obs=1,sca=2", "obs=2,sca=2"]]
    assert [len(some) for some in stacks(plan.todo, 1)] == [1] * 4
    four = [dataclasses.replace(item) for item in plan.todo[:2] * 2]
    assert [len(some) for some in stacks(four, 3)] == [2, 2]
    plan.todo[2].reasons = {"noise": "missing"}
    assert [len(some) for some in stacks(plan.todo, 3)] == [2, 1, 1]


def test_records_of_a_stack(campaign, stacked):
    records = run_together(works(campaign, only=("sca=1",)))
    assert stacked == [2]
    assert [record["status"] for record in records] == ["done", "done"]
    shares = [record["products"]["l2"] for record in records]
    assert shares[0] == shares[1] > 0
    assert [record["together"] for record in records] == [2, 2]
    assert all(record["started"] < record["ended"] for record in records)
    for record in records:
        both = record["products"]["l2"] + record["products"]["noise"]
        assert both <= record["seconds"] < both + 2
        assert 0 < record["cpu_seconds"]
        assert 0 < record["peak_memory"] <= 2 * peak()
    # What one did while the other waited is not counted twice.
    lines = [json.loads(line) for line in campaign.manifest.read_text().splitlines()]
    assert sum(line["status"] == "done" for line in lines) == 2


def test_one_of_a_stack_fails(campaign, undisturbed, stacked, monkeypatch):
    """In the middle of its pixels, so that all have begun: the others are done all the same."""
    bad, read = str(campaign.l1(2, 1)), FileArray.read

    def reading(array, *given):
        if array.path == bad and array.key[-1] == "data":
            raise InputError(f"{bad}: roman.data is damaged")
        return read(array, *given)

    with monkeypatch.context() as patch:
        patch.setattr(FileArray, "read", reading)
        records = run_together(works(campaign, only=("sca=1",)))
    assert stacked == [2]
    assert [record["status"] for record in records] == ["done", "failed"]
    assert records[1]["error"] == f"{bad}: roman.data is damaged"
    assert not campaign.parts(campaign.out(2, 1))
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


def test_one_of_a_stack_is_held(campaign, undisturbed, stacked, tools):
    """By another batch, for which the first one waits when it has done the others."""
    with campaign.started("--only", "obs=2,sca=1", "--tile", "64") as other:
        tools.stop_when(other, lambda: campaign.parts(campaign.out(2, 1)))
        records = run_together(works(campaign, only=("sca=1",)))
        assert [record["status"] for record in records] == ["done", "held"]
        assert stacked == []
        other.send_signal(signal.SIGCONT)
        other.communicate(timeout=100)
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


@pytest.mark.parametrize("fails", [True, False])
def test_one_of_a_stack_is_taken_over(fails, campaign, undisturbed, monkeypatch):
    """While this process stood still: what others have made of it counts, and is not made again,
    whether its unfinished file was removed or not."""
    made = []

    def stalled(jobs, *given, **options):
        if not fails:
            TOGETHER(jobs, *given, **options)
        lock_path(campaign.out(1, 1)).unlink()
        assert campaign.run("--only", "obs=1,sca=1", "--in-flight", "1").returncode == 0
        made.append(campaign.marks())
        if fails:
            raise FileNotFoundError(2, "No such file or directory", "unfinished")

    with monkeypatch.context() as patch:
        patch.setattr(level2, "calibrate_together", stalled)
        records = run_together(works(campaign, only=("sca=1",)))
    assert [record["status"] for record in records] == ["held", "done"]
    after = campaign.marks()
    theirs = [name for name in made[0] if "_1_1" in name]
    assert len(theirs) >= 3
    assert [after[name] for name in theirs] == [made[0][name] for name in theirs]
    lines = [json.loads(line) for line in campaign.manifest.read_text().splitlines()]
    ours = [line for line in lines if line.get("products") and "obs=1" in line["identity"]]
    assert len(ours) == 1  # theirs
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


def test_an_interruption_cleans_up_after_all(campaign, undisturbed, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(level2, "calibrate_together", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_together(works(campaign, only=("sca=1",)))
    assert list(campaign.statuses().values()) == [["interrupted"]] * 2
    assert not list(campaign.folder.rglob("*.lock"))
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)


def test_a_stack_that_is_killed_is_made_again(campaign, undisturbed, tools):
    with campaign.started("--tile", "64") as process:
        tools.stop_when(process, lambda: campaign.parts(campaign.out(2, 1)))
        assert campaign.parts(campaign.out(1, 1))
        process.kill()
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)
    found = campaign.statuses()
    assert [found[f"filter=F158,obs={obs},sca=1"] for obs in (1, 2)] == [
        ["interrupted", "done"]
    ] * 2


def test_a_store_that_waits_for_the_next_exposures(campaign, undisturbed, tools):
    """The files of TEMP are handed on. If the process is killed meanwhile, the next batch removes
    them, though the exposures that they were made for are done."""
    temp = campaign.folder / "temp"
    with campaign.started("--tile", "64") as process:
        tools.stop_when(process, lambda: campaign.parts(campaign.out(2, 2)))
        assert len(list(temp.glob("*.zarr"))) == 2
        assert not list(temp.glob("*.zarr/*/c.*"))
        process.kill()
    assert list(temp.iterdir())
    assert campaign.run().returncode == 0
    campaign.check(undisturbed)
