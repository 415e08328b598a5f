"""No reader of texts quotes what it reads: neither in its message nor in a traceback."""

import json
import traceback
from pathlib import Path

import pytest

from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.corpora import FolderCorpus, questions, texts, verbatim_prompts
from quail_lightning.data.question_files import read_answered
from quail_lightning.data.rwku import RwkuDataModule
from quail_lightning.data.text_files import read_documents, read_questions
from quail_lightning.data.tweets import read_tweets
from quail_lightning.data.windows import token_windows
from quail_lightning.data.wmdp import WmdpDataModule
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import read_log
from quail_lightning.evaluation.triviaqa import read_short_answers
from quail_lightning.evaluation.utility import _instructions
from quail_lightning.models.tiny import train_tokenizer

SECRET = "Sylvia Quint of 9 Harbour Lane"
RECORDS = [
    SECRET,
    [SECRET],
    {SECRET: SECRET},
    {"text": [SECRET], "label": SECRET, "question": SECRET, "prompt": SECRET, "subject": 3, "gt": 1},
    {"text": {"de": SECRET}, "note": SECRET, "instruction": [SECRET], "response": SECRET, "subject": SECRET},
    {"text": SECRET + "\udc80", "question": SECRET + "\ud800", "answer": SECRET, "subject": SECRET, "label": 1},
    {"messages": [{"role": SECRET, "content": [SECRET]}], "answer": SECRET},
    {"conversations": [{SECRET: SECRET}]},
    {"question": SECRET, "answer": SECRET, "wrong": [SECRET, SECRET], "text": 3},
    {"question": SECRET, "answer": "a", "wrong": f"['{SECRET}' '{SECRET}']", "text": 3},
]
BROKEN = [
    f'{{"text": "{SECRET}',
    f'{{"text": {SECRET}}}',
    f'["{SECRET}" "{SECRET}"]',
    f'{{"text": "{SECRET}\\x"}}',
]
TABLES = [f"{SECRET},{SECRET}\n{SECRET},1\n", f'text\n"{SECRET}"{SECRET}\n', f"text\n{SECRET}, {SECRET}\n"]


def write(folder, part, content):
    path = Path(folder) / part
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content)
    return str(path)


def read_corpus(folder, content):
    write(folder, "raw/forget.json", content)
    for read in (verbatim_prompts, questions, texts):
        read(FolderCorpus(folder), "raw/forget")


def read_rwku(folder, content):
    write(folder, "positive.json", content)
    RwkuDataModule(str(folder), subjects=("Ann Ash",)).check(with_records=False)


def read_wmdp(folder, content):
    write(folder, "cyber-forget-corpus.json", content)
    write(folder, "wikitext.json", json.dumps(["oak pine elm ash fir"]))
    WmdpDataModule(str(folder), domains=("cyber",), min_characters=0).check()


def read_logs(folder, content):
    write(folder, "knowmem_f/log.json", content)
    read_log(folder)


def read_membership(folder, content):
    write(folder, "privleak/log.json", content)
    read_log(folder)


READERS = [
    lambda folder, content: read_documents(write(folder, "a.json", content)),
    lambda folder, content: read_documents(write(folder, "a.jsonl", content)),
    lambda folder, content: read_documents(write(folder, "a.csv", content)),
    lambda folder, content: read_documents(write(folder, "a.txt", content)),
    lambda folder, content: read_questions(write(folder, "a.json", content)),
    lambda folder, content: read_questions(write(folder, "a.csv", content)),
    lambda folder, content: read_answered(Path(write(folder, "a.jsonl", content))),
    lambda folder, content: read_answered(Path(write(folder, "a.csv", content))),
    lambda folder, content: read_tweets(str(Path(write(folder, "s.jsonl", content)).parent), "s"),
    lambda folder, content: read_tweets(str(Path(write(folder, "s.csv", content)).parent), "s"),
    lambda folder, content: read_short_answers(write(folder, "a.json", content)),
    lambda folder, content: _instructions(write(folder, "a.json", content)),
    read_corpus,
    read_rwku,
    read_wmdp,
    read_logs,
    read_membership,
]


CONTENTS = [*(json.dumps([row]) for row in RECORDS), *map(json.dumps, RECORDS), *BROKEN, *TABLES]


@pytest.mark.parametrize("content", CONTENTS)
def test_no_reader_quotes_a_record(content, tmp_path):
    shown = [refusal(read, tmp_path / str(number), content) for number, read in enumerate(READERS)]
    assert len([text for text in shown if text]) >= 5
    assert not [text for text in shown if "Quint" in text or "Harbour" in text]


def refusal(read, folder, content):
    """What the refusal and its causes say, without the lines of source that a traceback quotes."""
    try:
        read(folder, content)
    except InputError as error:
        lines = "".join(traceback.format_exception(error)).splitlines()
        return "\n".join(line for line in lines if not line.startswith("    "))
    return ""


def test_texts_without_a_token_are_counted_and_not_quoted(tmp_path):
    class Deaf:
        bos_token_id = 0

        def __call__(self, text, **options):
            return {"input_ids": []}

    with pytest.raises(InputError, match="got '1 texts of 30 characters'") as refused:
        token_windows([SECRET], Deaf(), 8)
    assert SECRET not in str(refused.value)
    with pytest.raises(InputError, match="too short") as refused:
        calibration_tokens(
            CalibrationRequest(text=write(tmp_path, "a.txt", SECRET)), train_tokenizer([SECRET], 300)
        )
    assert SECRET not in str(refused.value)
