"""The page ``configuration.md``: every option of a config, from the classes' own signatures and docstrings.

mkdocs calls ``on_files`` when it builds the site (``mkdocs.yml``, hooks).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from docstring_parser import parse
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from quail_lightning import data, objectives
from quail_lightning.callbacks import ExportModel, KeepBest, QuantizedEvaluation, TrainingCheckpoint
from quail_lightning.commands.finetune import FinetuneRecipe
from quail_lightning.unlearning import UnlearningModule

PAGE = "configuration.md"
SECTIONS: dict[str, list[Any]] = {
    "model": [UnlearningModule],
    "data": [getattr(data, name) for name in data.__all__ if name.endswith("DataModule")],
    "evaluation": [QuantizedEvaluation],
    "checkpoint": [TrainingCheckpoint],
    "best": [KeepBest],
    "export": [ExportModel],
    "prepare": [FinetuneRecipe],
    "model.forget, model.retain, model.hinge": [
        found
        for name in objectives.__all__
        if inspect.isclass(found := getattr(objectives, name)) and hasattr(found, "loss")
    ],
}
INTRODUCTION = """# Every option

Made of the classes' signatures. `quail fit --help` prints the same, `quail fit --config FILE --print_config` a
config's values after all overrides. `trainer` is Lightning's own Trainer. What has no default must be given.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """In Markdown."""
    parts = [INTRODUCTION]
    for section, classes in SECTIONS.items():
        parts.append(f"## {section}\n")
        for cls in classes:
            parts += _described(cls)
    return "\n".join(parts)


def _described(cls: Any) -> Iterator[str]:
    documented = parse(inspect.getdoc(cls) or "")
    said = {each.arg_name: each.description or "" for each in documented.params}
    yield f"### {cls.__name__}\n\n{_flat(documented.short_description or '')}\n"
    given = inspect.signature(cls).parameters.values()
    options = [each for each in given if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    if not options:
        return
    yield "| option | type | default | meaning |\n|---|---|---|---|"
    for each in options:
        default = "" if each.default is each.empty else f"`{each.default!r}`"
        kind = re.sub(r"\b(?:\w+\.)+", "", str(each.annotation)).removeprefix("<class '").removesuffix("'>")
        yield f"| `{each.name}` | `{_flat(kind)}` | {_flat(default)} | {_flat(said.get(each.name, ''))} |"
    yield ""


def _flat(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")
