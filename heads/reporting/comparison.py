"""A comparison as a report: which of several heads is best, whether that is more than luck, and where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heads.report import Fact, Gallery, Report, Section, Shot, Table, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads.comparison import Comparison, Pair
    from heads.thumbnails import Originals

_SHOTS = 60  # images on which heads disagree that are shown
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
        What is reported.
    originals
        Where the image files are; without them galleries show names and numbers only.
    network
        The name of the network that made the features.
    about
        Further facts for the end of the report, such as what each head is: label to text.
    """
    from heads.figures import accuracies

    evaluations = comparison.evaluations
    best = max(evaluations, key=lambda name: evaluations[name].accuracy.value)
    disputed = comparison.disagreements()
    sections = (
        Section("How good they are", (_heads(comparison), parts.picture(accuracies(comparison)))),
        Section("Whether they differ", (_verdict(comparison, best), _pairs(comparison))),
        Section("Where they disagree", (_gallery(comparison, originals, network),)),
    )
    n = len(evaluations[best])
    return Report(
        title=f"{parts.counted(len(evaluations), 'head')} on the same images",
        subtitle=f"{parts.counted(n, 'image')} of {', '.join(evaluations[best].classes[:4])}"
        + (" and more" if len(evaluations[best].classes) > 4 else ""),  # noqa: PLR2004
        facts=(
            Fact("highest accuracy", parts.share(evaluations[best].accuracy.value), best),
            Fact(
                "within noise of it",
                f"{_within_noise(comparison, best):,} of {len(evaluations) - 1:,}",
                f"exact McNemar test with Holm's correction, p > {_NOISE}",
            ),
            Fact("images they disagree on", f"{len(disputed):,}", parts.share(len(disputed) / n)),
        ),
        warnings=tuple(comparison.warnings),
        sections=sections,
        about=(*(about or {}).items(), *parts.made_by()),
    )


def _heads(comparison: Comparison) -> Table:
    rows = []
    for name, each in sorted(comparison.evaluations.items(), key=lambda item: (-item[1].accuracy.value, item[0])):
        rows.append(
            (
                name,
                parts.share(each.accuracy.value),
                parts.share_range(each.accuracy),
                parts.share(each.balanced_accuracy),
                parts.number(each.log_loss),
                parts.number(each.roc_auc),
                parts.number(each.calibration_error),
            )
        )
    header = ("head", "accuracy", "95 % interval", "balanced accuracy", "log loss", "ROC AUC", "calibration error")
    return Table(header, tuple(rows), "The heads, the most accurate first")


def _pairs(comparison: Comparison) -> Table:
    rows = tuple(
        (
            each.a,
            each.b,
            f"{each.only_a:,}",
            f"{each.only_b:,}",
            f"{100 * each.difference.value:+.2f}",
            f"{100 * each.difference.low:+.2f} to {100 * each.difference.high:+.2f}",
            f"{each.p_value:.3g}",
            f"{each.p_adjusted:.3g}",
        )
        for each in comparison.pairs
    )
    header = ("first", "second", "only first right", "only second right", "points", "95 % interval", "p", "p, Holm")
    caption = (
        "Accuracy of the first less that of the second, in percentage points (interval: paired bootstrap), and the "
        "exact McNemar test, which the verdict goes by after Holm's correction for having made several tests; an "
        "interval is of one pair alone, and may exclude 0 where the corrected test sees no difference"
    )
    return Table(header, rows, caption, frozenset({0, 1}))


def _verdict(comparison: Comparison, best: str) -> str:
    worse = [_other(pair, best) for pair in comparison.pairs if best in (pair.a, pair.b) and pair.p_adjusted <= _NOISE]
    others = len(comparison.evaluations) - 1
    if not worse:
        return f"On these images {best} cannot be told from any of the others: the differences may be luck."
    if len(worse) == others:
        return f"{best} is better than every other head by more than luck explains."
    return f"{best} is better than {', '.join(worse)} by more than luck explains, and cannot be told from the rest."


def _within_noise(comparison: Comparison, best: str) -> int:
    return sum(best in (pair.a, pair.b) and pair.p_adjusted > _NOISE for pair in comparison.pairs)


def _other(pair: Pair, name: str) -> str:
    return pair.b if pair.a == name else pair.a


def _gallery(comparison: Comparison, originals: Originals | None, network: str) -> Gallery:
    disputed = comparison.disagreements()
    rows, count = disputed[:_SHOTS].tolist(), len(disputed)
    text = "The heads say different things of these images; the most disputed ones come first."
    if count > len(rows):
        text += f" {len(rows):,} of {count:,} are shown."
    return Gallery(
        "Disagreements",
        text,
        tuple(_shot(comparison, row, originals, network) for row in rows),
        empty="There are none: on every image all heads say the same.",
    )


def _shot(comparison: Comparison, row: int, originals: Originals | None, network: str) -> Shot:
    tables = {name: each.table for name, each in comparison.evaluations.items()}
    first = next(iter(tables.values()))
    true, path = first.classes[first.true[row]], first.paths[row]
    said = {name: table.classes[table.predicted[row]] for name, table in tables.items()}
    lines = [f"labelled {true}"]
    for name, table in tables.items():
        mark = "✓" if said[name] == true else "✗"
        lines.append(f"{mark} {name}: {said[name]} {table.probabilities[row, table.predicted[row]]:.3f}")
    lines.extend(parts.seen_line(first, row, network))
    involved = tuple(dict.fromkeys([true, *said.values()]))
    return Shot(path, tuple(lines), involved, Tone.NEUTRAL, parts.thumbnail(originals, path))
