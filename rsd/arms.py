"""Arms: how the name of an arm is read and written, and what its words mean.

    MODE[-RULE][@K][+delay=D[+hold]]
        as in autoregressive, speculative-sampling, parallel@3, speculative+delay=3+hold
    temporal-TRUST[@K][+GUARD=NUMBER ...][+delay=D[+hold]]
        as in temporal-confident=0.9, temporal-random=0.5+refresh=4+stall=0
    RULE[=NUMBER]
        as in exact, sampling=0.5, relaxed=2, action_tolerance=1mm, converged=3mm

A new part of a name is a field of `Arm` or `Decoding` and a line in `read_arm` and `name_of`; a new
rule, guard or mode is an entry below. What is shown of them in help and errors is made from these.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsd.delay import MEASURED, MOST_STEPS
from rsd.errors import UserError, unknown
from rsd.types import Arm, Decoding, Delay, Mode, Trust, Waiting

UNNAMED = Decoding.rule  # the rule of an arm that names none


@dataclass(frozen=True)
class Number:
    """What stands behind = in a name."""

    what: str
    least: float
    most: float
    example: str
    whole: bool = False
    unit: str = ""  # stands behind the number, and may be left out by who asks
    usual: float | None = None  # what a name without a number means; None: it takes one

    def read(self, word: str) -> float:
        """Raises ValueError for what is none, or out of range."""
        value = float(word.removesuffix(self.unit))
        if not self.least <= value <= self.most or (self.whole and not value.is_integer()):
            raise ValueError(word)
        return value

    def __str__(self) -> str:
        return f"{self.what}, {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class RuleWords:
    """What an acceptance rule does (rsd/decoding/rules.py)."""

    what: str
    samples: bool = False  # tokens are drawn: that means something where nothing is drafted, too
    number: Number | None = None  # of what a lossy rule tolerates (at one end of it nothing), or
    # the temperature at which tokens are drawn
    stops: bool = False  # it says when to stop refining; there is nothing to accept

    @property
    def lossy(self) -> bool:
        """Whether it may keep what the target would not say."""
        return self.number is not None and not self.samples


RULES = {
    "exact": RuleWords("keeps a drafted token that equals the target's argmax; lossless, greedy"),
    "sampling": RuleWords(
        "draws tokens, keeps drafted ones by rejection sampling; lossless in distribution; "
        "sampling=N: at that temperature",
        samples=True,
        number=Number("a temperature", 0.01, 100, "0.5", usual=1.0),
    ),
    "relaxed": RuleWords(
        "keeps a drafted token up to N levels off the target's argmax, the gripper's exactly; "
        "lossy",
        number=Number("a whole number of levels", 0, 255, "1", whole=True),
    ),
    "agreement": RuleWords(
        "keeps a whole drafted layer, but for the gripper, where at least a share N of its tokens "
        "are the target's argmax; lossy",
        number=Number("a share", 0, 1, "0.9"),
    ),
    "action_tolerance": RuleWords(
        "keeps drafted tokens as long as all that are off move no number of an action by more than "
        "N mm or N degrees, the gripper's exactly; lossy",
        number=Number("mm and degrees", 0, 100, "1", unit="mm"),
    ),
    "converged": RuleWords(
        "takes no pass behind a layer that moved no number of the plan by N mm or N degrees, once "
        "no finer layer can turn the gripper; lossy",
        number=Number("mm and degrees", 0, 100, "3", unit="mm"),
        stops=True,
    ),
}

TRUSTS = {  # rules of whole chunks: when a drafted one is executed, and the target not asked
    "confident": RuleWords(
        "where the calibrated probability that the target would say nearly the same is N or more; "
        "1 never (autoregressive), 0 always (draft)",
        number=Number("a probability", 0, 1, "0.9"),
    ),
    "random": RuleWords(
        "of the chunks that no guard holds a share N, by lot: the control of confident; 0 never, 1 "
        "always",
        number=Number("a share", 0, 1, "0.5"),
    ),
}


@dataclass(frozen=True)
class GuardWords:
    """What help says of a guard, and the number that it takes; 0: it guards nothing."""

    what: str
    number: Number


GUARDS = {  # what keeps a drafted chunk from being trusted: fields of Trust
    "refresh": GuardWords(
        "the target decodes after N drafted chunks in a row",
        Number("a whole number of chunks", 0, 1000, "8", whole=True),
    ),
    "gripper": GuardWords(
        "the target decodes chunks that would switch the gripper",
        Number("0 or 1", 0, 1, "1", whole=True),
    ),
    "stall": GuardWords(
        "the target decodes where the hand moved by less than N mm since the chunk before",
        Number("mm", 0, 100, "2", unit="mm"),
    ),
}
_Rules = Mapping[str, RuleWords]


def rule_and_value(
    spec: str, rules: _Rules = RULES, what: str = "acceptance rule"
) -> tuple[str, float | None]:
    """`relaxed=2` -> its name and number; None for a rule that takes none. Raises UserError, with
    all rules, for one that does not exist, and for a number that it does not take."""
    name, equals, word = spec.partition("=")
    if name not in rules:
        raise unknown(what, name, {rule: words.what for rule, words in rules.items()})
    number = rules[name].number
    if number is None:
        if equals:
            raise UserError(f"{what} {spec!r}: {name} takes no number; write {name}")
        return name, None
    if not equals and number.usual is not None:
        return name, number.usual
    return name, _number(number, word, name, f"{what} {spec!r}: ")


def _number(number: Number, word: str, name: str, where: str) -> float:
    try:
        return number.read(word)
    except ValueError:
        raise UserError(f"{where}{name} takes {number}, as in {name}={number.example}") from None


def read_rule(spec: str, rules: _Rules = RULES, what: str = "acceptance rule") -> str:
    """A rule as it is recorded. Raises UserError as `rule_and_value`."""
    name, value = rule_and_value(spec, rules, what)
    number = rules[name].number
    if number is None or value == number.usual:
        return name
    return f"{name}={value:.12g}{number.unit}"


def is_lossy(rule: str) -> bool:
    """Whether a rule may keep what the target would not say."""
    return RULES[rule.partition("=")[0]].lossy


def _example(name: str, rules: _Rules) -> str:
    """A rule as arms name it."""
    words = rules[name]
    if words.number is None or not words.lossy:
        return name
    return read_rule(f"{name}={words.number.example}", rules)


EXAMPLES, TRUST_EXAMPLES = (
    {name: _example(name, rules) for name in rules} for rules in (RULES, TRUSTS)
)


@dataclass(frozen=True)
class ModeWords:
    """What a mode is, and what may stand behind its name."""

    what: str
    rules: tuple[str, ...] = ()
    trusts: tuple[str, ...] = ()  # in the place of rules
    lacks: int = 0  # finest layers of the policy's that it does not decode
    without_layers: str = ""  # who decides, where no layers of codes are decoded


MODES: dict[Mode, ModeWords] = {
    "autoregressive": ModeWords(
        "a pass of the target for every layer of codes",
        tuple(
            rule for rule, words in RULES.items() if words.samples or words.stops or rule == UNNAMED
        ),
    ),
    "parallel": ModeWords("all layers from one pass, by heads of their own"),
    "speculative": ModeWords(
        "a draft guesses layers, a pass judges many",
        tuple(rule for rule, words in RULES.items() if not words.stops),
    ),
    "draft": ModeWords(
        "what the draft guesses, executed unjudged; no pass, and not the finest layer, which no "
        "draft has",
        lacks=1,
    ),
    "temporal": ModeWords(
        "a drafted chunk is executed unjudged where it may be trusted, in no pass; else the target "
        "decodes as in speculative",
        trusts=tuple(TRUSTS),
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


WAITING: dict[Waiting, str] = {
    "continue": "the robot goes on with the rest of the chunk before, then stands still",
    "hold": "it stands still",
}
_DELAY = "delay="


def read_arm(
    name: str,
    rule: str = UNNAMED,
    layers: int | None = None,
    draft_layers: int | None = None,
    waiting: Waiting = Delay.waiting,
) -> Arm:
    """An arm by its name; the other arguments say what the name leaves open. Raises UserError for
    words that mean nothing, or nothing together."""
    decodes, *words = name.split("+")
    decoding = _read_decoding(decodes, name, rule, layers, draft_layers)
    if decoding.trust is not None:
        guards = [word for word in words if word.partition("=")[0] in GUARDS]
        words = [word for word in words if word not in guards]
        decoding = dataclasses.replace(decoding, trust=_guarded(decoding.trust, guards, name))
    return arm_of(decoding, _read_delay(words, name, decoding, waiting))


def _guarded(trust: Trust, words: Sequence[str], name: str) -> Trust:
    """With the guards that an arm's name says."""
    told: dict[str, Any] = {}
    for word in words:
        guard, _, value = word.partition("=")
        if guard in told:
            raise UserError(f"arm {name!r}: it says its {guard} twice")
        number = GUARDS[guard].number
        read = _number(number, value, guard, f"arm {name!r}: ")
        told[guard] = int(read) if number.whole else read
    return dataclasses.replace(trust, **told)


