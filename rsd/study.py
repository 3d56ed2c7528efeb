"""A study: one base cell, and factors of which each changes one thing of it.

A level of a factor is an arm of a run of `rsd evaluate`. Levels that differ from the base in the
name of the arm only share its run, and so its simulators; any other has a run of its own.
docs/ablations.md has the file's form.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd.arms import MODES, RULES, UNNAMED, arm_of, described, name_of, read_arm, read_rule
from rsd.books.folder import Folder
from rsd.conditions import require_same
from rsd.config import (
    ClusterConfig,
    EpisodesConfig,
    EvaluateConfig,
    OutputConfig,
    PolicyConfig,
    SimulatorConfig,
    parse,
)
from rsd.errors import UserError, unknown
from rsd.flags import flags_of
from rsd.foreign import Scalar, parse_json, read_sections
from rsd.plan import resolve_arms
from rsd.preflight import RunPlan, prepare
from rsd.protocols import get_protocol, preset_of, recorded, replanned
from rsd.types import Arm

STUDY_FILE = "study.json"
BASE = "base"  # the run of the base cell
_SECTIONS = ("base", "factors")
_GROUPS = (EpisodesConfig, PolicyConfig, SimulatorConfig)
_NO_BASE = ("latency", "while_waiting")  # arms say it by their names
_LONGEST_NAME = 60  # of a cell

Value = int | str | None  # None: the policy does not say


@dataclass(frozen=True)
class Setting:
    """What a level is made from and becomes."""

    config: EvaluateConfig
    arm: Arm


@dataclass(frozen=True)
class Factor:
    """One thing that a study varies."""

    what: str
    change: Callable[[Setting, str], Setting]  # raises UserError for a level that means nothing
    value: Callable[[RunPlan, Arm], Value]  # which level an arm of a run has
    number: bool = False  # whether levels have an order, and a distance


def _arm(base: Setting, level: str) -> Setting:
    asked = dataclasses.replace(base.config.episodes, arms=(level,), use_speculative_decoding=None)
    (arm,) = resolve_arms(dataclasses.replace(base.config, episodes=asked)).values()
    return dataclasses.replace(base, arm=arm)


def _layers(base: Setting, level: str) -> Setting:
    decoding, mode = base.arm.decoding, MODES[base.arm.decoding.mode]
    if mode.without_layers:
        raise UserError(f"arm {base.arm.name!r}: {mode.without_layers} decodes no layers")
    changed = dataclasses.replace(decoding, layers=_least_one(level))
    return dataclasses.replace(base, arm=arm_of(changed, base.arm.delay))


def _draft_layers(base: Setting, level: str) -> Setting:
    if base.arm.decoding.mode != "speculative":
        raise UserError(f"arm {base.arm.name!r} drafts nothing; only speculative does")
    drafted = _least_one(level)
    policy = dataclasses.replace(base.config.policy, draft_layers=drafted)
    decoding = dataclasses.replace(base.arm.decoding, draft_layers=drafted)
    return Setting(
        dataclasses.replace(base.config, policy=policy), arm_of(decoding, base.arm.delay)
    )


def _rule(base: Setting, level: str) -> Setting:
    decoding, rule = base.arm.decoding, read_rule(level)
    rules = MODES[decoding.mode].rules
    if rule.partition("=")[0] not in rules:
        raise UserError(
            f"arm {base.arm.name!r} knows no rule {level!r}; it goes by "
            f"{', '.join(rules) or 'none'}"
        )
    changed = dataclasses.replace(decoding, rule=rule)
    return dataclasses.replace(base, arm=arm_of(changed, base.arm.delay))


def _delay(base: Setting, level: str) -> Setting:
    if not level.isdecimal():
        raise UserError(f"{level!r} is no number of control steps")
    decoding, delay = base.arm.decoding, base.arm.delay
    waiting = "" if delay is None else f"+{delay.waiting}"
    late = read_arm(f"{name_of(decoding)}+delay={level}{waiting}")
    return dataclasses.replace(base, arm=arm_of(decoding, late.delay))


def _policy(base: Setting, level: str) -> Setting:
    policy = dataclasses.replace(base.config.policy, policy=level)
    return dataclasses.replace(base, config=dataclasses.replace(base.config, policy=policy))


def _protocol(base: Setting, level: str) -> Setting:
    episodes = dataclasses.replace(base.config.episodes, protocol=get_protocol(level).name)
    return dataclasses.replace(base, config=dataclasses.replace(base.config, episodes=episodes))


def _replan(base: Setting, level: str) -> Setting:
    protocol = get_protocol(base.config.episodes.protocol)
    return _protocol(base, replanned(protocol, _least_one(level)).name)


def _least_one(level: str) -> int:
    """Raises UserError for what is no whole number from 1 on."""
    if not (level.isascii() and level.isdecimal() and int(level[:9])):
        raise UserError(f"{level!r} is no whole number from 1 on")
    return int(level[:9])


def _layers_of(run: RunPlan, arm: Arm) -> int | None:
    words = MODES[arm.decoding.mode]
    if words.without_layers or not run.policy.layers:
        return None
    return arm.decoding.layers or run.policy.layers - words.lacks


def _draft_layers_of(run: RunPlan, arm: Arm) -> int | None:
    """No draft has the finest layer that is decoded."""
    layers = _layers_of(run, arm)
    if arm.decoding.mode != "speculative" or layers is None:
        return None
    return layers - 1 if arm.decoding.draft_layers is None else arm.decoding.draft_layers


def _replan_of(run: RunPlan, arm: Arm) -> int | None:
    steps = [run.protocol.replan_steps, run.policy.chunk_steps]
    return min((each for each in steps if each is not None), default=None)


FACTORS: dict[str, Factor] = {
    "arms": Factor("arms, as `rsd evaluate --arms` has them", _arm, lambda run, arm: arm.name),
    "layers": Factor("the K coarsest layers decoded", _layers, _layers_of, number=True),
    "draft_layers": Factor(
        "layers drafted before the first pass", _draft_layers, _draft_layers_of, number=True
    ),
    "rule": Factor(
        f"acceptance rules: {', '.join(RULES)}", _rule, lambda run, arm: arm.decoding.rule
    ),
    "policy": Factor(
        "policies, such as folders of checkpoints: sizes of the draft, tokenisers (cosine, "
        "overlap), steps of training",
        _policy,
        lambda run, arm: run.config.policy.policy,
    ),
    "replan": Factor(
        "control steps of a chunk executed before the next (open-loop horizon)",
        _replan,
        _replan_of,
        number=True,
    ),
    "protocol": Factor(
        "protocols of evaluation scripts", _protocol, lambda run, arm: preset_of(run.protocol)
    ),
    "delay": Factor(
        "control steps that a chunk comes late",
        _delay,
        lambda run, arm: 0 if arm.delay is None else arm.delay.steps,
        number=True,
    ),
}


@dataclass(frozen=True)
class Study:
    """A study as its file says it."""

    base: Setting
    factors: dict[str, tuple[str, ...]]  # levels by factor


@dataclass(frozen=True)
class Point:
    """The base, or a level: an arm of a cell."""

    factor: str  # empty: the base
    level: str
    arm: str

    def __str__(self) -> str:
        return f"{self.factor} {self.level}" if self.factor else "the base"


@dataclass(frozen=True)
class Cell:
    """A run of the study, and which of its points are the run's arms."""

    name: str  # of its folder, in cells/
    run: RunPlan
    points: tuple[Point, ...]

    def values(self, point: Point) -> dict[str, Value]:
        """Which level of every factor a point has."""
        arm = self.run.arms[point.arm]
        return {name: factor.value(self.run, arm) for name, factor in FACTORS.items()}


