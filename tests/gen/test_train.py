"""`gen.train` as a command: it trains, it continues, and faults of the configuration are one line and exit code 2."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gen import train
from gen.config import load
from gen.engine import RunConfig
from gen.runlog import read_log

CONFIG = """
recipe: linear
out: {out}
seed: 1
engine: {{steps: 4, batch_size: 4, log_every: 1, tensorboard: false, cpu: true}}
optim: {{lr: 1e-2, warmup: 2}}
params: {{noise: 0.1}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration file of the linear recipe, which the table knows for the time of a test."""
    from accelerate.state import AcceleratorState

    monkeypatch.setitem(train.RECIPES, "linear", "linear_recipe:LinearRecipe")
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(out=tmp_path / "out"))
    yield path
    AcceleratorState._reset_state(reset_partial_state=True)
    logging.getLogger().handlers[:] = [h for h in logging.getLogger().handlers if "pytest" in type(h).__module__]


def test_command_trains_and_continues(config: Path) -> None:
    """The command trains to the end; with more steps it continues from the last checkpoint."""
    out = config.parent / "out"
    assert train.main(["--config", str(config), "--quiet"]) == 0
    assert train.main(["--config", str(config), "--quiet", "engine.steps=6", "optim.lr=2e-2"]) == 0
    assert [r["step"] for r in read_log(out / "metrics.jsonl") if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert (out / "export" / "weights.safetensors").exists()


def test_frozen_configuration_repeats_the_run(config: Path) -> None:
    """config.yaml in the run's folder holds every value, the recipe's defaults too, and gives the same losses."""
    out = config.parent / "out"
    assert train.main(["--config", str(config), "--quiet"]) == 0
    frozen = load(RunConfig, out / "config.yaml", [])
    assert frozen.params == {"samples": 40, "noise": 0.1, "dropout": 0.0, "workers": 0, "explode": False}
    again = config.parent / "again"
    assert train.main(["--config", str(out / "config.yaml"), "--quiet", f"out={again}"]) == 0
    losses = [[r["loss"] for r in read_log(o / "metrics.jsonl") if "loss" in r] for o in (out, again)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("engine.step=3", ["engine.step", "did you mean steps"]),
        ("engine.steps=0", ["engine", "steps", ">= 1", "0"]),
        ("optim.lr=fast", ["optim.lr", "fast"]),
        ("optim.lr=-1", ["optim", "lr", "> 0", "-1"]),
        ("recipe=forcast", ["forcast", "forecast"]),
        ("params.nose=1", ["params.nose", "did you mean noise"]),
        ("nonsense", ["nonsense", "key=value"]),
    ],
)
def test_faults_are_one_line(config: Path, capsys: pytest.CaptureFixture[str], override: str, words: list[str]) -> None:
    """Each fault of file or command line is one line with key, value and near miss; the exit code is 2."""
    assert train.main(["--config", str(config), "--quiet", override]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(word in line for word in words), line


def test_other_run_in_the_folder_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds a run with another seed is refused with exit code 1."""
    assert train.main(["--config", str(config), "--quiet"]) == 0
    assert train.main(["--config", str(config), "--quiet", "seed=2"]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "seed is 2, was 1" in line


def test_data_that_do_not_fit_are_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that cannot use its data says so in one line with the file and the recipe; the exit code is 2."""

    def refuse(*_: object) -> None:
        raise FileNotFoundError("world.zarr: no such data")

    monkeypatch.setattr("linear_recipe.LinearRecipe.__init__", refuse)
    assert train.main(["--config", str(config), "--quiet"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "run.yaml" in line and "linear" in line and "world.zarr" in line


def test_bug_keeps_its_traceback(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody foresaw is not squeezed into a line."""
    monkeypatch.setattr("linear_recipe.LinearRecipe.model", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main(["--config", str(config), "--quiet"])


def test_recipes_exist() -> None:
    """Every entry of the table can be imported and has what the engine asks for."""
    for name, place in train.RECIPES.items():
        module, _, cls = place.partition(":")
        recipe = getattr(importlib.import_module(module), cls)
        wanted = ("Params", "model", "train_loader", "loss", "validate", "export")
        assert all(hasattr(recipe, attribute) for attribute in wanted), name


@pytest.mark.slow
def test_module_is_a_program(tmp_path: Path) -> None:
    """`python -m gen.train` without a readable configuration exits with 2 and one line."""
    command = [sys.executable, "-m", "gen.train", "--config", str(tmp_path / "absent.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "absent.yaml" in done.stderr
