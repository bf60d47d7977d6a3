"""Measures that need log p(x|z): use of z by the decoder, likelihood, and the posteriors that the model would allow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.diagnosis.distributions import AnyGaussian, UserModel, rows
from bench.diagnosis.inputs import Subject
from bench.diagnosis.latent import Measures, standard_error
from bench.evaluation.chunking import chunked_log_prob
from bench.evaluation.estimators.inference_gap import elbo
from bench.evaluation.estimators.latent_usage import coupled_samples, derangement, distortion_gaps
from bench.evaluation.estimators.likelihood import is_diagnostics
from bench.evaluation.estimators.mutual_information import sample_log_probs
from bench.evaluation.estimators.proposal import refined_gaussian
from bench.evaluation.estimators.subsample import evenly_spaced, median

CHUNK = 256  # (example, sample) pairs decoded at a time
IW_SAMPLES = 100
GAP_SAMPLES = 4  # of z per example
EFFECT_SAMPLES = 2
MODE_TOLERANCE = 1e-3  # relative, between log p(x|z) of an example in two batches
EFFECT_DIMENSIONS = 64  # those of the largest variance of means, if there are more


def measure_likelihood(subject: Subject, examples: int, generator: torch.Generator) -> tuple[Measures, bool]:
    """Return the measures on ``examples`` examples, and whether log p(x|z) has gradients for the refined posteriors."""
    assert subject.data is not None
    index = torch.from_numpy(evenly_spaced(subject.count, max(2, examples)))
    x, q = subject.data[index.to(subject.data.device)], rows(subject.q, index.to(subject.q.mean.device))
    differentiable = _check(subject.model, x, q)
    with torch.no_grad():
        result = _weights(subject.model, x, q, generator) | _gaps(subject.model, x, q, generator)
        result |= _effects(subject.model, x, q, generator)
    if differentiable:
        result |= _refined(subject.model, x, q, generator)
    return {"likelihood_examples": len(x)} | result, differentiable


def _check(model: UserModel, x: Tensor, q: AnyGaussian) -> bool:
    """Check what the user's log_prob returns, and return whether it has gradients."""
    z = (model.location + model.scale * q.mean).requires_grad_()
    with torch.enable_grad():
        first = model.log_prob_of_pairs(x[:2], z[:2])
    if not torch.isfinite(first).all():
        raise UserError(f"log_prob returned {first.tolist()} at the posterior means: it must be finite there")
    with torch.no_grad():
        together = model.log_prob_of_pairs(x[:CHUNK], z[:CHUNK])[:2]
    if not torch.allclose(first.detach(), together, rtol=MODE_TOLERANCE):
        raise UserError(
            "log_prob of an example is not the same in another batch: switch to model.eval(), or check that the "
            "decoder's output has the shape of x"
        )
    return first.requires_grad


def _weights(model: UserModel, x: Tensor, q: AnyGaussian, generator: torch.Generator) -> Measures:
    """Return the ELBO, its distortion, and the importance-weighted NLL with its diagnostics."""
    z = q.rsample(IW_SAMPLES, generator)
    log_px = chunked_log_prob(model, x, z, CHUNK).double()
    log_weights = log_px + model.prior.log_prob(z) - q.log_prob(z)
    diagnostics = is_diagnostics(log_weights)
    return {
        "rec": -log_px.mean().item(),
        "elbo": log_weights.mean().item(),
        "iw_nll": diagnostics["iw_nll"].mean().item(),
        "iw_samples": IW_SAMPLES,
        "ess": diagnostics["ess"].mean().item(),
        "pareto_k": median(diagnostics["pareto_k"].cpu().numpy()),
    }


def _gaps(model: UserModel, x: Tensor, q: AnyGaussian, generator: torch.Generator) -> Measures:
    """Return the increase of -log p(x|z) with z of another example and of the prior, with standard errors."""
    z = coupled_samples([q], model.prior, GAP_SAMPLES, generator)
    gaps = distortion_gaps(model, x, z.own, z.other, z.prior, CHUNK)
    result: Measures = {}
    for name, values in gaps._asdict().items():
        result |= {f"{name}_gap": values.mean().item(), f"{name}_gap_se": standard_error(values)}
    return result


def _effects(model: UserModel, x: Tensor, q: AnyGaussian, generator: torch.Generator) -> Measures:
    """Return for each dimension the increase of -log p(x|z) with z_d of another example ``[D]``; NaN if left out."""
    own = q.rsample(EFFECT_SAMPLES, generator)
    other = own[derangement(len(own), generator)]
    before = chunked_log_prob(model, x, own, CHUNK).double()
    effect = torch.full_like(own[0, 0], math.nan)
    for dim in q.mean.var(dim=0).topk(min(EFFECT_DIMENSIONS, len(effect))).indices.tolist():
        z = own.clone()
        z[..., dim] = other[..., dim]
        effect[dim] = (before - chunked_log_prob(model, x, z, CHUNK).double()).mean()
    return {"effect_dim": effect}


def _refined(model: UserModel, x: Tensor, q: AnyGaussian, generator: torch.Generator) -> Measures:
    """Compare q with the diagonal Gaussian of highest ELBO of each example, q* (Cremer et al., ICML 2018).

    ``gap_amortisation`` is the ELBO that the encoder loses; ``mi_refined`` the MI of the q*, ``mi_encoder`` that of q
    on the same examples, inclusive estimates of the same ceiling.
    """
    with torch.backends.cudnn.flags(enabled=False):  # its LSTM has no gradient in evaluation mode
        best = refined_gaussian(model, x, q, generator, CHUNK)
    best.mean, best.logvar = best.mean.double(), best.logvar.double()
    state, elbos = generator.get_state(), []
    for posterior in (best, q):
        generator.set_state(state)  # the same noise, so that the difference is paired
        elbos.append(elbo(model, x, posterior, generator, CHUNK))
    gain = elbos[0] - elbos[1]
    information = []
    for posterior in (best, q):
        generator.set_state(state)
        log_probs = sample_log_probs([posterior], posterior.rsample(1, generator)[:, 0])
        information.append((log_probs.own - log_probs.inclusive).mean().item())
    kl = model.prior.kl(best)
    return {
        "gap_amortisation": gain.mean().item(),
        "gap_amortisation_se": standard_error(gain),
        "mi_refined": information[0],
        "mi_encoder": information[1],
        "kl_refined": math.nan if kl is None else kl.mean().item(),
    }
