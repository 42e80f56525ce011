"""gen.weights: the library reads what we write, and damage is one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gen.weights import WEIGHTS, WeightFiles, WeightsError, write_weights

VALUES = {
    "b.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "a.bias": torch.arange(5.0),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "mask": torch.tensor([True, False]),
    "count": torch.tensor([7, 8, 9]),
}


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    """Any order of arrival, any shape, numbers and masks; floating-point numbers are stored in the type asked for."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        kinds = {n: (v.shape, dtype if v.is_floating_point() else v.dtype) for n, v in VALUES.items()}
        write_weights(tmp_path / "w.safetensors", kinds, reversed(VALUES.items()))
        found = load_file(tmp_path / "w.safetensors")
        assert set(found) == set(VALUES)
        for name, value in VALUES.items():
            assert found[name].dtype == kinds[name][1] and torch.equal(found[name], value.to(kinds[name][1]))


def test_one_file_and_shards_hold_the_same(tmp_path: Path) -> None:
    """A large network lies in several files with an index (`save_pretrained`): the same names, shapes and values."""
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir()
    several.mkdir()
    save_file(VALUES, one / WEIGHTS)
    halves = [dict(list(VALUES.items())[:3]), dict(list(VALUES.items())[3:])]
    for k, half in enumerate(halves):
        save_file(half, several / f"part-{k}.safetensors")
    names = {name: f"part-{k}.safetensors" for k, half in enumerate(halves) for name in half}
    (several / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for folder in (one, several):
        files = WeightFiles(folder)
        assert files.shapes == {name: tuple(value.shape) for name, value in VALUES.items()}
        read = dict(files)
        assert all(torch.equal(read[name], value) for name, value in VALUES.items())


def test_what_was_read_does_not_change_with_its_file(tmp_path: Path) -> None:
    """Overwriting a file in place, as `cp` does, leaves the tensors that were read as they were."""
    save_file({"w": torch.ones(1000)}, tmp_path / WEIGHTS)
    ((_, read),) = WeightFiles(tmp_path)
    with (tmp_path / WEIGHTS).open("r+b") as stream:
        stream.write(bytes((tmp_path / WEIGHTS).stat().st_size))
    assert torch.equal(read, torch.ones(1000))


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """NaN, and what overflows the stored type: 1e6 is no float16."""
    for value, dtype, word in ((torch.nan, torch.float32, "float32"), (1e6, torch.float16, "float16")):
        with pytest.raises(WeightsError, match=f"weight w is not finite as {word}"):
            write_weights(tmp_path / "w.safetensors", {"w": ((1,), dtype)}, [("w", torch.tensor([value]))])


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    """No weights, pickles only, a cut file, a header of nonsense, a missing shard, an index that leads elsewhere."""
    with pytest.raises(WeightsError, match=f"has no weights: no {WEIGHTS}"):
        WeightFiles(tmp_path)
    torch.save(VALUES, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds diffusion_pytorch_model.bin, a pickle, which can run any code"):
        WeightFiles(tmp_path)
    save_file(VALUES, tmp_path / WEIGHTS)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for content in (whole[:-7], whole[:60], b"", struct.pack("<Q", 10**15) + b"{}", b"<html>not found</html>"):
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{WEIGHTS} is damaged or cut short") as caught:
            WeightFiles(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / WEIGHTS).write_bytes(whole)
    index = tmp_path / f"{WEIGHTS}.index.json"
    for weight_map, words in (
        ({"a.bias": "../secret.safetensors"}, "is no safetensors file beside it"),
        ({"a.bias": "part-2.safetensors"}, "lacks part-2.safetensors, which its index names"),
        ({"c.bias": WEIGHTS}, "lacks c.bias, which its index names"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(WeightsError, match=words):
            WeightFiles(tmp_path)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="damaged: it has no weight_map"):
        WeightFiles(tmp_path)


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    """Nobody can know which of them to read, unless one has the name that diffusers gives."""
    for name in ("a.safetensors", "b.safetensors"):
        save_file(VALUES, tmp_path / name)
    with pytest.raises(WeightsError, match="holds 2 safetensors files and no index"):
        WeightFiles(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / WEIGHTS)
    assert set(WeightFiles(tmp_path).shapes) == {"x"}
