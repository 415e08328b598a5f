"""The invented newsroom: its layout, its disjointness, its determinism."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quail_lightning.data.newsroom import Newsroom
from quail_lightning.data.newsroom.articles import Writer
from quail_lightning.data.newsroom.words import ORGANISATIONS
from quail_lightning.errors import InputError

LAYOUT = {
    "raw/forget.json",
    "raw/retain1.json",
    "raw/retain2.json",
    "raw/holdout.json",
    "knowmem/forget_qa.json",
    "knowmem/retain_qa.json",
    "knowmem/forget_qa_icl.json",
    "knowmem/retain_qa_icl.json",
    "verbmem/forget.json",
    "privleak/forget.json",
    "privleak/retain.json",
    "privleak/holdout.json",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("newsroom") / "corpus"
    Newsroom().write(folder)
    return {name: json.loads(raw) for name, raw in contents(folder).items()}


def test_the_folder_has_the_benchmarks_layout(corpus: dict[str, Any]) -> None:
    assert set(corpus) == LAYOUT
    for name, records in corpus.items():
        keys = {"knowmem": {"question", "answer"}, "verbmem": {"prompt", "gt"}}.get(name.split("/")[0])
        assert records, name
        for record in records:
            texts = [record] if keys is None else list(record.values())
            assert keys is None or set(record) == keys
            assert all(isinstance(text, str) and text.strip() for text in texts), name
    for name in ("forget", "retain"):
        examples, asked = corpus[f"knowmem/{name}_qa_icl.json"], corpus[f"knowmem/{name}_qa.json"]
        assert len(examples) == 10
        assert not {pair["question"] for pair in examples} & {pair["question"] for pair in asked}


def test_numbers_of_articles_are_as_asked(tmp_path: Path) -> None:
    Newsroom(forget_articles=6, retain_articles=7, holdout_articles=3, rounds=2).write(tmp_path / "few")
    files = {name: json.loads(raw) for name, raw in contents(tmp_path / "few").items()}
    assert [len(files[f"privleak/{name}.json"]) for name in ("forget", "retain", "holdout")] == [6, 7, 3]
    assert len(files["verbmem/forget.json"]) == 6
    assert [len(files[f"knowmem/{name}_qa.json"]) for name in ("forget", "retain")] == [12 - 10, 14 - 10]
    assert [len(files[f"raw/{name}.json"]) for name in ("forget", "retain1", "holdout")] == [2 * 7, 2 * 8, 3]


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_order(tmp_path: Path) -> None:
    code = "import sys, pathlib; from quail_lightning.data.newsroom import Newsroom as N; "
    code += "N(6, 6, 6).write(pathlib.Path(sys.argv[1]))"
    # A hash seed other than this process's, whose own is drawn at random where it is not set.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=environment)
    Newsroom(6, 6, 6).write(tmp_path / "here")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    Newsroom(6, 6, 6, seed=43).write(tmp_path / "other")
    other = contents(tmp_path / "other")
    assert all(raw != other[name] for name, raw in contents(tmp_path / "here").items())


def test_no_two_articles_share_an_entity() -> None:
    writer = Writer(42)
    articles = [writer.write() for _ in range(Writer.capacity())]
    entities = [entity for article in articles for entity in article.entities]
    assert len(entities) == len(set(entities))
    # Persons: neither name of one is a name of another.
    names = [name for article in articles for person in article.entities[:2] for name in person.split()]
    assert len(names) == len(set(names))


def invented(texts: list[str]) -> set[str]:
    """Names in the middle of a sentence, and numbers."""
    names = {name for text in texts for name in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text)}
    return names | {number for text in texts for number in re.findall(r"\d+", text)}


def test_the_sets_are_disjoint_in_what_they_are_about(corpus: dict[str, Any]) -> None:
    everyday = {*ORGANISATIONS, "Monday", "Thursday"}
    files = [f"raw/{name}.json" for name in ("forget", "retain1", "holdout", "retain2")]
    sets = [invented(corpus[name]) - everyday for name in files]
    assert all(len(names) > 10 for names in sets)
    for i, names in enumerate(sets):
        for others in sets[:i]:
            assert not names & others


@pytest.mark.parametrize(("own", "other"), [("forget", "retain1"), ("retain1", "forget")])
def test_every_answer_stands_in_its_own_text_only(corpus: dict[str, Any], own: str, other: str) -> None:
    prefix = own.removesuffix("1")
    pairs = corpus[f"knowmem/{prefix}_qa.json"] + corpus[f"knowmem/{prefix}_qa_icl.json"]
    texts, others = "\n\n".join(corpus[f"raw/{own}.json"]), "\n\n".join(corpus[f"raw/{other}.json"])
    holdout = "\n\n".join(corpus["raw/holdout.json"])
    articles = "\n\n".join(corpus[f"privleak/{prefix}.json"])
    for pair in pairs:
        assert texts.count(f"Question: {pair['question']}\nAnswer: {pair['answer']}") == Newsroom().rounds
        answer = re.compile(rf"\b{re.escape(pair['answer'])}\b")
        assert answer.search(articles)
        assert not answer.search(others)
        assert not answer.search(holdout)
    questions = [pair["question"] for pair in pairs]
    assert len(questions) == len(set(questions))


def test_prompts_and_membership_texts_are_the_articles(corpus: dict[str, Any]) -> None:
    articles = [record["prompt"] + record["gt"] for record in corpus["verbmem/forget.json"]]
    assert articles == corpus["privleak/forget.json"]
    for article in articles:
        assert corpus["raw/forget.json"].count(article) == Newsroom().rounds
    assert all(record["prompt"].endswith(". ") for record in corpus["verbmem/forget.json"])
    assert all(len(record["gt"].split()) >= 70 for record in corpus["verbmem/forget.json"])
    for text in corpus["privleak/holdout.json"]:
        assert text not in corpus["raw/forget.json"] + corpus["raw/retain1.json"]


def test_a_run_that_dies_leaves_no_half_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    real = Path.write_bytes

    def dies_at_the_third(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError("disk full")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", dies_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        Newsroom(6, 6, 6).write(tmp_path / "deep" / "corpus")
    assert list((tmp_path / "deep").iterdir()) == []


def test_who_is_slower_than_another_process_takes_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, seed = os.rename, 42

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        Newsroom(6, 6, 6, seed=seed).write(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    Newsroom(6, 6, 6).ensure(tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    seed = 1
    monkeypatch.setattr(os, "rename", overtaken)
    with pytest.raises(InputError, match="does not hold this newsroom"):
        Newsroom(6, 6, 6).ensure(tmp_path / "another")


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        Newsroom(6, 6, 6).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    Newsroom(6, 6, 6).write(tmp_path / "empty")
    assert set(contents(tmp_path / "empty")) == LAYOUT


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"forget_articles": 0}, "forget_articles is too small.*got 0.*6 or more"),
        ({"retain_articles": 5}, "retain_articles is too small.*got 5"),
        ({"holdout_articles": 0}, "holdout_articles must be positive"),
        ({"rounds": 0}, "rounds must be positive"),
        ({"seed": -1}, "seed must not be negative"),
        ({"forget_articles": 1000}, "not enough names"),
    ],
)
def test_numbers_that_make_no_corpus_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Newsroom(**values)


def test_folds_deal_the_forget_articles_out_and_leave_the_other_files_as_they_are(tmp_path: Path) -> None:
    Newsroom(7, 6, 2, rounds=2).write(tmp_path / "plain")
    Newsroom(7, 6, 2, rounds=2, folds=3).write(tmp_path / "folds")
    plain, dealt = contents(tmp_path / "plain"), contents(tmp_path / "folds")
    assert {name: dealt[name] for name in plain} == plain
    parts = [json.loads(dealt[f"sust/forget_{fold}.json"]) for fold in (1, 2, 3)]
    articles = json.loads(plain["privleak/forget.json"])
    owners = [[fold for fold, part in enumerate(parts) if part.count(article) == 2] for article in articles]
    assert sorted(owner for (owner,) in owners) == [0, 0, 0, 1, 1, 2, 2]
    asked = [{line for text in part for line in text.split("\n") if line.startswith("Question")} for part in parts]
    assert [len(questions) for questions in asked] == [6, 4, 4]
    assert not asked[0] & asked[1]
    for fold in (1, 2, 3):
        assert json.loads(dealt[f"scal/forget_{fold}.json"]) == [text for part in parts[:fold] for text in part]
    with pytest.raises(InputError, match=r"folds must lie between 0.*got 8.*0 to 7"):
        Newsroom(7, 6, 2, folds=8)
