"""fit, validate and test by LightningCLI."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from quail_lightning.callbacks import (
    ExportModel,
    KeepBest,
    QuantizedEvaluation,
    TrainingCheckpoint,
    UndeliveredUpdate,
)
from quail_lightning.callbacks.progress import progress_bars
from quail_lightning.command_line.argument_parser import SuggestingParser
from quail_lightning.command_line.named_checkpoints import NamedCheckpoints
from quail_lightning.command_line.resuming import chosen_checkpoint, how_to_go_on, resume_logger
from quail_lightning.command_line.run_names import described_method, name_after_config, named_run, run_loggers
from quail_lightning.command_line.trackers import (
    check_trackers,
    identities,
    keep_table,
    named_trackers,
    open_trackers,
    resume_trackers,
)
from quail_lightning.commands.finetune import FinetuneRecipe, Sets, finetune, is_made
from quail_lightning.commands.leftovers import say_what_is_left
from quail_lightning.configuration.allowed_code import FLAG, is_code_allowed
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError, RunError, add_hint, hint_of
from quail_lightning.finetuning import Hardware
from quail_lightning.models.arithmetic import device_type, emulation_notice, training_precision
from quail_lightning.run.folder import missing_folders, remove_started, run_folder
from quail_lightning.run.latest import point_latest_to
from quail_lightning.run.masking import masked_yaml
from quail_lightning.run.record import Outcome, add_end, add_start
from quail_lightning.run.trainer_options import check_options, explained_refusals
from quail_lightning.storage.durable import check_writable, replace_text
from quail_lightning.storage.locks import hold, lock_in, released_afterwards
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.checks import check_checkpoints, check_whole_models

DEFAULT_SEED = 42
WAIT = 1.0  # seconds between two looks for what another process makes


class SaveConfigAndRecord(SaveConfigCallback):
    """Keeps, with the run, its config and what it was started on, without secrets; the run's folder is locked."""

    _recorded = False  # by this process, in a folder that is no other run's

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = run_folder(trainer)  # asked by all processes
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by Lightning on the first process."""
        self._folder.mkdir(parents=True, exist_ok=True)
        hold(lock_in(self._folder), f"the run's folder {self._folder}")
        path = self._folder / self.config_filename
        if path.exists() and not self.overwrite:  # of a run that began, and ended, since the folder was looked at
            raise InputError(f"{path} is another run's", remedy="Start again, or name another version")
        replace_text(path, masked_yaml(self.parser.dump(self.config, skip_none=False)), private=True)
        seed = self.config.get("seed_everything")
        start = {"verb": str(stage), "seed": seed, "resumed_from": trainer.ckpt_path}
        add_start(self._folder, start | {"trackers": identities(trainer.loggers)})
        self._recorded = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called where nothing failed, after the model was saved."""
        self._end("finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with suppress(OSError):  # the disk may be full: other callbacks are yet to save what can be saved
            # SystemExit: by SIGTERM
            self._end("interrupted" if isinstance(exception, (KeyboardInterrupt, SystemExit)) else "failed")

    def _end(self, outcome: Outcome) -> None:
        if self._recorded:
            add_end(self._folder, outcome)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the run is the latest one: whatever could be refused was not."""
        kept_by_run = isinstance(trainer.logger, (TensorBoardLogger, CSVLogger))
        if kept_by_run and trainer.is_global_zero:
            point_latest_to(self._folder)


class TrainerParser(SuggestingParser, LightningArgumentParser):
    """The parser of Lightning's verbs; the others do without Lightning, whose import takes seconds."""


class QuailCLI(LightningCLI):
    """LightningCLI with the sections ``checkpoint``, ``evaluation``, ``best``, ``export`` and ``prepare``.

    Args:
        arguments: the verb and its options.
        records: keep the config and a record with the run.
    """

    def __init__(self, arguments: Sequence[str], records: bool = True) -> None:
        # LightningCLI warns when it is handed arguments while sys.argv holds some
        sys.argv = [sys.argv[0], *arguments]
        super().__init__(
            UnlearningModule,
            LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=DEFAULT_SEED,
            auto_configure_optimizers=False,
            parser_class=TrainerParser,
            save_config_callback=SaveConfigAndRecord if records else None,
            save_config_kwargs={"save_to_log_dir": False},  # ours writes it, without secrets
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
            "test": {"model", "dataloaders", "datamodule"},
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = super().init_parser(**kwargs)
        assert isinstance(parser, TrainerParser)
        parser.verb = sys.argv[1]
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(TrainingCheckpoint, "checkpoint")
        # best before evaluation: where it ends the training, the evaluation is to know that it is the last
        parser.add_lightning_class_args(KeepBest, "best")
        parser.add_lightning_class_args(QuantizedEvaluation, "evaluation")
        parser.add_lightning_class_args(ExportModel, "export")
        parser.add_argument(
            "--prepare",
            type=FinetuneRecipe | None,
            default=None,
            help="make model.target and evaluation.retrained by this recipe where they are missing",
        )
        parser.add_argument(
            "--run_folder",
            type=str | None,
            default=None,
            help="folder of the run, whatever its loggers are; default: logs/<config>/<method>-<when>, or what "
            "trainer.logger names",
        )
        parser.link_arguments("model.target", "data.init_args.tokenizer")
        parser.link_arguments("evaluation.retrained", "best.retrained")
        parser.link_arguments("evaluation.retrained", "model.retrained")
        parser.link_arguments("model.schedule", "data.init_args.schedule")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_data_seed)

    def _parse_ckpt_path(self) -> None:
        """Lightning would unpickle a file named by --ckpt_path; our checkpoints are folders without options."""

    def before_instantiate_classes(self) -> None:
        """Choose the arithmetic where none is given; a run that is resumed goes on in its own folder."""
        if is_code_allowed():
            sys.argv.append(FLAG)  # the command line of the processes that Lightning starts
        section = self.config[self.subcommand]
        name_after_config(section.trainer, section.get("config") or [], section.run_folder)
        _raise_together([*check_options(section.trainer), *check_trackers(section.trainer)])
        self._checkpoints = NamedCheckpoints(section)
        self._dry_run = TemporaryDirectory(prefix="quail-dry-run-") if section.trainer.fast_dev_run else None
        if self._dry_run is not None:  # Lightning takes the logger away, and its folder with it
            section.trainer.default_root_dir = self._dry_run.name
        device = device_type(section.trainer.accelerator)
        if section.trainer.precision is None:
            section.trainer.precision = training_precision(device)
        elif notice := emulation_notice(section.trainer.precision, device):
            rank_zero_info(notice)
        if section.ckpt_path is None:
            return
        if self.subcommand != "fit":
            raise InputError(
                f"`quail {self.subcommand}` evaluates saved models, not checkpoints of a training under way",
                given=section.ckpt_path,
                remedy="Set model.start to the model's folder",
            )
        checkpoint = chosen_checkpoint(section.ckpt_path, section.trainer)
        section.ckpt_path = str(checkpoint.folder)
        resume_logger(section.trainer, checkpoint)
        resume_trackers(section.trainer, checkpoint.run)
        # the first config stays; the last one, which may want more epochs, is kept beside it
        self.save_config_kwargs |= {"config_filename": "config-resumed.yaml", "overwrite": True}

    def instantiate_classes(self) -> None:
        """Model, data and Trainer; what Lightning refuses is refused in our words."""
        section = self.config[self.subcommand]
        self._made: list[Path] = []
        try:
            method = described_method(str(self.subcommand), section)
            with (
                explained_refusals(section.trainer),
                named_run(section.trainer, method) as self._made,
                named_trackers(section.trainer),
                self._checkpoints.as_folders(),
            ):
                super().instantiate_classes()
        except BaseException:
            remove_started(self._made)
            raise

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        # private: only here are all callbacks known
        return super()._instantiate_trainer(config, [*progress_bars(config), *callbacks, UndeliveredUpdate()])

    def before_fit(self) -> None:
        self._before_run()

    def before_validate(self) -> None:
        self._before_run()

    def before_test(self) -> None:
        self._before_run()

    def after_fit(self) -> None:
        """Say where the private text can still be read back from."""
        folder = run_folder(self.trainer)  # asked by all processes
        if self.trainer.is_global_zero:
            kept = [] if self._dry_run is not None else [folder]
            say_what_is_left([*kept, *filter(None, [self.model.reference.kept_in])])
            if self._dry_run is not None:
                print("That was a dry run (trainer.fast_dev_run): its results and its model are not kept.")

    def after_validate(self) -> None:
        """The two figures were printed: only a run's folder that was given a name is kept for them."""
        loggers = run_loggers(self.config[self.subcommand].trainer)
        if self.trainer.is_global_zero and all(options.get("version") is None for options in loggers):
            remove_started(self._made)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; what comes to nothing leaves no folder, and what is cut short says how to go on."""
        self._folder: Path | None = None
        try:
            with explained_refusals(self.config[subcommand].trainer):
                super()._run_subcommand(subcommand)  # private: no hook is called when a run fails
        except BaseException as error:
            if self._folder is not None and self.trainer.is_global_zero:
                if isinstance(error, InputError) or subcommand != "fit":
                    remove_started(self._made)
                if subcommand == "fit" and not hint_of(error) and not isinstance(error, RunError):
                    add_hint(error, how_to_go_on(self._folder))
            raise
        finally:
            if self._dry_run is not None:
                self._dry_run.cleanup()

    def _before_run(self) -> None:
        """Whatever can be refused without a model is refused here, then missing models are made."""
        section = self.config_init[self.subcommand]
        self._folder = run_folder(self.trainer)  # asked by all processes
        self._made = missing_folders(self._folder) + self._made
        # as an argument of fit() the callbacks would learn of it only after their setup
        self.trainer.ckpt_path, section.ckpt_path = section.ckpt_path, None
        evaluation: QuantizedEvaluation = self._get(self.config_init, "evaluation")
        _raise_together(list(refusals(self.checks(self._folder))))
        open_trackers(self.trainer)
        if self.trainer.ckpt_path is not None:
            keep_table(self.trainer, self._folder)
        self._checkpoints.convert()
        recipe = self._get(self.config_init, "prepare")
        retrained = None if self.subcommand == "validate" else evaluation.retrained
        if recipe is not None:
            self._prepare(recipe, retrained)
        self.check_models(retrained)

    def check_models(self, retrained: str | None) -> None:
        """Refuse checkpoints that are not whole, or cannot read the windows.

        Args:
            retrained: the one that is compared with; None where none is.

        Raises:
            InputError: naming the checkpoint.
        """
        # here and not in setup, before which callbacks build the architecture and read the files
        check_whole_models(self.model, self.trainer, *filter(None, [retrained]))
        # before the texts are cut: windows of a billion tokens would take all memory
        tokenizer = load_tokenizer(self.model.target)
        check_checkpoints(
            {self.model.target, self.model.start or self.model.target}, tokenizer, self.datamodule.max_len
        )

    def checks(self, folder: Path) -> list[Callable[[], None]]:
        """Whatever can be refused without a model, each by itself."""
        evaluation: QuantizedEvaluation = self._get(self.config_init, "evaluation")
        export: ExportModel = self._get(self.config_init, "export")
        checks: list[Callable[[], None]] = [
            partial(check_writable, folder, "the run's folder (trainer.logger.init_args.save_dir)"),
            partial(self.model.check_trainer, self.trainer),
            self.datamodule.check,
            partial(evaluation.check_run_folder, self.trainer),
            partial(evaluation.check_sharded, self.trainer),
        ]
        if self.subcommand != "validate":
            checks.append(evaluation.suite.check_tasks)
        if self.subcommand == "fit":
            checks.append(partial(export.check, self.trainer))
        return checks

    def missing_models(self, recipe: FinetuneRecipe, retrained: str | None) -> list[tuple[str, Path, Sets]]:
        """Name, folder and sets of each model that the recipe has yet to make.

        Raises:
            InputError: a folder holds something else.
        """
        wanted: list[tuple[str, Path, Sets]] = [("target", Path(self.model.target), "forget+retain")]
        if retrained is not None:
            wanted.append(("retrained model", Path(retrained), "retain"))
        return [entry for entry in wanted if not is_made(recipe, self.datamodule, entry[2], entry[1])]

    def _prepare(self, recipe: FinetuneRecipe, retrained: str | None) -> None:
        """Make the target and the retrained model where they are missing, by the code path of `quail finetune`."""
        missing = self.missing_models(recipe, retrained)
        # by one process alone: the number of processes must not decide what the target becomes
        number = self.trainer.strategy.root_device.index
        hardware = Hardware(self._get(self.config, "trainer").accelerator, 1 if number is None else [number])
        for name, folder, sets in missing:
            if self.trainer.is_global_zero:
                print(f"The {name} {folder} is not there yet: training it on {sets}.", flush=True)
                with isolate_rng():  # unlearning must not depend on whether its target was made or found
                    finetune(recipe, self.datamodule, sets, folder, hardware, alone=True)
            elif not is_made(recipe, self.datamodule, sets, folder):  # torchrun starts all processes at once
                print(f"Waiting for the first process to make {folder}, on a disk that all see.", flush=True)
            while not is_made(recipe, self.datamodule, sets, folder):
                time.sleep(WAIT)


def run_lightning_cli(arguments: Sequence[str], kind: type[QuailCLI] = QuailCLI) -> None:
    """Parse and run one of Lightning's verbs.

    Args:
        arguments: the verb and its options.
        kind: what is made of them.
    """
    with released_afterwards():
        kind(arguments)


def _data_seed(seed: Any) -> int:
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else DEFAULT_SEED


def refusals(checks: Iterable[Callable[[], None]]) -> Iterator[InputError]:
    """Run every check; what each of them refuses."""
    for check in checks:
        try:
            check()
        except InputError as problem:
            yield problem


def _raise_together(problems: Sequence[InputError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError("several things are wrong:\n- " + "\n- ".join(str(problem) for problem in problems))
