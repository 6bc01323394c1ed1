"""A report: its content, and how it is written as HTML or Markdown or shown in a notebook.

The renderers are imported on use: jinja2 is loaded only where a page is made.
"""

from dataclasses import dataclass

from heads.report.model import Content


@dataclass(frozen=True, slots=True)
class Report(Content):
    """A report that can be written as HTML, Markdown or JSON.

    Parameters
    ----------
    title, subtitle
        What the report is about, and which images.
    facts
        The numbers to see at a glance.
    warnings
        Warnings, one line each, for the top of the page.
    sections
        The parts of the page, in order.
    about
        What made the results: label and text, for the end of the page.

    Examples
    --------
    >>> report = heads.evaluation_report(evaluation)
    >>> report.to_markdown().splitlines()[0]
    '# Evaluation'
    """

    def to_html(self) -> str:
        """Return one self-contained HTML page; the same report gives the same text."""
        from heads.report.html import page

        return page(self)

    def to_markdown(self) -> str:
        """Return GitHub's Markdown, without images."""
        from heads.report.markdown import markdown

        return markdown(self)

    def _repr_html_(self) -> str:
        from heads.report.html import frame

        return frame(self)
