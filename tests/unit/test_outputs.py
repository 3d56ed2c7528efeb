from __future__ import annotations

from pathlib import Path

import pytest

from rsd.books import holds_a_run
from rsd.errors import UserError
from rsd.outputs import check_address, lasting, local_folder

GOOD = [
    "results/run",
    "run:1/part",
    "results/run:1",
    "./s3:/b",
    "./C:\\x",
    "/tmp/with a space",
    "~/run",
    "s3://bucket/run",
    "s3://bucket/run?region=eu-west-1",
    "gs://bucket",
    "abfss://container@account/run",
    "file:///tmp/run",
    "Läufe/α",
]

BAD = [
    ("", "is empty"),
    ("  ", "is empty"),
    ("run ", "begins or ends with a space"),
    (" run", "begins or ends with a space"),
    ("a\0b", r"'a\\x00b' cannot be the name of a folder"),
    ("a\nb", r"'a\\nb' cannot be the name"),
    ("a\x1b[31mb", r"\\x1b"),
    ("a\udcffb", r"'a\\udcffb' cannot be the name"),
    ("s3:/b", r"no address; write s3://..., or ./s3:/b"),
    ("s3:b", "no address; write s3://"),
    ("gs:/b", "no address; write gs://"),
    ("S3:/b", "no address; write s3://"),
    ("file:/x", "no address; write file://"),
    ("https:x", "no address"),
    ("S3://b/x", "nothing is kept at S3://; write s3://"),
    ("http://x/y", "nothing is kept at http://; give a local path, s3://"),
    ("mock://x/y", "nothing is kept at mock://"),
    ("s4://x/y", "nothing is kept at s4://"),
    ("s3://key:secret@bucket/x", r"s3://\.\.\.@\.\.\.\) would be shown and kept in records"),
    ("s3://", "names no folder"),
    ("s3:///", "names no folder"),
    ("file://tmp/x", "write file:/// and the path"),
    ("C:\\x", "a path of Windows"),
    ("c:/x", "a path of Windows"),
    ("results\\run", "a path of Windows"),
    ("\\\\server\\share", "a path of Windows"),
    ("~nobody-of-this-name/run", "no home folder of ~nobody-of-this-name"),
    ("$HOME/run", "variables are the shell's business"),
]


@pytest.mark.parametrize("output", GOOD)
def test_folders_and_addresses_pass_as_they_are(output: str) -> None:
    check_address(output)
    assert lasting(output) == output


@pytest.mark.parametrize(("output", "told"), BAD)
def test_what_is_neither_a_folder_nor_an_address_is_refused_by_its_name(
    output: str, told: str
) -> None:
    for use in (lasting, holds_a_run):
        with pytest.raises(UserError, match=told):
            use(output)
    with pytest.raises(UserError, match="is an address" if "://" in output else told):
        local_folder(output)


def test_a_job_that_writes_to_a_disk_takes_no_address_and_finds_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_folder("~/data") == tmp_path / "data"
    with pytest.raises(UserError, match="'s3://bucket/data' is an address"):
        local_folder("s3://bucket/data")
