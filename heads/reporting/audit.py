"""An audit as a report: labels that are likely wrong, images that occur more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heads.report import Fact, Gallery, Report, Section, Shot, Table, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.recipe import Recipe
    from heads.auditing import Audit, Duplicate, LabelError
    from heads.report.model import Block
    from heads.thumbnails import Originals

_SHOTS = 60  # likely label errors that are shown
_PAIRS = 24  # pairs of duplicates that are shown
_LISTED = 200  # rows of a table


def audit_report(
    audit: Audit,
    *,
    recipe: Recipe | None = None,
    originals: Originals | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of an audit.

    Parameters
    ----------
    audit
        What is reported.
    recipe
        What determined the features, for the end of the report.
    originals
        Where the image files are; without them galleries show names and numbers only.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.
    """
    network = recipe.backbone if recipe else parts.A_NETWORK
    groups, judged = audit.groups, audit.accuracy is not None
    sections = (
        Section("Likely label errors", _labels(audit, originals, network)),
        Section(
            "Images that occur more than once", (*_duplicate_galleries(audit, originals), *_duplicate_table(audit))
        ),
    )
    return Report(
        title="Audit of labels and images",
        subtitle=_subtitle(audit),
        facts=(
            Fact("labels to look at", f"{len(audit.label_errors):,}", "another class is more probable")
            if judged
            else Fact("labels", "not judged", "see the warnings"),
            Fact(
                "images that occur more than once",
                f"{sum(len(each.paths) for each in groups):,}",
                f"in {parts.counted(len(groups), 'group')}",
            ),
            Fact(
                "groups across splits", f"{sum(each.crosses for each in groups):,}", "they leak from one into another"
            ),
            Fact(
                "groups with conflicting labels",
                f"{sum(each.conflict for each in groups):,}",
                "one image, or nearly, under two labels",
            ),
        ),
        warnings=audit.warnings,
        sections=sections,
        about=(
            *(about or {}).items(),
            ("head", f"{audit.head}: {parts.settings(audit.params)}; {audit.folds} folds, seed {audit.seed}"),
            ("near-duplicates", f"cosine similarity of centred features at least {audit.near:g}"),
            *(parts.about_features(recipe, audit.tap) if recipe else ()),
            *parts.made_by(),
        ),
    )


def _subtitle(audit: Audit) -> str:
    images = parts.counted(audit.n_images, "image")
    if audit.accuracy is None:
        return f"{images}, whose labels were not judged"
    return f"{images}, {len(audit.table):,} of them labelled and judged, of {len(audit.table.classes):,} classes"


def _labels(audit: Audit, originals: Originals | None, network: str) -> tuple[Block, ...]:
    accuracy = audit.accuracy
    if accuracy is None:
        return ("No label could be judged; the warnings say why.",)
    explained = (
        "Each of these images was judged by heads that have not seen it, nor any "
        f"{'copy of it that was found' if audit.apart else 'file with the same bytes'}. Such heads agree with "
        f"{parts.share(accuracy.value)} of the labels (95 % interval {parts.share_range(accuracy)}). Where they do "
        "not, the head or the label is wrong; the most confident disagreements come first."
    )
    return (explained, _label_gallery(audit, originals, network), *_label_table(audit))


def _label_gallery(audit: Audit, originals: Originals | None, network: str) -> Gallery:
    shown = audit.label_errors[:_SHOTS]
    text = ""
    if len(shown) < len(audit.label_errors):
        text = f"The first {len(shown):,} of {len(audit.label_errors):,}."
    return Gallery(
        "Labels to look at",
        text,
        tuple(_label_shot(audit, each, originals, network) for each in shown),
        empty="None: every image is most probably what its label says.",
    )


def _label_shot(audit: Audit, error: LabelError, originals: Originals | None, network: str) -> Shot:
    lines = (
        f"labelled {error.given}",
        f"rather {error.suggested}, score {error.score:.3f}",
        *parts.seen_line(audit.table, error.row, network),
    )
    return Shot(error.path, lines, (error.given, error.suggested), Tone.NEUTRAL, parts.thumbnail(originals, error.path))


def _label_table(audit: Audit) -> tuple[Table, ...]:
    if not audit.label_errors:
        return ()
    rows = tuple(
        (each.path, each.split or "-", each.given, each.suggested, f"{each.score:.4f}")
        for each in audit.label_errors[:_LISTED]
    )
    caption = "Labels to look at; the score is the probability of the suggested class less that of the given one"
    return (Table(("image", "split", "labelled", "rather", "score"), rows, caption, frozenset(range(4))),)


def _duplicate_galleries(audit: Audit, originals: Originals | None) -> tuple[Gallery, ...]:
    kinds = {
        "exact": ("The same file twice", "Their bytes are equal."),
        "near": (
            "Nearly the same image",
            "Their features are nearly equal: saved anew, or slightly changed.",
        ),
    }
    return tuple(_duplicate_gallery(audit, kind, *words, originals) for kind, words in kinds.items())


def _duplicate_gallery(audit: Audit, kind: str, title: str, text: str, originals: Originals | None) -> Gallery:
    pairs = [each for each in audit.duplicates if each.kind == kind]
    more = f" The first {_PAIRS} of {len(pairs):,} pairs." if len(pairs) > _PAIRS else ""
    shots = [_pair_shots(number, pair, originals) for number, pair in enumerate(pairs[:_PAIRS], start=1)]
    return Gallery(title, text + more, tuple(shot for pair in shots for shot in pair))


def _pair_shots(number: int, pair: Duplicate, originals: Originals | None) -> tuple[Shot, Shot]:
    involved = tuple(dict.fromkeys(name for name in (pair.class_a, pair.class_b) if name))
    sides = (pair.a, pair.split_a, pair.class_a), (pair.b, pair.split_b, pair.class_b)
    first, second = (
        Shot(
            path,
            (
                ", ".join(filter(None, (split, name))) or "no label",
                f"pair {number}, similarity {pair.similarity:.3f}",
                *([f"trouble: {_trouble(pair)}"] if pair.conflict or pair.crosses else []),
            ),
            involved,
            Tone.NEUTRAL,
            parts.thumbnail(originals, path),
        )
        for path, split, name in sides
    )
    return first, second


def _duplicate_table(audit: Audit) -> tuple[Table, ...]:
    if not audit.duplicates:
        return ()
    rows = tuple(
        (each.a, each.b, each.kind, f"{each.similarity:.4f}", _trouble(each)) for each in audit.duplicates[:_LISTED]
    )
    return (
        Table(
            ("image", "its copy", "kind", "similarity", "trouble"),
            rows,
            "Pairs that join the images of a group",
            frozenset({0, 1, 2, 4}),
        ),
    )


def _trouble(pair: Duplicate) -> str:
    troubles = []
    if pair.conflict:
        troubles.append(f"labelled {pair.class_a} and {pair.class_b}")
    if pair.crosses:
        troubles.append(f"in {pair.split_a or 'no split'} and {pair.split_b or 'no split'}")
    return "; ".join(troubles) or "-"
