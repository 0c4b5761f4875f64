"""A laptop and a cluster agree to the bit: nothing depends on what the processor can do."""

import os
import subprocess
import sys

import asdf
import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow

PROCESSORS = {
    "BLAS of 2011": {"OPENBLAS_CORETYPE": "Sandybridge"},
    "BLAS with one thread": {"OPENBLAS_NUM_THREADS": "1"},
    "no vector extensions in the C library": {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA"},
    "memory full of rubbish": {"MALLOC_PERTURB_": "85"},
}


def _arrays(tree, path=""):
    if isinstance(tree, dict) or hasattr(tree, "items"):
        for key, value in tree.items():
            yield from _arrays(value, f"{path}/{key}")
    elif type(tree).__name__ == "NDArrayType":
        yield path, np.array(tree)


def _calibrated(folder, **environment):
    command = [sys.executable, "-m", "roman_dask_l2", str(folder / "run.yaml"), "--quiet"]
    subprocess.run(command, check=True, env=os.environ | environment)
    found = {}
    for name in ("out.asdf", "noise.asdf"):
        with asdf.open(folder / name, memmap=False) as file:
            found |= {
                f"{name}{path}": value
                for key in ("roman", "processinfo", "mask", "noise")
                if key in file
                for path, value in _arrays({key: file[key]})
            }
    return found


def _vector_extensions():
    """NumPy's name for what it found on this processor beyond its baseline."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return " ".join(simd.get("found", []))


@pytest.fixture(scope="module")
def here(simulated, tmp_path_factory):
    """Folder with a configuration, and its result on this processor."""
    folder = tmp_path_factory.mktemp("bits")
    original = simulated().config
    config = yaml.safe_load(original.read_text())
    for key in ("IN", "FITSWCS"):
        config[key] = str(original.parent / config[key])
    config["CALDIR"] = {k: str(original.parent / v) for k, v in config["CALDIR"].items()}
    layers = ["Rz4S2C1", "O", "Prb2"]
    config |= {
        "OUT": "out.asdf",
        "NOISE": {"LAYER": layers, "TEMP": str(folder), "SEED": 5, "OUT": "noise.asdf"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder, _calibrated(folder)


@pytest.mark.parametrize("environment", [*PROCESSORS.values(), {}], ids=[*PROCESSORS, "NumPy"])
def test_same_bits_on_other_processors(here, environment):
    folder, reference = here
    other = _calibrated(
        folder, **(environment or {"NPY_DISABLE_CPU_FEATURES": _vector_extensions()})
    )
    assert other.keys() == reference.keys()
    assert len(reference) > 20
    for name, value in reference.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
