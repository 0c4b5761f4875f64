"""The program on a real SLURM: ``make slurm-test``.

Installs SLURM from the distribution's packages where it is missing (as root, with apt-get), starts
it with one node by deploy/slurm/one-node, and runs jobs through it: workers of a Dask cluster, one
allocation, a batch as a job array; jobs that fail, are cancelled, or run out of time. Outputs are
compared, bit for bit, with what this machine makes without SLURM. SLURM is stopped in any case.

One line for each check; exit status 1 if one of them fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import yaml
from compare import differences
from door import check_files, family, keys_in, try_the_door

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "slurm"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
LAYERS, OWN = ("RS2", "PbS2"), ("Ra",)
SLOW = str(ROOT / "validation" / "slurm" / "slow.yaml")
LIMIT = 400
"""Seconds after which a job that should have ended is taken for hanging."""


class Failed(Exception):
    """What a check has found."""


def expect(condition: object, message: str) -> None:
    if not condition:
        raise Failed(message)


# -- the machine ---------------------------------------------------------------------------------


def install(packages: Sequence[str] = PACKAGES, programs: Sequence[str] = PROGRAMS) -> None:
    """SLURM's packages, if programs of theirs are missing and we may."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if all(shutil.which(name, path=path) for name in programs):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"SLURM is missing; install {' '.join(packages)} and run this as root")
    print(f"installing {' '.join(packages)}", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        # Others may be installing something at this moment: wait for them.
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command]
        done = subprocess.run(apt, env=quiet, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"apt-get {command[0]} failed:\n{done.stderr}")


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A SLURM of one node with 16 CPUs, whatever the machine has."""
    started = subprocess.run([DEPLOY / "one-node" / "start.sh", folder, "16"])
    if started.returncode:
        sys.exit("SLURM does not start")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield
    finally:
        subprocess.run([DEPLOY / "one-node" / "stop.sh", folder])


def call(*command: object, **options: object) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=LIMIT, **options
    )
    expect(done.returncode == 0, f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def sbatch(*arguments: object, cwd: Path, **variables: str) -> str:
    """Submit a job, get its number."""
    environment = {**os.environ, **variables}
    return call("sbatch", "--parsable", *arguments, cwd=cwd, env=environment).strip()


def states(job: str) -> dict[str, str]:
    """States of a job and, if it is an array, of its parts."""
    lines = call("squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i %T", "-j", job).splitlines()
    return dict(line.split() for line in lines)


OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
}  # fmt: skip
"""States in which SLURM does nothing with a job any more; on the way there are many others."""


def ended(job: str) -> dict[str, str]:
    """Wait until a job is over: state of each part."""
    end = time.monotonic() + LIMIT
    while True:
        found = states(job)
        if OVER.issuperset(found.values()):
            return found
        expect(time.monotonic() < end, f"job {job} does not end: {found}")
        time.sleep(0.3)


def exit_code(job: str) -> str:
    text = call("scontrol", "show", "job", job)
    return next(word for word in text.split() if word.startswith("ExitCode=")).partition("=")[2]


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        expect(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.1)


# -- the work ------------------------------------------------------------------------------------


_programs: list[subprocess.Popen[str]] = []


def program(*arguments: object, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "roman_dask_l2", *map(str, arguments)],
        cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    _programs.append(process)
    return process


def run(*arguments: object, cwd: Path, **variables: str) -> tuple[int, str]:
    process = program(*arguments, cwd=cwd, **variables)
    output, _ = process.communicate(timeout=LIMIT)
    return process.returncode, output


class Work:
    """Simulated files, and what this machine makes of them without SLURM."""

    def __init__(self, folder: Path) -> None:
        from roman_dask_l2.simulation.simulate import simulate

        self.folder = folder
        self.made = simulate(folder / "simulated", side=256, seed=4)
        self.plain = self._undisturbed("plain")
        self.own = self._undisturbed("own", GRAPH=SLOW, layers=OWN)
        self.batch = self._campaign()

    def _undisturbed(self, name: str, **how: Any) -> Path:
        place = self.place(f"local-{name}", **how)
        status, output = run("config.yaml", cwd=place)
        if status:
            sys.exit(f"the run without SLURM fails:\n{output}")
        return place

    def place(self, name: str, layers: Sequence[str] = LAYERS, **changes: object) -> Path:
        """A directory with a configuration, whose outputs go there."""
        place = self.folder / name
        (place / "temp").mkdir(parents=True)
        raw = yaml.safe_load(self.made.config.read_text())
        here = self.made.config.parent
        raw["IN"], raw["FITSWCS"] = str(here / raw["IN"]), str(here / raw["FITSWCS"])
        raw["CALDIR"] = {key: str(here / path) for key, path in raw["CALDIR"].items()}
        raw |= {"OUT": "l2.asdf", "FITSOUT": False, **changes}
        raw["NOISE"] = {
            "LAYER": list(layers), "TEMP": "temp", "SEED": 15000, "OUT": "noise.asdf",
        }  # fmt: skip
        (place / "config.yaml").write_text(yaml.safe_dump(raw))
        settings(place)
        return place

    def _campaign(self) -> Path:
        """A campaign of two exposures of three detectors each, done without SLURM."""
        from roman_dask_l2.simulation.simulate import simulate

        place = self.folder / "local-batch"
        for folder in ("l1", "out", "temp"):
            (place / folder).mkdir(parents=True)
        for sca in (1, 2, 3):
            for obs in (1, 2):
                made = simulate(
                    place / "new", side=256, seed=10 * obs + sca, detector=f"WFI{sca:02d}"
                )
                made.l1.rename(place / "l1" / f"{obs}_{sca}.asdf")
            shutil.copy(made.fitswcs, place / "wcs.txt")
            (place / "new" / "cal").rename(place / f"cal{sca}")
            shutil.rmtree(place / "new")
        keys = [path.stem for path in (place / "cal1").iterdir()]
        noise = {"LAYER": list(OWN), "TEMP": "temp", "OUT": "out/{obs}_{sca}_noise.asdf"}
        template = {
            "OUT": "out/{obs}_{sca}.asdf", "FITSWCS": "wcs.txt", "FITSOUT": False,
            "CALDIR": {key: f"cal{{sca}}/{key}.asdf" for key in keys},
            "SKYORDER": 1, "GRAPH": SLOW, "NOISE": noise,
        }  # fmt: skip
        campaign = {
            "template": template, "exposures": {"glob": "l1/{obs:d}_{sca:d}.asdf"}, "SEED": 7,
        }  # fmt: skip
        (place / "campaign.yaml").write_text(yaml.safe_dump(campaign, sort_keys=False))
        shutil.copytree(place, self.folder / "new-batch")
        status, output = run("batch", "campaign.yaml", cwd=place)
        if status:
            sys.exit(f"the batch without SLURM fails:\n{output}")
        return place

    def new_batch(self, name: str) -> Path:
        """A copy of the campaign of which nothing is done."""
        return shutil.copytree(self.folder / "new-batch", self.folder / name)

    def same_batch(self, place: Path) -> None:
        wanted = sorted(p.name for p in (self.batch / "out").iterdir())
        found = sorted(p.name for p in (place / "out").iterdir())
        expect(len(wanted) == 12, f"expected 6 exposures: {wanted}")
        expect(found == wanted, f"outputs {found}")
        for name in wanted:
            places = differences(self.batch / "out" / name, place / "out" / name)
            expect(not places, f"{name} differs in {', '.join(places[:5])}")
        left = list((place / "temp").iterdir())
        expect(not left, f"left behind: {left}")

    def same(self, place: Path, reference: Path) -> None:
        for name in ("l2.asdf", "noise.asdf"):
            expect((place / name).is_file(), f"{name} is missing")
            found = differences(reference / name, place / name)
            expect(not found, f"{name} differs in {', '.join(found[:5])}")
        left = [*place.glob(".*"), *(place / "temp").iterdir()]
        expect(not left, f"left behind: {left}")


def settings(place: Path, **changes: object) -> None:
    """Settings of `--scheduler slurm` for a small machine: loopback, several jobs at a time."""
    small = {"interface": "lo", "memory": "1GB", "cores": 1, "walltime": "00:10:00"}
    (place / "slurm.yaml").write_text(yaml.safe_dump(small | changes))


SLURM = ("--scheduler", "slurm", "--slurm-config", "slurm.yaml", "--tile", "64")


def jobs_of(place: Path) -> list[str]:
    """Numbers of the jobs whose outputs are in a directory, oldest first."""
    names = (p.stem.rpartition("-")[2] for p in place.glob("slurm-logs/*.out"))
    return sorted(names, key=int)


def check_two_jobs(work: Work) -> None:
    """Calibration and noise by `--scheduler slurm` on 2 jobs."""
    place = work.place("two-jobs")
    status, output = run("config.yaml", *SLURM, "--workers", 2, cwd=place)
    expect(status == 0, output)
    expect("dashboard: http://127.0.0.1:" in output, "the dashboard's address is not told")
    expect(len(jobs_of(place)) == 2, f"jobs {jobs_of(place)}, expected two")
    work.same(place, work.plain)
    wait_for(lambda: not [j for j in jobs_of(place) if states(j).get(j) == "RUNNING"], "their end")


def check_one_allocation(work: Work) -> None:
    """Scheduler, workers and program in one allocation."""
    place = work.place("one-allocation")
    job = sbatch(
        "--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=1G",
        DEPLOY / "one-allocation.sbatch", "config.yaml", cwd=place,
        PYTHON=sys.executable, INTERFACE="lo", DASHBOARD="127.0.0.1:0",
    )  # fmt: skip
    state = ended(job)[job]
    expect(state == "COMPLETED", f"{state}: {(place / f'roman-dask-l2-{job}.out').read_text()}")
    work.same(place, work.plain)


def check_failing_allocation(work: Work) -> None:
    """The job's status is the program's: bad input is 2."""
    place = work.place("failing-allocation", IN="nothing.asdf")
    job = sbatch(
        "--ntasks=1", "--cpus-per-task=1", "--mem-per-cpu=1G",
        DEPLOY / "one-allocation.sbatch", "config.yaml", cwd=place,
        PYTHON=sys.executable, INTERFACE="lo", DASHBOARD="127.0.0.1:0",
    )  # fmt: skip
    expect(ended(job)[job] == "FAILED", "the job has not failed")
    expect(exit_code(job) == "2:0", f"exit code {exit_code(job)}, expected 2:0")


def check_failing_job(work: Work) -> None:
    """Jobs that fail before they have a worker: status 3, with script and log."""
    place = work.place("failing-job")
    settings(place, job_script_prologue=["echo no such module >&2", "exit 7"])
    status, output = run("config.yaml", *SLURM, "--workers", 2, "--wait", 6, cwd=place)
    expect(status == 3, f"status {status}: {output}")
    for text in ("0 of 2 workers ready, waiting (limit 6 s)", "exit 7", "FAILED NonZeroExitCode",
                 "no such module", "none of 2 workers was ready within 6 s"):  # fmt: skip
        expect(text in output, f"{text!r} is not in the output:\n{output}")
    expect(not finished(place), f"outputs {finished(place)}")


def check_refused_job(work: Work) -> None:
    """What sbatch refuses: status 3 at once."""
    place = work.place("refused-job")
    settings(place, queue="nowhere")
    status, output = run("config.yaml", *SLURM, cwd=place)
    expect(status == 3, f"status {status}: {output}")
    expect("SLURM refuses the job: sbatch: error: invalid partition" in output, output)


def check_cancelled_job(work: Work) -> None:
    """A worker's job is cancelled midway: another takes its place, the bits are the same."""
    place = work.place("cancelled-job", GRAPH=SLOW, layers=OWN)
    process = program("config.yaml", *SLURM, "--workers", 1, cwd=place, SLOW="1")
    wait_for(lambda: tiles_begun(place) or process.poll() is not None, "the first tiles")
    call("scancel", *jobs_of(place))
    output, _ = process.communicate(timeout=LIMIT)
    expect(process.returncode == 0, output)
    expect("0 of 1 workers ready" in output, "the loss of the worker is not told")
    expect(len(jobs_of(place)) == 2, f"jobs {jobs_of(place)}, expected two")
    work.same(place, work.own)


