"""Train any recipe: accumulation, clipping, averages of weights, validation, log, checkpoints and exact resume.

A recipe says what is trained (model, loader, loss, validation, export); the engine does the rest through accelerate, on
one process or many. Everything random is a function of (seed, rank, samples seen), so that on the CPU a resumed run
repeats an unbroken one bit for bit. The exception is `engine.minutes`: a run limited by the clock decays its learning
rate by elapsed time and cannot be repeated exactly.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen import checkpoint
from gen.config import to_mapping, to_yaml
from gen.ema import Ema, parse_profile
from gen.optim import OptimConfig, build_optimizer, full_tensor, learning_rate
from gen.recipe import Objective, Recipe
from gen.runlog import Clock, RunLog
from gen.seeding import derive_seed, step_generator
from gen.trainstate import Parts, TrainState, load_state, save_state

__all__ = ["EngineConfig", "Recipe", "RunConfig", "Trainer"]

log = logging.getLogger(__name__)


@dataclass
class EngineConfig:
    """Say how long and in which portions to train.

    Args:
        steps: optimiser steps in all, >= 1.
        batch_size: samples per process and backward pass; a step uses batch_size x accumulate x processes.
        accumulate: backward passes per optimiser step.
        minutes: end after this much training time even if `steps` are not done; the schedule follows the larger of
            step / steps and elapsed / minutes. Such a run is not reproducible bit for bit.
        mixed_precision: "no" or "bf16" (autocast; weights and averages stay float32).
        ema: averages of the weights, "power:WIDTH" or "exponential:HALFLIFE_SAMPLES"; the first one is validated and
            exported. Empty: the weights themselves are.
        validate_every: steps between validations; 0 validates at the end only.
        save_every: steps between checkpoints; 0 saves at the end only.
        keep: checkpoints kept, >= 1.
        log_every: steps averaged into a row of the log, >= 1.
        threads: CPU threads of torch; None leaves the default.
        compile: compile the model's forward with torch.compile.
        cpu: stay on the CPU even if there is an accelerator.
        tensorboard: write TensorBoard files beside the JSONL log.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    minutes: float | None = None
    mixed_precision: str = "no"
    ema: list[str] = field(default_factory=lambda: ["power:0.1"])
    validate_every: int = 0
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    threads: int | None = None
    compile: bool = False
    cpu: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1; got {getattr(self, name)}")
        for name in ("validate_every", "save_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0 (0: at the end only); got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be > 0 or null; got {self.minutes}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be >= 1 or null; got {self.threads}")
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision must be 'no' or 'bf16'; got {self.mixed_precision!r}")
        for text in self.ema:
            parse_profile(text)


