"""Membership attacks: can it be told that the forget set was trained on?"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.evaluation.attacks import GRADIENT, REFERENCE, REPORTED, attack_scores
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.privleak import MembershipAUC, min_k, shortest_text
from quail_lightning.evaluation.reference_likelihood import reference_nlls
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.gradient_norm import gradient_norms, refuse_unreachable
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.run.results import Measure, Undefined

AUCS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "auc_loss": ("PPL", "Loss AUC"),
        "auc_zlib": ("PPL/zlib", "zlib AUC"),
        "auc_min_k_plus_plus": ("Min-40%++", "Min-K%++ AUC"),
        "auc_gradient_norm": (GRADIENT, "Gradient norm AUC"),
        "auc_reference": (REFERENCE, "Reference AUC"),
    }
)
"""Measure → the attack that it is made of, and its heading; beside ``membership_auc``, which is Min-40 %."""


class Membership:
    """AUC of each attack on holdout against forget texts; of Min-40 % (MUSE) it is what PrivLeak restates.

    Every score is low where a text was trained on. ``PPL``, ``PPL/zlib`` and ``Min-40%`` see ``attack_scores``;
    ``Min-40%++`` is Zhang et al.'s (2024); the gradient's norm see ``gradient_norms``; ``Reference`` is the text's
    NLL minus the reference model's (open-unlearning's ``reference``). Where no gradient reaches a copy's weights
    its measure is undefined.
    """

    name = "membership"
    version = 2  # Min-K%++
    reads = ("membership",)
    options = ("attacks", "max_texts", "gradient_norm", "reference_model")
    by_responses = False
    labels = MappingProxyType(
        {"membership_auc": MetricLabel("Membership AUC", "", "none", "membership AUC", "sign")}
        | {name: MetricLabel(label, "", "none", label, table="membership") for name, (_, label) in AUCS.items()}
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
        if asked.suite.reference_model is not None:
            found += _reference_problems(asked, asked.suite.reference_model)
        return found

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Score every text of every split that is attacked."""
        scores: dict[str, tuple[dict[str, float], ...]] = {}
        undefined: dict[str, Measure] = {}
        suite = subject.suite
        takes_gradient = suite.gradient_norm
        try:
            refuse_unreachable(subject.model)
        except InputError as problem:
            if takes_gradient:
                undefined["auc_gradient_norm"] = Undefined(problem.fact)
            takes_gradient = False
        for split, texts in self._texts(subject).items():
            step = subject.step(f"membership_auc, {split}")
            given = (subject.model, subject.tokenizer)
            everything = suite.attacks == "all"
            values = token_log_likelihoods(*given, texts, suite.batch_size, None, step, everything)
            if everything:
                lower_case = [text.lower() for text in texts]
                lower = token_log_likelihoods(*given, lower_case, suite.batch_size, None, step)
                rows = [
                    attack_scores(text, both[:, 0], lowered, both[:, 1])
                    for text, both, lowered in zip(texts, values, lower, strict=True)
                ]
                values = [both[:, 0] for both in values]
            else:
                rows = [{REPORTED: min_k(each)} for each in values]
            if suite.reference_model is not None:
                device = torch.device(subject.model.device)
                against = reference_nlls(suite.reference_model, texts, device, suite.batch_size)
                for row, each, other in zip(rows, values, against, strict=True):
                    row[REFERENCE] = float(-each.double().mean()) - other
            if takes_gradient:
                named = subject.step(f"gradient norm, {split}")
                for row, norm in zip(rows, gradient_norms(*given, texts, named), strict=True):
                    row[GRADIENT] = norm
            scores[split] = tuple(rows)
        subject.log.membership = scores
        return self.from_log(subject.log) | undefined

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the scores of both sides, where every text has those of Min-40 %, and of each further attack."""
        sides = [(log.membership or {}).get(side, ()) for side in ("forget", "holdout")]
        found = {}
        attacks = {"membership_auc": REPORTED} | {name: attack for name, (attack, _) in AUCS.items()}
        for name, attack in attacks.items():
            if not all(rows and all(attack in row for row in rows) for rows in sides):
                continue
            area = MembershipAUC(sync_on_compute=False)
            for side, rows in zip(("forget", "holdout"), sides, strict=True):
                area.update(side, [row[attack] for row in rows], range(len(rows)))
            found[name] = area.estimate()
        return found

    def _texts(self, asked: Asked) -> dict[str, tuple[str, ...]]:
        texts = asked.records.membership
        assert texts is not None
        splits = {"forget": texts.forget, "retain": texts.retain, "holdout": texts.holdout}
        if asked.suite.attacks == "reported":
            del splits["retain"]
        return {name: chosen[: asked.suite.max_texts] for name, chosen in splits.items()}


def _reference_problems(asked: Asked, reference: str) -> list[str]:
    """Why a model is no reference for this one."""
    try:
        vocabulary = load_tokenizer(reference).get_vocab()
    except InputError as problem:
        return [f"reference_model: {problem}"]
    if vocabulary != asked.tokenizer.get_vocab():
        return [f"reference_model: {reference} has another tokenizer than the model that is evaluated."]
    return []
