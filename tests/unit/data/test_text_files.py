"""A user's own files."""

import traceback

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


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.JsonLines", "a.json", "a.JSON"])
def test_lines_are_read_under_every_name(name, tmp_path):
    (tmp_path / name).write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\r\n')
    assert read_documents(tmp_path / name) == ["one", "two"]
    (tmp_path / name).write_text('"one"\n"two"')
    assert read_documents(tmp_path / name) == ["one", "two"]
    (tmp_path / name).write_text('[\n  {"text": "one"},\n  {"text": "two"}\n]\n')
    assert read_documents(tmp_path / name) == ["one", "two"]


def test_another_field_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"story": "one", "text": 3}\n"two"')
    assert read_documents(tmp_path / "a.jsonl", "story") == ["one", "two"]


@pytest.mark.parametrize("blank", ["\n", "\n \t\n", "\r\n \r\n", "\n\n\n", "\r\r", "\n\u00a0\n \n"])
def test_a_line_of_white_space_separates_documents(blank, tmp_path):
    (tmp_path / "a.txt").write_bytes(f"one\nmore{blank if blank != chr(10) else blank * 2}two".encode())
    assert read_documents(tmp_path / "a.txt") == ["one\nmore", "two"]


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "one"}\n{"text": "two"}\n',
        '{"text": "one"}\n\n{"text": "two"}\n\n{"text": "three',
        '[{"text": "one"}]',
        '{\n"text": "one"\n}',
        '{\n"text": "one"\n}\n{\n"text": "two"\n}\n',
        '{"text": "one"}\n{"text": "tw',
        '["one"]\n["two"]',
        "id,text\n1,one\n",
        "text\tlabel\none\t1\n",
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a", "a.MD"])
def test_records_under_the_name_of_a_text_are_refused(content, name, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(
        InputError, match=rf"{name} (holds JSON, not prose|begins as a table).*Let its name end in"
    ):
        read_documents(tmp_path / name)


@pytest.mark.parametrize(
    "content", ['"Who?"\n"I."', "[1] a note\n[2] another", "{text} is, so to say, text", "{} [] are", "Text, a"]
)
def test_prose_is_not_taken_for_records(content, tmp_path):
    (tmp_path / "a.txt").write_text(content)
    assert read_documents(tmp_path / "a.txt") == [content]


@pytest.mark.parametrize(
    "name", ["a.docx", "a.pdf", "a.jsonl.gz", "a.html", "a.yaml", "a.xlsx", "a.JSON5", "a.arrow"]
)
def test_other_endings_are_refused_by_name_with_what_is_allowed(name, tmp_path):
    (tmp_path / name).write_text("one")
    ending = name[name.rindex(".") :]
    with pytest.raises(
        InputError, match=rf"not known here; got '{ending}'. Allowed: \.txt.*\.parquet.*end in \.txt"
    ):
        read_documents(tmp_path / name)


def test_records_without_text_are_left_out_and_counted(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text('"one"\n{"text": " "}\n{"text": ""}')
    with caplog.at_level("INFO"):
        assert read_documents(tmp_path / "a.jsonl") == ["one"]
    assert "2 records without text left out (the first: " in caplog.text
    assert "a.jsonl, line 2)" in caplog.text


def test_questions_are_pairs(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "a?", "answer": "b"}')
    assert read_questions(tmp_path / "q.jsonl") == (Question("a?", "b"),)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'"fine"\n\n{"text": 3}', r"a\.jsonl, line 3 has the wrong form; got \['text'\].*string text"),
        ("a.jsonl", b'"fine"\n{', r"a\.jsonl, line 2, column 2: not valid JSON"),
        ("a.json", b'[\n"fine",\noops]', r"a\.json, line 3, column 1: not valid JSON"),
        ("a.json", b'{"rows": [\n{"text": "a"}]}', r"a\.json, record 0 has the wrong form; got \['rows'\]"),
        ("a.jsonl", b'"a"\n{"text": "SECRET \\ud800"}', r"a\.jsonl, line 2 holds half of a surrogate pair"),
        ("a.json", b'["a", {"text": "SECRET", "b": "\\udfff"}]', r"a\.json, record 1 holds half of a surrogate"),
        ("a.jsonl", b'"SECRET \\u0000"', r"a\.jsonl, line 1 holds a NUL"),
        ("a.jsonl", b'{"SECRET key": "SECRET"}', r"a\.jsonl, line 1 has the wrong form; got \['1 other fields'\]"),
        ("a.jsonl", b'{"text": ["SECRET"]}', r"a\.jsonl, line 1, turn 0 has the wrong form"),
        ("a.jsonl", b'{"text": null}', r"a\.jsonl, line 1 has the wrong form"),
        ("a.jsonl", b'"a"\n' + b"[" * 100_000, r"a\.jsonl, line 2"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", r"a\.jsonl, line 1: JSON that cannot be read"),
        ("a.jsonl", b"SECRET prose\nand more", r"a\.jsonl, line 1, column 1: not valid JSON"),
        ("a.jsonl", b"\n \n", r"a\.jsonl holds no record"),
        ("a.txt", b"\n \n", r"a\.txt holds no text"),
        ("a.txt", b"fine\n\xff", r"a\.txt, line 2: not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        read_documents(tmp_path / name)
    assert "SECRET" not in "".join(traceback.format_exception(refused.value))


def test_a_missing_file_and_a_pair_without_answer_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nosuch\.txt"):
        read_documents(tmp_path / "nosuch.txt")
    (tmp_path / "q.jsonl").write_text('{"question": "a?", "answer": "b"}\n{"question": "a?"}')
    with pytest.raises(InputError, match=r"q\.jsonl, line 2 .*question and answer"):
        read_questions(tmp_path / "q.jsonl")
    (tmp_path / "q.txt").write_text("a?")
    with pytest.raises(InputError, match=r"q\.txt is neither \.json nor \.jsonl"):
        read_questions(tmp_path / "q.txt")
