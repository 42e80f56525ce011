"""The command line: parse and dispatch, nothing else.

Nothing heavy is imported at the top: `gen --help` answers before torch could be found on the disk. Options that a
person does not give are not passed on, so that every default lives in one place, the request it belongs to. Expected
errors are one line on standard error; exit code 2 for bad input, 1 for everything that went wrong outside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gen import __version__
from gen.cli_data import data
from gen.cli_downscaling import ByTask, downscaling, task_option
from gen.cli_options import (
    DECIMALS,
    EXISTING,
    FILE,
    NAMES,
    NUMBERS,
    Batch,
    Group,
    device_option,
    given,
    layout_choice,
    make_reporter,
    quiet_option,
)
from gen.errors import FAILED, guarded

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gen` with the given arguments (default: the process' own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    return guarded(lambda: cli.main(arguments, prog_name="gen", standalone_mode=False), debug=debug)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gen")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Generative models of the Earth: ensemble weather forecasts as georeferenced files."""
    from gen.doctor import check_origin

    if click.get_current_context().invoked_subcommand != "doctor":
        check_origin()


@click.command()
@task_option
@click.option(
    "--init",
    type=NAMES,
    multiple=True,
    required=True,
    metavar="DATE[,…]",
    help="Start: a date or time, a list, a range A..B/STEP; repeatable.",
)
@click.option("--members", type=click.IntRange(min=1), help="Ensemble members per start.")
@click.option("--lead", metavar="DURATION", help='Length of the forecast: "10d", "240h".')
@click.option("--step", metavar="DURATION", help='Time between written frames: "6h", "1d".')
@click.option("--variables", type=NAMES, metavar="NAME[,…]", help="Variables to write (default: all of the model's).")
@click.option("--levels", type=NUMBERS, metavar="HPA[,…]", help="Pressure levels to write (default: all).")
@click.option("--region", metavar="S,N,W,E", help="Part of the globe to write, degrees.")
@click.option("--sampler", help="Sampler (default: the model's).")
@click.option("--steps", type=click.IntRange(min=1), help="Sampler steps (default: the model's).")
@click.option("--seed", type=int, help="Seed of the noise.")
@device_option
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Arithmetic inside the network.")
@click.option("--source", help="Analysis: a .zarr, .nc or .grib path, wb2, arco-era5, or demo.")
@click.option("--model", help="Model folder, or demo.")
@click.option("--out", type=FILE, help="File to write (default: named after the start).")
@click.option("--format", type=click.Choice(["netcdf", "zarr", "latent"]), help="Kind of file.")
@click.option("--layout", type=layout_choice, help="Names and dimensions of the file.")
@click.option("--resume", is_flag=True, default=None, help="Finish a run that was stopped, with the same bits.")
@click.option("--batch", type=Batch(), help="Members per block; auto fits the free memory.")
@click.option("--compress", type=click.Choice(["fast", "small", "none"]), help="How the file is packed (small rounds).")
@click.option("--compile", is_flag=True, default=None, help="torch.compile the network; for long runs.")
@click.option("--parity", is_flag=True, default=None, help="Sample exactly as the original LaDCast does.")
@click.option("--plot/--no-plot", default=None, help="Draw a quick-look figure beside the file (default: yes).")
@quiet_option
def sample(task: str, quiet: bool, **options: Any) -> None:
    """Make an ensemble forecast: a file and a figure."""
    options["init"] = tuple(text for group in options["init"] for text in group)
    from gen.sample import run_sample

    run_sample(task, given(options), make_reporter(quiet))


cli.add_command(ByTask("sample", {"forecast": sample, "downscaling": downscaling}))


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> Any:
    """Train: --config FILE [key=value …]; is python -m gen.train."""
    from gen.train import main as train_main

    return train_main(list(arguments))


