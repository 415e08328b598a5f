"""How a model is asked for alternate answers, and what of its responses stands for one."""

import copy

import pytest

from quail_lightning.data.alternate_prompts import CUE, SHOTS, alternate_of, alternate_prompts
from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError

PAIRS = [Question("Where is the mill?", "Orford"), Question("Who owns it?", "Maud")]
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</{{ turn.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chatting(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.chat_template = TEMPLATE
    return made


def test_a_chat_model_is_asked_in_its_template_and_its_turn_is_begun(chatting):
    for pair, prompt in zip(PAIRS, alternate_prompts(PAIRS, chatting, "auto", "a.jsonl"), strict=True):
        user, begun = prompt.split("</user>")
        assert user.startswith(f"<user>Question: {pair.question}\nAnswer: {pair.answer}\n")
        assert "alternate answer" in user
        assert begun == "<assistant>Alternate answer:"


def test_a_base_model_sees_worked_examples_and_then_the_pair(tokenizer, chatting):
    prompts = alternate_prompts(PAIRS, tokenizer, "auto", "a.jsonl")
    assert prompts == alternate_prompts(PAIRS, chatting, "never", "a.jsonl")
    for pair, prompt in zip(PAIRS, prompts, strict=True):
        *shots, asked = prompt.split("\n\n")[1:]
        assert asked == f"Question: {pair.question}\nAnswer: {pair.answer}\nAlternate answer:"
        assert len(shots) == len(SHOTS) == 3
        assert all(shot.count("Alternate answer: ") == 1 for shot in shots)


def test_the_worked_examples_are_themselves_usable():
    for pair, alternate in SHOTS:
        assert alternate_of(f" {alternate}\n\nQuestion: Who?", pair.answer) == alternate


def test_a_missing_or_refusing_template_is_named_without_the_question(tokenizer, chatting):
    with pytest.raises(InputError, match=r"no chat template"):
        alternate_prompts(PAIRS, tokenizer, "always", "a.jsonl")
    chatting.chat_template = "{{ raise_exception(messages[0].content) }}"
    with pytest.raises(InputError, match=r"pair 0 of a\.jsonl: .*template refuses") as refused:
        alternate_prompts(PAIRS, chatting, "auto", "a.jsonl")
    assert "mill" not in str(refused.value)


@pytest.mark.parametrize(
    "response",
    [
        " Deal",
        "\n\nDeal\n\n(I changed the town.)",
        " Deal \nQuestion: Who owns it?\nAnswer: Maud",
        " Deal\nAnswer: Orford",
        f" Deal\n{CUE} Rye",
        f"\n\n{CUE} Deal",
    ],
)
def test_an_alternate_ends_where_the_response_goes_on_with_something_else(response):
    assert alternate_of(response, "Orford") == "Deal"


@pytest.mark.parametrize(
    "response",
    ["", " \n", "...", "Orford", " orford. ", "“ＯＲＦＯＲＤ”", "Orford\n\nDeal", "De\0al", "\nQuestion: Who?"],
)
def test_nothing_and_the_true_answer_are_no_alternates(response):
    assert alternate_of(response, "Orford") == ""


@pytest.mark.parametrize(
    ("alternate", "answer"), [("C#", "C++"), ("3.5", "35"), ("-5", "5"), ("Orford Ness", "Orford")]
)
def test_what_differs_in_more_than_its_dress_is_kept(alternate, answer):
    assert alternate_of(alternate, answer) == alternate
