"""The page in a real browser: figures are drawn, nothing overflows a phone, tables sort, dark is
dark, and the console stays silent. Skipped where there is no Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_up_runs import paired_results, write
from PIL import Image

from rsd.presentation import charts
from rsd.presentation.evidence import Evidence, read_evidence
from rsd.presentation.page import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is installed"),
    pytest.mark.timeout(600),
]

# What a visitor does and sees, in a frame as wide as a screen; it says so in its own text.
VISIT = """<!doctype html><title>-</title><body style="margin:0">
<iframe src="page.html" style="border:0;width:{width}px;height:8000px"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument;
  for (const hidden of page.querySelectorAll("details")) hidden.open = true;
  setTimeout(() => {{
    const solved = (table) => [...table.tBodies[0].rows].map((row) => row.cells[3].textContent);
    const table = page.getElementById("table-success");
    const button = table.tHead.rows[0].cells[3].querySelector("button");
    button.click(); const up = solved(table); button.click(); const down = solved(table);
    const said = document.createElement("pre");
    said.textContent = JSON.stringify({{
      drawn: page.querySelectorAll(".chart .main-svg").length > 0,
      empty: [...page.querySelectorAll(".chart")].filter((place) => !place.firstChild).length,
      charts: page.querySelectorAll(".chart").length,
      wide: page.documentElement.scrollWidth,
      up, down, sort: table.tHead.rows[0].cells[3].getAttribute("aria-sort"),
      hidden: [...page.querySelectorAll("figure, .wide")].filter((one) => !one.offsetWidth).length,
    }});
    document.body.replaceChildren(said);
  }}, 1500);
}};
</script>"""


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    output = write(tmp_path_factory.mktemp("run"), paired_results())
    return read_evidence([output], 0.02, datetime.now(UTC))


@pytest.fixture(scope="module")
def folder(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds page.html."""
    made = tmp_path_factory.mktemp("page")
    (made / "page.html").write_text(page(evidence, made / "page.html", "rsd report run"))
    return made


def browse(address: Path, *flags: str) -> str:
    """Open a file without a network; returns what `--dump-dom` prints. Fails where the page says
    anything on its console."""
    assert CHROMIUM is not None
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"]
    command = [CHROMIUM, *quiet, *offline, "--enable-logging=stderr", "--virtual-time-budget=10000"]
    profile = address.parent / f"profile-{len(list(address.parent.iterdir()))}"
    words = [*command, f"--user-data-dir={profile}", *flags, address.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_are_drawn_and_tables_sort_at_every_width(
    folder: Path, evidence: Evidence, width: int
) -> None:
    visit = folder / f"visit-{width}.html"
    visit.write_text(VISIT.format(width=width))
    shown = re.search(r"<pre>(.*)</pre>", browse(visit, "--dump-dom", "--window-size=1300,8000"))
    assert shown is not None
    said = shown[1]
    assert f'"empty":0,"charts":{len(charts.charts(evidence))},"wide":{width},' in said
    assert '"drawn":true' in said and '"hidden":0' in said
    up, down = (re.findall(r"[\d.]+", one) for one in re.findall(r"(?:up|down)\":\[([^]]*)", said))
    assert up == sorted(up, key=float) == down[::-1] and '"sort":"descending"' in said


@pytest.mark.parametrize(("scheme", "ground"), [("light", (255, 255, 255)), ("dark", (20, 23, 28))])
def test_a_picture_of_it_shows_figures_on_the_ground_of_the_scheme(
    folder: Path, scheme: str, ground: tuple[int, int, int]
) -> None:
    picture = folder / f"{scheme}.png"
    dark = {"light": "1", "dark": "0"}[scheme]  # Blink's numbers
    flags = [f"--blink-settings=preferredColorScheme={dark}", "--window-size=1280,4000"]
    browse(folder / "page.html", *flags, f"--screenshot={picture}")
    image = Image.open(picture).convert("RGB")
    assert image.getpixel((5, 5)) == ground
    colors = {color for _, color in image.getcolors(1 << 24) or []}
    for painted in charts.PALETTE[:2]:
        assert tuple(bytes.fromhex(painted[1:])) in colors
