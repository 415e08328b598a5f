"""What a run of a sweep leaves to be chosen by, without the run."""

from quail_lightning.callbacks.keep_best import HISTORY
from quail_lightning.storage.vouched import write_vouched


def write_validation(folder, *epochs, goal=4.0, target=(1.0, 2.0), retain_windows=3):
    """Epochs as (NLL of the forget windows, NLL of the retain windows), the same at both precisions."""
    precisions = ("bf16", "nf4")
    folder.mkdir(parents=True, exist_ok=True)

    def nll(pair):
        return {name: {"forget": pair[0], "retain": pair[1]} for name in precisions}

    found = [
        {
            "epoch": number,
            "shortfall": max(0, goal - pair[0]) + max(0, pair[1] - target[1]),
            "nll": nll(pair),
            "verbatim": {},
            "delivered": {},
        }
        for number, pair in enumerate(epochs, 1)
    ]
    settings = {"windows": {"forget": 3, "retain": retain_windows}}
    content = {"settings": settings, "goal": goal, "target": nll(target), "epochs": found}
    write_vouched(folder / HISTORY, content)
