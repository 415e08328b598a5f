"""M2 and M4, knowledge memorization: can the model still answer questions about a text?"""

from __future__ import annotations

from quail_lightning.data.questions import QuestionSet

NEW_TOKENS = 32  # MUSE's length of an answer
STOPS = ("\n\n", "\nQuestion", "Question:")  # where a base model that goes on begins something else


def question_prompts(questions: QuestionSet) -> list[str]:
    """Each question after the worked pairs, ending in ``Answer: `` with the trailing space, as MUSE does."""
    shots = "".join(f"Question: {pair.question}\nAnswer: {pair.answer}\n\n" for pair in questions.examples)
    return [f"{shots}Question: {asked.question}\nAnswer: " for asked in questions.questions]


def truncate_answer(response: str) -> str:
    """The response up to the first of ``STOPS``."""
    return response[: min((at for stop in STOPS if (at := response.find(stop)) >= 0), default=len(response))]
