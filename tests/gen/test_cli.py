"""gen.cli: options reach the right function unchanged, errors are one line, help costs nothing."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from gen.cli import cli, main
from gen.errors import guarded

COMMANDS = ["sample", "train", "encode", "decode", "evaluate", "plot", "track", "data", "convert", "info", "doctor"]


class Recorder:
    """Stands in for a module; remembers the call of the one function the command line asks for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self.calls = monkeypatch, list[tuple[tuple[Any, ...], dict[str, Any]]]()

    def __call__(self, module: str, function: str, result: Any = None) -> Recorder:
        def record(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((args, kwargs))
            return result

        stand_in = types.ModuleType(module)
        setattr(stand_in, function, record)
        self._monkeypatch.setitem(sys.modules, module, stand_in)
        return self

    @property
    def options(self) -> dict[str, Any]:
        return {key: value for key, value in self.calls[0][1].items() if key != "reporter"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """The eleven commands stand in the help in the order of the work, and each has a help of its own."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places) and list(cli.commands) == COMMANDS
    for name in COMMANDS[:1] + COMMANDS[2:]:
        assert main([name, "--help"]) == 0
        assert "Usage: gen " + name in capsys.readouterr().out


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    """Nothing heavy is imported; processor time, the best of three, so that a busy machine does not matter."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "gen", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_help_loads_nothing_heavy() -> None:
    """Parsing needs click and the standard library, no numpy and no torch."""
    code = "import sys, gen.cli; gen.cli.main(['sample', '--help']); "
    code += "sys.exit(bool({'torch', 'numpy', 'xarray', 'omegaconf', 'tqdm'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_sample_passes_only_what_was_given(recorded: Recorder) -> None:
    """Defaults live in the request; the command line adds none."""
    recorded("gen.sample", "run_sample")
    assert main(["sample", "--init", "2024-01-01"]) == 0
    (task, options, _), _ = recorded.calls[0]
    assert task == "forecast" and options == {"init": ("2024-01-01",)}


def test_sample_passes_every_option(recorded: Recorder) -> None:
    """Each option arrives under the name of the request's field, as text or number."""
    recorded("gen.sample", "run_sample")
    line = (
        "sample --init 2024-01-01,2024-01-02 --init 2024-02-01..2024-02-03/1d --members 20 --lead 240h --step 12h "
        "--variables z500,2t --levels 500,850 --region -40,40,350,20 --sampler heun --steps 12 --seed -3 --device cpu "
        "--dtype bfloat16 --source a.nc --model demo --out x.zarr --format zarr --layout cf --resume "
        "--batch auto --no-plot"
    )
    assert main(line.split()) == 0
    assert recorded.calls[0][0][1] == {
        "init": ("2024-01-01", "2024-01-02", "2024-02-01..2024-02-03/1d"),
        "members": 20,
        "lead": "240h",
        "step": "12h",
        "variables": ("z500", "2t"),
        "levels": (500, 850),
        "region": "-40,40,350,20",
        "sampler": "heun",
        "steps": 12,
        "seed": -3,
        "device": "cpu",
        "dtype": "bfloat16",
        "source": "a.nc",
        "model": "demo",
        "out": Path("x.zarr"),
        "format": "zarr",
        "layout": "cf",
        "resume": True,
        "batch": "auto",
        "plot": False,
    }


def test_sample_options_are_the_fields_of_the_request() -> None:
    """Whatever the command line can pass on, the task's request accepts, and the other way round."""
    import dataclasses

    from forecast.request import ForecastRequest

    options = {p.name for p in cli.commands["sample"].params} - {"task", "quiet"}
    assert options == {field.name for field in dataclasses.fields(ForecastRequest)}


def test_evaluate_options_are_fields_of_the_request() -> None:
    """Every option of the command is one that the evaluation of some task knows."""
    import dataclasses
    import importlib

    from gen.evaluate import EVALUATIONS

    options = {p.name for p in cli.commands["evaluate"].params} - {"quiet", "task"}
    places = (request.split(":") for request, _ in EVALUATIONS.values())
    requests = (getattr(importlib.import_module(module), name) for module, name in places)
    assert options <= {field.name for request in requests for field in dataclasses.fields(request)}


@pytest.mark.parametrize(
    ("line", "target", "expected"),
    [
        ("encode w.zarr --model m --out l.zarr --start 2001-01-01", "gen.latents:run_encode",
         {"source": "w.zarr", "model": Path("m"), "out": Path("l.zarr"), "start": "2001-01-01"}),
        ("decode {file} --model m --out x.nc --levels 500", "gen.latents:run_decode",
         {"source": Path("{file}"), "model": Path("m"), "out": Path("x.nc"), "levels": (500,)}),
        ("evaluate --truth t.zarr --baselines persistence --out s.json --figures f", "gen.evaluate:run_task",
         {"task": "forecast", "options": {"forecasts": (), "truth": "t.zarr", "baselines": ("persistence",),
                                          "out": Path("s.json"), "figures": Path("f"), "merge": ()}}),
        ("plot {file} --point -33.9,151.2 --out a.png", "gen.plot:run_plot",
         {"file": Path("{file}"), "point": "-33.9,151.2", "out": Path("a.png")}),
        ("data climatology w.zarr --out c.nc --stop 2010-01-01", "gen.data.climatology:run_climatology",
         {"source": "w.zarr", "out": Path("c.nc"), "stop": "2010-01-01"}),
        ("data check {file} --out c.json", "gen.data.check:run_check",
         {"world": Path("{file}"), "out": Path("c.json")}),
        ("convert {file} --out b.nc --layout cf", "gen.convert:run_convert",
         {"file": Path("{file}"), "out": Path("b.nc"), "layout": "cf"}),
    ],
)  # fmt: skip
def test_commands_dispatch(
    recorded: Recorder, tmp_path: Path, line: str, target: str, expected: dict[str, Any]
) -> None:
    """Each command calls its function with the options under the function's own names."""
    file = tmp_path / "file"
    file.write_text("")
    module, _, function = target.partition(":")
    recorded(module, function, result=[])
    assert main(line.format(file=file).split()) == 0
    filled = {k: Path(str(v).format(file=file)) if isinstance(v, Path) else v for k, v in expected.items()}
    assert recorded.options == filled


@pytest.mark.parametrize(
    "target", ["gen.data.climatology:run_climatology", "gen.data.check:run_check", "gen.plot:run_plot"]
)
def test_dispatched_names_exist(target: str) -> None:
    """The functions that a command names accept the options it passes."""
    import importlib
    import inspect

    module, _, function = target.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    name = function.removeprefix("run_")
    command = cli.commands.get(name) or cli.commands["data"].commands[name]  # type: ignore[attr-defined]
    assert {p.name for p in command.params} - {"quiet"} <= set(parameters)


def test_simulate_and_reference_build_their_requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The world's request gets the options; the reference gets the start dates as a list."""
    import gen.data.simulate as simulate

    seen: dict[str, Any] = {}
    monkeypatch.setattr(simulate, "simulate_world", lambda request, report: seen.update(request=request) or request.out)
    monkeypatch.setattr(
        simulate, "simulate_reference", lambda world, out, times, **options: seen.update(times=times, **options) or out
    )
    assert main(f"data simulate --years 2 --seed 5 --workers 1 --out {tmp_path}/w.zarr".split()) == 0
    assert (seen["request"].years, seen["request"].seed, seen["request"].workers) == (2.0, 5, 1)
    assert (
        main(f"data reference {tmp_path} --out {tmp_path}/r.zarr --init 2001-01-01,2001-01-05 --members 4".split()) == 0
    )
    assert seen["times"] == ["2001-01-01", "2001-01-05"] and seen["members"] == 4


def test_train_hands_everything_on(recorded: Recorder) -> None:
    """`gen train` is `python -m gen.train`: unknown options and overrides pass untouched, its exit code too."""
    recorded("gen.train", "main", result=2)
    assert main(["train", "--config", "a.yaml", "optim.lr=2e-4", "--quiet", "--help"]) == 2
    assert recorded.calls[0][0] == (["--config", "a.yaml", "optim.lr=2e-4", "--quiet", "--help"],)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("smaple", "unknown command 'smaple'; did you mean 'sample'?"),
        ("qqq", "the commands are sample, train"),
        ("sample --init 2024-01-01 --memebers 3", "--memebers"),
        ("sample --init 2024-01-01 --members 0", "--members"),
        ("sample --init 2024-01-01 --members many", "many"),
        ("sample --init 2024-01-01 --format netcd", "'netcd' is not one of"),
        ("sample --init 2024-01-01 --batch 0", "neither a positive whole number nor 'auto'"),
        ("sample --init 2024-01-01 --levels 500,a", "'500,a' is not a list of numbers"),
        ("sample", "Missing option '--init'"),
        ("sample --init 2024-13-01", "2024-13-01"),
        ("sample --init tomorrow", "tomorrow"),
        ("sample --init 2024-01-01 --lead 10x", "10x"),
        ("sample --init 2024-01-01 --task forcast", "did you mean 'forecast'?"),
        ("sample --init 2024-01-01 --model nowhere", "nowhere"),
        ("plot nowhere.nc", "nowhere.nc"),
        ("info nowhere", "nowhere"),
        ("info", "name one thing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a person mistypes: one line `error: ...` with the value, nothing on standard output."""
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_a_mistyped_option_names_the_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    """click suggests the option that was meant."""
    main(["sample", "--init", "2024-01-01", "--memebers", "3"])
    assert "--members" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("first\n second"), 2, "first second"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.nc"), 2, "a.nc"),
        (PermissionError(errno.EACCES, "Permission denied", "a.nc"), 2, "Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "a.nc"), 1, "the disk is full (a.nc)"),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
        (ConnectionError("no route"), 1, "no route"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (click.Abort(), 1, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("the simulator stopped"), 1, "the simulator stopped"),
        (ImportError("No module named 'cartopy'; pip install 'gen-earth[viz]'"), 1, "pip install"),
        (click.UsageError("bad"), 2, "bad"),
    ],
)
def test_expected_errors_are_one_line(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind has its exit code: 2 for what the person gave, 1 for what happened."""
    assert guarded(_raiser(error)) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


@pytest.mark.parametrize("error", [KeyError("bug"), TypeError("bug"), AssertionError("bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    """What nobody expected is not hidden behind one line."""
    with pytest.raises(type(error)):
        guarded(_raiser(error))


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gen --debug` lets expected errors through."""
    with pytest.raises(ValueError, match="name one thing"):
        main(["--debug", "info"])


def test_doctor_reports_and_answers_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Something wrong: exit code 1 and a line that says WRONG; else 0."""
    from gen import doctor

    for wrong, code, mark in ((False, 0, "ok"), (True, 1, "WRONG")):
        monkeypatch.setattr(doctor, "report", lambda wrong=wrong: [doctor.Finding("topic", "text", wrong)])
        assert main(["doctor"]) == code
        assert capsys.readouterr().out.split() == [mark, "topic", "text"]


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`gen --version` names the distribution's version."""
    from importlib import metadata

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(metadata.version("gen-earth"))


def _raiser(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
