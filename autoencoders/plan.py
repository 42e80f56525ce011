"""What training and using a codec would cost, from its parameters alone: see `gen.dryrun`."""

from __future__ import annotations

from typing import Any

__all__ = ["codec_evaluations", "codec_plan", "interval_text"]

import numpy as np
import torch
from torch import Tensor, nn

from autoencoders.params import CodecParams
from gen.data.variables import make_channels
from gen.dryrun import Call, Plan

HOURS_TO_STATE = ((1, "hourly"), (6, "every 6 h"))


def codec_plan(params: CodecParams, network: nn.Module) -> Plan:
    """Return the plan of one codec; without `grid` there are no fields to run it on."""
    channels = make_channels([*params.upper, *params.surface], params.levels)
    networks = {"autoencoder": network}
    if not params.grid:
        return Plan(networks, {}, facts=(("grid", "not stated (params.grid): no FLOPs, no memory"),))
    rows, columns = params.grid
    seen = (rows - (not params.south_pole), columns)
    evaluations = codec_evaluations(network, len(channels), len(params.static), seen)
    nbytes = 4 * len(channels) * rows * columns
    facts = [("a state", f"{len(channels)} channels on {rows} x {columns}, {nbytes / 1e6:.2f} MB in float32")]
    if params.train:
        facts.append(("training data", interval_text(params.train, nbytes, params.every)))
    for part in params.freeze:
        for name, parameter in network.named_parameters():
            if f"{name}.".startswith(f"{part}."):
                parameter.requires_grad_(False)

    def training(batch: int, dtype: torch.dtype) -> Tensor:
        model: Any = network
        static = torch.empty(len(params.static), *seen, dtype=dtype)
        out: Tensor = model(torch.empty(batch, len(channels), *seen, dtype=dtype), static)[1]
        return out

    return Plan(networks, evaluations, training, ("autoencoder",), facts=tuple(facts))


def codec_evaluations(network: Any, channels: int, statics: int, grid: tuple[int, int]) -> dict[str, Call]:
    """Return encoding and decoding of one state on `grid`, the one that the autoencoder sees."""
    spec = network.latent_spec(grid)

    def encode(batch: int, dtype: torch.dtype) -> Tensor:
        out: Tensor = network.encode(
            torch.empty(batch, channels, *grid, dtype=dtype), torch.empty(statics, *grid, dtype=dtype)
        )
        return out

    def decode(batch: int, dtype: torch.dtype) -> Tensor:
        out: Tensor = network.decode(torch.empty(batch, spec.channels, *spec.shape, dtype=dtype))
        return out

    return {"encode": encode, "decode": decode}


def interval_text(interval: list[str], state_bytes: int, every: int | None) -> str:
    """Return how much the states of a calendar interval take, for the spacings that are usual."""
    begin, end = (np.datetime64(t, "h") for t in interval)
    hours = int((end - begin).astype(np.int64))
    known = HOURS_TO_STATE if every is None else ((every, f"every {every} h"),)
    return "; ".join(f"{hours // h:,} states {name}, {hours // h * state_bytes / 1e9:,.1f} GB" for h, name in known)
