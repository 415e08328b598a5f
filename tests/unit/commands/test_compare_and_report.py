"""`quail compare` and `quail report` refuse what they cannot use before they read or write anything."""

import stat
from pathlib import Path

import pytest
from fabricated_run import config, fabricate

from quail_lightning.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--csv", "a.txt"], "--csv has another ending; got 'a.txt'. Allowed: .csv"),
        (["--latex", "a.csv"], "--latex has another ending"),
        (["--figure", "a.pdf"], "Allowed: .png, .svg"),
        (["--figure", "there.png"], "--figure names a file that exists already"),
        (["--csv", "missing/a.csv"], "the folder of --csv does not exist; got 'missing'. Make it first"),
        (["--csv", "there.png/a.csv"], "the folder of --csv does not exist"),
        ([], "there is nothing to compare"),
    ],
)
def test_compare_refuses_outputs_before_it_reads_a_run(arguments, said, capsys) -> None:
    Path("there.png").write_text("mine")
    assert said in refused(capsys, "compare", "no-such-run", *arguments)
    assert Path("there.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("a.pdf", "--out has another ending; got 'a.pdf'. Allowed: .html, .htm"),
        ("there.html", "--out names a file that exists already; got 'there.html'. Name a new file"),
        ("folder.html", "--out names a folder that exists already"),
        ("missing/a.html", "the folder of --out does not exist"),
    ],
)
def test_report_refuses_its_output_before_it_reads_a_run(out, said, capsys) -> None:
    Path("there.html").write_text("mine")
    Path("folder.html").mkdir()
    assert said in refused(capsys, "report", "no-such-run", "--out", out)
    assert Path("there.html").read_text() == "mine"


def test_runs_of_different_corpora_are_refused_by_both_and_nothing_is_written(capsys) -> None:
    fabricate(Path("one"))
    fabricate(Path("other"), configured=config(corpus="elsewhere"))
    for command in (["compare", "one", "other", "--csv", "a.csv"], ["report", "one", "other", "--out", "a.html"]):
        said = refused(capsys, *command)
        assert "data.corpus is checkpoints/corpus in one, elsewhere in other" in said
    assert not list(Path().glob("a.*"))


def test_a_figure_or_table_that_cannot_be_made_leaves_no_other_file(capsys) -> None:
    from quail_lightning.run.results import Estimate, ResultRow

    found = [ResultRow("unlearned", "bf16", {"nll_forget": Estimate(1, 2, 0, 3)}, epoch=1)]
    for name in ("one", "other"):
        fabricate(Path(name), evaluated=found)
    assert "none of M1 to M4" in refused(capsys, "compare", "one", "other", "--csv", "a.csv", "--latex", "a.tex")
    assert "nothing to draw" in refused(capsys, "compare", "one", "other", "--csv", "a.csv", "--figure", "a.svg")
    assert not list(Path().glob("a.*"))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_compare_writes_what_it_was_asked_for(ending: str, capsys) -> None:
    for name in ("one", "other"):
        fabricate(Path(name))
    main(["compare", "one", "other", "--csv", "a.csv", "--latex", "a.tex", "--figure", f"a.{ending}"])
    shown = capsys.readouterr().out
    assert "other: other, quail" in shown
    assert "verbmem_forget" in Path("a.csv").read_text()
    assert r"\toprule" in Path("a.tex").read_text()
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert Path(f"a.{ending}").read_bytes().startswith(start)
    assert sorted(path.name for path in Path().glob("*a.*")) == sorted(["a.csv", "a.tex", f"a.{ending}"])


def test_report_says_the_verdict_and_is_for_its_owner_alone(capsys) -> None:
    fabricate(Path("one"))
    main(["report", "one", "--out", "a.html"])
    shown = capsys.readouterr().out
    assert "one: The text was forgotten, and stays so in every format that was tested (bf16, nf4)." in shown
    assert "report: a.html (readable for your account alone" in shown
    assert stat.S_IMODE(Path("a.html").stat().st_mode) == 0o600
    assert "keeps no responses" in refused(capsys, "report", "one", "--out", "b.html", "--responses", "folded")
    assert not Path("b.html").exists()
