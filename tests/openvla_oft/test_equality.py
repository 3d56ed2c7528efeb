"""A slice of `python -m rsd.models.openvla_oft.equality`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)

from rsd.models.openvla_oft import equality


def test_speculative_codes_are_layer_by_layer_ones_whatever_the_draft() -> None:
    found = equality.run(None, chunks=40, bf16_chunks=8)
    by_draft = {row.draft: row for row in found["rows"] if row.precision == "float32"}
    assert len(by_draft) == 4
    for row in by_draft.values():
        assert (row.chunks, row.left) == (40, 0)
    assert by_draft["oracle"].passes == 1
    assert by_draft["always wrong"].passes == 5
    assert 1 < by_draft["nine in ten tokens right"].passes < 5
    exact, coarse = found["roundings"]
    assert exact.error < 1e-4 < coarse.error


def test_the_command_shows_and_keeps_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        equality.main(
            ["--chunks", "8", "--bf16-chunks", "1", "--json", str(tmp_path / "result.json")]
        )
    assert "nine in ten" in capsys.readouterr().out
    assert (tmp_path / "result.json").exists()
