"""What ``status`` says, and the next batch does, of batches that run, fail, or are interrupted."""

from __future__ import annotations

import re
import signal

from roman_dask_l2.batch import manifest
from roman_dask_l2.cli.app import main

BOTH = "l2 and noise: an earlier --redo did not come to it"


def dry(campaign, capsys):
    """Identity -> action and why, in one text."""
    assert main(["batch", str(campaign.file), "--quiet", "--dry-run"]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[1:-1]]
    return {identity: f"{action} {why}" for action, identity, why in rows}


def counts(campaign, capsys):
    """Number of exposures in each state, and all lines."""
    capsys.readouterr()
    assert main(["status", str(campaign.file), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = (re.fullmatch(r"  ([a-z ]+?) +(\d+)", line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}, lines


def test_status(campaign, capsys):
    assert counts(campaign, capsys)[0] == {
        "done": 0, "failed": 0, "running": 0, "interrupted": 0, "not begun": 4,
    }  # fmt: skip
    good = campaign.l1(1, 1).read_bytes()
    campaign.l1(1, 1).write_bytes(b"nothing")
    assert main(["batch", str(campaign.file), "--quiet", "--limit", "2"]) == 4
    found, lines = counts(campaign, capsys)
    assert found == {"done": 1, "failed": 1, "running": 0, "interrupted": 0, "not begun": 2}
    assert any("an exposure took" in line for line in lines)
    assert any("obs=1,sca=1" in line and "not an ASDF file" in line for line in lines)
    campaign.l1(1, 1).write_bytes(good)


def test_status_while_a_batch_runs(campaign, capsys, tools):
    with campaign.started("--threads", "1", "--tile", "64", "--in-flight", "1") as process:
        tools.stop_when(process, lambda: campaign.parts(campaign.out(2, 1)))
        found, lines = counts(campaign, capsys)
        assert found == {"done": 1, "failed": 0, "running": 1, "interrupted": 0, "not begun": 2}
        plan = dry(campaign, capsys)["filter=F158,obs=2,sca=1"]
        assert plan.startswith("wait ")
        assert f"process {process.pid} on" in plan
        process.send_signal(signal.SIGKILL)
        process.wait()
        found, lines = counts(campaign, capsys)
        assert found == {"done": 1, "failed": 0, "running": 0, "interrupted": 1, "not begun": 2}
        (row,) = (line for line in lines if "obs=2,sca=1" in line)
        assert "run the batch again" in row


def test_status_says_rate_and_end(campaign, capsys, tools):
    with campaign.started("--threads", "1", "--in-flight", "1") as process:
        tools.stop_when(process, lambda: campaign.parts(campaign.out(1, 2)))
        _, lines = counts(campaign, capsys)
        assert any("exposures an hour; 2 left, end about" in line for line in lines), lines


def test_a_failure_that_the_running_batch_tries_again(campaign, capsys, tools):
    """It is left, not failed; its old error is not told; earlier batches do not count as speed."""
    good = campaign.l1(2, 2).read_bytes()
    campaign.l1(2, 2).write_bytes(b"nothing")
    assert main(["batch", str(campaign.file), "--quiet", "--only", "obs=2,sca=2"]) == 4
    campaign.l1(2, 2).write_bytes(good)
    with campaign.started("--threads", "1", "--in-flight", "1") as process:
        tools.stop_when(process, lambda: campaign.parts(campaign.out(1, 1)))
        found, lines = counts(campaign, capsys)
        assert found == {
            "done": 0, "failed": 0, "running": 1, "interrupted": 0, "not begun": 2, "waiting": 1,
        }  # fmt: skip
        assert not any("end about" in line or "not an ASDF" in line for line in lines), lines
        process.send_signal(signal.SIGCONT)
        tools.stop_when(process, lambda: campaign.parts(campaign.out(1, 2)))
        _, lines = counts(campaign, capsys)
        assert any("exposures an hour; 2 left, end about" in line for line in lines), lines
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=120)
    found, _ = counts(campaign, capsys)
    assert found == {"done": 4, "failed": 0, "running": 0, "interrupted": 0, "not begun": 0}


def test_an_interrupted_redo_is_continued(done, capsys, tools, undisturbed):
    """What it did not come to is made again by the next batch, nothing else, and not for ever."""
    before = done.marks()
    with done.started("--redo", "--threads", "1", "--in-flight", "1") as process:
        tools.stop_when(process, lambda: done.parts(done.out(2, 1)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    found, lines = counts(done, capsys)
    assert found == {
        "done": 1, "failed": 0, "running": 0, "interrupted": 1, "not begun": 0, "to make again": 2,
    }  # fmt: skip
    plan = dry(done, capsys)
    assert sorted(plan.values()) == [*[f"run {BOTH}"] * 3, "skip finished"]
    first = {name for name, mark in done.marks().items() if before.get(name, mark) != mark}
    assert main(["batch", str(done.file), "--quiet"]) == 0
    table = capsys.readouterr().out
    assert "3 done, 1 finished before" in table
    after = done.marks()
    again = {name for name in after if after[name] != before.get(name)} - first
    assert len(first) == 4
    assert len(again) == 12
    done.check(undisturbed)
    assert set(dry(done, capsys).values()) == {"skip finished"}
    assert set(counts(done, capsys)[0]) == {
        "done", "failed", "running", "interrupted", "not begun",
    }  # fmt: skip


def test_a_redo_that_fails_is_tried_again(done, capsys):
    good = done.l1(1, 1).read_bytes()
    done.l1(1, 1).write_bytes(b"nothing")
    one = ["batch", str(done.file), "--quiet", "--only", "obs=1,sca=1"]
    assert main([*one, "--redo"]) == 4
    done.l1(1, 1).write_bytes(good)
    capsys.readouterr()
    assert dry(done, capsys)["filter=F158,obs=1,sca=1"] == f"run {BOTH}"
    assert main(one) == 0
    capsys.readouterr()
    assert dry(done, capsys)["filter=F158,obs=1,sca=1"] == "skip finished"


def test_plans_of_many_exposures_are_short_lines(tmp_path):
    names = [f"obs={i}" for i in range(120)]
    lines = list(manifest.plan_lines({"batch": "b"}, 5.0, names))
    assert [len(line["planned"]) for line in lines] == [50, 50, 20]
    for line in lines:
        manifest.append(tmp_path / "m", line)
    found = manifest.read(tmp_path / "m")
    assert found.planned == dict.fromkeys(names, "b")
    assert found.redo == dict.fromkeys(names, 5.0)
    assert found.last == {}