def check_short_walltime(work: Work) -> None:
    """A worker's job runs out of time: another takes its place, the bits are the same."""
    place = work.place("short-walltime", GRAPH=SLOW, layers=OWN)
    # Without --lifetime the worker would leave in good order; here SLURM has to end it. It does so
    # after 60 to 90 s, when the calibration is over and the noise is not.
    settings(place, walltime="00:01:00", worker_extra_args=["--lifetime", "1h"])
    status, output = run("config.yaml", *SLURM, "--workers", 1, cwd=place, SLOW="2.6")
    expect(status == 0, output)
    jobs = jobs_of(place)
    expect(len(jobs) > 1, f"jobs {jobs}, expected more than one")
    found = ended(jobs[0])
    expect(found[jobs[0]] == "TIMEOUT", f"the first job is {found}")
    work.same(place, work.own)


ARRAY = ("--cpus-per-task=1", "--mem=1G", "--array=1-3", DEPLOY / "array.sbatch")


def attempts(place: Path) -> list[tuple[str, str]]:
    """Identity and status of every line of the campaign's manifest that is on an attempt."""
    lines = (place / "campaign.manifest.jsonl").read_text().splitlines()
    return [
        (line["identity"], line["status"]) for line in map(json.loads, lines) if "identity" in line
    ]


