"""Settings and fixtures that all tests share."""

import contextlib
import io
import logging
import os
import signal

import numpy as np
import pytest
from hypothesis import settings

# No deadline: the first call of a numba kernel compiles it. On CI the examples are always the same,
# so that a change is not blamed for what another run found.
settings.register_profile("local", deadline=None, max_examples=50)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# What a script starts in the background ignores Ctrl-C, and so would all programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def program_log():
    """Undo what an earlier command, run in this process, did to the program's log: pytest before
    9.2 sees no messages of a logger that keeps them to itself."""
    log = logging.getLogger("roman_dask_l2")
    log.propagate = True
    log.setLevel(logging.NOTSET)
    log.handlers[:] = []


SIDE = 256
WINDOWS = {
    "whole frame": (0, 256, 0, 256),
    "corner": (0, 37, 0, 61),
    "across the right border": (100, 177, 192, 256),
    "across the top border": (219, 256, 77, 200),
    "mostly border": (2, 6, 3, 130),
    "only border": (0, 4, 0, 256),
    "one pixel": (60, 61, 50, 51),
}


@pytest.fixture(params=WINDOWS.values(), ids=WINDOWS)
def window(request):
    """Windows of a 256 x 256 detector as uneven tiles have them."""
    from roman_dask_l2.core.detector import Window

    return Window(*request.param)


@pytest.fixture(scope="session")
def exposure():
    """Six resultants of one to six reads; the first is left out of the fit."""
    from roman_dask_l2.core.exposure import Exposure

    pattern = ((0,), (1,), (2, 3), (4, 5, 6, 7, 8), (9, 10, 11, 12, 13, 14), (15, 16))
    return Exposure(side=SIDE, read_pattern=pattern, frame_time=3.0)


def _run_step(step, exposure, window, arrays, params=None, measured=None):
    from roman_dask_l2.core.step import Tile

    params = params or step.params()
    halo = max(step.halo(params), step.reference_halo(params))
    outer = window.grown(halo, exposure.side)

    def cut(value):
        whole = isinstance(value, np.ndarray) and value.shape[-2:] == (exposure.side,) * 2
        return np.array(value[(..., *outer.slices)]) if whole else value

    inputs = {name: cut(value) for name, value in arrays.items()}
    before = {k: v.copy() for k, v in inputs.items() if isinstance(v, np.ndarray)}
    context = {
        "tile": Tile(outer, exposure.side),
        "exposure": exposure,
        "params": params,
        "measured": measured or {},
    }
    result = step.run(inputs, context)
    for name, value in before.items():
        np.testing.assert_array_equal(inputs[name], value, f"{step.name} changed its {name}")
    results = result if isinstance(result, tuple) else (result,)
    core = window.within(outer)
    return {n: v[(..., *core)] for n, v in zip(step.writes, results, strict=True)}


@pytest.fixture(scope="session")
def run_step():
    """``run_step(step, exposure, window, arrays, params, measured)``: what a step makes on a
    window, from arrays on the whole frame cut as for a tile with the halo that the step declares.
    """
    return _run_step


def _deconvolved(signal, gain, kernel, order=2):
    """IPC inversion as algorithms.md has it, float64, on the whole active array."""
    act = (slice(4, -4), slice(4, -4))
    g = gain[act].astype(float)
    k = kernel[(..., *act)].astype(float)
    ny, nx = g.shape

    def spread(charge):
        padded = np.zeros((ny + 2, nx + 2))  # what leaves the active array is lost
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                padded[1 + dy : 1 + dy + ny, 1 + dx : 1 + dx + nx] += k[1 + dy, 1 + dx] * charge
        return padded[1:-1, 1:-1]

    out = signal.astype(float)
    for plane in out.reshape(-1, *out.shape[-2:]):
        e = g * plane[act]
        # e + (1 - K) e + (1 - K)^2 e + ..: the same series, not the same recursion
        term = total = e
        for _ in range(order):
            term = term - spread(term)
            total = total + term
        plane[act] = total / g
    return out


@pytest.fixture(scope="session")
def deconvolved():
    """``deconvolved(signal, gain, kernel, order)``: IPC inversion in plain float64 NumPy."""
    return _deconvolved


def _ipc_kernel(rng, side=SIDE):
    """(3, 3, N, N) float32, zero on the border as the pipeline hands it over; shares differ in
    all directions."""
    kernel = np.zeros((3, 3, side, side))
    shape = (side - 8, side - 8)
    for i, share in enumerate((0.002, 0.014, 0.003, 0.018, 0, 0.016, 0.0015, 0.012, 0.0025)):
        kernel[i // 3, i % 3, 4:-4, 4:-4] = share * rng.uniform(0.8, 1.2, shape)
    kernel[1, 1] = np.where(kernel.any((0, 1)), 1 - kernel.sum((0, 1)), 0)
    return kernel.astype(np.float32)


@pytest.fixture(scope="session")
def ipc_kernel():
    """``ipc_kernel(rng)``: IPC kernels of all pixels, on the full frame."""
    return _ipc_kernel


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """``simulated(**options)``: a small simulated exposure, made once for each set of options."""
    from roman_dask_l2.simulation.simulate import simulate

    done = {}

    def make(**options):
        key = repr(sorted(options.items()))
        if key not in done:
            options = {"side": SIDE, **options}
            done[key] = simulate(tmp_path_factory.mktemp("simulated"), **options)
        return done[key]

    return make


def _pipeline(simulation, recipe="l1_to_l2", **changes):
    from roman_dask_l2.config.model import load_config
    from roman_dask_l2.config.recipe import load_recipe
    from roman_dask_l2.engine import plan
    from roman_dask_l2.io.l1 import open_l1
    from roman_dask_l2.io.references import add_wcs, open_inputs
    from roman_dask_l2.products.job import _open_wcs

    config = load_config(simulation.config).replace(**changes)
    loaded = load_recipe(recipe, config)
    steps = loaded.steps
    l1, exposure = open_l1(config.IN, exclude_first=loaded.exclude_first)
    inputs, problems = open_inputs(l1, exposure, config.references())
    assert problems == []
    inputs = add_wcs(
        inputs, _open_wcs(config, loaded, l1, config.references(), inputs.layouts), {0, 4}
    )
    return plan.applicable(steps, inputs), inputs


@pytest.fixture(scope="session")
def pipeline():
    """``pipeline(simulation, recipe, **changes to the configuration)`` -> (steps, inputs)."""
    return _pipeline


def _blank(figure):
    """A picture as large as the page's, with nothing on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    from roman_dask_l2.report import page

    figure.set_dpi(page.DPI)
    buffer = io.BytesIO()
    Image.new("P", FigureCanvasAgg(figure).get_width_height()).save(buffer, format="png")
    return buffer.getvalue()


_drawing: list[bool] = []


@pytest.fixture(scope="module")
def blank_pictures():
    """Reports of this file have blank pictures: a test that reads the words of a page need not
    wait for its pictures, which take five sixths of the time. All figures are made nevertheless."""
    from roman_dask_l2.report import page

    png = page._png
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_png", lambda figure: (png if _drawing else _blank)(figure))
        yield


@pytest.fixture(scope="session")
def drawn():
    """``with drawn():`` pictures are drawn in spite of `blank_pictures`."""

    @contextlib.contextmanager
    def draw():
        _drawing.append(True)
        try:
            yield
        finally:
            _drawing.pop()

    return draw
