"""A report: plain data that results are put into, and how it is written as HTML or Markdown."""

from heads.report.model import Fact, Gallery, Picture, Report, Section, Shot, Table, Tone

__all__ = ["Fact", "Gallery", "Picture", "Report", "Section", "Shot", "Table", "Tone"]
