"""A small dual-stream transformer in float64, and arguments for it."""

from __future__ import annotations

from datetime import datetime, timedelta

import torch
from torch import Tensor, nn

from diffusion.dual_stream import DualStreamTransformer

ROWS, COLUMNS = 4, 8
LATITUDE = [-67.5, -22.5, 22.5, 67.5]
LONGITUDE = [45.0 * i for i in range(COLUMNS)]


def build(seed: int = 0, started: bool = True, **changes) -> DualStreamTransformer:
    """Return a small network in float64; ``started`` gives zero parameters random values, as training does."""
    torch.manual_seed(seed)
    settings = {
        "in_channels": 3,
        "out_channels": 3,
        "conditioning_tensor_in_channels": 3,
        "latitude": LATITUDE,
        "longitude": LONGITUDE,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "mlp_ratio": 2.0,
        "location_degree": 3,
        **changes,
    }
    network = DualStreamTransformer(**settings).double()
    for parameter in network.parameters() if started else ():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.2)
    return network


def inputs(batch: int = 2, frames: int = 2, known: int = 1, seed: int = 1) -> dict[str, Tensor]:
    """Return arguments of the network in float64."""
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, 3, frames, ROWS, COLUMNS, dtype=torch.float64, generator=g),
        "c_noise": torch.linspace(-1, 1, batch, dtype=torch.float64),
        "cond": torch.randn(batch, 3, known, ROWS, COLUMNS, dtype=torch.float64, generator=g),
        "hours": hours(datetime(2024, 1, 1), datetime(2023, 7, 9, 18))[:batch],
    }


def hours(*times: datetime) -> Tensor:
    return torch.tensor([(t - datetime(1970, 1, 1)) // timedelta(hours=1) for t in times], dtype=torch.int64)


def rolled(arguments: dict[str, Tensor], columns: int) -> dict[str, Tensor]:
    return {k: v.roll(columns, dims=-1) if k in ("x", "cond") else v for k, v in arguments.items()}