def _read_delay(words: list[str], name: str, decoding: Decoding, waiting: Waiting) -> Delay | None:
    """Of what stands behind the first +; none of no steps."""
    told: dict[str, str] = {}
    for word in words:
        part = "delay" if word.startswith(_DELAY) else "waiting" if word in WAITING else None
        if part is None:
            guards = GUARDS if decoding.trust is not None else ()
            raise unknown(
                f"part of arm {name!r},",
                f"+{word}",
                ["+delay=D", *(f"+{each}" for each in WAITING), *(f"+{each}=N" for each in guards)],
            )
        if part in told:
            raise UserError(f"arm {name!r}: it says its {part} twice")
        told[part] = word.removeprefix(_DELAY)
    if not told:
        return None
    if "delay" not in told:
        raise UserError(
            f"arm {name!r}: +{told['waiting']} says what the robot does while it waits; write "
            f"{name_of(decoding)}+delay=D+{told['waiting']}"
        )
    if decoding.mode == "expert":
        raise UserError(
            f"arm {name!r}: the expert decides every step anew; only chunks can be late"
        )
    wait = next((each for each in WAITING if each == told.get("waiting")), waiting)
    return _delay(told["delay"], name, wait)


def _delay(value: str, name: str, waiting: Waiting) -> Delay | None:
    if value == MEASURED:
        return Delay(None, waiting)
    if not (value.isascii() and value.isdecimal() and int(value[:9]) <= MOST_STEPS):
        raise UserError(
            f"arm {name!r}: behind delay= comes a number of control steps (50 ms) from 0 to "
            f"{MOST_STEPS}, or {MEASURED}, not {value!r}"
        )
    return Delay(int(value), waiting) if int(value) else None


