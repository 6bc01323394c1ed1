"""What every head inherits: checked rows, classes in order, fits that share work, and the record of epochs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from heads.base import IndependentHead, fit_together, require_trainable
from heads.epochs import Epoch, Monitor
from heads.errors import HeadError, TrainingError
from heads.families.affine import AffineModel
from heads.notices import Code, Notice
from heads.parameters import HeadSpec

X = np.arange(12, dtype=np.float32).reshape(6, 2)
y = np.array([7, 4, 4, 9, 7, 4])


SAID = Notice(Code.LIBRARY_WARNING, "fake")


@dataclass(slots=True, kw_only=True, eq=False)
class Fake(IndependentHead):
    """Gives every row the classes' shares, to a power; fails if the power is 0."""

    spec: ClassVar[HeadSpec] = HeadSpec(name="fake", summary="Shares of classes.", parameters=())

    power: float = 1.0

    def _learn(self, X, targets, monitor):
        if not self.power:
            raise TrainingError("the power is 0")
        monitor.record(0.5, 0.5, None)
        shares = np.bincount(targets) ** self.power
        return AffineModel.learned(np.zeros((len(shares), X.shape[1])), np.log(shares / shares.sum())), (SAID,)


# One head


def test_targets_are_positions_in_ascending_classes():
    head = Fake().fit(X, y)
    assert head.classes_.tolist() == [4, 7, 9]
    np.testing.assert_allclose(head.predict_proba(X[:1]), [[3 / 6, 2 / 6, 1 / 6]])
    assert head.warnings_ == (SAID,)
    assert head.names_ == ()


def test_names_are_those_of_the_classes_that_occur():
    assert Fake().fit(X, y, names=tuple("abcdefghij")).names_ == ("e", "h", "j")


def test_a_head_without_epochs_has_nothing_to_go_on_with():
    with pytest.raises(TrainingError, match="a Fake is not trained in epochs, so it cannot continue from a head"):
        Fake().fit(X, y, start=Fake().fit(X, y).model_)


def test_an_untrained_head_says_so():
    with pytest.raises(HeadError, match="this Fake has not been trained: call fit first"):
        Fake().predict_proba(X)


# Several heads


def test_heads_that_are_fitted_together_learn_what_each_would_alone():
    heads, monitors = [Fake(power=1), Fake(power=2)], [Monitor(), Monitor()]
    assert fit_together(heads, X, y, names=tuple("abcdefghij"), monitors=monitors) == [None, None]
    for head, monitor in zip(heads, monitors, strict=True):
        alone = Fake(power=head.power).fit(X, y)
        np.testing.assert_array_equal(head.predict_proba(X), alone.predict_proba(X))
        assert (head.names_, head.warnings_) == (("e", "h", "j"), (SAID,))
        assert [epoch.epoch for epoch in monitor.epochs] == [1]


def test_a_head_that_fails_does_not_stop_the_others():
    heads = [Fake(power=1), Fake(power=0), Fake(power=2)]
    faults = fit_together(heads, X, y)
    assert [str(fault) for fault in faults] == ["None", "the power is 0", "None"]
    assert heads[2].predict_proba(X).shape == (6, 3)
    with pytest.raises(HeadError, match="has not been trained"):
        heads[1].predict_proba(X)


def test_rows_that_cannot_be_trained_on_stop_all():
    with pytest.raises(TrainingError, match="all 6 rows are of class 1"):
        fit_together([Fake(), Fake()], X, np.ones(6, int))


# Rows


@pytest.mark.parametrize("row", [0, 3, 5])
def test_a_row_that_is_not_finite_is_known_by_its_number(row):
    poisoned = X.copy()
    poisoned[row, 1] = np.nan
    with pytest.raises(TrainingError, match=f"row {row} holds features that are not finite") as caught:
        require_trainable(poisoned, y)
    assert caught.value.row == row


# Epochs


def test_a_monitor_numbers_epochs_and_passes_them_on():
    seen = []
    monitor = Monitor(np.array([[1.0], [-1.0]]), np.array([1, 1]), seen.append)
    assert monitor.kept is None
    first = monitor.record(0.5, 0.8, (0.6, 0.7))
    monitor.record(0.4, 0.9, None)
    assert seen == monitor.epochs == [Epoch(1, 0.5, 0.8, 0.6, 0.7), Epoch(2, 0.4, 0.9, None, None)]
    assert first == seen[0]
    assert monitor.kept == 2


def test_a_monitor_goes_on_with_earlier_epochs():
    earlier = (Epoch(1, 0.5, 0.8, None, None),)
    monitor = Monitor(earlier=earlier)
    monitor.record(0.4, 0.9, None)
    assert monitor.epochs == [*earlier, Epoch(2, 0.4, 0.9, None, None)]
    assert len(earlier) == 1


def test_no_valid_rows_are_none():
    assert Monitor().valid is None
    assert Monitor(np.zeros((0, 1)), np.zeros(0, int)).valid is None
    rows, labels = Monitor(X, y).valid
    assert rows is X
    assert labels is y
