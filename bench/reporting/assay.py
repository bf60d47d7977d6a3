"""The assay of one group of cells: whether its controls come out as they must for the other rows to mean something.

- Positive control: an autoencoder has no KL term, so its decoder must use z.
- Negative control: the encoder is never shown x, so no metric may find information in z.
- Reference: whether the basic VAE collapsed, that is, whether there is a collapse to prevent.

MI belongs to q and can be raised by a smaller variance, so the positive control is about what the decoder does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.experiment.presets import load_preset
from bench.reporting.render import number

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.experiment.schema import CellConfig

_ROWS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
POSITIVE, NO_LATENT, NEGATIVE, REFERENCE = (_ROWS[role] for role in ("positive", "no_latent", "negative", "reference"))

#: Nats by which the decoder of the positive control must be worse with z of another example, and its reconstruction
#: better than the decoder without z. Ten times the threshold of collapse, and above the noise between seeds.
MIN_USE = 1.0
#: Nats of shuffle gap, either way, that noise explains in the negative control. Its MI must be below that of a
#: collapsed posterior.
MAX_LEAK = 0.1

VALID, FAILED, NOT_TESTED = "valid", "failed", "not tested"
WITHHELD = "withheld"  # a verdict on a claim without a valid assay

Cells = Mapping[str, "DataFrame"]  # method -> its finished cells, by replicate


@dataclass(frozen=True)
class Control:
    """The verdict on one control, and its figures in the worst seed."""

    verdict: str
    evidence: str


@dataclass(frozen=True)
class Assay:
    """The verdicts on the three controls; ``hint`` says how to get those that are missing."""

    positive: Control
    negative: Control
    reference: Control
    hint: str = ""

    @property
    def verdict(self) -> str:
        """Return the worst verdict of the controls."""
        verdicts = {control.verdict for control in (self.positive, self.negative, self.reference)}
        return next(verdict for verdict in (FAILED, NOT_TESTED, VALID) if verdict in verdicts)

    @property
    def is_valid(self) -> bool:
        return self.verdict == VALID

    @property
    def line(self) -> str:
        """Return the verdict and what it rests on, in one line."""
        controls = [c for c in (self.positive, self.negative, self.reference) if c.verdict == self.verdict]
        evidence = "; ".join(dict.fromkeys(control.evidence for control in controls))
        if self.is_valid:
            return f"Assay valid: {evidence}."
        hint = self.hint if self.verdict == NOT_TESTED else ""
        return f"Assay {self.verdict}: {evidence}{hint}. Rankings and verdicts are {WITHHELD}."


def assess(frame: DataFrame) -> Assay:
    """Return the assay of one group of cells, given as its ``cells_frame``. Every finished seed must pass."""
    finished = frame[frame["status"] == "done"].set_index("replicate")
    done = {str(name): cells for name, cells in finished.groupby("method")}
    is_absent = not {POSITIVE, NO_LATENT, NEGATIVE, REFERENCE} <= {*frame["method"]}
    hint = ": run without --no-controls" if is_absent else ""
    return Assay(_positive(done), _negative(done), _reference(done), hint)


def _positive(done: Cells) -> Control:
    if missing := _missing(done, {POSITIVE: ("shuffle_gap", "rec"), NO_LATENT: ("rec",)}):
        return missing
    gains = (done[NO_LATENT]["rec"] - done[POSITIVE]["rec"]).dropna()  # over common seeds
    if gains.empty:
        return Control(NOT_TESTED, f"no common seeds of {POSITIVE} and {NO_LATENT}")
    gap, gain = done[POSITIVE]["shuffle_gap"].min(), gains.min()
    required = f"at least {MIN_USE:g} is required"
    return _control(
        POSITIVE,
        (f"lowest shuffle gap {number(gap, 2)} nats", gap >= MIN_USE, required),
        (f"smallest gain in rec over {NO_LATENT} {number(gain, 2)}", gain >= MIN_USE, required),
    )


def _negative(done: Cells) -> Control:
    if missing := _missing(done, {NEGATIVE: ("shuffle_gap", "mi", "collapsed")}):
        return missing
    cells = done[NEGATIVE]
    gap = cells["shuffle_gap"].abs().max()
    allowed = f"less than {MAX_LEAK:g} is required"
    return _control(
        NEGATIVE,
        (f"highest MI {number(cells['mi'].max(), 2)}", cells["collapsed"].all(), allowed),
        (f"highest |shuffle gap| {number(gap, 2)}", gap < MAX_LEAK, allowed),
    )


def _reference(done: Cells) -> Control:
    if missing := _missing(done, {REFERENCE: ("collapsed",)}):
        return missing
    collapsed = done[REFERENCE]["collapsed"]
    share, remark = collapsed.mean(), ""
    if share > 0.5 and _collapses_by_design(done[REFERENCE]["cell"].iloc[0].config):
        remark = ", by design"
    elif share < 0.5:
        remark = ": no collapse to prevent here, compare the others by likelihood and cost"
    return Control(VALID, f"{REFERENCE}: collapsed in {int(collapsed.sum())} of {len(collapsed)} seeds{remark}")


def _missing(done: Cells, needed: Mapping[str, Sequence[str]]) -> Control | None:
    """Return why a control cannot be tested, if cells or the metrics ``needed`` of a method are missing."""
    if absent := [name for name in needed if name not in done]:
        return Control(NOT_TESTED, f"no finished cells of {', '.join(absent)}")
    for name, metrics in needed.items():
        for metric in metrics:
            if done[name][metric].isna().any():
                return Control(NOT_TESTED, f"{metric} of {name} was not measured in every seed")
    return None


def _control(name: str, *rules: tuple[str, bool, str]) -> Control:
    """Return the verdict from rules (figure, whether it passes, what is required)."""
    failed = [f"{figure} ({required})" for figure, passes, required in rules if not passes]
    return Control(FAILED if failed else VALID, f"{name}: {', '.join(failed or [figure for figure, *_ in rules])}")


def _collapses_by_design(config: CellConfig) -> bool:
    """Return whether the preset, unchanged, was chosen so that the basic VAE collapses on such data."""
    try:
        preset = load_preset(config.preset, config.dataset.modality, protocol=config.dataset.protocol)
    except UserError:  # cells of another version
        return False
    return preset.collapse_by_design and (preset.model, preset.train) == (config.model, config.train)
