"""Where outputs go."""

from __future__ import annotations

from pathlib import Path

UPLOADED = "working_dir_files"  # part of the path where Ray unpacks an uploaded working folder


def lasting(output: str) -> str:
    """A folder or address for what a job writes.

    A working folder that `ray job submit` uploaded is deleted some time after the job, so there
    relative paths start at the home folder.
    """
    if UPLOADED in Path.cwd().parts and "://" not in output:
        return str(Path.home() / Path(output).expanduser())
    return output
