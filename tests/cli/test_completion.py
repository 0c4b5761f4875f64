"""What the shell completes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from roman_dask_l2.cli import app
from roman_dask_l2.cli.tools import SHELLS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "bash"
    with open(path, "w") as file:
        subprocess.run(
            [sys.executable, "-m", "roman_dask_l2", "completion", "bash"], stdout=file, check=True
        )
    return path


def complete(script, folder, *words):
    """What bash offers for the last of `words`."""
    program = (
        f'source {script}; COMP_WORDS=(roman-dask-l2 "$@"); COMP_CWORD=$#; '
        "_shtab_roman_dask_l2; printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p roman-dask-l2"
    )
    done = subprocess.run(
        [shutil.which("bash"), "-c", program, "bash", *words],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split("\n")


def test_bash(script, tmp_path):
    (tmp_path / "campaign.yaml").touch()
    assert {"simulate", "status", "schema"} <= set(complete(script, tmp_path, "s"))
    assert "--timings" in complete(script, tmp_path, "run", "--ti")
    assert "campaign.yaml" in complete(script, tmp_path, "status", "camp")
    assert {"bash", "zsh", "fish"} <= set(complete(script, tmp_path, "completion", ""))
    # A configuration may stand in place of a sub-command: where none fits, files are offered.
    assert "-o default" in complete(script, tmp_path, "camp")[-2]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_completed(shell, capsys):
    assert app.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in app.COMMANDS)
    assert "log" in text


def test_without_shtab(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert app.main(["completion", "bash"]) == 2
    assert "roman-dask-l2[completion]" in capsys.readouterr().err
