"""The engine: it reaches the optimum, a resumed run is the unbroken one, processes add up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import linear_recipe as linear
import pytest
import torch
from safetensors.torch import load_file

from gen import runlog
from gen.checkpoint import CheckpointError, latest
from gen.engine import EngineConfig, RunConfig, Trainer
from gen.optim import OptimConfig
from gen.runlog import read_log


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state per process; each test starts without one."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def engine(**changes: Any) -> EngineConfig:
    defaults = {"steps": 12, "batch_size": 6, "log_every": 1, "save_every": 0, "tensorboard": False, "cpu": True}
    return EngineConfig(**{**defaults, **changes})


def trainer(out: Path, config: EngineConfig, optim: OptimConfig | None = None, **params: Any) -> Trainer:
    optim = optim or OptimConfig(lr=0.01, warmup=3)
    recipe = linear.LinearRecipe(linear.Params(**params), 3)
    return Trainer(RunConfig(recipe="linear", out=str(out), seed=3, engine=config, optim=optim), recipe)


def rows(out: Path, *names: str) -> list[tuple[float, ...]]:
    return [tuple(r[n] for n in names) for r in read_log(out / "metrics.jsonl") if names[0] in r]


def exported(out: Path) -> torch.Tensor:
    weights = load_file(out / "export" / "weights.safetensors")
    return torch.cat([weights["1.weight"].T, weights["1.bias"][None]])


def test_training_reaches_the_least_squares_optimum(tmp_path: Path) -> None:
    """Full-batch descent with a cosine schedule ends at the solution of the normal equations (float32: 1e-4)."""
    optim = OptimConfig(name="sgd", lr=0.5, weight_decay=0.0, warmup=0, clip=None)
    run = trainer(tmp_path, engine(steps=300, batch_size=40, log_every=100, ema=[]), optim)
    run.fit()
    assert torch.allclose(exported(tmp_path), run.recipe.optimum(), atol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("late", "workers"), [(0, 0), (3, 0), (3, 1)])
def test_resumed_run_is_the_unbroken_run(tmp_path: Path, late: int, workers: int) -> None:
    """Losses, gradient norms, learning rates and exported bits are equal after a kill at or after a checkpoint.

    With noise, dropout, accumulation, a worker process, an average, and a checkpoint inside a window of the log.
    """
    config = engine(accumulate=2, save_every=7, validate_every=5, log_every=2, steps=17)
    params = {"noise": 0.1, "dropout": 0.3, "workers": workers}
    trainer(tmp_path / "a", config, **params).fit()
    linear.die_after(trainer(tmp_path / "b", config, **params), 7 + late)
    resumed = trainer(tmp_path / "b", config, **params)
    assert (resumed.state.step, resumed.state.samples) == (7, 84)
    resumed.fit()
    for names in (("loss", "rmse", "gradient_norm", "lr", "step", "samples"), ("validation/mse", "step")):
        assert rows(tmp_path / "a", *names) == rows(tmp_path / "b", *names)
    weights = [(tmp_path / run / "export" / "weights.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]


def test_finished_run_does_not_train_again(tmp_path: Path) -> None:
    """Starting a finished run exports the same bits and adds no row to the log."""
    trainer(tmp_path, engine()).fit()
    before = (tmp_path / "metrics.jsonl").read_bytes(), exported(tmp_path)
    trainer(tmp_path, engine()).fit()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before[0] and torch.equal(exported(tmp_path), before[1])


def test_accumulated_steps_equal_one_large_step(tmp_path: Path) -> None:
    """Three backward passes of 2 samples give the gradient of one pass of 6 (float32 sums in another order: 1e-6)."""
    trainer(tmp_path / "a", engine(batch_size=6)).fit()
    trainer(tmp_path / "b", engine(batch_size=2, accumulate=3)).fit()
    assert torch.allclose(exported(tmp_path / "a"), exported(tmp_path / "b"), atol=1e-6)
    one, three = rows(tmp_path / "a", "gradient_norm"), rows(tmp_path / "b", "gradient_norm")
    assert torch.allclose(torch.tensor(one), torch.tensor(three), rtol=1e-5)


def _launch(out: Path, *overrides: str) -> None:
    """Start two gloo processes; `--cpu --num_processes 2` would silently start one."""
    root = Path(__file__).parents[2]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(root / "configs" / "accelerate" / "cpu2.yaml")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, *launch, linear.__file__, str(out), *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """Two gloo processes with batch 4 make the step of one with batch 8, and their resumed run is their unbroken one.

    With plain descent of rate 1 the step is the averaged gradient; 1e-6: float32 sums in another order.
    """
    two, one = tmp_path / "two", tmp_path / "one"
    common = ["engine.ema=[]", "engine.log_every=1", "engine.tensorboard=false", "engine.cpu=true"]
    _launch(two, *common, "engine.batch_size=4")
    linear.main(str(one), [*common, "engine.batch_size=8"])
    assert torch.allclose(exported(two / "descent"), exported(one / "descent"), rtol=0, atol=1e-6)
    for name in ("loss", "gradient_norm"):
        assert rows(two / "descent", name)[0] == pytest.approx(rows(one / "descent", name)[0], abs=1e-6)
    assert rows(two / "descent", "loss", "samples")[0][1] == 8
    newest = latest(two / "descent" / "checkpoints")
    assert newest is not None and (newest / "process_1.json").exists()
    for run in (two, one):
        steps = rows(run / "unbroken", "loss", "gradient_norm")
        assert len(steps) == 9 and steps == rows(run / "broken", "loss", "gradient_norm")
        assert torch.equal(exported(run / "unbroken"), exported(run / "broken"))


def test_validation_leaves_training_alone(tmp_path: Path) -> None:
    """Losses do not change when the run validates after every step, though validation draws random numbers."""
    trainer(tmp_path / "a", engine(), dropout=0.3).fit()
    trainer(tmp_path / "b", engine(validate_every=1), dropout=0.3).fit()
    assert rows(tmp_path / "a", "loss") == rows(tmp_path / "b", "loss")
    assert len(rows(tmp_path / "b", "validation/mse")) == 12
    assert len(set(rows(tmp_path / "b", "validation/random"))) == 1


def test_export_holds_the_average(tmp_path: Path) -> None:
    """The first average is exported, and it is not the last weights."""
    run = trainer(tmp_path, engine(ema=["power:0.2", "exponential:50"]))
    run.fit()
    assert torch.equal(exported(tmp_path)[:3].T, run.ema[0].average["1.weight"])
    assert not torch.equal(run.ema[0].average["1.weight"], run.trained["1.weight"])


def test_clock_ends_the_run_with_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second per step and half a minute the run ends after 30 of 1000 steps, the rate on its cosine to zero."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(runlog, "monotonic", lambda: float(next(ticks)))
    optim = OptimConfig(lr=1.0, warmup=0, clip=1.0)
    trainer(tmp_path, engine(steps=1000, minutes=0.5, log_every=1000), optim).fit()
    ((rate, step, elapsed),) = rows(tmp_path, "lr", "step", "elapsed")
    assert step == elapsed == 30
    assert rate == pytest.approx(0.5, abs=0.02)  # the row averages the cosine from 1 to 0 over the run


@pytest.mark.parametrize("change", [{"batch_size": 5}, {"ema": ["power:0.2"]}, {"accumulate": 2}])
def test_another_run_is_not_continued(tmp_path: Path, change: dict[str, Any]) -> None:
    """A folder with a checkpoint of other settings is refused in one line that names the setting."""
    trainer(tmp_path, engine(steps=2)).fit()
    with pytest.raises(CheckpointError, match=next(iter(change))) as caught:
        trainer(tmp_path, engine(steps=2, **change))
    assert "\n" not in str(caught.value)


def test_longer_run_continues(tmp_path: Path) -> None:
    """More steps than before is no other run."""
    trainer(tmp_path, engine(steps=2)).fit()
    trainer(tmp_path, engine(steps=4)).fit()
    assert [s for (s,) in rows(tmp_path, "step") if s] == [1, 2, 2, 3, 4, 4]


def test_infinite_loss_stops_before_a_checkpoint(tmp_path: Path) -> None:
    """A loss that is not finite ends the run with its step, and is not saved."""
    with pytest.raises(FloatingPointError, match="step 2"):
        trainer(tmp_path, engine(save_every=2, log_every=5), explode=True).fit()
    assert latest(tmp_path / "checkpoints") is None


def test_bf16_keeps_float32_weights(tmp_path: Path) -> None:
    """Under autocast the weights stay float32 and the losses agree with float32 to the precision of bf16 (2^-8)."""
    run = trainer(tmp_path / "b", engine(mixed_precision="bf16"))
    run.fit()
    assert {p.dtype for p in run.trained.values()} == {torch.float32}
    _reset()
    trainer(tmp_path / "a", engine()).fit()
    low, full = torch.tensor(rows(tmp_path / "b", "loss")), torch.tensor(rows(tmp_path / "a", "loss"))
    assert not torch.equal(low, full) and torch.allclose(low, full, rtol=2**-6)


def _reset() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def test_run_folder_holds_what_it_should(tmp_path: Path) -> None:
    """Configuration, log, events and the newest checkpoints lie there, and nothing is a pickle."""
    trainer(tmp_path, engine(save_every=3, keep=2, tensorboard=True)).fit()
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "metrics.jsonl", "tb", "checkpoints", "export"}
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_0000009", "step_0000012"]
    assert {p.suffix for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()} == {".json", ".safetensors"}
    assert {"step", "samples", "loss", "lr", "gradient_norm", "samples_per_second", "elapsed"} <= set(
        read_log(tmp_path / "metrics.jsonl")[0]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", 0), ("minutes", 0.0), ("mixed_precision", "fp8"), ("ema", ["x"]), ("save_every", -1), ("threads", 0)],
)
def test_values_out_of_range_are_refused(key: str, value: object) -> None:
    """Each is an error that names the rule and the value."""
    with pytest.raises(ValueError, match="must"):
        EngineConfig(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cpu2", "ddp", "fsdp2"])
def test_launch_configurations_are_read(name: str) -> None:
    """Accelerate reads the shipped launch files, which say in how many processes and how sharded to run."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(Path(__file__).parents[2] / "configs" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes > 1
    assert str(config.distributed_type).endswith("FSDP" if name == "fsdp2" else "MULTI_GPU")


@pytest.mark.gpu
def test_accelerator_trains_in_bf16(tmp_path: Path) -> None:
    """On an accelerator, bf16 training reaches the losses of float32 on the CPU to the precision of bf16."""
    run = trainer(tmp_path / "g", engine(mixed_precision="bf16", cpu=False))
    run.fit()
    assert {p.device.type for p in run.trained.values()} != {"cpu"}
    _reset()
    trainer(tmp_path / "c", engine()).fit()
    low, full = torch.tensor(rows(tmp_path / "g", "loss")), torch.tensor(rows(tmp_path / "c", "loss"))
    assert torch.allclose(low, full, rtol=2**-5)
