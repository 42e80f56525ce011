"""gen.config: what a file and overrides mean, and how a fault is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from gen.config import ConfigError, from_mapping, load, to_mapping, to_yaml


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if not 0 < self.lr < 1:
            raise ValueError(f"lr must be in (0, 1); got {self.lr}")


@dataclass(frozen=True)
class Run:
    recipe: str
    seed: int = 0
    out: Path = Path("runs/x")
    levels: tuple[int, ...] = (500,)
    optim: Optim = field(default_factory=Optim)
    params: dict[str, Any] = field(default_factory=dict)
    limit: float | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("recipe: codec\nlevels: [250, 500]\noptim:\n  lr: 1e-4\nparams:\n  width: 64\n")
    return path


def test_values_come_from_defaults_then_file_then_overrides(file: Path) -> None:
    """Later sources win, key by key; nested keys that are not named stay."""
    run = load(Run, file, ["optim.schedule=constant", "seed=3", "out=runs/y", "limit=2"])
    assert run == Run("codec", 3, Path("runs/y"), (250, 500), Optim(1e-4, (0.9, 0.95), "constant"), {"width": 64}, 2.0)
    assert isinstance(run.levels, tuple)


def test_exponents_without_a_point_are_numbers(file: Path) -> None:
    """YAML 1.1 reads `1e-4` as a text; here it is 0.0001, in the file and on the command line."""
    assert load(Run, file).optim.lr == 1e-4
    assert load(Run, file, ["optim.lr=2e-4"]).optim.lr == 2e-4


def test_yaml_round_trip_is_the_identity(file: Path, tmp_path: Path) -> None:
    """A configuration that was frozen to a run's folder is read back equal."""
    run = load(Run, file, ["limit=0.5", "params.names=[a,b]"])
    (tmp_path / "frozen.yaml").write_text(to_yaml(run))
    assert load(Run, tmp_path / "frozen.yaml") == run
    assert from_mapping(Run, to_mapping(run)) == run


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", ["command line", "optim.lrr", "= 1", "did you mean lr?"]),
        ("sed=1", ["sed", "did you mean seed?"]),
        ("optim.zzzzz=1", ["optim.zzzzz", "the keys are lr, betas, schedule"]),
        ("seed=many", ["seed", "= many", "Integer"]),
        ("seed=1.5", ["seed", "1.5"]),
        ("optim.lr=null", ["optim.lr", "None"]),
        ("optim.lr=7", ["optim", "lr must be in (0, 1); got 7"]),
        ("optim.schedule=cosin", ["optim.schedule", "cosin", "cosine"]),
        ("levels=[a]", ["levels", "a"]),
        ("nonsense", ["'nonsense'", "key=value"]),
        ("=3", ["key=value"]),
        ("seed=[", ["seed=["]),
    ],
)
def test_a_bad_override_is_one_line_with_place_key_and_rule(file: Path, override: str, words: list[str]) -> None:
    """Unknown key, wrong type, value out of range, no value: one line that names all of it."""
    with pytest.raises(ConfigError) as caught:
        load(Run, file, [override])
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_a_fault_in_the_file_names_the_file(file: Path) -> None:
    """The place of a fault is the file when the file holds it, also with sound overrides on top."""
    file.write_text("recipe: codec\noptim:\n  learning_rate: 1\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: optim\.learning_rate = 1: unknown key"):
        load(Run, file, ["seed=1"])


def test_a_missing_required_value_is_named() -> None:
    """A field without default has to be given."""
    with pytest.raises(ConfigError, match="recipe is required"):
        load(Run)


def test_a_missing_file_names_its_neighbour(file: Path) -> None:
    """A mistyped file name gets the near miss of its folder."""
    with pytest.raises(ConfigError, match=r"rum\.yaml: no such configuration file; did you mean .*run\.yaml"):
        load(Run, file.with_name("rum.yaml"))


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "seed: 1\nseed: 2\n", "\xff\xfe"])
def test_an_unreadable_file_is_one_line(file: Path, content: str) -> None:
    """Broken YAML, a list, a doubled key, no text at all: each one line with the file's name."""
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"run\.yaml") as caught:
        load(Run, file)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """An empty file and comments are a configuration without keys."""
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(Run, tmp_path / "empty.yaml", ["recipe=codec"]) == Run("codec")


def test_prefix_appears_in_errors_of_a_section() -> None:
    """A recipe's own section is built by its own dataclass; its errors still name the whole key."""
    with pytest.raises(ConfigError, match=r"run\.yaml: params\.lrr = 1: unknown key; did you mean lr\?"):
        from_mapping(Optim, {"lrr": 1}, "run.yaml", "params")
    with pytest.raises(ConfigError, match=r"run\.yaml: params: lr must be"):
        from_mapping(Optim, {"lr": 2.0}, "run.yaml", "params")
