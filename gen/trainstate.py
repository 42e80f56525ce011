"""Put all that a training run is into a checkpoint, and back: the exactness of resuming lives here.

Model, averages and optimiser are saved whole and by parameter name; each process adds the state of its data loader. No
generator is saved: random numbers are a function of the samples seen (`gen.seeding.step_generator`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen import __version__
from gen.checkpoint import CheckpointError, begin, commit, read_tree, write_tree
from gen.ema import Ema
from gen.optim import full_tensor, load_optimizer, pack_optimizer, shard_like

__all__ = ["Parts", "TrainState", "load_state", "save_state"]

log = logging.getLogger(__name__)


@dataclass
class TrainState:
    """Count what a run has done.

    Args:
        step: optimiser steps.
        samples: samples of all processes.
        elapsed: seconds of training.
        window: measurements since the last row of the log.
    """

    step: int = 0
    samples: int = 0
    elapsed: float = 0.0
    window: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Parts:
    """Name the objects whose state makes a checkpoint.

    Args:
        model: the bare model (its parameters may be sharded).
        optimizer: torch's or accelerate's optimiser.
        ema: averages of the weights.
        loader: data loader of this process.
        rank: index of this process.
    """

    model: nn.Module
    optimizer: Any
    ema: Sequence[Ema]
    loader: Any
    rank: int

    @property
    def bare_optimizer(self) -> torch.optim.Optimizer:
        """Return torch's optimiser inside accelerate's."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @property
    def names(self) -> dict[Tensor, str]:
        """Return the name of each parameter."""
        return {p: name for name, p in self.model.named_parameters()}


def save_state(root: Path, accelerator: Any, parts: Parts, state: TrainState, identity: Mapping[str, Any]) -> None:
    """Write one checkpoint below `root`; every process of the run must call."""
    model = {name: full_tensor(value) for name, value in parts.model.state_dict().items()}
    averages = [{name: full_tensor(value) for name, value in ema.average.items()} for ema in parts.ema]
    optimizer = pack_optimizer(parts.bare_optimizer, parts.names)
    partial = begin(root, state.step) if accelerator.is_main_process else root / f"step_{state.step:07d}.partial"
    accelerator.wait_for_everyone()
    window = [{name: float(value) for name, value in entry.items()} for entry in state.window]
    write_tree(partial, f"process_{parts.rank}", {"loader": parts.loader.state_dict(), "window": window})
    if accelerator.is_main_process:
        write_tree(partial, "model", model)
        write_tree(partial, "ema", averages)
        write_tree(partial, "optimizer", optimizer)
        versions = {"gen": __version__, "torch": torch.__version__}
        write_tree(partial, "state", {"identity": dict(identity), "versions": versions, **_counters(state)})
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        commit(partial)
    accelerator.wait_for_everyone()


def load_state(folder: Path, parts: Parts, identity: Mapping[str, Any]) -> TrainState:
    """Read a checkpoint into the parts and return the counters.

    Raises:
        CheckpointError: if the checkpoint is damaged or belongs to a run with another identity.
    """
    saved = read_tree(folder, "state")
    _check_identity(folder, saved.pop("identity"), identity)
    saved.pop("versions")
    own = read_tree(folder, f"process_{parts.rank}")
    _copy(folder, parts.model.state_dict(), read_tree(folder, "model"))
    for ema, average in zip(parts.ema, read_tree(folder, "ema"), strict=True):
        _copy(folder, ema.average, average)
    try:
        load_optimizer(parts.bare_optimizer, parts.names, read_tree(folder, "optimizer"))
    except ValueError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from None
    parts.loader.load_state_dict(own["loader"])
    return TrainState(**saved, window=own["window"])


def _counters(state: TrainState) -> dict[str, Any]:
    counters = asdict(TrainState(state.step, state.samples, state.elapsed))
    del counters["window"]  # each process keeps its own
    return counters


def _check_identity(folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in {**saved, **wanted}:
        if key == "params" and saved.get(key) != wanted.get(key):
            log.warning("the recipe's parameters differ from those of %s; it continues with the new ones", folder)
        elif saved.get(key) != wanted.get(key):
            raise CheckpointError(
                f"checkpoint {folder} belongs to another run: {key} is {wanted.get(key)!r}, was {saved.get(key)!r}; "
                "give this run another `out`, or the old value"
            )


@torch.no_grad()
def _copy(folder: Path, targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into tensors of the same names and shapes, and refuse anything else."""
    if differing := targets.keys() ^ values.keys():
        raise CheckpointError(
            f"checkpoint {folder} and model differ in {len(differing)} tensors, for example {min(differing)}"
        )
    for name, target in targets.items():
        if target.shape != values[name].shape:
            shapes = f"{tuple(values[name].shape)}, the model's {tuple(target.shape)}"
            raise CheckpointError(f"checkpoint {folder}: the shape of {name} is {shapes}")
        target.copy_(shard_like(values[name], target))
