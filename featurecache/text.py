"""Text for messages and reports: escaped characters, numbers, sizes, counts with nouns, lists and hints of names."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_BOLD = re.compile(r"\x1b\[[\d;]*m")  # and other codes for terminals
_NAMED = 5
_ALL_NAMED = 30  # more names than these are too long for one line
_TYPOGRAPHIC_SPACES = frozenset("\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}")


def printable(text: str) -> str:
    r"""Replace every unprintable character by its escape.

    The result cannot break a line, move a terminal's cursor or reverse the direction of text.

    Examples
    --------
    >>> print(printable("a name\nof two lines"))
    a name\nof two lines
    >>> print(printable("a\tb\u202egpj.exe"))
    a\tb\u202egpj.exe
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def visible(text: str) -> str:
    r"""Replace unprintable characters as `printable` does, but keep no-break and thin spaces for pages.

    Examples
    --------
    >>> visible("95\N{NO-BREAK SPACE}%\n") == "95\N{NO-BREAK SPACE}%" + r"\n"
    True
    """
    if text.isprintable():
        return text
    return "".join(letter if letter in _TYPOGRAPHIC_SPACES else printable(letter) for letter in text)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1.

    Examples
    --------
    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed count of decimals; a dash for None.

    Examples
    --------
    >>> number(0.97251), number(None)
    ('0.9725', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def in_units(size: int) -> str:
    """Return a number of bytes in the unit that suits it.

    Examples
    --------
    >>> in_units(999), in_units(20_480), in_units(1_500_000_000)
    ('999 bytes', '20.5 kB', '1.5 GB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def listed(names: Iterable[str], *, sort: bool = True, quoted: bool = True) -> str:
    """Return the first five names and the number of the others.

    Parameters
    ----------
    names
        The names.
    sort
        Whether the names are sorted first.
    quoted
        Whether each name is written as a Python string.

    Examples
    --------
    >>> listed(["bee", "cat"])
    "'bee', 'cat'"
    >>> listed("abcdefgh", quoted=False)
    'a, b, c, d, e and 3 more'
    """
    names = sorted(names) if sort else list(names)
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) if quoted else name for name in names[:_NAMED]) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that is most similar to ``name``; empty if none is similar.

    Case, blanks, underscores and hyphens are ignored.

    Examples
    --------
    >>> did_you_mean("MobileNetV2", ["mobilenet", "mobilenet_v2"])
    "; did you mean 'mobilenet_v2'?"
    >>> did_you_mean("dog", ["mobilenet"])
    ''
    """
    spellings = {_bare(other): other for other in known}
    close = get_close_matches(_bare(name), spellings, n=1)
    return f"; did you mean {spellings[close[0]]!r}?" if close else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return all known names, or of more than 30 the most similar ones and the number of the others.

    Examples
    --------
    >>> nearest("dog", ["cat", "cow"])
    'cat, cow'
    >>> nearest("n7", [f"n{number}" for number in range(60)])
    'n7, n57, n47, n37, n27 and 55 more'
    """
    names = list(known)
    if len(names) <= _ALL_NAMED:
        return ", ".join(names)
    spellings = {_bare(other): other for other in names}
    close = [spellings[bare] for bare in get_close_matches(_bare(name), spellings, n=_NAMED, cutoff=0.0)]
    return f"{', '.join(close)} and {len(names) - len(close):,} more"


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]", "", str(name)).casefold()


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def in_short(error: BaseException, length: int = 300) -> str:
    r"""Return what an error says as one line of at most so many letters; its class if it says nothing.

    What Keras adds to errors is left out: codes for bold letters, and the arguments of a call.

    Examples
    --------
    >>> in_short(ValueError("too\n  many")), in_short(KeyError())
    ('too many', 'KeyError')
    """
    said = _BOLD.sub("", str(error)).partition("Arguments received by")[0]
    return " ".join(said.split())[:length] or type(error).__name__
