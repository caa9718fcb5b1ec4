"""Evaluation: Probes that measure a model on every experience of a stream, by the kind of its targets."""

from cl_func.evaluation.probe import Evaluate, evaluate

__all__ = ["Evaluate", "evaluate"]
