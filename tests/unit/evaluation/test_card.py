from pathlib import Path

from quail_lightning.commands.model_card import model_card
from quail_lightning.evaluation.card import unlearned_card

TYPES = {
    "Q4_1": {"tensors": 14, "weights": 300, "block": 32},
    "F32": {"tensors": 5, "weights": 100, "block": 1},
}
FROM_FILE = {"target": "base", "target_converted_from": {"file": "x.gguf", "sha256": "0", "types": TYPES}}
MADE = {"precision": "nf4", "dtype": "bfloat16", "quantizer": "x", "share": 1.0, "simulated": False}


def test_cards_say_on_which_grid_the_base_lay():
    said = "converted from the GGUF file `x.gguf`. The weights lie on the file's grids: 75% on Q4_1's (4 bits"
    assert said in unlearned_card("model", Path("nowhere"), FROM_FILE)
    assert said in model_card("run/model", FROM_FILE, MADE, None)


def test_of_a_base_that_was_never_quantized_they_say_nothing():
    wide = {"file": "x.gguf", "sha256": "0", "types": {"BF16": {"tensors": 14, "weights": 300, "block": 1}}}
    for origin in (None, wide, {"file": "x.gguf", "sha256": "0"}):  # the last: noted before types were
        provenance = {"target": "base", "target_converted_from": origin}
        assert "grids" not in unlearned_card("model", Path("nowhere"), provenance)
        assert "grids" not in model_card("run/model", provenance, MADE, None)
