"""What the terminal shows."""

from dataclasses import replace

import pytest

from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.evaluation.table import print_results, results_tables, short_names
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.run.results import Estimate, ResultRow, Undefined

ROWS = [
    ResultRow(
        "target",
        "bf16",
        {"verbmem_forget": Estimate(97.04, 24, 95.0, 99.0), "privleak": Estimate(-100, 48, -100, -100)},
    ),
    ResultRow(
        "unlearned",
        "nf4",
        {
            "verbmem_forget": Estimate(-0.001, 24, -0.5, 0.5),
            "membership_auc": Estimate(0.9, 48, 0.8, 1.0),
            "recovery_verbmem_forget": Undefined("nothing was forgotten"),
            "kept_forgetting": Estimate(0.981, 64, 0.97, 0.99),
            "delivered_forgetting": Estimate(0.5, 64, 0.5, 0.5),
        },
        epoch=1,
    ),
]


def shown(capsys, rows=ROWS, columns=None, **options):
    with pytest.MonkeyPatch.context() as patch:
        if columns is None:
            patch.delenv("COLUMNS", raising=False)
        else:
            patch.setenv("COLUMNS", str(columns))
        print_results(rows, "after epoch 1", **options)
    return capsys.readouterr().out


def line(text, *words):
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_a_figure_is_shown_with_half_its_interval(capsys):
    assert "97.0 ±2.0" in line(shown(capsys), "target", "bf16")


def test_survival_stands_in_a_table_of_its_own(capsys):
    knowledge, survival = shown(capsys).split("what came back of it")
    assert "0.98 ±0.01" in line(survival, "unlearned", "nf4")
    assert "target" not in survival
    assert "Recovery" not in knowledge


def test_undefined_is_a_dash_and_not_run_is_blank(capsys):
    knowledge, survival = shown(capsys).split("what came back of it")
    assert "–" in line(survival, "unlearned")
    assert line(knowledge, "unlearned", "nf4").rstrip("│ ").endswith("0.00 ±0.50")


def test_a_rounded_zero_has_no_minus_sign(capsys):
    assert "-0.00" not in shown(capsys)


def test_rows_that_were_never_quantized_give_one_table_and_the_note_stands_below(capsys):
    text = shown(capsys, ROWS[:1], note="cut from windows")
    assert "what came back" not in text
    assert text.rstrip().endswith("cut from windows")


def test_labels_and_utility_stand_in_tables_of_their_own():
    metrics = {"nll_forget": Estimate(1.0, 3, 0.5, 1.5), "label_f1_forget": Estimate(50.0, 3, 40.0, 60.0)}
    rows = [ResultRow("target", "bf16", metrics | {"utility_fluency": Estimate(5.0, 3, 4.0, 6.0)})]
    titles = [(str(table.title), len(table.columns)) for table in results_tables(rows, "t")]
    assert titles == [("t", 3), ("what it says of the labels", 3), ("what it is still good for", 3)]


LONG = "checkpoints/a-folder-with-a-long-name/run-of-the-twenty-first/model"
PRECISIONS = ("bf16", "nf4", "fp4", "int8", "uniform4-group64")


def everything(models):
    """Rows of every measure there is, each with a figure of its own."""
    rows, number = [], 0
    for model in models:
        for precision in PRECISIONS:
            metrics = {}
            for name in labels():
                number += 1
                metrics[name] = Estimate(-10 - number / 10, 100, -112 - number / 10, 91 - number / 10)
            metrics["kept_forgetting"] = Undefined("nothing was forgotten")
            rows.append(ResultRow(model, precision, metrics))
    return rows


@pytest.mark.parametrize("columns", [80, 120, None])
@pytest.mark.parametrize(
    "models", [("target", "retrained", "unlearned"), (LONG, "other/target (retrained)", LONG + "-b")]
)
def test_every_figure_is_shown_and_no_line_is_wider_than_the_terminal(columns, models, capsys):
    rows = everything(models)
    verdicts = {name: Verdict("yes", "no", "no", "no", "yes", "forgotten in part, " * 20) for name in PRECISIONS}
    text = shown(capsys, rows, columns, verdicts=verdicts, note="cut from windows, " * 20)
    assert max(map(len, text.splitlines())) <= (columns or 120)
    assert "…" not in text
    left_out = {name for name in labels() if label_of(name).table == "files"}
    left_out |= {name for name in labels() if f"{name}_capped" in labels()} | {"membership_auc", "kept_forgetting"}
    for row in rows:
        for name in row.metrics.keys() - left_out:
            value = row.metrics[name].value
            expected = f"{value:.0e}" if name == "forget_quality" else f"{value:.1f} ±101.5"
            assert expected in text, (row.model, row.precision, name)


def test_a_long_path_stands_in_the_legend_and_a_short_name_in_the_rows(capsys):
    rows = everything([LONG, "runs/b/unlearned", "runs/a/retrained (retrained)"])
    text = shown(capsys, rows, 80)
    assert f"model: {LONG}" in text
    assert "retrained (retrained): runs/a/retrained (retrained)" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_names_are_as_short_as_they_can_be_told_apart():
    assert short_names(["target", "unlearned"]) == {"target": "target", "unlearned": "unlearned"}
    assert short_names(["a/x/model", "a/y/model"]) == {"a/x/model": "x/model", "a/y/model": "y/model"}
    assert list(short_names([LONG + "1" * 30, LONG + "2" * 30]).values()) == ["A", "B"]
    assert short_names(["a/b (partial: first 3)"]) == {"a/b (partial: first 3)": "b"}


def test_the_number_of_records_stands_once_in_the_heading(capsys):
    text = shown(capsys)
    assert line(text, "n 24", "n 48")
    mixed = [ROWS[0], replace(ROWS[0], model="b", metrics={"verbmem_forget": Estimate(1.0, 9, 0.5, 1.5)})]
    assert line(shown(capsys, mixed), "n 9–24")


def test_a_privleak_that_means_little_gives_its_place_to_the_auc(capsys):
    area, leak = Estimate(0.9, 48, 0.8, 1.0), Estimate(80.0, 48, 60.0, 100.0)
    plain = shown(capsys, [ResultRow("unlearned", "bf16", {"membership_auc": area, "privleak": leak})])
    assert "leak" in plain
    assert "AUC" not in plain
    little = replace(leak, caution="48 texts, fewer than 50")
    text = shown(capsys, [ResultRow("unlearned", "bf16", {"membership_auc": area, "privleak": little})])
    assert "leak" not in text.split("±")[0]
    assert "0.90 ±0.10" in line(text, "unlearned")
    assert "48 texts, fewer than 50" in text


def test_what_is_delivered_stands_in_the_files_only_and_a_capped_recovery_replaces_the_other(capsys):
    half = Estimate(0.5, 9, 0.4, 0.6)
    metrics = {
        "recovery_verbmem_forget": half,
        "recovery_verbmem_forget_capped": half,
        "delivered_forgetting": half,
    }
    text = shown(capsys, [ResultRow("unlearned", "nf4", metrics)])
    assert "Delivered" not in text
    assert "Recovery:" not in text
    assert text.count("0.50 ±0.10") == 1


def test_the_verdict_stands_below_the_tables(capsys):
    found = Verdict("yes", "no", "unknown", "no", "yes", "NOTHING WAS FORGOTTEN")
    assert line(shown(capsys, verdicts={"nf4": found}), "nf4", "NOTHING")
