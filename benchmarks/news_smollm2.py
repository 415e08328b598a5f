"""Does forgetting survive the formats that are shipped? SmolLM2-135M on real NEWS: from the package to the table.

    python benchmarks/news_smollm2.py --corpus FOLDER [--cells first|all] [--only PATTERN ...]

FOLDER is MUSE NEWS in the benchmark's layout; a part of it is chosen (news_documents.py). The target learns its
forget and its retain text, the retrained model takes as many steps on the retain text alone. Each cell unlearns
the target until its forget NLL is nearly the retrained model's, or for the epochs of configs/smollm2.yaml at most,
and is evaluated in every format. Everything is made below --out; what is finished, down to a metric of a model in
a format, is not made again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from driving import drive, shown
from news_documents import write_part

from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.configuration.files import find_config
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.run.results import Estimate, ResultRow, read_results, read_verdicts

COLUMNS = {
    "verbmem_forget": "M1",
    "knowmem_forget": "M2",
    "membership_auc": "membership AUC",  # below 50 texts no leak is shown
    "knowmem_retain": "M4",
    "nll_forget": "NLL forget",
    "nll_retain": "NLL retain",
    "recovery_verbmem_forget_capped": "came back, M1",
    "kept_forgetting": "kept, NLL",
}
EPOCHS = {"target": 8, "retrained": 16}  # half as many windows, as many steps
SURE_RATE = "2e-4"  # its own: a twentieth of the modules is trained
COLORS = {"float32": "tab:blue", "bf16-stochastic": "tab:green", "bf16-nearest": "tab:red"}


@dataclass(frozen=True)
class Cell:
    """One unlearning run."""

    method: str
    weights: str
    rate: str = "5e-5"
    seed: int = 42

    @property
    def name(self) -> str:
        return f"{self.method}-{self.weights}-{self.rate}-{self.seed}"


PAPERS = ("ga_gdr", "npo_gdr", "quail")
FIRST = [Cell(method, weights) for weights in ("float32", "bf16-nearest") for method in PAPERS]
FIRST += [Cell("simnpo_gdr", "float32"), Cell("sure", "float32", SURE_RATE)]
LATER = [Cell(method, "bf16-stochastic") for method in PAPERS]
LATER += [Cell(method, weights, "1e-5") for weights in ("float32", "bf16-nearest") for method in PAPERS]
LATER += [Cell(each.method, each.weights, each.rate, seed) for seed in (43, 44) for each in FIRST]


def main() -> None:
    options = _options()
    out: Path = options.out
    cells = FIRST if options.cells == "first" else FIRST + LATER
    chosen = [cell for cell in cells if any(fnmatch(cell.name, pattern) for pattern in options.only)]
    if not (out / "corpus").is_dir():
        print(write_part(options.corpus, out / "corpus"), file=sys.stderr)
    for name, epochs in EPOCHS.items():
        if not (out / name).is_dir():
            _teach(name, epochs, options)
    for cell in chosen:
        if not _model(out, cell).is_dir():
            shutil.rmtree(out / "runs" / cell.name, ignore_errors=True)  # what an interrupted run left
            _unlearn(cell, out)
        _evaluate(cell, options)
    finished = [cell for cell in chosen if (out / "evaluated" / cell.name / "results.json").is_file()]
    print("\n".join(_report(finished, out)))
    if finished and options.figure is not None:
        _draw(finished, out, options.figure)


def _model(out: Path, cell: Cell) -> Path:
    return out / "runs" / cell.name / "model"


def _teach(name: str, epochs: int, options: argparse.Namespace) -> None:
    settings = {
        "recipe.base": options.base,
        "recipe.optimization.epochs": epochs,
        "data.corpus": options.out / "corpus",
        "sets": "forget+retain" if name == "target" else "retain",
        "out": options.out / name,
    }
    _quail(options.out, name, ["finetune", "--config", "finetune/smollm2.yaml"], settings)


def _unlearn(cell: Cell, out: Path) -> None:
    methods = ("ga_gdr", "sure") if cell.method == "sure" else (cell.method,)
    command = ["fit", "--config", "smollm2.yaml"]
    for method in methods:
        command += ["--config", f"method/{method}.yaml"]
    settings: dict[str, object] = {
        "model.target": out / "target",
        "model.weight_precision": cell.weights,
        "model.learning_rate": cell.rate,
        "seed_everything": cell.seed,
        "data.corpus": out / "corpus",
        "evaluation.retrained": out / "retrained",
        # a glance: the evaluation proper follows, and shares the baselines with the other cells
        "evaluation.precisions": "[]",
        "evaluation.suite.max_prompts": 1,
        "evaluation.suite.max_texts": 1,
        "evaluation.max_windows": 1,
        "trainer.logger.init_args.save_dir": out,
        "trainer.logger.init_args.name": "runs",
        "trainer.logger.init_args.version": cell.name,
    }
    _quail(out, cell.name, command, settings)


def _evaluate(cell: Cell, options: argparse.Namespace) -> None:
    out: Path = options.out
    formats = options.precisions or read_yaml(find_config("smollm2.yaml"))["evaluation"]["precisions"]
    settings: dict[str, object] = {
        "benchmark": "muse-news",
        "retrained": out / "retrained",
        "corpus": out / "corpus",
        "data.max_len": 512,
        "attacks": "reported",
        "prompt_end": "word",
        "batch_size": 8,
        "finished": out / "finished",
        "out": out / "evaluated" / cell.name,
    }
    command = ["evaluate", str(out / "target"), str(_model(out, cell)), "--precisions", *formats]
    _quail(out, f"{cell.name}-evaluation", command, settings)


def _quail(out: Path, name: str, command: list[str], settings: dict[str, object]) -> None:
    """One command of the program; its output goes to a file named after it."""
    drive(out / "output" / f"{name}.txt", [*command, *(f"--{key}={value}" for key, value in settings.items())])


def _report(cells: Sequence[Cell], out: Path) -> Iterator[str]:
    """The table in Markdown, a line at a time."""
    yield f"| model | epochs | precision | {' | '.join(COLUMNS.values())} | verdict |"
    yield "|" + "---|" * (4 + len(COLUMNS))
    for index, cell in enumerate(cells):
        rows = _rows(cell, out)
        if index == 0:
            for name in EPOCHS:
                yield from _lines(name, "", rows[name], {})
        made = read_provenance(_model(out, cell)) or {}
        found = read_verdicts(out / "evaluated" / cell.name)
        said = {precision: each["text"] for precision, each in found.items()}
        yield from _lines(cell.name, str(made.get("finished_epochs", "")), rows["unlearned"], said)


def _rows(cell: Cell, out: Path) -> dict[str, list[ResultRow]]:
    """The rows of each of the three models."""
    names = {str(out / "target"): "target", f"{out / 'retrained'} (retrained)": "retrained"}
    rows: dict[str, list[ResultRow]] = {}
    for row in read_results(out / "evaluated" / cell.name):
        rows.setdefault(names.get(row.model, "unlearned"), []).append(row)
    return rows


def _lines(name: str, epochs: str, rows: Iterable[ResultRow], said: dict[str, str]) -> Iterator[str]:
    for row in rows:
        cells = [shown(row.metrics.get(metric), interval=True) for metric in COLUMNS]
        yield f"| {' | '.join([name, epochs, row.precision, *cells, said.get(row.precision, '')])} |"


def _draw(cells: Sequence[Cell], out: Path, path: Path) -> None:
    """What came back of the forget NLL in every format: a panel a method, a mark a precision of the weights."""
    import matplotlib.pyplot as plt

    methods = list(dict.fromkeys(cell.method for cell in cells))
    columns = min(3, len(methods))
    lines = -(-len(methods) // columns)
    size = (4.2 * columns, 3.4 * lines)
    figure, panels = plt.subplots(lines, columns, sharey=True, squeeze=False, figsize=size, layout="constrained")
    labels: set[str] = set()
    for method, panel in zip(methods, panels.flat, strict=False):
        own = [cell for cell in cells if cell.method == method]
        for index, cell in enumerate(own):
            kept = {
                row.precision: measure
                for row in _rows(cell, out)["unlearned"]
                if isinstance(measure := row.metrics.get("kept_forgetting"), Estimate)
            }
            shift = 0.15 * (index - (len(own) - 1) / 2)
            label = cell.weights if cell.weights not in labels else None
            labels.add(cell.weights)
            panel.errorbar(
                [place + shift for place in range(len(kept))],
                [100 * (1 - each.value) for each in kept.values()],
                yerr=[
                    [100 * (each.high - each.value) for each in kept.values()],
                    [100 * (each.value - each.low) for each in kept.values()],
                ],
                fmt="o",
                color=COLORS[cell.weights],
                label=label,
                markersize=4,
            )
            panel.set_xticks(range(len(kept)), list(kept), rotation=60, ha="right", fontsize=8)
        panel.axhline(0, color="0.7", linewidth=0.8)
        panel.set_title(method, fontsize=10)
    for row in panels:
        row[0].set_ylabel("came back of the forget NLL, %")
    figure.legend(loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.savefig(path, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="MUSE NEWS as a folder")
    parser.add_argument("--out", type=Path, default=Path("logs/news-smollm2"), help="where everything is made")
    parser.add_argument("--base", default="smollm2", help="pretrained checkpoint that is taught")
    parser.add_argument("--cells", choices=("first", "all"), default="first")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of cells: 'ga_gdr-*', '*-43'")
    parser.add_argument("--precisions", nargs="+", help="formats, in place of the config's")
    parser.add_argument("--figure", type=Path, help="file of the figure, such as came-back.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
