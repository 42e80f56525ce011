"""Train a recipe: `accelerate launch -m gen.train --config FILE [key=value ...]`.

Walk: origin check -> configuration -> recipe -> `gen.engine.Trainer.fit`. The same command continues a run that was
stopped. One process needs no launcher: `python -m gen.train --config FILE`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.config import ConfigError, from_mapping, load, to_mapping
from gen.doctor import check_origin

if TYPE_CHECKING:
    from gen.engine import Recipe, RunConfig

__all__ = ["RECIPES", "load_recipe", "main"]

RECIPES = {
    "codec": "autoencoders.recipe:CodecRecipe",
    "downscaling": "downscaling.recipe:DownscalingRecipe",
    "forecast": "forecast.recipe:ForecastRecipe",
    "rain_codec": "downscaling.codec_recipe:RainCodecRecipe",
}

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one training from the command line.

    Args:
        argv: arguments without the program's name; `sys.argv[1:]` when None.

    Returns:
        Exit status: 0 done, 1 the training failed with a known cause, 2 a fault in the configuration.
    """
    arguments = _parser().parse_args(argv)
    rank = int(os.environ.get("RANK", "0"))
    level = logging.WARNING if arguments.quiet or rank else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        check_origin()
    except RuntimeError as error:
        return _fail(error, 1)
    from gen.checkpoint import CheckpointError  # torch: after --help and the origin check

    try:
        train(arguments.config, arguments.overrides)
    except ConfigError as error:
        return _fail(error, 2)
    except (CheckpointError, FloatingPointError) as error:
        return _fail(error, 1)
    return 0


def train(config: Path, overrides: Sequence[str] = ()) -> Path:
    """Load the configuration, build its recipe, train, and return the exported folder.

    Raises:
        ConfigError: a fault in the configuration.
        CheckpointError: the run's folder holds another run.
    """
    from gen.engine import RunConfig, Trainer

    run = load(RunConfig, config, overrides)
    recipe = load_recipe(run, str(config))
    return Trainer(run, recipe).fit()


def load_recipe(run: RunConfig, where: str = "configuration") -> Recipe:
    """Build the recipe that a run names, and complete `run.params` with the recipe's defaults.

    Raises:
        ConfigError: no recipe of this name, parameters it does not have, or data it cannot use.
    """
    if run.recipe not in RECIPES:
        raise ConfigError(f"{where}: recipe = {run.recipe}: no such recipe; the recipes are {', '.join(RECIPES)}")
    module, _, name = RECIPES[run.recipe].partition(":")
    cls: Any = getattr(importlib.import_module(module), name)
    params = from_mapping(cls.Params, run.params, where, "params")
    run.params = to_mapping(params)
    try:
        recipe: Recipe = cls(params, run.seed)
    except (ValueError, OSError) as error:  # data that are missing, damaged or do not fit the parameters
        raise ConfigError(f"{where}: recipe {run.recipe}: {' '.join(str(error).split())}") from error
    return recipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gen.train", description="Train a recipe, or continue its training.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the run")
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example optim.lr=2e-4")
    return parser


def _fail(error: Exception, status: int) -> int:
    sys.stderr.write(f"Error: {error}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
