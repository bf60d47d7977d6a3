"""The result of ``bench.diagnose``: as text, dictionary, HTML card and figure."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core.numbers import counted
from bench.diagnosis.advice import Advice, advice
from bench.diagnosis.card import figure, html
from bench.diagnosis.latent import Measures
from bench.diagnosis.verdict import Verdict, as_numbers, looks_unused, looks_used
from bench.evaluation.estimators.likelihood import UNRELIABLE_K

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 100  # characters
MAX_EVIDENCE = 2  # published rows that are quoted per cause
#: Name in text -> measures in their order: value, and its standard error if that was measured.
LINES = {
    "KL(q(z|x) ‖ p(z))": ("kl", "kl_se"),
    "KL of the aggregate posterior": ("kl_aggregate", ""),
    "−ELBO": ("negative_elbo", ""),
    "cost of z of another example": ("shuffle_gap", "shuffle_gap_se"),
    "cost of z of the prior": ("prior_gap", "prior_gap_se"),
    "ELBO lost by the encoder": ("gap_amortisation", "gap_amortisation_se"),
}


@dataclass(frozen=True)
class Missing:
    """A measure that was not made, the reason, and what to give for it."""

    measure: str
    reason: str
    give: str


@dataclass(frozen=True)
class Diagnosis:
    """``verdict``, the ``measures`` by name (nats; tensors ``[D]`` per dimension), and what is ``missing``."""

    verdict: Verdict
    measures: Measures
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Return "collapsed", "unused" (the decoder ignores z), "not collapsed" or "undecided"."""
        return self.verdict.status

    @property
    def causes(self) -> tuple[str, ...]:
        """Return the names of the causes that apply."""
        return tuple(cause.name for cause in self.verdict.causes)

    def advice(self) -> list[Advice]:
        """Return the causes in words, with the methods that address them."""
        return [advice(cause) for cause in self.verdict.causes]

    def headline(self) -> str:
        """Return the verdict in one sentence."""
        words = {"unused": "z is not used", "undecided": "no verdict"}
        return f"{words.get(self.status, self.status)}: {self.verdict.reason}"

    def numbers(self) -> list[tuple[str, str]]:
        """Return the main measures as name and text."""
        m = self.measures
        low, high = sorted((m["mi"], m["mi_high"]))
        lines = [("MI", f"{low:.3f} to {high:.3f} (± {m['mi_se']:.3f}; ceiling {m['mi_ceiling']:.2f})")]
        values = m | {"negative_elbo": -m["elbo"]} if "elbo" in m else m
        for name, (value, error) in LINES.items():
            if value in values:
                lines.append((name, f"{values[value]:.3f}" + (f" ± {values[error]:.3f}" if error else "")))
        if "probe" in m:
            lines.append(
                ("accuracy of a linear probe", f"{m['probe']:.3f} (most frequent label: {m['probe_chance']:.3f})")
            )
            lines.append(("certificate of labels", f"{m['certificate']:.3f} (above 0: the means depend on x)"))
        if "iw_nll" in m:
            unreliable = ", unreliable" * (m["pareto_k"] > UNRELIABLE_K)
            diagnostics = f"{m['iw_samples']} samples, ESS {m['ess']:.0f}, Pareto k {m['pareto_k']:.2f}{unreliable}"
            lines.append(("IW-NLL", f"{m['iw_nll']:.3f} ({diagnostics})"))
        units = [f"{m['au']} by the variance of means"]
        units += [f"{m['au_kl']} by KL"] if "au_kl" in m else []
        lines.append(("active units", ", ".join([*units, f"{m['au_ratio']} by the share of variance"])))
        for name, dimensions in (("look used, are not", looks_used(m)), ("look unused, are not", looks_unused(m))):
            if dimensions:
                lines.append((name, ", ".join(map(str, dimensions[:12])) + (" …" if len(dimensions) > 12 else "")))
        return [(name, re.sub(r"-(0\.0+)(?!\d)", r"\1", text)) for name, text in lines]  # no negative zero

    def __str__(self) -> str:
        lines = textwrap.wrap(self.headline(), WIDTH, subsequent_indent="  ")
        lines += [line for note in self.notes for line in _wrapped(f"note: {note}")]
        for cause in self.advice():
            lines += ["", *_wrapped(f"- {cause.title}: {cause.evidence}."), *_wrapped(f"  {cause.meaning} {cause.do}")]
            if cause.methods:
                lines += _wrapped(f"  Methods: {', '.join(cause.methods)}")
            lines += [f"  {row}" for row in cause.published[: MAX_EVIDENCE if len(self.causes) < 3 else 1]]
        few = self.measures.get("likelihood_examples", self.measures["examples"])
        part = f"; with log p(x|z), of {few} examples" if few < self.measures["examples"] else ""
        sizes = (counted(self.measures[f"{name}s"], name) for name in ("example", "dimension"))
        lines += [
            "",
            f"{', '.join(sizes)}; nats per example, ± one standard error{part}",
            *(f"  {name:<30} {text}" for name, text in self.numbers()),
        ]
        return "\n".join(lines + [line for remark in self._remarks() for line in _wrapped(remark)])

    def _remarks(self) -> list[str]:
        """Return what was not measured."""
        return [f"not measured: {each.measure} ({each.reason}): give {each.give}" for each in self.missing]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict and every number as JSON values."""
        m = self.measures
        return {
            "status": self.status,
            "reason": self.verdict.reason,
            "causes": [
                {"name": name, "evidence": cause.evidence, "do": cause.do, "methods": [*cause.methods]}
                for name, cause in zip(self.causes, self.advice(), strict=True)
            ],
            "measures": as_numbers(m) | {"looks_used": looks_used(m), "looks_unused": looks_unused(m)},
            "missing": [vars(missing) for missing in self.missing],
            "notes": [*self.notes],
        }

    def plot(self) -> Figure:
        """Return a figure: KL and MI per dimension, variance of the means, and the collapse curve."""
        return figure(self.headline().partition(":")[0], self.measures)

    def _repr_html_(self) -> str:
        remarks = [*(f"note: {note}" for note in self.notes), *self._remarks()]
        return html(self.status, self.headline(), self.advice(), self.numbers(), self.measures, remarks)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="", subsequent_indent="  ", drop_whitespace=True) or [""]
