"""Rows of a cache as a table of Arrow or a DataFrame of pandas; both packages are imported on use."""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import OptionError
from featurecache.images.arrow_files import INSTALL
from featurecache.rows import Rows

if TYPE_CHECKING:
    import pandas
    import pyarrow


def arrow_table(
    texts: Mapping[str, NDArray[np.object_]],
    labels: NDArray[np.integer[Any]],
    classes: Sequence[str],
    features: Mapping[str, NDArray[Any] | Rows],
    metadata: Mapping[str, str],
) -> "pyarrow.Table":
    """Return a table with the columns path, label, split and sha256, further columns, and the features of each tap.

    Parameters
    ----------
    texts
        Columns of text, each of shape (n,): path, label, split, sha256 and further ones.
    labels, classes
        Class indices, shape (n,), -1 for none, and the names of the classes; the column label is made of them.
    features
        Maps taps to features, shape (n, d). Arrays in memory or in a memory map are not copied.
    metadata
        What the schema tells: names to texts.

    Raises
    ------
    OptionError
        If pyarrow is missing, or a further column has the name of a tap.
    """
    try:
        import pyarrow as pa
    except ImportError as e:
        raise OptionError(f"tables of Arrow need pyarrow: {INSTALL}") from e
    taken = next((tap for tap in features if tap in texts), None)
    if taken is not None:
        raise OptionError(f"the further column {taken!r} has the name of a tap; rename it in the table of the images")
    columns = {name: pa.array(column, pa.string()) for name, column in texts.items()}
    numbers = pa.array(labels, mask=labels < 0, type=pa.int32())
    columns["label"] = pa.DictionaryArray.from_arrays(numbers, pa.array(classes, pa.string()))
    for tap, rows in features.items():
        values = np.ascontiguousarray(np.asarray(rows))
        columns[tap] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.table(columns).replace_schema_metadata(dict(metadata))


def number_columns(tap: str, width: int, others: Container[str]) -> list[str]:
    """Return a name for each number of a tap, ``fc2_0`` and so on.

    Raises
    ------
    OptionError
        If another column has one of these names.
    """
    names = [f"{tap}_{number}" for number in range(width)]
    taken = next((name for name in names if name in others), None)
    if taken is not None:
        raise OptionError(f"the further column {taken!r} has the name of a number of the tap {tap}; rename it")
    return names


def data_frame(
    texts: Mapping[str, NDArray[np.object_]],
    labels: NDArray[np.integer[Any]],
    classes: Sequence[str],
    tap: str,
    features: NDArray[Any] | Rows,
) -> "pandas.DataFrame":
    """Return the same columns as a DataFrame of pandas, with a column for each number of one tap.

    Raises
    ------
    OptionError
        If pandas is missing.
    """
    try:
        import pandas as pd
    except ImportError as e:
        raise OptionError(f"a DataFrame needs pandas: {INSTALL}") from e
    columns = dict(texts) | {"label": pd.Categorical.from_codes(labels, list(classes))}
    X = np.asarray(features)
    names = number_columns(tap, X.shape[1], columns)
    return pd.concat([pd.DataFrame(columns), pd.DataFrame(X, columns=names, copy=False)], axis=1)
