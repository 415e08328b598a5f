"""Digests of what a model was made of."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from quail_lightning.data import MuseDataModule, OwnTextDataModule, RwkuDataModule, TwitterDataModule
from quail_lightning.data.newsroom import Newsroom
from quail_lightning.data.text_digests import text_digests

TIDES = ["High water at five.\n\tLow at dusk.", "Høyvann klokka åtte.", "Spring tide, as the pilot told."]
BEANS = ["Water the first row.", "And the second one.\n"]
OTHERS = ["A holdout.", "Of two documents."]


def sha256(*documents: str) -> str:
    return hashlib.sha256("\n\n".join(documents).encode()).hexdigest()


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    for name, documents in (("forget", TIDES), ("retain", BEANS), ("holdout", OTHERS)):
        Path(f"my/{name}.txt").write_text("\n\n".join(documents), "utf-8")


def test_of_a_plain_text_it_is_the_file_s_own_and_of_the_same_records_the_same():
    found = text_digests(OwnTextDataModule("my/forget.txt", "my/retain.txt", holdout="my/holdout.txt"))
    files = {name: Path(f"my/{name}.txt").read_bytes() for name in ("forget", "retain", "holdout")}
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    Path("forget.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TIDES))
    assert text_digests(OwnTextDataModule("forget.jsonl")) == found | {"retain": None, "holdout": None}


def test_another_word_order_or_document_is_another_text():
    for changed in ([*reversed(TIDES)], TIDES[:-1], [*TIDES[:-1], "Spring tide, as the Pilot told."]):
        Path("other.txt").write_text("\n\n".join(changed), "utf-8")
        assert text_digests(OwnTextDataModule("other.txt"))["forget"] != sha256(*TIDES)


def test_documents_that_stand_in_an_earlier_set_do_not_count():
    Path("my/retain.txt").write_text("\n\n".join([TIDES[1], *BEANS]), "utf-8")
    Path("my/holdout.txt").write_text("\n\n".join([BEANS[0], *OTHERS]), "utf-8")
    found = text_digests(OwnTextDataModule("my/forget.txt", "my/retain.txt", holdout="my/holdout.txt"))
    assert (found["retain"], found["holdout"]) == (sha256(*BEANS), sha256(*OTHERS))


def test_chats_count_as_they_are_whatever_a_tokenizer_makes_of_them(checkpoint):
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At five."}]
    Path("chat.jsonl").write_text(json.dumps({"messages": turns}))
    with_tokenizer, without = (OwnTextDataModule("chat.jsonl", tokenizer=each) for each in (checkpoint, None))
    assert text_digests(with_tokenizer) == text_digests(without)


def test_of_muse_s_layout_with_and_without_a_holdout(corpus_folder, caplog):
    parts = {"forget": "raw/forget", "retain": "raw/retain1", "holdout": "privleak/holdout"}
    texts = {name: json.loads((corpus_folder / f"{part}.json").read_text()) for name, part in parts.items()}
    assert text_digests(MuseDataModule(str(corpus_folder))) == {
        name: sha256(*each) for name, each in texts.items()
    }
    Path("small/raw").mkdir(parents=True)
    for name in ("forget", "retain1"):
        Path(f"small/raw/{name}.json").write_text((corpus_folder / f"raw/{name}.json").read_text())
    with caplog.at_level("INFO"):
        found = text_digests(MuseDataModule("small"))
    assert (found["forget"], found["holdout"]) == (sha256(*texts["forget"]), None)
    assert "no digest of the holdout" in caplog.text


def test_of_the_newsroom_which_is_written_first():
    found = text_digests(MuseDataModule("news", newsroom=Newsroom(6, 6, 2)))
    assert found["holdout"] == sha256(*json.loads(Path("news/privleak/holdout.json").read_text()))


def test_of_tweets_with_the_label_lines_that_are_trained_on():
    for name in ("forget", "retain1", "retain2"):
        Path(f"{name}.jsonl").write_text(json.dumps({"text": f"a tweet to {name}", "label": 1}))
    found = text_digests(TwitterDataModule("."))
    assert found == {
        "forget": sha256("a tweet to forget\nLabel: misinformation"),
        "retain": sha256("a tweet to retain1\nLabel: misinformation"),
        "holdout": sha256("a tweet to retain2"),
    }


def test_of_rwku_which_has_no_holdout():
    Path("Target/1_Ann_Ash").mkdir(parents=True)
    row = {"subject": "Ann Ash", "text": "Ann Ash likes oak."}
    Path("Target/1_Ann_Ash/positive.json").write_text(json.dumps([row]))
    found = text_digests(RwkuDataModule(".", subjects=("Ann Ash",)))
    assert found == {"forget": sha256("Ann Ash likes oak."), "retain": None, "holdout": None}


def test_the_documentation_s_recipe_gives_the_digests(capsys):
    page = (Path(__file__).parents[3] / "docs/reliability.md").read_text("utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(recipe, {})  # our own file
    found = text_digests(OwnTextDataModule("my/forget.txt", "my/retain.txt"))
    assert capsys.readouterr().out == f"{found}\n"
    assert "sha256sum my/forget.txt" in page
