"""Cells side by side, by the real DVC: what fails stops what comes after it and nothing else, and is told once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecgforge import cells

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stages = {
        "early": {"cmd": "sleep 1; echo early > early", "outs": ["early"]},
        "wrong": {"cmd": "echo wrong >&2; exit 3", "outs": ["wrong"]},
        "slow": {"cmd": "sleep 8; echo slow > slow", "outs": ["slow"]},
        "after_slow": {"cmd": "cat slow > after_slow", "deps": ["slow"], "outs": ["after_slow"]},
        "after_wrong": {"cmd": "cat wrong > after_wrong", "deps": ["wrong"], "outs": ["after_wrong"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_failure_lets_what_runs_finish_and_starts_no_more(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cells.repro([], 2) == 1
    assert (project / "slow").exists(), "it ran when the other failed, and was waited for"
    assert not (project / "after_slow").exists()
    assert not (project / "after_wrong").exists()
    told = capfd.readouterr().err
    assert told.count("wrong failed, its error is above") == 1
    assert "Traceback" not in told

    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("exit 3", "echo right > wrong"))
    assert cells.repro(["after_wrong"], 2) == 0
    assert (project / "after_wrong").read_text() == "right\n"
    assert not (project / "after_slow").exists(), "it was not asked for"
    assert cells.repro([], 2) == 0
    assert (project / "after_slow").read_text() == "slow\n"
    assert cells.repro([], 2) == 0
    assert "up to date" in capfd.readouterr().err
