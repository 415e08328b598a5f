"""One run's verdict as a picture: what stands in it is what the run says."""

from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_run import BACK, GONE, fabricate

from quail_lightning.cli import main
from quail_lightning.errors import InputError
from quail_lightning.report.finished_run import read_run
from quail_lightning.report.verdict_figure import TONES, draw_verdict


def drawn(folder: Path):
    """Headline, points by model and precision of both measures, and cells as (line, column) → (word, color)."""
    figure = draw_verdict(read_run(folder))
    *measures, answers = figure.axes
    points = [[(line.get_xdata()[0], line.get_color()) for line in axis.lines if len(line.get_xdata())]
              for axis in measures]  # fmt: skip
    colors = {(round(p.get_y() + 0.42), round(p.get_x() + 0.47)): p.get_facecolor() for p in answers.patches}
    words = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in answers.texts}
    return figure, points, words, colors


def test_points_are_the_runs_own_and_answers_the_verdicts(tmp_path) -> None:
    figure, (forgetting, utility), words, colors = drawn(fabricate(tmp_path / "run"))
    assert figure._suptitle.get_text().startswith("The text was forgotten, and stays so")
    assert {96, 95, 12, 11, 10, 8} <= {x for x, _ in forgetting}, (
        "verbatim recall of three models at two precisions"
    )
    assert {95, 94, 92, 90} <= {x for x, _ in utility}
    yes, no = "yes", "no"
    assert words == {(0, 0): yes, (0, 2): no, (0, 3): yes, (1, 0): yes, (1, 1): yes, (1, 2): no, (1, 3): yes}
    assert len(set(colors.values())) == 1, "all of it is good, over-forgotten: no among it"
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bf16", "nf4"]
    low, high = axis.get_xlim()
    assert low < 0
    assert high > 100


def test_what_came_back_is_the_one_bad_cell(tmp_path) -> None:
    from matplotlib.colors import to_rgba

    *_, words, colors = drawn(fabricate(tmp_path / "run", verdicts={"bf16": GONE, "nf4": BACK}))
    bad = [place for place, color in colors.items() if color == to_rgba(TONES["bad"])]
    assert bad == [(1, 1)]
    assert words[1, 1] == "no"


def test_the_title_says_what_qualifies_the_headline(tmp_path) -> None:
    too_far = replace(GONE, over_forgotten="yes")
    figure, *_ = drawn(fabricate(tmp_path / "run", verdicts={"bf16": too_far}))
    assert "Over-forgotten in bf16: an outsider can see" in figure._suptitle.get_text()


def test_a_run_without_a_verdict_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="wrote no verdict"):
        draw_verdict(read_run(fabricate(tmp_path / "run", verdicts={})))


def test_the_command_writes_page_and_picture_or_neither(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        fabricate(tmp_path / name)
    with pytest.raises(SystemExit) as ended:
        main(["report", "a", "b", "--out", "r.html", "--figure", "v.png"])
    assert ended.value.code == 2
    assert "the figure of a verdict is of one run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["report", "a", "--out", "r.html", "--figure", "v.pdf"])
    assert ended.value.code == 2
    assert not Path("r.html").exists()
    main(["report", "a", "--out", "r.html", "--figure", "v.svg"])
    assert "figure: v.svg" in capsys.readouterr().out
    assert Path("v.svg").read_text().startswith("<?xml")
    assert "What arrives of the update" in Path("r.html").read_text()
