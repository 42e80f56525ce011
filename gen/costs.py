"""Turn the plan of a recipe or of a model folder into lines: parameters, FLOPs, memory, cost of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

__all__ = ["parameters", "plan_lines", "training_lines"]

import torch
from torch import nn

from gen.dryrun import Plan, measure
from gen.info import counted, fact

if TYPE_CHECKING:
    from gen.engine import RunConfig

PFLOP_DAY = 1e15 * 86400
ADAM_BYTES = 16  # a weight, its gradient and two moments in float32
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parameters(network: nn.Module, trained: bool = False) -> int:
    """Return the number of parameters, all or those that need a gradient."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained)


def plan_lines(plan: Plan, weights: bool = True) -> Iterator[str]:
    """Say what the networks weigh and what one evaluation of each costs."""
    for name, network in plan.networks.items() if weights else ():
        number = parameters(network)
        size = f"{_size(4 * number)} in float32, {_size(2 * number)} in bfloat16"
        yield fact(name, f"{type(network).__name__}, {counted(number)} parameters, {size}")
    flops = dict.fromkeys(plan.evaluations, 0)
    for name, call in plan.evaluations.items():
        peaks = []
        for kind, dtype in KINDS.items():
            _cast(plan.networks, dtype)
            cost = measure(call, plan.networks.values(), dtype)
            flops[name] = cost.flops
            peaks.append(f"{_size(cost.nbytes)} in {kind}")
        _cast(plan.networks, torch.float32)
        yield fact(f"{name}, once", f"{_flops(flops[name])}; {', '.join(peaks)} per sample beside the weights")
    if plan.member_day:
        calls = ", ".join(f"{count:g} x {name}" for name, count in plan.member_day.items())
        total = sum(count * flops[name] for name, count in plan.member_day.items())
        yield fact("member and day", f"{_flops(total)}: {calls}")
    for name, text in plan.facts:
        yield fact(name, text)


def training_lines(plan: Plan, run: RunConfig, recomputes: bool) -> Iterator[str]:
    """Say what a run of this configuration takes, per process."""
    if plan.training is None:
        return
    engine, half = run.engine, run.engine.mixed_precision == "bf16"
    trained = sum(parameters(plan.networks[name], trained=True) for name in plan.trained)
    total = sum(parameters(plan.networks[name]) for name in plan.trained)
    adam = ADAM_BYTES if run.optim.name == "adamw" else 8
    state = adam * trained + 4 * (total - trained) + 4 * len(engine.ema) * trained + 2 * half * total
    _cast(plan.networks, torch.bfloat16 if half else torch.float32)
    dtype = torch.bfloat16 if half else torch.float32
    cost = measure(plan.training, plan.networks.values(), dtype, kept=True)
    _cast(plan.networks, torch.float32)
    batch = engine.batch_size
    average = f"{len(engine.ema)} average{'s' if len(engine.ema) != 1 else ''}"
    parts = ["weights, gradients, moments", average, *(["bfloat16 copies"] if half else [])]
    yield fact("training, state", f"{_size(state)}: {', '.join(parts)} of {counted(trained)} parameters")
    again = " (blocks recomputed)" if recomputes else ""
    yield fact("training, batch", f"{_size(cost.nbytes)} per sample{again} x {batch} kept for the backward pass")
    yield fact("training, memory", f"{_size(state + batch * cost.nbytes)} per process")
    flops, samples = cost.flops * (4 if recomputes else 3), engine.steps * engine.batch_size * engine.accumulate
    yield fact(
        "training, cost",
        f"{_flops(flops)} per sample; {engine.steps:,} steps x {samples // engine.steps} samples per process ="
        f" {flops * samples / PFLOP_DAY:.3g} PFLOP-days per process",
    )


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _flops(number: float) -> str:
    return f"{number / 1e12:,.2f} TFLOP" if number >= 1e13 else f"{number / 1e9:,.1f} GFLOP"


def _cast(networks: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
    for network in networks.values():
        nn.Module.to(network, dtype)  # diffusers' own `to` warns about every cast