def logs(place: Path) -> str:
    return "\n".join(p.read_text() for p in sorted(place.glob("*.log")))


def check_array(work: Work) -> None:
    """A batch of 6 exposures as a job array; then all is finished."""
    place = work.new_batch("array")
    found = ended(sbatch(*ARRAY, "campaign.yaml", cwd=place))
    expect(list(found.values()) == ["COMPLETED"] * 3, f"{found}\n{logs(place)}")
    work.same_batch(place)
    done = [identity for identity, status in attempts(place) if status == "done"]
    expect(len(done) == len(set(done)) == 6, f"done are {done}")
    status, output = run("batch", "campaign.yaml", cwd=place)
    expect(status == 0, output)
    expect("0 done, 6 finished before, 0 failed" in output, output)


def check_batch_on_workers(work: Work) -> None:
    """The same batch by `--scheduler slurm`: one Dask cluster of 2 jobs for all exposures."""
    place = work.new_batch("batch-on-workers")
    settings(place)
    status, output = run("batch", "campaign.yaml", *SLURM[:4], "--workers", 2, cwd=place)
    expect(status == 0, output)
    expect("6 done, 0 finished before, 0 failed" in output, output)
    expect(len(jobs_of(place)) == 2, f"jobs {jobs_of(place)}, expected two")
    work.same_batch(place)


