"""The papers' figures, and a run's own beside them."""

import pytest

from quail_lightning.errors import InputError
from quail_lightning.evaluation.published import (
    MEASURES,
    Compared,
    as_json,
    compare,
    published_row,
    published_rows,
)
from quail_lightning.evaluation.published_table import print_comparison
from quail_lightning.quantization import available_precisions
from quail_lightning.run.results import Estimate, ResultRow, Undefined

ROWS = [
    ResultRow("target", "bf16", {"verbmem_forget": Estimate(42.4, 100, 40.0, 45.0)}),
    ResultRow("unlearned", "nf4", {"verbmem_forget": Estimate(20.0, 100, 18.0, 22.0)}, epoch=10),
    ResultRow(
        "unlearned",
        "fp4",
        {"verbmem_forget": Estimate(24.0, 100, 22.0, 26.0), "privleak": Undefined("no retrained model")},
        epoch=10,
    ),
]


@pytest.mark.parametrize(
    ("name", "model", "precision", "figures"),
    [  # copied by hand from the papers' tables
        ("failure/news/ga_gdr", "unlearned", "bf16", [0.0, 28.9, 87.1, 34.2]),
        ("failure/news/ga_gdr", "unlearned", "fp4", [25.0, 50.1, -99.1, 47.7]),
        ("failure/news/ga_gdr", "unlearned", "awq4", [25.2, 50.7, -93.2, 47.6]),
        ("failure/news/ga_gdr", "target", "int8", [40.8, 66.4, -99.8, 54.1]),
        ("failure/news/npo_gdr_sure", "retrained", "bf16", [20.8, 33.1, 0.0, 55.0]),
        ("failure/news/npo_gdr_sure", "unlearned", "fp4", [21.1, 35.9, -99.6, 32.0]),
        ("failure/news/ga_klr_sure-percentile99", "unlearned", "bf16", [24.8, 46.3, -95.5, 44.7]),
        ("failure/books/npo_klr", "unlearned", "int8", [11.7, 11.2, -37.2, 23.4]),
        ("failure/books/ga_gdr_sure", "unlearned", "fp4", [0.0, 4.8, -6.3, 46.2]),
        ("failure/books/ga", "retrained", "fp4", [13.6, 24.1, -3.2, 62.0]),
        ("quail/news/ga_gdr_l1-alpha5-gamma8", "unlearned", "bf16", [26.1320, 54.6848, 0.5658, 54.6849]),
        ("quail/news/ga_gdr_l1-alpha20-gamma50", "unlearned", "fp4", [35.7732, 51.5712, -99.8114, 48.9254]),
        ("quail/news/ga_gdr", "target", "fp4", [36.1779, 54.4482, -99.7904, 47.6531]),
    ],
)
def test_figures_are_the_tables(name, model, precision, figures):
    assert published_row(name).figures[model, precision] == dict(zip(MEASURES, figures, strict=True))


REPRODUCIBLE = [name for name in published_rows() if not name.startswith("quail/twitter/")]


@pytest.mark.parametrize("name", REPRODUCIBLE)
def test_every_row_has_its_baseline_known_precisions_and_figures_within_bounds(name):
    row = published_row(name)
    assert {("unlearned", "bf16"), ("target", "bf16")} <= row.figures.keys()
    assert {precision for _, precision in row.figures} <= {*available_precisions()}
    for figures in row.figures.values():
        assert -100 <= figures["privleak"] <= 120
        assert all(0 <= figures[name] <= 100 for name in MEASURES if name != "privleak")


def test_the_tables_are_there_as_a_whole():
    # Table 1 on both corpora, Tables 3 and 9, Table 4 but for the row that it shares with Table 9; Table II
    counts = {paper: sum(name.startswith(paper) for name in REPRODUCIBLE) for paper in ("failure/", "quail/")}
    assert counts == {"failure/": 12 + 8 + 7, "quail/": 12}


def test_an_unknown_row_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"got 'failure/news/gagdr'\. Allowed: failure/news/ga_gdr,.*Or null"):
        published_row("failure/news/gagdr")


def test_twitters_row_is_refused_as_not_reproducible():
    with pytest.raises(InputError, match=r"Table III does not say.*Set evaluation\.published to null"):
        published_row("quail/twitter/ga_gdr")


def test_a_setting_that_differs_is_named_with_both_values():
    row = published_row("failure/news/ga_gdr_sure")
    same = dict(row.setting)
    assert row.differing(same) == []
    assert row.differing(same | {"model.alpha": 1.0, "model.hinge.step": 2.0}) == [
        "model.alpha is 1.0, there 50.0"
    ]
    assert row.differing(same | {"method": "ga_gdr"}) == ["method is ga_gdr, there ga_gdr_sure"]


def test_what_the_published_code_did_otherwise_is_said_of_the_methods_that_it_concerns():
    assert published_row("failure/news/ga_gdr").notes == ()
    npo, klr, sure = published_row("failure/books/npo_klr_sure").notes
    assert (npo[:3], klr[:3], sure[:6]) == ("NPO", "KLR", "SURE's")


def test_figures_are_compared_where_both_have_the_precision():
    compared = compare(published_row("failure/news/ga_gdr"), ROWS)
    assert [(each.model, each.precision) for each in compared[::4]] == [("target", "bf16"), ("unlearned", "fp4")]
    assert [each.published for each in compared] == [58.4, 63.9, -99.8, 55.2, 25.0, 50.1, -99.1, 47.7]
    assert [each.difference for each in compared] == [pytest.approx(-16.0), *[None] * 3, -1.0, *[None] * 3]


def test_in_json_what_was_not_run_or_is_undefined_is_no_number():
    row = published_row("failure/news/ga_gdr")
    figures = as_json(row, compare(row, ROWS))["figures"]
    verbatim, knowledge, leak = figures[4:7]
    assert (verbatim["published"], verbatim["here"]["value"], verbatim["difference"]) == (25.0, 24.0, -1.0)
    assert knowledge.keys() == {"model", "precision", "metric", "published"}
    assert leak["here"] == {"reason": "no retrained model"}
    assert "difference" not in leak


def test_the_table_sets_published_here_and_difference_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    row = published_row("failure/news/npo_gdr")
    here = Estimate(34.5, 100, 32.5, 36.5)
    undefined = Compared("unlearned", "fp4", "privleak", -99.8, Undefined("no retrained model"))
    print_comparison(row, [Compared("unlearned", "fp4", "verbmem_forget", 33.2, here), undefined])
    shown = capsys.readouterr().out
    lines = {
        line.split("│")[3].strip(): [part.strip() for part in line.split("│")[4:7]]
        for line in shown.splitlines()
        if "│" in line
    }
    assert lines["Verbatim recall ↓"] == ["33.2", "34.5 ±2.0", "+1.3"]
    assert lines["Membership leak → 0"] == ["-99.8", "–", ""]
    assert "NPO was computed on raw logits" in shown
    assert "Table 1" in shown
