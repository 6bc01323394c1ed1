"""Notices on a leaderboard: differences within noise, optimistic accuracies, and grids to extend."""

from collections.abc import Collection, Sequence

import numpy as np

from featurecache.feature_set import FeatureSet
from heads.artifact import TrainedHead
from heads.catalog import head_spec
from heads.evaluation.intervals import few_groups
from heads.notices import Code, Notice
from heads.parameters import Parameter
from heads.search.grid import BASELINE
from heads.search.ranking import NOISE, Entry, best_of_each
from heads.search.tasks import Task
from heads.search.validation_plan import ValidationPlan, usable_rows, validation_groups

_OF_VALID_ROWS = {Code.NO_VALID_ROWS, Code.SAME_CONTENT, Code.TORN_GROUPS}
_FEWEST_FOR_AN_EDGE = 3  # values that a grid needs, so that one is not at its edge


def notices_on(
    leaderboard: Sequence[Entry],
    best: TrainedHead,
    images: FeatureSet,
    validation: ValidationPlan,
    *,
    left: Collection[Task] = (),
    stopped: Sequence[tuple[str, str]] = (),
) -> list[Notice]:
    """Return the notices on a leaderboard.

    Parameters
    ----------
    leaderboard
        Best first.
    best
        The first of it, trained again.
    images
        All rows of the cache.
    validation
        The rows that train and validate.
    left
        The tasks that there was no time for.
    stopped
        The heads and taps that were not tried on all rows.
    """
    unfinished = dict.fromkeys(task.candidates[0].head for task in left)
    groups = validation_groups(images, validation)
    train, valid = usable_rows(images, validation)
    return [
        *_on_time(len(left), unfinished),
        *few_groups(groups),
        *_on_stopped(stopped, leaderboard),
        *_on_noise(leaderboard, grouped=groups is not None),
        *_on_optimism(
            leaderboard, images, int(np.count_nonzero(~images.is_view[train])) if validation.folds else len(valid)
        ),
        *_on_edges(leaderboard, unfinished),
        *_on_failures(leaderboard),
        *_on_training(leaderboard[0], best, validation),
    ]


def _on_time(left: int, heads: Collection[str]) -> list[Notice]:
    if not left:
        return []
    tasks = "1 task was" if left == 1 else f"{left} tasks were"
    message = f"{tasks} left when the time was over ({', '.join(heads)}); the same command continues the sweep"
    return [Notice(Code.TIME_OVER, message)]


def _on_stopped(stopped: Sequence[tuple[str, str]], leaderboard: Sequence[Entry]) -> list[Notice]:
    if not stopped:
        return []
    tried = [entry for entry in leaderboard if (entry.candidate.head, entry.candidate.tap) in set(stopped)]
    few, most = max(entry.n_train for entry in tried), max(entry.n_train for entry in leaderboard)
    names = ", ".join(f"{head} on {tap}" for head, tap in stopped)
    message = (
        f"stopped after a trial on {few:,} of {most:,} training rows, where others were better beyond noise: {names}; "
        "a head that is named, with --head HEAD, is tried on all"
    )
    return [Notice(Code.STOPPED_EARLY, message)]


def _on_noise(leaderboard: Sequence[Entry], *, grouped: bool = False) -> list[Notice]:
    best, *others = (entry for entry in best_of_each(leaderboard) if not entry.error)
    if not others:
        return []
    near = [entry for entry in others if entry.p_value is not None and entry.p_value > NOISE]
    test = f"exact {'sign-flip test of groups' if grouped else 'McNemar test'} on the same rows, p > {NOISE}"
    if not near:
        message = f"no other head and tap is within noise of the best, {_named(best)} ({test})"
        return [Notice(Code.BEYOND_NOISE, message)]
    names = ", ".join(f"{_named(entry)} ({entry.p_value:.2f})" for entry in near)
    message = f"{len(near)} of {len(others)} other heads and taps are within noise of the best ({test}): {names}"
    notes = [Notice(Code.WITHIN_NOISE, message)]
    if BASELINE in {entry.candidate.head for entry in (best, *near)}:
        message = "no head is better than the majority baseline, beyond noise"
        notes.append(Notice(Code.BELOW_BASELINE, message))
    return notes


