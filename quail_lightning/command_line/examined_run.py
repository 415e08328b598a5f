"""What `quail fit` would say of a config before it trains: nothing is trained, and no run's folder stays."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from quail_lightning.callbacks import ExportModel, KeepBest, QuantizedEvaluation, TrainingCheckpoint
from quail_lightning.command_line.lightning_cli import QuailCLI, refusals, run_lightning_cli
from quail_lightning.command_line.run_names import FOLDER_KEEPERS, given_loggers
from quail_lightning.commands.findings import Finding
from quail_lightning.commands.measured_step import measured_step
from quail_lightning.errors import InputError, RunError
from quail_lightning.models.memory import available_memory
from quail_lightning.models.saving import MARGIN
from quail_lightning.run.folder import missing_folders, remove_started, run_folder
from quail_lightning.run.out_of_memory import first_line, is_out_of_memory
from quail_lightning.storage.disk_room import free_room, size_text
from quail_lightning.terminal import step
from quail_lightning.unlearning.fitting import device_capacity, evaluation_memory, run_of, sizes_of, state_bytes
from quail_lightning.unlearning.memory_plan import CONTEXT, GIB, memory_plan
from quail_lightning.unlearning.preparation import requests

SECTION = "config"
UNKNOWN = "unknown: --measure times it"


def examined_run(arguments: list[str], measure: bool) -> list[Finding]:
    """What blocks the run of these options of `quail fit`; of one that can be, memory, disk and first epoch.

    Args:
        arguments: ``--config FILE`` and overrides.
        measure: load the model and time a forward and a backward pass.
    """
    found: list[Finding] = []

    class Examined(_ExaminedCLI):
        is_measured = measure
        findings = found

    said = io.StringIO()
    given = list(sys.argv)
    try:
        with redirect_stderr(said):
            run_lightning_cli(["fit", *arguments], Examined)
    except InputError as problem:
        found.append(_blocking(problem))
    except SystemExit as refused:  # the parser says why by itself
        if refused.code not in (0, None):
            lines = said.getvalue().strip().splitlines()
            starts = [n for n, line in enumerate(lines) if line.startswith("error: ")]
            text = " ".join(" ".join(lines[starts[-1] :] if starts else lines[-1:]).split())
            found.append(Finding(SECTION, "as fit reads it", text.removeprefix("error: "), "blocks"))
    finally:
        sys.argv = given
    return found


def _blocking(problem: InputError, name: str = "as fit reads it") -> Finding:
    return Finding(SECTION, name, " ".join(str(problem).split()), "blocks")


class _ExaminedCLI(QuailCLI):
    """Parses and builds what `quail fit` does, and asks it in place of running it."""

    is_measured = False
    findings: list[Finding]

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        section = self.config[self.subcommand]
        kinds = [kind for kind, _ in given_loggers(section.trainer)]
        if isinstance(section.trainer.logger, list):  # a tracker would begin a run in its store
            pairs = zip(section.trainer.logger, kinds, strict=True)
            section.trainer.logger = [each for each, kind in pairs if issubclass(kind, FOLDER_KEEPERS)]

    def _run_subcommand(self, subcommand: str) -> None:
        # private: Lightning calls no other method in its place
        folder = run_folder(self.trainer)
        self._made = missing_folders(folder) + self._made
        try:
            self.findings += self._found(folder)
        finally:
            remove_started(self._made)
            if self._dry_run is not None:
                self._dry_run.cleanup()

    def _found(self, folder: Path) -> Iterator[Finding]:
        problems = [_blocking(problem) for problem in refusals(self.checks(folder))]
        yield from problems
        evaluation: QuantizedEvaluation = self._get(self.config_init, "evaluation")
        recipe = self._get(self.config_init, "prepare")
        try:
            missing = [] if recipe is None else self.missing_models(recipe, evaluation.retrained)
            for name, place, _ in missing:
                yield Finding(SECTION, name, f"{place} is not there yet: fit makes it first (prepare)", "note")
            if missing or problems:
                why = "not looked at before that is mended" if problems else "known once the models are there"
                yield Finding(SECTION, "memory, disk, epoch", why, "note")
                if not problems:
                    yield Finding(SECTION, "as fit reads it", "nothing blocks before these models are made")
                return
            with step("looking at the checkpoints"):
                self.check_models(evaluation.retrained)
            yield from self._set_up()
        except InputError as problem:
            yield _blocking(problem)

    def _set_up(self) -> Iterator[Finding]:
        """As Lightning sets up a fit, but no config is written; then what the run takes."""
        trainer: Any = self.trainer  # Lightning sets its data when it starts
        module = self.model
        trainer.state.fn = TrainerFn.FITTING
        trainer.datamodule, module.trainer = self.datamodule, trainer
        self.datamodule.trainer = trainer
        with step("cutting the windows"):
            self.datamodule.setup("fit")
        callbacks: list[Callback] = list(trainer.callbacks)  # some reorder the list
        own = [each for each in callbacks if not isinstance(each, (SaveConfigCallback, ProgressBar))]
        setups: list[Callable[[], None]] = [_setup_of(each, trainer, module) for each in own]
        with step("asking every part of the run"):
            found = refusals([*setups, lambda: module.setup("fit")])
            problems = [_blocking(problem) for problem in found]
        yield from problems
        if not problems:
            yield Finding(SECTION, "as fit reads it", "nothing blocks")
        yield from self._memory()
        yield self._disk()
        yield from self._first_epoch(blocked=bool(problems))

    def _memory(self) -> Iterator[Finding]:
        options, trainer = self.model.memory_options, self.trainer
        sizes = sizes_of(options)
        reads_logits = any("logits" in asked.frozen for asked in requests(self.model, sizes.layers).values())
        run = run_of(options, trainer, reads_logits, evaluation_memory(options, trainer))
        plan = memory_plan(sizes, run)
        shown = {name: value for name, value in plan.items() if value >= 0.05 and name != "total"}
        terms = ", ".join(f"{name} {value:.1f}" for name, value in shown.items())
        capacity = device_capacity(trainer)
        if capacity is None:
            free = available_memory()
            said = f"about {_gib(plan['total'])}, counted as for an accelerator ({terms or 'next to nothing'})"
            if free is not None and plan["total"] * GIB > free:
                remedy = "Fit does not refuse it on a processor; it may swap or be ended"
                yield Finding(SECTION, "memory", f"{said}; {size_text(free)} are free", "note", remedy)
            else:
                known = "unknown" if free is None else size_text(free)
                yield Finding(SECTION, "memory", f"{said}; {known} free")
            return
        import torch

        need, free_now = plan["total"] + CONTEXT, torch.cuda.mem_get_info(trainer.strategy.root_device)[0] / GIB
        said = f"{need:.1f} GiB a device with the driver's ({terms}) of {capacity:.1f}, {free_now:.1f} free now"
        if need > capacity:  # refused by the module's setup, with the remedy
            yield Finding(SECTION, "memory", said, "blocks")
        elif need > free_now:
            yield Finding(SECTION, "memory", said, "note", "Another process holds the rest: end it, or wait")
        else:
            yield Finding(SECTION, "memory", said)

    def _disk(self) -> Finding:
        """Of what a run leaves: its model, its checkpoints, the best epoch. The cache is checked by itself."""
        options, section = self.model.memory_options, self.config_init
        export: ExportModel = self._get(section, "export")
        checkpoint: TrainingCheckpoint = self._get(section, "checkpoint")
        best: KeepBest = self._get(section, "best")
        sizes = sizes_of(options)
        model = sizes.parameters * options.export_dtype.itemsize + MARGIN
        parts = {
            "model": float(model) if export.enabled else 0.0,
            "best epochs": 2.0 * model if best.enabled else 0.0,
            "checkpoints": (checkpoint.keep + 1) * state_bytes(options) if checkpoint.enabled else 0.0,
        }
        folder, need = run_folder(self.trainer), sum(parts.values())
        free = free_room(folder)
        terms = ", ".join(f"{name} {size_text(round(size))}" for name, size in parts.items() if size)
        said = f"{size_text(round(need))} ({terms or 'nothing is kept'}), {size_text(free)} free"
        if need > free:
            remedy = "Make room, set checkpoint.keep to 1, or name another disk (trainer.logger)"
            return Finding(SECTION, "disk", said, "blocks", remedy)
        return Finding(SECTION, "disk", said)

    def _first_epoch(self, blocked: bool) -> Iterator[Finding]:
        served, processes = self.datamodule.served, self.trainer.world_size
        steps = len(served.steps().sampler)
        # on this process alone, before Lightning divides them
        windows = sum(len(numbers) for pair in served.steps().sampler for numbers in pair)
        said = f"{steps} batches, {windows} windows in all"
        yield Finding(SECTION, "first epoch", said if processes == 1 else f"{said}, among {processes} processes")
        if blocked or not self.is_measured:
            yield Finding(SECTION, "its length", "not measured: something blocks" if blocked else UNKNOWN, "note")
            return
        if processes > 1:
            yield Finding(SECTION, "its length", "not measured: one process cannot time several", "note")
            return
        try:
            seconds, count = measured_step(self.model, served.trained.forget, self.datamodule.batch_size)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RunError) or not is_out_of_memory(error):
                raise
            yield Finding(SECTION, "its length", f"memory is short ({first_line(error)})", "blocks")
            return
        least = windows * seconds / count
        yield Finding(
            SECTION,
            "its length",
            f"at least {_duration(least)}: {seconds / count:.3g} s a window, forward and backward, measured on "
            f"{count}; the target's own outputs, the optimizer and the evaluation come on top",
        )


def _setup_of(callback: Callback, trainer: Trainer, module: Any) -> Callable[[], None]:
    return lambda: callback.setup(trainer, module, "fit")


def _gib(amount: float) -> str:
    return size_text(round(amount * GIB))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
