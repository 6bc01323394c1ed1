"""Heads x taps x parameters, tried on the same rows and chosen without a look at the test split.

Private: `heads` has the public names.
"""

from heads.search.grid import Candidate, parse_grids
from heads.search.ranking import Entry, best_of_each
from heads.search.run import Sweep, sweep
from heads.search.sweep_executor import SweepProgress

__all__ = ["Candidate", "Entry", "Sweep", "SweepProgress", "best_of_each", "parse_grids", "sweep"]
