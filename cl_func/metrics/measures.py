"""What `cl.evaluate` measures, by its name in a history, and which way it is better.

The name may be a path, as of one of several evaluations: "valid.accuracy", "0.loss".
"""

from __future__ import annotations

# What stands for the accuracy in the metrics of runs, the first that they have, and which way it is better: None for what lies in
# [0, 1] as accuracies do.
MEASURES: dict[str, bool | None] = {"accuracy": None, "mean_average_precision": None, "mse": False}
# All that `cl.evaluate` measures.
KNOWN: dict[str, bool | None] = {**MEASURES, "class_accuracy": None, "f1": None, "loss": False, "r2": True}

BY_LAYER = "_by_layer"  # how the names of histories [time, L] end that are measured of each layer by `cl.probes`


def measured(history: str) -> str:
    """What a history measures: the last part of its path."""
    return history.rpartition(".")[2]


def of_evaluation(history: str, name: str) -> str:
    """A name for what a history says, with that of its evaluation where there are several: "accuracy (valid)"."""
    of = history.rpartition(".")[0]
    return f"{name} ({of})" if of else name


def in_words(history: str, measure: str | None = None) -> str:
    """What pictures call a history, or another measure of it: with blanks for underscores."""
    return of_evaluation(history, measured(history) if measure is None else measure).replace("_", " ")
