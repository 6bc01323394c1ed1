"""Lets the tests import the double of other systems, which processes of their own load, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
