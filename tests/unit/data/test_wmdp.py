"""WMDP's corpora from a folder and from the hub, and windows of whole documents' beginnings."""

import json

import httpx
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError

from quail_lightning.data import WmdpDataModule
from quail_lightning.data.protocol import UnlearningData
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.data.windows import document_windows
from quail_lightning.data.wmdp_corpus import GATED, HUB_NAME
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers, without_padding

LONG = " oak pine elm ash fir birch maple rowan yew alder hazel"
PARTS = ("bio-forget-corpus", "bio-retain-corpus", "cyber-forget-corpus", "cyber-retain-corpus", "wikitext")


def text(part, number):
    return f"{part} {number}{LONG}"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    """Five documents of each part and one that is too short; of cyber's forget corpus two."""
    for part in PARTS:
        count = 2 if part == "cyber-forget-corpus" else 5
        write(tmp_path / f"{part}.jsonl", [{"text": "short"}, *({"text": text(part, n)} for n in range(count))])
    return tmp_path


def module(folder, checkpoint=None, **options):
    return WmdpDataModule(str(folder), tokenizer=checkpoint, **options)


def test_domains_take_turns_and_short_documents_are_left_out(folder):
    documents = module(folder).training_documents()
    bio, cyber = ([text(f"{domain}-forget-corpus", n) for n in range(5)] for domain in ("bio", "cyber"))
    assert documents.forget == [bio[0], cyber[0], bio[1], cyber[1], *bio[2:]]
    assert documents.retain == [text("wikitext", n) for n in range(5)]
    few = module(folder, max_forget_windows=3, max_retain_windows=2).training_documents()
    assert few.forget == [bio[0], cyber[0], bio[1]]
    assert few.retain == documents.retain[:2]
    assert "short" in module(folder, min_characters=0).training_documents().forget


def test_one_domain_is_read_alone_and_its_own_harmless_texts_can_be_kept(folder):
    for part in ("bio-forget-corpus", "bio-retain-corpus", "wikitext"):
        (folder / f"{part}.jsonl").unlink()
    documents = module(folder, domains=("cyber",), retain="domains").training_documents()
    assert documents.forget == [text("cyber-forget-corpus", n) for n in range(2)]
    assert documents.retain == [text("cyber-retain-corpus", n) for n in range(5)]


def test_a_length_of_exactly_the_least_is_too_short_as_published(folder):
    write(folder / "cyber-forget-corpus.jsonl", [{"text": "a" * 50}, {"text": "b" * 51}])
    assert module(folder, domains=("cyber",)).training_documents().forget == ["b" * 51]


def test_a_document_is_one_window_of_its_first_tokens_and_padding_is_only_read(folder, checkpoint):
    tokenizer = load_tokenizer(checkpoint)
    texts = ["oak pine", "oak pine elm ash fir birch " * 9]
    windows = document_windows(texts, tokenizer, 20)
    assert windows.shape == (2, 20)
    for window, document in zip(windows, texts, strict=True):
        expected = [tokenizer.bos_token_id, *tokenizer(document, add_special_tokens=False)["input_ids"]][:20]
        assert without_padding(window).tolist() == expected
        assert (labels_of(window)[len(expected) :] == -100).all()
    assert (token_numbers(windows) >= 0).all()
    assert document_windows(texts[:1], tokenizer, 20).shape[1] < 20  # as long as the longest


@pytest.mark.parametrize(("texts", "length", "said"), [([""], 20, "document 0 of 1"), (["oak"], 1, "at least 2")])
def test_a_window_without_a_token_to_predict_is_refused(texts, length, said, checkpoint):
    with pytest.raises(InputError, match=said):
        document_windows(texts, load_tokenizer(checkpoint), length)


def test_the_module_keeps_the_protocol_and_serves_windows_without_records(folder, checkpoint):
    data = module(folder, checkpoint, max_len=24, batch_size=2, schedule="joint")
    data.check()
    data.setup("fit")
    assert isinstance(data, UnlearningData)
    assert data.served.windows.forget.shape == (7, 24)
    assert all(step.forget is not None and step.retain is not None for step in data.train_dataloader())
    records = data.served.records
    assert records == data.records_alone()
    assert records.verbatim is records.membership is records.forget_questions is None
    assert "bio and cyber" in records.note


def test_retain_documents_that_stand_in_the_forget_set_are_left_out(folder):
    write(folder / "wikitext.jsonl", [{"text": text("bio-forget-corpus", 1)}, {"text": text("wikitext", 9)}])
    documents = module(folder).training_documents()
    assert documents.retain == [text("wikitext", 9)]
    assert documents.dropped == 1
    write(folder / "wikitext.jsonl", [{"text": text("bio-forget-corpus", 1)}])
    with pytest.raises(InputError, match=r"no retain document is left .* got 'wikitext'"):
        module(folder).check()


