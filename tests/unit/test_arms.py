from __future__ import annotations

from typing import get_args

import pytest

from rsd.arms import (
    ARMS_HELP,
    EXAMPLES,
    GUARDS,
    MODES,
    NAMES,
    RULE_HELP,
    RULES,
    TRUST_EXAMPLES,
    TRUSTS,
    described,
    is_lossy,
    name_of,
    read_arm,
)
from rsd.errors import UserError
from rsd.types import Arm, Confidence, Decoding, Delay, Mode, Trust


@pytest.mark.parametrize(
    ("name", "full", "decoding"),
    [
        ("speculative", "speculative", Decoding("speculative")),
        ("speculative-exact@3", "speculative@3", Decoding("speculative", "exact", 3)),
        ("autoregressive@03", "autoregressive@3", Decoding("autoregressive", layers=3)),
        ("speculative-sampling", "speculative-sampling", Decoding("speculative", "sampling")),
        ("speculative-relaxed=02", "speculative-relaxed=2", Decoding("speculative", "relaxed=2")),
        (
            "speculative-agreement=.70@3",
            "speculative-agreement=0.7@3",
            Decoding("speculative", "agreement=0.7", 3),
        ),
        (
            "speculative-action_tolerance=1.50",
            "speculative-action_tolerance=1.5mm",
            Decoding("speculative", "action_tolerance=1.5mm"),
        ),
        (
            "autoregressive-converged=3.0@5",
            "autoregressive-converged=3mm@5",
            Decoding("autoregressive", "converged=3mm", 5),
        ),
        ("expert", "expert", Decoding("expert")),
        (
            "temporal",
            f"temporal-{TRUST_EXAMPLES['confident']}",
            Decoding("temporal", trust=Trust(TRUST_EXAMPLES["confident"])),
        ),
        (
            "temporal-random=.50@3",
            "temporal-random=0.5@3",
            Decoding("temporal", layers=3, trust=Trust("random=0.5")),
        ),
        (
            f"temporal-confident=0.8+stall=3+refresh={Trust.refresh}+gripper=0",
            "temporal-confident=0.8+gripper=0+stall=3mm",
            Decoding("temporal", trust=Trust("confident=0.8", gripper=0, stall=3.0)),
        ),
    ],
)
def test_a_name_is_read_as_one_decoding_and_written_in_full(
    name: str, full: str, decoding: Decoding
) -> None:
    assert read_arm(name) == Arm(full, decoding)


@pytest.mark.parametrize("layers", [None, 1, 7])
def test_what_is_written_is_read_again(layers: int | None) -> None:
    for mode, words in MODES.items():
        for rule in words.rules or ("exact",) * (not words.trusts):
            decoding = Decoding(mode, EXAMPLES[rule], None if words.without_layers else layers)
            assert read_arm(name_of(decoding)).decoding == decoding
        for trust in words.trusts:
            guarded = Trust(TRUST_EXAMPLES[trust], refresh=3, gripper=0, stall=0.5)
            decoding = Decoding(mode, layers=layers, trust=guarded)
            delay = Delay(3, "hold")
            assert read_arm(name_of(decoding, delay)) == Arm(
                name_of(decoding, delay), decoding, delay
            )


def test_the_confidence_of_an_arm_is_recorded_and_no_part_of_its_name() -> None:
    """Who resumes a run goes by the same one."""
    arm = read_arm("temporal-confident=0.8")
    known = Confidence(("entropy",), (-1.0,), 0.5)
    trust = Trust("confident=0.8", confidence=known)
    sure = Arm(arm.name, Decoding("temporal", trust=trust))
    assert name_of(sure.decoding) == arm.name
    assert described(sure)["trust"]["confidence"] == {
        "features": ["entropy"],
        "weights": [-1.0],
        "bias": 0.5,
    }
    assert described(sure) != described(arm)
    assert "trust" not in described(read_arm("speculative"))


