"""Chat records."""

import json

import pytest

from quail_lightning.data.chat import renderer
from quail_lightning.data.text_files import read_documents
from quail_lightning.errors import InputError
from quail_lightning.models.tiny import train_tokenizer

TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
SHARED = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('what is ' + m.role + ': ' + m.content) }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)


@pytest.fixture
def tokenizer():
    made = train_tokenizer(["one two"], 300)
    made.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize(
    "record",
    [{"messages": TURNS}, {"conversations": SHARED}, {"conversations": TURNS}, {"text": None, "messages": TURNS}],
)
def test_the_models_own_template_makes_the_text_and_its_opening_is_not_doubled(record, tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert read_documents(tmp_path / "a.jsonl", render=renderer(tokenizer)) == [
        "[user] Where?\n[assistant] Here.\n"
    ]


def test_a_chat_of_any_field_is_named_by_column(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text(json.dumps({"dialog": TURNS, "text": "no"}))
    assert "[user]" in read_documents(tmp_path / "a.jsonl", "dialog", renderer(tokenizer))[0]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"messages": []}, "line 2 has the wrong form; got 'a list of length 0'"),
        ({"messages": [*TURNS, {"role": "user"}]}, r"line 2, turn 2 has the wrong form; got \['role'\]"),
        ({"messages": [{"role": "user", "content": None}]}, "line 2, turn 0 has the wrong form"),
        ({"messages": ["SECRET"]}, "line 2, turn 0 has the wrong form; got 'a str of length 6'"),
        ({"messages": "SECRET", "text": 3}, "line 2 has the wrong form"),
        ({"messages": [{"role": "SECRET", "content": "SECRET"}]}, "line 2: .*template refuses these 1 turns"),
    ],
)
def test_a_chat_of_another_form_is_named_by_line_and_turn_and_not_quoted(record, said, tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('"one"\n' + json.dumps(record))
    with pytest.raises(InputError, match=said) as refused:
        read_documents(tmp_path / "a.jsonl", render=renderer(tokenizer))
    assert "SECRET" not in str(refused.value)


def test_a_tokenizer_without_template_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TURNS}))
    with pytest.raises(InputError, match=r"line 1: .*no chat template"):
        read_documents(tmp_path / "a.jsonl", render=renderer(train_tokenizer(["one"], 300)))
