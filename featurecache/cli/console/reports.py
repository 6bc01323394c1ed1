"""Prints results as text or JSON, and writes report files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import typer

from featurecache.cli.console.output import print_json, say, show
from featurecache.cli.console.progress import progress
from featurecache.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from featurecache import FeatureCache
    from heads import Notice, Originals, Report

ReportPath = Annotated[
    Path | None, typer.Option("--report", readable=False, help="Write a report to this file: .html, .md or .json.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="html, markdown or json.", show_default="by the report's suffix")
]
ImageRoot = Annotated[
    Path | None,
    typer.Option("--images", metavar="ROOT", readable=False, help="The folder of the image files, if they have moved."),
]
Thumbnails = Annotated[bool, typer.Option("--thumbnails/--no-thumbnails", help="Show the images in an HTML report.")]


class Result(Protocol):
    """A result that can be printed and reported."""

    @property
    def warnings(self) -> "Sequence[Notice]":
        """Warnings for the user."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        ...


@dataclass(frozen=True, slots=True)
class ReportFile:
    """A report file to write.

    Parameters
    ----------
    path, form
        The file and its format.
    root
        The folder of the images; None for the one that the cache records.
    thumbnails
        Whether the report shows the images.
    """

    path: Path
    form: str
    root: Path | None
    thumbnails: bool

    @classmethod
    def planned(cls, path: Path | None, form: str | None, root: Path | None, *, thumbnails: bool) -> Self | None:
        """Check the options before any work starts; return None if no report is requested.

        Raises
        ------
        BadParameter
            If the options contradict each other.
        OutputError
            If the file cannot be written, or another file has this name.
        """
        from featurecache import open_source, require_place
        from featurecache.cli.console.report_formats import FORMATS, SUFFIXES, is_report
        from featurecache.errors import OutputError

        if path is None:
            if form is not None or root is not None:
                raise typer.BadParameter(f"{'--format' if form else '--images'} needs a report: add --report FILE")
            return None
        form = form or SUFFIXES.get(path.suffix.lower())
        if form not in FORMATS:
            known = ", ".join(FORMATS)
            found = f"unknown format {form!r}" if form else f"no format has the suffix of {path.name!r}"
            raise typer.BadParameter(f"{found}; give --format one of {known}, or use the suffix .html, .json or .md")
        if root is not None and not (source := open_source(root)).exists():
            raise typer.BadParameter(
                f"--images {source.name} is neither a folder nor an archive; give the one that paths are relative to"
            )
        require_place(path)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory; choose another path for the report")
        if path.exists() and not (path.is_file() and is_report(path)):
            raise OutputError(f"{path} exists already and is not a report; choose another path for it")
        return cls(path, form, root, thumbnails)

    def originals(self, cache: "FeatureCache") -> "Originals | None":
        """Return the source of the images if the report shows them."""
        from heads import Originals

        return Originals.from_cache(cache, self.root) if self.thumbnails and self.form == "html" else None

    def write(self, report: "Report", numbers: "Mapping[str, Any]") -> None:
        """Write the report, and warn about images that it cannot show."""
        from featurecache import open_source, publish
        from featurecache.cli.console.report_formats import encode, without_picture

        publish(self.path, encode(report, numbers, self.form), replace=True)
        if not (self.thumbnails and self.form == "html"):
            return
        missing = without_picture(report)
        paths = {image.path for image in missing}
        if missing:
            remedy = "if images have moved, give their folder with --images ROOT"
            if self.root is not None:
                remedy = f"looked in {open_source(self.root).name}"  # a path has lost a slash of an address
            say(
                f"warning: {counted(len(paths), 'image')} could not be shown; the first is {missing[0].path}: "
                f"{missing[0].thumbnail.missing}; {remedy}"
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
    """Write the planned report; print warnings, then JSON, or text and the names of the written files."""
    if planned is not None:
        with progress("writing the report", bar=False):
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
