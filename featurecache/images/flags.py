"""Several labels of an image, from columns that say 1 or 0 for each of them to one text."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import ManifestError

SEPARATOR = "|"
"""What stands between several labels of an image; alone, it is an image that has none of them."""

_TRUTHS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}


def join_flags(columns: Mapping[str, Sequence[str]]) -> NDArray[np.object_]:
    """Join columns that say for each image whether it has a label, to one text for each image.

    Parameters
    ----------
    columns
        Maps the name of each label to a text for each image: ``1``, ``true`` or ``yes``, or ``0``, ``false`` or ``no``,
        in upper or lower case. An image with an empty text in every column has no label.

    Returns
    -------
    NDArray
        Shape (n,), `str` objects, as the target ``labels`` reads them: names with ``|`` between them, ``|`` alone for
        an image with none of the labels, ``""`` for an image without a label.

    Raises
    ------
    ManifestError
        If a text is none of these, or empty where others of the image are not; or if a name has ``|`` in it.

    Examples
    --------
    >>> join_flags({"dog": ["1", "0", ""], "indoors": ["yes", "no", ""]}).tolist()
    ['dog|indoors', '|', '']
    """
    if odd := [name for name in columns if SEPARATOR in name]:
        raise ManifestError(
            f"the label {odd[0]!r} has {SEPARATOR!r} in its name, which stands between labels; rename it"
        )
    return np.array([_joined(columns, texts) for texts in zip(*columns.values(), strict=True)], dtype=object)


def _joined(names: Iterable[str], texts: Sequence[str]) -> str:
    if not any(text.strip() for text in texts):
        return ""
    has = []
    for name, text in zip(names, texts, strict=True):
        flag = _TRUTHS.get(text.strip().lower())
        if flag is None:
            raise ManifestError(
                f"the column {name} has {text!r}, expected 1 or 0 for every label of an image, or nothing"
            )
        if flag:
            has.append(name)
    return SEPARATOR.join(has) or SEPARATOR
