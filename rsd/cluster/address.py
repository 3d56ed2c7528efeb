"""Which Ray cluster a command is to use, and whether it answers. Imports no ray."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

from rsd.errors import UserError

VARIABLE = "RAY_ADDRESS"
CONNECT_S = 5.0
ANSWER_S = 20.0  # in which a cluster has to take a driver in; one that lives takes 2
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit` in what it starts
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+):(\d{1,5})")

# In a process of its own, since Ray tries what is no cluster for 40 s to minutes, writes to
# standard error meanwhile, and now and then ends the process.
_PROBE = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {' '.join(str(error).splitlines()[:1])}")
ray.shutdown()
"""


def cluster_address() -> str | None:
    """What RAY_ADDRESS names; None where a command starts a Ray of its own on this machine: it is
    unset, blank, or Ray's word `local` for that."""
    address = os.environ.get(VARIABLE, "").strip()
    return None if address in ("", "local") else address


def check_cluster() -> None:
    """Raises UserError, in less than 30 s, where RAY_ADDRESS names a cluster that takes no driver
    from this machine."""
    address = cluster_address()
    if address is None:
        return
    if re.match(r"https?://", address, re.IGNORECASE):
        raise UserError(
            f"{VARIABLE}={address!r} is the address of a dashboard, which takes jobs: submit this "
            "one (`ray job submit -- python ...`), name the cluster by host:port as `ray status` "
            f"does, or unset {VARIABLE} to run on this machine"
        )
    if address.startswith("ray://"):
        raise UserError(
            f"{VARIABLE}={address!r} is for Ray Client, whose driver is outside the cluster and "
            "would not hear of its end; submit this one (`ray job submit -- python ...`), run it "
            f"on one of its nodes with {VARIABLE}=auto, or unset {VARIABLE} to run on this machine"
        )
    if address != "auto" and not _is_host_and_port(address):
        raise UserError(
            f"{VARIABLE}={address!r} is no address of a Ray cluster; give host:port (such as "
            f"10.0.0.1:6379), or auto, or unset {VARIABLE} to run on this machine"
        )
    if _SUBMITTED in os.environ:  # by the cluster itself
        return
    problem = ("" if address == "auto" else _unheard(address)) or _probe(address)
    if problem:
        raise UserError(
            f"{VARIABLE}={address!r}: {problem}; start the cluster (`ray start --head`), name one "
            f"that this machine is part of, or unset {VARIABLE} to run on this machine alone"
        )


def _is_host_and_port(address: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(address)
    return match is not None and 0 < int(match[2]) < 2**16


def _unheard(address: str) -> str:
    """Why nothing can be said to an address at all; empty where something listens."""
    match = _HOST_AND_PORT.fullmatch(address)
    assert match is not None
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=CONNECT_S).close()
    except OSError as error:  # refused, silent, unknown
        return f"nothing listens there ({error})"
    return ""


def _probe(address: str) -> str:
    """Why a cluster takes no driver; empty where it does."""
    words = [sys.executable, "-c", _PROBE, address]
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            _, told = process.communicate(timeout=ANSWER_S)
            silent = False
        except subprocess.TimeoutExpired:
            process.kill()
            _, told = process.communicate()
            silent = True
        except BaseException:  # an interrupt, which the probe may not have seen
            process.kill()
            raise
    if "Unauthenticated" in told:
        return "that Ray cluster wants a token (RAY_AUTH_MODE=token, and its RAY_AUTH_TOKEN)"
    if silent:
        return f"no Ray cluster answered there within {ANSWER_S:g} s"
    if process.returncode == 0:
        return ""
    lines = [line for line in told.splitlines() if line.strip()]
    return f"no Ray cluster takes a driver there ({' '.join(lines[-1:]) or process.returncode})"
