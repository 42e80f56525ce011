"""State of a run: sharded and whole models read each other's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import TensorDataset

from gen.checkpoint import CheckpointError
from gen.ema import Ema, parse_profile
from gen.loader import train_loader
from gen.optim import OptimConfig, build_optimizer, full_tensor
from gen.trainstate import Parts, TrainState, load_state, save_state

ALONE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def parts(seed: int, shard: bool, width: int = 4) -> Parts:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, 4), nn.LayerNorm(4))
    if shard:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    ema = [Ema(model.named_parameters(), parse_profile("power:0.1"))]
    loader = train_loader(TensorDataset(torch.arange(8)), 2, seed=0)
    return Parts(model, build_optimizer(model, OptimConfig(lr=0.1)), ema, loader, rank=0)


def train(run: Parts, begin: int, end: int) -> None:
    for step in range(begin, end):
        x = torch.full((2, 4), float(step)).cumsum(1).sin()
        run.model(x).pow(3).sum().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.ema[0].update(step + 1, 1)


def weights(run: Parts) -> list[torch.Tensor]:
    tensors = [*run.model.state_dict().values(), *run.ema[0].average.values()]
    return [full_tensor(t).clone() for t in tensors]


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True)])
def test_sharded_and_whole_runs_continue_each_other(group: None, tmp_path: Path, before: bool, after: bool) -> None:
    """A run saved whole and continued sharded (FSDP2), or the other way, has the weights of the unbroken run.

    1e-6: float32 sums of the optimiser may be grouped otherwise.
    """
    first, second = parts(0, before), parts(1, after)
    train(first, 0, 3)
    save_state(tmp_path, ALONE, first, TrainState(3, 3, 1.5), {"seed": 0})
    state = load_state(tmp_path / "step_0000003", second, {"seed": 0})
    assert (state.step, state.samples, state.elapsed) == (3, 3, 1.5)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    for run in (first, second):
        train(run, 3, 6)
    for a, b in zip(weights(first), weights(second), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


def test_other_shapes_are_one_line(tmp_path: Path) -> None:
    """A checkpoint of a model of another size is refused, naming the tensor and both shapes."""
    save_state(tmp_path, ALONE, parts(0, False), TrainState(1), {})
    with pytest.raises(CheckpointError, match=r"0\.weight is \(4, 4\), the model's \(4, 5\)"):
        load_state(tmp_path / "step_0000001", parts(0, False, width=5), {})
