"""Classifiers that replace or follow a network's last layer: a slot of the state, how it learns, and the logits it gives."""

from cl_func.classifiers import bias_correction, linear, nearest_mean, slda
from cl_func.classifiers.bias_correction import BiasCorrection
from cl_func.classifiers.linear import LinearClassifier
from cl_func.classifiers.nearest_mean import NearestMean
from cl_func.classifiers.slda import SLDA

__all__ = ["SLDA", "BiasCorrection", "LinearClassifier", "NearestMean", "bias_correction", "linear", "nearest_mean", "slda"]
