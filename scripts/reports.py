"""How commands tell a result: text or JSON, and a report file, in which format, with which images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import typer

from scripts.output import counted, print_json, say, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from featurecache import FeatureCache
    from heads.report import Report
    from heads.thumbnails import Originals

ReportPath = Annotated[
    Path | None, typer.Option("--report", readable=False, help="Write a report to this file: .html, .md or .json.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="html, markdown or json.", show_default="by the report's name")
]
ImageRoot = Annotated[
    Path | None,
    typer.Option("--images", metavar="ROOT", readable=False, help="Where the image files are, if they were moved."),
]
Thumbnails = Annotated[bool, typer.Option("--thumbnails/--no-thumbnails", help="Show the images in an HTML report.")]


class Result(Protocol):
    """What was computed, and is told and reported."""

    @property
    def warnings(self) -> "Sequence[str]":
        """What the user must know, one line each."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        ...


@dataclass(frozen=True, slots=True)
class ReportFile:
    """A report that is to be written.

    Parameters
    ----------
    path, form
        The file and its format.
    root
        Where the images are; None where the cache found them.
    thumbnails
        Whether they are shown.
    """

    path: Path
    form: str
    root: Path | None
    thumbnails: bool

    @classmethod
    def planned(cls, path: Path | None, form: str | None, root: Path | None, *, thumbnails: bool) -> Self | None:
        """Check the options before any work is done; return None if no report was asked for.

        Raises
        ------
        BadParameter
            If they do not fit together.
        OutputError
            If the file cannot be written, or is something else than a report.
        """
        from featurecache.errors import OutputError
        from featurecache.publish import require_place
        from heads.reporting.writing import FORMATS, SUFFIXES, is_report

        if path is None:
            if form is not None or root is not None:
                raise typer.BadParameter(f"{'--format' if form else '--images'} is for a report: add --report FILE")
            return None
        form = form or SUFFIXES.get(path.suffix.lower())
        if form not in FORMATS:
            known = ", ".join(FORMATS)
            found = f"unknown format {form!r}" if form else f"no format is known by the name {path.name!r}"
            raise typer.BadParameter(f"{found}; give --format one of {known}, or end the name in .html, .json or .md")
        if root is not None and not root.is_dir():
            raise typer.BadParameter(f"--images {root} is not a folder; give the one that the paths begin in")
        require_place(path)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory; choose another path for the report")
        if path.exists() and not (path.is_file() and is_report(path)):
            raise OutputError(f"{path} exists already and is no report; choose another path for it")
        return cls(path, form, root, thumbnails)

    def originals(self, cache: "FeatureCache") -> "Originals | None":
        """Return where the images are, if they are shown."""
        from heads.thumbnails import Originals

        return Originals.of(cache, self.root) if self.thumbnails and self.form == "html" else None

    def write(self, report: "Report", numbers: "Mapping[str, Any]") -> None:
        """Write it, and say which images could not be shown."""
        from featurecache.publish import publish
        from heads.reporting.writing import encode, without_picture

        publish(self.path, encode(report, numbers, self.form), replace=True)
        if not (self.thumbnails and self.form == "html"):
            return
        missing = without_picture(report)
        paths = {shot.path for shot in missing}
        if missing:
            remedy = "if images were moved, say where to: --images ROOT"
            say(
                f"warning: {counted(len(paths), 'picture')} could not be shown, the first {missing[0].path}: "
                f"{missing[0].thumbnail.missing}; {remedy if self.root is None else f'looked in {self.root}'}"
            )


def tell(
    result: "Result",
    print_text: "Callable[[Any], None]",
    planned: ReportFile | None,
    make: "Callable[[Originals | None], Report]",
    cache: "FeatureCache",
    *,
    json: bool,
    predictions: Path | None = None,
) -> None:
    """Tell a result: the report if one is planned, its warnings, then JSON, or text and which files were written."""
    if planned is not None:
        planned.write(make(planned.originals(cache)), result.to_dict())
    for warning in result.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(result.to_dict())
        return
    print_text(result)
    files = {"predictions": predictions, "report": planned and planned.path}
    lines = [f"{name}: {path}" for name, path in files.items() if path is not None]
    for line in ["", *lines] if lines else []:
        show(line)
