"""Runs beside one another: in the terminal, as CSV, as LaTeX, as a figure."""

import csv
import io
from pathlib import Path

import pytest
from fabricated_run import BACK, GONE, fabricate, rows
from rich.console import Console

from quail_lightning.errors import InputError
from quail_lightning.report.finished_run import FinishedRun, read_run
from quail_lightning.report.forgetting_utility import caption, draw_forgetting_utility
from quail_lightning.report.latex import as_latex, escaped
from quail_lightning.report.metric_choice import axes
from quail_lightning.report.side_by_side import as_csv, names_of, tables_at
from quail_lightning.run.results import Estimate, ResultRow, Undefined


@pytest.fixture
def runs(tmp_path: Path) -> list[FinishedRun]:
    one = fabricate(tmp_path / "one")
    other = fabricate(
        tmp_path / "o_$x", evaluated=rows(20.0), verdicts={"bf16": GONE, "nf4": BACK}, method="npo_gdr"
    )
    return [read_run(one), read_run(other)]


def printed(runs: list[FinishedRun], precision: str) -> list[str]:
    console = Console(width=400, file=io.StringIO(), force_terminal=False)
    for table in tables_at(runs, precision, 400):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_precisions_table_has_a_line_for_each_run_below_the_baselines(runs: list[FinishedRun]) -> None:
    lines = printed(runs, "nf4")
    order = [
        name for line in lines for name in ("target", "retrained", "one", "o_$x") if line.startswith(f"│ {name} ")
    ]
    assert order == ["target", "retrained", "one", "o_$x"]
    (of_other,) = [line for line in lines if line.startswith("│ o_$x")]
    cells = [cell.strip() for cell in of_other.strip("│").split("│")]
    assert cells[1:5] == ["yes", "no", "no", "yes"], "forgotten, survives, over-forgotten, utility kept"
    assert "18.0 ±1.5" in cells, "verbatim recall at NF4: 16 to 19"
    assert "0.02 ±0.03" in cells, "what came back, capped, in place of the bare recovery"
    assert "0.03 ±0.03" not in cells
    assert not any("Membership AUC" in line for line in lines), "PrivLeak restates it"


def test_a_run_that_is_called_as_a_baseline_is_not_taken_for_it(tmp_path: Path) -> None:
    named = names_of([read_run(fabricate(tmp_path / "target")), read_run(fabricate(tmp_path / "b"))])
    assert list(named) == ["run target", "b"]


def test_csv_has_one_line_a_figure_and_no_zero_for_one_without_a_value(runs: list[FinishedRun]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(runs))))
    figures = {(line["run"], line["model"], line["precision"], line["metric"]): line for line in lines}
    assert len(figures) == len(lines)
    assert len(lines) == 4 * 6 + 2 * (6 + 6 + 4), "the baselines once; last rows alone"
    other = str(runs[1].folder)
    found = figures[other, "unlearned", "nf4", "verbmem_forget"]
    assert (found["value"], found["n"], found["low"], found["high"]) == ("18.0", "24", "16.0", "19.0")
    assert (found["method"], found["survives"], found["epoch"]) == ("npo_gdr", "no", "2")
    gone = figures[other, "unlearned", "nf4", "recovery_knowmem_forget_capped"]
    assert (gone["value"], gone["reason"]) == ("", "nothing was forgotten of it")