def read_study(path: Path) -> Study:
    """Raises UserError for a file that is no study, a base that is none of `rsd evaluate`, and a
    factor that does not exist or has no level."""
    sections = read_sections(path, str(path))
    for section in sections:
        if section not in _SECTIONS:
            raise unknown(f"section in {path}", section, _SECTIONS)
    known = {
        field.name: field
        for group in _GROUPS
        for field in dataclasses.fields(group)
        if field.name not in _NO_BASE
    }
    config = parse(flags_of(sections.get("base", {}), path, known))
    arms = resolve_arms(config)
    named = config.episodes.arms is not None or config.episodes.use_speculative_decoding is not None
    if not named or len(arms) != 1:
        raise UserError(
            f"{path}: a study has one base cell; name its arm, as in `arms: speculative` (others "
            "are levels of the factor arms)"
        )
    (arm,) = arms.values()
    if arm.delay is not None and arm.delay.steps is None:
        raise UserError(f"{path}: arm {arm.name!r}: no second run is as late; name a number")
    return Study(Setting(config, arm), _factors(path, sections.get("factors", {})))


def _factors(path: Path, told: Mapping[str, Scalar | list[Scalar]]) -> dict[str, tuple[str, ...]]:
    if not told:
        raise UserError(f"{path}: there are no factors; name one of {', '.join(FACTORS)}")
    factors = {}
    for name, value in told.items():
        if name not in FACTORS:
            known = {each: factor.what for each, factor in FACTORS.items()}
            raise unknown(f"factor in {path}", name, known)
        levels = value if isinstance(value, list) else [value]
        if levels in ([], [None]):
            raise UserError(f"{path}: factor {name} has no level; name one, or leave it out")
        words = [level for level in levels if isinstance(level, str)]
        if len(words) < len(levels):
            raise UserError(f"{path}: a level of {name} is a word or a number, not {levels}")
        factors[name] = tuple(words)
    return factors


