"""Which unlearning survives the formats that are shipped? Methods × weights × export × rate, at equal forgetting.

    python benchmarks/survival.py --quick                          # the invented newsroom, minutes
    python benchmarks/survival.py --study small --corpus FOLDER    # real NEWS, a Llama of 4M weights
    python benchmarks/survival.py --study smollm2 --corpus FOLDER  # real NEWS, SmolLM2-135M

FOLDER is MUSE NEWS in the benchmark's layout. A target learns its forget and its retain text, a retrained model
the retain text alone. Each cell unlearns the target until its forget windows are as unlikely at 16 bits as those
of every other cell, or for so many epochs at most, and is evaluated in every format, pruned and relearned.
Everything is made below --out; what is finished, down to a metric of a model in a format, is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from driving import drive, shown
from news_documents import write_part

from quail_lightning.run.results import Estimate, ResultRow, read_results, read_verdicts

M1, NLL_FORGET, NLL_RETAIN = "verbmem_forget", "nll_forget", "nll_retain"
COLUMNS = {
    M1: "M1",
    "knowmem_forget": "M2",
    "membership_auc": "membership AUC",
    "knowmem_retain": "M4",
    NLL_FORGET: "NLL forget",
    NLL_RETAIN: "NLL retain",
    "recovery_verbmem_forget_capped": "came back, M1",
    "kept_forgetting": "kept, NLL",
}
HELD_OUT = ("int8", "nvfp4", "uniform4-tensor", "q4_0", "q4_k_m", "awq4-group64", "gptq4-group64")
"""Formats that no method is trained through."""
TRAINED_THROUGH = ("nf4", "fp4", "uniform4-group64", "mxfp4")
ATTACKS = ("prune30", "relearn100")
OURS = "robust"
COLORS = {"float32": "tab:blue", "bf16-stochastic": "tab:green", "bf16-nearest": "tab:red"}


@dataclass(frozen=True)
class Cell:
    """One unlearning run.

    Attributes:
        method: stems of configs/method/*.yaml, joined by ``+``.
        weights: ``model.weight_precision``.
        rate: learning rate.
        seed: of the run.
        export: how float32 masters become the saved model: ``nearest``, ``stochastic``, ``float32``; empty: the
            program's default.
        optimizer: ``adamw``, or ``sign``: AdamW without momentum, whose steps are ± the learning rate.
        alpha: weight of the retain term; empty: the config's.
        epochs: at most; empty: the study's.
        hardened: formats that the finished model is hardened for (``quail harden``), joined by ``+``; empty: it is
            evaluated as it was unlearned.
    """

    method: str
    weights: str = "float32"
    rate: str = "5e-5"
    seed: int = 42
    export: str = ""
    optimizer: str = "adamw"
    alpha: str = ""
    epochs: str = ""
    hardened: str = ""

    @property
    def name(self) -> str:
        more = [self.export and f"export_{self.export}", self.optimizer if self.optimizer != "adamw" else ""]
        more += [self.alpha and f"alpha_{self.alpha}", self.epochs and f"epochs_{self.epochs}"]
        more += [self.hardened and f"hardened_{self.hardened.replace('+', '_')}"]
        return "-".join([self.method, self.weights, self.rate, str(self.seed), *filter(None, more)])

    @property
    def settings(self) -> dict[str, object]:
        """Options of ``quail fit`` in which cells differ."""
        found: dict[str, object] = {
            "model.weight_precision": self.weights,
            "model.learning_rate": self.rate,
            "seed_everything": self.seed,
        }
        if self.export == "float32":
            found["model.export_dtype"] = "float32"
        elif self.export:
            found["model.export_rounding"] = self.export
        if self.alpha:
            found["model.alpha"] = self.alpha
        if self.epochs:
            found["trainer.max_epochs"] = self.epochs
        if self.optimizer == "sign":
            found["model.betas"] = "[0.0, 0.0]"
        return found


@dataclass(frozen=True)
class Study:
    """Models, text and budget that all cells of a table share.

    Attributes:
        fit: arguments of ``quail fit``; the cell's methods come in the place of METHOD.
        fitted: further options of it.
        evaluated: options of ``quail evaluate`` beside models, formats and folders.
        precisions: formats and attacks.
        cells: the first ones, worth running in this order.
        later: further ones.
        taught: model → arguments of ``quail finetune`` that make it; none where ``fit`` makes them.
    """

    fit: tuple[str, ...]
    fitted: dict[str, object]
    evaluated: dict[str, object]
    precisions: tuple[str, ...]
    cells: tuple[Cell, ...]
    later: tuple[Cell, ...] = ()
    taught: dict[str, dict[str, object]] = field(default_factory=dict)


METHOD = "METHOD"
FORMATS = ("bf16", *TRAINED_THROUGH, *HELD_OUT)
PAPERS = ("ga_gdr", "npo_gdr", "npo_klr", "simnpo_gdr", "quail")
THREE_SEEDS = (42, 43, 44)
FEW = {"data.max_forget_windows": 32, "data.max_retain_windows": 64}
NEWS_MINI = {"data.max_len": 256, "data.retain": "[sust/forget_2]", "data.records": "windows", **FEW}
SURE = "ga_gdr+sure"

QUICK = Study(
    fit=("--config", "quickstart.yaml", METHOD),
    fitted={"model.gamma": 1.0},
    evaluated={"benchmark": "muse-news", "data.max_len": 320, "batch_size": 64},
    precisions=("bf16", *TRAINED_THROUGH, "int8", "nvfp4", "q4_0", "uniform4-tensor"),
    cells=(Cell("ga_gdr", "bf16-nearest", "1e-5"), Cell(OURS)),
)
SMALL = Study(
    fit=("--config", "news.yaml", METHOD, "--config", "news-mini.yaml"),
    fitted={
        **FEW,
        "model.stop": 3.0,
        "trainer.max_epochs": 60,
        "trainer.limit_val_batches": 0,
        "model.gamma": 0.1,
    },
    evaluated={"benchmark": "muse-news", "attacks": "reported", "batch_size": 32, **NEWS_MINI},
    precisions=(*FORMATS, *ATTACKS),
    cells=(
        Cell("ga_gdr", "bf16-nearest", "1e-5", alpha="0.2", epochs="160"),  # as news-mini: a grid undid it
        *(Cell("ga", "bf16-nearest", rate) for rate in ("1e-5", "2e-5")),
        Cell("ga_gdr"),
        Cell("ga_gdr", alpha="20"),
        Cell(OURS, alpha="20"),
        *(Cell(method) for method in PAPERS[1:]),
        Cell(SURE, rate="2e-4"),
        Cell("rmu", rate="2e-4"),
    ),
    later=(
        *(Cell(method, "bf16-nearest", "2e-5") for method in PAPERS),
        *(Cell("ga_gdr", "bf16-stochastic", rate) for rate in ("1e-5", "5e-5")),
        *(Cell("ga_gdr", rate=rate) for rate in ("1e-5", "2e-5")),
        *(Cell("ga_gdr", export=export) for export in ("nearest", "stochastic", "float32")),
        Cell("ga_gdr", optimizer="sign", rate="1e-5"),
    ),
    taught={
        "target": {"sets": "forget+retain", "recipe.optimization.epochs": 60},
        "retrained": {"sets": "retain", "recipe.optimization.epochs": 80},
    },
)
SMOLLM2 = Study(
    fit=("--config", "smollm2.yaml", METHOD),
    fitted={},
    evaluated={
        "benchmark": "muse-news",
        "data.max_len": 512,
        "attacks": "reported",
        "prompt_end": "word",
        "batch_size": 8,
    },
    precisions=FORMATS,
    cells=(
        *(
            Cell(method, weights)
            for weights in ("float32", "bf16-nearest")
            for method in ("ga_gdr", "npo_gdr", "quail")
        ),
        Cell("simnpo_gdr"),
        Cell(SURE, rate="2e-4"),  # its own: a twentieth of the modules is trained
        Cell(OURS),
    ),
    later=(
        *(Cell(method, "bf16-stochastic") for method in ("ga_gdr", "npo_gdr", "quail")),
        *(
            Cell(m, weights, "1e-5")
            for weights in ("float32", "bf16-nearest")
            for m in ("ga_gdr", "npo_gdr", "quail")
        ),
    ),
    taught={
        # half as many windows, as many steps
        "target": {"sets": "forget+retain", "recipe.optimization.epochs": 8},
        "retrained": {"sets": "retain", "recipe.optimization.epochs": 16},
    },
)
STUDIES = {"quick": QUICK, "small": SMALL, "smollm2": SMOLLM2}


@dataclass(frozen=True)
class Run:
    """A study in a folder."""

    study: Study
    name: str
    out: Path
    corpus: Path
    base: str
    precisions: tuple[str, ...]
    threads: int | None

    @cached_property
    def models(self) -> dict[str, Path]:
        """Target and retrained model."""
        return {name: self.out / name for name in ("target", "retrained")}

    def teach(self) -> None:
        """Make target and retrained model."""
        for name, options in self.study.taught.items():
            if self.models[name].is_dir():
                continue
            command = [
                "finetune",
                "--config",
                f"finetune/{'smollm2' if self.name == 'smollm2' else 'news-mini'}.yaml",
            ]
            own: dict[str, object] = (
                {"recipe.base": self.base}
                if self.name == "smollm2"
                else {
                    **FEW,
                    "recipe.tiny.vocab_size": 2048,
                    "recipe.optimization.stop_at_nll": 0.25,
                }
            )
            self._quail(name, command, {**own, **options, "data.corpus": self.corpus, "out": self.models[name]})

    def unlearn(self, cell: Cell) -> None:
        """Make a cell's model, unless it is there."""
        if self.model(cell).is_dir():
            return
        shutil.rmtree(self.out / "runs" / cell.name, ignore_errors=True)  # what an interrupted run left
        if cell.hardened:
            self._harden(cell)
            return
        drive(self.out / "output" / f"{cell.name}.txt", self.fitting(cell), threads=self.threads)

    def _harden(self, cell: Cell) -> None:
        """Make a hardened cell's model of the one that is not."""
        plain = replace(cell, hardened="")
        self.unlearn(plain)
        data = {key: value for key, value in self.study.evaluated.items() if key.startswith("data.")}
        settings = {**data, "benchmark": self.study.evaluated["benchmark"], "corpus": self.corpus}
        settings |= {"retrained": self.models["retrained"], "out": self.model(cell)}
        command = ["harden", str(self.models["target"]), str(self.model(plain))]
        self._quail(cell.name, [*command, "--precisions", *cell.hardened.split("+")], settings)

    def fitting(self, cell: Cell) -> list[str]:
        """The verb and options that make a cell's model."""
        methods = [part for stem in cell.method.split("+") for part in ("--config", f"method/{stem}.yaml")]
        command = ["fit"]
        for argument in self.study.fit:
            command += methods if argument == METHOD else [argument]
        glance = {  # the evaluation proper follows, and shares the baselines with the other cells
            "evaluation.precisions": "[]",
            "evaluation.suite.max_prompts": 1,
            "evaluation.suite.max_texts": 1,
            "evaluation.max_windows": 1,
        }
        settings = {
            "model.target": self.models["target"],
            "evaluation.retrained": self.models["retrained"],
            "data.corpus": self.corpus,
            **self.study.fitted,
            **cell.settings,
            **glance,
            "trainer.logger.init_args.save_dir": self.out,
            "trainer.logger.init_args.name": "runs",
            "trainer.logger.init_args.version": cell.name,
        }
        return [*command, *_options_of(settings)]

    def evaluate(self, cell: Cell) -> None:
        """Evaluate target, retrained model and a cell's model in every format."""
        settings: dict[str, object] = {
            **self.study.evaluated,
            "corpus": self.corpus,
            "retrained": self.models["retrained"],
            "finished": self.out / "finished",
            "out": self.out / "evaluated" / cell.name,
        }
        command = ["evaluate", str(self.models["target"]), str(self.model(cell)), "--precisions", *self.precisions]
        self._quail(f"{cell.name}-evaluation", command, settings)

    def model(self, cell: Cell) -> Path:
        """The folder of a cell's model."""
        return self.out / "runs" / cell.name / "model"

    def is_evaluated(self, cell: Cell) -> bool:
        """Whether its figures are there."""
        return (self.out / "evaluated" / cell.name / "results.json").is_file()

    def rows(self, cell: Cell) -> dict[str, list[ResultRow]]:
        """The rows of target, retrained and unlearned model."""
        names = {str(self.models["target"]): "target", f"{self.models['retrained']} (retrained)": "retrained"}
        found: dict[str, list[ResultRow]] = {}
        for row in read_results(self.out / "evaluated" / cell.name):
            found.setdefault(names.get(row.model, "unlearned"), []).append(row)
        return found

    def _quail(self, name: str, command: list[str], settings: dict[str, object]) -> None:
        """One command of the program; its output goes to a file named after it."""
        drive(self.out / "output" / f"{name}.txt", [*command, *_options_of(settings)], threads=self.threads)


def _options_of(settings: dict[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def main() -> None:
    options = _options()
    run = _prepared(options)
    cells = [*run.study.cells, *(run.study.later if options.cells == "all" else ())]
    cells += [replace(cell, seed=seed) for seed in options.seeds for cell in cells if seed != cell.seed]
    cells += [_cell(given) for given in options.add]
    chosen = [cell for cell in cells if any(fnmatch(cell.name, pattern) for pattern in options.only)]
    run.teach()
    for cell in chosen:
        run.unlearn(cell)
        run.evaluate(cell)
    finished = [cell for cell in chosen if run.is_evaluated(cell)]
    print("\n".join(_table(run, finished)))
    found = summary(run, finished)
    print("\n".join(f"{name}: {found[name]}" for name in found if name != "cells"))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if finished and options.figure is not None:
        _draw(finished, found["cells"], options.figure)


def summary(run: Run, cells: Sequence[Cell]) -> dict[str, Any]:
    """Every figure, and the three that answer the question.

    ``worst_return_baseline``: the largest M1(format) − M1(16 bits) of any other method, points;
    ``worst_return_robust``: the largest |M1(format) − M1(16 bits)| of ours; ``utility_share_robust``: the smallest
    exp(NLL_target − NLL_ours) on retain text, both in one format, in per cent. Ours is the method as the study's
    own cell has it, of any seed; what was tried beside that counts in neither. ``worst_return_hardened`` and
    ``utility_share_hardened`` are the same of hardened models, whatever unlearned them, in the formats that they
    were hardened for. Attacks are no formats. None where no such cell was run.
    """
    baseline = list[float]()
    returns: dict[str, list[float]] = {"robust": [], "hardened": []}
    shares: dict[str, list[float]] = {"robust": [], "hardened": []}
    written = []
    for cell in cells:
        rows = run.rows(cell)
        said = read_verdicts(run.out / "evaluated" / cell.name)
        by_format = {name: {row.precision: row for row in of} for name, of in rows.items()}
        sixteen = _value(by_format["unlearned"]["bf16"], M1)
        figures: dict[str, Any] = {}
        for precision, row in by_format["unlearned"].items():
            target = by_format["target"][precision]
            share = 100 * math.exp(_value(target, NLL_RETAIN) - _value(row, NLL_RETAIN))
            figures[precision] = {
                "figures": {name: _figure(row, name) for name in COLUMNS},
                "target": {name: _figure(target, name) for name in COLUMNS},
                "retrained": {name: _figure(by_format["retrained"][precision], name) for name in COLUMNS},
                "m1_return": _value(row, M1) - sixteen,
                "utility_share": share,
                "verdict": said.get(precision, {}).get("text", ""),
            }
            counted_as = _counted_as(run, cell, precision)
            if counted_as == "baseline":
                baseline.append(figures[precision]["m1_return"])
            elif counted_as is not None:
                returns[counted_as].append(abs(figures[precision]["m1_return"]))
                shares[counted_as].append(share)
        written.append({"cell": cell.name, **vars(cell), "precisions": figures})
    return {
        "worst_return_baseline": max(baseline, default=None),
        **{f"worst_return_{kind}": max(found, default=None) for kind, found in returns.items()},
        **{f"utility_share_{kind}": min(found, default=None) for kind, found in shares.items()},
        "cells": written,
    }


def _counted_as(run: Run, cell: Cell, precision: str) -> str | None:
    """``baseline``, ``robust`` or ``hardened``; None where a figure counts in none of them."""
    if precision in ATTACKS:
        return None
    if cell.hardened:
        return "hardened" if precision in cell.hardened.split("+") else None
    if cell.method != OURS:
        return "baseline"
    return "robust" if replace(cell, seed=Cell.seed) in run.study.cells else None


def _prepared(options: argparse.Namespace) -> Run:
    name = "quick" if options.quick else options.study
    if name != "quick" and options.corpus is None:
        raise SystemExit(f"--study {name} needs --corpus FOLDER: MUSE NEWS in the benchmark's layout")
    out = options.out or Path("logs/survival", name)
    corpus = out / "corpus" if name in ("quick", "smollm2") else options.corpus
    if name == "smollm2" and not corpus.is_dir():
        print(write_part(options.corpus, corpus), file=sys.stderr)
    precisions = tuple(options.precisions or STUDIES[name].precisions)
    return Run(STUDIES[name], name, out, corpus, options.base, precisions, options.threads)


def _cell(given: str) -> Cell:
    """``method=robust,weights=float32,alpha=5``: the fields of a cell that are not its usual ones."""
    named = dict(part.split("=", 1) for part in given.split(","))
    seed = int(named.pop("seed", "42"))
    return Cell(seed=seed, **named)


def _table(run: Run, cells: Sequence[Cell]) -> Iterator[str]:
    """The table in Markdown, a line at a time."""
    yield f"| model | precision | {' | '.join(COLUMNS.values())} | verdict |"
    yield "|" + "---|" * (3 + len(COLUMNS))
    for index, cell in enumerate(cells):
        rows = run.rows(cell)
        if index == 0:
            for name in ("target", "retrained"):
                yield from _lines(name, rows[name], {})
        found = read_verdicts(run.out / "evaluated" / cell.name)
        yield from _lines(cell.name, rows["unlearned"], {key: each["text"] for key, each in found.items()})


def _lines(name: str, rows: Iterable[ResultRow], said: dict[str, str]) -> Iterator[str]:
    for row in rows:
        cells = [shown(row.metrics.get(metric), interval=True) for metric in COLUMNS]
        yield f"| {' | '.join([name, row.precision, *cells, said.get(row.precision, '')])} |"


def _figure(row: ResultRow, name: str) -> dict[str, float] | None:
    measure = row.metrics.get(name)
    if not isinstance(measure, Estimate):
        return None
    return {"value": measure.value, "n": measure.n, "low": measure.low, "high": measure.high}


def _value(row: ResultRow, name: str) -> float:
    measure = row.metrics[name]
    assert isinstance(measure, Estimate), f"{name} at {row.precision}"
    return measure.value


def _draw(cells: Sequence[Cell], found: Sequence[dict[str, Any]], path: Path) -> None:
    """Forgetting × utility, a panel a format: M1, and the share of the equally quantized target's utility.

    Args:
        cells: that were evaluated.
        found: ``summary``'s entry of each.
        path: of the figure.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    precisions = list(found[0]["precisions"])
    columns = min(4, len(precisions))
    lines = -(-len(precisions) // columns)
    size = (3.0 * columns, 2.7 * lines + 0.6)
    figure, panels = plt.subplots(lines, columns, sharex=True, sharey=True, squeeze=False, figsize=size)
    marks = dict(zip(dict.fromkeys(cell.method for cell in cells), "osD^v<>Phx*", strict=False))
    for precision, panel in zip(precisions, panels.flat, strict=False):
        for cell, of_cell in zip(cells, found, strict=True):
            at = of_cell["precisions"].get(precision)
            if at is None:
                continue
            m1 = at["figures"][M1]
            panel.errorbar(
                at["utility_share"],
                m1["value"],
                yerr=[[max(0.0, m1["value"] - m1["low"])], [max(0.0, m1["high"] - m1["value"])]],
                fmt=marks[cell.method],
                color=COLORS[cell.weights],
                markersize=5,
                elinewidth=0.7,
            )
        retrained = found[0]["precisions"][precision]["retrained"][M1]["value"]
        panel.axhspan(retrained - 2, retrained + 2, color="0.9", zorder=0)
        panel.axvline(95, color="0.7", linewidth=0.8)
        panel.set_title(precision, fontsize=9)
    for row in panels:
        row[0].set_ylabel("M1")
    for number, panel in enumerate(panels.flat):
        panel.set_visible(number < len(precisions))
        panel.xaxis.set_tick_params(labelbottom=number + columns >= len(precisions))
        if number + columns >= len(precisions):
            panel.set_xlabel("utility, % of the target's")
    handles = [Line2D([], [], marker=mark, color="0.3", linestyle="", label=name) for name, mark in marks.items()]
    used = {cell.weights: COLORS[cell.weights] for cell in cells}
    handles += [Line2D([], [], marker="o", color=c, linestyle="", label=name) for name, c in used.items()]
    figure.legend(handles=handles, loc="upper center", ncols=5, fontsize=8)
    said = "Lower: more forgotten; further right: more is kept. Grey: the retrained model's M1 ± 2; line: 95 %."
    figure.text(0.5, 0.005, said, ha="center", fontsize=8, color="0.3")
    figure.tight_layout(rect=(0, 0.02, 1, 1 - 0.45 / size[1]))
    figure.savefig(path, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the five-minute version, as --study quick")
    parser.add_argument("--study", choices=tuple(STUDIES), default="small")
    parser.add_argument("--corpus", type=Path, help="MUSE NEWS as a folder")
    parser.add_argument("--out", type=Path, help="where everything is made; default: logs/survival/STUDY")
    parser.add_argument("--base", default="smollm2", help="pretrained checkpoint that --study smollm2 teaches")
    parser.add_argument("--cells", choices=("first", "all"), default="first")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of cells: 'ga_gdr-*', '*-43'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="and these, of every cell")
    parser.add_argument(
        "--add", nargs="+", default=[], help="further cells: method=ga_gdr,weights=bf16-nearest,rate=1e-4"
    )
    parser.add_argument("--precisions", nargs="+", help="formats and attacks, in place of the study's; bf16 first")
    parser.add_argument("--threads", type=int, help="of each command; default: all cores")
    parser.add_argument("--json", type=Path, help="file for every figure")
    parser.add_argument("--figure", type=Path, help="file of the figure, such as survival.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
