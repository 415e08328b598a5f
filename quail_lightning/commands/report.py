"""`quail report`: finished runs as one HTML file for a reader who did not run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from quail_lightning.errors import InputError
from quail_lightning.storage.durable import check_new_file, replace_text
from quail_lightning.storage.figure_files import write_figure

DOTS_PER_INCH = 150
Responses = Literal["none", "folded"]
Layers = Literal["measure", "none"]


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
    parser.add_argument(
        "--layers",
        type=Layers,
        default="measure",
        help="what each layer's weights deliver of the update in the evaluated formats, where target and model "
        "lie on this machine; `none` leaves it out, which for billions of weights saves minutes",
    )
    parser.add_argument(
        "--figure",
        type=str | None,
        default=None,
        help="new file (.png, .svg): the verdict of a single run at a glance, a line a precision",
    )


def run(arguments: Any) -> None:
    """Carry the verb out: everything is checked, and made, before anything is written."""
    out = Path(arguments.out)
    check_new_file(out, "--out", (".html", ".htm"))
    picture = None if arguments.figure is None else Path(arguments.figure)
    if picture is not None:
        check_new_file(picture, "--figure", (".png", ".svg"))
        if len(arguments.runs) > 1:
            raise InputError(
                "the figure of a verdict is of one run",
                given=", ".join(arguments.runs),
                remedy="`quail compare --figure` draws several",
            )
    # here: labels of metrics come with torch, which --help does without
    from quail_lightning.report.finished_run import read_runs
    from quail_lightning.report.page import as_html
    from quail_lightning.report.same_corpus import check_same_corpus
    from quail_lightning.report.side_by_side import names_of
    from quail_lightning.report.verdict_figure import draw_verdict
    from quail_lightning.report.words import finding

    runs = read_runs(arguments.runs)
    check_same_corpus(runs)
    figure = None if picture is None else draw_verdict(runs[0])
    page = as_html(runs, arguments.responses == "folded", arguments.layers == "measure")
    # for the owner alone: it holds the config, which may name persons, and perhaps responses
    replace_text(out, page, private=True)
    if figure is not None and picture is not None:
        write_figure(figure, picture, DOTS_PER_INCH)
    for name, each in names_of(runs).items():
        print(f"{name}: {finding(each.results.verdicts, each.sixteen_bits).text}")
    private = "the private text itself" if arguments.responses == "folded" else "the runs' configs"
    print(f"report: {out} (readable for your account alone, since it holds {private})")
    if picture is not None:
        print(f"figure: {picture}")
