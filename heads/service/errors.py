"""Errors of requests: a status, a code for programs, and a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurecache.errors import CacheFormatError, FeatureCacheError, ManifestError, OutputError, UnknownNameError
from heads.errors import ArtifactError, HeadError, MismatchError, ParameterError, RowError
from heads.service.batching import NotServingError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Mapping


class RequestError(HeadError):
    """A request that cannot be answered.

    Parameters
    ----------
    status
        The HTTP status.
    code
        A constant name for programs.
    message
        One line that says what was found and what to do.
    headers
        Further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def as_request_error(error: Exception) -> RequestError:
    """Return the answer to an error of this project, or to a deadline that has passed."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, OverloadedError):
        return RequestError(429, "overloaded", str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, TimeoutError) and not isinstance(error, FeatureCacheError):
        return RequestError(504, "timeout", "the answer takes longer than --timeout allows; ask again later")
    kinds: tuple[tuple[type[Exception], int, str], ...] = (
        (NotServingError, 503, "not_serving"),
        (UnknownNameError, 404, "unknown_name"),
        (ArtifactError, 409, "unusable_head"),
        (CacheFormatError, 409, "unusable_cache"),
        (MismatchError, 409, "mismatch"),
        (ParameterError, 422, "bad_parameter"),
        (RowError, 422, "bad_rows"),
        (ManifestError, 409, "unusable_table"),
        (OutputError, 503, "not_stored"),
        (FeatureCacheError, 400, "bad_request"),
    )
    for kind, status, code in kinds:
        if isinstance(error, kind):
            return RequestError(status, code, str(error))
    return RequestError(503, "failed", f"the request has failed: {type(error).__name__}; the service goes on")
