"""A report: plain data that results are put into, and how it is written as HTML or Markdown.

Private: `heads` has the public names.
"""

from heads.report.model import Fact, FigureBlock, Gallery, GalleryImage, Section, Table, Tone
from heads.report.report import Report

__all__ = ["Fact", "FigureBlock", "Gallery", "GalleryImage", "Report", "Section", "Table", "Tone"]
