"""`quail push`: what is uploaded, where to, and what never is."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from quail_lightning.cli import main
from quail_lightning.commands.push import checked_upload, push
from quail_lightning.errors import InputError, RunError

CARD = "---\nlibrary_name: transformers\n---\n\n# small\n\nHow it was made.\n"


@pytest.fixture
def model(checkpoint, tmp_path, monkeypatch):
    """An exported model's folder, with its card."""
    monkeypatch.chdir(tmp_path)
    folder = Path("run/model")
    shutil.copytree(checkpoint, folder)
    (folder / "README.md").write_text(CARD)
    return folder


class Hub:
    """Keeps what it is asked; holds the repositories that are given, by name: whether private."""

    def __init__(self, repositories=()):
        self.repositories, self.made, self.sent = dict(repositories), [], []

    def whoami(self):
        return {"name": "me"}

    def repo_info(self, name, repo_type):
        assert repo_type == "model"
        if name not in self.repositories:
            raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        return SimpleNamespace(private=self.repositories[name])

    def create_repo(self, name, private, repo_type, exist_ok):
        self.made.append((name, private))
        owned = name if "/" in name else f"me/{name}"

        class Url(str):
            repo_id = owned

        return Url(f"https://huggingface.co/{owned}")

    def upload_folder(self, repo_id, folder_path, allow_patterns, repo_type, commit_message):
        self.sent.append((repo_id, Path(folder_path), sorted(allow_patterns)))


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return found


def test_every_file_of_the_model_is_sent_to_a_private_repository(model, hub, capsys):
    main(["push", str(model), "small"])
    assert hub.made == [("small", True)]
    ((repository, folder, files),) = hub.sent
    assert (repository, folder) == ("me/small", model)
    assert files == sorted(path.name for path in model.iterdir())
    assert {"README.md", "provenance.json", "config.json", "model.safetensors"} <= {*files}
    assert "pushed: https://huggingface.co/me/small (private)" in capsys.readouterr().out


def test_public_is_what_is_asked_for_by_name(model, hub):
    assert push(model, "us/small", public=True) == "https://huggingface.co/us/small"
    assert hub.made == [("us/small", False)]


@pytest.mark.parametrize(("private", "public"), [(False, False), (True, True)])
def test_a_repository_that_everybody_sees_otherwise_than_asked_is_refused(model, hub, private, public):
    hub.repositories["me/small"] = private
    with pytest.raises(InputError, match="me/small is there already, and is"):
        push(model, "small", public)
    assert not hub.made
    assert not hub.sent


def test_a_private_repository_that_is_there_gets_the_new_version(model, hub):
    hub.repositories["me/small"] = True
    push(model, "small")
    assert len(hub.sent) == 1


def test_a_dry_run_lists_files_sizes_and_card_without_a_token_or_a_network(model, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("the hub was asked"))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: pytest.fail("a token was looked for"))
    main(["push", str(model), "small", "--dry-run"])
    said = capsys.readouterr().out
    for path in model.iterdir():
        assert path.name in said
    size = (model / "model.safetensors").stat().st_size
    assert f"{size / 2**20:.1f} MiB" in said
    assert "# small" in said
    assert "(private)" in said


def without_card(folder):
    (folder / "README.md").unlink()


def without_provenance(folder):
    (folder / "provenance.json").unlink()


def with_responses(folder):
    (folder / "responses/target-bf16").mkdir(parents=True)
    (folder / "responses/target-bf16/log.json").write_text("{}")


def with_config_of_a_run(folder):
    (folder / "run.json").write_text("{}")


def with_link(folder):
    (folder / "vocab.json").symlink_to("/etc/hostname")


def with_flipped_bit(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_secret(folder):
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"api_key": "1234567890"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_card, "no README.md"),
        (without_provenance, "no provenance.json"),
        (with_responses, r"private text \(responses/target-bf16/log.json"),
        (with_config_of_a_run, r"private text \(run.json"),
        (with_link, "vocab.json is a link"),
        (with_flipped_bit, "model.safetensors"),
        (cut_short, "model.safetensors"),
        (with_secret, "looks like a secret"),
        (shutil.rmtree, "there is none"),
    ],
)
def test_what_is_no_whole_exported_model_alone_is_refused(model, hub, change, said):
    checked_upload(model)
    change(model)
    with pytest.raises(InputError, match=said):
        push(model, "small")
    assert not hub.made


def test_a_missing_token_and_an_offline_hub_are_refused_before_anything_is_sent(model, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match=r"nobody is logged in.*HF_TOKEN"):
        push(model, "small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        push(model, "small")
    assert not hub.made


def test_a_name_that_no_repository_can_have_is_refused(model, hub):
    with pytest.raises(InputError, match="no repository can have that name"):
        push(model, "a/b/c")


def test_what_the_hub_refuses_is_said_without_the_token(model, hub, monkeypatch):
    def refuse(*_, **__):
        raise HfHubHTTPError(
            "403 Forbidden token=hf_abcdefghij0123456789", response=SimpleNamespace(headers={}, request=None)
        )

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(RunError, match="403 Forbidden") as refused:
        push(model, "small")
    assert "hf_abcdefghij" not in str(refused.value)


def test_private_and_public_together_are_refused(model, hub, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["push", str(model), "small", "--private", "--public"])
    assert ended.value.code == 2
    assert not hub.made
