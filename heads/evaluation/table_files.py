"""Tables of predictions as text: CSV and JSON lines, and how both begin."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


def csv_text(header: Sequence[str], rows: Iterable[tuple[Iterable[str | None], Iterable[float | str | None]]]) -> str:
    r"""Return a table as CSV text (RFC 4180): a header, then one line per row. Numbers read back as what they are.

    Parameters
    ----------
    header
        The names of the columns.
    rows
        Of each row its first columns, which are texts, and all others. None is an empty field. A lone surrogate, which
        no file can hold, is written as ``\udcXX``.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(map(_encodable, header))
    for texts, others in rows:
        writer.writerow([*(_encodable(text or "") for text in texts), *map(_field, others)])
    return stream.getvalue()


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as JSON lines: one object per row, in ASCII; numbers and names read back exactly."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def is_table(data: bytes, columns: Iterable[str]) -> bool:
    """Return whether these bytes are the beginning of a table, in either form, with these first columns."""
    first, *_ = columns
    return data.startswith((",".join(columns).encode(), f'{{"{first}": '.encode()))


def group_column(groups: NDArray[np.object_] | None) -> tuple[str, ...]:
    """Return the name of the last column, that of the groups of rows; nothing if they have none."""
    return () if groups is None else ("group",)


def group_of(groups: NDArray[np.object_] | None, row: int) -> tuple[str, ...]:
    """Return the group of a row for this column; nothing if there is none."""
    return () if groups is None else (groups[row],)


def _field(value: float | str | None) -> float | str | None:
    return _encodable(value) if isinstance(value, str) else value


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
