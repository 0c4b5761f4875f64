"""The command line as a user meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from roman_dask_l2.cli import app
from roman_dask_l2.simulation.simulate import simulate

ROOT = Path(__file__).parents[2]

# As the documentation of romanimpreprocess gives it, but for the directory of TEMP.
SAMPLE = """---
IN: 'sim1.asdf'
OUT: 'sim2P.asdf'
FITSWCS: 'sim1_asdf_wcshead.txt'
CALDIR: {CALDIR}
SKYORDER: 2
RAMP_OPT_PARS: {{slope: 0.4, gain: 1.8, sigma_read: 7.}}
JUMP_DETECT_PARS: {{SthreshA: 5.5, SthreshB: 4.5, IthreshA: 0.6, IthreshB: 600.}}
FITSOUT: True
NOISE: {{LAYER: ['RP', 'RS2'], TEMP: scratch/MyNoise.asdf, SEED: 15000, OUT: 'sim2P_noise.asdf'}}
...
"""


@pytest.fixture
def sample(tmp_path):
    made = simulate(tmp_path, side=256, seed=4)
    made.l1.rename(tmp_path / "sim1.asdf")
    made.fitswcs.rename(tmp_path / "sim1_asdf_wcshead.txt")
    (tmp_path / "scratch").mkdir()
    files = {key: str(path) for key, path in made.caldir.items()}
    path = tmp_path / "sample.yaml"
    path.write_text(SAMPLE.format(CALDIR=yaml.safe_dump(files, default_flow_style=True).strip()))
    return path


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "roman_dask_l2", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        **options,
    )


def test_the_documented_configuration_runs_as_it_stands(sample):
    done = run(sample, "--scheduler", "local")
    assert done.returncode == 0, done.stderr
    written = {p.name for p in sample.parent.iterdir()}
    assert {"sim2P.asdf", "sim2P_asdf_to.fits", "sim2P_noise.asdf"} <= written
    assert "sim2P_noise_asdf_to.fits" in written
    assert list((sample.parent / "scratch").iterdir()) == []
    assert "\x1b" not in done.stderr  # plain lines where there is no terminal


def test_run_is_the_default_command(sample):
    assert app.main([str(sample), "--no-noise", "--quiet", "--threads", "1"]) == 0
    first = (sample.parent / "sim2P.asdf").stat().st_mtime_ns
    assert app.main(["run", str(sample), "--no-noise", "--quiet", "--tile", "96x100"]) == 0
    assert (sample.parent / "sim2P.asdf").stat().st_mtime_ns > first


def test_help_and_version_are_quick():
    """Nothing heavy is imported for them."""
    program = (
        "import sys; from roman_dask_l2.cli import app\n"
        "try: app.main(['--version'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'dask', 'asdf', 'numba', 'astropy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("roman-dask-l2 ")


def test_no_command_is_an_error():
    assert run().returncode == 2


def test_simulate_and_validate(tmp_path):
    done = run("simulate", tmp_path / "s", "--side", "256", "--conditions", "hot,dead")
    assert done.returncode == 0, done.stderr
    assert "config.yaml" in done.stdout
    done = run("validate", tmp_path / "s" / "config.yaml")
    assert done.returncode == 0, done.stderr
    assert "nothing wrong" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_in_the_noise_leaves_nothing(sample, number):
    """Many layers, so that it is in the middle of them when the signal comes."""
    settings = yaml.safe_load(sample.read_text())
    settings["NOISE"]["LAYER"] = [f"RC{i}" for i in range(60)]
    sample.write_text(yaml.safe_dump(settings))
    scratch = sample.parent / "scratch"
    with subprocess.Popen(
        [sys.executable, "-m", "roman_dask_l2", str(sample)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(scratch.glob("*/cube1-*/c.*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "interrupted" in error.splitlines()[-1]
    assert list(scratch.iterdir()) == []
    assert not (sample.parent / "sim2P_noise.asdf").exists()
    assert not list(sample.parent.glob(".*part*"))
