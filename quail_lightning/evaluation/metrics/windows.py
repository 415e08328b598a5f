"""The negative log-likelihood of the windows that were trained on: cheap, and finer than what is said."""

from __future__ import annotations

from types import MappingProxyType

from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.functional.masking import token_numbers
from quail_lightning.inference.likelihood import window_nlls, window_problem
from quail_lightning.run.results import Measure


class WindowNLL:
    """Mean NLL of forget and retain windows, nats a token that is not masked."""

    name = "windows"
    version = 1
    reads = ("windows",)
    options = ()
    by_responses = False
    labels = MappingProxyType(
        {
            "nll_forget": MetricLabel("Forget NLL", "nats/token", "up", "forget NLL", "knowledge"),
            "nll_retain": MetricLabel("Retain NLL", "nats/token", "down", "retain NLL", "utility"),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether windows were given."""
        return bool(asked.windows)

    def problems(self, asked: Asked) -> list[str]:
        """Windows that do not fit the positions, and token numbers beyond the vocabulary."""
        found = []
        vocabulary = getattr(asked.config.get_text_config(), "vocab_size", None)
        for name, tokens in asked.windows.items():
            if problem := window_problem(tokens, asked.positions):
                found.append(f"nll_{name}: {problem}")
            elif vocabulary is not None and tokens.numel() and int(token_numbers(tokens).max()) >= vocabulary:
                largest = int(token_numbers(tokens).max())
                found.append(f"nll_{name}: token {largest} lies beyond the {vocabulary} of the model")
        return found

    def run(self, subject: Subject) -> dict[str, Measure]:
        """One forward pass over every window."""
        size, measures = subject.suite.batch_size, {}
        for name, tokens in subject.windows.items():
            key = f"nll_{name}"
            measures[key] = bootstrap_mean(window_nlls(subject.model, tokens, size, subject.step(key)).numpy())
        return measures

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Nothing: MUSE's layout has no place for windows."""
        return {}
