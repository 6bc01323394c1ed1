"""Warnings and errors of scikit-learn in a training: notices of the head, and errors of the training."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from heads.errors import TrainingError
from heads.notices import Code, Notice


@contextmanager
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Record the warnings of scikit-learn, one for each text; its errors become errors of the training."""
    said: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield said
        except (ValueError, TypeError, ArithmeticError, LookupError) as e:
            reason = str(e).partition("\n")[0].rstrip(". ")
            raise TrainingError(f"the training broke down: {reason}; choose less extreme parameters") from e
    said += {str(warning.message): warning for warning in caught}.values()


def notices_of(said: list[warnings.WarningMessage], unconverged: Notice) -> Iterator[Notice]:
    """Yield a notice for each warning; one that the solver did not converge becomes ``unconverged`` with details."""
    from sklearn.exceptions import ConvergenceWarning

    for warning in said:
        text = str(warning.message).partition("\n")[0].rstrip(" :")
        if issubclass(warning.category, ConvergenceWarning):
            yield replace(unconverged, details=f"scikit-learn says: {text}")
        else:
            yield Notice(Code.LIBRARY_WARNING, f"{warning.category.__name__}: {text}")
