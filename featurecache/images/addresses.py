"""Addresses of images that are elsewhere: in buckets (``s3://``, ``gs://``) and on the web (``https://``, ``http://``)."""

import os
import posixpath
import re
from pathlib import PurePath
from urllib.parse import parse_qsl, urlsplit

from featurecache.errors import ManifestError

WEB = ("http", "https")
"""The schemes of the web; the others are those of buckets."""
EXPECTED = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, https://HOST/IMAGE or http://HOST/IMAGE"
"""What an address looks like, for messages."""

_ADDRESS = re.compile(r"(s3|gs|https?):(?:/{1,2}(?!/)(.*))?$", re.DOTALL | re.IGNORECASE)
_SECRET = re.compile(
    r"sig|key|pwd|pass|.*(signature|token|secret|passw|credential|access.?key|api.?key|subscription.?key|auth).*",
    re.IGNORECASE,
)


def is_address(text: str) -> bool:
    """Return whether a text is an address, as it stands in a table.

    Examples
    --------
    >>> is_address("s3://photos/cats/1.jpg"), is_address("cats/1.jpg")
    (True, False)
    """
    return "://" in text and _ADDRESS.match(text) is not None


def address_of(location: str | os.PathLike[str]) -> str | None:
    """Return the address that a location is, without a slash at its end; None for a place on this machine.

    A `pathlib.Path` has lost one of the two slashes.

    Raises
    ------
    ManifestError
        If it has credentials in it.

    Examples
    --------
    >>> address_of(PurePath("s3://photos/cats/")), address_of("photos/cats")
    ('s3://photos/cats', None)
    """
    text = location.as_posix() if isinstance(location, PurePath) else os.fspath(location)
    found = _ADDRESS.match(text)
    return checked(f"{found[1].lower()}://{(found[2] or '').rstrip('/')}") if found else None


def checked(address: str) -> str:
    """Return an address without credentials in it: names of images are stored in caches and shown.

    Raises
    ------
    ManifestError
        If it has some; the message does not show them.

    Examples
    --------
    >>> checked("https://host/1.jpg?size=large")
    'https://host/1.jpg?size=large'
    >>> checked("https://host/1.jpg?size=large&X-Amz-Signature=6a70")
    Traceback (most recent call last):
    featurecache.errors.ManifestError: an address at host has 'X-Amz-Signature' in its query, ...
    """
    authority = address.split("://", 1)[1].partition("/")[0]
    if "@" in authority:
        raise ManifestError(
            f"an address at {authority.rpartition('@')[2]} has a user or password in it, which would be stored; leave "
            "them out: keep them where the libraries look for them, such as ~/.netrc or ~/.aws/credentials"
        )
    if address.startswith(WEB):
        names = [name for name, _ in parse_qsl(_query(address), keep_blank_values=True)]
        secret = next((name for name in names if _SECRET.fullmatch(name)), None)
        if secret is not None:
            raise ManifestError(
                f"an address at {authority} has {secret!r} in its query, which reads like a credential and would be "
                "stored; give addresses without it, s3:// or gs:// with credentials of your own, or copy the files"
            )
    return address


def _query(address: str) -> str:
    try:
        return urlsplit(address).query
    except ValueError:  # an address that no library reads, either
        return address.partition("?")[2]


def normal_path(text: str) -> str:
    """Return a path in the form in which rows have it: an address as it is, other paths without ``.`` and ``//``."""
    return text.strip() if is_address(text.strip()) else posixpath.normpath(text)