def check_failing_array(work: Work) -> None:
    """A bad exposure: its job fails with status 4, the others are done; repaired, it is done."""
    place = work.new_batch("failing-array")
    bad = place / "l1" / "2_3.asdf"
    good = bad.read_bytes()
    bad.write_bytes(good[:3000])
    job = sbatch(*ARRAY, "campaign.yaml", cwd=place)
    found = ended(job)
    failed = [part for part, state in found.items() if state == "FAILED"]
    expect(len(failed) == 1 and sorted(found.values())[:2] == ["COMPLETED"] * 2, f"{found}")
    expect(exit_code(failed[0]) == "4:0", f"exit code {exit_code(failed[0])}, expected 4:0")
    expect(len(finished(place / "out")) == 10, "the other exposures are not done")
    bad.write_bytes(good)
    status, output = run("batch", "campaign.yaml", "--failed-only", cwd=place)
    expect(status == 0, output)
    work.same_batch(place)


def check_cancelled_array(work: Work) -> None:
    """A job of an array is cancelled midway: no half file; submitted again, it makes the rest."""
    place = work.new_batch("cancelled-array")
    job = sbatch(*ARRAY, "campaign.yaml", cwd=place, SLOW="4")
    wait_for(lambda: hidden(place), "an unfinished file")
    call("scancel", job)
    found = ended(job)
    expect("CANCELLED" in found.values(), f"{found}")
    for file in finished(place / "out"):
        places = differences(work.batch / "out" / file.name, file)
        expect(not places, f"{file.name} differs in {', '.join(places[:5])}")
    expect(len(finished(place / "out")) < 12, "nothing was left to do")
    found = ended(sbatch(*ARRAY, "campaign.yaml", cwd=place))
    expect(list(found.values()) == ["COMPLETED"] * 3, f"{found}\n{logs(place)}")
    work.same_batch(place)


