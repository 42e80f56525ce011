"""`gen sample` by task: every task has its own options, chosen before they are parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gen.cli_options import FILE, given, make_reporter, quiet_option

__all__ = ["ByTask", "downscaling", "task_option"]

task_option = click.option(
    "--task",
    default="forecast",
    show_default=True,
    help="What to sample: forecast or downscaling; --task downscaling --help lists the options of that task.",
)


class ByTask(click.Command):
    """A command that becomes the one of the task named by --task; the first when none is or it is unknown.

    Args:
        name: of the command. commands: by task.
    """

    def __init__(self, name: str, commands: Mapping[str, click.Command]) -> None:
        first = next(iter(commands.values()))
        super().__init__(name, callback=first.callback, params=first.params, help=first.help)
        self.commands = dict(commands)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        """Parse with the options of the task."""
        named = [b for a, b in zip(args, args[1:], strict=False) if a == "--task"]
        named += [a.partition("=")[2] for a in args if a.startswith("--task=")]
        chosen = self.commands.get(named[-1] if named else "", next(iter(self.commands.values())))
        return chosen.make_context(info_name, args, parent, **extra)


@click.command()
@task_option
@click.option("--input", type=FILE, help="Coarse rain: file, store or folder, a forecast of ours (default: a sample).")
@click.option("--members", type=click.IntRange(min=1), help="Ensemble members (default: 8, or those of the input).")
@click.option("--factor", type=float, help="Coarse over fine grid spacing, whole or not (default: 2.5).")
@click.option("--spacing", type=float, metavar="DEG|M", help="Fine spacing instead: degrees, or metres on a plane.")
@click.option("--grid", type=FILE, help="File on the wanted fine grid instead.")
@click.option("--region", metavar="NAME|S,N,W,E", help="Box to write: degrees, or the name of a RainShift region.")
@click.option("--times", multiple=True, metavar="TIME", help="Day, time or range A..B; repeatable (default: all).")
@click.option(
    "--conserve",
    type=click.Choice(["input", "coarse", "none"]),
    help="Coarse amounts to keep: the input's (default), those the model expects, or none.",
)
@click.option("--align", type=click.Choice(["none", "qm", "auto"]), help="Map the input to the training rates (none).")
@click.option("--half-life", type=float, metavar="HOURS", help="Of the correlation of the noise in time (default: 2).")
@click.option("--sampler", help="Sampler (default: the model's).")
@click.option("--steps", type=click.IntRange(min=1), help="Sampler steps (default: the model's).")
@click.option("--seed", type=int, help="Seed of the noise.")
@click.option("--variable", help="Name of the rain in the input, where there are several.")
@click.option("--units", help="Units of the rain, where the input does not say.")
@click.option("--interval", type=float, metavar="HOURS", help="Length of the interval, where the input does not say.")
@click.option("--orography", type=FILE, help="Elevation or surface geopotential, for models trained with it.")
@click.option("--land-mask", type=FILE, help="Share of land (default: where the orography is above 1 m).")
@click.option("--model", help="Model folder, or downscaling-demo (default).")
@click.option("--out", type=FILE, help="File to write (default: fine_rain.nc); .zarr and .tif choose the format.")
@click.option("--format", type=click.Choice(["netcdf", "zarr", "geotiff"]), help="Kind of file (default: from --out).")
@click.option("--device", help="cpu, cuda, cuda:1 … (default: the accelerator if there is one).")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Arithmetic inside the network.")
@click.option("--batch", type=click.IntRange(min=1), help="Members per block.")
@click.option(
    "--compress", type=click.Choice(["fast", "small", "none"]), help="fast (lossless), small (rounded), none."
)
@click.option("--resume", is_flag=True, default=None, help="Finish a run that was stopped, with the same bits.")
@click.option("--plot/--no-plot", default=None, help="Draw a quick-look figure beside the file (default: yes).")
@quiet_option
def downscaling(task: str, quiet: bool, times: tuple[str, ...], **options: Any) -> None:
    """Make an ensemble of fine rain from coarse rain: a file and a figure."""
    from gen.sample import run_sample

    run_sample(task, given({**options, "times": times or None}), make_reporter(quiet))
