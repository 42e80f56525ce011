"""Time training steps of the dynamics and of the codec, in float32 and in bfloat16.

A step is forward, backward and AdamW on analytic weather of the model's channels and grid, starting from the model's
weights. Reference errors are taken against float32 with the same weights, samples and noise: the relative difference of
the first step's loss and of its gradient, and of the loss after `--steps` steps of training in that precision, which
says whether the small precision trains as well.

    python benchmarks/training.py [--model demo] [--quick] [--batches 4,16] [--steps 10] [--device cpu] [--threads N]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from reporting import integers, parser, print_header, print_table
from torch import Tensor, nn

from diffusion.losses import LogitNormal, LogNormal, denoising_loss
from diffusion.precondition import Flow
from forecast.model import ForecastModel
from gen.data.synthetic import analytic_states
from gen.hub import resolve

Loss = Callable[[nn.Module, int], Tensor]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEARNING_RATE = 1e-4


def main() -> None:
    """Print one table for the dynamics and one for the codec."""
    made = parser(__doc__)
    made.add_argument("--batches", type=integers, default=[4, 16])
    made.add_argument("--steps", type=int, default=10)
    options = made.parse_args()
    if options.quick:
        options.batches, options.steps = [4], 3
    if options.threads:
        torch.set_num_threads(options.threads)
    model = ForecastModel.load(resolve(options.model)).to(options.device)
    print_header(options, model=model.meta.name)
    for title, network, make in (
        ("Dynamics: denoising loss", model.denoiser, dynamics_loss),
        ("Codec: squared error of the reconstruction", model.codec.dcae, codec_loss),
    ):
        count = sum(p.numel() for p in network.parameters())
        rows = [row for batch in options.batches for row in measure(network, make(model, batch), batch, options)]
        print(f"{title}, {count / 1e6:.2f} M parameters\n")
        print_table(rows)


def measure(network: nn.Module, loss: Loss, batch: int, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for every precision; the first is the reference."""
    rows: list[dict[str, object]] = []
    reference: dict[str, Any] = {}
    for name, dtype in PRECISIONS.items():
        found = train(copy.deepcopy(network).train(), loss, dtype, options)
        reference = reference or found
        first, last = (abs(found[k] / reference[k] - 1) for k in ("first", "last"))
        gradient = float((found["gradient"] - reference["gradient"]).norm() / reference["gradient"].norm())
        rows.append(
            {
                "precision": name,
                "batch": batch,
                "s/step": found["seconds"],
                "processor s/step": found["processor_seconds"],
                "samples/s": batch / found["seconds"],
                "loss": found["first"],
                "loss error": first,
                "gradient error": gradient,
                f"loss after {options.steps}": found["last"],
                "its error": last,
            }
        )
    return rows


def train(network: nn.Module, loss: Loss, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """Train for a few steps; return the losses, the first gradient and the least time of a step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    walls, works, losses = [], [], []
    gradient = torch.zeros(0)
    for step in range(options.steps + 1):
        wall, work = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        with torch.autocast(options.device.split(":")[0], dtype, enabled=dtype != torch.float32):
            value = loss(network, step)
        value.backward()  # type: ignore[no-untyped-call]
        if step == 0:
            gradient = torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])
        optimizer.step()
        if options.device != "cpu":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
        losses.append(float(value.detach()))
    facts = {"seconds": min(walls[1:]), "processor_seconds": min(works[1:])}
    return {**facts, "first": losses[0], "last": losses[-1], "gradient": gradient}


def states(model: ForecastModel, count: int, frames: int) -> Tensor:
    """Return analytic weather in SI units [count, frames, C, H, W], 31 days between samples."""
    hours = [744 * i + model.meta.step_hours * k for i in range(count) for k in range(frames)]
    values = torch.from_numpy(analytic_states(model.codec.channels, model.codec.grid, hours))
    return values.to(model.step_std.device).unflatten(0, (count, frames))


def dynamics_loss(model: ForecastModel, batch: int) -> Loss:
    """Return the loss of the denoiser on windows of encoded analytic weather; the noise depends on the step alone."""
    with torch.no_grad():
        fields = states(model, batch, model.meta.frames + 1)
        latent = model.codec.encode(fields.flatten(0, 1)).unflatten(0, fields.shape[:2])
    target = (latent[:, 1:] - latent[:, :1]).transpose(1, 2) / model.step_std
    cond = {"cond": latent[:, 0, :, None], "hours": 744 * torch.arange(batch, device=latent.device)}
    level = LogitNormal() if isinstance(model.denoiser.precondition, Flow) else LogNormal()

    def loss(network: nn.Module, step: int) -> Tensor:
        return denoising_loss(network, target, cond, torch.Generator().manual_seed(step), level)

    return loss


def codec_loss(model: ForecastModel, batch: int) -> Loss:
    """Return the squared error of reconstructed analytic weather in normalised units."""
    x, static = model.codec.normalise(states(model, batch, 1)[:, 0]), model.codec.static

    def loss(network: nn.Module, step: int) -> Tensor:
        return (network(x, static)[1].float() - x).square().mean()

    return loss


if __name__ == "__main__":
    main()
