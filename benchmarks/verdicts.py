"""What the verdict says of runs whose outcome is known beforehand: one command, one table.

    python benchmarks/verdicts.py [--only PATTERN] [--quick]

Quickstarts that forget, a run in which nothing happens, one whose steps are too small to count, one that learns
the text instead, a model that is destroyed, and a 4-bit folder as it is deployed. Everything is made below --out;
what is finished is not made again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from driving import drive

from quail_lightning.run.results import read_verdicts

CHECKPOINTS = "checkpoints/quickstart"
FIT = ("fit", "--config", "quickstart.yaml")
LAST = ("--evaluation.every_n_epochs=1000",)  # only after the last
ON_AND_ON = (  # however much is forgotten
    "--model.stop=null",
    "--model.learning_rate=5e-4",
    "--trainer.max_epochs=5",
)
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "quail": ("QUAIL, the quickstart", FIT),
    "endless": ("QUAIL for five epochs of larger steps, without a stop", (*FIT, *ON_AND_ON)),
    "ga": ("GA alone, likewise", (*FIT, "--config", "method/ga.yaml", *ON_AND_ON)),
    "sure": (
        "GA_GDR + SURE with a 7B model's settings: nothing happens",
        (*FIT, "--config", "method/ga_gdr.yaml", "--config", "method/sure.yaml"),
    ),
    "still": ("QUAIL, learning rate 1e-12 (0 is refused)", (*FIT, "--model.learning_rate=1e-12")),
    "learned": (
        "gradient descent on the forget set: the text is learned",
        (
            *FIT,
            "--model.forget.class_path=quail_lightning.objectives.GradientDescent",
            "--model.hinge=null",
            "--model.stop=null",
        ),
    ),
    "destroyed": (
        "GA, learning rate 1e-2, without a stop",
        (*FIT, "--config", "method/ga.yaml", "--model.stop=null", "--model.learning_rate=1e-2"),
    ),
    "twitter": ("Twitter, the second quickstart", ("fit", "--config", "quickstart_twitter.yaml")),
}
"""Folder → what it is, and its command but for the evaluation's turn and the folder."""
QUICK = (
    "--prepare.tiny={vocab_size: 300, width: 64, layers: 1, heads: 2, positions: 700}",
    "--prepare.optimization.epochs=1",
    "--data.max_len=128",
    "--evaluation.precisions=[nf4]",
    "--evaluation.suite={batch_size: 8, verbmem_new_tokens: 8, knowmem_new_tokens: 4, max_prompts: 2}",
    "--evaluation.max_windows=2",
    "--trainer.max_epochs=1",
)
QUICK_TEXT = {
    "quickstart.yaml": "--data.newsroom={forget_articles: 6, retain_articles: 6, holdout_articles: 2, rounds: 1}",
    "quickstart_twitter.yaml": "--data.invented={forget: 6, retain: 6, holdout: 6, empty: 1}",
}
DEPLOYED = "nf4"
FIELDS = ("known", "forgotten", "survives", "over_forgotten", "utility")


def main() -> None:
    options = _options()
    if options.quick:
        os.chdir(tempfile.mkdtemp(prefix="verdicts-"))  # the quickstarts' checkpoints are other models
        print(f"everything is made below {Path.cwd()}", file=sys.stderr)
    for name, command in commands(options.out, options.quick).items():
        if fnmatch(name, options.only) and not (options.out / name / "results.json").is_file():
            _run(name, command, options.out)
    print("\n".join([*table(options.out), "", *listed(options.out, options.quick)]))


def listed(out: Path, quick: bool) -> Iterator[str]:
    """The commands in Markdown, a line each."""
    for run in commands(out, quick).values():
        for command in run:
            yield f"- `python -m quail_lightning {shlex.join(command)}`"


def commands(out: Path, quick: bool = False) -> dict[str, list[list[str]]]:
    """Folder → its commands; quick ones are on tiny models, to see that each works."""
    found = {}
    for name, (_, command) in RUNS.items():
        place = [
            f"--trainer.logger.init_args.save_dir={out.parent}",
            f"--trainer.logger.init_args.name={out.name}",
        ]
        small = [*QUICK, QUICK_TEXT[command[2]]] if quick else []
        found[name] = [[*command, *small, *LAST, *place, f"--trainer.logger.init_args.version={name}"]]
    model, folder = out / "quail/model", out / "nf4-model"
    data = ["--benchmark", "muse-news", "--corpus", f"{CHECKPOINTS}/corpus", "--attacks", "reported"]
    evaluate = ["evaluate", f"{CHECKPOINTS}/target", str(model), str(folder), *data]
    evaluate += ["--retrained", f"{CHECKPOINTS}/retrained", "--out", str(out / DEPLOYED)]
    evaluate += ["--limit", "2"] if quick else []
    return found | {DEPLOYED: [["quantize", str(model), "--to", "nf4", "--out", str(folder)], evaluate]}


def _run(name: str, commands: list[list[str]], out: Path) -> None:
    drive(out / "output" / f"{name}.txt", *commands)


def table(out: Path) -> Iterator[str]:
    """The verdicts of the runs below a folder in Markdown, a line at a time; a run that is missing is left out."""
    yield f"| run | precision | {' | '.join(field.replace('_', '-') for field in FIELDS)} | in words |"
    yield "|" + "---|" * (len(FIELDS) + 3)
    said = {name: what for name, (what, _) in RUNS.items()} | {DEPLOYED: "QUAIL, its nf4 folder as deployed"}
    for name, what in said.items():
        if not (out / name / "results.json").is_file():
            continue
        for precision, found in read_verdicts(out / name).items():
            answers = " | ".join(found.get(field, "") for field in FIELDS)
            yield f"| {what} | {precision} | {answers} | {found['text']} |"
            what = ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("logs/verdicts"), help="where everything is made")
    parser.add_argument("--only", default="*", help="pattern of the folders' names, such as 'q*'")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny models in a temporary folder: shows that every command works, its verdicts mean nothing",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
