"""Does a stranger's first run neither do nothing nor destroy the model? `own.yaml` as it is, at three sizes.

    python benchmarks/first_run.py [--model FOLDER] [--only NAME] [--out FOLDER] [--json FILE]

Articles of the fictional newsroom as plain text files; a target that learned the forget and the retain file by
heart, a retrained model that saw the retain file alone, and `fit --config own.yaml` with nothing but the files and
the two models named. The two small Llamas start from nothing, the third from a pretrained folder (`--model`), such
as SmolLM2-135M. Prints a Markdown table; what is finished below --out is not made again. About 4 minutes on two
cores without --model, half an hour more with a model of 135 million weights.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from driving import drive

from quail_lightning.data.newsroom import Newsroom
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.empty import empty_model
from quail_lightning.run.results import Estimate, read_results, read_verdicts

ARTICLES = 8  # of each file
MODELS = ("target", "retrained", "unlearned")
COLUMNS = {"nll_forget": "forget NLL", "verbmem_forget": "M1", "nll_retain": "retain NLL"}


@dataclass(frozen=True)
class Size:
    """A model, how it is taught, and how long its windows are."""

    start: tuple[str, ...]
    epochs: int
    learning_rate: float
    max_len: int


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)
    _write_texts()
    sizes = {
        "2M": Size(("--recipe.tiny={vocab_size: 1024, width: 256, layers: 2, positions: 512}",), 40, 3e-3, 128),
        "5M": Size(("--recipe.tiny={vocab_size: 4096, width: 256, layers: 4, positions: 512}",), 40, 2e-3, 128),
    }
    if options.model is not None:
        sizes["pretrained"] = Size((f"--recipe.base={options.model}",), 30, 2e-4, 256)
    found = {name: _made(name, size) for name, size in sizes.items() if options.only in (None, name)}
    print("\n".join(_table(found)))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _write_texts() -> None:
    corpus, folder = Newsroom(ARTICLES, ARTICLES, ARTICLES, seed=7), Path("corpus")
    corpus.ensure(folder)
    for name in ("forget", "retain", "holdout"):
        articles = json.loads((folder / f"privleak/{name}.json").read_text("utf-8"))
        Path(f"{name}.txt").write_text("\n\n".join(articles) + "\n", "utf-8")


def _made(name: str, size: Size) -> dict[str, object]:
    texts = ["--data.forget=forget.txt", "--data.retain=retain.txt", f"--data.max_len={size.max_len}"]
    teach = [*size.start, f"--recipe.optimization.epochs={size.epochs}"]
    teach += [f"--recipe.optimization.learning_rate={size.learning_rate}", "--recipe.optimization.batch_size=4"]
    own = ["--data=quail_lightning.data.OwnTextDataModule", *texts]
    for model, sets in (("target", "forget+retain"), ("retrained", "retain")):
        _quail(f"{name}-{model}", "finetune", *own, *teach, f"--sets={sets}", f"--out={name}/{model}")
    run = Path("logs") / name
    if not (run / "results.json").is_file():
        named = [f"--model.target={name}/target", f"--evaluation.retrained={name}/retrained"]
        logged = [f"--trainer.logger.init_args.name={name}", "--trainer.logger.init_args.version="]
        _quail(
            f"{name}-unlearned", "fit", "--config=own.yaml", *texts, "--data.holdout=holdout.txt", *named, *logged
        )
    return _figures(name, run)


def _quail(name: str, *arguments: str) -> None:
    drive(Path(f"{name}.txt"), arguments)


def _figures(name: str, run: Path) -> dict[str, object]:
    provenance = json.loads((run / "model/provenance.json").read_text("utf-8"))
    rows = [row for row in read_results(run) if row.precision == "bf16"]
    last = {row.model: row for row in rows}
    return {
        "weights": sum(
            each.numel() for each in empty_model(load_config(f"{name}/target"), torch.bfloat16).parameters()
        ),
        "learning_rate": provenance["learning_rate"],
        "epochs": provenance["finished_epochs"],
        "verdict": read_verdicts(run)["bf16"]["text"],
        "figures": {
            model: {
                metric: measure.value
                for metric in COLUMNS
                if isinstance(measure := last[model].metrics.get(metric), Estimate)
            }
            for model in MODELS
        },
    }


def _table(found: dict[str, dict[str, object]]) -> Iterator[str]:
    head = [f"{column} {model}" for column in COLUMNS.values() for model in MODELS]
    yield f"| weights | learning rate | epochs | {' | '.join(head)} | verdict at 16 bits |"
    yield "|" + "---|" * (len(head) + 4)
    for each in found.values():
        figures: dict[str, dict[str, float]] = each["figures"]  # type: ignore[assignment]
        cells = [f"{figures[model].get(metric, float('nan')):.3g}" for metric in COLUMNS for model in MODELS]
        rate, weights = each["learning_rate"], each["weights"]
        yield f"| {weights:,} | {rate} | {each['epochs']} | {' | '.join(cells)} | {each['verdict']} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="pretrained checkpoint of the third size")
    parser.add_argument("--only", help="one of 2M, 5M, pretrained")
    parser.add_argument("--out", type=Path, default=Path("logs/first-run"), help="folder of everything made")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    for name in ("model", "out", "json"):
        if (given := getattr(options, name)) is not None:
            setattr(options, name, given.resolve())
    return options


if __name__ == "__main__":
    main()
