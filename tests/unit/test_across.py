"""Arms of several runs: paired by world where the worlds are known to be the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from made_up_runs import paired_results, write

from rsd import across, conditions, results
from rsd.books import committed, read_run
from rsd.errors import UserError
from rsd.summary.compute import summarise

DATA = Path(__file__).parents[1] / "data"
WORLD = {"arithmetic": "x86-64-v3", "simulator": {"robosuite": "feed"}}


def made(folder: Path, name: str, **changes: object) -> str:
    """A run of that name with changed conditions."""
    run = write(folder, paired_results(tasks=2, trials=3))
    path = folder / "run.json"
    content = {**json.loads(path.read_text()), **WORLD, "run_id": name, **changes}
    content["packages"] |= {"hf-libero": "0.1.4"}
    path.write_text(json.dumps(content))
    return run


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(tmp_path_factory.mktemp("here"), "here")


def test_arms_of_one_source_are_compared_as_its_own_summary_compares_them(here: str) -> None:
    assert across.compare([across.read(here)]) == summarise(here).pairs


def test_arms_of_imported_results_share_no_world(here: str) -> None:
    own = across.read(here)
    theirs = dataclasses.replace(own, episodes=own.episodes.assign(source="theirs"))
    assert [pair.comparison.pairs for pair in across.compare([own])] == [5]
    assert [pair.comparison.pairs for pair in across.compare([theirs])] == [0]


def test_the_same_worlds_of_two_runs_are_paired(here: str, tmp_path: Path) -> None:
    sources = [across.read(here), across.read(made(tmp_path, "there", checkpoint_sha256="other"))]
    pairs = {(pair.first, pair.second): pair.comparison for pair in across.compare(sources)}
    assert len(pairs) == 6  # of four arms
    found = pairs["here: autoregressive", "there: speculative"]
    own = pairs["here: autoregressive", "here: speculative"]
    assert (found.pairs, found.only_first, found.only_second) == (
        own.pairs,
        own.only_first,
        own.only_second,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"assets_fingerprint": "other"},
        {"arithmetic": "other-1f"},
        {"arithmetic": None},
        {"simulator": None},
        {"packages": {}},
    ],
)
def test_other_or_unknown_worlds_are_never_paired(
    here: str, tmp_path: Path, changes: dict[str, object]
) -> None:
    sources = [across.read(here), across.read(made(tmp_path, "there", **changes))]
    if changes == {"packages": {}}:
        assert conditions.of_world(read_run(str(tmp_path))) is None
    names = [(pair.first, pair.second) for pair in across.compare(sources)]
    assert len(names) == 2 and all(a.split(":")[0] == b.split(":")[0] for a, b in names)


def test_two_runs_of_unknown_worlds_are_not_the_same_worlds(tmp_path: Path) -> None:
    sources = [across.read(made(tmp_path / name, name, simulator=None)) for name in ("one", "two")]
    assert not across.same_worlds(*sources) and not across.same_worlds(sources[0], sources[0])


def test_a_run_and_its_kept_file_say_the_same(tmp_path: Path) -> None:
    """Of a real run: all worlds are paired, no outcome differs, and every state is the same."""
    run, file = str(DATA / "libero_10"), tmp_path / "kept.parquet"
    results.keep(run, file)
    pairs = across.compare([across.read(run), across.read(str(file))])
    assert len(pairs) == 6
    for pair in pairs:
        assert (pair.comparison.pairs, pair.identical_final_states) == (18, 18)
        assert pair.comparison.only_first == pair.comparison.only_second == 0


def test_what_is_no_source_is_refused(here: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a run .* nor a file of `rsd results keep`"):
        across.read(str(tmp_path))
    with pytest.raises(UserError, match="give each once"):
        across.compare([across.read(here), across.read(here)])


def test_the_real_runs_are_whole_and_small() -> None:
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 400_000
    for name in ("libero_goal", "libero_10"):
        run = str(DATA / name)
        rows = committed(run).episodes(["arm", "outcome", "chunks"])
        assert len(rows) == read_run(run)["planned_episodes"] == 36
        assert set(rows["outcome"].to_pylist()) == {"success", "timeout"}
        assert sum(rows["chunks"].to_pylist()) == committed(run).all_chunks(["arm"]).num_rows
