"""Does α act, and do alternating steps follow the joint one? One command, one table.

    python benchmarks/weighting.py [--quick] [--json FILE]

GA_GDR on a small invented newsroom that a small Llama knows by heart, at six α: one joint step on the sum, forget
and retain steps in turn as they are weighted now, and as they were before (the weight before clipping). Distances
are of all weights after the last step, L2, to the joint run of the same α.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from quail_lightning.commands.finetune import FinetuneRecipe, TinyModel, finetune
from quail_lightning.data import MuseDataModule
from quail_lightning.data.newsroom import Newsroom
from quail_lightning.finetuning import Hardware, Optimization
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.arithmetic import device_type
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.objectives.weighting import StepWeights
from quail_lightning.storage.durable import write_json
from quail_lightning.terminal import quiet_libraries
from quail_lightning.unlearning import UnlearningModule

ALPHAS = (0.2, 1.0, 5.0, 20.0, 100.0, 400.0)
LENGTH, RATE = 128, 2e-4
Run = tuple[Tensor, list[float], list[float]]  # weights, forget NLLs, retain NLLs


def main() -> None:
    options = _options()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet_libraries()
    torch.set_num_threads(1)
    steps, epochs, width = (10, 30, 64) if options.quick else (24, 30, 192)
    with tempfile.TemporaryDirectory() as folder:
        target = _target(Path(folder), epochs, width)
        runs = {(alpha, way): _run(folder, target, alpha, way, steps) for alpha in ALPHAS for way in WAYS}
    found = _found(runs)
    print("\n".join(_table(runs)))
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    if options.json is not None:
        write_json(options.json, found)


WAYS = ("joint", "now", "before")


def _found(runs: dict[tuple[float, str], Run]) -> dict[str, Any]:
    now = [runs[alpha, "now"] for alpha in ALPHAS]
    pairs = list(pairwise(now))
    distances = {way: sum(_distance(runs, alpha, way) for alpha in ALPHAS) for way in ("now", "before")}
    return {
        "distinct_runs": len({run[0].numpy().tobytes() for run in now}),
        "forget_is_monotone": all(_falls(first[1], second[1]) for first, second in pairs),
        "retain_is_monotone": all(_falls(first[2], second[2]) for first, second in pairs),
        "distance_to_joint_over_before": distances["now"] / distances["before"],
    }


def _falls(before: list[float], after: list[float]) -> bool:
    """Whether a mean NLL falls, or rises by no more than twice the standard error of the paired difference."""
    risen = torch.tensor(after) - torch.tensor(before)
    return bool(risen.mean() <= 2 * risen.std() / len(risen) ** 0.5)


def _distance(runs: dict[tuple[float, str], Run], alpha: float, way: str) -> float:
    return (runs[alpha, way][0] - runs[alpha, "joint"][0]).norm().item()


def _table(runs: dict[tuple[float, str], Run]) -> list[str]:
    head = " | ".join(f"forget NLL, {way} | retain NLL, {way}" for way in WAYS)
    lines = [f"| α | {head} | distance to joint, now | before |", "|" + "---|" * 9]
    for alpha in ALPHAS:
        nlls = [f"{sum(nll) / len(nll):.3f}" for way in WAYS for nll in runs[alpha, way][1:]]
        distances = [f"{_distance(runs, alpha, way):.3f}" for way in ("now", "before")]
        lines.append(f"| {alpha:g} | {' | '.join([*nlls, *distances])} |")
    return lines


def _target(folder: Path, epochs: int, width: int) -> MuseDataModule:
    """Data whose tokenizer's folder is a model that knows both of its sets."""
    corpus, out = folder / "corpus", folder / "target"
    newsroom = Newsroom(forget_articles=6, retain_articles=6, holdout_articles=2, rounds=1)
    data = MuseDataModule(str(corpus), str(out), LENGTH, 2, newsroom=newsroom)
    tiny = TinyModel(vocab_size=512, width=width, layers=2, heads=4, positions=LENGTH)
    recipe = FinetuneRecipe(tiny=tiny, optimization=Optimization(epochs=epochs, learning_rate=3e-3, batch_size=4))
    finetune(recipe, data, "forget+retain", out, Hardware(device_type("cpu"), 1), alone=True)
    return data


def _run(folder: str, data: MuseDataModule, alpha: float, way: str, steps: int) -> Run:
    seed_everything(0, verbose=False)
    joint = way == "joint"
    target = data.tokenizer_name
    assert target is not None
    schedule: Any = "joint" if joint else "alternate"
    options: dict[str, Any] = {"alpha": alpha, "learning_rate": RATE, "schedule": schedule}
    module = UnlearningModule(target, GradientAscent(), GradientDescent(), **options)
    served = MuseDataModule(data.corpus_name, target, LENGTH, 2, schedule=schedule)
    trainer = Trainer(
        max_epochs=1000,
        max_steps=steps if joint else 2 * steps,
        accelerator="cpu",
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    as_before = patch.object(UnlearningModule, "_step_weights", lambda self, sides: StepWeights(self.weights, 1.0))
    with as_before if way == "before" else nullcontext():
        trainer.fit(module, datamodule=served)
    assert module.model is not None
    weights = torch.cat([parameter.detach().flatten() for parameter in module.model.parameters()])
    windows = served.served.windows
    forget, retain = (window_nlls(module.model, each, 8).tolist() for each in (windows.forget, windows.retain))
    return weights, forget, retain


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps on a smaller model")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
