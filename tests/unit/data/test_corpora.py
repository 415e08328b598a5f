"""Reading corpora, and what is said about broken ones."""

import json

import pytest

from quail_lightning.data.corpora import FolderCorpus, HubCorpus, open_corpus, questions, texts, verbatim_prompts
from quail_lightning.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "knowmem").mkdir()
    (tmp_path / "raw/forget.json").write_text(json.dumps(["one", "two"]))
    (tmp_path / "raw/retain1.txt").write_text("three\n\nfour\n\n")
    (tmp_path / "knowmem/forget_qa.json").write_text(json.dumps([{"question": "Q?", "answer": "A"}]))
    return tmp_path


def test_json_lists_and_text_files_are_read(folder):
    corpus = open_corpus(str(folder))
    assert texts(corpus, "raw/forget") == ["one", "two"]
    assert texts(corpus, "raw/retain1") == ["three", "four\n\n".strip()]
    assert questions(corpus, "knowmem/forget_qa")[0].answer == "A"


def test_a_missing_part_is_named_with_the_places_looked_at_and_what_is_there(folder):
    with pytest.raises(InputError) as raised:
        texts(FolderCorpus(folder), "raw/holdout")
    message = str(raised.value)
    assert str(folder / "raw/holdout.json") in message
    assert "raw/forget.json" in message


def test_an_empty_forget_set_is_refused(folder):
    (folder / "raw/forget.json").write_text("[]")
    with pytest.raises(InputError, match=r"'raw/forget'.*is empty"):
        texts(FolderCorpus(folder), "raw/forget")


def test_broken_json_is_named_with_file_and_line(folder):
    (folder / "raw/forget.json").write_text('[\n"one",\n"two"\n"three"]')
    with pytest.raises(InputError, match=r"forget\.json, line 4, column 1: not valid JSON"):
        texts(FolderCorpus(folder), "raw/forget")


def test_wrong_columns_are_named_with_the_record(folder):
    (folder / "knowmem/forget_qa.json").write_text(json.dumps([{"question": "Q?", "reply": "A"}]))
    with pytest.raises(InputError, match=r"record 0 .*'question', 'reply'.*question and answer"):
        questions(FolderCorpus(folder), "knowmem/forget_qa")
    with pytest.raises(InputError, match="prompt and gt"):
        verbatim_prompts(FolderCorpus(folder), "knowmem/forget_qa")


def test_a_name_that_is_neither_a_folder_nor_a_hub_name_is_refused():
    with pytest.raises(InputError, match=r"no corpus folder 'nowhere'.*MUSE-News"):
        open_corpus("nowhere")


def test_owner_and_name_is_a_hub_corpus():
    assert isinstance(open_corpus("muse-bench/MUSE-News"), HubCorpus)


def test_hub_layout_is_read_through_datasets(tmp_path, monkeypatch):
    # the hub's own layout on disk: a folder a configuration, a file a split
    for config, split, rows in [
        ("raw", "forget", [{"text": "one"}, {"text": "two"}]),
        ("knowmem", "forget_qa", [{"question": "Q?", "answer": "A"}]),
    ]:
        path = tmp_path / "owner/name" / config / f"{split}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "owner/name/README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: raw\n  data_files:\n  - split: forget\n    path: raw/forget.jsonl\n"
        "- config_name: knowmem\n  data_files:\n  - split: forget_qa\n    path: knowmem/forget_qa.jsonl\n---\n"
    )
    monkeypatch.chdir(tmp_path)
    corpus = HubCorpus("owner/name")
    assert texts(corpus, "raw/forget") == ["one", "two"]
    assert questions(corpus, "knowmem/forget_qa")[0].question == "Q?"
    with pytest.raises(InputError, match=r"'raw/holdout' of 'owner/name' could not be loaded"):
        texts(corpus, "raw/holdout")