@cli.command()
@click.argument("source")
@click.option("--model", type=FILE, required=True, help="Codec or model folder, or demo.")
@click.option("--out", type=FILE, required=True, help="Zarr store to write; an unfinished one is continued.")
@click.option("--start", metavar="DATE", help="Begin of the interval (default: the source's first time).")
@click.option("--stop", metavar="DATE", help="End of the interval, exclusive (default: all of the source).")
@click.option("--batch", type=click.IntRange(min=1), help="Times per call of the encoder.")
@click.option("--every", type=click.IntRange(min=1), metavar="HOURS", help="Keep times whose hour is a multiple.")
@click.option("--part", metavar="K/N", help="Do the K-th of N shares; N processes finish one store together.")
@click.option("--device", help="cpu, cuda, cuda:1 … (default: cpu).")
@quiet_option
def encode(quiet: bool, **options: Any) -> None:
    """Encode a Zarr world to the latents of a codec."""
    from gen.latents import run_encode

    run_encode(**given(options), reporter=make_reporter(quiet))


@cli.command()
@click.argument("source", type=EXISTING)
@click.option("--model", type=FILE, required=True, help="Model folder, or demo; refused unless it made the latents.")
@click.option("--out", type=FILE, required=True, help="File to write; .zarr makes a Zarr store.")
@click.option("--variables", type=NAMES, metavar="NAME[,…]", help="Variables to decode (default: those asked for).")
@click.option("--levels", type=NUMBERS, metavar="HPA[,…]", help="Pressure levels to decode (default: all).")
@click.option("--format", type=click.Choice(["netcdf", "zarr"]), help="Kind of file (default: from the name).")
@click.option("--layout", type=layout_choice, help="Names and dimensions (default: those asked for).")
@click.option("--device", help="cpu, cuda, cuda:1 … (default: cpu).")
@quiet_option
def decode(quiet: bool, **options: Any) -> None:
    """Decode a forecast of `--format latent` to fields."""
    from gen.latents import run_decode

    run_decode(**given(options), reporter=make_reporter(quiet))


