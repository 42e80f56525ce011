"""Order training samples by address: sample k of a run is a function of seed and k, so that any point can be resumed.

The stream of samples is endless: permutation of epoch 0, then of epoch 1, and so on, each drawn from its own seed.
Process r of w takes samples r, r + w, r + 2 w, ... of the stream: w processes with batch b see the same samples in a
step as one process with batch w b.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from gen.seeding import derive_seed

__all__ = ["EndlessSampler", "train_loader"]


class EndlessSampler(Sampler[int]):
    """Yield dataset indices without end; the state is one number.

    Args:
        length: number of samples in the dataset, >= 1.
        seed: run seed.
        rank: index of this process.
        world: number of processes.
        shuffle: permute each epoch; otherwise keep the order of the dataset.

    Raises:
        ValueError: if the dataset is empty or the rank lies outside the world.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1, shuffle: bool = True) -> None:
        if length < 1:
            raise ValueError("the training data set is empty; check the dates and the path of the data")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, {world}); got {rank}")
        self.length, self.seed, self.rank, self.world, self.shuffle = length, seed, rank, world, shuffle

    def __iter__(self) -> Iterator[int]:
        return _Stream(self)

    def permutation(self, epoch: int) -> torch.Tensor:
        """Return the order of one epoch, an int64 tensor [length]."""
        if not self.shuffle:
            return torch.arange(self.length)
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
        return torch.randperm(self.length, generator=generator)


class _Stream:
    """Iterator whose state is the number of samples it has given."""

    def __init__(self, sampler: EndlessSampler) -> None:
        self.sampler, self.given, self.epoch = sampler, 0, -1
        self.order = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        epoch, position = divmod(self.given * self.sampler.world + self.sampler.rank, self.sampler.length)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.sampler.permutation(epoch)
        self.given += 1
        return int(self.order[position])

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = int(state["given"])


def train_loader(
    dataset: Dataset[Any],
    batch_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    *,
    workers: int = 0,
    shuffle: bool = True,
    collate: Callable[[list[Any]], Any] | None = None,
) -> StatefulDataLoader[Any]:
    """Build the endless, resumable loader of one process over a map-style dataset.

    Args:
        dataset: map-style dataset with a length.
        batch_size: samples per batch of this process.
        seed: run seed.
        rank: index of this process.
        world: number of processes.
        workers: worker processes; the order of the samples does not depend on it.
        shuffle: permute each epoch.
        collate: builds a batch from a list of samples; torch's default when None.
    """
    sampler = EndlessSampler(len(dataset), seed, rank, world, shuffle)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(derive_seed("workers", seed, rank))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated")  # torchdata 0.11 beside torch 2.13
        return StatefulDataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            generator=generator,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
