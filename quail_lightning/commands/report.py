"""`quail report`: finished runs as one HTML file for a reader who did not run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from quail_lightning.storage.durable import check_new_file, replace_text

Responses = Literal["none", "folded"]


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("runs", nargs="+", type=str, help="folders of finished runs; several of one corpus")
    parser.add_argument("--out", type=str, required=True, help="new file (.html)")
    parser.add_argument(
        "--responses",
        type=Responses,
        default="none",
        help="`folded`: prompts, true texts and answers, which are private, folded away behind a warning",
    )


def run(arguments: Any) -> None:
    """Carry the verb out."""
    out = Path(arguments.out)
    check_new_file(out, "--out", (".html", ".htm"))
    # here: labels of metrics come with torch, which --help does without
    from quail_lightning.report.finished_run import read_runs
    from quail_lightning.report.page import as_html
    from quail_lightning.report.same_corpus import check_same_corpus
    from quail_lightning.report.side_by_side import names_of
    from quail_lightning.report.words import finding

    runs = read_runs(arguments.runs)
    check_same_corpus(runs)
    # for the owner alone: it holds the config, which may name persons, and perhaps responses
    replace_text(out, as_html(runs, arguments.responses == "folded"), private=True)
    for name, each in names_of(runs).items():
        print(f"{name}: {finding(each.results.verdicts, each.sixteen_bits).headline}")
    private = "the private text itself" if arguments.responses == "folded" else "the runs' configs"
    print(f"report: {out} (readable for your account alone, since it holds {private})")