@pytest.mark.parametrize("kind", ["json", "parquet", "clone", "handed out"])
def test_every_layout_reads_the_same(kind, folder, tmp_path):
    from pyarrow import Table, parquet

    expected = module(folder).training_documents()
    other = tmp_path / "other"
    other.mkdir()
    for part in PARTS:
        rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
        if kind == "json":
            (other / f"{part}.json").write_text(json.dumps([row["text"] for row in rows]))
        elif kind == "parquet":
            parquet.write_table(Table.from_pylist(rows), other / f"{part}.parquet")
        elif kind == "clone":
            place = "wikitext-2-raw-v1/test" if part == "wikitext" else f"{part}/train"
            (other / place).parent.mkdir()
            for number, shard in enumerate((rows[:2], rows[2:])):
                parquet.write_table(Table.from_pylist(shard), other / f"{place}-0000{number}-of-00002.parquet")
        else:
            name = "bio_remove_dataset" if part == "bio-forget-corpus" else part
            write(other / f"{name}.jsonl", [{"title": "t", "abstract": "a"} | row for row in rows])
    assert module(other).training_documents() == expected


def test_the_gated_corpus_can_be_a_file_of_its_own(folder, tmp_path):
    write(tmp_path / "mine/gated.jsonl", [{"text": text("mine", 0)}])
    documents = module(folder, bio_forget=str(tmp_path / "mine/gated.jsonl")).training_documents()
    assert documents.forget == [text("mine", 0), *(text("cyber-forget-corpus", n) for n in range(2))]


@pytest.mark.parametrize(
    ("part", "line", "said"),
    [
        ("bio-forget-corpus", '{"title": "t"}', r"bio-forget-corpus\.jsonl, line 2 has the wrong form.*title"),
        ("cyber-forget-corpus", '{"text": 3}', r"cyber-forget-corpus\.jsonl, line 2 has the wrong form"),
        ("wikitext", '{"text": "a', r"wikitext\.jsonl, line 2, column \d+: not valid JSON"),
    ],
)
def test_a_line_without_text_is_named_by_file_and_line(part, line, said, folder):
    path = folder / f"{part}.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest]))
    with pytest.raises(InputError, match=said):
        module(folder).check()


def test_a_missing_part_an_empty_one_and_a_missing_folder_are_named(folder):
    write(folder / "cyber-forget-corpus.jsonl", [{"text": "short"}])
    with pytest.raises(InputError, match=r"cyber-forget-corpus of .* no document of more than 50 characters"):
        module(folder).check()
    (folder / "cyber-forget-corpus.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"cyber-forget-corpus\.jsonl holds no record"):
        module(folder).check()
    (folder / "cyber-forget-corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"WMDP's cyber-forget-corpus is missing: .*\.jsonl, .*wikitext\.jsonl"):
        module(folder).check()
    with pytest.raises(InputError, match="no WMDP folder nosuch"):
        module("nosuch").check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"domains": ()}, "each domain once"),
        ({"domains": ("bio", "bio")}, "each domain once"),
        ({"domains": ("chem",)}, "no such value; got 'chem'. Allowed: bio, cyber"),
        ({"retain": "books"}, "no such value; got 'books'. Allowed: wikitext, domains"),
        ({"min_characters": -1}, "must not be negative"),
        ({"domains": ("cyber",), "bio_forget": "a.jsonl"}, "a corpus that data.domains leaves out"),
        ({"max_forget_windows": 0}, "max_forget_windows must be at least 1"),
    ],
)
def test_senseless_options_are_refused(options, said, folder):
    with pytest.raises(InputError, match=said):
        module(folder, **options)


def test_the_hub_is_asked_for_each_part_where_it_lies_and_for_no_more_than_is_used(monkeypatch):
    asked, read = [], []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        for number in range(1000):
            read.append(name)
            yield {"text": text(str(config), number)}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    documents = module(HUB_NAME, max_forget_windows=4, max_retain_windows=3).training_documents()
    assert asked == [
        (GATED, None, "train"),
        (HUB_NAME, "cyber-forget-corpus", "train"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
    ]
    assert len(read) == 4 + 4 + 3
    assert documents.forget[:2] == [text("None", 0), text("cyber-forget-corpus", 0)]
    asked.clear()
    module(HUB_NAME, domains=("cyber",), retain="domains", max_retain_windows=1).training_documents()
    assert [config for _, config, _ in asked] == ["cyber-forget-corpus", "cyber-retain-corpus"]


def gated(status):
    """What ``datasets`` raises for a gated dataset, without a login (401) and without access (403)."""
    answer = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))
    cause = GatedRepoError("Access to dataset is restricted.", response=answer)
    said = DatasetNotFoundError(f"Dataset '{GATED}' is a gated dataset on the Hub.")
    said.__cause__ = cause
    return [said, cause]


@pytest.mark.parametrize("error", [*gated(401), *gated(403)])
def test_a_gated_corpus_says_where_to_ask_for_access_and_how_to_give_a_file(error, monkeypatch):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(InputError) as refused:
        WmdpDataModule().check()
    said = str(refused.value)
    assert f"Ask for access at https://huggingface.co/datasets/{GATED}" in said
    assert "FOLDER/bio-forget-corpus.jsonl" in said
    assert "data.bio_forget" in said


def test_without_a_network_the_part_and_a_folder_are_named():
    with pytest.raises(InputError, match=r"could not be loaded.*FOLDER/cyber-forget-corpus\.jsonl.*data\.corpus"):
        WmdpDataModule(domains=("cyber",)).check()
