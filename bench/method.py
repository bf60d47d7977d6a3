"""The contract of a method: hooks whose defaults are the basic VAE, and the narrow handle that they get.

A method is one file in ``methods/`` with one subclass of ``Method``. It overrides the hooks in which it differs
from the basic VAE, and nothing else. CONTRIBUTING.md shows one from start to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.core.config import TrainConfig, check_ranges
from bench.core.schedules import Constant, Schedule
from bench.data.dataset import PAD, DataInfo
from bench.models.distributions import Posterior
from bench.models.kl_terms import KLTerm, MeanKL
from bench.models.vae import VAE

__all__ = ["Context", "Method", "Phase", "ELBOTerms", "check_ranges"]


@dataclass
class ELBOTerms:
    """The parts of an objective, per example and sample, in nats: any bound can still be made of them."""

    x: Tensor  # [B, …]
    q: Posterior
    z: Tensor  # [B, S, D]
    rec: Tensor  # [B, S]: -log p(x|z)
    kl: Tensor  # [B]: KL(q(z|x) ‖ p(z)), analytic where it can be, else from the samples
    kl_dim: Tensor | None  # [B, D], where the prior has it in closed form
    extra: dict[str, Any] = field(default_factory=dict)  # what a method passes from ``terms`` to its own ``loss``

    @classmethod
    def from_samples(cls, model: VAE, x: Tensor, q: Posterior, z: Tensor) -> ELBOTerms:
        kl_dim = model.prior.kl_dim(q)
        kl = model.prior.kl(q)
        if kl is None:
            kl = (q.log_prob(z) - model.prior.log_prob(z)).mean(1) if q.has_density else q.kl  # type: ignore[attr-defined]
        return cls(x, q, z, -model.log_prob(x, z), kl, kl_dim)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with optimisers of its own; ``share`` of the preset's updates.

    By ``selection_metric``, a number of validation, weights are kept as the best and the learning rate decays without
    better ones: "elbo", or for a loss that does not seek it "loss", its own there. None: by none, neither happens, and
    a cell whose last phase is one ends with its last weights.
    """

    name: str = "main"
    share: float = 1.0
    selection_metric: str | None = "elbo"


class Context:
    """What a hook may see and do. The trainer and the evaluator each provide one.

    Every random number is a function of the cell's seed, a purpose and a counter. So the methods of a comparison
    see the same batches and the same noise whatever else they draw, and a resumed cell needs no generator's state.
    """

    model: VAE
    data: DataInfo
    train: TrainConfig
    phase: Phase
    step: int = 0  # updates of the decoder so far
    total: int = 1  # updates planned
    beta: float = 1.0  # the schedule's KL weight at this step
    val: Mapping[str, float]  # the last validation: elbo, rec, kl, mi, mi_batch, kl_aggregate, au
    encoder_updates: int = 0  # updates so far that left the decoder alone

    @property
    def progress(self) -> float:
        return self.step / self.total

    def num_tokens(self, x: Tensor) -> Tensor | int:
        """How many of what the likelihood is per are in a batch where sizes differ: words (``</s>`` too), or images."""
        return (x[:, 1:] != PAD).sum() if self.data.modality == "text" else len(x)

    def generator(self, purpose: str = "noise") -> torch.Generator:
        """The stream of random numbers for a purpose, begun anew with every update.

        ``"noise"`` is the noise of the reparametrised sample, which all methods share; name your own for the rest.
        """
        raise NotImplementedError

    def fixed_rng(self, *key: Any) -> AbstractContextManager[None]:
        """Within: torch's global generators, from which dropout draws, give the stream of ``key``, the same every time
        within an update; behind it they go on as if nothing had been drawn. For a pass that is made twice."""
        return nullcontext()

    def next_batch(self) -> Tensor:
        """Another random training batch ``[B, …]``, from a stream of its own: the outer batches stay as they are."""
        raise NotImplementedError

    def update(self, objective: Callable[[], Tensor], groups: Sequence[str] | None = None) -> Tensor:
        """One optimiser step on ``objective()`` for the parameter groups named (all of them by default).

        Gradients are zeroed, taken and clipped to one norm over those groups alone; the parameters and the
        BatchNorm averages of all others stay unchanged. Returns the detached loss, on its device.
        """
        raise NotImplementedError

    def encoder_updates_left(self) -> float:
        """How many more updates without the decoder the preset allows."""
        raise NotImplementedError

    def log_event(self, text: str) -> None:
        """A line for the cell's record: an event in training that a reader of the table would want to know."""
        raise NotImplementedError


