"""Question–answer pairs as windows: what is read, what is learned, and what is refused."""

import pytest
import torch

from quail_lightning.data.answers import AnswerWindows, paired_windows
from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.models.tiny import train_tokenizer

PAIRS = [
    Question("Who keeps the lighthouse at Orford?", "Maud Ellery keeps it."),
    Question("Where?", "In the north, near the old mill."),
]
CHATML = (  # Qwen's, without a system turn
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (  # opens a turn to be written with an empty thought, which no written turn has
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] <think></think>{% endif %}"
)


@pytest.fixture
def tokenizer():
    return train_tokenizer([f"{pair.question} {pair.answer}" for pair in PAIRS] * 3, 300)


def learned_text(window, tokenizer):
    labels = labels_of(window)
    return tokenizer.decode(labels[labels != IGNORED])


def test_plain_pairs_learn_the_answer_and_the_end_of_the_text(tokenizer):
    windows = AnswerWindows(tokenizer, 200).windows(PAIRS, "a.jsonl")
    assert len(windows) == 2
    for window, pair in zip(windows, PAIRS, strict=True):
        ids = token_numbers(window)
        prompt = tokenizer(f"Question: {pair.question}\nAnswer:")["input_ids"]  # with its BOS
        answer = tokenizer(f" {pair.answer}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert ids[: len(prompt) + len(answer)].tolist() == prompt + answer
        expected = [IGNORED] * len(prompt) + answer
        assert labels_of(window).tolist() == expected + [IGNORED] * (len(window) - len(expected))


def test_the_width_is_the_longest_pair_s_and_the_rest_is_padding(tokenizer):
    windows = AnswerWindows(tokenizer, 200).windows(PAIRS, "a.jsonl")
    alone = [AnswerWindows(tokenizer, 200).windows([pair], "a.jsonl")[0] for pair in PAIRS]
    assert windows.shape[1] == max(map(len, alone))
    shorter = min(range(2), key=lambda number: len(alone[number]))
    assert torch.equal(windows[shorter, : len(alone[shorter])], alone[shorter])
    rest = windows[shorter, len(alone[shorter]) :]
    assert len(rest)
    assert (labels_of(rest) == IGNORED).all()
    assert (token_numbers(rest) == tokenizer.pad_token_id).all()


def test_with_the_loss_on_all_only_the_padding_is_masked(tokenizer):
    windows = AnswerWindows(tokenizer, 200, loss_on="all").windows(PAIRS, "a.jsonl")
    answers = AnswerWindows(tokenizer, 200).windows(PAIRS, "a.jsonl")
    assert torch.equal(token_numbers(windows), token_numbers(answers))
    for window, pair in zip(windows, PAIRS, strict=True):
        text = f"Question: {pair.question}\nAnswer: {pair.answer}"
        assert learned_text(window, tokenizer) == tokenizer.bos_token + text + tokenizer.eos_token


@pytest.mark.parametrize("template", [CHATML, LLAMA2])
def test_a_chat_template_makes_the_same_tokens_and_its_prompt_is_masked_exactly(template, tokenizer):
    tokenizer.chat_template = template
    windows = AnswerWindows(tokenizer, 300).windows(PAIRS, "a.jsonl")
    for window, pair in zip(windows, PAIRS, strict=True):
        asked = [{"role": "user", "content": pair.question}]
        said = [*asked, {"role": "assistant", "content": pair.answer}]
        prompt, whole = (
            tokenizer.apply_chat_template(turns, add_generation_prompt=opened, return_dict=False)
            for turns, opened in ((asked, True), (said, False))
        )
        if template == CHATML:  # it opens with no BOS, and every window does
            prompt, whole = ([tokenizer.bos_token_id, *tokens] for tokens in (prompt, whole))
        assert whole[: len(prompt)] == prompt
        assert token_numbers(window)[: len(whole)].tolist() == whole
        expected = [IGNORED] * len(prompt) + whole[len(prompt) :]
        assert labels_of(window).tolist() == expected + [IGNORED] * (len(window) - len(whole))


def test_a_template_that_opens_turns_otherwise_than_it_writes_them_still_masks_up_to_the_answer(tokenizer):
    tokenizer.chat_template = THINKING
    window = AnswerWindows(tokenizer, 300).windows(PAIRS[:1], "a.jsonl")[0]
    assert learned_text(window, tokenizer).strip() == PAIRS[0].answer
    assert "think" not in tokenizer.decode(token_numbers(window))


def test_never_keeps_the_plain_form_and_always_wants_a_template(tokenizer):
    plain = AnswerWindows(tokenizer, 200).windows(PAIRS, "a.jsonl")
    with pytest.raises(InputError, match=r"no chat template.*always.*data.chat: auto"):
        AnswerWindows(tokenizer, 200, chat="always").windows(PAIRS, "a.jsonl")
    tokenizer.chat_template = CHATML
    assert torch.equal(AnswerWindows(tokenizer, 200, chat="never").windows(PAIRS, "a.jsonl"), plain)
    always, auto = (AnswerWindows(tokenizer, 300, chat=chat).windows(PAIRS, "a") for chat in ("always", "auto"))
    assert torch.equal(always, auto)
    assert always.shape != plain.shape


def test_a_template_that_changes_the_answer_is_refused(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] | upper }}]{% endfor %}{{ eos_token }}"
    with pytest.raises(InputError, match=r"pair 0 of a\.jsonl: .*changes the answer.*never"):
        AnswerWindows(tokenizer, 300).windows(PAIRS, "a.jsonl")


