"""Warnings and notes that results carry: a code for programs, and a message for people.

Programs decide by the code; no program reads the message. Messages may change in any version, codes do not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Remedy(NamedTuple):
    """Advice to change a parameter.

    Parameters
    ----------
    parameter
        Its name.
    advice
        What to do, in words.
    """

    parameter: str
    advice: str


@dataclass(frozen=True, slots=True, eq=False)
class Notice:
    """A warning or note: a code for programs, and a message for people.

    Two notices are equal if their codes and messages are.

    Parameters
    ----------
    code
        One of `heads.Code`; a stored notice may have the code of a later version.
    fact
        What was found, one line.
    remedies
        What the user can do about it.
    details
        What else is known, such as a library's own words.

    Examples
    --------
    >>> notice = Notice("not_converged", "logreg did not converge", (Remedy("max_iter", "raise max_iter"),))
    >>> str(notice)
    'logreg did not converge: raise max_iter'
    >>> notice.code == "not_converged"
    True
    """

    code: str
    fact: str
    remedies: tuple[Remedy, ...] = ()
    details: str = ""

    @property
    def message(self) -> str:
        """The text for people, one line: the fact, the remedies and the details."""
        advice = ", ".join(remedy.advice for remedy in self.remedies)
        return f"{self.fact}{advice and f': {advice}'}{self.details and f'; {self.details}'}"

    def __str__(self) -> str:
        return self.message

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Notice) and (self.code, self.message) == (other.code, other.message)

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def about(self, subject: str) -> "Notice":
        """Return the same notice with its message introduced by a subject, such as the name of a head."""
        return replace(self, fact=f"{subject}: {self.fact}")

    def without(self, parameter: str) -> "Notice":
        """Return the same notice without advice about a parameter."""
        return replace(self, remedies=tuple(remedy for remedy in self.remedies if remedy.parameter != parameter))

    def to_dict(self) -> dict[str, str]:
        """Return code and message, ready for JSON."""
        return {"code": str(self.code), "message": self.message}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Notice":
        """Return the notice that `to_dict` has described."""
        return cls(str(data["code"]), str(data["message"]))


def to_dicts(notices: Iterable[Notice]) -> list[dict[str, str]]:
    """Return notices ready for JSON, as a list of ``{"code": …, "message": …}``."""
    return [notice.to_dict() for notice in notices]
