"""Optimiser, learning-rate schedule, and their state as named tensors.

The learning rate of step k at progress p in [0, 1] is lr w(k) s(p), with a linear warm-up w and the cosine
s(p) = f + (1 - f) (1 + cos pi p) / 2 (Loshchilov & Hutter 2017) or a constant s = 1. The state is kept by parameter
name and unsharded, so that a run may be resumed with another sharding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "OptimConfig",
    "build_optimizer",
    "full_tensor",
    "learning_rate",
    "load_optimizer",
    "pack_optimizer",
    "shard_like",
]


@dataclass
class OptimConfig:
    """Choose the optimiser and its schedule.

    Args:
        name: "adamw", or "sgd" (plain, for tests and linear problems).
        lr: peak learning rate, > 0.
        weight_decay: decoupled decay of matrices and kernels; vectors (biases, gains) never decay.
        betas: AdamW's averaging factors, each in [0, 1).
        eps: AdamW's denominator floor, > 0.
        warmup: optimiser steps of linear warm-up.
        schedule: "cosine" or "constant".
        final_lr_fraction: learning rate at the end over its peak (cosine), in [0, 1].
        clip: bound of the gradient's norm; None leaves it alone.
    """

    name: str = "adamw"
    lr: float = 3e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    warmup: int = 100
    schedule: str = "cosine"
    final_lr_fraction: float = 0.0
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        _require(self.name in ("adamw", "sgd"), "name", self.name, "must be 'adamw' or 'sgd'")
        _require(self.lr > 0, "lr", self.lr, "must be > 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be >= 0")
        _require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "must lie in [0, 1)")
        _require(self.eps > 0, "eps", self.eps, "must be > 0")
        _require(self.warmup >= 0, "warmup", self.warmup, "must be >= 0")
        _require(self.schedule in ("cosine", "constant"), "schedule", self.schedule, "must be 'cosine' or 'constant'")
        _require(0 <= self.final_lr_fraction <= 1, "final_lr_fraction", self.final_lr_fraction, "must lie in [0, 1]")
        _require(self.clip is None or self.clip > 0, "clip", self.clip, "must be > 0 or null")


def learning_rate(config: OptimConfig, step: int, progress: float) -> float:
    """Return the learning rate of an optimiser step.

    Args:
        config: peak, warm-up and shape.
        step: index of the step, from 0.
        progress: fraction of the run that is over, clamped to [0, 1].
    """
    p = min(max(progress, 0.0), 1.0)
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    floor = config.final_lr_fraction
    return config.lr * warm * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * p)))


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser over the parameters that need a gradient, matrices with decay and vectors without.

    Raises:
        ValueError: if no parameter needs a gradient.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter to train; every requires_grad is False")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr)
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), eps=config.eps)


def full_tensor(value: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded over processes (then every process must call)."""
    gather = getattr(value, "full_tensor", None)
    return value.detach() if gather is None else gather().detach()


def shard_like(value: Tensor, reference: Tensor) -> Tensor:
    """Place a whole tensor as `reference` lies: on its device, and sharded when it is."""
    mesh = getattr(reference, "device_mesh", None)
    if mesh is None:
        return value.to(reference.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(mesh.device_type), mesh, reference.placements)  # type: ignore[attr-defined]


def pack_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, dict[str, Any]]:
    """Return the optimiser's state by parameter name, with whole tensors."""
    return {
        names[p]: {k: full_tensor(v) if isinstance(v, Tensor) else v for k, v in state.items()}
        for p, state in optimizer.state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], packed: Mapping[str, Any]) -> None:
    """Put a packed state back.

    Raises:
        ValueError: if the state names other parameters than the optimiser holds.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    missing = {names[p] for p in parameters} ^ set(packed)
    if packed and missing:
        raise ValueError(f"optimiser state and model differ in {len(missing)} parameters, for example {min(missing)}")
    fresh = optimizer.state_dict()
    fresh["state"] = {i: _place(packed[names[p]], p) for i, p in enumerate(parameters) if names[p] in packed}
    optimizer.load_state_dict(fresh)


def _place(state: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Copy the state of one parameter to where the parameter lies; a step count stays on the CPU."""
    placed = dict(state)
    for name, value in state.items():
        if isinstance(value, Tensor):
            like = value.ndim and value.shape == parameter.shape
            placed[name] = shard_like(value.clone(), parameter) if like else value.clone()
    return placed


def _require(good: bool, key: str, value: object, rule: str) -> None:
    if not good:
        raise ValueError(f"{key} {rule}; got {value!r}")
