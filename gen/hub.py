"""Model folders: written whole, checked by hash when opened, found by name.

A model folder is laid out like a diffusers pipeline: `model_index.json`, one sub-folder per network with `config.json`
and `diffusion_pytorch_model.safetensors`, JSON documents and further tensors beside them, and `SHA256SUMS` over all of
these (the format of `sha256sum --check`); the card `README.md` stays free to be edited. The digest of a folder is the
SHA-256 of `SHA256SUMS`: it names what the model computes.

A name is a packaged model or an existing folder; nothing is ever fetched because a path was mistyped.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen import __version__
from gen.provenance import file_sha256
from gen.weights import WEIGHTS, WeightFiles, WeightsError, target_type, write_weights

__all__ = ["PACKAGED", "HubError", "ModelFolder", "load_pipeline", "open_model", "resolve", "save_model", "seal"]

PACKAGED = {  # name -> package, folder inside it
    "demo": ("forecast", "weights/demo"),
    "downscaling-demo": ("downscaling", "weights/demo"),
}
PIPELINES = {"forecast": "forecast.pipeline:load_pipeline", "codec": "autoencoders.store:load_codec"}  # by kind
TRUSTED = ("gen", "autoencoders", "diffusion", "forecast", "downscaling", "diffusers")  # whose classes may be named
INDEX, SUMS, CARD = "model_index.json", "SHA256SUMS", "README.md"


class HubError(ValueError):
    """A model is missing, damaged or not ours; the message is one line."""


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose files have been checked.

    Args:
        path: the folder.
        index: content of `model_index.json`.
        digest: SHA-256 over all files, in hexadecimal.
    """

    path: Path
    index: dict[str, Any]
    digest: str

    @property
    def sha256(self) -> str:
        """Return the digest."""
        return self.digest

    def load(self, component: str, cls: type | None = None) -> Any:
        """Build a network and load its weights, cast to float32, in eval mode on the CPU.

        Args:
            component: name of the sub-folder.
            cls: class to build; by default the one the index names.

        Raises:
            HubError: if there is no such component, or weights and configuration do not fit.
        """
        folder = self.path / component
        if component not in self.components:
            raise HubError(f"model {self.path} has no component {component!r}; it has {', '.join(self.components)}")
        cls = cls or self._class_of(component)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        try:
            weights = {k: v.to(target_type(v.dtype, torch.float32)) for k, v in WeightFiles(folder)}
            model, empty = _build(cls, config)
            model.load_state_dict(weights, assign=empty)
        except (RuntimeError, TypeError, ValueError) as error:
            raise HubError(f"model {folder} does not fit {cls.__name__}: {_one_line(error)}") from error
        return model.eval()

    def document(self, name: str) -> dict[str, Any]:
        """Read the JSON document `NAME.json`."""
        return dict(json.loads(self._file(f"{name}.json").read_text(encoding="utf-8")))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of `NAME.safetensors` as they are stored."""
        from safetensors.torch import load_file

        return load_file(self._file(f"{name}.safetensors"))

    @property
    def components(self) -> list[str]:
        """Return the names of the networks."""
        return [name for name, value in self.index.items() if isinstance(value, list) and len(value) == 2]

    def _class_of(self, component: str) -> type:
        module, name = self.index[component]
        if str(module).partition(".")[0] not in TRUSTED:
            raise HubError(f"model {self.path} asks for {module}.{name}; only {', '.join(TRUSTED)} are trusted")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            found = None
        if not (isinstance(found, type) and issubclass(found, nn.Module) and hasattr(found, "from_config")):
            raise HubError(f"model {self.path} asks for {module}.{name}, which is no network of a model folder")
        return found

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise HubError(f"model {self.path} has no file {name}")
        return path


def save_model(
    folder: Path | str,
    components: Mapping[str, nn.Module],
    meta: Mapping[str, Any],
    *,
    documents: Mapping[str, Mapping[str, Any]] | None = None,
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    card: str = "",
    dtype: torch.dtype = torch.float32,
    weights: Mapping[str, Iterable[tuple[str, Tensor]]] | None = None,
) -> Path:
    """Write a model folder under a temporary name and rename it when it is whole; what fails leaves nothing.

    Args:
        folder: where; an older model folder there is replaced, anything else refused.
        components: networks (`ModelMixin` with `ConfigMixin`) by name.
        meta: further entries of the index.
        documents: JSON documents by name.
        tensors: further tensors by name; stored as they are.
        card: text of the model card; a skeleton when empty.
        dtype: storage of the networks' floating-point weights; loading casts back to float32.
        weights: (name, tensor) pairs of a component to write instead of its own weights, which may be on the meta
            device; they are taken one at a time.

    Raises:
        HubError: if the folder holds something else, or a weight is not finite in `dtype`.
    """
    index = _index(components, meta)
    with _staged(Path(folder)) as partial:
        for name, network in components.items():
            _write_network(partial / name, network, dtype, (weights or {}).get(name))
        for name, document in (documents or {}).items():
            _write_json(partial / f"{name}.json", document)
        for name, values in (tensors or {}).items():
            kinds = {key: (value.shape, value.dtype) for key, value in values.items()}
            write_weights(partial / f"{name}.safetensors", kinds, values.items())
        _write_json(partial / INDEX, index)
        (partial / CARD).write_text(card or _card(index), encoding="utf-8")
        seal(partial)
    return Path(folder)


def load_pipeline(name_or_path: str | Path) -> Any:
    """Load a model by the kind its index names: a forecast pipeline (`forecast.pipeline`), or a codec.

    Raises:
        HubError: there is no such model, it is damaged, or nothing loads its kind.
    """
    model = open_model(resolve(name_or_path))
    kind = str(model.index.get("kind", ""))
    if kind not in PIPELINES:
        raise HubError(f"{model.path} holds a model of kind {kind!r}; known are {', '.join(sorted(PIPELINES))}")
    module, _, function = PIPELINES[kind].partition(":")
    return getattr(importlib.import_module(module), function)(model)


def seal(folder: Path | str) -> str:
    """Write `SHA256SUMS` over the files a model folder holds now, and return its digest.

    For files added after `save_model`, such as an archive of initial states.
    """
    path = Path(folder)
    sums = "".join(f"{file_sha256(path / name)}  {name}\n" for name in _files(path)).encode()
    (path / SUMS).write_bytes(sums)
    return hashlib.sha256(sums).hexdigest()


def open_model(folder: Path | str | ModelFolder) -> ModelFolder:
    """Check every file of a model folder against its SHA-256 and read the index; one already opened is returned.

    Raises:
        HubError: if the folder, a file or a hash is missing, or a file is damaged.
    """
    if isinstance(folder, ModelFolder):
        return folder
    path = Path(folder)
    if not (path / INDEX).is_file():
        raise HubError(f"{path} is no model folder: it has no {INDEX}")
    if not (path / SUMS).is_file():
        raise HubError(f"model {path} has no {SUMS}: its weights cannot be trusted; export or download it again")
    text = (path / SUMS).read_bytes()
    listed = _parse_sums(path, text)
    for name, expected in listed.items():
        if not (path / name).is_file():
            raise HubError(f"model {path} lacks {name}; export or download it again")
        if (actual := file_sha256(path / name)) != expected:
            raise HubError(
                f"model {path} is damaged: {name} has SHA-256 {actual[:12]}…, not {expected[:12]}…; "
                "export or download it again"
            )
    if stray := [name for name in _files(path) if name not in listed and name.endswith((".json", ".safetensors"))]:
        raise HubError(f"model {path} holds {stray[0]}, which {SUMS} does not list; remove it")
    index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    return ModelFolder(path, index, hashlib.sha256(text).hexdigest())


def resolve(name_or_path: str | Path) -> Path:
    """Return the folder of a packaged model or of an existing path; never ask a network.

    Raises:
        HubError: if there is neither.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    if name in PACKAGED:
        path = _packaged(name)
    if (path / INDEX).is_file():
        return path
    names = ", ".join(sorted(PACKAGED))
    if name in PACKAGED:
        raise HubError(f"the packaged model {name!r} is not in this installation ({path} has no {INDEX}); reinstall")
    if path.is_dir():
        raise HubError(f"{path} is no model folder: it has no {INDEX}; give a model folder or one of: {names}")
    close = difflib.get_close_matches(name, PACKAGED, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"give an existing model folder or one of: {names}"
    raise HubError(f"there is no model {name!r}; {hint}")


def _packaged(name: str) -> Path:
    package, inside = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise HubError(f"the packaged model {name!r} needs the package {package!r}, which is not installed")
    return Path(spec.submodule_search_locations[0]) / inside


def _index(components: Mapping[str, nn.Module], meta: Mapping[str, Any]) -> dict[str, Any]:
    classes = {name: [type(network).__module__, type(network).__name__] for name, network in components.items()}
    return {"_class_name": "GenModel", "_gen_version": __version__, **meta, **classes}


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when all has gone well, and else disappears."""
    if target.exists() and not (target / INDEX).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} exists and is no model folder; choose another place")
    partial = target.with_name(target.name + ".writing")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(cls: Any, config: Mapping[str, Any]) -> tuple[nn.Module, bool]:
    """Build a network without filling its weights, which saves the time and the memory of a second copy.

    Returns:
        The network, and whether its tensors are still to be assigned. Buffers that are not saved must be computed, so
        that a network which has some is built whole.
    """
    with torch.device("meta"):
        model: nn.Module = cls.from_config(config)
    if set(dict(model.named_buffers())) <= set(model.state_dict()):
        return model, True
    return cls.from_config(config), False


def _write_network(
    folder: Path, network: nn.Module, dtype: torch.dtype, weights: Iterable[tuple[str, Tensor]] | None
) -> None:
    folder.mkdir()
    network.save_config(folder)  # type: ignore[operator]
    state = network.state_dict()
    kinds = {name: (value.shape, target_type(value.dtype, dtype)) for name, value in state.items()}
    try:
        write_weights(folder / WEIGHTS, kinds, state.items() if weights is None else weights)
    except WeightsError as error:
        raise HubError(f"{error} in {folder.name}; do not export this model") from None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[str]:
    names = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in names if p.name != SUMS and p != Path(CARD))


def _parse_sums(path: Path, text: bytes) -> dict[str, str]:
    listed = {}
    for line in text.decode("utf-8", errors="replace").splitlines():
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != 64 or Path(name).is_absolute() or ".." in Path(name).parts:
            raise HubError(f"model {path} has a damaged {SUMS}; export or download it again")
        listed[name] = digest
    if INDEX not in listed:
        raise HubError(f"model {path} has a damaged {SUMS}: it does not list {INDEX}; export or download it again")
    return listed


def _card(index: Mapping[str, Any]) -> str:
    kind = index.get("kind", "model")
    return f"# A {kind} of gen-earth {__version__}\n\nNot described yet: data, training, scores, limits, licence.\n"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
