"""M3's membership attack: can it be told that the forget set was trained on?"""

from __future__ import annotations

from types import MappingProxyType

from quail_lightning.evaluation.attacks import REPORTED, attack_scores
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.privleak import MembershipAUC, min_k, shortest_text
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.run.results import Measure


class Membership:
    """AUC of Min-40 % on holdout against forget texts (MUSE), which PrivLeak restates."""

    name = "membership"
    version = 1
    reads = ("membership",)
    options = ("attacks", "max_texts")
    by_responses = False
    labels = MappingProxyType(
        {"membership_auc": MetricLabel("Membership AUC", "", "none", "membership AUC", "sign")}
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are texts of both sides' kinds."""
        return asked.records.membership is not None

    def problems(self, asked: Asked) -> list[str]:
        """Sides without texts, and texts too short for Min-40 %."""
        found = []
        for split, texts in self._texts(asked).items():
            if not texts and split != "retain":
                found.append(f"membership_auc: there are no {split} texts.")
            # len − 1: the opening token, BOS or not, has no probability
            short = sum(len(row) - 1 < shortest_text() for row in encode(asked.tokenizer, texts))
            if short:
                found.append(
                    f"membership_auc: {short} of {len(texts)} {split} texts are too short for Min-40 %; "
                    f"leave texts of fewer than {shortest_text()} tokens out."
                )
        return found

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Score every text of every split that is attacked."""
        scores: dict[str, tuple[dict[str, float], ...]] = {}
        everything = subject.suite.attacks == "all"
        for split, texts in self._texts(subject).items():
            evaluated = [*texts, *(text.lower() for text in texts)] if everything else list(texts)
            likelihoods = token_log_likelihoods(
                subject.model,
                subject.tokenizer,
                evaluated,
                subject.suite.batch_size,
                progress=subject.step(f"membership_auc, {split}"),
            )
            if everything:
                rows = [*zip(texts, likelihoods[: len(texts)], likelihoods[len(texts) :], strict=True)]
                scores[split] = tuple(attack_scores(*row) for row in rows)
            else:
                scores[split] = tuple({REPORTED: min_k(values)} for values in likelihoods)
        subject.log.membership = scores
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the scores of both sides, where every text has that of Min-40 %."""
        sides = [(log.membership or {}).get(side, ()) for side in ("forget", "holdout")]
        if not all(rows and all(REPORTED in row for row in rows) for rows in sides):
            return {}
        attack = MembershipAUC(sync_on_compute=False)
        for side, rows in zip(("forget", "holdout"), sides, strict=True):
            attack.update(side, [row[REPORTED] for row in rows], range(len(rows)))
        return {"membership_auc": attack.estimate()}

    def _texts(self, asked: Asked) -> dict[str, tuple[str, ...]]:
        texts = asked.records.membership
        assert texts is not None
        splits = {"forget": texts.forget, "retain": texts.retain, "holdout": texts.holdout}
        if asked.suite.attacks == "reported":
            del splits["retain"]
        return {name: chosen[: asked.suite.max_texts] for name, chosen in splits.items()}
