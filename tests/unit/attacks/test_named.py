"""Attacks by the names of their files."""

import pytest
import torch

from quail_lightning.attacks import Prune, Relearn, available_attacks, chain_problems, described_chain, load_attack
from quail_lightning.configuration.files import shipped_names
from quail_lightning.errors import InputError


def test_every_shipped_file_is_an_attack_that_keeps_the_protocol(tiny_llama):
    assert len(shipped_names("attack")) == len(available_attacks()) >= 10
    for name in available_attacks():
        found = load_attack(name)
        assert found.attack.version >= 1
        assert found.attack.targets(tiny_llama())
        assert set(found.attack.reads) <= {"forget", "retain", "general"}


def test_the_published_settings():
    for steps in (100, 125, 150):
        attack = load_attack(f"relearn{steps}").attack
        assert isinstance(attack, Relearn)
        assert (attack.steps, attack.source, attack.optimization.learning_rate) == (steps, "forget", 1e-5)
    tofu = load_attack("relearn-tofu").attack
    assert (tofu.steps, tofu.optimization.epochs, tofu.optimization.learning_rate) == (None, 1, 2e-5)
    for percent in (10, 20, 30):
        attack = load_attack(f"prune{percent}").attack
        assert isinstance(attack, Prune)
        assert attack.fraction == percent / 100


def test_a_file_of_one_s_own_and_names_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs/attack"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("class_path: quail_lightning.attacks.Prune\ninit_args: {fraction: 0.5}\n")
    assert load_attack("mine").attack.fraction == 0.5
    (folder / "wrong.yaml").write_text("class_path: quail_lightning.attacks.Prune\ninit_args: {fraction: 1.5}\n")
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\); got 1.5"):
        load_attack("wrong")
    (folder / "none.yaml").write_text("class_path: quail_lightning.quantization.Uniform\ninit_args: {bits: 4}\n")
    with pytest.raises(InputError, match=r"none\.yaml is no attack: it lacks"):
        load_attack("none")
    with pytest.raises(InputError, match=r"no such attack; got 'prune33'.*prune30"):
        load_attack("prune33")


def test_relearning_without_text_is_refused_and_what_was_trained_on_is_part_of_the_key(tiny_llama):
    chain = (load_attack("prune10"), load_attack("relearn100"))
    (problem,) = chain_problems(chain, tiny_llama(), {"retain": torch.ones(1, 4)})
    assert "relearn100: there is no forget text" in problem
    texts = {"forget": torch.ones(2, 4, dtype=torch.int64)}
    assert chain_problems(chain, tiny_llama(), texts) == []
    prune, relearn = described_chain(chain, texts)
    assert prune["texts"] == {}
    assert relearn["settings"]["init_args"]["steps"] == 100
    other = described_chain(chain, {"forget": torch.zeros(2, 4, dtype=torch.int64)})[1]
    assert relearn["texts"] != other["texts"]
    assert relearn["settings"] == other["settings"]
