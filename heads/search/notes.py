"""What a leaderboard does not say by itself: what is chance, what flatters, and where to look further."""

from collections.abc import Sequence

import numpy as np

from featurecache.cache import FeatureSet
from heads.artifact import TrainedHead
from heads.catalog import head_spec
from heads.parameters import Parameter
from heads.rows import Targets
from heads.search.grid import FLOOR
from heads.search.judging import Judging, usable_rows
from heads.search.ranking import NOISE, Entry, best_of_each
from heads.training import NO_VALID_ROWS

_EDGED = 3  # values of a grid that has an inside
_UNFINISHED = "did not converge"


def notes_on(leaderboard: Sequence[Entry], best: TrainedHead, images: FeatureSet, judging: Judging) -> list[str]:
    """Return what the user must know about a leaderboard, one line each.

    Parameters
    ----------
    leaderboard
        Best first.
    best
        The first of it, trained again.
    images
        All rows of the cache.
    judging
        Which of them trained and judged.
    """
    train, valid = usable_rows(images, judging)
    return [
        *_on_noise(leaderboard),
        *_on_flattery(leaderboard, images, len(train) if judging.folds else len(valid)),
        *_on_edges(leaderboard),
        *_on_failures(leaderboard),
        *_on_leaks(images, train, valid),
        *_on_training(leaderboard[0], best, judging),
    ]


def _on_noise(leaderboard: Sequence[Entry]) -> list[str]:
    best, *others = (entry for entry in best_of_each(leaderboard) if not entry.error)
    if not others:
        return []
    near = [entry for entry in others if entry.p_value is not None and entry.p_value > NOISE]
    test = f"exact McNemar test on the same rows, p > {NOISE}"
    if not near:
        return [f"no other head and tap is within noise of the best, {_named(best)} ({test})"]
    names = ", ".join(f"{_named(entry)} ({entry.p_value:.2f})" for entry in near)
    notes = [f"{len(near)} of {len(others)} other heads and taps are within noise of the best ({test}): {names}"]
    if FLOOR in {entry.candidate.head for entry in (best, *near)}:
        notes.append("nothing is better, beyond noise, than naming the most frequent class whatever the image")
    return notes


def _on_flattery(leaderboard: Sequence[Entry], images: FeatureSet, judged: int) -> list[str]:
    has_test = bool(np.any((images.splits == "test") & (images.y >= 0)))
    remedy = (
        "let the test split, which nothing was chosen by, judge the head"
        if has_test
        else "there is no test split to judge the head by: put some images aside as one"
    )
    if len(leaderboard) == 1:
        return []
    return [f"the accuracy of the best of {len(leaderboard)} tries on the same {judged} rows flatters; {remedy}"]


def _on_edges(leaderboard: Sequence[Entry]) -> list[str]:
    """Say where the best value of a parameter is the lowest or highest tried, though it could go further."""
    best = {entry.candidate.head: entry for entry in reversed(leaderboard) if not entry.error}
    return [
        note
        for head, entry in best.items()
        for parameter in head_spec(head).parameters
        if (note := _on_edge(entry, parameter, leaderboard))
    ]


def _on_edge(best: Entry, parameter: Parameter, leaderboard: Sequence[Entry]) -> str:
    """Say that the best candidate of a head has the lowest or highest value tried of a parameter; else say nothing."""
    value = best.candidate.params[parameter.name]
    tried = sorted({number for entry in leaderboard if (number := _number(entry, best, parameter)) is not None})
    if _number(best, best, parameter) is None or len(tried) < _EDGED:
        return ""
    for edge, bound, side in ((tried[0], parameter.low, "low"), (tried[-1], parameter.high, "high")):
        if value == edge != bound:
            return (
                f"the best {parameter.name} of {_named(best)}, {value:g}, is the {side}est of {len(tried)} tried: "
                f"try {side}er ones, with -p {best.candidate.head}.{parameter.name}=VALUES"
            )
    return ""


def _number(entry: Entry, best: Entry, parameter: Parameter) -> float | None:
    """Return the value of a numeric parameter of a candidate of the same head and tap as another."""
    ours, theirs = entry.candidate, best.candidate
    if (ours.head, ours.tap) != (theirs.head, theirs.tap) or parameter.kind not in {"int", "float"}:
        return None
    value = ours.params[parameter.name]
    return None if isinstance(value, str) else float(value)


def _on_failures(leaderboard: Sequence[Entry]) -> list[str]:
    failed = [entry for entry in leaderboard if entry.error]
    unfinished = [entry for entry in leaderboard if any(_UNFINISHED in text for text in entry.warnings)]
    return [
        f"{len(some)} of {len(leaderboard)} candidates {what}: {', '.join(_counts(some))}"
        for some, what in ((failed, "failed, and come last"), (unfinished, _UNFINISHED))
        if some
    ]


def _counts(entries: Sequence[Entry]) -> list[str]:
    """Return how many of some candidates are of which head."""
    heads = [entry.candidate.head for entry in entries]
    return [f"{heads.count(head)} of {head}" for head in dict.fromkeys(heads)]


def _on_leaks(images: FeatureSet, train: Targets, valid: Targets) -> list[str]:
    same = int(np.count_nonzero(np.isin(images.sha256[valid].astype(str), images.sha256[train].astype(str))))
    if not same:
        return []
    return [f"{same} of the {len(valid)} rows that judge have the content of a training row, which flatters as well"]


def _on_training(first: Entry, best: TrainedHead, judging: Judging) -> list[str]:
    """Say what the final training says besides, and whether it came out as before."""
    notes = [text for text in best.training.warnings if text not in first.warnings]
    if judging.folds:  # they have said how the head does on images that it has not seen
        notes = [text for text in notes if text != NO_VALID_ROWS]
    again, before = best.training.valid_accuracy, first.accuracy
    if judging.folds or again is None or before is None or again == before.value:
        return notes
    return [f"trained again, the best head has a valid accuracy of {again:.4f}, not {before.value:.4f}", *notes]


def _named(entry: Entry) -> str:
    return f"{entry.candidate.head} on {entry.candidate.tap}"
