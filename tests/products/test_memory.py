"""Projected memory: close to what is measured, and obeyed."""

import subprocess
import sys

import pytest
import yaml

from roman_dask_l2.cli.app import main
from roman_dask_l2.config.noise_labels import parse_all
from roman_dask_l2.engine.amounts import parse_memory
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.memory import BASE, choose, pixel_bytes, project
from roman_dask_l2.simulation.simulate import simulate

SIDE = 1024
LABELS = ["Rz4S2C1", "O"]


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    noise = {"LAYER": LABELS, "TEMP": str(folder), "SEED": 1, "OUT": "noise.asdf"}
    made = simulate(folder, side=SIDE, seed=2, config={"NOISE": noise})
    assert main([str(made.config), "--quiet"]) == 0  # compiles
    return made


def _resident(*arguments):
    """Peak resident memory of a run, bytes; not getrusage's, which begins with the parent's."""
    program = (
        "import sys\n"
        "from roman_dask_l2.cli.app import main\n"
        "status = main(sys.argv[1:])\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-c", program, *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout)


@pytest.mark.parametrize(
    ("tile", "threads"),
    [
        ((32, 1024), 1),
        pytest.param((256, 1024), 2, marks=pytest.mark.slow),
        pytest.param((1024, 1024), 2, marks=pytest.mark.slow),
        ((300, 300), 3),
    ],
)
def test_projected_is_within_30_per_cent_of_measured(exposure, tile, threads):
    size = f"{tile[0]}x{tile[1]}"
    found = _resident(exposure.config, "--no-noise", "--tile", size, "--threads", threads)
    projected = project(prepare(exposure.config), tile, threads)
    assert 0.7 < found / projected < 1.3, (found / 1e6, projected / 1e6)


def test_projected_for_noise_layers(exposure):
    found = _resident(exposure.config, "--noise-only", "--threads", 2)
    layers = [layer for layer, _ in parse_all(LABELS)]
    projected = project(prepare(exposure.config), (64, 1024), 2, layers)
    assert 0.7 < found / projected < 1.3, (found / 1e6, projected / 1e6)


def test_projected_for_layers_without_a_ramp(exposure):
    """Their tiles are images: no ramp runs through the recipe."""
    config = yaml.safe_load(exposure.config.read_text())
    config["NOISE"] |= {"LAYER": ["O", "Prb2"], "OUT": "drawn.asdf"}
    drawn = exposure.config.with_name("drawn.yaml")
    drawn.write_text(yaml.safe_dump(config))
    found = _resident(drawn, "--noise-only", "--tile", "512x1024", "--threads", 2)
    layers = [layer for layer, _ in parse_all(["O", "Prb2"])]
    projected = project(prepare(drawn), (512, 1024), 2, layers)
    assert 0.7 < found / projected < 1.3, (found / 1e6, projected / 1e6)


def test_a_run_stays_under_its_limit(exposure):
    limit = 400e6
    assert _resident(exposure.config, "--no-noise", "--memory", "400MB") < limit
    tile, threads = choose(prepare(exposure.config), limit, 2)
    assert project(prepare(exposure.config), tile, threads) <= limit


def test_more_memory_never_gives_less(exposure):
    job = prepare(exposure.config)
    before = (0, 0)
    for limit in range(300, 1000, 20):
        try:
            tile, threads = choose(job, 1e6 * limit, 4)
        except InputError:
            assert before == (0, 0)
            continue
        assert (threads, tile[0]) >= before
        before = threads, tile[0]
    assert before == (4, 256)


def test_more_resultants_take_more(tmp_path, exposure):
    pattern = [[n] for n in range(20)]
    long = simulate(tmp_path, side=256, read_pattern=pattern)
    short = simulate(tmp_path / "short", side=256)
    jobs = [prepare(s.config) for s in (short, long)]
    each = [pixel_bytes(job.steps, job.inputs) for job in jobs]
    assert each[1] > 1.6 * each[0]
    # ramp before and after a step, flags of the resultants: what it cannot do without
    assert each[0] > 8 * (4 + 4 + 1)


def test_what_cannot_fit_is_refused_with_numbers(exposure, capsys):
    out = exposure.config.parent / "refused.asdf"
    assert main([str(exposure.config), "--memory", "200MB", "--no-noise"]) == 2
    said = capsys.readouterr().err
    assert f"{BASE / 1e6:.0f} MB of it before the first pixel" in said
    assert "200 MB is too little" in said
    assert not out.exists()


@pytest.mark.parametrize("text", ["much", "", "-"])
def test_an_amount_that_is_none(text):
    with pytest.raises(InputError, match="expected an amount such as 1GB"):
        parse_memory(text)


def test_amounts():
    assert parse_memory("1GB") == 1e9
    assert parse_memory("1GiB") == 2**30
    assert parse_memory(5e8) == 5e8
