"""The header of each file is read once in a run, and passed on from there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import asdf
import pytest
from configuring import elsewhere

from roman_dask_l2.cli import app
from roman_dask_l2.io import layout, opened, scan


@pytest.fixture
def looked_at(monkeypatch):
    """By file: how often its header is read, and how often asdf opens it."""
    scans, opens = Counter(), Counter()
    monkeypatch.setattr(layout, "_known", opened.Cache(64))  # as in a new process
    read_headers, open_file = scan.scan_file, asdf.open

    def scan_file(path):
        scans[Path(path).name] += 1
        return read_headers(path)

    def counted(stream, *args, uri, **options):
        opens[uri.rpartition("/")[2]] += 1
        return open_file(stream, *args, uri=uri, **options)

    monkeypatch.setattr(scan, "scan_file", scan_file)
    monkeypatch.setattr(layout, "scan_file", scan_file)
    monkeypatch.setattr(asdf, "open", counted)
    return scans, opens


def test_a_run_with_noise_reads_each_header_once(simulated, tmp_path, looked_at):
    simulation = simulated(conditions=(), seed=77)
    config = elsewhere(simulation, tmp_path, ["Rz4S2C1", "O", "Prb2"])
    assert app.main([str(config), "--quiet"]) == 0
    scans, opens = looked_at
    read = [simulation.l1, tmp_path / "l2.asdf", *simulation.caldir.values()]
    assert scans == {path.name: 1 for path in read}
    assert opens == {simulation.l1.name: 1}  # its metadata, as roman_datamodels has them


def test_the_wcs_of_the_exposure_itself(simulated, tmp_path, looked_at):
    """Only asdf can build a gwcs: it opens the file once for that, once for the metadata."""
    simulation = simulated(conditions=(), seed=77, wcs="l1")
    assert app.main([str(elsewhere(simulation, tmp_path)), "--quiet"]) == 0
    scans, opens = looked_at
    assert scans == {path.name: 1 for path in (simulation.l1, *simulation.caldir.values())}
    assert opens == {simulation.l1.name: 2}


def test_a_missing_file_is_reported_once(simulated, tmp_path, looked_at, capsys):
    simulation = simulated(conditions=(), seed=77, wcs="l1")
    config = elsewhere(simulation, tmp_path, IN=str(tmp_path / "none.asdf"))
    assert app.main([str(config), "--quiet"]) == 2
    assert capsys.readouterr().err.count("none.asdf: no such file") == 1
    scans, _ = looked_at
    assert set(scans.values()) == {1}
