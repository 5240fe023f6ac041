"""All tests. They find the tray's package in a checkout whatever is installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tray"))