def check_array_out_of_time(work: Work) -> None:
    """An array's job runs out of time: the exposure at work is given up; the rest comes later."""
    place = work.new_batch("array-out-of-time")
    # SLURM may send the signal up to a minute early. All exposures would take some 5 minutes.
    limits = ("--time=2", "--signal=B:TERM@20")
    job = sbatch(*limits, *ARRAY[:2], "--array=1-1", ARRAY[3], "campaign.yaml", cwd=place, SLOW="6")
    found = ended(job)
    expect(list(found.values()) == ["FAILED"], f"{found}\n{logs(place)}")
    statuses = [status for _, status in attempts(place)]
    expect(statuses[-1] == "interrupted", f"the manifest says {statuses}")
    expect(not hidden(place), f"left behind: {hidden(place)}")
    expect(not list((place / "temp").iterdir()), "a TEMP store is left behind")
    found = ended(sbatch(*ARRAY, "campaign.yaml", cwd=place))
    expect(list(found.values()) == ["COMPLETED"] * 3, f"{found}\n{logs(place)}")
    work.same_batch(place)


def check_batch_in_one_allocation(work: Work) -> None:
    """A batch on scheduler and workers in one allocation."""
    place = work.new_batch("batch-in-one-allocation")
    job = sbatch(
        "--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=1G",
        DEPLOY / "one-allocation.sbatch", "batch", "campaign.yaml", cwd=place,
        PYTHON=sys.executable, INTERFACE="lo", DASHBOARD="127.0.0.1:0",
    )  # fmt: skip
    state = ended(job)[job]
    expect(state == "COMPLETED", f"{state}: {(place / f'roman-dask-l2-{job}.out').read_text()}")
    work.same_batch(place)


def check_allocation_out_of_time(work: Work) -> None:
    """An allocation runs out of time: SLURM says so before, and nothing unfinished is left."""
    place = work.place("allocation-out-of-time", GRAPH=SLOW, layers=OWN)
    job = sbatch(
        "--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=1G", "--time=2", "--signal=B:TERM@20",
        DEPLOY / "one-allocation.sbatch", "config.yaml", "--tile", 64, cwd=place,
        PYTHON=sys.executable, INTERFACE="lo", DASHBOARD="127.0.0.1:0", SLOW="60",
    )  # fmt: skip
    wait_for(lambda: list(place.glob(".l2.*")), "an unfinished file")
    found = ended(job)[job]
    log = (place / f"roman-dask-l2-{job}.out").read_text()
    expect(found == "FAILED", f"{found}, expected that the script ends before its time\n{log}")
    left = [*place.glob(".*"), *(place / "temp").iterdir(), *finished(place)]
    expect(not left, f"left behind: {left}\n{log}")


