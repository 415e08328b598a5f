"""`quail push`: put an exported model, with its card, on the Hugging Face hub, private by default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quail_lightning.errors import InputError, RunError
from quail_lightning.run.masking import masked
from quail_lightning.storage.disk_room import size_text
from quail_lightning.storage.readable import read_json

CARD, PROVENANCE = "README.md", "provenance.json"
HEAD = 12  # lines of the card that a dry run shows
MODEL_FILES = re.compile(
    r"README\.md|provenance\.json|recipe\.yaml|(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|"
    r"model\.safetensors\.index\.json|(config|generation_config|adapter_config|quantize_config|quant_log)\.json|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config|processor_config)\.json|"
    r"merges\.txt|tokenizer\.model|chat_template\.(jinja|json)|model\.gguf"
)
"""What is written into a model's folder; nothing else is uploaded."""


class Upload(NamedTuple):
    """What goes to the hub.

    Attributes:
        folder: the model's.
        files: names in it, sorted.
        card: text of its README.md.
    """

    folder: Path
    files: tuple[str, ...]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Name → bytes."""
        return {name: (self.folder / name).stat().st_size for name in self.files}


def checked_upload(folder: Path) -> Upload:
    """The files of an exported model, each of which may be published, and which together are whole.

    Args:
        folder: that `quail fit` or `quail quantize` made.

    Raises:
        InputError: it is no exported model, holds other files, or is damaged.
    """
    if not folder.is_dir():
        raise InputError(
            "what is pushed is an exported model's folder, and there is none", given=str(folder), remedy=_REMEDY
        )
    for name in (PROVENANCE, CARD):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no exported model: it has no {name}", remedy=_REMEDY)
    found = sorted(path.relative_to(folder).as_posix() for path in _entries(folder))
    if others := [name for name in found if not MODEL_FILES.fullmatch(name)]:
        raise InputError(
            f"{folder} holds what is no part of a model, and may hold private text ({', '.join(others[:5])}"
            f"{', ...' if len(others) > 5 else ''})",
            remedy="Move it elsewhere; a run's model lies in <run>/model",
        )
    if links := [name for name in found if (folder / name).is_symlink()]:
        raise InputError(f"{folder / links[0]} is a link, whose end may be anything", remedy="Put the file there")
    provenance = read_json(folder / PROVENANCE)
    if masked(provenance) != provenance:
        raise InputError(f"{folder / PROVENANCE} holds what looks like a secret", remedy="Remove it there first")
    _check_intact(folder)
    return Upload(folder, tuple(found), (folder / CARD).read_text("utf-8"))


_REMEDY = "Name the folder that `quail fit` (<run>/model) or `quail quantize` wrote"


def _entries(folder: Path) -> Iterator[Path]:
    """Files, links and whatever else is no folder, at any depth; links are not followed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)
        else:
            yield path


def _check_intact(folder: Path) -> None:
    import torch

    from quail_lightning.conversion.gguf_header import read_header
    from quail_lightning.models.checkpoint import check_whole, read_provenance, weights_digest
    from quail_lightning.models.digests import refuse_changed
    from quail_lightning.storage.file_digests import file_digests
    from quail_lightning.storage.gguf_files import gguf_file

    if (file := gguf_file(str(folder))) is not None:
        read_header(file)
        refuse_changed(folder, file_digests(folder, [file]), read_provenance(folder) or {})
        return
    check_whole(str(folder), torch.bfloat16)
    weights_digest(str(folder))


def push(model: str | Path, repository: str, public: bool = False) -> str:
    """Upload an exported model to the Hugging Face hub.

    Args:
        model: folder that `quail fit` or `quail quantize` made.
        repository: ``name`` or ``owner/name``; made where there is none.
        public: everybody may read it; else it is private.

    Returns:
        the repository's address.

    Raises:
        InputError: see ``checked_upload``; no such name can be, nobody is logged in, or the repository is there
            and not as visible as asked for.
        RunError: the hub refuses, or does not answer.
    """
    _check_name(repository)
    return _sent(checked_upload(Path(model)), repository, public)


def _sent(upload: Upload, repository: str, public: bool) -> str:
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise InputError("the environment variable HF_HUB_OFFLINE forbids the network", remedy="Unset it to push")
    if not get_token():
        raise InputError(
            "nobody is logged in on the hub here",
            remedy="Log in by `hf auth login`, or set HF_TOKEN; --dry-run needs none",
        )
    api = HfApi()
    try:
        _refuse_visible(api, repository, public)
        made = api.create_repo(repository, private=not public, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=upload.folder,
            allow_patterns=list(upload.files),
            repo_type="model",
            commit_message="Upload the model with its card",
        )
    except (HfHubHTTPError, OSError) as error:
        said = " ".join(str(masked(str(error))).split())[:300]
        raise RunError(
            f"the hub refused, or did not answer ({said})", remedy="The same command tries again"
        ) from error
    return str(made)


def _refuse_visible(api: Any, repository: str, public: bool) -> None:
    """A repository that is there keeps its visibility, whatever is asked for.

    Raises:
        InputError: it is public, and the model is not to be; or the other way round.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    owned = repository if "/" in repository else f"{api.whoami()['name']}/{repository}"
    try:
        there = api.repo_info(owned, repo_type="model")
    except RepositoryNotFoundError:
        return
    if bool(there.private) == public:
        state, option = ("private", "--private") if there.private else ("public", "--public")
        raise InputError(
            f"the repository {owned} is there already, and is {state}",
            remedy=f"Give {option}, name another one, or change it on the hub",
        )


def _check_name(repository: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"no repository can have that name ({' '.join(str(error).split())})",
            allowed="name or owner/name, of letters, digits, '-', '_' and '.'",
        ) from error


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("model", type=str, help="folder of an exported model: <run>/model, or what quantize wrote")
    parser.add_argument("repository", type=str, help="name or owner/name on the hub; made where there is none")
    parser.add_argument("--public", action="store_true", help="let everybody read it")
    parser.add_argument("--private", action="store_true", help="let its owner alone read it: the default")
    parser.add_argument("--dry-run", action="store_true", help="list the files and the card's head; no network")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    if arguments.public and arguments.private:
        raise InputError("a repository is public or private", given="--public --private")
    _check_name(arguments.repository)
    upload = checked_upload(Path(arguments.model))
    visible = "public" if arguments.public else "private"
    if arguments.dry_run:
        print(_listed(upload, arguments.repository, visible))
        return
    print(f"uploading {len(upload.files)} files, {size_text(sum(upload.sizes.values()))}", flush=True)
    print(f"pushed: {_sent(upload, arguments.repository, arguments.public)} ({visible})")


def _listed(upload: Upload, repository: str, visible: str) -> str:
    width = max(map(len, upload.files))
    lines = [f"Would push {upload.folder} to {repository} ({visible}):"]
    lines += [f"  {name:<{width}}  {size_text(size):>10}" for name, size in upload.sizes.items()]
    lines += [f"  {'in all':<{width}}  {size_text(sum(upload.sizes.values())):>10}", "", f"{CARD} begins:"]
    lines += [f"  {line}".rstrip() for line in upload.card.splitlines()[:HEAD]]
    lines += [
        "",
        "README.md and provenance.json name the checkpoints by their paths here: read both before you push.",
    ]
    return "\n".join([*lines, "Nothing was sent."])