@cli.command()
@click.argument("forecasts", nargs=-1, type=EXISTING)
@click.option("--task", default="forecast", show_default=True, help="What to score: forecast or downscaling.")
@click.option("--truth", help="What to score against: analyses (a path or a cloud source), or fine rain.")
@click.option("--baselines", type=NAMES, metavar="NAME[,…]", help="persistence, climatology; of rain (default: all).")
@click.option(
    "--climatology",
    metavar="SOURCE|FILE",
    help="A store of past states (scored as an ensemble), or a file of `gen data climatology` (its mean is scored); "
    "default: the truth outside the scored years.",
)
@click.option("--climatology-years", type=NUMBERS, metavar="YEAR[,…]", help="Years to draw past states from.")
@click.option("--climatology-members", type=click.IntRange(min=2), help="Past states per valid time.")
@click.option("--climatology-window-days", type=click.IntRange(min=0), help="Half width of the window around the day.")
@click.option("--reference", type=EXISTING, help="Perfect-model ensemble: the ceiling.")
@click.option("--variables", type=NAMES, metavar="CODE[,…]", help="Channels, for example z500,t850,2t.")
@click.option("--leads", type=NUMBERS, metavar="HOURS[,…]", help="Lead times (default: whole days).")
@click.option("--region", metavar="S,N,W,E", help="Part of the globe, degrees.")
@click.option("--quantiles", type=DECIMALS, metavar="Q[,…]", help="Of the climatology: events of the Brier score.")
@click.option("--max-wavenumber", type=click.IntRange(min=1), help="Highest wavenumber of the spectra.")
@click.option("--partial", type=FILE, help="Partial sums to write, or to continue.")
@click.option("--merge", type=EXISTING, multiple=True, help="Partial sums to add; repeatable.")
@click.option("--resamples", type=click.IntRange(min=100), help="Draws of the bootstrap.")
@click.option("--block", type=click.IntRange(min=1), help="Start dates per block of the bootstrap.")
@click.option("--seed", type=int, help="Seed of the bootstrap (downscaling: also of crops and noise).")
@click.option("--model", help="Downscaling: model folder or name to score with its baselines on --events.")
@click.option("--events", type=NAMES, metavar="[NAME=]PATH[,…]", help="Downscaling: fine rain, one path an event.")
@click.option("--train", type=NAMES, metavar="PATH[,…]", help="Downscaling: other events, for quantile mapping.")
@click.option("--rainshift", type=EXISTING, help="Downscaling: folder of RainShift regions instead of --events.")
@click.option("--regions", type=NAMES, metavar="NAME[,…]", help="RainShift: regions to score (default: all there).")
@click.option("--split", type=click.Choice(["test", "train"]), help="RainShift: which part of the data (test).")
@click.option("--times", type=NAMES, metavar="TIME[,…]", help="RainShift: days, times or ranges A..B (default: all).")
@click.option("--days", type=click.IntRange(min=1), help="RainShift: score that many days, evenly spread.")
@click.option("--home", type=NAMES, metavar="NAME[,…]", help="RainShift: regions known to the model, for the gap.")
@click.option("--align", type=click.Choice(["none", "qm", "auto"]), help="RainShift: map the input to training (none).")
@click.option("--factors", type=DECIMALS, metavar="F[,…]", help="Downscaling: coarse over fine spacing (2.5,4,8).")
@click.option("--members", type=click.IntRange(min=2), help="Downscaling: ensemble size (20; RainShift: 8).")
@click.option("--crops", type=click.IntRange(min=1), help="Downscaling: crops of each event (24).")
@click.option("--crop-size", type=click.IntRange(min=16), help="Downscaling: side of a crop in pixels (160).")
@click.option("--accumulate", type=click.IntRange(min=1), help="Downscaling: steps of time of events to average (1).")
@click.option("--substeps", type=click.IntRange(min=1), help="Downscaling: parts of each, rain carried along (1).")
@click.option("--conserve", type=click.Choice(["none", "input", "coarse"]), help="Downscaling: amounts to keep.")
@click.option("--orography", type=EXISTING, help="Downscaling: elevation, for models trained with it.")
@click.option("--land-mask", type=EXISTING, help="Downscaling: share of land, beside --orography.")
@click.option("--noise-scale", type=float, help="Downscaling: factor on the noise (default: the model's).")
@click.option("--sampler", help="Downscaling: sampler (default: the model's).")
@click.option("--steps", type=click.IntRange(min=1), help="Downscaling: sampler steps (default: the model's).")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Downscaling: arithmetic inside.")
@device_option
@click.option("--out", type=FILE, help="Folder for scores.md and scores.json, or (forecast) a .json file.")
@click.option("--figures", type=FILE, help="Folder for figures.")
@quiet_option
def evaluate(task: str, quiet: bool, **options: Any) -> None:
    """Score forecasts against analyses: CRPS, RMSE, spread.

    FORECASTS are files of one forecast system; they need --truth. Without them, --merge adds partial sums. With --task
    downscaling they are files of fine rain; without them, --model is scored on --events.
    """
    from gen.evaluate import run_task

    run_task(task=task, options=given(options), reporter=make_reporter(quiet))


@cli.command()
@click.argument("file", type=EXISTING)
@click.option("--point", metavar="LAT,LON", help="Also draw a meteogram at this place.")
@click.option("--what", type=NAMES, metavar="KIND[,…]", help="maps, spaghetti, meteogram of the variables.")
@click.option("--variables", type=NAMES, metavar="CODE[,…]", help="Channels to draw (default: z500,2t,msl,tp06).")
@click.option("--leads", type=NUMBERS, metavar="HOURS[,…]", help="Lead times (default: 24,72,120,240).")
@click.option("--members", type=NUMBERS, metavar="N[,…]", help="Numbers of the members to draw (default: all).")
@click.option("--init", metavar="DATE", help="Start date in the file (default: the first).")
@click.option("--projection", metavar="NAME", help="A projection of cartopy for the maps, for example Robinson.")
@click.option("--threshold", type=float, metavar="MM/H", help="Of the chance of rain, for fine rain (default: 1).")
@click.option("--out", type=FILE, help="What the names of the images start with (default: the file's name).")
@quiet_option
def plot(quiet: bool, **options: Any) -> None:
    """Draw maps, spaghetti and a meteogram of a file."""
    from gen.plot import run_plot

    reporter = make_reporter(quiet)
    for path in run_plot(**given(options)):
        reporter.say(str(path))


