"""Labelled tweets, real layouts and the invented set."""

import json
import os

import pytest

from quail_lightning.data import InventedTweets
from quail_lightning.data.tweets import Tweet, read_tweets
from quail_lightning.errors import InputError

ROWS = [{"text": "one, two", "label": 0}, {"text": "", "label": 1}, {"text": 'a "quoted"\nline', "label": 1}]
KEPT = (Tweet("one, two", 0), Tweet('a "quoted"\nline', 1))


def write(folder, kind):
    if kind == "jsonl":
        (folder / "forget.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    elif kind == "json":
        (folder / "forget.json").write_text(json.dumps([ROWS[0], {"text": None, "label": 1}, ROWS[2]]))
    elif kind == "csv":
        (folder / "forget.csv").write_text('text,label\n"one, two",0\n,1\n"a ""quoted""\nline",1\n')
    else:
        from pyarrow import Table, parquet

        (folder / "data").mkdir()
        parquet.write_table(Table.from_pylist(ROWS[:1]), folder / "data/forget-00000-of-00002.parquet")
        parquet.write_table(Table.from_pylist(ROWS[1:]), folder / "data/forget-00001-of-00002.parquet")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_layout_gives_the_same_tweets_and_counts_the_empty_ones(kind, tmp_path):
    write(tmp_path, kind)
    assert read_tweets(str(tmp_path), "forget") == (KEPT, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a", "label": 0}\n{"text": "b", "label": 2}', r"line 2 has the wrong form"),
        ('{"tweet": "a", "label": 0}', r"line 1 has the wrong form"),
        ('{"text": "a"}', r"line 1 has the wrong form"),
        ('["a", 0]', r"line 1 has the wrong form"),
        ('{"text": "a", "label": 0}\n{"text', r"line 2, column 2: not valid JSON"),
        ('{"text": " ", "label": 0}', r"holds no text"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(content, said, tmp_path):
    (tmp_path / "forget.jsonl").write_text(content)
    with pytest.raises(InputError, match=said):
        read_tweets(str(tmp_path), "forget")


def test_a_missing_split_and_a_missing_folder_say_where_was_looked(tmp_path):
    with pytest.raises(InputError, match=r"split 'retain1' is missing: .*retain1\.jsonl"):
        read_tweets(str(tmp_path), "retain1")
    with pytest.raises(InputError, match="no folder"):
        read_tweets(str(tmp_path / "nosuch"), "forget")


def test_without_a_network_the_file_and_where_to_put_it_are_named():
    with pytest.raises(InputError, match=r"could not be loaded from the hub.*FOLDER/forget\.jsonl.*data\.corpus"):
        read_tweets("nobody/no-such-tweets", "forget")


def test_the_invented_set_is_the_published_layout_and_repeats_to_the_byte(tmp_path):
    made = InventedTweets(forget=30, retain=40, holdout=10, empty=3)
    for name in ("a", "b"):
        made.ensure(tmp_path / name)
    for split, size, empty in (("forget", 30, 3), ("retain1", 40, 0), ("retain2", 10, 0)):
        tweets = read_tweets(str(tmp_path / "a"), split)
        assert (len(tweets.rows), tweets.empty) == (size, empty)
        assert {tweet.label for tweet in tweets.rows} == {0, 1}
        assert (tmp_path / "a" / f"{split}.jsonl").read_bytes() == (tmp_path / "b" / f"{split}.jsonl").read_bytes()
    splits = [read_tweets(str(tmp_path / "a"), split).rows for split in ("forget", "retain1", "retain2")]
    assert len({tweet.text for rows in splits for tweet in rows}) == 80
    made.ensure(tmp_path / "a")  # a second time changes nothing
    with pytest.raises(InputError, match=r"does not hold these tweets.*forget\.jsonl"):
        InventedTweets(forget=30, retain=40, holdout=10, empty=3, seed=1).ensure(tmp_path / "a")


def test_who_is_slower_than_another_process_takes_what_it_wrote(tmp_path, monkeypatch):
    made, rename = InventedTweets(forget=5, retain=5, holdout=5, empty=1), os.rename

    def overtaken(source, target):
        monkeypatch.setattr(os, "rename", rename)
        made.ensure(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    made.ensure(tmp_path / "tweets")
    assert [path.name for path in tmp_path.iterdir()] == ["tweets"]


def test_too_few_or_too_many_invented_tweets_are_refused():
    with pytest.raises(InputError, match="retain of the invented tweets must be at least 1; got 0"):
        InventedTweets(retain=0)
    with pytest.raises(InputError, match="not enough names"):
        InventedTweets(forget=5000)
