"""The interface of an image source, which gives the bytes of images by path."""

from abc import ABC, abstractmethod
from typing import Self

from featurecache.errors import ManifestError
from featurecache.images.failures import Failure, Ignored
from featurecache.images.files import FileContent, Stat
from featurecache.images.names import encode_name
from featurecache.images.table_text import Table
from featurecache.processors import processor_count


class ImageSource(ABC):
    """Gives the bytes of the images of a manifest.

    A path is text in the form of `featurecache.encode_name`. Several threads call `stat` and `read`
    at the same time. Neither raises an exception: an unreadable image gives a `Failure`.

    Examples
    --------
    >>> from featurecache.images.files import content_of
    >>> class Memory(ImageSource):
    ...     def __init__(self, files):
    ...         self.files = files
    ...
    ...     name = "memory"
    ...
    ...     def stat(self, path):
    ...         return None  # changes cannot be detected cheaply, so images are read again
    ...
    ...     def read(self, path, *, max_bytes):
    ...         if path not in self.files:
    ...             return Failure("not_found", "no such image")
    ...         return content_of(self.files[path], max_bytes=max_bytes)
    >>> Memory({"a.png": b"123"}).read("a.png", max_bytes=10).size
    3
    >>> Memory({"a.png": b"123"}).read("a.png", max_bytes=2).code
    'too_many_bytes'
    """

    @property
    def at_once(self) -> int:
        """How many images to read at the same time at least, where reading waits for other machines."""
        return 0

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that a cache's provenance records as ``images``; see `featurecache.open_source`."""

    @abstractmethod
    def stat(self, path: str) -> Stat | None:
        """Return size and time of an image, which detect changes cheaply.

        None means that there is no such image, or that the source cannot detect changes; the image is then read.
        """

    @abstractmethod
    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Return an image's bytes with their SHA-256, or a failure; more than ``max_bytes`` is a failure."""

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of all images, and what is left out, both in any order.

        A path is relative, has ``/`` between folders and no ``.`` or ``..`` in it. Its folders give split and class, as
        in `featurecache.read_manifest`.

        Raises
        ------
        ManifestError
            If the source cannot be listed; this is the default.
        """
        raise ManifestError(f"{self.name} cannot list its images; make its manifest with featurecache.from_source")

    def table(self) -> Table | None:
        """Return the table of all images, where the source has one besides its images, such as a Parquet file."""
        return None

    def anywhere(self) -> Self:
        """Return the same source for a process with another current folder."""
        return self

    def has_file(self, name: bytes) -> bool:
        """Return whether there is a file of exactly this name, relative to the source."""
        return self.stat(encode_name(name)) is not None

    def exists(self) -> bool:
        """Return whether the whole source exists, for example a folder."""
        return True

    def locate(self, path: str) -> str:
        """Return the place of an image, for messages and commands."""
        return f"{self.name}/{path}"

    def guess(self, path: str) -> str:
        """Return what is likely wrong with the path of an image that does not exist, for messages; empty if unknown."""
        del path
        return ""


def threads_for(source: ImageSource, workers: int | None = None) -> int:
    """Return how many threads read and decode the images of a source, if ``workers`` does not say it."""
    return workers or max(processor_count(), source.at_once)
