"""Facts of a model folder, of a forecast or latent file, or of a training configuration, as lines of text.

Weights are not loaded: shapes come from the headers of the files, and the networks of a configuration are built on the
meta device, where a tensor has a shape but no memory.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["counted", "fact", "run_info"]

SHOWN_ITEMS = 8
PLANS = {"forecast": "forecast.plan:folder_plan"}  # kind of model folder -> what it costs


def run_info(what: str | None = None, config: Path | None = None) -> list[str]:
    """Return the facts of a model (name or folder), of a file, or of a configuration's networks.

    Raises:
        ValueError: there is no such thing, or it is damaged.
    """
    if (what is None) == (config is None):
        raise ValueError("name one thing: a model folder, a forecast file, or --config FILE")
    if config is not None:
        return list(_networks(config))
    from gen.hub import INDEX, PACKAGED

    path = Path(str(what))
    if str(what) in PACKAGED or (path / INDEX).is_file() or not path.exists():
        return list(_model(str(what)))
    return list(_file(path))


def _model(name: str) -> Iterator[str]:
    from gen.hub import open_model, resolve

    folder = open_model(resolve(name))
    yield fact("model", folder.path)
    yield fact("sha256", folder.digest)
    for key, value in folder.index.items():
        if key not in folder.components:
            yield fact(key.strip("_"), _short(value))
    total = 0
    for component in folder.components:
        shapes = _shapes(folder.path / component)
        count = sum(math.prod(shape) for shape in shapes.values())
        total += count
        yield fact(component, f"{folder.index[component][1]}, {counted(count)} parameters, {len(shapes)} tensors")
    yield fact("parameters", counted(total))
    if folder.index.get("kind") in PLANS:
        yield from _costs(folder)
    for document in sorted(folder.path.glob("*.json")):
        if document.name != "model_index.json":
            yield f"{document.name}:"
            for key, value in json.loads(document.read_text(encoding="utf-8")).items():
                yield fact(f"  {key}", _short(value))
    yield fact("size", _size(folder.path))


def _costs(folder: Any) -> Iterator[str]:
    """Count the FLOPs of a model whose task can plan them."""
    import torch

    from gen.costs import plan_lines

    module, _, name = PLANS[folder.index["kind"]].partition(":")
    with torch.device("meta"):
        plan = getattr(importlib.import_module(module), name)(folder)
    yield from plan_lines(plan, weights=False)


def _shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as content:
            shapes |= {name: list(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    return shapes


def _file(path: Path) -> Iterator[str]:
    from gen.convert import read_header
    from gen.metrics.stores import ForecastStore

    attrs, dims = read_header(path)
    yield fact("file", path)
    if "channel" in dims:
        yield fact("holds", "latents; gen decode turns them into fields")
    else:
        yield from _forecast(ForecastStore(path))
    yield fact("size", _size(path))
    for key, value in attrs.items():
        yield fact(key, _short(value))


def _forecast(store: Any) -> Iterator[str]:
    grid, leads = store.grid, store.leads.astype("timedelta64[h]").astype(int)
    yield fact("members", store.members)
    yield fact("starts", _ends([str(t) for t in store.inits]))
    yield fact("lead times", _ends([f"{h} h" for h in leads]))
    span = f"{grid.latitude[0]:g} to {grid.latitude[-1]:g}, {grid.longitude[0]:g} to {grid.longitude[-1]:g} degrees"
    yield fact("grid", f"{grid.shape[0]} x {grid.shape[1]}, {span}{', global' if grid.is_global else ''}")
    yield fact("channels", f"{len(store.channels)}: {', '.join(c.code for c in store.channels)}")


def _networks(config: Path) -> Iterator[str]:
    """Count what a configuration would train; `Recipe.plan(params)`, or `networks`, needs no data."""
    import torch

    from gen.config import ConfigError, from_mapping, load
    from gen.costs import parameters, plan_lines, training_lines
    from gen.engine import RunConfig
    from gen.train import RECIPES

    run = load(RunConfig, config)
    if run.recipe not in RECIPES:
        raise ConfigError(f"{config}: recipe = {run.recipe}: no such recipe; the recipes are {', '.join(RECIPES)}")
    module, _, attribute = RECIPES[run.recipe].partition(":")
    cls: Any = getattr(importlib.import_module(module), attribute)
    params = from_mapping(cls.Params, run.params, str(config), "params")
    if not hasattr(cls, "networks"):
        raise ConfigError(f"{config}: recipe = {run.recipe}: its networks depend on its data and cannot be counted")
    with torch.device("meta"):
        plan = cls.plan(params) if hasattr(cls, "plan") else None
        networks: Mapping[str, Any] = cls.networks(params) if plan is None else plan.networks
    yield fact("configuration", config)
    yield fact("recipe", run.recipe)
    if plan is None:
        for name, network in networks.items():
            yield fact(name, f"{type(network).__name__}, {counted(parameters(network))} parameters")
        return
    yield from plan_lines(plan)
    yield from training_lines(plan, run, recomputes=bool(getattr(params, "checkpointing", False)))


def fact(name: str, value: object) -> str:
    """Return a line of a name and a value."""
    return f"{name:<18} {value}"


def counted(number: int) -> str:
    """Write a number, large ones in millions too."""
    return f"{number:,}" + (f" ({number / 1e6:.1f} million)" if number >= 100_000 else "")


def _ends(words: list[str]) -> str:
    listed = words if len(words) <= 4 else [words[0], words[1], "…", words[-1]]
    return f"{len(words)}: {', '.join(listed)}"


def _short(value: Any) -> str:
    """Write a value on one line; long lists are cut."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items()).join("{}")
    if isinstance(value, list) and len(value) > SHOWN_ITEMS:
        return f"[{_short(value[0])}, … {_short(value[-1])}; {len(value)} items]"
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return f"{sum(p.stat().st_size for p in files) / 1e6:.2f} MB in {len(files)} file{'s' if len(files) > 1 else ''}"
