"""A recipe with a known optimum: y = W x + b by least squares. Also a script: linear_recipe.py OUT [key=value ...]."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from gen.engine import RunConfig, Trainer
from gen.loader import train_loader


@dataclass
class Params:
    samples: int = 40
    noise: float = 0.0
    dropout: float = 0.0
    workers: int = 0
    explode: bool = False


class LinearRecipe:
    Params: ClassVar[type] = Params

    def __init__(self, params: Params, seed: int) -> None:
        self.params, self.seed = params, seed
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(params.samples, 3, generator=generator)
        self.y = self.x @ torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.3, 0.0]]) + torch.tensor([0.7, -0.2])
        self.y = self.y + 0.1 * torch.randn(self.y.shape, generator=generator)
        self.batches: list[torch.Tensor] = []

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.params.dropout), nn.Linear(3, 2))

    def train_loader(self, batch_size: int, rank: int, world: int) -> Any:
        data = TensorDataset(self.x, self.y)
        return train_loader(data, batch_size, self.seed, rank, world, workers=self.params.workers)

    def loss(self, model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        x, y = batch
        self.batches.append(x)
        x = x + self.params.noise * torch.randn(x.shape, generator=generator)
        error = (model(x) - y).square().mean()
        return error / (0.0 if self.params.explode else 1.0), {"rmse": error.detach().sqrt()}

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"mse": float((model(self.x) - self.y).square().mean()), "random": float(torch.rand(()))}

    def export(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file(model.state_dict(), folder / "weights.safetensors")

    def optimum(self) -> torch.Tensor:
        """Return [4, 2]: least-squares weights, then bias."""
        return torch.linalg.lstsq(torch.cat([self.x, torch.ones(len(self.x), 1)], dim=1), self.y).solution


def trainer(out: str, overrides: list[str]) -> Trainer:
    from gen.config import from_mapping, load

    run = load(RunConfig, None, [f"out={out}", *overrides])
    return Trainer(run, LinearRecipe(from_mapping(Params, run.params), run.seed))


def die_after(run: Trainer, step: int) -> None:
    """Run until `step` and stop there as a kill would, without a further checkpoint."""
    train_step = run._train_step

    def dying(*args: Any) -> None:
        if run.state.step >= step:
            raise KeyboardInterrupt
        train_step(*args)

    run._train_step = dying  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        run.fit()


def main(out: str, overrides: list[str]) -> None:
    """Train one step of plain descent; an unbroken run; and one that dies after its checkpoint and continues."""
    descent = ["optim.name=sgd", "optim.lr=1.0", "optim.warmup=0", "optim.clip=null", "optim.schedule=constant"]
    trainer(f"{out}/descent", [*overrides, *descent, "engine.steps=1"]).fit()
    noisy = [*overrides, "engine.steps=9", "engine.save_every=4", "params.noise=0.1", "params.dropout=0.3"]
    trainer(f"{out}/unbroken", noisy).fit()
    die_after(trainer(f"{out}/broken", noisy), 6)
    trainer(f"{out}/broken", noisy).fit()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
