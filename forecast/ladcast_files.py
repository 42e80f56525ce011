"""Find the networks of LaDCast: in a folder, in two folders, or on the Hugging Face hub.

A published network is a folder with `config.json` and safetensors files (diffusers' `save_pretrained`). On the hub only
JSON and safetensors files are downloaded. Nothing is ever unpickled.
"""

from __future__ import annotations

__all__ = ["EMA_FIELDS", "Kind", "LadcastError", "PublishedNetwork", "find_networks", "read_network"]

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gen.weights import WeightFiles

Kind = Literal["autoencoder", "transformer"]

CLASSES: dict[str, Kind] = {"AutoencoderDC": "autoencoder", "LaDCastTransformer3DModel": "transformer"}
TELLING: dict[str, Kind] = {"encoder_block_out_channels": "autoencoder", "rope_axes_dim": "transformer"}
EMA_FIELDS = frozenset(  # what diffusers' EMAModel adds to a configuration
    {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_AUTOENCODER = "V0.1.X/DCAE"
HUB_SECONDS = 5
SHOWN = 3


class LadcastError(ValueError):
    """These files are no published LaDCast network, or not a whole one; the message is one line."""


@dataclass(frozen=True)
class PublishedNetwork:
    """One network on the disk: `label` says where it comes from, without naming this machine."""

    kind: Kind
    config: dict[str, Any]
    files: WeightFiles
    label: str

    def check(self, network: nn.Module) -> None:
        """Raise LadcastError unless names and shapes of all weights are those of `network`."""
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        found = self.files.shapes
        common = [n for n in expected if n in found]
        shapes = [f"{n} {found[n]} instead of {expected[n]}" for n in common if found[n] != expected[n]]
        faults = [
            _listed("missing", [n for n in expected if n not in found]),
            _listed("unknown", [n for n in found if n not in expected]),
            _listed("mis-shaped", shapes),
        ]
        if text := "; ".join(fault for fault in faults if fault):
            raise LadcastError(f"the weights of {self.files.folder} do not fit its configuration: {text}")

    def load_into(self, network: nn.Module) -> nn.Module:
        """Give a network on the meta device these weights in float32 and return it in eval mode."""
        self.check(network)
        weights = {name: self._finite(name, value).float() for name, value in self.files}
        network.load_state_dict(weights, assign=True)
        return network.eval()

    def _finite(self, name: str, value: Tensor) -> Tensor:
        if not bool(torch.isfinite(value).all()):
            raise LadcastError(f"weight {name} of {self.files.folder} is not finite")
        return value


def read_network(folder: Path | str, kind: Kind, label: str = "") -> PublishedNetwork:
    """Open a folder with `config.json` and safetensors.

    Raises:
        ValueError: it holds another network, a pickle, or a file that is damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise LadcastError(f"{folder}: no such folder")
    config = _config(folder)
    name = config.get("_class_name", "a network without a class name")
    if (found := _kind(config)) != kind:
        expected = next(cls for cls, other in CLASSES.items() if other == kind)
        raise LadcastError(f"{folder} holds {name}, not the {kind} of LaDCast ({expected})")
    return PublishedNetwork(found, config, WeightFiles(folder), label or folder.name)


def find_networks(
    source: str | Path, autoencoder: str | Path | None = None, transformer: str | Path | None = None
) -> dict[Kind, PublishedNetwork]:
    """Find the autoencoder and, where there is one, the transformer.

    Args:
        source: folder of one network, folder with networks in sub-folders, or "owner/name" on the hub (which is asked
            only when no such folder exists).
        autoencoder: sub-folder of the source, or another folder; needed where there are several.
        transformer: likewise.

    Raises:
        ValueError: no such source, no network in it, several to choose from, or a damaged file; one line.
    """
    root, choices = Path(source).expanduser(), {"autoencoder": autoencoder, "transformer": transformer}
    remote = not root.exists()
    if remote:
        root = _hub(str(source), ["*config.json", "*.safetensors.index.json"])
    elif not root.is_dir():
        raise LadcastError(f"{root} is a file; give the folder that holds config.json and the weights")
    chosen = _choose(root, str(source), choices, HUB_AUTOENCODER if remote else None)
    inside = {kind: folder for kind, folder in chosen.items() if folder.is_relative_to(root)}
    if remote and inside:
        wanted = [str(folder.relative_to(root) / ending) for folder in inside.values() for ending in ("*.safetensors",)]
        _hub(str(source), wanted)
    label = f"{source} @ {root.name[:12]}" if remote else root.name
    return {
        kind: read_network(folder, kind, _label(label, root, folder) if kind in inside else folder.name)
        for kind, folder in chosen.items()
    }


def _choose(
    root: Path, source: str, choices: Mapping[str, str | Path | None], favourite: str | None
) -> dict[Kind, Path]:
    """Return the folder of each kind: the one that was asked for, else the only one there is."""
    known = _known(root)
    chosen: dict[Kind, Path] = {}
    for kind in CLASSES.values():
        if (wish := choices[kind]) is not None:
            chosen[kind] = _wished(root, source, kind, wish)
            continue
        folders = [folder for folder, other in known.items() if other == kind]
        if favourite and root / favourite in folders:
            folders = [root / favourite]
        if len(folders) > 1:
            names = ", ".join(str(f.relative_to(root)) for f in folders[:8])
            raise LadcastError(f"{source} holds {len(folders)} of them ({names}); choose with --{kind} NAME")
        if folders:
            chosen[kind] = folders[0]
    if not chosen:
        raise LadcastError(f"{source} holds no network of LaDCast: no config.json of {' or '.join(CLASSES)}")
    if "autoencoder" not in chosen:
        raise LadcastError(f"{source} holds a transformer only; say where its autoencoder is with --autoencoder FOLDER")
    return chosen


def _wished(root: Path, source: str, kind: str, wish: str | Path) -> Path:
    for folder in (root / wish, Path(wish).expanduser()):
        if (folder / "config.json").is_file():
            return folder
    near = ", ".join(str(f.relative_to(root)) for f in _known(root)) or "none"
    raise LadcastError(f"--{kind} {wish}: neither {source} nor this machine has such a folder; {source} has {near}")


def _known(root: Path) -> dict[Path, Kind]:
    """Return the folders at or below `root` that hold a network of LaDCast, by kind."""
    found = {}
    for path in sorted(root.rglob("config.json")):
        try:
            found[path.parent] = _kind(_config(path.parent))
        except LadcastError:
            if path.parent == root:
                raise
    return {folder: kind for folder, kind in found.items() if kind is not None}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LadcastError(f"{folder} has no config.json") from None
    except (OSError, ValueError) as error:
        raise LadcastError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise LadcastError(f"{path} holds no configuration")
    return config


def _kind(config: Mapping[str, Any]) -> Kind | None:
    """Return what a configuration describes; one without a class name is known by its fields."""
    if "_class_name" in config:
        return CLASSES.get(str(config["_class_name"]))
    return next((kind for field, kind in TELLING.items() if field in config), None)


def _hub(source: str, patterns: list[str]) -> Path:
    """Download files of a repository of the hub, or find them in its cache, and return the folder."""
    if not HUB_ID.fullmatch(source):
        raise LadcastError(f"{source}: no such folder, and no name on the hub (OWNER/NAME)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise LadcastError(f"{source}: no such folder, and the hub needs `pip install huggingface_hub`") from None
    try:
        return Path(snapshot_download(source, allow_patterns=patterns, etag_timeout=HUB_SECONDS))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")[:160]
        raise LadcastError(f"{source}: no such folder, and the hub did not give it ({reason})") from None


def _label(label: str, root: Path, folder: Path) -> str:
    inside = folder.relative_to(root).as_posix()
    return label if inside == "." else f"{label}, {inside}"


def _listed(word: str, names: list[str]) -> str:
    """Return "3 missing (a, b, c)", at most the first few, or nothing."""
    if not names:
        return ""
    return f"{len(names)} {word} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
