"""starVLA's protocol: openpi's messages with an envelope, several observations a message.

Source: starVLA@0ed0aad `deployment/model_server`. Actions come un-normalised.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from rsd.errors import UserError, brief
from rsd.models.remote.conventions import Conventions, View
from rsd.models.remote.dialect import Dialect, ServerError, last_line
from rsd.models.remote.openpi import OpenPiLine


class StarVlaLine(OpenPiLine):
    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        name = uuid.uuid4().hex
        payload: dict[str, Any] = {"examples": [_example(view) for view in views]}
        if settled.unnorm_key:
            payload["unnorm_key"] = settled.unnorm_key
        answer = self.exchange({"type": "infer", "request_id": name, "payload": payload})
        if not answer.get("ok", answer.get("status") == "ok"):
            error = answer.get("error")
            told = error.get("message", error) if isinstance(error, dict) else error
            raise ServerError(f"it answers with an error: {last_line(told)}")
        if answer.get("request_id", name) != name:
            raise ServerError(f"it answers another request: {brief(answer['request_id'])}")
        data = answer.get("data")
        actions = data.get("actions") if isinstance(data, dict) else None
        if actions is None or len(actions) != len(views):
            count = "no" if actions is None else len(actions)
            raise ServerError(f"its answer has {count} chunks to {len(views)} observations")
        return list(actions)


def _example(view: View) -> dict[str, Any]:
    images = [view.agentview] if view.wrist is None else [view.agentview, view.wrist]
    example: dict[str, Any] = {"image": images, "lang": view.instruction}
    if view.state is not None:
        example["state"] = view.state[None]  # a window of one step
    return example


def learn(metadata: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Raises UserError for another's metadata, and where it is open whose statistics count."""
    if not {"available_unnorm_keys", "action_chunk_size"} & set(metadata):
        raise UserError(
            "it says nothing of what starVLA's servers say of themselves; without ?dialect=starvla "
            "it is asked as openpi's are"
        )
    known = metadata.get("available_unnorm_keys") or []
    chosen = given.get("unnorm_key", metadata.get("default_unnorm_key"))
    if known and chosen not in known and (chosen is not None or len(known) > 1):
        raise UserError(
            f"the server has the statistics {', '.join(map(str, known))}, not {chosen!r}: choose "
            "by unnorm_key=NAME"
        )
    chunk = metadata.get("action_chunk_size")
    return {"chunk": chunk} if isinstance(chunk, int) else {}


STARVLA = Dialect(
    StarVlaLine,
    Conventions(state="none", gripper="one-opens"),
    "starVLA (port 10093), asked in batches",
    batch=16,
    learn=learn,
)
