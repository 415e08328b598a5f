"""Completions by a vLLM server: token numbers go there, token numbers come back, text is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.errors import InputError
from quail_lightning.inference.completion_server import CompletionServer, ServerError
from quail_lightning.inference.concurrent_calls import as_answered
from quail_lightning.inference.encoding import decode, encode, positions
from quail_lightning.inference.generation import check_lengths, end_tokens
from quail_lightning.inference.sampling import Sampling
from quail_lightning.inference.short_memory import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

MODELS, COMPLETIONS = "/v1/models", "/v1/completions"
AT_ONCE = 64  # requests under way where no batch size is set; the server makes its own batches of them

# all are named: what is left out a server may take from the checkpoint's generation config
GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@dataclass(frozen=True)
class ServedModel:
    """A model that a vLLM server (0.10.2 or later) has loaded; an ``Engine``.

    Attributes:
        server: where it is.
        name: that the server knows it by.
        tokenizer: its own.
        limit: the model's positions; None where it has no limit.
        room: tokens of a prompt and its completion that the server takes, which may have been started with fewer;
            None where it does not say.
        ends: token numbers that end a completion; they are no part of it.
    """

    server: CompletionServer
    name: str
    tokenizer: PreTrainedTokenizerBase
    limit: int | None
    room: int | None
    ends: frozenset[int]

    def complete(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        batch_size: int | None = None,
        progress: Progress | None = None,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Greedy completions; see ``generate``, whose text they are up to near ties.

        Args:
            prompts: texts to continue.
            max_new_tokens: tokens; the server stops earlier at the ends, or after a stop.
            batch_size: requests under way at once, one prompt each; None: ``AT_ONCE``.
            progress: called after each prompt with those that are done and their total.
            stops: strings at which the caller cuts.
            sampling: is refused.

        Raises:
            InputError: prompts that ``generate`` refuses too, or that are longer than the server takes; sampling.
            ServerError: no usable answer to a prompt, or one that is not what was asked for.
        """
        if sampling is not None:
            raise InputError("vLLM draws other tokens than the own engine: only greedy responses are asked of it")
        encoded = encode(self.tokenizer, prompts)
        if not encoded:
            return []
        check_lengths([len(row) for row in encoded], max_new_tokens, self.limit)
        if self.room is not None and (longest := max(len(row) for row in encoded) + max_new_tokens) > self.room:
            raise InputError(
                f"the longest prompt and its {max_new_tokens} new tokens are {longest} tokens, and the server at "
                f"{self.server.url} takes {self.room}",
                remedy="Start it with a larger --max-model-len (vllm.arguments)",
            )
        completions = [""] * len(encoded)

        def ask(row: list[int]) -> list[int]:
            return self._continued(row, max_new_tokens, tuple(stops))

        # after an error or Ctrl-C no further prompt is sent, and nobody waits for those under way
        with closing(as_answered(ask, encoded, batch_size or AT_ONCE)) as answers:
            for done, (index, tokens) in enumerate(answers, 1):
                completions[index] = decode(self.tokenizer, tokens)
                if progress is not None:
                    progress(done, len(encoded))
        return completions

    def _continued(self, prompt: list[int], max_new_tokens: int, stops: tuple[str, ...]) -> list[int]:
        """New tokens of one prompt, without the end token."""
        # ignore_eos with stop_token_ids: the ends are ours, whatever the server read in the checkpoint
        body = {"model": self.name, "prompt": prompt, "max_tokens": max_new_tokens, **GREEDY, "ignore_eos": True}
        body |= {"stop_token_ids": sorted(self.ends), "stop": list(stops), "return_token_ids": True}
        choice = _only_choice(self.server.post(COMPLETIONS, body), self.server.url)
        if choice.get("prompt_token_ids", prompt) != prompt:
            raise ServerError(f"the server at {self.server.url} has read another prompt than it was given")
        new: list[int] = choice["token_ids"]
        end = next((place for place, token in enumerate(new) if token in self.ends), None)
        tokens = new[:end]
        text = decode(self.tokenizer, tokens) if stops else ""
        is_whole = end is not None or len(new) == max_new_tokens or any(stop in text for stop in stops)
        if not is_whole or len(new) > max_new_tokens:
            raise ServerError(
                f"the server at {self.server.url} gave a completion of {len(new)} tokens where {max_new_tokens} "
                f"were asked for, with no end in it (finish_reason {choice.get('finish_reason')!r})"
            )
        return tokens


def served_model(
    server: CompletionServer, folder: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> ServedModel:
    """The model of a folder as a server has it.

    Args:
        server: that answers.
        folder: of the checkpoint.
        tokenizer: its own.
        config: its own.

    Raises:
        InputError: the server has loaded another model.
        ServerError: it gives no list of models.
    """
    cards = server.get(MODELS).get("data")
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise ServerError(f"the server at {server.url} answered {MODELS} with no list of models")
    roots = [str(card.get("root") or card.get("id")) for card in cards]
    own = [card for card, root in zip(cards, roots, strict=True) if _is(root, folder) and not card.get("parent")]
    if not own:
        raise InputError(
            f"the server at {server.url} has not loaded {folder.resolve()} by its absolute path",
            given=", ".join(roots) or "no model",
            remedy=f"Start it by: vllm serve {folder.resolve()}; or leave vllm.url out, and it is started for you",
        )
    name, room = own[0].get("id"), own[0].get("max_model_len")
    if not isinstance(name, str) or not isinstance(room, int | None):
        raise ServerError(f"the server at {server.url} answered {MODELS} with no name or no length of a model")
    return ServedModel(server, name, tokenizer, positions(config), room, folder_ends(folder, config, tokenizer))


def folder_ends(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a completion of a folder's model, which need not be loaded for it."""
    from transformers import GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(folder)
    except OSError:  # no such file: the library then makes it of the config
        own = GenerationConfig.from_model_config(config)
    return end_tokens(own, tokenizer)


def _is(root: str, folder: Path) -> bool:
    # a relative path is one from the folder that the server was started in, which is not known here
    return Path(root).is_absolute() and Path(root).resolve() == folder.resolve()


def _only_choice(answer: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The one completion of an answer, with its token numbers.

    Raises:
        ServerError: it holds none.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    tokens = choice.get("token_ids") if isinstance(choice, dict) else None
    if (
        not isinstance(choice, dict)
        or not isinstance(tokens, list)
        or not all(type(each) is int for each in tokens)
    ):
        raise ServerError(
            f"the server at {url} answered a prompt without the token numbers of one completion",
            remedy="return_token_ids is vLLM's, from 0.10.2 on",
        )
    return choice
