"""Label likelihoods, accuracy, macro-F1 and AUROC."""

import pytest
import torch

from quail_lightning.data.questions import LabelledTexts
from quail_lightning.evaluation.classification import auroc, classification_measures, label_scores, macro_f1
from quail_lightning.run.results import Undefined


def test_score_is_the_difference_of_the_labels_own_log_likelihoods(model, tokenizer):
    texts = LabelledTexts(("It rains.\nLabel:", "Snow\nLabel:"), (0, 1), (" fact", " fiction"))
    scores = label_scores(model, tokenizer, texts, batch_size=3)
    model.eval()
    for prompt, score in zip(texts.prompts, scores, strict=True):
        sums = []
        for word in texts.verbalizers:
            ids = torch.tensor([[0, *tokenizer(prompt + word, add_special_tokens=False)["input_ids"]]])
            with torch.no_grad():
                logs = model(input_ids=ids).logits.double().log_softmax(-1)[0]
            start = 1 + len(prompt)  # one token a byte, and BOS
            sums.append(sum(logs[at - 1, ids[0, at]].item() for at in range(start, ids.shape[1])))
        assert score == pytest.approx(sums[1] - sums[0], abs=1e-4)


def test_figures_of_a_set_worked_by_hand():
    # named 1 1 0 0 1 (a tie names class 0), true 1 0 0 1 1
    found = classification_measures("forget", [2.0, 1.0, -1.0, 0.0, 3.0], [1, 0, 0, 1, 1])
    assert found["label_accuracy_forget"].value == pytest.approx(60)
    # class 0: TP 1, FP 1, FN 1 → 1/2; class 1: TP 2, FP 1, FN 1 → 2/3
    assert found["label_f1_forget"].value == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    # pairs (1 above 0): 2>1, 2>-1, 0<1, 0>-1, 3>1, 3>-1 → 5 of 6
    assert found["label_auroc_forget"].value == pytest.approx(5 / 6)
    assert all(measure.n == 5 and measure.low <= measure.value <= measure.high for measure in found.values())


def test_a_tie_of_scores_counts_half():
    assert auroc([1.0, 1.0], [0, 1]).value == 0.5


def test_one_class_alone_has_no_auroc_and_its_f1_counts_no_absent_class():
    found = classification_measures("forget", [1.0, 2.0, -1.0], [1, 1, 1])
    assert found["label_auroc_forget"] == Undefined("all texts are of one class")
    # class 1: TP 2, FN 1 → 4/5; class 0: named once, never true → 0
    assert found["label_f1_forget"].value == pytest.approx(40)
    assert macro_f1([1, 1], [1, 1]).value == 100


def test_no_text_or_a_diverged_model_gives_undefined_and_never_zero():
    empty = classification_measures("retain", [], [])
    broken = classification_measures("retain", [1.0, float("nan")], [0, 1])
    assert {m.reason for m in empty.values()} == {"no texts"}
    assert {m.reason for m in broken.values()} == {"1 of 2 texts have no finite score"}
