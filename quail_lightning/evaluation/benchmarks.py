"""A benchmark's name is the stem of a file below ``configs/benchmark``."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule

from quail_lightning.bounded_yaml import read_yaml
from quail_lightning.config_files import find_config, shipped_names
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.import_gate import class_in, close_gate

KEYS = {"class_path", "init_args", "auc_retrain"}


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's records come from.

    Attributes:
        name: stem of its file.
        data_class: DataModule class that reads its corpus.
        init_args: of the class; ``corpus`` is where the corpus lies.
        auc_retrain: Min-40 % AUC of the benchmark's own retrained model; None where none was published.
    """

    name: str
    data_class: type
    init_args: Mapping[str, Any]
    auc_retrain: float | None

    def read_records(self, corpus: str | None, model: str) -> EvaluationRecords:
        """The evaluation's records, without the training text where the DataModule can do so.

        Args:
            corpus: folder or hub name in place of the benchmark's own; None: its own.
            model: checkpoint whose tokenizer cuts what has to be cut.

        Raises:
            InputError: a part that is missing or malformed, or arguments that the class does not take.
        """
        from jsonargparse import ArgumentParser

        close_gate()
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(self.data_class, skip={"tokenizer"}, fail_untyped=False)
        given = dict(self.init_args) | ({} if corpus is None else {"corpus": corpus})
        try:
            arguments = parser.instantiate_classes(parser.parse_object(given))
        except ArgumentError as problem:
            raise InputError(f"benchmark {self.name!r} cannot be read: {problem}") from problem
        data: Any = self.data_class(**vars(arguments), tokenizer=model)
        if hasattr(data, "read_records"):
            found: EvaluationRecords = data.read_records()
            return found
        data.setup("test")
        cut: EvaluationRecords = data.evaluation_records()
        return cut


def available_benchmarks() -> list[str]:
    """Names that ``load_benchmark`` takes: the shipped ones and those below ``configs/benchmark`` here."""
    own = [path.stem for path in Path("configs/benchmark").glob("*.yaml")]
    return sorted({*own, *(Path(name).stem for name in shipped_names("benchmark"))})


def load_benchmark(name: str) -> Benchmark:
    """The benchmark ``muse-news``, ``muse-books``, ...

    Args:
        name: stem of ``configs/benchmark/<name>.yaml``, which holds ``class_path`` and ``init_args`` of a
            DataModule and, where the benchmark published one, ``auc_retrain``.

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
    except (TypeError, yaml.YAMLError) as problem:
        raise InputError(
            f"{path} does not describe a benchmark: {problem}", allowed=f"the keys {', '.join(sorted(KEYS))}"
        ) from problem
    return Benchmark(name, data_class, described.get("init_args") or {}, described.get("auc_retrain"))
