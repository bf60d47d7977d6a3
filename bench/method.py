"""The contract of a method: ``Method`` and the types its hooks receive and return.

A method is one file in ``methods/`` with one subclass of ``Method``. The defaults of all hooks together are the basic
VAE; a method overrides the hooks in which it differs. CONTRIBUTING.md has a complete example.

Shapes: B examples, S samples per example, D latent dimensions, T words, V vocabulary entries, C channels, H × W pixels.
Images are float32 (B, 1, H, W) in {0, 1}. Text is int64 (B, T): ``<s> w_1 … w_n </s> <pad> …``. Vectors are float32
(B, D'), D' dimensions of x.
All likelihoods, KL terms and losses are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.core.config import TrainConfig, check_ranges
from bench.core.errors import UserError
from bench.core.modifiers import Constant, Cyclical, KLTerm, Linear, MeanKL, Schedule
from bench.core.space import Choice, Range, Space
from bench.data.dataset import END, PAD, START, UNKNOWN, DataInfo
from bench.models.distributions import Gaussian, Posterior, Prior, StandardNormal
from bench.models.vae import VAE

__all__ = [
    "END", "PAD", "START", "UNKNOWN",
    "Choice", "Constant", "Context", "Cyclical", "DataInfo", "ELBOTerms", "Gaussian", "KLTerm", "Linear", "MeanKL",
    "Method", "ParamGroup", "Phase", "Posterior", "Prior", "Range", "Schedule", "Space", "StandardNormal", "State",
    "TrainConfig", "VAE", "check_ranges",
]  # fmt: skip

#: State of a method for a checkpoint: tensors and JSON values by name.
State = dict[str, Any]


@dataclass
class ELBOTerms:
    """Terms of the ELBO, per example and sample, from which a method forms its loss."""

    x: Tensor  # (B, …)
    q: Any  # Posterior, of the type returned by the method's ``posterior``
    z: Tensor  # (B, S, D)
    rec: Tensor  # (B, S): -log p(x|z)
    kl: Tensor  # (B,): KL(q(z|x) || p(z)), analytic if the prior has a closed form, else estimated from z
    kl_dim: Tensor | None  # (B, D): the KL of each dimension, if the prior has a closed form
    extra: dict[str, Any] = field(default_factory=dict)  # passed from a method's ``elbo_terms`` to its ``loss``

    @classmethod
    def from_samples(cls, model: VAE, x: Tensor, q: Posterior, z: Tensor) -> ELBOTerms:
        """Decode samples z (B, S, D) of q and return all terms."""
        kl_dim = model.prior.kl_dim(q)
        kl = model.prior.kl(q) if kl_dim is None else kl_dim.sum(-1)
        if kl is None:
            kl = (q.log_prob(z) - model.prior.log_prob(z)).mean(1) if q.has_density else q.kl
        return cls(x, q, z, -model.log_prob(x, z), kl, kl_dim)


@dataclass(frozen=True)
class Phase:
    """A part of training with its own optimisers."""

    name: str = "main"
    #: Fraction of the preset's updates.
    share: float = 1.0
    #: Validation metric for model selection and learning-rate decay: "elbo"; "loss", the method's own, if its objective
    #: is not an ELBO; or None for neither: a run whose last phase has None keeps its last weights, and its learning
    #: rate decays at fixed updates.
    selection_metric: Literal["elbo", "loss"] | None = "elbo"


@dataclass
class ParamGroup:
    """Parameters that share an optimiser, and its settings."""

    params: list[nn.Parameter]
    optimiser: str | None = None  # "adam" or "sgd"; None: the preset's
    lr: float | None = None  # constant; None: the preset's, which decays
    lr_scale: float = 1.0  # factor of the preset's learning rate
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of the torch optimiser, e.g. ``maximize``


class Context:
    """State and services available to hooks. The trainer and the evaluator each implement it.

    All random numbers are functions of the run's seed, a purpose and a counter. The methods of a comparison therefore
    share batches and noise, whatever else they sample, and a resumed run continues bit for bit.
    """

    model: VAE
    data: DataInfo
    train: TrainConfig
    phase: Phase
    step: int = 0  # decoder updates so far
    total: int = 1  # decoder updates planned
    beta: float = 1.0  # KL weight of the schedule at this step
    val: Mapping[str, float]  # last validation: elbo, rec, kl, mi, mi_batch, kl_aggregate, au
    encoder_updates: int = 0  # updates so far that excluded the decoder

    @property
    def progress(self) -> float:
        """Return the fraction of the planned updates that is done."""
        return self.step / self.total

    def num_tokens(self, x: Tensor) -> Tensor | int:
        """Number of likelihood units in a batch: tokens (including ``</s>``) for text, otherwise examples."""
        return (x[:, 1:] != PAD).sum() if self.data.modality == "text" else len(x)

    def generator(self, purpose: str = "noise") -> torch.Generator:
        """Return the random generator of a purpose; every update reseeds it.

        Args:
            purpose: ``"noise"`` is the reparametrisation noise, shared by all methods. Use another name for other
                random numbers.
        """
        raise NotImplementedError

    def fixed_rng(self, *key: Any) -> AbstractContextManager[None]:
        """Seed torch's global generators (used by dropout) by ``key`` within the context, and restore them afterwards.

        The same key gives the same numbers throughout an update, for a forward pass that is computed twice.
        """
        return nullcontext()

    def next_batch(self) -> Tensor:
        """Return a random training batch (B, …) from a stream that leaves the main batches unchanged."""
        raise NotImplementedError

    def update(self, objective: Callable[[], Tensor], groups: Sequence[str] | None = None) -> Tensor:
        """Take one optimiser step on ``objective()``.

        Parameters and BatchNorm statistics of all other groups stay fixed. Gradients are clipped as ``train.clip_by``
        says: by default by one norm over encoder and decoder, even if only one of them is updated. A group that a
        method adds always has its own norm.

        Args:
            objective: Returns the loss, a scalar in nats per example.
            groups: Names of the parameter groups to update; None: all.

        Returns:
            The detached loss, a scalar on the model's device.
        """
        raise NotImplementedError

    def extra_updates_allowed(self) -> bool:
        """Return whether the preset allows more updates without the decoder (``train.extra_updates_until``).

        For methods that make any number of them by a rule of their own. A False is recorded: the preset has then ended
        a part of training that the method would have continued.
        """
        raise NotImplementedError

    def log_event(self, text: str) -> None:
        """Add a line to the training record."""
        raise NotImplementedError


class Method:
    """The basic VAE and the base class of every method."""

    name: ClassVar[str] = ""  # set by the registry to the file's name

    # Description, for tables and documentation.
    title: ClassVar[str] = ""  # name in papers; "": the file's name
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""  # with an identifier of bench/core/citations.py, as in "(arXiv 1901.05534)"
    family: ClassVar[str] = "objective"  # objective, posterior, decoder, optimisation, prior or reference
    marker: ClassVar[str] = ""  # in figures, a shape of bench/reporting/looks.py; "": chosen by the file's name
    table_order: ClassVar[float] = 100
    display_params: ClassVar[Sequence[str]] = ()  # settings shown in the row's name even at their defaults
    suites: ClassVar[Mapping[str, Sequence[str]]] = {}  # suite -> expressions to add to it
    footnotes: ClassVar[Mapping[str, str]] = {}  # metric -> why it differs in meaning, or is missing, for this method

    # Behaviour.
    modalities: ClassVar[Sequence[str]] = ("image", "text", "vector")
    models: ClassVar[Sequence[str]] = ()  # files of bench/models/architectures/ that it can change; (): all
    revision: ClassVar[int] = 1  # increase after any change of what the method trains
    latent: ClassVar[bool] = True  # False: the decoder without z
    baseline: ClassVar[bool] = False  # the row that the others are compared with
    preset_overrides: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # preset -> settings that differ in it
    #: Setting -> the values that tuning tries; the learning rate is tuned for every method.
    space: ClassVar[Space] = {}
    #: Expression that this method is another name of; its settings are those of the last modifier.
    same_as: ClassVar[str] = ""
    #: Settings that recover the basic VAE, or the reason why none do.
    vae_settings: ClassVar[Mapping[str, Any] | str] = {}
    #: KL term that ``other_method+name`` uses.
    exported_kl_term: ClassVar[type | None] = None
    #: "schedule" or "kl_term" -> why it cannot be combined with this method by ``+``.
    incompatible_with: ClassVar[Mapping[str, str]] = {}

    @dataclass(frozen=True)
    class Config:
        """Settings, part of a run's identity. Every field needs a default that is a JSON value."""

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        self.config: Any = self.Config() if config is None else config
        self.schedule = schedule or self.default_schedule()
        self.kl_term: KLTerm = MeanKL()

    @classmethod
    def create(cls, config: Any, schedule: Schedule | None = None, kl_term: KLTerm | None = None) -> Method:
        """Return a new method object for one run, with the schedule and KL term attached to it by ``+``, if any."""
        method = cls(config, schedule)
        if not hasattr(method, "kl_term"):
            raise UserError(f"method '{cls.name}': __init__ must call super().__init__(config, schedule)")
        method.kl_term = kl_term or method.kl_term
        return method

    @classmethod
    def skip(cls, data: DataInfo, model: str) -> str | None:
        """Return why the method does not apply to a data set or a model, given by its name; None if it does."""
        if data.modality not in cls.modalities:
            return f"for {' and '.join(cls.modalities)} data only"
        return None if model in (cls.models or (model,)) else f"for the model {' and '.join(cls.models)} only"

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Return the settings and their defaults."""
        default = cls.Config()
        return {f.name: getattr(default, f.name) for f in fields(default)}

    def default_schedule(self) -> Schedule:
        """Return the KL-weight schedule used unless another one is attached by ``+``."""
        return Constant()

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        """Return an estimate of the cost of a training step in basic VAE updates, for the run's time estimate."""
        return 1.0

    def expected_memory(self, train: TrainConfig) -> float:
        """Return an estimate of the memory of an update in basic VAE updates, for the cell's share of a GPU."""
        return 1.0

    # -- hooks, in the order of their use in training ----------------------------------------------------------

    def build(self, model: VAE, data: DataInfo) -> VAE:
        """Return the model with this method's changes.

        Args:
            model: Freshly initialised. Wrap or replace ``features``, ``head``, ``latent_to_decoder``, ``decoder`` or
                ``prior``; add further modules to ``aux``.
            data: Modality, shape and vocabulary size of the data.
        """
        return model

    def param_groups(self, model: VAE) -> dict[str, ParamGroup]:
        """Return the parameter groups by name. Each trainable parameter must be in exactly one of them."""
        return {name: ParamGroup(parameters) for name, parameters in model.parameter_groups().items()}

    def phases(self) -> Sequence[Phase]:
        """Return the training phases; their shares sum to 1."""
        return (Phase(),)

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        """Return q(z|x), used by training and by every metric.

        Args:
            ctx: Of the trainer or the evaluator.
            x: Batch (B, …).
            train: False in validation and evaluation.
        """
        return ctx.model.encode(x)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        """Sample z and return the terms of the ELBO for a batch x (B, …)."""
        q = self.posterior(ctx, x, train=True)
        return ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        """Return the KL part of the loss, a scalar in nats, before the schedule's weight."""
        return self.kl_term(terms.kl, terms.kl_dim)

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        """Return the loss, a scalar in nats per example. Must not change state: use ``on_step_end`` for that."""
        return terms.rec.mean() + ctx.beta * self.kl_loss(terms)

    def objective(self, ctx: Context, x: Tensor) -> Tensor:
        """Return the loss of a batch x (B, …), a scalar in nats per example."""
        return self.loss(ctx, self.elbo_terms(ctx, x))

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        """Take one training step on a batch x (B, …), with exactly one decoder update; return its detached loss."""
        return ctx.update(lambda: self.objective(ctx, x))

    def on_phase_start(self, ctx: Context) -> None:
        """Called before the first step of a phase, before its optimisers are created."""

    def on_step_end(self, ctx: Context) -> None:
        """Called after every training step."""

    def on_validation_start(self, ctx: Context) -> None:
        """Called before every validation."""

    def on_epoch_end(self, ctx: Context) -> None:
        """Called after every validation, with its metrics in ``ctx.val``."""

    def state_dict(self) -> State:
        """Return the state that a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restore the state returned by ``state_dict``."""
