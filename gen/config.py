"""Configuration: a dataclass stands beside the class it builds, YAML fills it, dotted overrides change it.

`load(schema, path, overrides)` merges, in this order, the defaults of the dataclass `schema`, the file and overrides
such as `optim.lr=2e-4`, and returns an instance of `schema`. Ranges are checked by each dataclass' `__post_init__`.
Every fault is one `ConfigError` line that names where it stands, the key, the value, the rule and the near miss.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

__all__ = ["ConfigError", "from_mapping", "load", "to_mapping", "to_yaml"]

T = TypeVar("T")

COMMAND_LINE = "command line"


class ConfigError(ValueError):
    """Say in one line which key of which file is wrong and what would be right."""


def load(schema: type[T], path: Path | str | None = None, overrides: Sequence[str] = ()) -> T:
    """Build `schema` from its defaults, a YAML file and dotted overrides.

    Args:
        schema: a dataclass; fields without a default are required.
        path: a YAML file, or None for the defaults alone.
        overrides: texts `key.sub=value`; the value is YAML (`1e-4` is a float, `[1,2]` a list, `null` nothing).

    Raises:
        ConfigError: unknown key, wrong type, value out of range, missing value, unreadable file.
    """
    sources = [] if path is None else [(str(path), _read(Path(path)))]
    sources += [(COMMAND_LINE, _parse_override(text)) for text in overrides]
    return _build(schema, sources, "")


def from_mapping(schema: type[T], mapping: Mapping[str, Any], where: str = "configuration", prefix: str = "") -> T:
    """Build `schema` from plain values; errors name `where` and keys below `prefix` (for example "params")."""
    return _build(schema, [(where, dict(mapping))], prefix)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the configuration as plain dictionaries, lists, numbers and strings."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def to_yaml(config: Any) -> str:
    """Return the configuration as YAML that `load` reads back to an equal object."""
    from omegaconf import OmegaConf

    return str(OmegaConf.to_yaml(OmegaConf.create(to_mapping(config))))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file{_near_file(path)}")
    try:
        content = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values, not a list")
    return dict(OmegaConf.to_container(content, resolve=False))  # type: ignore[arg-type]


def _near_file(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _parse_override(text: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    key, equals, _ = text.partition("=")
    if not equals or not key.strip(". "):
        raise ConfigError(f"{COMMAND_LINE}: {text!r} is not an override; write key=value, for example optim.lr=2e-4")
    try:
        return dict(OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False))  # type: ignore[arg-type]
    except YAMLError as error:
        raise ConfigError(f"{COMMAND_LINE}: {text!r}: the value is not valid YAML") from error


def _build(schema: type[T], sources: list[tuple[str, dict[str, Any]]], prefix: str) -> T:
    """Merge the sources one after the other onto the schema, so that a fault is blamed on the right one."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged, blame = OmegaConf.structured(schema), list[str]()
    for where, mapping in sources:
        blame.append(where)
        for path, value in _leaves(mapping):
            try:
                merged = OmegaConf.merge(merged, _nest(path, value))
            except OmegaConfBaseException as error:
                _explain(error, where, path, value, prefix)
    where = ", ".join(dict.fromkeys(blame)) or schema.__name__

    def convert() -> Any:
        return _instantiate(merged, prefix, where)

    return _guard(convert, where, prefix)


def _guard(convert: Callable[[], Any], where: str, prefix: str) -> Any:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return convert()
    except OmegaConfBaseException as error:
        _explain(error, where, (), None, prefix)


def _instantiate(node: Any, key: str, where: str) -> Any:
    """Turn a checked omegaconf node into our dataclasses, innermost first, naming the key of a failed check."""
    from omegaconf import DictConfig, ListConfig, OmegaConf, TupleConfig

    if isinstance(node, ListConfig | TupleConfig):
        kind = list if isinstance(node, ListConfig) else tuple
        return kind(_instantiate(item, f"{key}[{i}]", where) for i, item in enumerate(node))
    if not isinstance(node, DictConfig):
        return node
    values: dict[Any, Any] = {}
    for name in node:
        inner = f"{key}.{name!s}" if key else str(name)
        if OmegaConf.is_missing(node, name):
            raise ConfigError(f"{where}: {inner} is required and has no value; add it or pass {inner}=VALUE")
        values[name] = _instantiate(node[name], inner, where)
    made = OmegaConf.get_type(node)
    if made is None or not dataclasses.is_dataclass(made):
        return values
    try:
        return made(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {f'{key}: ' if key else ''}{' '.join(str(error).split())}") from error


def _leaves(mapping: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _nest(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def _explain(error: Any, where: str, path: tuple[str, ...], value: Any, prefix: str) -> NoReturn:
    """Rewrite an omegaconf error, met while the leaf `path` was merged, as one line."""
    from omegaconf.errors import ConfigKeyError

    inner = str(error.full_key or ".".join(map(str, path)))
    key = f"{prefix}.{inner}" if prefix and inner else inner or prefix
    if isinstance(error, ConfigKeyError):
        reason = _near_key(str(error.key), error.object_type)
    else:
        reason = str(error).splitlines()[0].replace("$VALUE_TYPE", type(value).__name__).replace("$VALUE", str(value))
    given = "" if value is None or inner != ".".join(map(str, path)) else f" = {value}"
    raise ConfigError(f"{where}: {key}{given}: {reason}") from error


def _near_key(key: str, schema: Any) -> str:
    if schema is None or not dataclasses.is_dataclass(schema):
        return "unknown key"
    names = [f.name for f in dataclasses.fields(schema)]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(names)}"
    return f"unknown key; {hint}"
