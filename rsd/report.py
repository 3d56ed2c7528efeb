"""`python -m rsd.report`, which is `rsd report`."""

from __future__ import annotations

import sys

from rsd.commands import start

if __name__ == "__main__":
    start("report", sys.argv[1:])
