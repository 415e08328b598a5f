"""One rule for what opens windows and prompts."""

import pytest
from tokenizers import processors

from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.opening import describe_opening, opening_text, opening_tokens
from quail_lightning.data.rwku_prompts import dialogue
from quail_lightning.data.window_records import records_from_windows
from quail_lightning.data.windows import token_windows
from quail_lightning.inference.encoding import encode
from quail_lightning.models.tiny import train_tokenizer

TEXT = "ash birch cedar elm fir hazel larch maple oak pine rowan willow yew"


def tokenizer(bos=True, dressed=None):
    """``dressed``: the template that the tokenizer puts around a text."""
    made = train_tokenizer([TEXT], 300)
    if not bos:
        made.bos_token = None
    if dressed is not None:
        made._tokenizer.post_processor = processors.TemplateProcessing(
            single=dressed, special_tokens=[("<|eos|>", 1), ("<|pad|>", 2)]
        )
    return made


CASES = {
    "BOS that the tokenizer adds (Llama)": (tokenizer(), [0]),
    "BOS that it does not add (GPT-2)": (tokenizer(dressed="$A"), [0]),
    "no BOS (Qwen)": (tokenizer(bos=False, dressed="$A"), []),
    "no BOS and an end token": (tokenizer(bos=False, dressed="$A <|eos|>"), []),
    "no BOS but an opening": (tokenizer(bos=False, dressed="<|pad|> $A <|eos|>"), [2]),
}


@pytest.mark.parametrize("case", CASES)
def test_data_calibration_and_prompts_open_alike(case):
    made, opening = CASES[case]
    assert opening_tokens(made) == opening
    bare = made(TEXT, add_special_tokens=False)["input_ids"]
    windows = token_windows([TEXT], made, 6)
    run = 6 - len(opening)
    assert windows[0].tolist() == opening + bare[:run]
    assert windows[1].tolist() == opening + bare[run : 2 * run]
    assert encode(made, [TEXT]) == [opening + bare]
    shown = calibration_tokens(CalibrationRequest(windows=2, length=8), made)
    assert all(row[: len(opening)] == opening for row in shown.tolist())
    prompts = records_from_windows(windows, windows, windows, made)
    half = made.decode(bare[: 3 - len(opening)], skip_special_tokens=True)
    assert prompts.verbatim[0].prompt == half, "no real token is taken for BOS"
    assert prompts.membership.forget[0] == made.decode(bare[:run], skip_special_tokens=True)


def test_results_say_it():
    assert describe_opening(CASES["BOS that it does not add (GPT-2)"][0]).endswith("open with '<|bos|>' (BOS).")
    assert "no BOS: windows and prompts open with their first real token" in describe_opening(
        CASES["no BOS (Qwen)"][0]
    )
    assert "'<|pad|>' (which the tokenizer puts" in describe_opening(CASES["no BOS but an opening"][0])


def test_a_rendered_chat_does_not_open_twice():
    made, _ = CASES["no BOS but an opening"]
    made.chat_template = "<|pad|>{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert opening_text(made) == "<|pad|>"
    assert dialogue("who?", "me", made) == "[who?][me]"
