import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.errors import InputError

SETS = {"retain": torch.arange(200).reshape(5, 40), "forget": torch.arange(1000, 1200).reshape(5, 40)}
# sha256sum of the files as the packages that PROVENANCE.md names carry them
SHIPPED = {
    "alice.txt": "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0",
    "constitution.txt": "e398fe77f26f1ba6ea7ccc6e6f0b0c91c6de08ec7f1e5efa6be60dd39ccce4e6",
    "declaration.txt": "5901585a2ff579de7ba4b8fb15ba46e96f5523fb667546042055e8aea3a2d48e",
}


class Letters:
    """A tokenizer with one token a character."""

    bos_token_id: int | None = 7

    def __call__(self, text, add_special_tokens, verbose):
        assert not add_special_tokens or text == "a"  # which is asked for the opening
        return {"input_ids": [ord(character) for character in text]}


class LettersWithoutBos(Letters):
    bos_token_id = None


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_text_is_what_its_provenance_says(name: str) -> None:
    shipped = (files("quail_lightning.data") / "general_text" / name).read_bytes()
    # a checkout may have changed the line ends
    ends = shipped if b"\r\n" in shipped or name != "alice.txt" else shipped.replace(b"\n", b"\r\n")
    assert hashlib.sha256(ends).hexdigest() == SHIPPED[name]


def test_the_general_text_is_the_default_and_holds_more_than_the_default_asks_for() -> None:
    tokens = calibration_tokens(CalibrationRequest(), Letters(), 4096, SETS)
    assert tokens.shape == (64, 512)
    assert tokens.dtype == torch.int64
    assert set(tokens[:, 0].tolist()) == {7}
    assert "".join(map(chr, tokens[0, 1:31].tolist())) == "ALICE'S ADVENTURES IN WONDERLA"


def test_lines_of_a_paragraph_are_joined_and_paragraphs_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"  one\r\n  two\r\n\r\n\r\nthree  four\n")
    request = CalibrationRequest(windows=1, length=18, text=str(path))
    tokens = calibration_tokens(request, LettersWithoutBos())
    assert "".join(map(chr, tokens[0].tolist())) == "one two\nthree four"


def test_windows_are_spread_over_the_text_and_no_token_is_shown_twice(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abcdefghijklmnopqr")  # six windows of BOS and three
    tokens = calibration_tokens(CalibrationRequest(windows=3, length=4, text=str(path)), Letters())
    assert ["".join(map(chr, row[1:].tolist())) for row in tokens] == ["abc", "ghi", "mno"]


def test_a_model_with_few_positions_gets_shorter_windows() -> None:
    assert calibration_tokens(CalibrationRequest(windows=2), Letters(), 64).shape == (2, 64)


@pytest.mark.parametrize(("source", "first"), [("retain", 0), ("forget", 1000)])
def test_a_set_is_used_only_when_it_is_named(source: str, first: int) -> None:
    tokens = calibration_tokens(CalibrationRequest(source=source, windows=5, length=20), Letters(), 64, SETS)
    # ten halves of five windows; every second one is taken
    assert tokens[:, 0].tolist() == [first + 40 * number for number in range(5)]
    assert tokens.shape == (5, 20)


@pytest.mark.parametrize("source", ["retain", "forget"])
def test_a_set_without_a_corpus_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=r"needs a corpus.*source: general"):
        calibration_tokens(CalibrationRequest(source=source), Letters(), 64)


def test_a_text_that_is_too_short_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abcdefghij")
    with pytest.raises(InputError, match=r"too short.*holds 3 windows of 4 tokens.*windows: 4.*lower"):
        calibration_tokens(CalibrationRequest(windows=4, length=4, text=str(path)), Letters())
    with pytest.raises(InputError, match=r"too short.*retain.*holds 5 windows of 40 tokens"):
        calibration_tokens(CalibrationRequest(source="retain", windows=6), Letters(), 64, SETS)


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    with pytest.raises(InputError, match="holds no text"):
        calibration_tokens(CalibrationRequest(text=str(tmp_path / "text")), Letters())


def test_a_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("Fédération".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        calibration_tokens(CalibrationRequest(text=str(tmp_path / "text")), Letters())


def test_records_calibrate_by_their_text_and_not_by_their_braces(tmp_path: Path) -> None:
    path = tmp_path / "text.JSONL"
    path.write_text('{"text": "abcd"}\n{"text": "efgh"}')
    found = calibration_tokens(CalibrationRequest(windows=3, length=4, text=str(path)), Letters())
    assert {ord(letter) for letter in '{}":'}.isdisjoint(found.flatten().tolist())


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"windows": 0}, "windows must be at least 1"),
        ({"length": 1}, "length must be at least 2"),
        ({"text": "nowhere.txt"}, "names no file"),
        ({"text": "nowhere.txt", "source": "retain"}, "drop it"),
    ],
)
def test_impossible_requests_are_refused(options: dict, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        CalibrationRequest(**options)


def test_the_description_names_the_source() -> None:
    assert "forget set" in CalibrationRequest(source="forget").describe()
    assert "public-domain" in CalibrationRequest().describe()
