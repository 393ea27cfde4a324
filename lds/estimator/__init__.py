"""Structure learning as a scikit-learn estimator."""

from lds.estimator._classifier import LDSClassifier

__all__ = ["LDSClassifier"]