@cli.command()
@click.argument("file", type=EXISTING)
@click.option("--start", metavar="LAT,LON,TIME", help="Follow the storm that is there then; or: reference.")
@click.option("--members", type=NUMBERS, metavar="N[,…]", help="Members to track, from 0 (default: all).")
@click.option("--criteria", help="tempest (default), vitart or pressure.")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a threshold, for example min_wind=17 or layer=250,500; repeatable.",
)
@click.option("--reference", type=EXISTING, help="Observed tracks: HURDAT2, storms.csv, IBTrACS.")
@click.option("--storm", metavar="NAME|ID", help="Storm of the reference (default: the only one that fits).")
@click.option("--radius", "radius_km", type=float, metavar="KM", help="Of the strike probability (default: 120).")
@click.option("--init", metavar="DATE", help="Start date in the file (default: the first).")
@click.option("--out", type=FILE, help="What the names of the files start with (default: the file's name).")
@click.option("--figure/--no-figure", default=None, help="Draw tracks and strike probability (default: yes).")
@quiet_option
def track(quiet: bool, **options: Any) -> None:
    """Track cyclones: tables, strike probability, errors."""
    from gen.track import run_track

    options["thresholds"] = options["thresholds"] or None
    run_track(**given(options), reporter=make_reporter(quiet))


cli.add_command(data)


@cli.command()
@click.argument("source")
@click.option("--out", type=FILE, required=True, help="File or model folder to write; .zarr makes a Zarr store.")
@click.option("--layout", type=layout_choice, help="Names and dimensions (default: as they are).")
@click.option("--format", type=click.Choice(["netcdf", "zarr"]), help="Kind of file (default: from the name).")
@click.option("--from", "origin", metavar="ladcast", help="SOURCE is published weights: a folder or a hub name.")
@click.option("--autoencoder", metavar="NAME", help="Its sub-folder in SOURCE, or another folder.")
@click.option("--transformer", metavar="NAME", help="Its sub-folder in SOURCE, or another folder.")
@click.option("--static", type=FILE, help="Static fields: folder of the published .pt files, NetCDF or Zarr.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="How to store the weights.")
@quiet_option
def convert(source: str, out: Path, origin: str | None, quiet: bool, **options: Any) -> None:
    """Rewrite a file in another layout or format, or published weights (--from) as a model folder of ours."""
    options, reporter = given(options), make_reporter(quiet)
    if origin is not None:
        from gen.convert import run_import

        reporter.say(str(run_import(origin, source, out, **options)))
        return
    from gen.convert import run_convert

    if of_weights := [name for name in ("autoencoder", "transformer", "static", "dtype") if name in options]:
        raise click.UsageError(f"--{of_weights[0]} is for weights; say whose they are with --from ladcast")
    file = EXISTING.convert(source, None, click.get_current_context())
    reporter.say(str(run_convert(file=file, out=out, **options, reporter=reporter)))


@cli.command()
@click.argument("what", required=False)
@click.option("--config", type=FILE, help="A training configuration: count the parameters of its networks.")
def info(what: str | None, config: Path | None) -> None:
    """Print the facts of a model, a file or a configuration."""
    from gen.info import run_info

    for line in run_info(what, config):
        click.echo(line)


@cli.command()
def doctor() -> int:
    """Check that our packages are ours; report the machine."""
    from gen.doctor import report

    findings = report()
    for finding in findings:
        click.echo(f"{'WRONG' if finding.wrong else 'ok':6}{finding.topic:20}{finding.text}")
    return FAILED if any(finding.wrong for finding in findings) else 0