def cells_of(study: Study, output: OutputConfig, cluster: ClusterConfig) -> list[Cell]:
    """The runs of a study, that of the base first, each checked as `rsd evaluate` checks it.

    Raises UserError for a level that does not exist, and for two that are one.
    """
    base = study.base
    folder = f"{output.output}/cells"
    points = {BASE: [Point("", "", base.arm.name)]}
    configs = {BASE: _shared(base)}
    for factor, levels in study.factors.items():
        for level in levels:
            try:
                setting = FACTORS[factor].change(base, level)
            except UserError as error:
                raise UserError(f"factor {factor}, level {level}: {error}") from error
            config, point = _shared(setting), Point(factor, level, setting.arm.name)
            name = next((each for each, its in configs.items() if its == config), None)
            if name is None:
                name = _cell_name(factor, level, configs)
                configs[name], points[name] = config, []
            if any(other.arm == point.arm for other in points[name]):
                twin = next(other for other in points[name] if other.arm == point.arm)
                raise _same(point, twin)
            points[name].append(point)
    cells = [
        Cell(
            name,
            _prepared(name, config, points[name], f"{folder}/{name}", output, cluster),
            tuple(points[name]),
        )
        for name, config in configs.items()
    ]
    _check_levels(cells)
    return cells


def _shared(setting: Setting) -> EvaluateConfig:
    """The run that an arm may share with others: everything but what arms say by their names."""
    config = setting.config
    episodes = dataclasses.replace(config.episodes, arms=None, use_speculative_decoding=None)
    policy = dataclasses.replace(config.policy, rule=UNNAMED, layers=None)
    return dataclasses.replace(config, episodes=episodes, policy=policy)


