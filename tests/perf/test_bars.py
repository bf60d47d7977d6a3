"""The speed that was promised, against the naive formulation in the same run: slow, and for an idle machine."""

from __future__ import annotations

import pytest

from tests.perf.against_naive import BARS, Finding, of_model, of_sa_vae, table


def check(findings: list[Finding]) -> None:
    print(table(findings))
    assert all(finding.holds for finding in findings), "\n" + table([each for each in findings if not each.holds])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "rounds"), [("image", 7), ("yahoo", 5), ("synthetic", 200)])
def test_updates_and_evaluation(name, rounds):
    check(of_model(name, rounds))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sa_vae():
    check(of_sa_vae(rounds=1))


def test_slower_than_promised_fails_the_gate():
    bar, _ = BARS["image"]["plain update"]
    with pytest.raises(AssertionError, match=r"image, plain update \| 2 \| 1.5 \| 1.33× \| ≥ 1.6× \| no"):
        check([Finding("image, plain update", 2.0, 1.5, 2 / 1.5, "×", bar)])
