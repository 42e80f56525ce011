"""Weights of networks as safetensors files, read and written one tensor at a time.

`safetensors.torch.save_file` wants every tensor in memory, several times over when they are also cast; a network of
6 GB would need 20 GB to be rewritten. Here a file is written as its tensors come, in the memory of the largest one. The
format (huggingface/safetensors): eight bytes with the length of the header, a JSON header with the type, the shape and
the place of every tensor, then their bytes without a gap.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["WEIGHTS", "WeightFiles", "WeightsError", "target_type", "write_weights"]

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"  # the name that diffusers gives
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class WeightsError(ValueError):
    """Weights are missing, damaged or in a form that is not read; the message is one line."""


class WeightFiles:
    """The weights in a folder: one safetensors file, or several with their index. Headers are read, tensors are not.

    Args:
        folder: where they lie.

    Raises:
        WeightsError: there are none or only pickles, a file is damaged or missing, or the index does not fit the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = _places(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in dict.fromkeys(self.places.values()):
            with _opened(path) as file:
                present = set(file.keys())
                for name in (n for n, place in self.places.items() if place == path):
                    if name not in present:
                        raise WeightsError(f"{path} lacks {name}, which its index names; download it again")
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one at a time.

        A file is mapped for one tensor only, which is then copied: pages that were read do not add up, and a file that
        is overwritten later does not change a network that was loaded from it.
        """
        for name, path in self.places.items():
            with _opened(path) as file:
                value = file.get_tensor(name).clone()
            yield name, value


def write_weights(
    path: Path, kinds: Mapping[str, tuple[Any, torch.dtype]], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a safetensors file as its tensors come, whatever their order.

    Args:
        path: file to write.
        kinds: shape and stored type of each tensor by name.
        tensors: the tensors; each is cast to its type.

    Raises:
        WeightsError: a value is not finite in its type.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in kinds.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        written = set()
        for name, value in tensors:
            stream.seek(8 + len(text) + header[name]["data_offsets"][0])
            stream.write(_raw(name, value, kinds[name]))
            written.add(name)
    assert written == set(kinds), "every tensor of the header must come"


def target_type(kind: torch.dtype, floating: torch.dtype) -> torch.dtype:
    """Return the type to store a tensor of type `kind` in: `floating` for floating-point numbers."""
    return floating if kind.is_floating_point else kind


def _raw(name: str, value: Tensor, kind: tuple[Any, torch.dtype]) -> Any:
    shape, dtype = kind
    stored = value.detach().to(device="cpu", dtype=dtype).contiguous()
    assert tuple(stored.shape) == tuple(shape), name
    if not bool(torch.isfinite(stored).all()):
        raise WeightsError(f"weight {name} is not finite as {str(dtype).removeprefix('torch.')}")
    return stored.reshape(-1).view(torch.uint8).numpy().data


def _places(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor."""
    if index := sorted(folder.glob("*.safetensors.index.json")):
        return _sharded(index[0])
    found = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        raise WeightsError(f"{folder} holds {len(found)} safetensors files and no index; leave the one to be read")
    if not found:
        raise WeightsError(_without(folder))
    with _opened(found[0]) as file:
        return dict.fromkeys(file.keys(), found[0])


def _sharded(index: Path) -> dict[str, Path]:
    try:
        named = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{index} is damaged: it has no weight_map; download it again") from None
    for shard in set(named.values()):
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise WeightsError(f"{index} names {shard!r}, which is no safetensors file beside it")
        if not (index.parent / shard).is_file():
            raise WeightsError(f"{index.parent} lacks {shard}, which its index names; download it again")
    return {name: index.parent / shard for name, shard in named.items()}


def _without(folder: Path) -> str:
    """Say what is there instead of weights."""
    if pickles := sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES):
        return (
            f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is read; save the weights as "
            "safetensors where you trust them"
        )
    return f"{folder} has no weights: no {WEIGHTS}"


def _opened(path: Path) -> Any:
    """Open a file; its header is checked against its length."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is damaged or cut short ({reason}); download it again") from None
