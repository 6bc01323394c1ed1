"""The use case ``export-features``: writes the rows of a cache for other programs, block by block."""

import csv
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurecache.arrow_tables import number_columns
from featurecache.cache import FeatureCache
from featurecache.errors import ManifestError, OptionError, OutputError
from featurecache.images.decode import byte_limit, shrink
from featurecache.images.failures import Failure
from featurecache.images.frames import read_image
from featurecache.images.image_source import ImageSource
from featurecache.images.sources import open_source, recorded_source
from featurecache.storage.output_errors import require_place
from featurecache.storage.publish import Draft, publish_directory, publishing, remove_files

PARQUET, NUMPY, CSV, PROJECTOR = "parquet", "npy", "csv", "projector"
FORMATS: Final = {PARQUET: ".parquet", NUMPY: ".npy", CSV: ".csv", PROJECTOR: None}
"""The formats that `export_features` writes, with the suffixes of their files; the projector's is a folder."""

_BLOCK_BYTES = 16_000_000  # of features that are written at a time
_TEXT_NUMBERS, _TEXT_ROWS = 200_000, 10_000  # that are text at a time
_POINTS = 100_000  # TensorBoard's projector shows a sample of more
_SPRITES_SIDE = 8192  # the largest image that browsers take for the projector's thumbnails
_SPRITE_SIDE, _SMALLEST_SPRITE = 64, 8


