"""Specs of policies behind servers, what a message may hold, and how an observation is sent."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from remote_servers import observations

from rsd.errors import UserError
from rsd.models import forms, inspect_policy
from rsd.models.remote import act, conventions, groot, openpi, vla_eval, wire
from rsd.models.remote import read as read_spec
from rsd.models.remote.conventions import Conventions, view
from rsd.models.remote.wire import WireError

pytest.importorskip("msgpack", reason="pip install -r requirements-remote.txt")


def test_a_spec_names_servers_dialect_and_what_differs(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    key = tmp_path / "key"
    spec = f"ws://a:1,[::1],ws://b/x?dialect=starvla&replan=4&wrist=false&api_key_file={key}"
    dialect, address = read_spec(spec)
    assert dialect.batch == 16
    assert [str(each) for each in address.endpoints] == [
        "ws://a:1",
        "ws://::1:8000",
        "ws://b:8000/x",
    ]
    assert address.given == {"replan": 4, "wrist": False}
    assert address.access.api_key == "secret" and "secret" not in repr(address)


def test_conventions_may_stand_in_a_file_and_the_spec_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("replan: 4\ngripper: one-opens\nwrist: false\n")
    _, address = read_spec(f"ws://a?conventions={file}&replan=2")
    assert address.given == {"replan": 2, "gripper": "one-opens", "wrist": False}
    file.write_text("griper: one-opens\n")
    with pytest.raises(UserError, match="did you mean 'gripper'"):
        read_spec(f"ws://a?conventions={file}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wsx://a", "unknown policy scheme 'wsx'; did you mean 'ws'"),
        ("grot://a", "did you mean 'groot'"),
        ("ws://", "is written ws://HOST:PORT"),
        ("ws://a:99999", "'a:99999' is no host and port"),
        ("http://a..b:1/act", "'a..b:1/act' is no host and port"),
        (f"ws://{'a' * 64}:1", "aaa:1' is no host and port"),
        ("ws://a,http://b", "'http://b' is no host"),
        ("ws://a,a", "names a server twice"),
        ("http://me:secret@a/act", r"\*\*\* is no host and port \(an API key goes into a file"),
        ("ws://a?dialect=openpie", "did you mean 'openpi'"),
        ("ws://a?chunk=0", "chunk is a number from 1 to 1000, not '0'"),
        ("ws://a?chunk=8&chunk=9", "says something twice"),
        ("ws://a?chunk", "after [?] comes name=value"),
        ("ws://a?wrist=yes", "wrist is true or false, not 'yes'"),
        ("ws://a?state=quat", "unknown state"),
        ("ws://a?timeout=nan", "timeout is a number above 0"),
        ("ws://a?images=1", "unknown setting"),
        ("ws://a?conventions=/nowhere.yaml", "cannot read /nowhere.yaml|conventions /nowhere.yaml"),
        ("ws://a?api_key_file=/nowhere", "cannot read /nowhere"),
    ],
)
def test_a_spec_that_means_nothing_is_refused_in_a_sentence(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        inspect_policy(spec)
    assert "secret" not in str(caught.value)


def test_every_scheme_shows_its_form() -> None:
    for scheme in ("ws://", "vla-eval://", "groot://", "http://"):
        assert f"; {scheme}HOST:PORT" in forms()


CODECS = {"openpi": openpi, "vla-eval": vla_eval, "groot": groot}


@pytest.mark.parametrize("name", CODECS)
def test_arrays_come_back_bit_for_bit(name: str) -> None:
    codec = CODECS[name]
    sent = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(True),
        "c": np.zeros((0, 7)),
        "d": [np.arange(3, dtype=">i2"), "text"],
    }
    back = wire.unpack(wire.pack(sent, codec.mark), codec.unmark)
    for name in "abc":
        assert back[name].dtype == sent[name].dtype and np.array_equal(back[name], sent[name])
    assert back["d"][1] == "text" and np.array_equal(back["d"][0], sent["d"][0])


def test_fortran_order_survives_numpys_format() -> None:
    sent = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert np.array_equal(wire.from_npy(wire.to_npy(sent)), sent)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def _npy_of_objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("unmark", "marked"),
    [
        (
            openpi.unmark,
            {b"__ndarray__": True, b"data": pickle.dumps(Bomb()), b"dtype": "|O", b"shape": [1]},
        ),
        (
            vla_eval.unmark,
            {"__ndarray__": True, "data": pickle.dumps(Bomb()), "dtype": "O", "shape": [1]},
        ),
        (groot.unmark, {"__ndarray_class__": True, "as_npy": _npy_of_objects()}),
        (act.unmark, {"__numpy__": "AAAA", "dtype": "|O", "shape": [1]}),
    ],
)
def test_a_pickled_array_is_refused_unopened(unmark, marked) -> None:
    with pytest.raises(WireError, match="refused, since a pickle runs its sender's code"):
        unmark(marked)


@pytest.mark.parametrize(
    "marked",
    [
        {"data": b"1234", "dtype": "<f4", "shape": [2]},
        {"data": b"1234", "dtype": "<f4", "shape": [-1]},
        {"data": b"1234", "dtype": "f4,f4", "shape": [1]},
        {"data": b"12345678", "dtype": "<M8[s]", "shape": [1]},
        {"data": "1234", "dtype": "<f4", "shape": [1]},
        {"data": b"1234", "dtype": "nonsense", "shape": [1]},
        {"data": b"1234", "dtype": "<f4", "shape": [2**40, 2**40]},
        {},
    ],
)
def test_an_array_that_is_none_is_refused(marked) -> None:
    with pytest.raises(WireError):
        vla_eval.unmark({"__ndarray__": True, **marked})


@pytest.mark.parametrize(
    "message",
    [b"", b"\xc1", b"GET / HTTP/1.1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xc7\x01\x05a"],
)
def test_a_message_that_is_no_msgpack_is_refused(message: bytes) -> None:
    with pytest.raises(WireError):
        wire.unpack(message, openpi.unmark)


def test_a_numpy_header_that_promises_too_much_is_refused() -> None:
    whole = wire.to_npy(np.zeros(3))
    lying = whole.replace(b"(3,), }         ", b"(9999999999,), }")
    assert lying != whole
    with pytest.raises(WireError, match="in 24 bytes"):
        wire.from_npy(lying)
    with pytest.raises(WireError, match="damaged"):
        wire.from_npy(whole.replace(b"(3,)", b"((((", 1))


def test_the_observation_is_sent_as_the_conventions_say() -> None:
    (seen,) = observations(1)
    as_drawn = Conventions(image=None)
    sent = view(as_drawn, seen)
    assert np.array_equal(sent.agentview, seen.agentview) and np.array_equal(sent.wrist, seen.wrist)
    assert np.array_equal(sent.state, seen.proprio)
    turned = view(replace(as_drawn, rotated=False, wrist=False, state="none"), seen)
    assert np.array_equal(turned.agentview, seen.agentview[::-1, ::-1])
    assert turned.wrist is None and turned.state is None
    assert view(Conventions(), seen).agentview.shape == (224, 224, 3)


def test_the_antipodal_state_turns_the_short_way_round() -> None:
    (seen,) = observations(1)
    axis = np.array([0.6, 0, 0.8], np.float32)
    seen.proprio[3:6] = 4.0 * axis
    sent = view(Conventions(state="axis-angle-antipodal"), seen).state
    assert sent is not None
    assert np.allclose(sent[3:6], (4.0 - 2 * math.pi) * axis, atol=1e-6)
    assert seen.proprio[3] == np.float32(4.0 * axis[0])  # the observation stays


def test_frames_of_another_shape_get_bars() -> None:
    wide = np.full((10, 20, 3), 200, np.uint8)
    square = conventions.resized(wide, 20, 20)
    assert square[:5].max() == 0 and square[15:].max() == 0 and square[5:15].min() == 200
