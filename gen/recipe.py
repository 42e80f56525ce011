"""Say what is trained: the protocol between a task's recipe and the engine.

`gen.engine.Trainer` asks a recipe for a model, batches and a loss, and does everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Objective", "Recipe"]


class Recipe(Protocol):
    """What the engine needs to know of a training task; built as `Recipe(params, seed)`."""

    Params: ClassVar[type]
    params: Any

    def model(self) -> nn.Module:
        """Build the model with fresh weights (float32); the engine seeds torch before the call."""
        ...

    def train_loader(self, batch_size: int, rank: int, world: int) -> Any:
        """Return this process's loader with `state_dict`/`load_state_dict`; `gen.loader.train_loader` builds one."""
        ...

    def loss(self, model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Return the scalar loss and numbers for the log; all randomness from the (CPU) generator."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Score the model (averaged weights, eval mode, no gradient)."""
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model folder (averaged weights, on the CPU)."""
        ...


class Objective(nn.Module):
    """Make the loss the forward of a module: wrappers (DDP, FSDP, autocast) then cover any method of the model."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self._loss = recipe.loss

    def forward(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Return the recipe's loss of a batch."""
        return self._loss(self.model, batch, generator)
