"""A small campaign: two detectors, two exposures of each, calibration and two noise layers."""

from __future__ import annotations

import contextlib
import copy
import glob
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCAS = (1, 2)
OBS = (1, 2)
IDENTITIES = [f"filter=F158,obs={obs},sca={sca}" for sca in SCAS for obs in OBS]
SEED = 7


@pytest.fixture(scope="session")
def field(tmp_path_factory):
    """Level-1 files and reference files, not to be changed."""
    from roman_dask_l2.simulation.simulate import simulate

    folder = tmp_path_factory.mktemp("field")
    (folder / "l1").mkdir()
    for sca in SCAS:
        for obs in OBS:
            made = simulate(
                folder / "sim", side=256, seed=10 * obs + sca, detector=f"WFI{sca:02d}",
                conditions="plain",
            )  # fmt: skip
            made.l1.rename(folder / "l1" / f"sim_L1_F158_{obs}_{sca}.asdf")
            if not (folder / f"cal{sca}").exists():  # one set for all exposures of a detector
                (folder / "sim" / "cal").rename(folder / f"cal{sca}")
    shutil.copy(made.fitswcs, folder / "wcs.txt")
    shutil.rmtree(folder / "sim")
    return folder


@pytest.fixture
def campaign(field, tmp_path):
    """A campaign on a copy of the files, which a test may spoil."""
    return Campaign(field, tmp_path / "campaign")


@pytest.fixture(scope="session")
def finished(field, tmp_path_factory):
    """A campaign that nothing has disturbed, not to be changed."""
    case = Campaign(field, tmp_path_factory.mktemp("finished") / "campaign")
    done = case.run()
    assert done.returncode == 0, done.stderr
    return case


@pytest.fixture(scope="session")
def undisturbed(finished):
    """What every run must give in the end: pixels of all outputs, by file name."""
    return finished.pixels()


@pytest.fixture
def done(finished, tmp_path):
    """A copy of the finished campaign, which a test may spoil."""
    case = copy.copy(finished)
    case.folder = tmp_path / "done"
    shutil.copytree(finished.folder, case.folder)
    case.file, case.manifest = (case.folder / p.name for p in (finished.file, finished.manifest))
    case.settings = copy.deepcopy(finished.settings)
    return case


