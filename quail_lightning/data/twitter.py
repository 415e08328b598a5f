"""Twitter misinformation as a DataModule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.invented_tweets import InventedTweets
from quail_lightning.data.overlap import comparable
from quail_lightning.data.questions import EvaluationRecords, LabelledTexts, MembershipTexts, VerbatimPrompt
from quail_lightning.data.served import Served, ServedDataModule
from quail_lightning.data.sets import (
    Documents,
    Windows,
    check_sizes,
    cut_sets,
)
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.data.tweets import HUB_NAME, Tweet, read_tweets
from quail_lightning.errors import InputError

LABEL_LINE = "\nLabel:"  # between a tweet and the name of its class
FEWEST_TOKENS = 4  # of a tweet that is continued or attacked: two for the prompt, three for Min-40 %


class TwitterDataModule(ServedDataModule):
    """Forget/retain windows of labelled tweets, and their evaluation records.

    A training document is a tweet with its class below it (``Label: misinformation``). Verbatim recall continues
    the first half of each forget tweet; the response counts up to the label line or the blank line that ends the
    tweet.
    Forget and retain tweets are classified by which verbalizer is likelier there.

    Args:
        corpus: hub name, or a folder with a file for each split.
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        max_len: tokens a window, BOS included.
        batch_size: windows of each kind in one optimizer step (on each device).
        forget: split of what is to be forgotten.
        retain: splits of what is to be kept; tweets that also stand in the forget split are dropped.
        holdout: split that no model was trained on, for M3; None leaves M3 out.
        with_labels: whether the class stands below each tweet; without it a model is asked for what it never saw.
        verbalizers: names of class 0 and 1.
        rounds: how often each tweet stands in the training text, among other neighbours each time. A small
            model recites a tweet only among the neighbours it has read it with.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
        invented: write this invented set into the folder ``corpus`` if it is not there yet.
    """

    def __init__(
        self,
        corpus: str = HUB_NAME,
        tokenizer: str | None = None,
        max_len: int = 512,
        batch_size: int = 2,
        forget: str = "forget",
        retain: tuple[str, ...] = ("retain1",),
        holdout: str | None = "retain2",
        with_labels: bool = True,
        verbalizers: tuple[str, str] = ("factual", "misinformation"),
        rounds: int = 1,
        schedule: Schedule = "alternate",
        seed: int = 42,
        invented: InventedTweets | None = None,
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, None, None)
        if rounds < 1:
            raise InputError("data.rounds must be at least 1", given=rounds)
        if not all(verbalizers) or verbalizers[0] == verbalizers[1]:
            raise InputError("data.verbalizers must be two different words", given=verbalizers)
        self.corpus_name, self.tokenizer_name, self.invented = corpus, tokenizer, invented
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.forget_split, self.retain_splits, self.holdout_split = forget, tuple(retain), holdout
        self.with_labels, self.verbalizers, self.rounds = with_labels, (verbalizers[0], verbalizers[1]), rounds
        # every tweet is used: records and windows are of the same ones
        self.max_forget_windows: int | None = None
        self.max_retain_windows: int | None = None

    def check(self, with_records: bool = True) -> None:
        """See that every split that will be read exists and is well formed.

        Args:
            with_records: False leaves the holdout out, which training alone does not read.

        Raises:
            InputError: naming the split and where it was looked for, or file and line.
        """
        self._sets()
        if with_records and self.holdout_split is not None:
            read_tweets(self.corpus_name, self.holdout_split)

    def training_documents(self) -> Documents:
        """Every tweet with its label line, ``rounds`` times, each round in an order of its own."""
        forget, retain, dropped, _ = self._sets()
        return Documents(self._documents(forget), self._documents(retain), dropped)

    def holdout_documents(self) -> list[str] | None:
        """The holdout's tweets, without labels; None where no split was named."""
        if self.holdout_split is None:
            return None
        return [tweet.text for tweet in read_tweets(self.corpus_name, self.holdout_split).rows]

    def cut_windows(self, tokenizer: Any) -> Windows:
        """The windows of both sets under ``tokenizer``."""
        documents = self.training_documents()
        if documents.dropped:
            rank_zero_info(f"retain: {documents.dropped} tweets left out that also stand in the sets before it")
        return cut_sets(documents, tokenizer, self.max_len)

    def prepare_data(self) -> None:
        self.check()

    def setup(self, stage: str) -> None:
        tokenizer = named_tokenizer(self.tokenizer_name)
        windows, records = self.cut_windows(tokenizer), self._make_records(tokenizer)
        self.served = Served(tokenizer, windows, windows, records, self.batch_size, self.schedule, self.seed)

    def records_alone(self) -> EvaluationRecords | None:
        """None: they are the training text."""
        return None

    def _sets(self) -> tuple[list[Tweet], list[Tweet], int, int]:
        """Forget tweets, retain tweets, how many of those were dropped, how many empty rows there were."""
        if self.invented is not None:
            self.invented.ensure(Path(self.corpus_name))
        forget = read_tweets(self.corpus_name, self.forget_split)
        seen = {comparable(tweet.text) for tweet in forget.rows}
        retain, dropped, empty = list[Tweet](), 0, forget.empty
        for split in self.retain_splits:
            part = read_tweets(self.corpus_name, split)
            new = [tweet for tweet in part.rows if comparable(tweet.text) not in seen]
            dropped, empty = dropped + len(part.rows) - len(new), empty + part.empty
            retain += new
            seen.update(comparable(tweet.text) for tweet in new)
        if not retain:
            raise InputError(
                "no retain tweet is left after those of the forget split were dropped",
                given=list(self.retain_splits),
                remedy="Name retain splits that differ from the forget split",
            )
        return list(forget.rows), retain, dropped, empty

    def _documents(self, tweets: Sequence[Tweet]) -> list[str]:
        documents = [self._asked(tweet) + f" {self.verbalizers[tweet.label]}" for tweet in tweets]
        if not self.with_labels:
            documents = [tweet.text for tweet in tweets]
        # the text itself does not depend on the run's seed: a target made once serves every run
        order = random.Random("order of the tweets")
        later = [document for _ in range(1, self.rounds) for document in order.sample(documents, len(documents))]
        return documents + later

    @staticmethod
    def _asked(tweet: Tweet) -> str:
        return tweet.text + LABEL_LINE

    def _labelled(self, tweets: Sequence[Tweet]) -> LabelledTexts:
        return LabelledTexts(
            tuple(map(self._asked, tweets)),
            tuple(tweet.label for tweet in tweets),
            (f" {self.verbalizers[0]}", f" {self.verbalizers[1]}"),
        )

    def _make_records(self, tokenizer: Any) -> EvaluationRecords:
        forget, retain, _, empty = self._sets()
        stops = (LABEL_LINE,) if self.with_labels else ("\n\n",)
        prompts = [VerbatimPrompt(*halves, stops) for tweet in forget if (halves := _halves(tweet, tokenizer))]
        short = len(forget) - len(prompts)
        membership = None
        if self.holdout_split is not None:
            held = read_tweets(self.corpus_name, self.holdout_split)
            empty += held.empty
            membership = MembershipTexts(*(_long_enough(part, tokenizer) for part in (forget, retain, held.rows)))
        notes = [
            f"Verbatim recall continues the first half of each tweet to its end; {empty} empty rows were left out"
            + (f", and {short} tweets of fewer than {FEWEST_TOKENS} tokens." if short else "."),
            "" if membership else "Membership leak is left out: no data.holdout was given.",
        ]
        return EvaluationRecords(
            verbatim=tuple(prompts),
            membership=membership,
            forget_labels=self._labelled(forget),
            retain_labels=self._labelled(retain),
            note=" ".join(filter(None, notes)),
        )


def _tokens(tweet: Tweet, tokenizer: Any) -> list[int]:
    return list(tokenizer(tweet.text, add_special_tokens=False, verbose=False)["input_ids"])


def _halves(tweet: Tweet, tokenizer: Any) -> tuple[str, str] | None:
    """The first half of the tweet's tokens and the rest; None where there are too few."""
    tokens = _tokens(tweet, tokenizer)
    if len(tokens) < FEWEST_TOKENS:
        return None
    half = len(tokens) // 2
    first, rest = (tokenizer.decode(part, skip_special_tokens=True) for part in (tokens[:half], tokens[half:]))
    return first, rest


def _long_enough(tweets: Sequence[Tweet], tokenizer: Any) -> tuple[str, ...]:
    return tuple(tweet.text for tweet in tweets if len(_tokens(tweet, tokenizer)) >= FEWEST_TOKENS)