def _read_decoding(
    decodes: str, name: str, rule: str, layers: int | None, draft_layers: int | None
) -> Decoding:
    head, at, depth = decodes.partition("@")
    word, dash, spec = head.partition("-")
    named = spec.partition("=")[0]
    mode = next((mode for mode in MODES if mode == word), None)
    if mode is None:
        raise unknown("arm", head, NAMES)
    words = MODES[mode]
    if words.trusts:
        spec = read_rule(spec if dash else TRUST_EXAMPLES[words.trusts[0]], TRUSTS, "trust")
    elif words.rules and dash:
        spec = read_rule(spec)
    if dash and named not in (*words.rules, *words.trusts):
        raise unknown("arm", head, NAMES)
    if at and not depth.isdecimal():
        raise UserError(f"arm {name!r}: after @ comes a number of layers, as in {head}@3")
    if words.without_layers:
        if at:
            raise UserError(f"arm {name!r}: {words.without_layers} decodes no layers; write {head}")
        return Decoding(mode)
    if words.trusts:
        return Decoding(mode, UNNAMED, int(depth) if at else layers, draft_layers, Trust(spec))
    chosen = spec or (rule if rule.partition("=")[0] in words.rules else UNNAMED)
    return Decoding(mode, chosen, int(depth) if at else layers, draft_layers)


