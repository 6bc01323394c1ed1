"""Closes connections that say nothing, so that they cannot use up memory and descriptors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from featurecache.storage.platform import raise_open_files

if TYPE_CHECKING:
    from collections.abc import Collection

SILENT_SECONDS = 15  # from the connection to the end of the first request's head
IDLE_SECONDS = 90  # from one answer to the next request's head; Uvicorn's own time is shorter, and does not always run


_OTHER_DESCRIPTORS = 512  # of files, libraries and connections that are just being closed


def allow_descriptors(connections: int) -> None:
    """Raise this process's limit of open files, as far as the system lets it, so that connections are not refused."""
    raise_open_files(connections + _OTHER_DESCRIPTORS)


class _Silence(NamedTuple):
    """Since when a connection is silent, after which request, and how many bytes of answers it has not taken."""

    since: float
    cycle: Any
    unread: int


@dataclass(eq=False)
class Connections:
    """How long connections have been without a request, and without taking more of an answer.

    Parameters
    ----------
    limit
        Connections that may be open; of more, those that are silent longest are closed.
    """

    limit: int
    _silences: dict[Any, _Silence] = field(default_factory=dict)

    def sweep(self, connections: Collection[Any], now: float) -> int:
        """Close connections that are silent too long or too many; return how many.

        Parameters
        ----------
        connections
            Uvicorn's connections: ``cycle`` is their latest request, None if there was none.
        now
            Seconds of a steady clock.
        """
        silent = [one for one in connections if _is_turn_of_client(one)]
        self._silences = {one: self._silence(one, now) for one in silent}
        closed = 0
        oldest_first = sorted(silent, key=lambda one: (one.cycle is not None, self._silences[one].since))
        for one in oldest_first:
            patience = SILENT_SECONDS if one.cycle is None else IDLE_SECONDS
            if now - self._silences[one].since > patience or len(connections) - closed > self.limit:
                one.transport.abort()  # a close would wait until the client has taken its answer
                closed += 1
        return closed

    def _silence(self, connection: Any, now: float) -> _Silence:  # noqa: ANN401 - Uvicorn has a class for each parser
        before = self._silences.get(connection)
        unread = connection.transport.get_write_buffer_size()
        is_silent = before is not None and connection.cycle is before.cycle and unread >= before.unread
        return _Silence(before.since if before is not None and is_silent else now, connection.cycle, unread)


def _is_turn_of_client(connection: Any) -> bool:  # noqa: ANN401
    """Whether it is the client's turn: to ask, or to take an answer."""
    cycle = connection.cycle
    return cycle is None or cycle.response_complete or connection.transport.get_write_buffer_size() > 0
