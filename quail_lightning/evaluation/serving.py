"""vLLM in the place of the model in memory: for which models and precisions, and with which options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quail_lightning.errors import InputError
from quail_lightning.evaluation.metrics import Asked
from quail_lightning.evaluation.precision import AS_STORED, Precision
from quail_lightning.inference.completion_server import Unreachable, named_server
from quail_lightning.inference.served_model import ServedModel, served_model
from quail_lightning.inference.vllm_process import check_vllm, vllm_process
from quail_lightning.models.adapters import adapter_in
from quail_lightning.models.checkpoint import stored_dtype
from quail_lightning.run.masking import masked
from quail_lightning.storage.privacy import private_folder
from quail_lightning.storage.vouched import digest

if TYPE_CHECKING:
    import torch

EngineName = Literal["own", "vllm"]
LOGS = "vllm"  # folder of the server's output, among the finished evaluations


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM is reached; for ``engine: vllm``.

    Attributes:
        url: of a server that runs already, such as ``http://localhost:8000``, and has loaded the folder that is
            evaluated; its key is in the environment (``VLLM_API_KEY``). None: one is started on each folder in
            turn, and ended.
        arguments: more of ``vllm serve`` for the one that is started, such as ``["--max-model-len", "4096"]``.
    """

    url: str | None = None
    arguments: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Serving:
    """vLLM, checked to be there.

    Attributes:
        options: as given.
        program: path of the program; empty where a server is named.
        logs: folder that takes what started servers write.
        gpu: number of the CUDA device that a started server is given; None: all.
    """

    options: VllmOptions
    program: str
    logs: Path
    gpu: int | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What decides figures. Where a server runs does not; how it was started is not known of a named one."""
        return {
            "name": "vllm",
            "arguments": None if self.options.url is not None else list(self.options.arguments),
        }

    @property
    def told(self) -> str:
        """The engine in a reader's words."""
        more = " ".join(self.options.arguments)
        return f"vLLM at {self.options.url}" if self.options.url is not None else f"vLLM{more and f' ({more})'}"

    def serves(self, model: str, precision: Precision) -> bool:
        """Whether a precision's weights are those that lie in the model's folder, which is what vLLM loads."""
        if not Path(model).is_dir() or adapter_in(model) is not None:
            return False
        return precision.config == AS_STORED or (precision.is_plain and precision.dtype == stored_dtype(model))

    def check_any(self, plan: Mapping[str, Sequence[Precision]]) -> None:
        """Refuse an evaluation in which there is nothing for vLLM to do.

        Args:
            plan: model → its precisions.

        Raises:
            InputError: no model is evaluated as it lies in its folder.
        """
        if not any(self.serves(model, each) for model, precisions in plan.items() for each in precisions):
            asked = "; ".join(f"{model} at {', '.join(each.name for each in at)}" for model, at in plan.items())
            raise InputError(
                "engine vllm has nothing to answer: vLLM loads a folder, and no model is evaluated as its folder "
                "holds it (adapters, hub names and precisions that are made in memory are not)",
                given=asked,
                remedy="Name a folder that `quail quantize` or an export wrote, at the precision that it holds",
            )

    def check_named(self, model: str, asked: Asked) -> None:
        """See that the server that was named has loaded the model; nothing where one is started.

        Raises:
            InputError: it has not, or nothing listens there.
            ServerError: it gives no list of models.
        """
        if self.options.url is None:
            return
        server = named_server(self.options.url)
        try:
            served_model(server, Path(model), asked.tokenizer, asked.config)
        except Unreachable as problem:
            raise InputError(
                problem.fact,
                remedy="Start one by: vllm serve FOLDER; or leave vllm.url out, and one is started",
            ) from problem

    @contextmanager
    def opened(self, model: str, dtype: torch.dtype, asked: Asked) -> Iterator[ServedModel]:
        """A model's folder as vLLM has loaded it.

        Args:
            model: folder.
            dtype: that it is computed in.
            asked: with its tokenizer and config.
        """
        folder = Path(model)
        if self.options.url is not None:
            yield served_model(named_server(self.options.url), folder, asked.tokenizer, asked.config)
            return
        log = private_folder(self.logs, self.logs.parent) / _log_name(folder)
        named = str(dtype).removeprefix("torch.")
        with vllm_process(self.program, folder, named, self.options.arguments, log, self.gpu) as server:
            yield served_model(server, folder, asked.tokenizer, asked.config)


def _log_name(folder: Path) -> str:
    """The folder's name, and a digest of its path: the models of all runs lie in folders of one name."""
    path = folder.resolve()
    return f"{path.name}-{digest(str(path))[:8]}.log"


def serving(
    engine: EngineName, options: VllmOptions, protocol: str, root: Path, device: torch.device
) -> Serving | None:
    """What ``engine`` asks for; None for the own engine.

    Args:
        engine: ``own`` or ``vllm``.
        options: of the latter.
        protocol: of the evaluation.
        root: of the finished evaluations.
        device: of the own engine; a server is started on the same GPU where one is named by its number.

    Raises:
        InputError: vLLM is not there, or options that do not go together.
    """
    if engine == "own":
        if options != VllmOptions():
            raise InputError(
                "vllm.* are options of the engine vllm", given="engine: own", remedy="Set engine: vllm"
            )
        return None
    if protocol == "published":
        raise InputError(
            "protocol published draws M1's responses at random, and vLLM would draw others",
            given="engine: vllm",
            remedy="Leave engine at own, or protocol at paper",
        )
    if options.url is None:
        gpu = device.index if device.type == "cuda" else None
        return Serving(options, check_vllm(options.arguments), root / LOGS, gpu)
    if options.arguments:
        raise InputError(
            "vllm.arguments start a server, and vllm.url names one that runs",
            given=masked(options.url),
            remedy="Leave one of the two out",
        )
    named_server(options.url)
    return Serving(options, "", root / LOGS)
