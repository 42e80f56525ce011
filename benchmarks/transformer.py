"""Time the dual-stream transformer and its attention, and measure their rounding error.

For every precision: seconds of a training step (forward and backward) and of a forward pass, the fastest of several,
wall clock and processor time, samples per second, and as the reference error the relative difference of the output from
the same network in float64 (one sample). Then every attention backend that works here, at the same number of tokens.
``--profile`` adds the operations that take the most time.

    python benchmarks/transformer.py [--batch 16] [--threads 2] [--device cpu] [--repeat 5] [--profile]
"""

from __future__ import annotations

import argparse
import copy

import torch
from reporting import fastest, relative
from torch import Tensor, nn

from diffusion.dual_stream import DualStreamTransformer
from gen.nn.attention import attend, available_backends

ROWS, COLUMNS, CHANNELS = 12, 24, 64


def build() -> DualStreamTransformer:
    """Return a network of 23.9 M parameters on a 12 x 24 grid, its zero gates opened as by training."""
    torch.manual_seed(0)
    network = DualStreamTransformer(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        conditioning_tensor_in_channels=CHANNELS,
        latitude=[-82.5 + 15 * i for i in range(ROWS)],
        longitude=[7.5 + 15 * i for i in range(COLUMNS)],
        patch_size=2,
    )
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.02)
    return network


def inputs(batch: int, device: str) -> dict[str, Tensor]:
    """Return arguments of the network."""
    generator = torch.Generator().manual_seed(1)
    x, cond = torch.randn(2, batch, CHANNELS, 1, ROWS, COLUMNS, generator=generator).to(device)
    hours = torch.arange(batch, device=device) * 1000 + 400_000
    return {"x": x, "c_noise": torch.linspace(-1, 1, batch, device=device), "cond": cond, "hours": hours}


def report_network(name: str, options: argparse.Namespace) -> None:
    """Print timings and error of one precision."""
    network, arguments = build().to(options.device), inputs(options.batch, options.device)

    def forward(**values: Tensor) -> Tensor:
        with torch.autocast(options.device, torch.bfloat16, enabled=name == "bf16"):
            return network(**values)

    def sample() -> None:
        with torch.no_grad():
            forward(**arguments)

    def train() -> None:
        forward(**arguments).float().square().mean().backward()
        network.zero_grad()

    one = {k: v[:1] for k, v in arguments.items()}
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(**{k: v.double() if k != "hours" else v for k, v in one.items()})
        error = relative(forward(**one), exact)
    for kind, call in (("step", train), ("forward", sample)):
        wall, work = fastest(call, options.repeat, options.device)
        rate = options.batch / wall
        print(f"{kind:8} {name}  wall {wall:.3f} s  processor {work:.3f} s  {rate:7.1f} samples/s  error {error:.1e}")
    if options.profile:
        with torch.profiler.profile() as profile:
            train()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))


def report_attention(options: argparse.Namespace) -> None:
    """Print timings and errors of the attention backends in float32 and bfloat16."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(options.batch, 6, 144, 64, generator=generator).to(options.device) for _ in range(3)]
    for dtype in (torch.float32, torch.bfloat16):
        qkv = [t.to(dtype).requires_grad_() for t in exact]
        reference = attend(*(t.detach().double() for t in qkv), backend="matmul")
        for backend in available_backends(options.device, dtype):

            def train(backend: str = backend, qkv: list[Tensor] = qkv) -> None:
                attend(*qkv, backend=backend).sum().backward()

            with torch.no_grad():
                error = relative(attend(*qkv, backend=backend), reference)
            wall, work = fastest(train, options.repeat, options.device)
            kind = str(dtype).removeprefix("torch.")
            print(f"{backend:8} {kind:8}  wall {wall * 1e3:.1f} ms  processor {work * 1e3:.1f} ms  error {error:.1e}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in ("fp32", "bf16"):
        report_network(name, options)
    report_attention(options)


if __name__ == "__main__":
    main()
