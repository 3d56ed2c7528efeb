"""Instructions to the tokens that the model reads (moojink/openvla-oft@213c5ff,
experiments/robot/openvla_utils.py). No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rsd.errors import UserError, brief

if TYPE_CHECKING:
    from rsd.models.openvla_oft.folder import Checkpoint

PROMPT = "In: What action should the robot take to {}?\nOut:"
END_OF_PROMPT = "▁"  # Llama's token 29871, which stands there in training


class Prompts:
    """Instructions -> tokens."""

    def __init__(self, tokeniser: Path, longest: int, vocabulary: int) -> None:
        """From a tokenizer.json; prompts of at most `longest` tokens."""
        from tokenizers import Tokenizer

        try:
            self._tokeniser = Tokenizer.from_file(str(tokeniser))
        except Exception as error:  # of no class of its own
            raise UserError(f"{tokeniser} is no tokeniser: {error}; copy it again") from error
        self._tokeniser.no_padding()
        self._tokeniser.no_truncation()
        last = self._tokeniser.token_to_id(END_OF_PROMPT)
        known = self._tokeniser.get_vocab_size()
        if last is None or known > vocabulary:
            raise UserError(
                f"{tokeniser} is another model's: {known} tokens for a vocabulary of {vocabulary}, "
                f"{END_OF_PROMPT!r} is {last}"
            )
        self._last, self._longest = last, longest
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, checkpoint: Checkpoint, longest: int | None = None) -> Prompts:
        """What a checkpoint reads, at most `longest` tokens if that is less than its context has
        left."""
        left = checkpoint.longest_prompt
        most = left if longest is None else min(longest, left)
        return cls(checkpoint.tokeniser, most, checkpoint.config.llama.vocabulary)

    def __call__(self, instructions: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
        """int64 (B, P) without BOS, padded on the left, and bool (B, P) where it is not padding, or
        None where nothing is."""
        prompts = [self._tokens(instruction) for instruction in instructions]
        lengths = np.array([len(prompt) for prompt in prompts])
        tokens = np.zeros((len(prompts), lengths.max()), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, -len(prompt) :] = prompt
        valid = np.arange(tokens.shape[1]) >= tokens.shape[1] - lengths[:, None]
        return tokens, None if valid.all() else valid

    def _tokens(self, instruction: str) -> list[int]:
        if instruction not in self._known:
            text = PROMPT.format(instruction.lower())
            tokens = list(self._tokeniser.encode(text, add_special_tokens=False).ids)
            if tokens[-1:] != [self._last]:
                tokens.append(self._last)
            if len(tokens) > self._longest:
                raise UserError(
                    f"instruction {brief(instruction)}: its prompt is {len(tokens)} tokens, and "
                    f"the model's context has {self._longest} left for it; shorten it"
                )
            self._known[instruction] = tokens
        return self._known[instruction]
