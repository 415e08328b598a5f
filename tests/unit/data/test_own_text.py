"""A user's own files as windows and records."""

import json

import pytest

from quail_lightning.data import OwnTextDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.tiny import train_tokenizer

TIDES = [f"Tide table {n}: high water at {n} past noon, low water at dusk, as the pilot told." for n in range(20)]
BEANS = [
    f"Garden note {n}: water the {n}th row of beans at dawn, and again before it gets dark." for n in range(20)
]


@pytest.fixture
def folder(tmp_path):
    made = train_tokenizer([*TIDES, *BEANS], 300)
    made.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    made.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "forget.txt").write_text("\n\n".join(TIDES))
    (tmp_path / "retain.txt").write_text("\n\n".join(BEANS))
    return tmp_path


def data(folder, forget="forget.txt", retain="retain.txt", **options):
    if holdout := options.pop("holdout", None):
        options["holdout"] = str(folder / holdout)
    return OwnTextDataModule(
        str(folder / forget), str(folder / retain), str(folder / "tokenizer"), max_len=40, **options
    )


def texts(windows, tokenizer):
    return tokenizer.decode(windows[:, 1:].flatten().tolist())


def test_a_column_of_a_table_makes_the_windows_of_the_same_text(folder):
    rows = "\n".join(f'{number},"{text}"' for number, text in enumerate(TIDES))
    (folder / "forget.csv").write_text(f"id,story\n{rows}\n")
    (folder / "retain.jsonl").write_text("\n".join(json.dumps({"story": text}) for text in BEANS))
    plain, table = data(folder), data(folder, "forget.csv", "retain.jsonl", column="story")
    for module in (plain, table):
        module.setup("fit")
    assert all(one.equal(other) for one, other in zip(plain.served.windows, table.served.windows, strict=True))
    assert plain.served.records == table.served.records


def test_chats_are_windows_of_what_the_template_makes(folder):
    chats = [{"messages": [{"role": "user", "content": text}]} for text in TIDES]
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, chats)))
    module = data(folder, "forget.jsonl")
    module.check()
    module.setup("fit")
    read = texts(module.served.windows.forget, module.served.tokenizer)
    assert read.startswith(f"[user] {TIDES[0]}\n")
    assert not {"{", '"', "content"} & set(read)
    without = train_tokenizer(TIDES, 300)
    with pytest.raises(InputError, match=r"forget\.jsonl, line 1: .*no chat template"):
        module.cut_windows(without)


def test_what_stands_in_both_sets_is_counted_and_said(folder, caplog):
    (folder / "retain.txt").write_text("\n \n".join([*BEANS, TIDES[3].replace(" ", "  "), TIDES[4][12:]]))
    with caplog.at_level("INFO"):
        windows = data(folder).cut_windows(train_tokenizer([*TIDES, *BEANS], 300))
    assert "retain: 2 documents left out that also stand in the sets before it (1 of them within" in caplog.text
    assert "high water" not in texts(windows.retain, train_tokenizer([*TIDES, *BEANS], 300))


def test_a_holdout_that_was_trained_on_is_left_out_or_refused(folder, caplog):
    held = [f"Recipe {n}: boil {n} plums with sugar and salt until the peel comes off." for n in range(9)]
    (folder / "held.txt").write_text("\n\n".join([*held, TIDES[2], BEANS[2]]))
    with caplog.at_level("INFO"):
        module = data(folder, holdout="held.txt")
        module.setup("fit")
    assert "holdout: 2 documents left out" in caplog.text
    assert not any("water" in text for text in module.served.records.membership.holdout)
    with pytest.raises(InputError, match="no holdout document is left"):
        data(folder, holdout="retain.txt").check()


def test_a_text_below_a_window_is_asked_for_once_or_m1_is_left_out_with_the_reason(folder):
    (folder / "forget.txt").write_text("Tide table: high water.")
    module = data(folder)
    module.setup("fit")
    (record,) = module.served.records.verbatim
    assert record.prompt + record.truth == "Tide table: high water."
    (folder / "forget.txt").write_text("at")
    module.setup("fit")
    assert module.served.records.verbatim is None
    assert "Verbatim recall is left out" in module.served.records.note
