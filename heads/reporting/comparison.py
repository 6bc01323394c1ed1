"""The report of a comparison: the best head, whether the differences are significant, and disagreements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurecache.text import counted, number
from heads.report import Fact, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads.evaluation.compare import Comparison, Pair
    from heads.report.thumbnails import Originals

_SHOWN = 60  # images on which heads disagree that are shown
_NOISE = 0.05  # a p-value above it is no evidence of a difference


def comparison_report(
    comparison: Comparison,
    *,
    originals: Originals | None = None,
    network: str = parts.A_NETWORK,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of a comparison.

    Parameters
    ----------
    comparison
        The comparison.
    originals
        Access to the image files; None for galleries without images.
    network
        The name of the network that made the features.
    about
        Further facts for the end of the report, such as what each head is: label to text.

    Examples
    --------
    >>> other = heads.train(cache, "majority", tap="features")
    >>> rows = cache.features("features", "valid")
    >>> comparison = heads.compare({"centroid": evaluation, "majority": heads.evaluate(other, rows)})
    >>> heads.comparison_report(comparison).title
    '2 heads on the same images'
    """
    from heads.figures import accuracies

    evaluations = comparison.evaluations
    best = max(evaluations, key=lambda name: evaluations[name].accuracy.value)
    disputed = comparison.disagreements()
    sections = (
        Section("How good they are", (_heads(comparison), parts.figure_block(accuracies(comparison)))),
        Section("Whether they differ", (_verdict(comparison, best), _pairs(comparison))),
        Section("Where they disagree", (_gallery(comparison, originals, network),)),
    )
    n = len(evaluations[best])
    return Report(
        title=f"{counted(len(evaluations), 'head')} on the same images",
        subtitle=f"{counted(n, 'image')} of {', '.join(evaluations[best].classes[:4])}"
        + (" and more" if len(evaluations[best].classes) > 4 else ""),  # noqa: PLR2004
        facts=(
            Fact("highest accuracy", parts.share(evaluations[best].accuracy.value), best),
            Fact(
                "within noise of it",
                f"{_within_noise(comparison, best):,} of {len(evaluations) - 1:,}",
                f"exact {_test(comparison)} with Holm's correction, p > {_NOISE}",
            ),
            Fact("images they disagree on", f"{len(disputed):,}", parts.share(len(disputed) / n)),
        ),
        warnings=tuple(map(str, comparison.warnings)),
        sections=sections,
        about=(*(about or {}).items(), ("intervals", parts.intervals(comparison.n_groups)), *parts.made_by()),
    )


def _heads(comparison: Comparison) -> Table:
    rows = []
    for name, evaluation in sorted(comparison.evaluations.items(), key=lambda item: (-item[1].accuracy.value, item[0])):
        rows.append(
            (
                name,
                parts.share(evaluation.accuracy.value),
                parts.share_range(evaluation.accuracy),
                parts.share(evaluation.balanced_accuracy),
                number(evaluation.log_loss),
                number(evaluation.roc_auc),
                number(evaluation.calibration_error),
            )
        )
    header = ("head", "accuracy", "95 % interval", "balanced accuracy", "log loss", "ROC AUC", "calibration error")
    return Table(header, tuple(rows), "The heads, the most accurate first")


def _pairs(comparison: Comparison) -> Table:
    rows = tuple(
        (
            pair.a,
            pair.b,
            f"{pair.only_a:,}",
            f"{pair.only_b:,}",
            f"{100 * pair.difference.value:+.2f}",
            f"{100 * pair.difference.low:+.2f} to {100 * pair.difference.high:+.2f}",
            f"{pair.p_value:.3g}",
            f"{pair.p_adjusted:.3g}",
        )
        for pair in comparison.pairs
    )
    header = ("first", "second", "only first right", "only second right", "points", "95 % interval", "p", "p, Holm")
    caption = (
        "Accuracy of the first minus that of the second, in percentage points (interval: paired bootstrap), and the "
        f"p-value of the exact {_test(comparison)}. The verdict uses p after Holm's correction for multiple tests. An "
        "interval is not corrected: it may exclude 0 where the corrected test finds no difference"
    )
    return Table(header, rows, caption, frozenset({0, 1}))


def _test(comparison: Comparison) -> str:
    return "McNemar test" if comparison.n_groups is None else "sign-flip test of groups"


def _verdict(comparison: Comparison, best: str) -> str:
    worse = [_other(pair, best) for pair in comparison.pairs if best in (pair.a, pair.b) and pair.p_adjusted <= _NOISE]
    others = len(comparison.evaluations) - 1
    if not worse:
        return f"On these images {best} is not significantly better than any other head."
    if len(worse) == others:
        return f"{best} is significantly better than every other head."
    return f"{best} is significantly better than {', '.join(worse)}, but not than the other heads."


def _within_noise(comparison: Comparison, best: str) -> int:
    return sum(best in (pair.a, pair.b) and pair.p_adjusted > _NOISE for pair in comparison.pairs)


def _other(pair: Pair, name: str) -> str:
    return pair.b if pair.a == name else pair.a


def _gallery(comparison: Comparison, originals: Originals | None, network: str) -> Gallery:
    disputed = comparison.disagreements()
    rows, count = disputed[:_SHOWN].tolist(), len(disputed)
    text = "The heads predict different classes for these images; the largest disagreements come first."
    if count > len(rows):
        text += f" {len(rows):,} of {count:,} are shown."
    return Gallery(
        "Disagreements",
        text,
        tuple(_disputed_image(comparison, row, originals, network) for row in rows),
        empty="None: all heads predict the same class for every image.",
    )


def _disputed_image(comparison: Comparison, row: int, originals: Originals | None, network: str) -> GalleryImage:
    tables = {name: evaluation.table for name, evaluation in comparison.evaluations.items()}
    first = next(iter(tables.values()))
    true, path = first.classes[first.true[row]], first.paths[row]
    said = {name: table.classes[table.predicted[row]] for name, table in tables.items()}
    lines = [f"labelled {true}"]
    for name, table in tables.items():
        mark = "✓" if said[name] == true else "✗"
        lines.append(f"{mark} {name}: {said[name]} {table.probabilities[row, table.predicted[row]]:.3f}")
    lines.extend(parts.imagenet_line(first, row, network))
    involved = tuple(dict.fromkeys([true, *said.values()]))
    return GalleryImage(path, tuple(lines), involved, Tone.NEUTRAL, parts.thumbnail(originals, path))
