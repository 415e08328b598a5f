"""`quail compare`: finished runs side by side, in the terminal, as CSV, as a LaTeX table, as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.storage.durable import check_new_file, replace_text
from quail_lightning.storage.figure_files import write_figure

DOTS_PER_INCH = 150
ENDINGS = {"csv": (".csv",), "latex": (".tex",), "figure": (".png", ".svg")}


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("runs", nargs="+", type=str, help="folders of finished runs of one corpus, two at least")
    parser.add_argument("--csv", type=str | None, default=None, help="new file: one line a figure")
    parser.add_argument(
        "--latex", type=str | None, default=None, help="new file (.tex): M1 to M4, as in the papers"
    )
    parser.add_argument(
        "--figure",
        type=str | None,
        default=None,
        help="new file (.png, .svg): forgetting × utility, a panel a precision",
    )


def run(arguments: Any) -> None:
    """Carry the verb out: everything is checked, and made, before anything is printed or written."""
    files = {name: Path(path) for name in ENDINGS if (path := getattr(arguments, name)) is not None}
    for name, path in files.items():
        check_new_file(path, f"--{name}", ENDINGS[name])
    if len({path.resolve() for path in files.values()}) < len(files):
        raise InputError("two outputs have one name", given=", ".join(map(str, files.values())))
    if len(arguments.runs) < 2:
        raise InputError(
            "there is nothing to compare",
            given=", ".join(arguments.runs),
            allowed="two runs or more",
            remedy="`quail report` shows a single one",
        )
    # here: labels of metrics come with torch, which --help does without
    from quail_lightning.report.finished_run import read_runs
    from quail_lightning.report.forgetting_utility import draw_forgetting_utility
    from quail_lightning.report.latex import as_latex
    from quail_lightning.report.same_corpus import check_same_corpus, notes_on
    from quail_lightning.report.side_by_side import as_csv, print_side_by_side

    runs = read_runs(arguments.runs)
    check_same_corpus(runs)
    texts = {name: make(runs) for name, make in {"csv": as_csv, "latex": as_latex}.items() if name in files}
    figure = draw_forgetting_utility(runs) if "figure" in files else None
    print_side_by_side(runs)
    for note in notes_on(runs):
        print(note)
    for name, text in texts.items():
        replace_text(files[name], text)
    if figure is not None:
        write_figure(figure, files["figure"], DOTS_PER_INCH)
    for name, path in files.items():
        print(f"{name}: {path}")
