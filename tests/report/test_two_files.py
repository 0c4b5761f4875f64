"""What `compare` says of two files that differ in a known way."""

from __future__ import annotations

import shutil

import asdf
import numpy as np
import pytest

from roman_dask_l2.cli import app
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.errors import InputError
from roman_dask_l2.report import compare_files


def edited(source, target, change):
    with asdf.open(source, memmap=False, lazy_load=False) as file:
        change(file)
        file.write_to(target)
    return target


def by_name(found):
    return {array.name: array for array in found.arrays}


def test_known_differences(exposure_with_noise, tmp_path, capsys):
    def change(file):
        roman, mask = file["roman"], file["mask"]
        roman["data"][3, 4] += np.float32(2.5) * np.float32(roman["err"][3, 4])
        roman["data"][5, 6] = np.nan
        roman["dq"][0, :7] ^= np.uint32(PIXEL["PERSISTENCE"])
        roman["dq"][1, 1] |= np.uint32(PIXEL["HOT"])
        mask[9, 9] = not mask[9, 9]
        del roman["data_withsky"]
        file["processinfo"]["provenance"]["settings"]["SKYORDER"] = 5
        file["processinfo"]["provenance"]["files"]["gain"]["content"] = "0" * 64

    l2 = exposure_with_noise.l2
    with asdf.open(l2) as file:
        masked, hot = bool(file["mask"][9, 9]), int(file["roman"]["dq"][1, 1]) & PIXEL["HOT"]
        assert not hot
        assert not (np.array(file["roman"]["dq"][0, :7]) & PIXEL["PERSISTENCE"]).any()
    other = edited(l2, tmp_path / "other.asdf", change)
    found = compare_files(l2, other)
    arrays = by_name(found)
    assert not found.same
    assert arrays["data"].differ == 2
    assert arrays["data"].largest == pytest.approx(2.5, rel=1e-3)
    assert arrays["data"].rms == pytest.approx(2.5 / np.sqrt(arrays["data"].pixels), rel=1e-3)
    assert arrays["dq"].gained == {"PERSISTENCE": 7, "HOT": 1}
    assert arrays["dq"].lost == {}
    assert (arrays["mask"].lost if masked else arrays["mask"].gained) == {"masked": 1}
    assert arrays["data_withsky"].wrong == "only in the first file"
    assert arrays["err"].same
    assert [line.split(":")[0] for line in found.settings] == ["file gain", "setting SKYORDER"]
    assert found.settings[1].endswith("-> 5")
    assert found.cells.max() == pytest.approx(2.5, rel=1e-3)
    y, x = np.argwhere(found.cells)[0]
    assert (y, x) == (3 // found.k, 4 // found.k)
    assert by_name(compare_files(other, l2))["dq"].lost == {"PERSISTENCE": 7, "HOT": 1}

    picture = tmp_path / "where.png"
    assert app.main(["compare", str(l2), str(other), "-o", str(picture)]) == 1
    said = capsys.readouterr().out
    assert "+7 PERSISTENCE" in said
    assert "the numbers differ" in said
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.asdf", "where.png"]


def test_same_numbers(exposure_with_noise, tmp_path, capsys):
    """NaN equals NaN; another name and other blocks of the file are no difference."""

    def change(file):
        file["roman"]["data"][2, 2] = np.nan

    one = edited(exposure_with_noise.l2, tmp_path / "one.asdf", change)
    two = tmp_path / "two.asdf"
    shutil.copy(one, two)
    assert app.main(["compare", str(one), str(two)]) == 0
    assert capsys.readouterr().out.endswith("the same numbers\n")


def test_noise_layers(exposure_with_noise, tmp_path):
    """Layers are compared by their labels, wherever they stand."""

    def change(file):
        sigma = file["noise"][1].std()
        file["noise"][1, 0, 0] += 3 * sigma
        file["noise"] = file["noise"][[1, 0]]
        lines = file["statistics"]
        file["statistics"] = [lines[1], lines[0]]

    other = edited(exposure_with_noise.noise, tmp_path / "other.asdf", change)
    arrays = by_name(compare_files(exposure_with_noise.noise, other))
    assert arrays["RS2"].same
    assert arrays["PbS1"].differ == 1
    assert 1 < arrays["PbS1"].largest < 10
    assert arrays["RP"].wrong == "only in the first file"


def test_refused(exposure_with_noise, tmp_path, capsys):
    l2, noise = exposure_with_noise.l2, exposure_with_noise.noise
    with pytest.raises(InputError, match="a noise file, expected a Level 2 file"):
        compare_files(l2, noise)
    l1 = exposure_with_noise.config.parent / "l1.asdf"
    assert app.main(["compare", str(l2), str(l1)]) == 2
    assert "neither a Level 2 file nor a noise file" in capsys.readouterr().err
    assert app.main(["compare", str(l2), str(tmp_path / "missing.asdf")]) == 2
    assert app.main(["compare", str(l2), str(l2), "-o", str(tmp_path / "x.nothing")]) == 2
    assert list(tmp_path.iterdir()) == []
