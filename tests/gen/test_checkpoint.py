"""Checkpoints: trees come back equal, only whole folders count, damage is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen.checkpoint import CheckpointError, begin, commit, latest, prune, read_tree, write_tree

TEXTS = st.text(max_size=5) | st.binary(max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
KEYS = st.text(max_size=4) | st.integers(0, 9) | st.just("!tensor")
TREES = st.recursive(
    SCALARS,
    lambda t: st.lists(t, max_size=3) | st.tuples(t, t) | st.dictionaries(KEYS, t, max_size=3),
    max_leaves=8,
)


@given(tree=TREES)
def test_trees_come_back_equal(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    """What is read equals what was written, types of containers and keys included."""
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder, "t", tree)
    back = read_tree(folder, "t")
    assert back == tree and repr(back) == repr(tree)


def test_tensors_come_back_with_their_bits(tmp_path: Path) -> None:
    """Tensors of any kind, 0-dim and non-contiguous ones, and arrays keep dtype, shape and bits."""
    tensors = [
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        torch.tensor(2.0),
        torch.zeros(0, 3),
        torch.arange(4, dtype=torch.uint8),
        torch.ones(2, dtype=torch.bfloat16),
    ]
    write_tree(tmp_path, "t", {"a": tensors, "n": np.arange(3.0), 5: np.float32(0.5)})
    back = read_tree(tmp_path, "t")
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back["a"], tensors, strict=True))
    assert np.array_equal(back["n"], np.arange(3.0)) and back[5] == 0.5
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_other_objects_are_refused(tmp_path: Path) -> None:
    """Nothing is pickled: an object without a plain form is an error that names its place."""
    with pytest.raises(TypeError, match=r"t\.a\.0"):
        write_tree(tmp_path, "t", {"a": [object()]})


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    """A save that was cut off is neither the latest checkpoint nor in the way of the next save."""
    assert latest(tmp_path) is None
    write_tree(begin(tmp_path, 5), "state", 1)
    assert latest(tmp_path) is None
    partial = begin(tmp_path, 5)
    assert not any(partial.iterdir())
    write_tree(partial, "state", 2)
    assert commit(partial) == latest(tmp_path) == tmp_path / "step_0000005"
    write_tree(begin(tmp_path, 5), "state", 3)
    assert read_tree(tmp_path / "step_0000005", "state") == 2


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    """The newest checkpoints stay, counted by step and not by name or date; remains of cut-off saves go."""
    for step in (10_000_000, 30, 4, 200):
        commit(begin(tmp_path, step))
    begin(tmp_path, 7)
    prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000200", "step_10000000"]
    assert latest(tmp_path) == tmp_path / "step_10000000"


@pytest.mark.parametrize("damage", ["truncate", "text", "missing"])
def test_damage_is_one_line(tmp_path: Path, damage: str) -> None:
    """A truncated, overwritten or missing file is a CheckpointError of one line that names the folder."""
    write_tree(tmp_path, "t", {"a": torch.ones(100)})
    weights, text = tmp_path / "t.safetensors", tmp_path / "t.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif damage == "text":
        text.write_text('{"a": ')
    else:
        text.unlink()
    with pytest.raises(CheckpointError, match=tmp_path.name) as caught:
        read_tree(tmp_path, "t")
    assert "\n" not in str(caught.value)
