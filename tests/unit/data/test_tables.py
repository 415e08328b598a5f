"""Rows of CSV and Parquet."""

import pytest

from quail_lightning.data.text_files import read_documents, read_questions
from quail_lightning.errors import InputError

LONG = "many words " * 20_000  # beyond the 128 KiB that Python's reader takes by itself


def write_parquet(path, rows):
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,text\n1,"one, two\r\nthree"\n\n2,"a ""b"""\n'),
        ("a.CSV", '\ufeffid;text\r\n1;"one, two\nthree"\r\n2;"a ""b"""\r\n'),
        ("a.tsv", 'id\ttext\n1\t"one, two\nthree"\n2\t"a ""b"""'),
    ],
)
def test_rows_are_documents_whatever_stands_between_the_fields(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    assert read_documents(tmp_path / name) == ["one, two\nthree", 'a "b"']


def test_a_text_stays_what_it_is(tmp_path):
    (tmp_path / "a.csv").write_text(f"text\n007\nNA\n{LONG}\n")
    assert read_documents(tmp_path / "a.csv") == ["007", "NA", LONG]


def test_a_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("story,text\none,x\n")
    write_parquet(tmp_path / "a.parquet", [{"story": "one", "text": "x"}])
    for name in ("a.csv", "a.parquet"):
        assert read_documents(tmp_path / name, "story") == ["one"]
        assert read_documents(tmp_path / name) == ["x"]


def test_parquet_holds_texts_chats_and_questions(tmp_path):
    write_parquet(tmp_path / "a.Parquet", [{"text": "one"}, {"text": "two\n\n2"}])
    assert read_documents(tmp_path / "a.Parquet") == ["one", "two\n\n2"]
    write_parquet(tmp_path / "c.parquet", [{"messages": [{"role": "user", "content": "Hi"}]}])
    assert read_documents(tmp_path / "c.parquet", render=lambda turns: turns[0]["content"]) == ["Hi"]
    write_parquet(tmp_path / "q.parquet", [{"question": "a?", "answer": "b"}])
    assert read_questions(tmp_path / "q.parquet")[0].answer == "b"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text\none\ntwo, and three\n", r"a\.csv, line 3: a row of 2 fields under a header of 1"),
        ("a.csv", b'text\n"one\n2"\n\n"two', r"a\.csv, line 5: not valid CSV"),
        ("a.csv", b"Alice lives here\nBob\n", r"a\.csv has no column 'text'.*data\.column.*first line"),
        ("a.csv", b'{"text": "one"}\n{"text": "two"}\n', r"a\.csv has no column 'text'"),
        ("a.csv", b"text,text\none,two\n", r"two columns of the same name"),
        ("a.csv", b"text\n", r"a\.csv holds no record"),
        ("a.csv", b"", r"a\.csv has no column 'text'"),
        ("a.csv", "text\né".encode("latin-1"), r"a\.csv, line 2: not UTF-8"),
        ("a.csv", b"PAR1\0\0", "it is Parquet"),
        ("a.parquet", b"text\none\n", r"a\.parquet is no whole Parquet file"),
        ("a.parquet", b"PAR1" + bytes(40) + b"PAR1", r"a\.parquet is no whole Parquet file"),
    ],
)
def test_a_bad_table_is_named_with_its_line(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_documents(tmp_path / name)


def test_rows_without_a_string_are_named(tmp_path):
    for value in (None, 3):
        write_parquet(tmp_path / "a.parquet", [{"id": 1, "text": value}, {"id": 2, "text": value}])
        with pytest.raises(InputError, match=r"a\.parquet, row 0 has the wrong form; got \['text'\]"):
            read_documents(tmp_path / "a.parquet")


def test_no_copy_of_the_text_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "a.csv").write_text("text\none\n")
    write_parquet(tmp_path / "a.parquet", [{"text": "one"}])
    for name in ("a.csv", "a.parquet"):
        read_documents(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.csv", "a.parquet"]