def export_features(
    cache: FeatureCache,
    path: str | os.PathLike[str],
    *,
    form: str | None = None,
    tap: str | None = None,
    split: str | None = None,
    images: str | os.PathLike[str] | ImageSource | None = None,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> tuple[Path, ...]:
    """Write the rows of a cache to a file of another format; nothing is rounded.

    Memory stays the same however many rows there are, but for the projector.

    Parameters
    ----------
    cache
        The cache, perhaps with other labels (`FeatureCache.with_labels`).
    path
        The file to write, or the folder for the projector. It must not exist.
    form
        One of `FORMATS`; by default the one of the suffix. ``"parquet"`` has the columns path, label, split, sha256,
        further columns, and one with lists of numbers for each tap. ``"npy"`` is the array of one tap, shape (n, d),
        and a CSV table of the other columns beside it, ``PATH`` with ``.csv``. ``"csv"`` has a column for each number.
        ``"projector"`` is a folder that TensorBoard's projector shows: ``tensorboard --logdir FOLDER``.
    tap
        A cached layer; optional if the cache has only one, and for Parquet, which has all taps if None.
    split
        The rows of one split; all if None.
    images
        Where the images are, for the projector's thumbnails; by default where they were when the cache was made. If
        they are not there any more, there are no thumbnails.
    progress
        Called with the number of rows that are written, and of all.

    Returns
    -------
    tuple
        The files or the folder that were written.

    Raises
    ------
    OptionError
        If the format is unknown, a package is missing, or there are too many rows for the projector.
    UnknownNameError
        If the cache has no such tap or split.
    OutputError
        If the file exists or cannot be written.

    Examples
    --------
    >>> featurecache.export_features(cache, folder / "features.npy", tap="features", split="valid")[0].name
    'features.npy'
    >>> np.load(folder / "features.npy").shape
    (16, 16)
    """
    path = Path(path)
    form = form or next((name for name, suffix in FORMATS.items() if suffix == path.suffix.lower()), None)
    if form not in FORMATS:
        suffixes = ", ".join(suffix for suffix in FORMATS.values() if suffix)
        raise OptionError(f"unknown format {form or path.name!r}; expected one of {', '.join(FORMATS)}: {suffixes}")
    if images is not None and form != PROJECTOR:
        raise OptionError("images are shown by the projector alone; leave them out for files")
    table = path.with_suffix(".csv") if path.suffix.lower() == ".npy" else path.with_name(f"{path.name}.csv")
    files = [path, table] if form == NUMPY else [path]
    for file in files:
        require_place(file)
        if os.path.lexists(file):
            raise OutputError(f"{file} exists; choose another path, or remove it")
    taps = list(cache.taps) if tap is None and form == PARQUET else [cache.require_tap(tap)]
    rows = cache.rows_of(split)
    if form == PARQUET:
        _write_parquet(cache, path, taps, rows, progress)
    elif form == NUMPY:
        _write_csv(cache, table, None, rows, lambda *_: None)
        try:
            _write_npy(cache, path, taps[0], rows, progress)
        except BaseException:
            remove_files([table])
            raise
    elif form == CSV:
        _write_csv(cache, path, taps[0], rows, progress)
    else:
        _write_projector(cache, path, taps[0], rows, images=images, progress=progress)
    return tuple(files)


class _Stream(io.RawIOBase):
    """A draft as a stream that is written from the beginning to the end."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._position = 0

    def writable(self) -> bool:
        """Return that this stream can be written."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._position

    def write(self, data: Any) -> int:  # noqa: ANN401 - anything with bytes
        """Write bytes after those before."""
        view = memoryview(data).cast("B")
        self._draft.write(view, self._position)
        self._position += len(view)
        return len(view)


@contextmanager
def _published(path: Path) -> Iterator[_Stream]:
    """Yield a stream, and publish what was written as a file when the block ends without an error."""
    try:
        with publishing(path) as draft:
            yield _Stream(draft)
    except FileExistsError as e:
        raise OutputError(f"{path} exists by now; choose another path, or remove it") from e


def _blocks(cache: FeatureCache, taps: Sequence[str], rows: slice) -> Iterator[slice]:
    """Divide rows into blocks of a limited number of bytes."""
    width = sum(cache.taps[tap] * cache.recipe.stored_dtype(tap).itemsize for tap in taps)
    size = max(1, _BLOCK_BYTES // max(1, width))
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _text_blocks(numbers: int, rows: slice) -> Iterator[slice]:
    """Divide rows into blocks of a limited number of numbers: as text, one takes some 150 bytes."""
    size = max(1, min(_TEXT_ROWS, _TEXT_NUMBERS // max(1, numbers)))
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _write_parquet(
    cache: FeatureCache, path: Path, taps: Sequence[str], rows: slice, progress: Callable[[int, int], object]
) -> None:
    table = cache.to_arrow(taps, rows=slice(0, 0))  # names a missing package before anything is written
    from pyarrow import parquet

    with _published(path) as stream, parquet.ParquetWriter(stream, table.schema) as writer:
        for block in _blocks(cache, taps, rows):
            writer.write_table(cache.to_arrow(taps, rows=block))
            progress(block.stop - rows.start, rows.stop - rows.start)


def _write_npy(cache: FeatureCache, path: Path, tap: str, rows: slice, progress: Callable[[int, int], object]) -> None:
    count = rows.stop - rows.start
    dtype = cache.recipe.stored_dtype(tap)
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, cache.taps[tap]),
    }
    with _published(path) as stream:
        np.lib.format.write_array_header_1_0(stream, description)
        for block in _blocks(cache, (tap,), rows):
            stream.write(np.ascontiguousarray(cache.mapped(tap)[block]).data)
            progress(block.stop - rows.start, count)


def _write_csv(
    cache: FeatureCache, path: Path, tap: str | None, rows: slice, progress: Callable[[int, int], object]
) -> None:
    columns = list(cache.text_columns(slice(0, 0)))
    numbers = number_columns(tap, cache.taps[tap], columns) if tap else []
    with _published(path) as stream:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([*columns, *numbers])
        for block in _text_blocks(len(numbers), rows):
            texts = zip(*(column.tolist() for column in cache.text_columns(block).values()), strict=True)
            values = _shortest(cache.mapped(tap)[block]) if tap else [[]] * (block.stop - block.start)
            writer.writerows([*row, *more] for row, more in zip(texts, values, strict=True))
            stream.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
            progress(block.stop - rows.start, rows.stop - rows.start)


def _shortest(X: NDArray[Any]) -> list[list[str]]:
    """Return numbers as the shortest texts that read back as the same numbers in float32."""
    texts: list[list[str]] = np.asarray(X).astype(np.float32).astype(str).tolist()
    return texts


def _write_projector(
    cache: FeatureCache,
    path: Path,
    tap: str,
    rows: slice,
    *,
    images: str | os.PathLike[str] | ImageSource | None,
    progress: Callable[[int, int], object],
) -> None:
    count = rows.stop - rows.start
    if count > _POINTS:
        raise OptionError(f"the projector shows at most {_POINTS:,} images, not {count:,}; choose a split")
    columns = cache.text_columns(rows)
    lines = ["\t".join(columns)] + [
        "\t".join(" ".join(text.split()) for text in row)
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    features = io.StringIO()
    for block in _text_blocks(cache.taps[tap], rows):
        features.writelines("\t".join(row) + "\n" for row in _shortest(cache.mapped(tap)[block]))
    settings = [f'tensor_name: "{tap}"', 'tensor_path: "tensors.tsv"', 'metadata_path: "metadata.tsv"']
    files = {
        "tensors.tsv": features.getvalue().encode(),
        "metadata.tsv": "\n".join(lines).encode(),
    }
    side = min(_SPRITE_SIDE, _SPRITES_SIDE // max(1, math.isqrt(max(0, count - 1)) + 1))
    source = recorded_source(cache.made_by.images) if images is None else open_source(images)
    if source is not None and side >= _SMALLEST_SPRITE:
        thumbnails = _sprites(cache, rows, source, side, progress)
        if thumbnails is None and images is not None:
            raise ManifestError(f"no image of the cache is in {images}; give the folder that holds them")
        if thumbnails is not None:
            files["sprites.png"] = thumbnails
            settings.append(f'sprite {{ image_path: "sprites.png" single_image_dim: {side} single_image_dim: {side} }}')
    files["projector_config.pbtxt"] = f"embeddings {{ {' '.join(settings)} }}\n".encode()
    publish_directory(path, files)


def _sprites(
    cache: FeatureCache, rows: slice, source: ImageSource, side: int, progress: Callable[[int, int], object]
) -> bytes | None:
    """Return one PNG file with a thumbnail of each row, in a square; None if no image is what it was."""
    from PIL import Image

    limit = cache.made_by.pixel_limit
    count = rows.stop - rows.start
    across = math.isqrt(max(0, count - 1)) + 1
    sheet = Image.new("RGB", (across * side, across * side), "white")
    found = 0
    contents = cache.index.images["sha256"][rows].tolist()
    for number, (path, sha256) in enumerate(zip(cache.index.images["path"][rows], contents, strict=True)):
        content = read_image(source, path, max_bytes=byte_limit(limit))
        if not isinstance(content, Failure) and content.sha256.encode() == sha256:
            pixels = shrink(content.data, side, max_pixels=limit, frame=content.frame, view=content.view)
            if not isinstance(pixels, Failure):
                y, x = divmod(number, across)
                height, width = pixels.shape[:2]
                sheet.paste(Image.fromarray(pixels), (x * side + (side - width) // 2, y * side + (side - height) // 2))
                found += 1
        progress(number + 1, count)
    if not found:
        return None
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
