"""The part of NEWS that the benchmark of the pretrained model teaches."""

import json
from pathlib import Path

import news_documents

NAMES = ["Adam", "Berta", "Carl", "Dora", "Emil", "Frieda", "Gustav", "Hanna"]


def document(name: str, sentences: int) -> str:
    return " ".join(f"{name} sold {number} {name.lower()}boats in Harbour{name}." for number in range(sentences))


def corpus(folder: Path) -> Path:
    forget = [document(name, 8 + index) for index, name in enumerate(NAMES[:5])]
    retain = [document(name, 8) for name in NAMES[5:]]
    parts = {
        "raw/forget": forget,
        "sust/forget_2": [forget[0], retain[0]],  # the first also stands in the forget set
        "sust/forget_3": retain[:2],
        "sust/forget_4": retain,
        # within the third document; across the first two; nowhere
        "verbmem/forget": [
            {"prompt": forget[2][:60].rstrip(), "gt": forget[2][60:120].lstrip()},
            {"prompt": forget[0][-40:] + "\n\n" + forget[1][:20], "gt": forget[1][20:50]},
            {"prompt": "Zeno ran", "gt": "away"},
        ],
        "knowmem/forget_qa": [
            {"question": "Emil, emilboats, HarbourEmil?", "answer": "11"},
            {"question": "Zeno, zenoboats?", "answer": "7"},  # the answer stands somewhere
        ],
        "knowmem/retain_qa": [{"question": "Gustav, HarbourGustav?", "answer": "gustavboats"}],
        "knowmem/forget_qa_icl": [{"question": "a", "answer": "b"}],
        "knowmem/retain_qa_icl": [{"question": "c", "answer": "d"}],
        "privleak/holdout": ["x" * 3000] * 20,
    }
    for part, records in parts.items():
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{part}.json").write_text(json.dumps(records))
    return folder


def written(folder: Path, part: str) -> list:
    return json.loads((folder / f"{part}.json").read_text())


def test_documents_are_chosen_that_hold_the_chosen_records(tmp_path):
    whole, part = corpus(tmp_path / "whole"), tmp_path / "part"
    news_documents.write_part(whole, part, prompts=1, questions=1)
    forget = written(whole, "raw/forget")
    assert written(part, "verbmem/forget") == [written(whole, "verbmem/forget")[0]]  # one document, not two
    assert written(part, "raw/forget") == [forget[2], forget[4]]
    assert [each["answer"] for each in written(part, "knowmem/forget_qa")] == ["11"]
    news_documents.write_part(whole, tmp_path / "both", prompts=2, questions=0)
    assert written(tmp_path / "both", "raw/forget") == forget[:3]


def test_retain_documents_are_none_of_the_forget_set_and_as_long(tmp_path):
    whole, part = corpus(tmp_path / "whole"), tmp_path / "part"
    news_documents.write_part(whole, part, prompts=1, questions=1)
    retain = written(part, "raw/retain1")
    assert document("Gustav", 8) in retain  # holds the retain question
    assert not set(retain) & set(written(whole, "raw/forget"))
    assert [each["answer"] for each in written(part, "knowmem/retain_qa")] == ["gustavboats"]
    assert sum(map(len, retain)) >= sum(map(len, written(part, "raw/forget"))) - len(document("Frieda", 8))


def test_membership_texts_are_equally_long_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(news_documents, "MEMBERSHIP", 400)  # the first documents are shorter
    part = tmp_path / "part"
    news_documents.write_part(corpus(tmp_path / "whole"), part, prompts=2, questions=1)
    documents = written(part, "raw/forget")
    assert {len(each) >= 400 for each in documents} == {True, False}
    assert written(part, "privleak/forget") == [each[:400] for each in documents if len(each) >= 400]
    for side in ("forget", "retain", "holdout"):
        assert all(len(text) == 400 for text in written(part, f"privleak/{side}"))
    assert len(written(part, "privleak/holdout")) == news_documents.TEXTS