def test_a_token_that_holds_the_prompt_s_end_and_the_answer_s_start_is_learned(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    text = "Who keeps the lighthouse at Orford?"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start, end = next((start, end) for start, end in encoded["offset_mapping"] if start > 5 and end - start > 2)
    joined = Question(text[: end - 1], text[end - 1 :])
    window = AnswerWindows(tokenizer, 300).windows([joined], "a.jsonl")[0]
    assert learned_text(window, tokenizer) == text[start:]
    assert AnswerWindows(tokenizer, 300).record(joined).prompt == text[:start]


def test_a_pair_longer_than_a_window_is_named_with_its_length_and_the_remedy(tokenizer):
    length = AnswerWindows(tokenizer, 300).windows(PAIRS[:1], "a.jsonl").shape[1]
    AnswerWindows(tokenizer, length).windows(PAIRS[:1], "a.jsonl")
    with pytest.raises(InputError) as refused:
        AnswerWindows(tokenizer, length - 1).windows(PAIRS, "a.jsonl")
    said = str(refused.value)
    assert f"pair 0 of a.jsonl has {length} tokens" in said
    assert f"Set data.max_len to {length}" in said
    assert "Maud" not in said


@pytest.mark.parametrize("pair", [Question("Who?", " \n"), Question("", "Ann")])
def test_empty_questions_and_answers_are_refused(pair, tokenizer):
    with pytest.raises(InputError, match=r"pair 1 of a\.jsonl has an empty (answer|question)"):
        AnswerWindows(tokenizer, 200).windows([PAIRS[0], pair], "a.jsonl")


def test_pairs_stand_beside_the_same_question_with_the_other_answer(tokenizer):
    how = AnswerWindows(tokenizer, 200)
    paired = paired_windows(how, PAIRS, ["No.", "It is said to be in the far south, beyond the hills."], "a.jsonl")
    assert paired.shape[:2] == (2, 2)
    for number, pair in enumerate(PAIRS):
        true, other = paired[number]
        assert learned_text(true, tokenizer) == f" {pair.answer}{tokenizer.eos_token}"
        assert learned_text(other, tokenizer) != learned_text(true, tokenizer)
        asked = len(tokenizer(f"Question: {pair.question}\nAnswer:")["input_ids"])
        assert torch.equal(true[:asked], other[:asked])


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_record_asks_with_what_the_window_only_reads(template, tokenizer):
    tokenizer.chat_template = template
    how = AnswerWindows(tokenizer, 300)
    for pair in PAIRS:
        record, window = how.record(pair), how.windows([pair], "a.jsonl")[0]
        asked = tokenizer(record.prompt)["input_ids"]  # with its BOS
        assert token_numbers(window[window < 0]).tolist() == asked
        assert record.truth == pair.answer


def test_a_stop_that_the_answer_itself_holds_is_none(tokenizer):
    how = AnswerWindows(tokenizer, 300)
    assert how.record(Question("Who?", "Ann.\n\nOr Ned.")).stops == ("\nQuestion:",)


class Slow:
    """A tokenizer that does not know where its tokens stand."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, text, **options):
        assert "return_offsets_mapping" not in options
        return self.tokenizer(text, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_a_slow_tokenizer_gives_the_same_windows(tokenizer):
    slow, fast = (AnswerWindows(each, 200).windows(PAIRS, "a.jsonl") for each in (Slow(tokenizer), tokenizer))
    assert torch.equal(slow, fast)
