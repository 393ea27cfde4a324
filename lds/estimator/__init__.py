"""Structure learning as a scikit-learn estimator."""

from lds._keywords import explain_classes
from lds.estimator._classifier import LDSClassifier

__all__ = ["LDSClassifier"]

explain_classes(LDSClassifier)
