"""Say what is trained: the protocol between a task's recipe and the engine.

`gen.engine.Trainer` asks a recipe for a model, batches and a loss, and does everything else.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Run any work on a model as the forward of a module.

    What wraps the module (DDP, FSDP, autocast) then covers all that a loss or a validation does with the model, and
    sees no tensor of the batch that it could cast to half precision.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], Any]) -> Any:
        """Return what `work` makes of the model."""
        return work(self.model)
