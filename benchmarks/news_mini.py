"""Does unlearning real NEWS text survive quantization? Small Llamas, one command, one table.

Two targets: `memorized` knows 64 forget windows by heart (one seed; GA_GDR and QUAIL), `light` has half learned
them (three seeds; GA_GDR). Each is unlearned with float32 master weights and with bfloat16 weights
rounded to nearest, evaluated every few epochs, and reported at the first evaluated epoch at which the 16-bit M1
is at most a third of the target's.

    python benchmarks/news_mini.py --corpus FOLDER

FOLDER holds raw/forget.json, sust/forget_2.json and privleak/holdout.json of MUSE NEWS. Everything is made below
--out; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from driving import drive, shown

from quail_lightning.run.results import Estimate, ResultRow, read_results

PRECISIONS = {
    "memorized": ("bf16", "nf4", "fp4", "int8", "uniform4-tensor", "uniform4-group64"),
    "light": ("bf16", "nf4", "fp4", "uniform4-group64"),
}
COLUMNS = {
    "verbmem_forget": "M1",
    "privleak": "M3",
    "nll_forget": "NLL forget",
    "nll_retain": "NLL retain",
    "recovery_verbmem_forget": "recovery M1",
    "delivered_forgetting": "delivered",
}
STOP_AT_NLL = {"memorized": 0.22, "light": 0.9}  # mean of the last epoch; the model itself is further by then
WINDOWS = 64  # of the forget set
ALPHA = 0.2  # at 1 the retain term, whose windows are memorized just as well, holds the forgetting back tenfold
# a stronger hinge holds bfloat16 weights back: at 1 M1 37.9 after 800 steps, at 0.1 it rests at 26.9 after 1,280
GAMMA = {"float32": 0.1, "bf16-nearest": 0.001}
# at 2 windows a step bfloat16 weights come to rest: M1 37.4 after 2,048 steps, 37.1 after 3,072
BATCH_SIZE = {"float32": 2, "bf16-nearest": 8}
EPOCHS = {  # target, weight precision → epochs of unlearning, evaluated every
    ("memorized", "float32"): (5, 5),
    ("memorized", "bf16-nearest"): (160, 80),
    ("light", "float32"): (4, 4),
    ("light", "bf16-nearest"): (30, 30),
}


@dataclass(frozen=True)
class Target:
    """A target and the seed it was trained from. Only `memorized` has a retrained counterpart."""

    name: str
    seed: int

    @property
    def models(self) -> tuple[str, ...]:
        """What is fine-tuned for it: the sets that its models are trained on."""
        return ("forget+retain", "retain") if self.name == "memorized" else ("forget+retain",)


@dataclass(frozen=True)
class Run:
    """One unlearning run."""

    target: Target
    method: str
    weight_precision: str

    @property
    def name(self) -> str:
        return f"{self.target.name}-{self.target.seed}-{self.method}-{self.weight_precision}"


def main() -> None:
    options = _options()
    targets = [Target("memorized", 42), *(Target("light", seed) for seed in options.seeds)]
    runs = [run for run in _runs(targets) if any(fnmatch(run.name, pattern) for pattern in options.only)]
    with ThreadPoolExecutor(options.jobs) as pool:
        made = {
            (target, sets): pool.submit(_finetune, target, sets, options)
            for target in dict.fromkeys(run.target for run in runs)
            for sets in target.models
        }
        futures = [pool.submit(_unlearn, run, made, options) for run in runs]
        for future in futures:
            future.result()
    print("\n".join(_report(runs, options.out)))


def _runs(targets: Iterable[Target]) -> Iterator[Run]:
    for target in targets:
        for method in ("ga_gdr", "quail") if target.name == "memorized" else ("ga_gdr",):
            for weight_precision in ("bf16-nearest", "float32"):  # the longer one first
                yield Run(target, method, weight_precision)


def _finetune(target: Target, sets: str, options: argparse.Namespace) -> None:
    _quail(
        options,
        f"{target.name}-{target.seed}-{sets}",
        ["finetune", "--config", "finetune/news-mini.yaml"],
        {
            "data.corpus": options.corpus,
            "sets": sets,
            "recipe.optimization.stop_at_nll": STOP_AT_NLL[target.name],
            "recipe.seed": target.seed,
            "out": _checkpoint(options.out, target, sets),
        },
    )


def _unlearn(run: Run, made: dict[tuple[Target, str], Future[None]], options: argparse.Namespace) -> None:
    for sets in run.target.models:
        made[run.target, sets].result()
    if (options.out / "runs" / run.name / "model").is_dir():
        return
    epochs, every = EPOCHS[run.target.name, run.weight_precision]
    retrained = _checkpoint(options.out, run.target, "retain") if "retain" in run.target.models else "null"
    _quail(
        options,
        run.name,
        f"fit --config news.yaml --config method/{run.method}.yaml --config news-mini.yaml".split(),
        {
            "data.corpus": options.corpus,
            "data.batch_size": BATCH_SIZE[run.weight_precision],
            "model.alpha": ALPHA,
            "model.gamma": GAMMA[run.weight_precision],
            "seed_everything": run.target.seed,
            "model.target": _checkpoint(options.out, run.target, "forget+retain"),
            "model.weight_precision": run.weight_precision,
            "evaluation.retrained": retrained,
            "evaluation.precisions": f"[{','.join(PRECISIONS[run.target.name])}]",
            "evaluation.every_n_epochs": every,
            "trainer.max_epochs": epochs,
            "trainer.limit_val_batches": 0,
            "trainer.logger.init_args.save_dir": options.out,
            "trainer.logger.init_args.name": "runs",
            "trainer.logger.init_args.version": run.name,
        },
    )


def _quail(options: argparse.Namespace, name: str, command: list[str], overrides: dict[str, object]) -> None:
    """One command of the program; its output goes to a file named after it."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    whole = [*command, *(f"--{key}={value}" for key, value in overrides.items())]
    drive(options.out / "output" / f"{name}.txt", whole, threads=threads)


