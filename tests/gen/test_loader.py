"""Order of training samples: complete epochs, one stream for all processes, exact continuation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from gen.checkpoint import read_tree, write_tree
from gen.loader import EndlessSampler, train_loader

DATA = TensorDataset(torch.arange(11))


def take(batches: Iterator[Any], count: int) -> list[list[int]]:
    return [batch[0].tolist() for batch in itertools.islice(batches, count)]


def test_every_epoch_is_a_permutation() -> None:
    """Each 11 samples of the stream are the 11 of the data set once, in another order each time."""
    stream = list(itertools.islice(iter(EndlessSampler(11, seed=1)), 44))
    epochs = [tuple(stream[i : i + 11]) for i in range(0, 44, 11)]
    assert all(sorted(e) == list(range(11)) for e in epochs) and len(set(epochs)) == 4


def test_processes_share_one_stream() -> None:
    """A step of 3 processes with batch 2 uses the samples of one process with batch 6, also across epochs."""
    alone = take(iter(train_loader(DATA, 6, seed=3)), 8)
    shared = [take(iter(train_loader(DATA, 2, seed=3, rank=r, world=3)), 8) for r in range(3)]
    for step in range(8):
        assert sorted(sum((part[step] for part in shared), [])) == sorted(alone[step])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_continues_where_it_was(workers: int, tmp_path: Any) -> None:
    """A new loader with the saved state gives the batches the old one would have given, whatever the workers."""
    unbroken = take(iter(train_loader(DATA, 4, seed=2)), 9)
    loader = train_loader(DATA, 4, seed=2, workers=workers)
    batches = iter(loader)
    assert take(batches, 5) == unbroken[:5]
    write_tree(tmp_path, "loader", loader.state_dict())
    other = train_loader(DATA, 4, seed=2, workers=workers)
    other.load_state_dict(read_tree(tmp_path, "loader"))
    assert take(iter(other), 4) == unbroken[5:]


def test_impossible_samplers_are_refused() -> None:
    """An empty data set and a rank outside the world are errors."""
    with pytest.raises(ValueError, match="empty"):
        EndlessSampler(0, seed=0)
    with pytest.raises(ValueError, match="rank"):
        EndlessSampler(3, seed=0, rank=2, world=2)
