"""The corpora that RMU forgets and keeps for WMDP, as a DataModule."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, get_args

from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.data.served import Served, ServedDataModule
from quail_lightning.data.sets import Documents, Windows, check_sizes, disjoint_documents, say_overlap
from quail_lightning.data.tokenizer import named_tokenizer
from quail_lightning.data.windows import document_windows
from quail_lightning.data.wmdp_corpus import HUB_NAME, WIKITEXT, Domain, Retained, WmdpCorpus
from quail_lightning.errors import InputError, check_choice


class WmdpDataModule(ServedDataModule):
    """Hazardous texts to forget and harmless ones to keep (Li et al. 2024, "The WMDP Benchmark").

    Each document is one window, its first tokens, as in RMU's published code; what is behind them is left out.
    The domains take turns, a document each, so that the first windows are of all of them alike. The corpora ask
    nothing: WMDP's questions are tasks of the LM Evaluation Harness (``evaluation.suite.forget_tasks``).

    Args:
        corpus: hub name, or a folder with a file for each part (see ``WmdpCorpus``).
        tokenizer: folder or hub name; the command line takes it from ``model.target``.
        domains: what is to be forgotten: ``bio``, ``cyber`` or both.
        retain: what is to be kept: ``wikitext``, the test split of WikiText-2, as published; ``domains``, harmless
            texts of the same domains.
        bio_forget: file of the gated forget corpus of ``bio``, in place of the hub's or the folder's.
        min_characters: documents must be longer.
        max_len: tokens of a window, its opening included.
        batch_size: windows of each kind in one optimizer step (on each device).
        max_forget_windows: use only the first so many forget windows; None for all.
        max_retain_windows: likewise for the retain set.
        schedule: order of the steps; the command line takes it from ``model.schedule``.
        seed: of the windows' order; the command line takes it from ``seed_everything``.
    """

    def __init__(
        self,
        corpus: str = HUB_NAME,
        tokenizer: str | None = None,
        domains: tuple[Domain, ...] = ("bio", "cyber"),
        retain: Retained = "wikitext",
        bio_forget: str | None = None,
        min_characters: int = 50,
        max_len: int = 512,
        batch_size: int = 4,
        max_forget_windows: int | None = None,
        max_retain_windows: int | None = None,
        schedule: Schedule = "alternate",
        seed: int = 42,
    ) -> None:
        super().__init__()
        check_sizes(max_len, batch_size, max_forget_windows, max_retain_windows)
        check_choice("data.retain", retain, get_args(Retained))
        for domain in domains:
            check_choice("data.domains", domain, get_args(Domain))
        if not domains or len({*domains}) < len(domains):
            raise InputError("data.domains must name each domain once", given=list(domains), allowed="bio, cyber")
        if min_characters < 0:
            raise InputError("data.min_characters must not be negative", given=min_characters)
        if bio_forget is not None and "bio" not in domains:
            raise InputError(
                "data.bio_forget names a corpus that data.domains leaves out",
                given=bio_forget,
                remedy="Add bio to data.domains, or leave data.bio_forget out",
            )
        self.corpus_name, self.tokenizer_name, self.bio_forget = corpus, tokenizer, bio_forget
        self.domains, self.retained, self.min_characters = tuple(domains), retain, min_characters
        self.max_len, self.batch_size, self.schedule, self.seed = max_len, batch_size, schedule, seed
        self.max_forget_windows, self.max_retain_windows = max_forget_windows, max_retain_windows

    def check(self, with_records: bool = True) -> None:
        """See that every part that will be read exists and is well formed.

        Args:
            with_records: decides nothing here: there are no records.

        Raises:
            InputError: naming the part and where it was looked for, or file and line.
        """
        self.training_documents()

    def training_documents(self) -> Documents:
        """The documents that windows are cut from; none of the retain set also stands in the forget set.

        Raises:
            InputError: a part that cannot be read, or no retain document is left.
        """
        forget = self._documents([f"{domain}-forget-corpus" for domain in self.domains], self.max_forget_windows)
        kept = [WIKITEXT]
        if self.retained == "domains":
            kept = [f"{domain}-retain-corpus" for domain in self.domains]
        documents = disjoint_documents(forget, [self._documents(kept, self.max_retain_windows)])
        if not documents.retain:
            raise InputError(
                "no retain document is left after those of the forget set were dropped",
                given=", ".join(kept),
                remedy="The two sets must differ",
            )
        return documents

    def holdout_documents(self) -> None:
        """WMDP has no holdout."""

    def cut_windows(self, tokenizer: Any) -> Windows:
        """One window a document, of both sets, under ``tokenizer``."""
        documents = self.training_documents()
        say_overlap(documents)
        return Windows(
            document_windows(documents.forget, tokenizer, self.max_len),
            document_windows(documents.retain, tokenizer, self.max_len),
        )

    def prepare_data(self) -> None:
        self.check()

    def setup(self, stage: str) -> None:
        tokenizer = named_tokenizer(self.tokenizer_name)
        windows, records = self.cut_windows(tokenizer), self.records_alone()
        self.served = Served(tokenizer, windows, windows, records, self.batch_size, self.schedule, self.seed)

    def records_alone(self) -> EvaluationRecords:
        """None of any kind, and a note that says so."""
        about = f"WMDP, {' and '.join(self.domains)}: its questions are tasks of the LM Evaluation Harness."
        return EvaluationRecords(note=about)

    def _documents(self, parts: list[str], most: int | None) -> list[str]:
        """The first ``most`` documents, of each part in turn."""
        corpus = WmdpCorpus(self.corpus_name, self.bio_forget)
        found = [corpus.texts(part, self.min_characters, most) for part in parts]
        in_turn = (text for turn in zip_longest(*found) for text in turn if text is not None)
        return list(in_turn)[:most]