def _cell_name(factor: str, level: str, taken: Mapping[str, object]) -> str:
    """Of a folder: the factor and the end of the level, and a number where that is not enough."""
    word = re.sub(r"[^A-Za-z0-9.=_]+", "-", level).strip("-.")[-_LONGEST_NAME:]
    name = stem = f"{factor}-{word}"
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def _prepared(
    name: str,
    config: EvaluateConfig,
    points: Sequence[Point],
    place: str,
    output: OutputConfig,
    cluster: ClusterConfig,
) -> RunPlan:
    episodes = dataclasses.replace(config.episodes, arms=tuple(point.arm for point in points))
    here = dataclasses.replace(output, output=place)
    try:
        return prepare(dataclasses.replace(config, episodes=episodes, output=here, cluster=cluster))
    except UserError as error:
        raise UserError(f"cell {name}: {error}") from error


def _check_levels(cells: Sequence[Cell]) -> None:
    """Raises UserError for what no policy would refuse: more of a chunk than it has, a layer more
    than a draft has, and two points that are one under different names."""
    seen: dict[str, Point] = {}
    for cell in cells:
        steps, asked = cell.run.policy.chunk_steps, cell.run.protocol.replan_steps
        for point in cell.points:
            arm = cell.run.arms[point.arm]
            if point.factor == "replan" and steps is not None and (asked or 0) > steps:
                raise UserError(
                    f"factor replan, level {point.level}: policy "
                    f"{cell.run.config.policy.policy!r} decides {steps} steps at a time; choose 1 "
                    f"to {steps}"
                )
            layers, drafted = _layers_of(cell.run, arm), _draft_layers_of(cell.run, arm)
            if point.factor == "draft_layers" and layers and (drafted or 0) >= layers:
                raise UserError(
                    f"factor draft_layers, level {point.level}: of {layers} layers a draft has all "
                    f"but the finest; choose 1 to {layers - 1}"
                )
            twin = seen.setdefault(_decides(cell, arm), point)
            if twin is not point:
                raise _same(point, twin)


def _decides(cell: Cell, arm: Arm) -> str:
    """What an episode of a point depends on beside its world and seed, as a word."""
    run = cell.run
    decoding = dict(described(arm))
    decoding |= {"layers": _layers_of(run, arm), "draft_layers": _draft_layers_of(run, arm)}
    protocol = recorded(run.protocol) | {"name": "", "replan_steps": _replan_of(run, arm)}
    policy = run.policy.sha256 or run.config.policy.policy
    return json.dumps([policy, decoding, protocol], sort_keys=True)


def _same(point: Point, twin: Point) -> UserError:
    if not twin.factor:
        return UserError(
            f"factor {point.factor}, level {point.level}: that is the base itself (arm "
            f"{twin.arm}), which every curve has; leave it out"
        )
    return UserError(f"{twin} and {point} are the same cell; leave one out")


# --- between sessions ----------------------------------------------------------------------------


def record(study: Study) -> dict[str, Any]:
    """What study.json says: all that decides."""
    config = study.base.config
    groups = (config.episodes, config.policy, config.simulator)
    base = {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
    return {"base": base, "factors": dict(study.factors)}


def check_study(study: Study, folder: Folder, resume: bool) -> None:
    """Raises UserError for a folder that holds something else than the study to go on with."""
    with folder.opening():
        there = folder.content()
    if not there:
        return
    if STUDY_FILE not in there:
        raise UserError(
            f"output {folder.shown} is not empty and holds no study (it holds "
            f"{', '.join(there[:3])}); choose another --output"
        )
    if not resume:
        raise UserError(
            f"output {folder.shown} holds a study; use --resume to go on with it, or another "
            "--output"
        )
    try:
        stored = parse_json(folder.read(STUDY_FILE))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {STUDY_FILE} in {folder.shown}: {error}") from error
    require_same(
        stored,
        record(study),
        f"{folder.shown} was begun as another study; resume with the same one or choose another "
        "--output",
    )


def begin(study: Study, folder: Folder) -> None:
    """Leave in the folder what a later session must agree with."""
    with folder.opening():
        folder.write(STUDY_FILE, json.dumps(record(study), indent=2).encode())
