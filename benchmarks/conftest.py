"""The table that the kernel micro-suite prints at its end."""

import importlib.util
from pathlib import Path

import pytest


def shared(name):
    """A fixture of tests/conftest.py, which pytest does not look at from here."""
    path = Path(__file__).resolve().parents[1] / "tests" / "conftest.py"
    spec = importlib.util.spec_from_file_location("conftest_of_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


simulated, pipeline = shared("simulated"), shared("pipeline")
TIMES = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[TIMES] = []


@pytest.fixture
def per_pixel(benchmark, request):
    """``per_pixel(pixels, function, **arguments)``: time calls, and report them by pixel."""

    def timed(pixels, function, *args, **kwargs):
        result = benchmark(function, *args, **kwargs)
        if benchmark.enabled:
            nanoseconds = [1e9 * t / pixels for t in (benchmark.stats["min"],
                                                     benchmark.stats["median"])]  # fmt: skip
            benchmark.extra_info["ns_per_pixel"] = nanoseconds[1]
            name = request.node.callspec.id if hasattr(request.node, "callspec") else ""
            name = f"{request.node.originalname.removeprefix('test_')} {name}".strip()
            request.config.stash[TIMES].append((name, *nanoseconds))
        return result

    return timed


def pytest_ignore_collect(collection_path, config):
    """The suite is not even looked at unless it is asked for: it needs pytest-benchmark."""
    if collection_path.name == "test_kernels.py" and "not kernels" in config.option.markexpr:
        return True
    return None


def pytest_terminal_summary(terminalreporter, config):
    times = config.stash[TIMES]
    if not times:
        return
    terminalreporter.section("kernels, all 8 resultants, one thread")
    head = ("", "ns/pixel, least", "median", "s per 4096 x 4096")
    terminalreporter.write_line("{:34}{:>17}{:>9}{:>19}".format(*head))
    for name, least, median in times:
        frame = median * 1e-9 * 4096**2
        terminalreporter.write_line(f"{name:34}{least:17.2f}{median:9.2f}{frame:19.3f}")