def arm_of(decoding: Decoding, delay: Delay | None = None) -> Arm:
    """The arm that decodes so, and is so late, by its full name."""
    return Arm(name_of(decoding, delay), decoding, delay)


def described(arm: Arm) -> dict[str, Any]:
    """As run.json has it; of an arm without delay or trust it says nothing of them."""
    said = dataclasses.asdict(arm.decoding)
    if said["trust"] is None:
        del said["trust"]
    if arm.delay is not None:  # what single episodes recorded is none of the arm's
        said["delay"] = {"steps": arm.delay.steps, "waiting": arm.delay.waiting}
    plain: dict[str, Any] = json.loads(json.dumps(said))
    return plain


def name_of(decoding: Decoding, delay: Delay | None = None) -> str:
    """An arm's full name, so that a recorded one says how its rows were decoded."""
    rule = "" if decoding.rule == UNNAMED else f"-{decoding.rule}"
    depth = "" if decoding.layers is None else f"@{decoding.layers}"
    guards = ""
    if decoding.trust is not None:
        rule, guards = f"-{decoding.trust.by}", _guards_of(decoding.trust)
    late = ""
    if delay is not None:
        steps = MEASURED if delay.steps is None else delay.steps
        waiting = "" if delay.waiting == Delay.waiting else f"+{delay.waiting}"
        late = f"+{_DELAY}{steps}{waiting}"
    return f"{decoding.mode}{rule}{depth}{guards}{late}"


def _guards_of(trust: Trust) -> str:
    """Those that are not as they usually are."""
    plain = Trust(trust.by)
    return "".join(
        f"+{guard}={getattr(trust, guard):.12g}{words.number.unit}"
        for guard, words in GUARDS.items()
        if getattr(trust, guard) != getattr(plain, guard)
    )


NAMES = tuple(
    name_of(Decoding(mode, EXAMPLES[rule]))
    for mode, words in MODES.items()
    if not words.trusts
    for rule in words.rules or (UNNAMED,)
) + tuple(
    name_of(Decoding(mode, trust=Trust(TRUST_EXAMPLES[rule])))
    for mode, words in MODES.items()
    for rule in words.trusts
)

DEFAULT_ARMS = ("autoregressive", "speculative")

ARMS_HELP = (
    f"Left out: {' and '.join(DEFAULT_ARMS)}, or the best mode of a policy that has neither. "
    f"{', '.join(NAMES)}. NAME@K decodes the K coarsest layers only, as in autoregressive@3. "
    f"NAME+delay=D: the world goes on for D control steps (20 Hz, {MOST_STEPS} at most) before a "
    f"chunk arrives; +delay={MEASURED}: for as long as decoding it takes. "
    + ". ".join(f"{mode}: {words.what}" for mode, words in MODES.items())
    + ". Trust: "
    + "; ".join(
        f"{TRUST_EXAMPLES[trust]}: {words.what} (N: {words.number})"
        for trust, words in TRUSTS.items()
    )
    + ". Behind it stand guards (0: none): "
    + "; ".join(
        f"+{guard}=N, {words.what} ({getattr(Trust, guard):g} if left out)"
        for guard, words in GUARDS.items()
    )
    + f". Without a rule in its name an arm goes by --rule ({UNNAMED})"
)
WAITING_HELP = (
    "What robots of arms with +delay=D do until a chunk arrives, where the name does not say it "
    "(as in speculative+delay=3+hold). "
    + ". ".join(
        f"{name}{' (default)' * (name == Delay.waiting)}: {what}" for name, what in WAITING.items()
    )
)
RULE_HELP = "Acceptance rule of the arms that name none: " + ". ".join(
    f"{EXAMPLES[rule]}: {words.what}" + (f" (N: {words.number})" if words.number else "")
    for rule, words in RULES.items()
)