def check_door_of_jobs(work: Work) -> None:
    """Nobody gets into a run on jobs without its key, which goes when that ends or is killed."""
    place = work.place("door-of-jobs", GRAPH=SLOW, layers=OWN)
    for number in (signal.SIGINT, signal.SIGKILL):
        process = program("config.yaml", *SLURM, "--workers", 2, cwd=place, SLOW="20")
        wait_for(lambda process=process: tiles_begun(place) or process.poll() is not None, "tiles")
        if number == signal.SIGINT:
            # The scheduler, two nannies and two workers.
            folder = try_the_door(place, expect, listeners=5)
            secret = (folder / "key.pem").read_text().splitlines()[1]
            for job in jobs_of(place):
                script = call("scontrol", "write", "batch_script", job, "-")
                expect(str(folder) in script, f"not the script of a worker: {script}")
                expect(secret not in script, "the job script has the key in it")
            check_files(work.folder / "slurm", secret, expect)
        process.send_signal(number)
        output, _ = process.communicate(timeout=LIMIT)
        left = keys_in(place)
        expect(len(left) == (number == signal.SIGKILL), f"{number}: {left}\n{output}")
    status, output = run("config.yaml", *SLURM, "--wait", "0.1", cwd=place)
    expect(status in (0, 3), output)
    expect(not keys_in(place), f"left behind by the next run: {keys_in(place)}")


def allocation(place: Path, **variables: str) -> str:
    """Submit an allocation of two workers; the number of its job."""
    return sbatch(
        "--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=1G",
        DEPLOY / "one-allocation.sbatch", "config.yaml", "--tile", 64, cwd=place,
        PYTHON=sys.executable, INTERFACE="lo", DASHBOARD="127.0.0.1:0", **variables,
    )  # fmt: skip


def check_door_of_allocation(work: Work) -> None:
    """Nobody gets into an allocation; on SIGTERM program, workers and scheduler end in turn."""
    place = work.place("door-of-allocation", GRAPH=SLOW, layers=OWN)
    job = allocation(place, SLOW="20")
    wait_for(lambda: tiles_begun(place) or states(job)[job] in OVER, "the first tiles")
    folder = try_the_door(place, expect, listeners=5)
    check_files(work.folder / "slurm", (folder / "key.pem").read_text().splitlines()[1], expect)
    call("scancel", "--batch", "--signal=TERM", job)
    expect(ended(job)[job] == "FAILED", f"the job is {states(job)}")
    expect(exit_code(job) == "143:0", f"exit code {exit_code(job)}, expected 143:0")
    log = (place / f"roman-dask-l2-{job}.out").read_text()
    expect("interrupted; no unfinished file is left behind" in log, log)
    said = (place / f"scheduler-{job}.log").read_text()
    steps = ["Remove client Client-roman-dask-l2", "Remove worker", "Closing scheduler"]
    where = [said.find(step) for step in steps]
    expect(-1 not in where and where == sorted(where), f"{steps}: {where}\n{said}")
    said = (place / f"workers-{job}.log").read_text()
    expect(said.count("End worker") == 2, f"the workers were killed\n{said}")
    left = [*place.glob(".*"), *(place / "temp").iterdir(), *finished(place)]
    expect(not left, f"left behind: {left}\n{log}")
    job = allocation(place, SLOW="5")
    wait_for(
        lambda: keys_in(place) and (place / f".scheduler-{job}.json").exists(), "the scheduler"
    )
    for process in family(place):  # scancel would say SIGTERM before
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    ended(job)
    expect(len(keys_in(place)) == 1, f"{keys_in(place)}")
    job = allocation(place, SLOW="0")
    expect(ended(job)[job] == "COMPLETED", (place / f"roman-dask-l2-{job}.out").read_text())
    expect(not keys_in(place), f"left behind by the next job: {keys_in(place)}")


def hidden(place: Path) -> list[Path]:
    return [p for p in (place / "out").iterdir() if p.name.startswith(".")]


def check_lifetime(work: Work) -> None:
    """A worker leaves before its job's time is over: another takes its place, the same bits."""
    place = work.place("lifetime", GRAPH=SLOW, layers=OWN)
    settings(place, worker_extra_args=["--lifetime", "35s"])
    status, output = run("config.yaml", *SLURM, "--workers", 1, cwd=place, SLOW="1.5")
    expect(status == 0, output)
    jobs = jobs_of(place)
    expect(len(jobs) > 1, f"jobs {jobs}, expected more than one")
    found = ended(jobs[0])
    expect(found[jobs[0]] == "COMPLETED", f"the first job is {found}")
    work.same(place, work.own)


