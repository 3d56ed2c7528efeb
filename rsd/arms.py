"""Arms: how the name of an arm is read and written, and what its words mean.

    MODE[-RULE][@K]        as in autoregressive, speculative-sampling, parallel@3

A new part of a name is a field of `Arm` or `Decoding` and a line in `read_arm` and `name_of`; a new
rule or mode is an entry below. What is shown of them in help and errors is made from these entries.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsd.errors import UserError, unknown
from rsd.types import Arm, Decoding, Mode

UNNAMED = Decoding.rule  # the rule of an arm that names none


@dataclass(frozen=True)
class RuleWords:
    """What an acceptance rule does (rsd/decoding/rules.py)."""

    what: str
    samples: bool = False  # tokens are drawn: that means something where nothing is drafted, too


RULES = {
    "exact": RuleWords("keeps a drafted token that equals the target's argmax; lossless, greedy"),
    "sampling": RuleWords(
        "draws tokens, keeps drafted ones by rejection sampling; lossless in distribution",
        samples=True,
    ),
}


def unknown_rule(name: str) -> UserError:
    """With all rules and what they do."""
    return unknown("acceptance rule", name, {rule: words.what for rule, words in RULES.items()})


@dataclass(frozen=True)
class ModeWords:
    """What a mode is, and what may stand behind its name."""

    what: str
    rules: tuple[str, ...] = ()
    lacks: int = 0  # finest layers of the policy's that it does not decode
    without_layers: str = ""  # who decides, where no layers of codes are decoded


MODES: dict[Mode, ModeWords] = {
    "autoregressive": ModeWords(
        "a pass of the target for every layer of codes",
        tuple(rule for rule, words in RULES.items() if words.samples or rule == UNNAMED),
    ),
    "parallel": ModeWords("all layers from one pass, by heads of their own"),
    "speculative": ModeWords("a draft guesses layers, a pass judges many", tuple(RULES)),
    "draft": ModeWords(
        "what the draft guesses, executed unjudged; no pass, and not the finest layer, which no "
        "draft has",
        lacks=1,
    ),
    "regression": ModeWords(
        "a head of the same trunk that says actions as numbers; no codes",
        without_layers="a regression head",
    ),
    "bins": ModeWords(
        "actions as levels of each number, by the language model's own head; no codes",
        without_layers="a head of bins",
    ),
    "native": ModeWords(
        "whatever a policy without codes does", without_layers="a policy without codes"
    ),
    "expert": ModeWords(
        "the scripted expert, which sees the simulator's state and decides every step anew; an "
        "upper baseline",
        without_layers="the expert",
    ),
}


def read_arm(
    name: str, rule: str = UNNAMED, layers: int | None = None, draft_layers: int | None = None
) -> Arm:
    """An arm by its name; the other arguments say what the name leaves open. Raises UserError for
    words that mean nothing, or nothing together."""
    head, at, depth = name.partition("@")
    word, dash, named = head.partition("-")
    mode = next((mode for mode in MODES if mode == word), None)
    if mode is None:
        raise unknown("arm", head, NAMES)
    words = MODES[mode]
    if words.rules and dash and named not in RULES:
        raise unknown_rule(named)
    if dash and named not in words.rules:
        raise unknown("arm", head, NAMES)
    if at and not depth.isdecimal():
        raise UserError(f"arm {name!r}: after @ comes a number of layers, as in {head}@3")
    if words.without_layers:
        if at:
            raise UserError(f"arm {name!r}: {words.without_layers} decodes no layers; write {head}")
        return arm_of(Decoding(mode))
    chosen = named or (rule if rule in words.rules else UNNAMED)
    return arm_of(Decoding(mode, chosen, int(depth) if at else layers, draft_layers))


def arm_of(decoding: Decoding) -> Arm:
    """The arm that decodes so, by its full name."""
    return Arm(name_of(decoding), decoding)


def name_of(decoding: Decoding) -> str:
    """An arm's full name, so that a recorded one says how its rows were decoded."""
    rule = "" if decoding.rule == UNNAMED else f"-{decoding.rule}"
    depth = "" if decoding.layers is None else f"@{decoding.layers}"
    return f"{decoding.mode}{rule}{depth}"


NAMES = tuple(
    name_of(Decoding(mode, rule))
    for mode, words in MODES.items()
    for rule in words.rules or (UNNAMED,)
)

DEFAULT_ARMS = ("autoregressive", "speculative")

ARMS_HELP = (
    f"Left out: {' and '.join(DEFAULT_ARMS)}, or the best mode of a policy that has neither. "
    f"{', '.join(NAMES)}. NAME@K decodes the K coarsest layers only, as in autoregressive@3. "
    + ". ".join(f"{mode}: {words.what}" for mode, words in MODES.items())
    + f". Without a rule in its name an arm goes by --rule ({UNNAMED})"
)
RULE_HELP = "Acceptance rule of the arms that name none: " + ". ".join(
    f"{rule}: {words.what}" for rule, words in RULES.items()
)
