"""Where things lie."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
DATA = ROOT.parent / "shared" / "data"
"""The real image data sets, where this machine has them; tests that need them skip elsewhere."""
