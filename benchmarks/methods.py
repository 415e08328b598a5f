"""Every method of configs/method on the quickstart corpus: one command, one table.

    python benchmarks/methods.py [--only PATTERN]

Each is `fit --config quickstart.yaml --config method/<name>.yaml`, with the quickstart's settings where the
method's fragment has none of its own. Where the fragment's are made for a 7B model and do nothing to a small one,
SMALL replaces them; beyond that none is tuned. The fragments `hinge` and `sure` stand behind those they are
combined with. Evaluated once, after the last epoch, at 16 bits and NF4, with the verdicts beside the figures.
Everything is made below --out; finished runs are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from driving import drive, shown

from quail_lightning.configuration.files import shipped_names
from quail_lightning.run.results import ResultRow, read_results, read_verdicts

ADDED = ("hinge", "sure")  # fragments that go with another
COMBINED = (("npo_klr", "hinge"), ("ga_gdr", "sure"))
STEERED = (  # RMU: the second of two layers, further away, beside a retain term of equal weight
    "--model.forget.init_args.layer=1",
    "--model.retain.init_args.layer=1",
    "--model.forget.init_args.coefficient=30",
    "--model.alpha=1",
)
LONG = (
    "--model.stop=null",
    "--model.learning_rate=5e-4",
    "--trainer.max_epochs=5",
)  # every method for as long, however much it has forgotten
SMALL = {  # method → overrides for a model of 14 matrices at the quickstart's learning rate
    "pdu": ("--model.dual.epsilon=0.1",),  # somewhat above the target's own retain loss, 0.03
    "rmu": STEERED,
    "rmu_lat": STEERED,
    "altpo": ("--data.alternates=others",),  # the newsroom's questions have no alternate answers of their own
    "whp": ("--model.generic_labels.learning_rate=5e-4",),
    "ga_gdr + sure": (
        "--model.saliency.init_args.percentile=75",
        "--model.alpha=1",
        "--model.learning_rate=5e-4",
    ),
}
COLUMNS = {
    "verbmem_forget": "M1",
    "knowmem_forget": "M2",
    "privleak": "M3",
    "knowmem_retain": "M4",
    "delivered_forgetting": "delivered",
}
PRECISIONS = ("bf16", "nf4")
VERDICTS = (  # question, precision of its answer, heading
    ("forgotten", "bf16", "forgotten"),
    ("survives", "nf4", "survives nf4"),
    ("over_forgotten", "bf16", "over-forgotten"),
    ("utility", "bf16", "utility bf16"),
    ("utility", "nf4", "utility nf4"),
)


def main() -> None:
    options = _options()
    for name, fragments in _methods().items():
        if fnmatch(name, options.only) and not (options.out / name / "model").is_dir():
            _run(name, fragments, options.out)
    print("\n".join(_table(options.out)))


def _methods() -> dict[str, tuple[str, ...]]:
    alone = [Path(name).stem for name in shipped_names("method")]
    methods = {name: (name,) for name in alone if name not in ADDED}
    return methods | {" + ".join(both): both for both in COMBINED}


def _run(name: str, fragments: tuple[str, ...], out: Path) -> None:
    command = ["fit", "--config", "quickstart.yaml"]
    for fragment in fragments:
        command += ["--config", f"method/{fragment}.yaml"]
    command += [
        *LONG,
        *SMALL.get(name, ()),
        "--evaluation.precisions=[nf4]",
        "--evaluation.every_n_epochs=1000",  # only after the last
        "--trainer.limit_val_batches=0",
        f"--trainer.logger.init_args.save_dir={out.parent}",
        f"--trainer.logger.init_args.name={out.name}",
        f"--trainer.logger.init_args.version={name}",
    ]
    drive(out / "output" / f"{name}.txt", command)


def _table(out: Path) -> Iterator[str]:
    """The table in Markdown, a line at a time."""
    head = [f"{label} {precision}" for precision in PRECISIONS for label in COLUMNS.values()]
    head.remove("delivered bf16")
    head += [heading for _, _, heading in VERDICTS]
    yield f"| model | {' | '.join(head)} |"
    yield "|" + "---|" * (len(head) + 1)
    shown = False
    for name in _methods():
        if not (out / name / "results.json").is_file():
            continue
        rows = read_results(out / name)
        if not shown:
            shown = True
            for baseline in ("target", "retrained"):
                yield _line(baseline, {row.precision: row for row in rows if row.model == baseline}, {})
        unlearned = {row.precision: row for row in rows if row.model == "unlearned"}
        yield _line(name, unlearned, read_verdicts(out / name))


def _line(name: str, rows: Mapping[str, ResultRow], verdicts: Mapping[str, Mapping[str, str]]) -> str:
    cells = [
        shown(rows[precision].metrics.get(metric))
        for precision in PRECISIONS
        for metric in COLUMNS
        if (precision, metric) != ("bf16", "delivered_forgetting")
    ]
    cells += [verdicts[precision][question] if verdicts else "" for question, precision, _ in VERDICTS]
    return f"| {name} | {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("logs/methods"), help="where everything is made")
    parser.add_argument("--only", default="*", help="pattern of the methods, such as 'npo*'")
    return parser.parse_args()


if __name__ == "__main__":
    main()
