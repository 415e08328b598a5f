"""fit, validate and test by LightningCLI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.seed import isolate_rng

from quail_lightning.argument_parser import SuggestingParser
from quail_lightning.callbacks import ExportModel, QuantizedEvaluation
from quail_lightning.commands.finetune import FinetuneRecipe, finetune
from quail_lightning.errors import InputError
from quail_lightning.terminal import progress_bars
from quail_lightning.unlearning import UnlearningModule

DEFAULT_SEED = 42


class QuailCLI(LightningCLI):
    """LightningCLI with the sections ``evaluation``, ``export`` and ``prepare`` beside the usual ones."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
            "test": {"model", "dataloaders", "datamodule"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(QuantizedEvaluation, "evaluation")
        parser.add_lightning_class_args(ExportModel, "export")
        parser.add_argument(
            "--prepare",
            type=FinetuneRecipe | None,
            default=None,
            help="make model.target and evaluation.retrained by this recipe where they are missing",
        )
        parser.link_arguments("model.target", "data.init_args.tokenizer")
        parser.link_arguments("model.schedule", "data.init_args.schedule")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_data_seed)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        return super()._instantiate_trainer(config, callbacks + progress_bars(config))

    def before_fit(self) -> None:
        self._before_run()

    def before_validate(self) -> None:
        self._before_run()

    def before_test(self) -> None:
        self._before_run()

    def _before_run(self) -> None:
        evaluation: QuantizedEvaluation = self._get(self.config_init, "evaluation")
        _all_at_once([self.datamodule.check, lambda: evaluation.check_run_folder(self.trainer)])
        recipe = self._get(self.config_init, "prepare")
        if recipe is not None:
            self._prepare(recipe, evaluation.retrained)

    def _prepare(self, recipe: FinetuneRecipe, retrained: str | None) -> None:
        """Make the target and the retrained model where they are missing, by the code path of `quail finetune`."""
        wanted = [("target", self.model.target, "forget+retain"), ("retrained model", retrained, "retain")]
        for name, folder, sets in wanted:
            if folder is None:
                continue
            if not Path(folder).exists():
                print(f"The {name} {folder} is not there yet: training it on {sets}.", flush=True)
            with isolate_rng():  # unlearning must not depend on whether its target was made or found
                finetune(recipe, self.datamodule, sets, Path(folder))  # type: ignore[arg-type]


def run_lightning_cli(arguments: Sequence[str]) -> None:
    """Parse and run one of Lightning's verbs."""
    import sys

    # LightningCLI warns when it is handed arguments while sys.argv holds some
    sys.argv = [sys.argv[0], *arguments]
    QuailCLI(
        UnlearningModule,
        LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=DEFAULT_SEED,
        auto_configure_optimizers=False,
        parser_class=SuggestingParser,
    )


def _data_seed(seed: Any) -> int:
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else DEFAULT_SEED


def _all_at_once(checks: Sequence[Callable[[], None]]) -> None:
    """Run every check; what they all found goes into one error."""
    problems: list[InputError] = []
    for check in checks:
        try:
            check()
        except InputError as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError("several things are wrong:\n- " + "\n- ".join(str(problem) for problem in problems))
