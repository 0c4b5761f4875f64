"""Noise layers of exposures that the observatory's steps calibrate, with its reference files.

Statistical tests allow 5 standard deviations, a false alarm in two million; seeds are fixed.
"""

from __future__ import annotations

from pathlib import Path

import asdf
import numpy as np
import pytest
import yaml
from configuring import elsewhere
from plain_observatory import correct_reference_pixels

from roman_dask_l2.cli.app import main
from roman_dask_l2.config.model import load_config
from roman_dask_l2.config.recipe import shipped
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.noise.difference_weights import difference_coefficients
from roman_dask_l2.noise.streams import Streams
from roman_dask_l2.products.base_ramp import dark_border
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.simulation.simulate import simulate
from roman_dask_l2.simulation.wcs import relative_area

pytestmark = pytest.mark.slow

SIDE = 256
ACTIVE = np.s_[..., 4:-4, 4:-4]
RECIPES = ["observatory", "romancal_1.1", "mixed"]
LABELS = ["RaC1", "Raz2C1", "P", "Prb2", "O", "RaPS2"]
NO_PINK = {"U_PINK": 0.0, "C_PINK": 0.0, "RU_PINK": 0.0}
NO_JUMPS = {"rejection_threshold": 1000.0, "fixed_threshold": False}
PINK = {"C_PINK": 8.0, "U_PINK": 0.0, "RU_PINK": 0.1, "amp33": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(**options)``: a simulated exposure of the observatory's."""
    done = {}

    def make(**options):
        key = repr(sorted(options.items()))
        if key not in done:
            folder = tmp_path_factory.mktemp("simulated")
            done[key] = simulate(folder, side=SIDE, references="observatory", **options)
        return done[key]

    return make


@pytest.fixture(scope="module")
def plain(made):
    """A faint sky and nothing else; its 1/f noise is not in the reference files."""
    return made(seed=4, conditions="plain", stars=0, cosmic_rays=0, noise=NO_PINK)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """``survey(**noise)``: CALDIR of a dark with a cube and a read-noise file with amplitudes."""
    done = {}

    def make(**noise):
        key = repr(sorted(noise.items()))
        if key not in done:
            folder = tmp_path_factory.mktemp("survey")
            made = simulate(
                folder, side=SIDE, seed=4, conditions="plain", noise=noise, dark_decay=True,
                biascorr=False,
            )  # fmt: skip
            done[key] = {kind: str(made.caldir[kind]) for kind in ("dark", "read")}
        return done[key]

    return make


def configured(simulation, folder, layers, recipe="observatory", caldir=None, **changes):
    """A configuration; `caldir` replaces files."""
    path = elsewhere(simulation, folder, layers, GRAPH=recipe, **changes)
    raw = yaml.safe_load(path.read_text())
    if caldir:
        raw["CALDIR"].pop("readnoise", None)
        raw["CALDIR"] |= caldir
    path.write_text(yaml.safe_dump(raw | {"SLICEOUT": True}))
    return path


def run(path, **how):
    """Calibrate and make the layers: (L, n, n), the image's tree, statistics."""
    out = calibrate(path, **how).out
    result = generate_noise(path, **how)
    with (
        asdf.open(result.out, memmap=False, lazy_load=False) as noise,
        asdf.open(out, memmap=False, lazy_load=False) as file,
    ):
        return np.array(noise["noise"]), file.tree, result.layers


@pytest.fixture(scope="module", params=RECIPES)
def layers(request, plain, tmp_path_factory):
    """Recipe, folder, layers, image and statistics of the plain exposure."""
    folder = tmp_path_factory.mktemp("layers")
    return request.param, folder, *run(configured(plain, folder, LABELS, request.param))


def coefficients(tree):
    """(R - 1, n, n): weights of the differences of resultants in each pixel's rate, 1/s."""
    info = tree["processinfo"]
    pattern = tuple(tuple(reads) for reads in info["meta"]["read_pattern"])
    exposure = Exposure(
        side=SIDE, read_pattern=pattern, frame_time=info["meta"]["frame_time"],
        exclude_first=info["exclude_first"],
    )  # fmt: skip
    unused = info.get("unused_differences")
    unused = None if unused is None else np.array(unused)
    return difference_coefficients(unused, np.array(info["noise_ratio"]), exposure), exposure


def good(tree):
    """Pixels without a flag whose whole ramp was used."""
    info, roman = tree["processinfo"], tree["roman"]
    use = (np.asarray(roman["dq"]) == 0) & np.isfinite(np.asarray(roman["data"]))
    if "unused_differences" in info:
        use &= np.asarray(info["unused_differences"])[0] == 0
    return use


def without_jumps(recipe, folder):
    """A recipe like a shipped one that takes nothing for a jump."""
    raw = yaml.safe_load(shipped()[recipe].read_text())
    fit = "ramp_fit_likelihood"
    for i, step in enumerate(raw["steps"]):
        if fit in (step, *(step if isinstance(step, dict) else ())):
            options = step[fit] if isinstance(step, dict) else {}
            raw["steps"][i] = {fit: options | NO_JUMPS}
    path = folder / "without_jumps.yaml"
    path.write_text(yaml.safe_dump(raw | {"name": "without_jumps"}))
    return str(path)


def of_read_noise(tree, simulation, recipe):
    """Variance of a layer of white noise: of the resultants and of rounding them, made linear, over
    the flat; and the same as if each resultant were one read."""
    c, exposure = coefficients(tree)
    read = array_of(simulation.caldir["readnoise"], "data")[ACTIVE]
    raw = array_of(simulation.l1, "data").mean(axis=0)[ACTIVE]
    return of_white_noise(c, exposure, read**2, raw, simulation, recipe)


def array_of(path, name):
    with asdf.open(path) as file:
        return np.array(file["roman"][name], float)


def of_white_noise(c, exposure, read_variance, raw, simulation, recipe):
    """Variance of the image by the weights `c` of a pixel with white noise about the signal `raw`;
    and the same as if each resultant were one read."""
    k = np.concatenate([-c[:1], c[:-1] - c[1:], c[-1:]])
    of_resultant = read_variance / exposure.n_reads[:, None, None] + 1 / 12
    to_image = slope_at(raw, simulation) * to_surface(simulation, recipe)
    one_read = (k**2 * read_variance).sum(axis=0) * to_image**2
    return (k**2 * of_resultant).sum(axis=0) * to_image**2, one_read


def to_surface(simulation, recipe):
    """What the flat field makes of 1 DN/s."""
    return (relative_area(SIDE) if recipe == "mixed" else 1) / array_of(
        simulation.caldir["flat"], "data"
    )


def slope_at(raw, simulation):
    """Linear signal by raw signal, of converter and polynomial."""
    p = array_of(simulation.caldir["linearity"], "coeffs")[ACTIVE]
    with asdf.open(simulation.caldir["integralnonlinearity"]) as file:
        tables = [np.array(t["correction"]) for t in file["roman"]["inl_table"].values()]
    channel = np.arange(4, SIDE - 4) // 128
    at = np.rint(raw).astype(int)
    more, steeper = (
        np.array(values)[channel, at] for values in (tables, [np.gradient(t) for t in tables])
    )
    return sum(i * p[i] * (raw + more) ** (i - 1) for i in range(1, len(p))) * (1 + steeper)


@pytest.mark.parametrize("recipe", RECIPES)
def test_read_noise_has_the_variance_of_the_weights(plain, tmp_path, recipe):
    """Where nothing is dropped as a jump."""
    path = configured(plain, tmp_path, ["RaC1"], without_jumps(recipe, tmp_path))
    (layer,), tree, _ = run(path)
    expected, wrong = of_read_noise(tree, plain, recipe)
    use = good(tree)
    square = layer[use].astype(float) ** 2
    pull = square / expected[use]
    assert pull.size > 60_000
    # 1 %: noise that moves the weights, and the non-linearity of the converter.
    assert abs(pull.mean() - 1) < 5 * pull.std() / pull.size**0.5 + 0.01
    assert abs((square / wrong[use]).mean() - 1) > 0.1


def test_core_of_read_noise(layers, plain):
    """With the search for jumps, which the noise of a layer makes drop a few differences more."""
    recipe, _, noise, tree, _ = layers
    expected, _ = of_read_noise(tree, plain, recipe)
    use = good(tree)
    pull = noise[LABELS.index("RaC1")][use].astype(float) / np.sqrt(expected[use])
    sigma = np.subtract(*np.percentile(pull, [75, 25])) / 1.34896
    beyond = np.mean(np.abs(pull) > 5)
    # The error of sigma is 1.166 / sqrt(n); pixels beyond widen the core by less than their share.
    assert abs(sigma - 1) < 5 * 1.166 / pull.size**0.5 + 0.02
    assert beyond < 0.01


@pytest.fixture(scope="module", params=RECIPES)
def bright(request, made, tmp_path_factory):
    """Layers of an exposure that light dominates."""
    simulation = made(seed=6, conditions="plain", stars=0, cosmic_rays=0, sky=50.0, noise=NO_PINK)
    folder = tmp_path_factory.mktemp("bright")
    path = configured(simulation, folder, ["P", "O", "Prb2"], request.param)
    return simulation, *run(path)


def test_light_has_the_variance_that_the_fit_states(bright):
    """Over the flat once: the charge of a pixel is that of its rate in the image."""
    simulation, noise, tree, _ = bright
    with asdf.open(simulation.caldir["flat"]) as file:
        flat = np.array(file["roman"]["data"], float)
    if tree["processinfo"]["uniform_light"] == "solid angle":
        flat = flat / relative_area(SIDE)
    use = good(tree)
    stated = np.asarray(tree["roman"]["var_poisson"]).astype(float) * flat
    for layer in noise:
        pull = layer[use].astype(float) ** 2 / stated[use]
        assert pull.size > 50_000
        # 1 %: dark current, curvature of the linearity, and steps of float16 in the variance
        assert abs(pull.mean() - 1) < 5 * pull.std() / pull.size**0.5 + 0.02


def test_sums_and_clipping(layers):
    _, _, noise, tree, statistics = layers
    of = dict(zip(LABELS, noise, strict=True))
    use = good(tree)
    clipped = of["Raz2C1"][use]
    q25, middle, q75 = np.percentile(of["Raz2C1"][use], [25, 50, 75])
    assert 0.02 < np.mean(clipped == clipped.max()) < 0.03  # 2.3 % lie beyond 2 sigma
    assert clipped.max() == pytest.approx(middle + 2 * (q75 - q25) / 1.34896, rel=0.05)
    quarters = {label: np.percentile(layer[use], [25, 75]) for label, layer in of.items()}
    variance = {label: (np.ptp(both) / 1.34896) ** 2 for label, both in quarters.items()}
    total = variance["RaC1"] + variance["P"]
    n = use.sum()
    assert variance["RaPS2"] == pytest.approx(total, rel=5 * 2**0.5 * 2 * 1.166 / n**0.5 + 0.01)
    for name in ("P", "Prb2", "O"):
        assert 0.5 < variance[name] / variance["RaC1"] < 3
    # Draws are independent: those that differ in a comment, and those of other letters.
    for one, other in (("RaC1", "Raz2C1"), ("P", "O"), ("P", "Prb2"), ("RaC1", "P")):
        low, high = np.transpose([np.percentile(of[name][use], [1, 99]) for name in (one, other)])
        a, b = (of[name][use].clip(low[i], high[i]) for i, name in enumerate((one, other)))
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / n**0.5
    assert [line["label"] for line in statistics] == LABELS
    assert all(line["not_finite"] == 0 for line in statistics)


def test_nothing_is_left_in_temp(layers):
    folder = layers[1]
    assert list((folder / "temp").iterdir()) == []
    assert {p.name for p in folder.iterdir()} >= {"l2.asdf", "noise.asdf", "temp"}
    assert not [p for p in folder.rglob("*") if "spill" in p.name or p.suffix == ".zarr"]


# --- the same bits ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(made):
    """All conditions, with a reference read taken out on board."""
    return made(seed=9, reference_read=5000)


@pytest.fixture(scope="module")
def usual(everything, tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    return run(configured(everything, folder, ["RaC1", "P"]))


@pytest.mark.parametrize(
    "how",
    [
        {"tile": (100, 77), "threads": 2},
        {"tile": 192, "per_step": True},
        {"scheduler": "synchronous"},
        {"scheduler": "local-cluster", "threads": 1, "tile": (128, 256)},
    ],
    ids=str,
)
def test_same_bits_however_they_are_made(everything, usual, tmp_path, how):
    noise, tree, statistics = run(configured(everything, tmp_path, ["RaC1", "P"]), **how)
    np.testing.assert_array_equal(noise.view("u4"), usual[0].view("u4"))
    for name in ("data", "err", "dq"):
        np.testing.assert_array_equal(tree["roman"][name], usual[1]["roman"][name])
    assert statistics == usual[2]
    assert list((tmp_path / "temp").iterdir()) == []


# --- whose reference pixels ---------------------------------------------------------------------


@pytest.mark.parametrize("files", ["observatory", "survey"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_without_noise_there_is_no_layer(everything, survey, tmp_path, monkeypatch, recipe, files):
    """Bit for bit: the reference pixels and the reference output of the noisy ramp are the
    exposure's own, so that their correction takes out what it takes out of the image."""
    monkeypatch.setattr(Streams, "fill", lambda self, kind, j, block, out, sigma=None: out.fill(0))
    monkeypatch.setattr(
        Streams, "normals", lambda self, kind, j, block, shape: np.zeros(shape, np.float32)
    )
    caldir = survey() if files == "survey" else None
    path = configured(everything, tmp_path, ["Ra"], recipe, caldir)
    (layer,), tree, _ = run(path, scheduler="synchronous")
    assert np.isfinite(np.asarray(tree["roman"]["data"])).mean() > 0.9
    assert not layer.any()


def test_reference_pixels_correct_the_noise_of_a_layer(made, survey, tmp_path):
    """1/f noise of a layer is common to channels, borders and reference output: the correction,
    whose weights are for such noise, takes most of it out."""
    simulation = made(seed=4, conditions="plain", stars=0, cosmic_rays=0, noise=PINK)
    # 1/f noise that the fit does not know would pass for jumps.
    usual = without_jumps("observatory", tmp_path)
    recipe = yaml.safe_load(Path(usual).read_text())
    steps = [step for step in recipe["steps"] if step != "refpix_irrc"]
    assert len(steps) == len(recipe["steps"]) - 1
    without = tmp_path / "without.yaml"
    without.write_text(yaml.safe_dump(recipe | {"name": "without", "steps": steps}))
    spread = {}
    for name, graph, files in (
        ("corrected", usual, survey(**PINK)),
        ("as it is", str(without), survey(**PINK)),
        ("white", usual, survey(**(PINK | {"C_PINK": 0.0}))),
    ):
        path = configured(simulation, tmp_path / name.replace(" ", "_"), ["Ra"], graph, files)
        (layer,), _, _ = run(path)
        spread[name] = float(np.var(layer.reshape(SIDE - 8, -1, 62).mean(axis=-1), dtype=float))
    more = {name: value - spread["white"] for name, value in spread.items()}
    assert more["as it is"] > 3 * spread["white"]
    assert more["corrected"] < 0.3 * more["as it is"]


# --- what the reference files give --------------------------------------------------------------


def test_a_layer_says_what_it_lacks(plain, tmp_path, caplog):
    run(configured(plain, tmp_path, ["RaC1", "P"]))
    (said,) = [r.getMessage() for r in caplog.records if "which no reference file" in r.message]
    assert said.startswith("layer RaC1: without")
    for lack in ("read.resetnoise", "read.anc.U_PINK", "read.anc.C_PINK", "read.amp33.std"):
        assert lack in said


def test_dark_ramp_needs_what_the_survey_has(plain, tmp_path, capsys):
    """One line that names all that is missing and where it may come from; nothing is written."""
    path = configured(plain, tmp_path, ["RaC1", "RS2"])
    before = sorted(tmp_path.rglob("*"))
    assert main([str(path), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "NOISE.LAYER 'RS2'" in line
    for lack in ("dark.data", "read.resetnoise", "read.anc.U_PINK", "read.anc.C_PINK"):
        assert lack in line
    assert "expected the survey's files of that name, or a layer with Ra" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("recipe", RECIPES)
def test_dark_ramp_with_the_files_of_the_survey(plain, survey, tmp_path, caplog, recipe):
    """The same recipe, with a dark cube and the amplitudes: white, reset and 1/f noise."""
    labels = ["R", "Ra", "RS2"]
    path = configured(plain, tmp_path, labels, recipe, survey(amp33=2.0))
    noise, tree, statistics = run(path)
    assert "which no reference file gives" not in caplog.text
    use = good(tree)
    stated = np.asarray(tree["roman"]["err"]).astype(float) ** 2
    stated -= np.asarray(tree["roman"]["var_poisson"]).astype(float)
    for layer, line in zip(noise, statistics, strict=True):
        assert np.isfinite(layer).all()
        q25, q75 = np.percentile(layer[use] / np.sqrt(stated[use]), [25, 75])
        assert 1 < (q75 - q25) / 1.34896 < 1.25  # 1/f noise is on top of what the fit knows
        assert line["sigma"] > 0
    assert abs(np.corrcoef(noise[0][use], noise[1][use])[0, 1]) < 0.05


@pytest.mark.parametrize("recipe", RECIPES)
def test_moments_of_noise_in_a_dark_ramp(plain, survey, tmp_path, recipe):
    """Mean and scatter of R without 1/f noise, by read noise, linearity and weights of the fit.

    The dark has no shot noise in it: its cube is a mean. A pixel's weights follow from its rate, so
    from the noise itself; a rate by the best weights tells nothing about how much worse others are,
    so the variance is the mean of that by the weights that each pixel got. The straight line
    through the 1024 border pixels of a channel adds a little, in the mean above all. Of a variance
    the test sees 1.7 %.
    """
    labels = ["RC1", "RC2", "RC3", "RC4"]
    files = survey(**NO_PINK)
    usual = without_jumps(recipe, tmp_path)
    noise, tree, _ = run(configured(plain, tmp_path, labels, usual, files))
    use, (_, exposure) = good(tree), coefficients(tree)
    read = array_of(files["read"], "data")[ACTIVE]
    gain = array_of(plain.caldir["gain"], "data")[ACTIVE]
    dark = array_of(files["dark"], "dark_slope")[ACTIVE]
    raw = array_of(files["dark"], "data")[-exposure.n_resultants :].mean(axis=0)[ACTIVE]
    border = 2 * 4 * 128
    mean, excess, wrong, n = [], [], [], use.sum()
    for layer in noise:
        rate = layer / to_surface(plain, recipe) + dark
        ratio = np.maximum(rate, 0) / gain / read**2
        c = difference_coefficients(None, ratio.astype(np.float32), exposure)
        with_line = read**2 * (1 + 4 / 3 / border)
        expected, one_read = of_white_noise(c, exposure, with_line, raw, plain, recipe)
        x, scale = layer[use].astype(float), expected[use].mean()
        mean.append(x.mean() / scale**0.5)
        excess.append((x**2 - expected[use]) / scale)
        wrong.append(one_read[use].mean() / scale)
    excess = np.concatenate(excess)
    # 0.3 %: curvature of the linearity, weights that a difference or two decided
    assert abs(excess.mean()) < 5 * excess.std() / excess.size**0.5 + 0.003
    assert abs(np.mean(mean)) < 5 * ((1 / n + 1 / (2 * border)) / len(mean)) ** 0.5
    assert min(wrong) > 1.1
    assert 5 * excess.std() / excess.size**0.5 < 0.02


def plain_pink(rng):
    """1/f noise of a channel in the order of reading, (N, 128): variance 1/k of mode k."""
    length = 256 * SIDE
    k = np.arange(1, length // 2 + 1)
    modes = (rng.normal(size=k.size) - 1j * rng.normal(size=k.size)) * k**-0.5
    series = np.fft.irfft(np.r_[0, modes], length) * length / 2
    half = series[: length // 2]
    return (half - half.mean()).reshape(SIDE, 128)


def plain_noise(rng, read, amp33, common, own, n_reads):
    """Noise of a ramp without any of this program's code: its planes and its reference output."""
    planes, output = [], []
    for n in n_reads:
        shared, channels = plain_pink(rng), []
        for c in range(SIDE // 128):
            noise = common * shared + own * plain_pink(rng)
            channels.append(noise[:, ::-1] if c % 2 else noise)
        white = read * rng.normal(size=read.shape)
        planes.append((np.hstack(channels) + white) / n**0.5)
        alone = amp33["RU_PINK"] * plain_pink(rng) + amp33["std"] * rng.normal(size=(SIDE, 128))
        output.append((amp33["M_PINK"] * common * shared + alone) / n**0.5)
    return np.array(planes), np.array(output)


def test_moments_of_1_f_noise_in_a_dark_ramp(made, survey, tmp_path):
    """The scatter of R is that of such noise after the correction in plain NumPy. Both are measured
    several times; 5 standard deviations with 18 degrees of freedom are a false alarm in 11,000."""
    pink = PINK | {"C_PINK": 5.0, "U_PINK": 2.0}
    simulation = made(seed=4, conditions="plain", stars=0, cosmic_rays=0, noise=pink)
    files, labels = survey(**pink), [f"RC{i}" for i in range(8)]
    usual = without_jumps("observatory", tmp_path)
    noise, tree, _ = run(configured(simulation, tmp_path, labels, usual, files))
    _, exposure = coefficients(tree)
    with asdf.open(files["read"]) as file:
        read, anc = np.array(file["roman"]["data"], float), dict(file["roman"]["anc"])
        amp33 = {k: np.array(v, float) for k, v in file["roman"]["amp33"].items()}
    with asdf.open(simulation.caldir["refpix"]) as file:
        weights = {k: np.array(file["roman"][k]) for k in ("gamma", "zeta", "alpha")}
    raw = array_of(files["dark"], "data")[-exposure.n_resultants :].mean(axis=0)[ACTIVE]
    c = difference_coefficients(None, np.zeros((1, 1), np.float32), exposure)[:, 0, 0]
    k = np.concatenate([-c[:1], c[:-1] - c[1:], c[-1:]])
    to_image = slope_at(raw, simulation) * to_surface(simulation, "observatory")
    rng, expected = np.random.default_rng(8), []
    for _ in range(12):
        common, own = float(anc["C_PINK"]), float(anc["U_PINK"])
        planes = plain_noise(rng, read, amp33, common, own, exposure.n_reads)
        corrected = correct_reference_pixels(np.rint(planes[0]), np.rint(planes[1]), weights)
        image = np.tensordot(k, corrected, 1)[ACTIVE] * to_image
        expected.append(np.var(image[good(tree)]))
    found = [np.var(layer[good(tree)], dtype=float) for layer in noise]
    error = np.hypot(np.std(found, ddof=1) / 8**0.5, np.std(expected, ddof=1) / 12**0.5)
    assert abs(np.mean(found) - np.mean(expected)) < 5 * error
    white, _ = of_white_noise(c[:, None, None], exposure, read[ACTIVE] ** 2, raw, simulation, "")
    assert np.mean(expected) > 1.1 * np.mean(white)
    assert 5 * error < 0.1 * np.mean(expected)


def test_other_layers_do_not_change_a_layer(plain, survey, tmp_path):
    """That R reads the dark cube does not change Ra."""
    caldir = survey(amp33=2.0)
    alone, _, _ = run(configured(plain, tmp_path / "a", ["Ra"], caldir=caldir))
    (_, beside), _, _ = run(configured(plain, tmp_path / "b", ["R", "Ra"], caldir=caldir))
    np.testing.assert_array_equal(alone[0], beside)


@pytest.mark.parametrize("recipe", ["l1_to_l2", "romanimpreprocess_1.0"])
def test_recipes_that_read_the_dark_cube_keep_its_reference_pixels(recipe, simulated):
    """Under whichever name they read it."""
    job = prepare(load_config(simulated().config).replace(GRAPH=recipe))
    assert dark_border(True, job.inputs, job.steps)
