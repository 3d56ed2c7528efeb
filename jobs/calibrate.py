"""`rsd calibrate`, for `ray job submit` and wherever it is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # wins over what is installed

from rsd.commands import start

if __name__ == "__main__":
    start("calibrate", sys.argv[1:])
