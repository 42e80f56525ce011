"""Time training steps of the weather autoencoder and measure their rounding error.

For every padding and precision: seconds per forward and backward pass (the fastest of several, wall clock and processor
time), samples per second, and as reference errors the relative difference of the reconstruction and of all gradients
from the same model in float64 (one sample). A ReLU whose argument rounds to the other side of zero in float32 changes
the gradients by some 5e-4; without one their error is 1e-6.

    python benchmarks/autoencoder.py [--batch 8] [--rows 48] [--threads 1] [--device cpu] [--repeat 5]
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import torch
from reporting import fastest, relative
from torch import Tensor

from autoencoders.dcae import DCAE

CHANNELS, STATICS = 31, 2


def build(padding: str) -> DCAE:
    """Return the demo's codec: factor 4, 64 latent channels, widths 64, 128 and 256."""
    torch.manual_seed(0)
    vectors = list(range(10, 20)) if padding == "sphere" else []
    both = CHANNELS + STATICS
    return DCAE(both, both, STATICS, latent_channels=64, padding=padding, vector_channels=vectors)


def step(model: DCAE, x: Tensor, static: Tensor, autocast: bool) -> tuple[Tensor, Tensor]:
    """Run one forward and backward pass; return the reconstruction and the gradients as one vector."""
    model.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        y = model(x, static)[1]
    (y.to(x.dtype) - x).square().mean().backward()
    return y.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def report(padding: str, options: argparse.Namespace) -> None:
    """Print one line per precision."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.rows, 2 * options.rows)
    x = torch.randn(options.batch, CHANNELS, *shape, generator=generator).to(options.device)
    static = torch.randn(STATICS, *shape, generator=generator).to(options.device)
    model = build(padding).to(options.device)
    truth = step(copy.deepcopy(model).double(), x[:1].double(), static.double(), autocast=False)
    for precision, autocast in (("float32", False), ("bfloat16", True)):
        found = step(model, x[:1], static, autocast)
        wall, work = fastest(partial(step, model, x, static, autocast), options.repeat, options.device)
        errors = [relative(value, reference) for value, reference in zip(found, truth, strict=True)]
        print(
            f"{padding:8} {precision:9} {wall:7.3f} s wall {work:7.3f} s processor"
            f" {options.batch / wall:7.1f} samples/s  error: fields {errors[0]:.1e} gradients {errors[1]:.1e}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for padding in ("plane", "sphere", "ladcast"):
        report(padding, options)


if __name__ == "__main__":
    main()
