"""A benchmark's name is the stem of a file below ``configs/benchmark``."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import yaml
from lightning.pytorch import LightningDataModule
from torch import Tensor

from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.configuration.import_gate import class_in, close_gate
from quail_lightning.data.protocol import UnlearningData
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.data.window_records import spread
from quail_lightning.errors import InputError
from quail_lightning.inference.encoding import positions
from quail_lightning.models.checkpoint import load_config

MOST_WINDOWS = 64  # of each set, as after an epoch of training
KEYS = {"class_path", "init_args", "auc_retrain", "log"}
LogLayout = Literal["muse", "tofu"]


class BenchmarkData(NamedTuple):
    """What a model is evaluated on.

    Attributes:
        records: prompts, questions, texts.
        windows: set name → [n, time] token numbers; empty where the benchmark's training text is not at hand.
        training: likewise, all windows of the sets, for attackers that train on them.
    """

    records: EvaluationRecords
    windows: Mapping[str, Tensor]
    training: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's records come from.

    Attributes:
        name: stem of its file.
        data_class: DataModule class that reads its corpus.
        init_args: of the class; ``corpus`` is where a corpus lies.
        auc_retrain: Min-40 % AUC of the benchmark's own retrained model; None where none was published.
        log: layout of the logs that were published for it.
    """

    name: str
    data_class: type
    init_args: Mapping[str, Any]
    auc_retrain: float | None
    log: LogLayout = "muse"

    def read(self, model: str, given: Mapping[str, Any], most: int | None = None) -> BenchmarkData:
        """What is asked of a model, and the windows of the training text where it is at hand.

        Args:
            model: checkpoint whose tokenizer cuts what has to be cut, and whose positions bound the windows.
            given: init arguments in place of the benchmark's own, such as ``corpus``.
            most: windows of each set, evenly spread, where fewer than ``MOST_WINDOWS`` are to do.

        Raises:
            InputError: a part that is missing or malformed, or arguments that the class does not take.
        """
        data, tokenizer = self._data(model, given), load_tokenizer(model)
        if (alone := data.records_alone()) is not None:  # the training text may not be there
            records = alone
            try:
                windows, left_out = data.cut_windows(tokenizer), ""
            except InputError as problem:
                windows, left_out = None, f"The NLL is left out: {problem.fact}."
        else:
            data.setup("test")
            records, windows, left_out = data.served.records, data.served.windows, ""
        note = " ".join(filter(None, [records.note, left_out]))
        most = min(MOST_WINDOWS, most or MOST_WINDOWS)
        sets = {} if windows is None else windows._asdict()
        sets = {name: rows for name, rows in sets.items() if len(rows)}
        chosen = {name: spread(rows, most) for name, rows in sets.items()}
        return BenchmarkData(replace(records, note=note), chosen, sets)

    def _data(self, model: str, given: Mapping[str, Any]) -> UnlearningData:
        from jsonargparse import ArgumentParser

        close_gate()
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(self.data_class, skip={"tokenizer"}, fail_untyped=False)
        wanted = dict(self.init_args) | dict(given)
        if "max_len" in signature(self.data_class).parameters and "max_len" not in wanted:
            fits = positions(load_config(model))
            usual = signature(self.data_class).parameters["max_len"].default
            wanted["max_len"] = usual if fits is None else min(usual, fits)
        try:
            arguments = parser.instantiate_classes(parser.parse_object(wanted))
        except ArgumentError as problem:
            raise InputError(f"benchmark {self.name!r} cannot be read: {problem}") from problem
        return self.data_class(**vars(arguments), tokenizer=model)


def available_benchmarks() -> list[str]:
    """Names that ``load_benchmark`` takes: the shipped ones and those below ``configs/benchmark`` here."""
    own = [path.stem for path in Path("configs/benchmark").glob("*.yaml")]
    return sorted({*own, *(Path(name).stem for name in shipped_names("benchmark"))})


def load_benchmark(name: str) -> Benchmark:
    """The benchmark ``muse-news``, ``muse-books``, ...

    Args:
        name: stem of ``configs/benchmark/<name>.yaml``, which holds ``class_path`` and ``init_args`` of a
            DataModule and, where the benchmark published one, ``auc_retrain``; ``log: tofu`` where its logs have
            TOFU's layout and not MUSE's.

    Raises:
        InputError: no such benchmark, or a file that describes none.
    """
    known = available_benchmarks()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        raise InputError(
            "no such benchmark",
            given=name,
            allowed=", ".join(known),
            remedy=f"Did you mean {close[0]}?" if close else f"Or write configs/benchmark/{name}.yaml",
        )
    path = find_config(f"benchmark/{name}.yaml")
    try:
        described = read_yaml(path)
        if not isinstance(described, dict) or "class_path" not in described or set(described) - KEYS:
            raise TypeError(f"it holds {described if not isinstance(described, dict) else sorted(described)}")
        data_class = class_in(path, described["class_path"])
        if not issubclass(data_class, LightningDataModule):
            raise TypeError(f"{described['class_path']!r} is no DataModule")
        if described.get("log", "muse") not in get_args(LogLayout):
            raise TypeError(f"log is {described['log']!r}, none of {', '.join(get_args(LogLayout))}")
    except (TypeError, yaml.YAMLError) as problem:
        raise InputError(
            f"{path} does not describe a benchmark: {problem}", allowed=f"the keys {', '.join(sorted(KEYS))}"
        ) from problem
    given = described.get("init_args") or {}
    return Benchmark(name, data_class, given, described.get("auc_retrain"), described.get("log", "muse"))