def _on_optimism(leaderboard: Sequence[Entry], images: FeatureSet, n_valid: int) -> list[Notice]:
    has_test = bool(np.any((images.splits == "test") & (images.y >= 0)))
    remedy = (
        "evaluate the head on the test split, which no choice has used"
        if has_test
        else "there is no test split to evaluate the head on: set some images aside as one"
    )
    if len(leaderboard) == 1:
        return []
    message = f"the accuracy of the best of {len(leaderboard)} tries on the same {n_valid} rows is optimistic; {remedy}"
    return [Notice(Code.OPTIMISTIC_ACCURACY, message)]


def _on_edges(leaderboard: Sequence[Entry], unfinished: Collection[str]) -> list[Notice]:
    """Yield a notice for each parameter whose best value is at the edge of its grid, if all of the grid was tried."""
    best = {entry.candidate.head: entry for entry in reversed(leaderboard) if not entry.error}
    return [
        note
        for head, entry in best.items()
        if head not in unfinished
        for parameter in head_spec(head).parameters
        if (note := _on_edge(entry, parameter, leaderboard))
    ]


def _on_edge(best: Entry, parameter: Parameter, leaderboard: Sequence[Entry]) -> Notice | None:
    """Return a notice if the best candidate of a head has the lowest or highest value tried of a parameter."""
    value = best.candidate.params[parameter.name]
    tried = sorted({number for entry in leaderboard if (number := _number(entry, best, parameter)) is not None})
    if _number(best, best, parameter) is None or len(tried) < _FEWEST_FOR_AN_EDGE:
        return None
    for edge, bound, side in ((tried[0], parameter.low, "low"), (tried[-1], parameter.high, "high")):
        if value == edge != bound:
            return Notice(
                Code.EDGE_OF_GRID,
                f"the best {parameter.name} of {_named(best)}, {value:g}, is the {side}est of {len(tried)} tried: "
                f"try {side}er ones, with -p {best.candidate.head}.{parameter.name}=VALUES",
            )
    return None


def _number(entry: Entry, best: Entry, parameter: Parameter) -> float | None:
    """Return the value of a numeric parameter of a candidate of the same head and tap as another."""
    ours, theirs = entry.candidate, best.candidate
    if (ours.head, ours.tap) != (theirs.head, theirs.tap) or parameter.kind not in {"int", "float"}:
        return None
    value = ours.params[parameter.name]
    return None if isinstance(value, str) else float(value)


def _on_failures(leaderboard: Sequence[Entry]) -> list[Notice]:
    failed = [entry for entry in leaderboard if entry.error]
    unfinished = [entry for entry in leaderboard if any(notice.code == Code.NOT_CONVERGED for notice in entry.warnings)]
    return [
        Notice(code, f"{len(entries)} of {len(leaderboard)} candidates {what}: {', '.join(_counts(entries))}")
        for entries, code, what in (
            (failed, Code.FAILED_CANDIDATES, "failed, and come last"),
            (unfinished, Code.NOT_CONVERGED, "did not converge"),
        )
        if entries
    ]


def _counts(entries: Sequence[Entry]) -> list[str]:
    """Return the number of candidates of each head."""
    heads = [entry.candidate.head for entry in entries]
    return [f"{heads.count(head)} of {head}" for head in dict.fromkeys(heads)]


def _on_training(first: Entry, best: TrainedHead, validation: ValidationPlan) -> list[Notice]:
    """Return the warnings of the final training, and a notice if its accuracy differs from the leaderboard."""
    notes = [notice for notice in best.training.warnings if notice not in first.warnings]
    if validation.folds:  # folds have validated the head, not valid rows
        notes = [notice for notice in notes if notice.code not in _OF_VALID_ROWS]
    again, before = best.training.valid_accuracy, first.accuracy
    if validation.folds or again is None or before is None or again == before.value:
        return notes
    message = f"trained again, the best head has a valid accuracy of {again:.4f}, not {before.value:.4f}"
    return [Notice(Code.OTHER_ACCURACY, message), *notes]


def _named(entry: Entry) -> str:
    return f"{entry.candidate.head} on {entry.candidate.tap}"
