"""What surveys of readers find, shown on readers that misbehave; and that their inputs come again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.errors import UserError
from tests.fuzz import inputs
from tests.fuzz.inputs import mutation, mutations, survey

VALID = bytes(range(200))


def unless_valid(misbehave):
    return VALID, lambda content: content == VALID or misbehave()


def raises_something_else(folder: Path):
    return unless_valid(lambda: {}["key"])


def refuses_without_a_word(folder: Path):
    def refuse():
        raise UserError("")

    return unless_valid(refuse)


def writes_outside(folder: Path):
    return unless_valid(lambda: (folder / "cache" / ".." / ".." / "outside.txt").write_text("x"))


def takes_a_gigabyte(folder: Path):
    return unless_valid(lambda: np.ones(1 << 27).sum())


def is_slow(folder: Path):
    inputs.SECONDS = -1.0
    return unless_valid(lambda: None)


def behaves(folder: Path):
    (folder / "cache").mkdir()
    return unless_valid(lambda: (folder / "cache" / "inside.txt").write_text("x"))


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (raises_something_else, "input 0 of seed 3: KeyError: 'key'"),
        (refuses_without_a_word, "input 0 of seed 3: ''"),
        (writes_outside, r"input 0 of seed 3: \['open .*outside.txt'\]"),
        (takes_a_gigabyte, "1 read, 0 refused"),
        (is_slow, r"input 0 of seed 3: 0\.0 s"),
    ],
)
def test_a_survey_finds_what_misbehaves(reader, message, tmp_path):
    (tmp_path / "folder" / "cache").mkdir(parents=True)
    with pytest.raises(AssertionError, match=message):
        survey(reader, 1, tmp_path / "folder", seed=3)


def test_a_survey_counts_what_behaves(tmp_path):
    tally = survey(behaves, 5, tmp_path)
    assert (tally.read, tally.refused) == (5, 0)


def test_inputs_come_again_and_differ():
    contents = list(mutations(VALID, 200, seed=1))
    assert contents[17] == mutation(VALID, 1, 17) != mutation(VALID, 2, 17)
    assert len(set(contents)) > 150 and sum(content == VALID for content in contents) < 10