def test_latex_is_the_papers_layout_worked_by_hand(tmp_path: Path) -> None:
    found = [
        ResultRow("target", "bf16", {"verbmem_forget": Estimate(96, 24, 90, 99)}),
        ResultRow(
            "unlearned",
            "bf16",
            {
                "verbmem_forget": Estimate(9.96, 24, 8.04, 12),
                "knowmem_forget": Undefined("no questions"),
                "privleak": Estimate(-15.25, 48, -50, 41.5, caution="48 texts & few"),
            },
            epoch=1,
        ),
        ResultRow("unlearned", "nf4", {"verbmem_forget": Estimate(-0.04, 12, -1, 1)}, epoch=1),
    ]
    (run,) = [read_run(fabricate(tmp_path / "run_1", evaluated=found, method="ga_gdr"))]
    assert as_latex([run]) == "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}[t]",
            r"\centering",
            r"\caption{Scores $\times 100$ with 95\,\% bootstrap intervals in brackets; --: undefined. "
            r"\textsuperscript{*}: 48 texts \& few.}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"\begin{tabular}{llrrrr}",
            r"\toprule",
            r"Method & Precision & M1 VerbMem $\downarrow$ & M2 KnowMem $\downarrow$ & M3 PrivLeak $\to 0$ "
            r"& M4 KnowMem $\uparrow$ \\",
            r" &  & $n=12$--$24$ &  & $n=48$ &  \\",
            r"\midrule",
            r"Target & bf16 & 96.0 {\scriptsize [90.0, 99.0]} &  &  &  \\",
            r"\midrule",
            r"ga\_gdr & bf16 & 10.0 {\scriptsize [8.0, 12.0]} & -- "
            r"& $-15.2$\textsuperscript{*} {\scriptsize [$-50.0$, 41.5]} &  \\",
            r" & nf4 & 0.0 {\scriptsize [$-1.0$, 1.0]} &  &  &  \\",
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def test_latex_names_runs_of_one_method_apart_and_escapes_them(runs: list[FinishedRun], tmp_path: Path) -> None:
    third = read_run(fabricate(tmp_path / "b_2"))
    text = as_latex([*runs, third])
    assert "\nquail (one) & bf16" in text
    assert "\nquail (b\\_2) & bf16" in text
    assert "\nnpo\\_gdr & bf16" in text
    assert escaped("a\\b~c^d{e}$%\n#<>") == (
        r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\{e\}\$\% \#\textless{}\textgreater{}"
    )


def test_latex_of_runs_without_any_of_its_measures_is_refused(tmp_path: Path) -> None:
    found = [ResultRow("unlearned", "bf16", {"nll_forget": Estimate(1, 2, 0, 3)}, epoch=1)]
    run = read_run(fabricate(tmp_path / "run", evaluated=found))
    with pytest.raises(InputError, match="none of M1 to M4"):
        as_latex([run])


def test_the_figure_has_a_panel_a_precision_and_a_legend_line_a_model(runs: list[FinishedRun]) -> None:
    figure = draw_forgetting_utility(runs)
    assert [axis.get_title() for axis in figure.axes] == ["bf16", "nf4"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["target", "retrained", "one", "o_$x"]
    at_nf4 = [container.lines[0].get_xydata()[0].tolist() for container in figure.axes[1].containers]  # type: ignore[attr-defined]
    assert at_nf4 == [[95, 94], [11, 94], [8, 90], [18, 90]]
    across, upward = (bar.get_segments()[0].tolist() for bar in figure.axes[1].containers[2].lines[2])  # type: ignore[attr-defined]
    assert across == [[6, 90], [9, 90]], "the interval of verbatim recall"
    assert upward == [[8, 86], [8, 90]], "of retain Q&A"
    assert all(axis.get_xlim()[0] < 0 < 100 < axis.get_xlim()[1] < 110 for axis in figure.axes)


def test_axes_that_do_not_start_at_0_are_named_in_the_caption(tmp_path: Path, runs: list[FinishedRun]) -> None:
    assert axes(runs) == ("verbmem_forget", "knowmem_retain")
    assert caption(runs) == "Further left: more forgotten; higher: more is kept. Bars: 95 % intervals."
    measures = {"nll_forget": Estimate(4, 2, 3, 5), "nll_retain": Estimate(1, 2, 0.5, 2)}
    run = read_run(fabricate(tmp_path / "w", evaluated=[ResultRow("unlearned", "bf16", measures, epoch=1)]))
    assert caption([run]) == (
        "Further right: more forgotten; lower: more is kept. Bars: 95 % intervals. "
        "Axes of Forget NLL and Retain NLL need not start at 0."
    )
    lacking = [ResultRow("unlearned", "bf16", {"nll_forget": Estimate(4, 2, 3, 5)}, epoch=1)]
    with pytest.raises(InputError, match="no measure of utility"):
        axes([read_run(fabricate(tmp_path / "none", evaluated=lacking))])
