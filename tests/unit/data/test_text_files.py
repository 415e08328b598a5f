"""A user's own files."""

import pytest

from quail_lightning.data.questions import Question
from quail_lightning.data.text_files import read_documents, read_questions
from quail_lightning.errors import InputError


def test_text_is_cut_at_blank_lines_whatever_the_line_ends(tmp_path):
    path = tmp_path / "my.txt"
    path.write_bytes("\ufeffone\r\nmore\r\n\r\ntwo\n\n \n\nthree".encode())
    assert read_documents(path) == ["one\nmore", "two", "three"]


def test_json_lines_hold_strings_or_objects_and_blank_lines_do_not_count(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text('"one"\n\n{"text": "t\u2028wo", "id": 3}\n{"text": "  "}\n')
    assert read_documents(path) == ["one", "t\u2028wo"]


def test_json_lists_are_read(tmp_path):
    (tmp_path / "my.json").write_text('["one", {"text": "two"}]')
    assert read_documents(tmp_path / "my.json") == ["one", "two"]


def test_questions_are_pairs(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "a?", "answer": "b"}')
    assert read_questions(tmp_path / "q.jsonl") == (Question("a?", "b"),)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'"fine"\n\n{"text": 3}', r"a\.jsonl, line 3 has the wrong form; got \['text'\].*string text"),
        ("a.jsonl", b'"fine"\n{', r"a\.jsonl, line 2, column 2: not valid JSON"),
        ("a.json", b'[\n"fine",\noops]', r"a\.json, line 3, column 1: not valid JSON"),
        ("a.json", b'{"text": "a"}', r"a\.json must hold a list of records; got 'dict'"),
        ("a.jsonl", b"\n \n", r"a\.jsonl holds no record"),
        ("a.txt", b"\n \n", r"a\.txt holds no text"),
        ("a.txt", b"fine\n\xff", r"a\.txt, line 2: not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_documents(tmp_path / name)


def test_a_missing_file_and_a_pair_without_answer_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nosuch\.txt"):
        read_documents(tmp_path / "nosuch.txt")
    (tmp_path / "q.jsonl").write_text('{"question": "a?", "answer": "b"}\n{"question": "a?"}')
    with pytest.raises(InputError, match=r"q\.jsonl, line 2 .*question and answer"):
        read_questions(tmp_path / "q.jsonl")
    (tmp_path / "q.txt").write_text("a?")
    with pytest.raises(InputError, match=r"q\.txt is neither \.json nor \.jsonl"):
        read_questions(tmp_path / "q.txt")
