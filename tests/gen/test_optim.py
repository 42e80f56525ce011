"""Learning-rate schedule in closed form; optimiser state that survives its names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gen.optim import OptimConfig, build_optimizer, learning_rate, load_optimizer, pack_optimizer


def test_schedule_is_warm_up_times_cosine() -> None:
    """Linear over the warm-up; half way between peak and floor in the middle; the floor at the end and beyond."""
    config = OptimConfig(lr=2.0, warmup=4, final_lr_fraction=0.1)
    assert [learning_rate(config, k, 0.0) for k in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert learning_rate(config, 99, 0.5) == pytest.approx(1.1)
    assert learning_rate(config, 99, 1.0) == learning_rate(config, 99, 1.7) == pytest.approx(0.2)
    assert learning_rate(OptimConfig(lr=2.0, warmup=0, schedule="constant"), 0, 0.9) == 2.0


def test_vectors_do_not_decay() -> None:
    """With zero gradients AdamW shrinks matrices by (1 - lr decay) and leaves biases and gains alone."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.allclose(p, before[name] * (0.95 if p.ndim == 2 else 1.0), rtol=1e-6)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_packed_state_continues_the_steps() -> None:
    """A copy of the model with the packed state makes the same next step, bit for bit."""
    model, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer, other = build_optimizer(model, OptimConfig()), build_optimizer(twin, OptimConfig())
    for _ in range(3):
        step(model, optimizer)
    twin.load_state_dict(model.state_dict())
    packed = pack_optimizer(optimizer, {p: n for n, p in model.named_parameters()})
    names = {p: n for n, p in twin.named_parameters()}
    load_optimizer(other, names, packed)
    step(model, optimizer)
    step(twin, other)
    assert torch.equal(model.weight, twin.weight) and torch.equal(model.bias, twin.bias)
    with pytest.raises(ValueError, match="bias"):
        load_optimizer(other, names, {"weight": packed["weight"]})


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "lion"), ("lr", 0.0), ("clip", -1.0), ("betas", (0.9, 1.0)), ("schedule", "step"), ("warmup", -1)],
)
def test_values_out_of_range_are_refused(key: str, value: object) -> None:
    """Each is an error that names the key and the value."""
    with pytest.raises(ValueError, match=key):
        OptimConfig(**{key: value})  # type: ignore[arg-type]


def test_frozen_model_is_refused() -> None:
    """A model without a parameter to train is an error."""
    with pytest.raises(ValueError, match="requires_grad"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimConfig())
