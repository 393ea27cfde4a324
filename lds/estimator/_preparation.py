"""Features of an estimator made ready for a network; new rows are treated like those of `fit`."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import Normalizer, StandardScaler

from lds._sparse import of_safe_size
from lds.errors import DataError


class Preparation:
    """Words weighted by their rareness, then a scale: what `lds.data.prepare` does, with the figures of `fit` kept.

    Args:
        features: "given" or "tfidf".
        scale: "none", "unit" or "standard".
    """

    def __init__(self, features: str, scale: str) -> None:
        self._steps: list[Any] = [TfidfTransformer()] if features == "tfidf" else []
        self._steps += {"none": [], "unit": [Normalizer()], "standard": [StandardScaler()]}[scale]

    def fit_transform(self, X: Any) -> Any:
        """Return the rows, dense or CSR in single precision as they came.

        Raises:
            DataError: counts of words are negative, or standard columns would make sparse rows dense.
        """
        return self._run(X, "fit_transform")

    def transform(self, X: Any) -> Any:
        """Return new rows, by the figures of the rows that `fit_transform` saw.

        Raises:
            DataError: as for `fit_transform`.
        """
        return self._run(X, "transform")

    def _run(self, X: Any, method: str) -> Any:
        dense = not scipy.sparse.issparse(X)
        for step in self._steps:
            if isinstance(step, StandardScaler) and not dense:
                raise DataError('scale="standard" would make sparse rows dense; take scale="unit", or dense rows')
            if isinstance(step, TfidfTransformer) and X.shape[0] and X.min() < 0:
                raise DataError(f'features="tfidf" needs counts or shares of words, but {X.min():g} came; drop it')
            made: Any = getattr(step, method)(X if isinstance(step, StandardScaler) else of_safe_size(X))
            X = np.asarray(made.todense()) if dense and isinstance(step, TfidfTransformer) else made
        return X.astype(np.float32, copy=False)
