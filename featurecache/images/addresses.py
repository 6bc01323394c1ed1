"""Addresses of images that are elsewhere: in buckets (``s3://``, ``gs://``) and on the web (``https://``, ``http://``)."""

import os
import posixpath
import re
from pathlib import PurePath
from urllib.parse import parse_qsl

from featurecache.errors import ManifestError

WEB = ("http", "https")
"""The schemes of the web; the others are those of buckets."""
EXPECTED = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, https://HOST/IMAGE or http://HOST/IMAGE"
"""What an address looks like, for messages."""

_ADDRESS = re.compile(r"(s3|gs|https?):(?:/{1,2}(?!/)(.*))?$", re.DOTALL | re.IGNORECASE)
_SECRET = re.compile(
    r"sig|sas|jwt|hm|hmac|code|policy|key|pwd|pass|(.*[\W_])?(o?auth|authorization)([\W_].*)?"
    r"|.*(signature|token|secret|passw|credential|access.?key|api.?key|subscription.?key).*",
    re.IGNORECASE,
)

_OF_FILE = re.compile(r"[0-9]{1,9}(:[a-z,]+)?")  # what may follow #: a frame or a view of a file


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
    return checked(f"{found[1]}://{(found[2] or '').rstrip('/')}") if found else None


def checked(address: str) -> str:
    """Return an address with its scheme in small letters, and no credentials in it: caches and reports show addresses.

    Credentials in a query are known by common names alone.

    Raises
    ------
    ManifestError
        If it has some, or is on the web and has a ``#`` with more than the number of a frame or a view; the message
        does not show what it has.

    Examples
    --------
    >>> checked("HTTPS://host/1.jpg?size=large")
    'https://host/1.jpg?size=large'
    >>> checked("https://host/1.jpg?size=large&X-Amz-Signature=6a70")
    Traceback (most recent call last):
    featurecache.errors.ManifestError: an address at host has 'X-Amz-Signature' in its query, ...
    """
    scheme, _, place = address.partition("://")
    scheme, authority = scheme.lower(), place.partition("/")[0]
    host = re.split("[?#]", authority.rpartition("@")[2])[0]
    if "@" in authority:
        raise ManifestError(
            f"an address at {host} has a user or password in it, which would be stored; leave "
            "them out: keep them where the libraries look for them, such as ~/.netrc or ~/.aws/credentials"
        )
    if scheme in WEB:
        place_of_file, *parts = place.split("#")
        if not all(map(_OF_FILE.fullmatch, parts)):
            raise ManifestError(
                f"an address at {host} has a #; what follows reaches no server, but would be stored; leave it out, or "
                "write %23 for a # in a name"
            )
        query = "".join(place_of_file.partition("?")[2].split()).replace(";", "&")
        names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
        secret = next((name for name in names if _SECRET.fullmatch(name)), None)
        if secret is not None:
            raise ManifestError(
                f"an address at {host} has {secret!r} in its query, which reads like a credential and would be "
                "stored; give addresses without it, s3:// or gs:// with credentials of your own, or copy the files"
            )
    return f"{scheme}://{place}"


def normal_path(text: str) -> str:
    """Return a path as rows have it: an address with its scheme in small letters, others without ``.`` and ``//``."""
    if not is_address(text.strip()):
        return posixpath.normpath(text)
    scheme, _, place = text.strip().partition("://")
    return f"{scheme.lower()}://{place}"
