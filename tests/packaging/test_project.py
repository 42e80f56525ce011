"""The project's own files: one command, pinned versions, no machine paths."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_ci_runs_the_command_that_people_run() -> None:
    """`.ci/run` is executable, stops at the first failure and calls `make test`."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "set -euo pipefail" in text and text.rstrip().endswith("make test")


def test_make_knows_its_targets() -> None:
    """`make sample` draws the forecast of the README; `make test` checks layers, style, types, then tests."""
    plan = _make("sample")
    assert "gen sample --task forecast --init 2024-01-01" in plan
    plan = _make("test")
    places = [plan.index(word) for word in ("lint-imports", "ruff check", "mypy", "pytest")]
    assert places == sorted(places)


def test_every_direct_dependency_has_a_pin() -> None:
    """constraints.txt pins torch 2.13.0 and all that pyproject.toml asks for, except what is never installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {_name(text) for text in project["dependencies"]}
    for extra, texts in project["optional-dependencies"].items():
        asked |= set() if extra in ("geo", "xformers") else {_name(text) for text in texts}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in lines)
    assert asked <= {_name(line) for line in lines}


def test_no_index_hosts_and_no_machine_paths_in_the_project_files() -> None:
    """Nothing that only holds on one machine is written down."""
    for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run", "tools/environment.sh", "README.md"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index-url|(?<![\w.])/(work|tmp|root|home|opt)/", text), name


def _make(target: str) -> str:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"make is not usable here: {done.stderr.strip()[:100]}")
    return done.stdout


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()
