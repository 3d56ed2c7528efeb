"""Assets on a node of a cluster are those that the driver resolved, or it is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from rsd.envs import assets
from rsd.envs.assets import ResolvedAssets
from rsd.errors import UserError


@pytest.fixture
def tree(lite: ResolvedAssets, tmp_path: Path) -> ResolvedAssets:
    """A local tree, as --assets PATH resolves it."""
    shutil.copytree(lite.path, tmp_path / "tree")
    return assets.resolve(str(tmp_path / "tree"), ["libero_spatial"])


def test_the_tree_that_the_driver_resolved_passes(tree: ResolvedAssets) -> None:
    assets.check_node(tree)


@pytest.mark.parametrize("change", ["less", "other", "more"])
def test_another_tree_at_its_path_is_refused(tree: ResolvedAssets, change: str) -> None:
    """Half a copy would bear the name of the whole."""
    file = sorted(tree.path.rglob("*.xml"))[0]
    if change == "less":
        file.unlink()
    else:
        (file if change == "other" else file.with_name("one_more.xml")).write_text("<mujoco/>")
    with pytest.raises(UserError, match="another one than the driver's"):
        assets.check_node(tree)


def test_a_tree_that_is_not_there_is_refused(tree: ResolvedAssets, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not on this node"):
        assets.check_node(dataclasses.replace(tree, path=tmp_path / "elsewhere"))


def test_lite_is_generated_where_it_is_missing(lite: ResolvedAssets) -> None:
    assets.check_node(lite)
    with pytest.raises(UserError, match="generates other lite assets"):
        assets.check_node(dataclasses.replace(lite, fingerprint="0" * 64))
