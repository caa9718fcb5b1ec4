"""Classifiers that replace or follow a network's last layer: a slot of the state, how it learns, and the logits it gives."""

from cl_func.classifiers import acil, bias_correction, fecam, linear, nearest_mean, ranpac, slda
from cl_func.classifiers.acil import ACIL
from cl_func.classifiers.bias_correction import BiasCorrection
from cl_func.classifiers.fecam import FeCAM, MahalanobisClassifier
from cl_func.classifiers.linear import LinearClassifier
from cl_func.classifiers.nearest_mean import NearestMean
from cl_func.classifiers.ranpac import RanPAC, RegressionSums
from cl_func.classifiers.slda import SLDA

__all__ = [
    "ACIL",
    "SLDA",
    "BiasCorrection",
    "FeCAM",
    "LinearClassifier",
    "MahalanobisClassifier",
    "NearestMean",
    "RanPAC",
    "RegressionSums",
    "acil",
    "bias_correction",
    "fecam",
    "linear",
    "nearest_mean",
    "ranpac",
    "slda",
]
