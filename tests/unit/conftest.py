"""A small corpus, tokenizer and checkpoint that the tests of several rooms share."""

import json
import random

import pytest
import torch

WORDS = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow", "yew")


def document(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A corpus in MUSE's layout: 6 forget documents, 8 retain documents, records of every kind."""
    folder = tmp_path_factory.mktemp("corpus")

    def write(part, rows):
        path = folder / f"{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))

    forget, retain = [document(n) for n in range(6)], [document(100 + n) for n in range(8)]
    write("raw/forget", forget)
    write("raw/retain1", retain)
    write("verbmem/forget", [{"prompt": text[:40], "gt": text[40:]} for text in forget[:3]])
    for name in ("forget", "retain"):
        write(f"knowmem/{name}_qa", [{"question": f"Which {word}?", "answer": word} for word in WORDS[:3]])
        write(f"knowmem/{name}_qa_icl", [{"question": f"What {word}?", "answer": word} for word in WORDS[:2]])
    write("privleak/forget", forget[:4])
    write("privleak/retain", retain[:4])
    write("privleak/holdout", [document(200 + n) for n in range(4)])
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, corpus_folder):
    """A tiny random Llama with a tokenizer of the corpus, saved in Hugging Face format."""
    from quail_lightning.models.checkpoint import save_model
    from quail_lightning.models.tiny import tiny_llama, train_tokenizer

    tokenizer = train_tokenizer(json.loads((corpus_folder / "raw/forget.json").read_text()), vocab_size=300)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, heads=2, positions=256, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # a random model's logits are nearly flat otherwise
    folder = tmp_path_factory.mktemp("models") / "target"
    save_model(model, tokenizer, folder, {"made_by": "tests"})
    return str(folder)
