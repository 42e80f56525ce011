"""Report the reconstruction error of a model's codec per channel, as a fraction of the 6 h persistence error.

    python benchmarks/reconstruction.py --model demo --config configs/forecast/demo-codec.yaml

Both errors are root mean squares over the validation interval of the configuration, with exact cell areas.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from autoencoders.store import load_codec
from gen.config import load
from gen.engine import RunConfig
from gen.hub import resolve
from gen.train import load_recipe


def main() -> None:
    """Print one line per channel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--config", type=Path, default=Path("configs/forecast/demo-codec.yaml"))
    chosen = parser.parse_args()
    recipe = load_recipe(load(RunConfig, chosen.config, []))
    codec = load_codec(resolve(chosen.model))
    area, errors, changes = recipe.area, [], []
    with torch.no_grad():
        for states in recipe._sample(recipe.valid_range):
            x = codec.normalise(states)
            y = codec.dcae.decode(codec.dcae.encode(x[::8], codec.static)).float()
            errors.append(((y - x[::8]).square() * area).sum((-2, -1)).mean(0))
            changes.append((torch.diff(x, dim=0).square() * area).sum((-2, -1)).mean(0))
    ratio = (torch.stack(errors).mean(0) / torch.stack(changes).mean(0)).sqrt()
    for channel, value in zip(codec.channels, ratio.tolist(), strict=True):
        print(f"{channel.code:6s} {value:.3f}")


if __name__ == "__main__":
    main()