def _checkpoint(out: Path, target: Target, sets: str) -> Path:
    kind = "target" if sets == "forget+retain" else "retrained"
    return out / "checkpoints" / f"{target.name}-{target.seed}-{kind}"


def _report(runs: Iterable[Run], out: Path) -> Iterator[str]:
    """The table in Markdown, a line at a time."""
    yield f"| target | seed | model | steps | precision | {' | '.join(COLUMNS.values())} |"
    yield "|" + "---|" * (5 + len(COLUMNS))
    shown: set[Target] = set()
    for run in runs:
        rows = read_results(out / "runs" / run.name)
        if run.target not in shown:
            shown.add(run.target)
            for name in ("target", "retrained"):
                yield from _lines(run, name, "", [row for row in rows if row.model == name])
        epoch, reached = _reported_epoch(rows)
        chosen = [row for row in rows if row.model == "unlearned" and row.epoch == epoch]
        steps = f"{WINDOWS // BATCH_SIZE[run.weight_precision] * epoch}{'' if reached else ' (M1 above a third)'}"
        yield from _lines(run, f"{run.method}, {run.weight_precision}", steps, chosen)


def _lines(run: Run, model: str, steps: str, rows: Iterable[ResultRow]) -> Iterator[str]:
    for row in rows:
        cells = [shown(row.metrics.get(name), interval=True) for name in COLUMNS]
        named = [run.target.name, str(run.target.seed), model, steps, row.precision]
        yield f"| {' | '.join(named + cells)} |"


def _reported_epoch(rows: Iterable[ResultRow]) -> tuple[int, bool]:
    """The first epoch whose 16-bit M1 is at most a third of the target's; else the last one, and False."""
    m1 = {(row.model, row.epoch): row.metrics["verbmem_forget"] for row in rows if row.precision == "bf16"}
    target = m1["target", None]
    epochs = sorted(epoch for model, epoch in m1 if model == "unlearned" and epoch is not None)
    for epoch in epochs:
        if _value(m1["unlearned", epoch]) <= _value(target) / 3:
            return epoch, True
    return epochs[-1], False


def _value(measure: object) -> float:
    assert isinstance(measure, Estimate)
    return measure.value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder in MUSE's layout")
    parser.add_argument("--out", type=Path, default=Path("logs/news-mini"), help="where everything is made")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time; they share the cores")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of runs: 'light-*', '*-float32'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="of the light targets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
