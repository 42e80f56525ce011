"""Time the two stages of fine rain: a training step, one evaluation of the flow per attention backend, and drawing.

Weights are the model's; rain is synthetic (a random field, a third of it wet). Reference errors are taken against
float32 with the same weights and noise: of a training step the relative difference of loss and gradient, of an
evaluation and of drawn levels (amount and chance) the root mean square difference over the root mean square.

    python benchmarks/downscaling_engine.py [--model downscaling-demo] [--quick] [--side 240] [--batch 4] [--members 4]
                                            [--repeat 3] [--device cpu] [--threads N]
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from reporting import fastest, parser, print_header, print_table, relative
from torch import Tensor

from diffusion.samplers import build_sampler
from downscaling.conditions import features, known_fields
from downscaling.model import DownscalingModel
from downscaling.publish import synthetic_rain
from gen.hub import resolve
from gen.nn.attention import available_backends

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FACTOR = 4


def main() -> None:
    """Print one table for each part."""
    made = parser(__doc__)
    made.set_defaults(model="downscaling-demo")
    for name, value in (("--side", 240), ("--batch", 4), ("--members", 4), ("--repeat", 3)):
        made.add_argument(name, type=int, default=value)
    options = made.parse_args()
    if options.quick:
        options.side, options.batch, options.members, options.repeat = 80, 2, 2, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    model = DownscalingModel.load(resolve(options.model)).to(options.device)
    counts = [sum(p.numel() for p in n.parameters()) for n in (model.networks.mean, model.networks.denoiser)]
    print_header(options, model=f"{model.meta.name}, {counts[0] / 1e6:.2f} + {counts[1] / 1e6:.2f} M parameters")
    known, rain = scenes(model, options)
    for title, rows in (
        ("Training step", [train(model, known, rain, name, options) for name in PRECISIONS]),
        ("One evaluation of the flow", evaluations(model, known, options)),
        ("Drawing", [draw(model, known, name, options) for name in PRECISIONS]),
    ):
        print(f"{title}, {options.side} x {options.side} pixels, factor {FACTOR}\n")
        print_table(with_errors(rows))


def scenes(model: DownscalingModel, options: argparse.Namespace) -> tuple[dict[str, Tensor], Tensor]:
    """Return what is known of a batch, and its fine rain [B, H, W] in mm/h."""
    fine = torch.from_numpy(synthetic_rain((options.side, options.side), times=options.batch))
    count = options.side // FACTOR
    coarse = fine.reshape(-1, count, FACTOR, count, FACTOR).mean((2, 4))
    places = (torch.arange(count * FACTOR, dtype=torch.float64) + 0.5) / FACTOR
    fields = torch.stack([known_fields(c, places, places, model.transform) for c in coarse])
    axis = torch.arange(options.side, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    told = features(float(FACTOR), 1.0, 1.0, 50.0)
    known = {"fields": fields, "features": told.expand(options.batch, -1), "place": place[None]}
    return {k: v.to(options.device) for k, v in known.items()}, fine.to(options.device)


def autocast(name: str, options: argparse.Namespace) -> Any:
    """Return the context of a precision."""
    return torch.autocast(options.device.split(":")[0], PRECISIONS[name], enabled=name != "float32")


def train(
    model: DownscalingModel, known: dict[str, Tensor], rain: Tensor, name: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Time forward, backward and AdamW; return the loss and the first gradient as well."""
    networks = copy.deepcopy(model.networks).train()
    optimizer = torch.optim.AdamW(networks.parameters(), lr=0.0)
    shape = (len(rain), *networks.noise_shape(*rain.shape[1:]))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(rain)
    there, sigma = torch.ones_like(rain, dtype=torch.bool), torch.linspace(0.2, 0.9, len(rain), device=rain.device)
    amounts, wet = model.transform.forward(rain), model.transform.wet(rain)
    last: dict[str, Tensor] = {}

    def step() -> None:
        optimizer.zero_grad()
        with autocast(name, options):
            last["loss"] = torch.stack([*networks.errors(known, amounts, wet, there, sigma, noise).values()]).sum()
        last["loss"].backward()
        optimizer.step()

    wall, work = fastest(step, options.repeat, options.device)
    gradient = torch.cat([p.grad.flatten().double() for p in networks.parameters() if p.grad is not None])
    row = {"precision": name, "batch": len(rain), "s": wall, "processor s": work, "samples/s": len(rain) / wall}
    return row | {"_loss": last["loss"].detach().double()[None], "_gradient": gradient}


@torch.no_grad()
def evaluations(model: DownscalingModel, known: dict[str, Tensor], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time one call of the flow's network for every attention backend and precision."""
    rows = []
    for name, dtype in PRECISIONS.items():
        backends = [b for b in available_backends(options.device, dtype) if b != "flash" or options.device == "cpu"]
        rows += [evaluate(model, known, name, backend, options) for backend in ("auto", *backends)]
    return rows


def evaluate(
    model: DownscalingModel, known: dict[str, Tensor], name: str, backend: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Time one call of the flow's network."""
    networks = copy.deepcopy(model.networks).eval()
    network: Any = networks.denoiser.network
    if backend != "auto":
        network.use_attention(backend)
    one = {k: v[:1] for k, v in known.items()}
    shape = (options.members, *networks.noise_shape(options.side, options.side))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(options.device)
    found: dict[str, Tensor] = {}
    with autocast(name, options):
        expected, _ = networks.expect(one["fields"], one["features"], one["place"])
        cond = {"fields": networks.known(one["fields"], expected), "features": one["features"]}

        def call() -> None:
            found["x"] = networks.denoiser(x, 0.6, 0.4, **cond, place_km=one["place"][0])

        wall, work = fastest(call, options.repeat, options.device)
    row = {"precision": name, "attention": backend, "members": options.members, "s": wall, "processor s": work}
    return row | {"_x": found["x"].double()}


@torch.no_grad()
def draw(model: DownscalingModel, known: dict[str, Tensor], name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time the drawing of all members of one scene with the model's sampler."""
    defaults = model.meta.sampling
    sampler = build_sampler(defaults.sampler, defaults.steps, **defaults.settings)
    shape = (options.members, *model.networks.noise_shape(options.side, options.side))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(options.device)
    found: dict[str, Tensor] = {}

    def call() -> None:
        with autocast(name, options):
            found["x"] = model.levels(known["fields"][:1], known["features"][:1], noise, sampler, known["place"][0])

    wall, work = fastest(call, options.repeat, options.device)
    pixels = options.members * options.side**2
    row = {"precision": name, "evaluations": sampler.evaluations, "members": options.members, "s": wall}
    return row | {"processor s": work, "us/pixel": 1e6 * wall / pixels, "_levels": found["x"].double()}


def with_errors(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Replace results by their differences from those of the first row."""
    first = rows[0]
    return [
        {
            (f"{k[1:]} error" if k.startswith("_") else k): (relative(v, first[k]) if k.startswith("_") else v)
            for k, v in row.items()
        }
        for row in rows
    ]


if __name__ == "__main__":
    main()
