"""Text from anywhere, made fit to be shown: what cannot be seen becomes visible."""

_INVISIBLE_BUT_WANTED = frozenset("\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}")


def visible(text: str) -> str:
    r"""Return text with all that is not printable written as an escape, what reverses the direction of text included.

    Examples
    --------
    >>> print(visible("a\tb\u202egpj.exe"))
    a\tb\u202egpj.exe
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in _INVISIBLE_BUT_WANTED else _escape(letter) for letter in text
    )


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
