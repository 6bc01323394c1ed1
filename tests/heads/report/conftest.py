"""A report that is made to break whoever renders it, and its 30 pictures."""

import io

import pytest
from PIL import Image

from heads.report import Fact, FigureBlock, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.report.thumbnails import Thumbnail

HOSTILE = (
    '<img src=x onerror="window.broken=1">.jpg',
    '"><script>window.broken=1</script>',
    "' onfocus='window.broken=1' autofocus x='",
    "</style></script></title></option></select></dialog><b class=broken>",
    "javascript:window.broken=1",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;i&gt;&#60;i&#62;",
    "photo\u202egpj.exe",
    "line\nfeed\ttab\0nul\x1b[31m",
    "lone \udc80 surrogate",
    "\u05d0\u05d1\u05d2 (1).jpg",
    "a" * 200,
)
CLASSES = ("ant", "<b>bee</b>", "cow")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100"><rect width="99" height="50"/></svg>'


def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, number * 151 % 256)).save(file, "JPEG")
    return file.getvalue()


def shot(number: int) -> GalleryImage:
    """Of class ``number % 3``; every tenth has to do with the next class as well, and the last has no picture."""
    own = CLASSES[number % 3]
    classes = (own, CLASSES[(number + 1) % 3]) if number % 10 == 0 else (own,)
    there = number != 29
    return GalleryImage(
        path=f"{number:02} {HOSTILE[number % len(HOSTILE)]}",
        lines=(f"{own} 0.{99 - number}", f"line {HOSTILE[number % len(HOSTILE)]}"),
        classes=classes,
        tone=(Tone.GOOD, Tone.BAD, Tone.NEUTRAL)[number % 3],
        thumbnail=Thumbnail(jpeg(number), 64, 48) if there else Thumbnail(None, 0, 0, "the file is <gone>"),
    )


@pytest.fixture(scope="session")
def hostile_report() -> Report:
    """Thirty shots of three classes in three galleries, a long table, and names from `HOSTILE` wherever there is text.

    The second gallery has shots of the class ``ant`` only, and the last one none.
    """
    shots = [shot(number) for number in range(30)]
    ants = tuple(each for each in shots if each.classes == ("ant",))
    others = tuple(each for each in shots if each not in ants)
    return Report(
        title=f"Report on {HOSTILE[0]}",
        subtitle=HOSTILE[3],
        facts=tuple(Fact(name, f"0.{number}", name) for number, name in enumerate(HOSTILE)),
        warnings=HOSTILE,
        sections=(
            Section("What it is", HOSTILE),
            Section(
                HOSTILE[1],
                (
                    Table(("Class", *HOSTILE), tuple((f"row {n}", *HOSTILE) for n in range(60)), HOSTILE[2], {0, 1}),
                    FigureBlock(SVG, HOSTILE[1], HOSTILE[2]),
                    FigureBlock(SVG, "The same again", "A black square"),
                ),
            ),
            Section(
                "Galleries",
                (
                    Gallery("Mixed", HOSTILE[0], others),
                    Gallery("Ants", "", ants),
                    Gallery("None", "Nothing to see", (), HOSTILE[4]),
                ),
            ),
            Section("The end", ("Nothing more.",)),
        ),
        about=tuple((name, name) for name in HOSTILE),
    )