def check_batch_lifetime(work: Work) -> None:
    """Workers of a batch leave between two exposures: none is begun that would be cut off."""
    place = work.new_batch("batch-lifetime")
    settings(place, worker_extra_args=["--lifetime", "45s"])
    status, output = run(
        "batch", "campaign.yaml", *SLURM[:4], "--workers", 1, cwd=place, SLOW="0.8"
    )
    expect(status == 0, output)
    expect("has no time left for an exposure and leaves" in output, output)
    jobs = jobs_of(place)
    expect(len(jobs) > 1, f"jobs {jobs}, expected more than one")
    found = ended(jobs[0])
    expect(found[jobs[0]] == "COMPLETED", f"the first job is {found}")
    expect("interrupted" not in [status for _, status in attempts(place)], f"{attempts(place)}")
    work.same_batch(place)


def check_killed_program(work: Work) -> None:
    """The program is killed: its jobs end, no file has a final name; run again, the same bits."""
    place = work.place("killed-program", GRAPH=SLOW, layers=OWN)
    process = program("config.yaml", *SLURM, "--workers", 2, cwd=place, SLOW="2")
    wait_for(lambda: tiles_begun(place) or process.poll() is not None, "the first tiles")
    process.kill()
    process.communicate()
    jobs = jobs_of(place)
    expect(len(jobs) == 2, f"jobs {jobs}, expected two")
    for job in jobs:
        ended(job)
    expect(not finished(place), f"outputs {finished(place)}")
    # removes what was left, the key too
    status, output = run("config.yaml", *SLURM, "--workers", 2, cwd=place)
    expect(status == 0, output)
    work.same(place, work.own)


def finished(folder: Path) -> list[Path]:
    """ASDF files under their final names."""
    return [p for p in folder.glob("*.asdf") if not p.name.startswith(".")]


def tiles_begun(place: Path) -> bool:
    """Some tile has been written into the hidden part of the L2 file."""
    for part in place.glob(".l2.*"):
        with contextlib.suppress(OSError):
            return part.stat().st_blocks > 0
    return False


CHECKS = (
    check_short_walltime,  # takes longest
    check_array_out_of_time,
    check_allocation_out_of_time,
    check_door_of_jobs,
    check_door_of_allocation,
    check_two_jobs,
    check_array,
    check_cancelled_array,
    check_failing_array,
    check_batch_on_workers,
    check_one_allocation,
    check_batch_in_one_allocation,
    check_failing_allocation,
    check_failing_job,
    check_refused_job,
    check_cancelled_job,
    check_lifetime,
    check_batch_lifetime,
    check_killed_program,
)


def attempt(check: Callable[[Work], Any], work: Work) -> bool:
    """Print how a check went, and what it returns if that is anything."""
    began, said = time.monotonic(), "ok  "
    what = (check.__doc__ or "").strip().rstrip(".")
    try:
        if found := check(work):
            what += f": {found}"
    except Exception as error:  # whatever it is, the other checks go on
        said = "FAIL"
        what += f"\n     {type(error).__name__}: {error}".replace("\n", "\n     ")
    print(f"{said} {time.monotonic() - began:5.0f} s  {what}", flush=True)
    return said == "ok  "


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    parser.add_argument("--keep", action="store_true", help="keep the directory of the test")
    options = parser.parse_args()
    chosen = [c for c in CHECKS if options.only in c.__name__]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SLURM must be stopped
    # This checkout, and the step that takes its time, also in the jobs.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'validation' / 'slurm'}"
    install()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="slurm-test-"))
    folder.chmod(0o755)  # munge wants its socket where everybody can reach it
    try:
        work = Work(folder)
        with slurm(folder / "slurm"):
            pool = ThreadPoolExecutor(4)  # the checks wait more than they compute
            try:
                good = list(pool.map(lambda check: attempt(check, work), chosen))
            finally:  # also if this is interrupted
                pool.shutdown(wait=False, cancel_futures=True)
                for process in _programs:
                    process.kill()
    finally:
        if options.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(good)} of {len(good)} checks passed in {time.monotonic() - began:.0f} s")
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