class Method:
    """The basic VAE, and the base of every other method."""

    name: ClassVar[str] = ""  # given by the registry: the name of the file
    # Said of a method, for people.
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    family: ClassVar[str] = "objective"  # objective, posterior, decoder, optimisation, prior, anchor
    table_order: ClassVar[float] = 100  # place in tables
    display_params: ClassVar[Sequence[str]] = ()  # settings that are part of the row's name even at their default
    suites: ClassVar[Mapping[str, Sequence[str]]] = {}  # suite -> the expressions with which it joins
    footnotes: ClassVar[Mapping[str, str]] = {}  # column -> why it means something else, or nothing, here
    # Said of a method, for the harness.
    modalities: ClassVar[Sequence[str]] = ("image", "text")
    revision: ClassVar[int] = 1  # raised by a change of what it trains, a fix, say: its cells are others from then on
    latent: ClassVar[bool] = True  # False: the decoder without z
    baseline: ClassVar[bool] = False  # the row that others are compared with
    preset_overrides: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # preset -> settings that differ there
    vae_settings: ClassVar[
        Mapping[str, Any] | str
    ] = {}  # settings at which this is the basic VAE, or why there are none
    exported_kl_term: ClassVar[type | None] = (
        None  # a form of the KL term that others can be given with a +, under its name
    )
    incompatible_with: ClassVar[Mapping[str, str]] = {}  # "schedule", "kl_term" -> why none can be attached with a +

    @dataclass(frozen=True)
    class Config:
        """Settings, hashed into the cell's identity."""

    def __init__(self, config: Any = None, schedule: Schedule | None = None):
        self.config = self.Config() if config is None else config
        self.schedule = schedule or self.default_schedule()
        self.kl_term: KLTerm = MeanKL()

    @classmethod
    def create(cls, config: Any, schedule: Schedule | None, rate: KLTerm | None) -> Method:
        """A fresh object: they hold state, so every cell has its own; with what is attached to it, if anything is."""
        method = cls(config, schedule)
        method.kl_term = rate or method.kl_term
        return method

    def default_schedule(self) -> Schedule:
        return Constant()

    @classmethod
    def skip(cls, data: DataInfo) -> str | None:
        """Why this method does not fit a data set, or None."""
        if data.modality in cls.modalities:
            return None
        return f"for {' and '.join(cls.modalities)} data only"

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Names and defaults of the settings."""
        default = cls.Config()
        return {f.name: getattr(default, f.name) for f in fields(default)}

    def expected_cost(self, train: TrainConfig) -> float:
        """A guess at how many basic updates' work a step is, for the plan; what it was is counted in FLOPs."""
        return 1.0

    # -- hooks, in the order in which training meets them ------------------------------------------------------

    def build(self, model: VAE, data: DataInfo) -> VAE:
        """Change a freshly initialised model: wrap one of its seams, add to ``aux``."""
        return model

    def param_groups(self, model: VAE) -> dict[str, dict[str, Any]]:
        """Group name -> ``params`` and what differs of its optimiser.

        ``lr_scale``, or an ``lr`` that does not decay with the preset's; ``optimiser`` ("adam", "sgd"); torch's own.
        """
        return {name: {"params": parameters} for name, parameters in model.parameter_groups().items()}

    def phases(self) -> Sequence[Phase]:
        return (Phase(),)

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        """q(z|x): the one posterior that training and every metric use."""
        return ctx.model.encode(x)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        q = self.posterior(ctx, x, train=True)
        return ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        """The KL part of the objective, a scalar, before the schedule's weight: the mean, or the form attached."""
        return self.kl_term(terms.kl, terms.kl_dim)

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        """The objective, a scalar in nats per example. Pure: controllers change in ``on("after_step")``."""
        return terms.rec.mean() + ctx.beta * self.kl_loss(terms)

    def objective(self, ctx: Context, x: Tensor) -> Tensor:
        return self.loss(ctx, self.elbo_terms(ctx, x))

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        """One training step on the batch x, with exactly one update of the decoder; returns its loss."""
        return ctx.update(lambda: self.objective(ctx, x))

    def on_phase_start(self, ctx: Context) -> None:
        """Called before the first step of a phase, before its optimisers are made."""

    def on_step_end(self, ctx: Context) -> None:
        """Called after every training step."""

    def on_validation_start(self, ctx: Context) -> None:
        """Called before every validation."""

    def on_epoch_end(self, ctx: Context) -> None:
        """Called after every validation, with its metrics in ``ctx.val``."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
