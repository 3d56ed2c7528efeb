"""Drafts of a set quality: how many layers become final in each pass (DESIGN 6).

Two models of a draft. `layer`: each guessed layer is wholly right with probability p. `token`: each
guessed token is, with the mixed redraft, in which a latent scalar keeps the target's own output
where its coarser codes stood: so a pass repairs the first error of every scalar, and what was right
stays right.
"""

from __future__ import annotations

import numpy as np


def by_layer(p: float, layers: int, draws: np.random.Generator) -> list[int]:
    """Layers final after each pass; the last is `layers`."""
    finals = [0]
    while finals[-1] < layers:
        final = finals[-1]
        while final < layers - 1 and draws.random() < p:
            final += 1
        finals.append(final + 1)
    return finals[1:]


def by_token(p: float, layers: int, tokens: int, draws: np.random.Generator) -> list[int]:
    """Likewise, for `tokens` latent scalars."""
    guessed = layers - 1
    wrong = draws.random((tokens, guessed)) >= p
    finals = [0]
    while finals[-1] < layers:
        final = finals[-1]
        ahead = wrong[:, final:]
        bad = np.flatnonzero(ahead.any(axis=0))
        stop = final + (int(bad[0]) if len(bad) else layers - 1 - final)
        finals.append(stop + 1)
        for scalar in np.flatnonzero(ahead.any(axis=1)):
            error = final + int(ahead[scalar].argmax())
            wrong[scalar, error] = False  # the target said what is right here
            behind = slice(error + 1, guessed)  # drafted anew, where its input has changed
            wrong[scalar, behind] = draws.random(guessed)[behind] >= p
    return finals[1:]


UNITS = ("layer", "token")


def schedule(
    unit: str, p: float, layers: int, tokens: int, batch: int, draws: np.random.Generator
) -> list[list[int]]:
    """Layers final after each pass, by pass and row: as many passes as the slowest row takes."""
    rows = [
        by_layer(p, layers, draws) if unit == "layer" else by_token(p, layers, tokens, draws)
        for _ in range(batch)
    ]
    passes = max(map(len, rows))
    return [[row[min(index, len(row) - 1)] for row in rows] for index in range(passes)]