def test_what_a_name_leaves_open_is_filled_in_where_it_means_something() -> None:
    def read(name: str) -> Arm:
        return read_arm(name, rule="sampling", layers=4, draft_layers=2)

    assert read("speculative").decoding == Decoding("speculative", "sampling", 4, 2)
    assert read("speculative-exact@3").decoding == Decoding("speculative", "exact", 3, 2)
    assert read("parallel").decoding == Decoding("parallel", "exact", 4, 2)
    assert read("regression").decoding == Decoding("regression")
    relaxed = read_arm("speculative", rule="relaxed=1").decoding
    assert relaxed == Decoding("speculative", "relaxed=1")
    assert read_arm("autoregressive", rule="relaxed=1").decoding == Decoding("autoregressive")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("speculativ@3", "unknown arm 'speculativ'; did you mean 'speculative'"),
        ("parallel-sampling", "unknown arm 'parallel-sampling'; did you mean"),
        ("autoregressive-smapling", "unknown acceptance rule 'smapling'; did you mean 'sampling'"),
        ("parallel@", "after @ comes a number of layers, as in parallel@3"),
        ("speculative-relaxd=2", "unknown acceptance rule 'relaxd'; did you mean 'relaxed'"),
        ("speculative-relaxed", "a whole number of levels, 0 to 255, as in relaxed=1"),
        ("speculative-relaxed=1.5", "'relaxed=1.5': relaxed takes a whole number of levels"),
        ("speculative-relaxed=-1", "a whole number of levels, 0 to 255"),
        ("speculative-agreement=1.01", "agreement takes a share, 0 to 1, as in agreement=0.9"),
        ("speculative-agreement=nan", "agreement takes a share, 0 to 1"),
        ("speculative-action_tolerance=1cm", "mm and degrees, 0 to 100, as in action_tolerance=1"),
        ("autoregressive-converged", "converged takes mm and degrees, 0 to 100, as in converged=3"),
        ("autoregressive-converged=-1", "converged takes mm and degrees, 0 to 100"),
        ("autoregressive-converged=nan", "converged takes mm and degrees, 0 to 100"),
        ("autoregressive-convergd=3", "acceptance rule 'convergd'; did you mean 'converged'"),
        ("speculative-converged=3", "unknown arm 'speculative-converged=3'; did you mean"),
        ("speculative-exact=1", "exact takes no number; write exact"),
        ("autoregressive-relaxed=1", "unknown arm 'autoregressive-relaxed=1'; did you mean"),
        ("temporal-confidnt=0.9", "unknown trust 'confidnt'; did you mean 'confident'"),
        ("temporal-exact", "unknown trust 'exact'"),
        ("temporal-confident=1.1", "confident takes a probability, 0 to 1, as in confident=0.9"),
        ("temporal-confident", "confident takes a probability, 0 to 1"),
        ("temporal-random=-0.1", "random takes a share, 0 to 1, as in random=0.5"),
        ("temporal+refresh=1.5", "refresh takes a whole number of chunks, 0 to 1000"),
        ("temporal+stall=101mm", "stall takes mm, 0 to 100"),
        ("temporal+gripper=2", "gripper takes 0 or 1"),
        ("temporal+stall=1+stall=2", "it says its stall twice"),
        ("temporal+refrsh=3", "unknown part of arm .*refrsh.*did you mean '.refresh=N'"),
        ("speculative+refresh=3", "unknown part of arm"),
        ("speculative-confident=0.9", "unknown acceptance rule 'confident'"),
        ("autoregressive-sampling=0", "sampling takes a temperature, 0.01 to 100, as in"),
        ("expert@2", "the expert decodes no layers; write expert"),
    ],
)
def test_what_means_nothing_is_told(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_arm(name)


def test_every_mode_and_rule_is_described_in_help_and_errors() -> None:
    from rsd.decoding import rules

    assert set(MODES) == set(get_args(Mode))
    assert set(RULES) == {*rules.PLAIN, *rules.LOSSY, *rules.STOPS}
    made = {name: rules.make_rule(spec, lambda: None) for name, spec in EXAMPLES.items()}  # type: ignore[arg-type, return-value]
    for name, words in RULES.items():
        assert (words.samples, not words.lossy) == (made[name].samples, made[name].lossless)
    assert all(name in ARMS_HELP for name in NAMES)
    assert all(f"{mode}: {words.what}" in ARMS_HELP for mode, words in MODES.items())
    with pytest.raises(UserError) as raised:
        read_arm("speculative-exat")
    for rule, words in RULES.items():
        assert f"{rule}: {words.what}" in str(raised.value)
        assert f"{EXAMPLES[rule]}: {words.what}" in RULE_HELP
    assert all(
        f"{TRUST_EXAMPLES[trust]}: {words.what}" in ARMS_HELP for trust, words in TRUSTS.items()
    )
    assert all(f"+{guard}=" in ARMS_HELP for guard in GUARDS)
    assert all(hasattr(Trust("random=0"), guard) for guard in GUARDS)


def test_a_temperature_may_be_left_out_and_one_arm_has_one_name() -> None:
    assert read_arm("autoregressive-sampling=1.0").name == "autoregressive-sampling"
    assert read_arm("autoregressive-sampling").decoding.rule == "sampling"
    assert read_arm("speculative-sampling=0.50").decoding.rule == "sampling=0.5"
    assert not is_lossy("sampling=0.5")
