"""``bench.diagnose``: read what is given, measure what it allows, and decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from bench.core.errors import UserError
from bench.core.hashing import derive_seed
from bench.diagnosis.diagnosis import Diagnosis, Missing
from bench.diagnosis.inputs import Subject, read
from bench.diagnosis.latent import measure_latent
from bench.diagnosis.likelihood import measure_likelihood
from bench.diagnosis.verdict import decide

LIKELIHOOD_EXAMPLES = 100  # decoded 100 times each, and refined in 100 steps


def diagnose(
    posterior: Any,
    data: Any = None,
    *,
    prior: Distribution | None = None,
    log_prob: Callable[[Tensor, Tensor], Tensor] | None = None,
    labels: Any = None,
    kl_weight: float | None = None,
    history: Mapping[str, Any] | None = None,
    likelihood_examples: int = LIKELIHOOD_EXAMPLES,
    seed: int = 0,
) -> Diagnosis:
    """Diagnose a VAE for posterior collapse. Examples of a test set, 1,000 or more, with the model in evaluation mode.

    What is given decides what is measured; ``Diagnosis.missing`` lists the rest.

    Args:
        posterior: q(z|x) of N examples: a pair (mean, log-variance) of tensors or arrays ``[N, D]``, a torch
            ``Normal``, ``Independent(Normal)`` or ``MultivariateNormal``, or a function from ``data`` to one of these.
            Latents of more axes, ``[N, C, H, W]``, count as C·H·W dimensions.
        data: x ``[N, …]``, in the order of the posteriors, for ``log_prob`` and for a function ``posterior``. If x is
            no tensor, give the indices of the examples, and look x up in ``log_prob``.
        prior: p(z), a torch distribution over vectors; N(0, I) by default.
        log_prob: Function of x ``[B, …]`` and z ``[B, D]`` that returns log p(x|z) in nats, ``[B]``: the sum over
            pixels or tokens, not the mean.
        labels: One per example, for a linear probe.
        kl_weight: The KL weight of the final objective, at which a warm-up ends: 1 for the ELBO, β for a β-VAE. By
            default 1, or the last of ``history`` if that is higher.
        history: Values logged during training, of equal length: ``kl`` in nats per example, and ``kl_weight``.
        likelihood_examples: Examples for measures with ``log_prob``; more give smaller errors and take longer.
        seed: Seed of the samples of z. Their noise differs from that of ``torch.manual_seed(seed)``.

    Raises:
        UserError: If an argument cannot be used; one line says what to give instead.
    """
    if not isinstance(likelihood_examples, Integral) or likelihood_examples < 2:
        raise UserError(f"likelihood_examples is {likelihood_examples!r}: give an integer of 2 or more")
    subject = read(posterior, data, prior, log_prob, labels, kl_weight, history)
    generator = torch.Generator(subject.q.mean.device).manual_seed(derive_seed(seed, "diagnosis"))
    measures, differentiable = measure_latent(subject, generator), True
    if subject.has_likelihood:
        likelihood, differentiable = measure_likelihood(subject, likelihood_examples, generator)
        measures |= likelihood
    verdict = decide(measures, subject.kl_weight, subject.history)
    return Diagnosis(verdict, measures, tuple(_missing(subject, measures, differentiable)), subject.notes)


def _missing(subject: Subject, measures: Mapping[str, Any], differentiable: bool) -> list[Missing]:
    """Return what was not measured, why, and what to give."""
    missing = []
    if not subject.has_likelihood:
        measure = "use of z by the decoder, NLL, encoder lag, effect of each dimension"
        missing.append(Missing(measure, "no likelihood", "log_prob and data (in Python)"))
    elif not differentiable:
        missing.append(Missing("encoder lag", "log_prob has no gradient by z", "a log_prob written in torch"))
    if "kl_dim" not in measures:
        missing.append(
            Missing("KL per dimension, collapse curve", "the prior is no product of Gaussians", "KL terms of your own")
        )
    if subject.history is None:
        missing.append(Missing("course of training", "no history", "kl and kl_weight, logged during training"))
    if "probe" not in measures:
        reason = "no labels" if subject.labels is None else "the labels have no two classes of several examples each"
        missing.append(Missing("linear probe", reason, "class labels"))
    return missing
