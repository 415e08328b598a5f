"""Digests cover what is loaded, and tell of a file that is not what was saved."""

import hashlib
import json
import shutil

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.evaluation.checkpoints import checkpoint_digests
from quail_lightning.models.checkpoint import check_whole, load_model, save_model, weights_digest


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def in_subfolder(checkpoint, tmp_path):
    """A checkpoint whose index names shards in a subfolder, with a file beside that it does not name."""
    folder = tmp_path / "sharded"
    load_model(checkpoint, torch.float32).save_pretrained(folder, max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {name: f"parts/{file}" for name, file in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    (folder / "parts").mkdir()
    for shard in list(folder.glob("*.safetensors")):
        shard.rename(folder / "parts" / shard.name)
    shutil.copy(f"{checkpoint}/model.safetensors", folder / "consolidated.safetensors")
    return folder


def test_an_ordinary_folder_s_digests_are_names_and_hashes(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    assert weights_digest(str(folder)) == {"model.safetensors": sha256(folder / "model.safetensors")}
    load_model(checkpoint, torch.float32).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 1
    assert weights_digest(str(tmp_path / "shards")) == {path.name: sha256(path) for path in files}


def test_every_file_that_the_index_names_counts_and_no_other(in_subfolder):
    files = sorted((in_subfolder / "parts").iterdir())
    found = weights_digest(str(in_subfolder))
    assert found == {f"parts/{path.name}": sha256(path) for path in files}
    assert checkpoint_digests(str(in_subfolder)).items() > found.items()
    load_model(str(in_subfolder), torch.float32)


def test_a_replaced_shard_in_a_subfolder_is_another_model(in_subfolder):
    before = checkpoint_digests(str(in_subfolder))
    flip_last_bit(sorted((in_subfolder / "parts").iterdir())[-1])
    assert checkpoint_digests(str(in_subfolder)) != before


def test_a_flipped_bit_of_a_saved_model_is_named_wherever_it_is_used(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    flip_last_bit(folder / "model.safetensors")
    uses = (weights_digest, checkpoint_digests, lambda it: check_whole(it, torch.bfloat16))
    for use in (*uses, lambda it: load_model(it, torch.bfloat16)):
        with pytest.raises(InputError, match=r"model\.safetensors in .* is not what was saved there"):
            use(str(folder))
    (folder / "provenance.json").unlink()  # replaced on purpose
    load_model(str(folder), torch.bfloat16)


def test_shards_of_a_saved_model_are_noted_and_compared_too(checkpoint, tmp_path, tiny_llama):
    model = load_model(checkpoint, torch.float32)
    save = model.save_pretrained
    model.save_pretrained = lambda folder: save(folder, max_shard_size="100KB")

    class Tokenizer:
        def save_pretrained(self, folder):
            pass

    save_model(model, Tokenizer(), tmp_path / "shards", {})
    load_model(str(tmp_path / "shards"), torch.float32)
    flip_last_bit(sorted((tmp_path / "shards").glob("*.safetensors"))[1])
    with pytest.raises(InputError, match=r"model-00002-of-.* is not what was saved"):
        load_model(str(tmp_path / "shards"), torch.float32)


def test_provenance_without_digests_asks_for_none(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "provenance.json").write_text('{"made_by": "an earlier release"}')
    flip_last_bit(folder / "model.safetensors")
    load_model(str(folder), torch.bfloat16)


def test_provenance_that_is_no_json_is_named(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "provenance.json").write_text("{")
    with pytest.raises(InputError, match=r"provenance\.json is damaged"):
        load_model(str(folder), torch.bfloat16)


def test_an_unchanged_file_is_hashed_once(checkpoint, tmp_path, monkeypatch):
    folder, calls = shutil.copytree(checkpoint, tmp_path / "model"), []
    own = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: calls.append(given) or own(*given))
    weights_digest(str(folder))
    load_model(str(folder), torch.bfloat16)
    assert len(calls) == 1


def test_what_decides_the_tokens_counts_and_no_other_file(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "merges.txt").write_text("a b")
    before = checkpoint_digests(str(folder))
    (folder / "README.md").write_text("anything")
    (folder / "folder.json").mkdir()
    (folder / "gone.json").symlink_to("nowhere")
    assert checkpoint_digests(str(folder)) == before
    (folder / "merges.txt").write_text("b a")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    after = checkpoint_digests(str(folder))
    assert {name for name in after if after[name] != before.get(name)} == {"merges.txt", "chat_template.jinja"}