@dataclass
class RunConfig:
    """Hold one training run: the file layout of `gen.train --config`.

    Args:
        recipe: name in `gen.train.RECIPES`.
        out: folder of the run.
        seed: run seed, >= 0.
        engine: length, portions, checkpoints.
        optim: optimiser and schedule.
        params: the recipe's own parameters (its `Params` dataclass).
    """

    recipe: str = "forecast"
    out: str = "runs/run"
    seed: int = 0
    engine: EngineConfig = field(default_factory=EngineConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0; got {self.seed}")


class Trainer:
    """Train a recipe in `run.out`; continue from its newest checkpoint when there is one.

    The folder holds config.yaml, metrics.jsonl, tb/, checkpoints/step_0000100/ and, at the end, export/.

    Args:
        run: the run's configuration.
        recipe: what is trained.

    Raises:
        CheckpointError: if the folder holds a checkpoint of another run or a damaged one.
    """

    def __init__(self, run: RunConfig, recipe: Recipe) -> None:
        from accelerate import Accelerator

        self.run, self.config, self.recipe, self.folder = run, run.engine, recipe, Path(run.out)
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        self.accelerator = Accelerator(mixed_precision=self.config.mixed_precision, cpu=self.config.cpu)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.state = TrainState()
        self._build()
        self.loader = recipe.train_loader(self.config.batch_size, self.rank, self.world)
        newest = checkpoint.latest(self.folder / "checkpoints")
        if newest is not None:
            self.state = load_state(newest, self._parts(), self._identity())
            self._note("continue from %s: step %d, %d samples", newest, self.state.step, self.state.samples)

    def _build(self) -> None:
        torch.manual_seed(derive_seed("model", self.run.seed))
        model = self.recipe.model()
        if self.config.compile:
            model.compile()
        optimizer = build_optimizer(model, self.run.optim)
        self.objective, self.optimizer = self.accelerator.prepare(Objective(model), optimizer)
        self.model: nn.Module = self.accelerator.unwrap_model(self.objective).model
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.ema = [Ema(self.trained.items(), parse_profile(text)) for text in self.config.ema]
        self._note("%d trained parameters", sum(p.numel() for p in self.trained.values()))

    def fit(self) -> Path:
        """Train to the end, export, and return the exported folder.

        Raises:
            FloatingPointError: if the loss or the gradient is not finite.
        """
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(to_yaml(self.run), encoding="utf-8")
        self.accelerator.wait_for_everyone()
        journal = RunLog(self.folder, self.state.step, self.config.tensorboard) if self._main else None
        clock = Clock(self.state)
        batches = self._batches()
        while (progress := self._progress()) < 1.0:
            self._train_step(batches, progress)
            clock.tick(self.state)
            self._report(journal, clock, last=self._progress() >= 1.0)
        if journal is not None:
            journal.close()
        return self._export()

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _report(self, journal: RunLog | None, clock: Clock, last: bool) -> None:
        """Log, validate and save when the step asks for it."""
        step, config = self.state.step, self.config
        if last or step % config.log_every == 0:
            self._write(journal, self._row() | {"samples_per_second": clock.rate(self.state)})
        if last or _every(step, config.validate_every):
            self._write(journal, self._validate())
        if last or _every(step, config.save_every):
            self._save()

    def _progress(self) -> float:
        """Return the fraction of the run that is over, the same on every process."""
        done = self.state.step / self.config.steps
        if self.config.minutes is None:
            return done
        elapsed = torch.tensor(self.state.elapsed, device=self.accelerator.device, dtype=torch.float32)
        if self.world > 1:
            from accelerate.utils import broadcast

            elapsed = broadcast(elapsed)
        return max(done, float(elapsed) / (60.0 * self.config.minutes))

    def _train_step(self, batches: Iterator[Any], progress: float) -> None:
        """Do one optimiser step: accumulate, clip, step, average."""
        self.objective.train()
        rate = learning_rate(self.run.optim, self.state.step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        row: dict[str, Tensor] = {}
        for index in range(self.config.accumulate):
            for name, value in self._backward(batches, last=index == self.config.accumulate - 1).items():
                part = torch.as_tensor(value).detach().float() / self.config.accumulate
                row[name] = row[name] + part if name in row else part
        limit = math.inf if self.run.optim.clip is None else self.run.optim.clip
        norm = self.accelerator.clip_grad_norm_(list(self.trained.values()), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        for average in self.ema:
            average.update(self.state.samples, self.config.batch_size * self.config.accumulate * self.world)
        self.state.window.append({**row, "gradient_norm": full_tensor(norm), "lr": rate})

    def _backward(self, batches: Iterator[Any], last: bool) -> dict[str, Any]:
        from accelerate.utils import send_to_device

        seen, seed = self.state.samples, self.run.seed
        torch.manual_seed(derive_seed("global", seed, self.rank, seen))  # dropout, random augmentation
        batch = send_to_device(next(batches), self.accelerator.device, non_blocking=True)
        self.state.samples += self.config.batch_size * self.world
        with nullcontext() if last else self.accelerator.no_sync(self.objective):
            generator = step_generator(seed, self.rank, seen)
            loss, extra = self.objective(lambda model: self.recipe.loss(model, batch, generator))
            self.accelerator.backward(loss / self.config.accumulate)
        return {"loss": loss, **extra}

    def _batches(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self.loader:
                empty = False
                yield batch
            if empty:
                raise ValueError("the training loader gave no batch; the data set is smaller than one batch")

    def _row(self) -> dict[str, float]:
        """Average the window over steps and processes; refuse to go on with numbers that are not finite."""
        names = sorted(self.state.window[0])
        table = torch.tensor([[float(entry[n]) for n in names] for entry in self.state.window], dtype=torch.float64)
        self.state.window = []
        row = self._mean_over_processes(names, table.mean(dim=0))
        if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
            raise FloatingPointError(
                f"step {self.state.step}: loss {row['loss']}, gradient norm {row['gradient_norm']}; "
                "lower optim.lr and start again from an earlier checkpoint"
            )
        return {"samples": self.state.samples, **row, "elapsed": self.state.elapsed}

    def _validate(self) -> dict[str, float]:
        """Score the exported average; the randomness of training is left as it was."""
        self.objective.eval()
        start = time.monotonic()
        with torch.random.fork_rng(), torch.no_grad(), self._averaged():
            torch.manual_seed(derive_seed("validate", self.run.seed, self.rank))
            scores = self.objective(self.recipe.validate)
        names = sorted(scores)
        values = torch.tensor([float(scores[n]) for n in names], dtype=torch.float64)
        row = self._mean_over_processes([f"validation/{n}" for n in names], values)
        return {"samples": self.state.samples, **row, "validation_seconds": time.monotonic() - start}

    def _mean_over_processes(self, names: Sequence[str], values: Tensor) -> dict[str, float]:
        if self.world > 1:
            values = self.accelerator.reduce(values.to(self.accelerator.device), "mean").cpu()
        return dict(zip(names, values.tolist(), strict=True))

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema[0].applied() if self.ema else nullcontext()

    def _write(self, journal: RunLog | None, row: Mapping[str, float]) -> None:
        if journal is not None:
            journal.write(self.state.step, row)
            text = " ".join(f"{name} {value:.5g}" for name, value in row.items())
            self._note("step %d/%d %s", self.state.step, self.config.steps, text)

    def _note(self, message: str, *values: object) -> None:
        if self._main:
            log.info(message, *values)

    def _parts(self) -> Parts:
        return Parts(self.model, self.optimizer, self.ema, self.loader, self.rank)

    def _identity(self) -> dict[str, Any]:
        """Return what a checkpoint and the run that continues it must share."""
        portions = ("batch_size", "accumulate", "ema", "mixed_precision")
        return {
            "recipe": self.run.recipe,
            "seed": self.run.seed,
            "params": to_mapping(self.recipe.params),
            "optim.name": self.run.optim.name,
            "processes": self.world,
            **{f"engine.{name}": getattr(self.config, name) for name in portions},
        }

    def _save(self) -> None:
        """Write a checkpoint; every process takes part, the main one gives it its name."""
        for entry in self.state.window:
            if not math.isfinite(float(entry["loss"])):
                raise FloatingPointError(f"step {self.state.step}: the loss is not finite; lower optim.lr")
        save_state(self.folder / "checkpoints", self.accelerator, self._parts(), self.state, self._identity())
        if self._main:
            checkpoint.prune(self.folder / "checkpoints", self.config.keep)

    def _export(self) -> Path:
        """Write the model folder with the averaged weights, from a fresh copy of the model on the CPU."""
        with self._averaged():
            weights = {name: full_tensor(value).cpu().clone() for name, value in self.model.state_dict().items()}
        final, unfinished = self.folder / "export", self.folder / "export.partial"
        if self._main:
            model = self.recipe.model()
            model.load_state_dict(weights)
            shutil.rmtree(unfinished, ignore_errors=True)
            self.recipe.export(model.eval().requires_grad_(False), unfinished)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(unfinished, final)
            self._note("exported %s", final)
        self.accelerator.wait_for_everyone()
        return final


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
