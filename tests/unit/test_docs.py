"""What the pages say of the repository is there, and what is generated is up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(page: Path) -> list[str]:
    outside = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", outside, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, place = link.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), link
        assert not place or place in map(anchor, headings(file)), link


def test_the_map_of_the_code_names_what_is_there() -> None:
    map_of_code = (ROOT / "README.md").read_text().split("## Where things are")[1].split("\n## ")[0]
    first_cells = [row.split("|")[1] for row in map_of_code.splitlines() if row.startswith("| `")]
    paths = [path for cell in first_cells for path in re.findall(r"`([^`]+)`", cell)]
    assert len(paths) > 10 and [path for path in paths if not (ROOT / path).exists()] == []


def test_the_design_names_every_package_and_module() -> None:
    shape = (ROOT / "docs" / "DESIGN.md").read_text().split("## 10. ")[1].split("\n## ")[0]
    named = {word.rstrip("/") for word in re.findall(r"`(?:rsd/)?([\w./]+)`", shape)}
    modules = {path.name for path in (ROOT / "rsd").iterdir() if path.name[0] not in "._"}
    assert modules - named == set()


def test_the_index_of_decisions_names_every_section() -> None:
    page = ROOT / "docs" / "decisions.md"
    index = re.findall(r"^- \[(.+)\]\(#", page.read_text(), re.MULTILINE)
    assert index == [line[3:] for line in page.read_text().splitlines() if line.startswith("## ")]


def test_the_readme_begins_with_the_two_commands() -> None:
    assert (ROOT / "README.md").read_text().splitlines()[3].startswith("make demo ")
    assert (ROOT / "README.md").read_text().splitlines()[4].startswith("make test ")


def test_pictures_are_small_and_those_of_their_scripts() -> None:
    folder = ROOT / "docs" / "pictures"
    made = runpy.run_path(str(folder / "overview.py"))["picture"]()
    assert (folder / "overview.svg").read_text() == made
    assert 50_000 < (folder / "rollout.webp").stat().st_size < 1_000_000
