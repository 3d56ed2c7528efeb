"""Checkpoints of the Hugging Face hub: `hf://owner/name[@revision]`, through huggingface_hub and
its own cache. A revision is resolved to a commit once; that is what is read and recorded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rsd.errors import UserError

SCHEME = "hf"
ANSWER_S = 10.0  # to wait for an answer of the hub
_SPEC = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Snapshot(NamedTuple):
    """A repository at a commit, in the cache."""

    path: Path
    repository: str
    commit: str

    @property
    def spec(self) -> str:
        """Names it for good."""
        return f"{SCHEME}://{self.repository}@{self.commit}"


def fetch(
    spec: str, wanted: Callable[[Sequence[str]], Sequence[str]], endpoint: str | None = None
) -> Snapshot:
    """The files of a repository that `wanted` picks from the names of all; those that the cache
    lacks are downloaded.

    Where the hub does not answer, what the cache has of that revision is taken. `wanted` raises
    UserError where a part is missing, before anything large moves. Raises UserError for an id that
    the hub does not know, and where neither hub nor cache has it.
    """
    import huggingface_hub
    from huggingface_hub import errors

    matched = _SPEC.fullmatch(spec)
    if not matched:
        raise UserError(
            f"{spec!r} is no id of the hub; write {SCHEME}://owner/name or "
            f"{SCHEME}://owner/name@revision"
        )
    repository, revision = matched[1], matched[2] or "main"
    cached = _cached(repository, revision)
    if cached and _COMMIT.fullmatch(revision) and _complete(cached.path, wanted):
        return cached  # a commit does not change
    try:
        found = huggingface_hub.HfApi(endpoint=endpoint).model_info(
            repository, revision=revision, timeout=ANSWER_S
        )
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{repository} has no revision {revision!r} on the hub; name a branch, a tag or a "
            "commit of it, or none"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repository} is open only to those whom its owner admits: ask on its page, then "
            "`hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"the hub knows no model {repository!r}, or shows it only to its owner; check the id "
            "(owner/name), or `hf auth login`"
        ) from error
    except Exception as error:  # whatever the transport raises, or the hub answers
        if cached:
            return cached
        raise _unreachable(repository, revision, error) from error
    names = wanted([sibling.rfilename for sibling in found.siblings or ()])
    try:
        path = huggingface_hub.snapshot_download(
            repository,
            revision=revision,  # by its name, so that the cache knows it by that without the hub
            allow_patterns=list(names),
            etag_timeout=ANSWER_S,
            endpoint=endpoint,
        )
    except Exception as error:
        raise _unreachable(repository, revision, error) from error
    return Snapshot(Path(path), repository, Path(path).name)


def _cached(repository: str, revision: str) -> Snapshot | None:
    """What the cache has, complete or not."""
    import huggingface_hub

    path = huggingface_hub.try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(path, str):
        return None
    folder = Path(path).parent
    return Snapshot(folder, repository, folder.name)


def _complete(path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]) -> bool:
    try:
        wanted(names_in(path))
    except UserError:
        return False
    return True


def names_in(folder: Path) -> list[str]:
    """Files of a folder and of the folders in it, relative to it."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def _unreachable(repository: str, revision: str, error: Exception) -> UserError:
    import huggingface_hub.constants

    return UserError(
        f"{repository} at {revision!r}: the hub cannot be reached, or broke off, and its cache "
        f"({huggingface_hub.constants.HF_HUB_CACHE}) does not have all of it: "
        f"{type(error).__name__}: {error}; try again, or copy the files here by other means and "
        "give their folder"
    )