class Campaign:
    """A campaign file and its surroundings."""

    def __init__(self, field: Path, folder: Path) -> None:
        shutil.copytree(field, folder)
        self.folder, self.file = folder, folder / "campaign.yaml"
        self.manifest = folder / "campaign.manifest.jsonl"
        for sca in SCAS:
            (folder / f"l2_{sca}").mkdir()
        (folder / "temp").mkdir()
        keys = [path.stem for path in (folder / "cal1").iterdir()]
        self.settings = {
            "template": {
                "OUT": "l2_{sca}/sim_L2_{filter}_{obs}_{sca}.asdf",
                "FITSWCS": "wcs.txt",
                "CALDIR": {key: f"cal{{sca}}/{key}.asdf" for key in keys},
                "SKYORDER": 1,
                "FITSOUT": True,
                "NOISE": {
                    "LAYER": ["RS1", "PbS1"],
                    "TEMP": "temp",
                    "OUT": "l2_{sca}/sim_L2_{filter}_{obs}_{sca}_noise.asdf",
                },
            },
            "exposures": {"glob": "l1/sim_L1_{filter}_{obs:d}_{sca:d}.asdf"},
            "SEED": SEED,
        }
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.settings, sort_keys=False))

    def edit(self, **changes) -> None:
        """Change keys of the template; None removes one."""
        template = self.settings["template"] | changes
        self.settings["template"] = {k: v for k, v in template.items() if v is not None}
        self.write()

    def command(self, *options, name="batch"):
        return [sys.executable, "-m", "roman_dask_l2", name, str(self.file), *map(str, options)]

    def run(self, *options, name="batch", **how):
        return subprocess.run(
            self.command(*options, name=name), capture_output=True, text=True, cwd=ROOT, **how
        )

    @contextlib.contextmanager
    def started(self, *options, **how):
        """A running batch; killed if the test fails."""
        process = subprocess.Popen(
            self.command(*options), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()

    def l1(self, obs, sca) -> Path:
        return self.folder / "l1" / f"sim_L1_F158_{obs}_{sca}.asdf"

    def out(self, obs, sca, noise=False) -> Path:
        end = "_noise" if noise else ""
        return self.folder / f"l2_{sca}" / f"sim_L2_F158_{obs}_{sca}{end}.asdf"

    def parts(self, out: Path) -> list[Path]:
        """Unfinished files of an output: they are there from the first tile to the renaming."""
        return list(out.parent.glob(f".{out.stem}.*.part{out.suffix}"))

    def cubes(self) -> list[str]:
        """Chunks of noise ramps in the TEMP store."""
        return glob.glob(f"{self.folder}/temp/*/cube*/c.*")

    def lines(self) -> list[dict]:
        """The manifest's lines on attempts; every line must be whole."""
        text = self.manifest.read_text()
        assert not text or text.endswith("\n")
        found = [json.loads(line) for line in text.splitlines()]
        return [line for line in found if "planned" not in line]

    def at_work(self) -> list[dict]:
        """What is noted of attempts that have not ended."""
        from roman_dask_l2.batch import begun

        return list(begun.read(self.manifest).values())

    def statuses(self) -> dict[str, list[str]]:
        """What the manifest says of each exposure, in turn."""
        found: dict[str, list[str]] = {}
        for line in self.lines():
            found.setdefault(line["identity"], []).append(line["status"])
        return found

    def outputs(self) -> list[Path]:
        return sorted(p for sca in SCAS for p in (self.folder / f"l2_{sca}").iterdir())

    def marks(self) -> dict[str, tuple[int, int]]:
        """Finished files, to see whether they were touched."""
        return {
            p.name: (p.stat().st_ino, p.stat().st_mtime_ns)
            for p in self.outputs()
            if not p.name.startswith(".")
        }

    def pixels(self) -> dict[str, str]:
        """A hash of all arrays of all outputs."""
        return {p.name: pixels(p) for p in self.outputs()}

    def check(self, undisturbed) -> None:
        """Everything is there with the right bits, and nothing else."""
        assert self.pixels() == undisturbed
        assert list((self.folder / "temp").iterdir()) == []
        assert {states[-1] for states in self.statuses().values()} == {"done"}
        assert list(self.folder.glob(".*")) == []
        attempts = [line["attempt"] for line in self.lines()]
        assert len(set(attempts)) == len(attempts)


def pixels(path: Path) -> str:
    import asdf
    from astropy.io import fits

    digest = hashlib.blake2b()
    if path.suffix == ".fits":
        with fits.open(path) as file:
            for hdu in file:
                digest.update(np.ascontiguousarray(hdu.data).tobytes())
        return digest.hexdigest()
    with asdf.open(path) as file:
        if "noise" in file.tree:
            arrays = {"noise": file["noise"]}
        else:
            arrays = {k: v for k, v in file["roman"].items() if hasattr(v, "dtype")}
            arrays |= {"mask": file["mask"], "endslice": file["processinfo"]["endslice"]}
        for name in sorted(arrays):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def stop_when(process, condition, limit=120) -> None:
    """Freeze a process at a moment when a condition holds, and goes on holding while it is frozen.

    No hook in the program is needed: the test looks at its files from outside.
    """
    end = time.monotonic() + limit
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        if condition():
            process.send_signal(signal.SIGSTOP)
            _await_stopped(process.pid)
            if condition():
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0005)
    raise AssertionError("the moment did not come")


def _await_stopped(pid: int) -> None:
    """All threads stand still."""
    while True:
        states = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        if set(states) <= {"T", "t", "Z", "X"}:
            return
        time.sleep(0.001)


@pytest.fixture(scope="session")
def tools():
    """``tools.stop_when``, ``tools.IDENTITIES``, ``tools.pixels``."""
    return types.SimpleNamespace(stop_when=stop_when, IDENTITIES=IDENTITIES, pixels=pixels)
