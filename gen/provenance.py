"""Provenance: what made a file, in words that go into its attributes."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from gen import __version__

__all__ = ["config_hash", "file_sha256", "git_commit", "provenance"]

CHUNK_BYTES = 1 << 20


def provenance(config_hash: str, model_hash: str, seed: int, **extra: object) -> dict[str, str]:
    """Describe a run as file attributes, every value a text.

    Args:
        config_hash: hash of the configuration or request (`config_hash`).
        model_hash: hash of the model folder.
        seed: the seed of the run.
        **extra: more facts; kept in order, None is left out.

    Returns:
        `gen_version`, `git_commit` (when the code lies in a git checkout), `python_version`, `torch_version`,
        `created` (UTC, ISO 8601), `config_hash`, `model_hash`, `seed`, then the extra facts.
    """
    facts: dict[str, object] = {
        "gen_version": __version__,
        "git_commit": git_commit(),
        "python_version": platform.python_version(),
        "torch_version": _version("torch"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config_hash": config_hash,
        "model_hash": model_hash,
        "seed": seed,
        **extra,
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def config_hash(mapping: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a mapping, independent of the order of its keys.

    Values are JSON values, paths, dates or tuples; a list and a tuple of the same items are the same.
    """
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"), default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the checkout that holds this package ("+changes" when files differ), None outside one."""
    root = Path(__file__).parent.parent if folder is None else folder
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
