"""The Python environment in which jcm runs, made when it is first needed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["cache_dir", "ensure_environment"]

log = logging.getLogger(__name__)

JCM_REQUIREMENTS = ("jcm==3.0.0", "jax<0.11", "zarr>=3.0")


def cache_dir() -> Path:
    """Return the folder for things that can be made again (`GEN_EARTH_CACHE`, else the user's cache folder)."""
    base = os.environ.get("GEN_EARTH_CACHE") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/gen-earth"
    return Path(base).expanduser()


def ensure_environment() -> Path:
    """Build the simulator's own Python environment when it is missing and return its interpreter.

    jcm needs an older omegaconf than this suite, so the two never share an environment.
    """
    folder = cache_dir() / "jcm-3.0.0"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    log.info("building the simulator's environment in %s (once, about a minute)", folder)
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv")
    commands = [
        [uv, "venv", "--python", sys.executable, str(folder)] if uv else [sys.executable, "-m", "venv", str(folder)],
        [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install", "-q"],
    ]
    commands[1] += JCM_REQUIREMENTS
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise RuntimeError(f"could not build the simulator's environment: {' '.join(reason)}")
    (folder / "complete").touch()
    return python
