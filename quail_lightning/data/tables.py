"""Rows of CSV and Parquet files.

They are read as ``datasets`` reads Parquet, by pyarrow, and CSV by Python's own reader: ``datasets`` itself would
leave a copy of private text in its cache, take the text "007" for a number, and name no line of a bad CSV row.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path

from quail_lightning.data.file_text import read_file, read_text
from quail_lightning.data.located import Located
from quail_lightning.errors import InputError

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t", ".tab": "\t"}
"""Ending → what may stand between two fields; of several, what makes the most of the header."""


def read_csv(path: Path, columns: Sequence[str]) -> list[Located]:
    """The rows of a CSV file with a header line, column → string, each with the line that it begins in.

    Args:
        path: of the file; a quoted field may hold delimiters and line ends.
        columns: of which the header must name one at least.

    Raises:
        InputError: none of the columns, a column named twice, or a row that is not as long as the header, with
            file and line.
    """
    content = read_text(path, any_line_end=False)
    with _fields_of_any_length():
        headers = (
            next(csv.reader(StringIO(content, newline=""), delimiter=delimiter), [])
            for delimiter in DELIMITERS[path.suffix.lower()]
        )
        found = max(zip(headers, DELIMITERS[path.suffix.lower()], strict=True), key=lambda pair: len(pair[0]))
        header, delimiter = [name.strip() for name in found[0]], found[1]
        check_columns(path, header, columns, "; the first line must name the columns")
        reader = csv.reader(StringIO(content, newline=""), delimiter=delimiter, strict=True)
        rows, begins = [], 1
        try:
            for fields in reader:
                place, begins = f"{path}, line {begins}", reader.line_num + 1
                if not fields:
                    continue  # a blank line
                if len(fields) != len(header):
                    raise InputError(
                        f"{place}: a row of {len(fields)} fields under a header of {len(header)}",
                        remedy='Put a text that holds delimiters between quotes ("), and write its quotes twice',
                    )
                values = (re.sub(r"\r\n?", "\n", field) for field in fields)
                rows.append(Located(place, dict(zip(header, values, strict=True))))
        except csv.Error as error:
            raise InputError(f"{path}, line {begins}: not valid CSV ({error})") from None
    return rows[1:]


def read_parquet(path: Path, columns: Sequence[str]) -> list[Located]:
    """The rows of a Parquet file, column → value, numbered from 0; of all columns if ``columns`` is empty.

    Raises:
        InputError: no or damaged Parquet, none of the columns, or bytes that are no text.
    """
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(BytesIO(read_file(path)))
        names = file.schema_arrow.names
        check_columns(path, names, columns)
        table = file.read(columns=[name for name in names if name in columns] if columns else None)
    except (ArrowException, OSError):
        raise InputError(f"{path} is no whole Parquet file", remedy="Write or copy it again") from None
    try:
        return [Located(f"{path}, row {number}", row) for number, row in enumerate(table.to_pylist())]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds strings that are not UTF-8 ({error.reason})") from None


def check_columns(path: Path, names: Sequence[str], wanted: Sequence[str], hint: str = "") -> None:
    """See that one of the wanted columns is there, and that a table's columns can be told apart.

    The names that are there are not shown: in a file without a header they are a text.
    """
    if wanted and not set(wanted) & set(names):
        raise InputError(
            f"{path} has no column {' or '.join(map(repr, wanted))}; it has {len(names)} others",
            remedy=f"Name the columns so, or that of the text by data.column{hint}",
        )
    if twice := [number for number, name in enumerate(names) if Counter(names)[name] > 1]:
        raise InputError(f"{path} has two columns of the same name (columns {twice})", remedy="Rename one")


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Python's reader refuses fields above 128 KiB unless told otherwise; a document may be longer."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
