"""The training context: what the hooks of a method may use during training.

Every random number is a function of the cell's seed, a purpose and a counter. A checkpoint therefore holds counters and
no generator state, and training resumes bit-exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.core.config import FULL_PRECISION, TrainConfig, suggest
from bench.core.hashing import derive_seed
from bench.data.tensors import Data
from bench.method import Context, Method, Phase
from bench.models.precision import autocast, no_autocast
from bench.models.vae import VAE, batch_norms, fixed_statistics, frozen
from bench.training.batches import Batches
from bench.training.flops import flop_counter

COUNTED_EVERY = 50  # updates of a kind, of which the operations of one are counted where their lengths vary
OPTIMISERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Clock:
    """Seconds by purpose: ``train``, ``validation``, ``data`` and ``checkpoint``."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = {"train": 0.0, "validation": 0.0, "data": 0.0, "checkpoint": 0.0}
        self.purpose: str | None = None
        self.since = 0.0

    def to(self, purpose: str | None, wait: bool = True) -> None:
        """Add the time since the last call to its purpose, and count for ``purpose`` from now on (None: for nothing).

        ``wait`` synchronises the device first, so that asynchronous work counts for the purpose that launched it.
        """
        if wait and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self.purpose:
            self.seconds[self.purpose] += now - self.since
        self.purpose, self.since = purpose, now


@dataclass
class UpdatePlan:
    """What an update of some groups needs, found once."""

    norms: list[nn.Module]  # BatchNorm layers whose statistics stay fixed
    frozen: list[nn.Parameter]  # need no gradient
    clipped: list[list[nn.Parameter]]  # by their common norm


class TrainingContext(Context):
    """The context that the trainer passes to hooks."""

    def __init__(self, method: Method, model: VAE, data: Data, config: TrainConfig, seed: int):
        self.method, self.model, self.train, self.seed = method, model, config, seed
        self.data = data.info
        self.device = next(model.parameters()).device
        self.clock = Clock(self.device)
        self.main_batches = Batches(data, config, seed, "outer")
        self.inner_batches = Batches(data, config, seed, "drawn")
        self.phase, self.val = Phase(), {}
        self.draws = 0  # inner batches so far
        self.decoder_updates = 0  # in this step
        self.events: list[str] = []
        self.limit_reached = False  # whether the preset ended a method's additional encoder updates
        self.updates_by_kind: dict[str, int] = {}
        self.flops_by_kind: dict[str, float] = {}  # of an update, the mean of those that were counted
        self.counted: dict[str, int] = {}  # by kind, updates whose operations were counted
        self.lengths_vary = data.lengths_vary
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.parameters: list[nn.Parameter] = []  # of all optimisers
        self.plans: dict[tuple[str, ...], UpdatePlan] = {}  # by the names of the groups
        self.generators: dict[str, torch.Generator] = {}
        self.noise_key: tuple[Any, ...] = ()

    def generator(self, purpose: str = "noise") -> torch.Generator:
        if purpose not in self.generators:
            seed = derive_seed(self.seed, purpose, *self.noise_key)
            self.generators[purpose] = torch.Generator(self.device).manual_seed(seed)
        return self.generators[purpose]

    def next_main_batch(self) -> Tensor:
        """Return the batch of this step, (B, …); all methods of a comparison get the same ones."""
        return self._load_batch(self.main_batches, self.step)

    def next_batch(self) -> Tensor:
        self.draws += 1
        return self._load_batch(self.inner_batches, self.draws - 1)

    def _load_batch(self, batches: Batches, number: int) -> Tensor:
        self.clock.to("data", wait=False)  # a batch is little work for the device: waiting would cost more
        batch = batches[number]
        self.clock.to("train", wait=False)
        return batch

    def update(self, objective: Callable[[], Tensor], groups: Sequence[str] | None = None) -> Tensor:
        names = tuple(self.optimisers if groups is None else groups)
        kind = f"{self.phase.name}: {'+'.join(names)}"
        extra = "decoder" not in names
        self.reseed_streams("extra" if extra else "step", self.encoder_updates if extra else self.step)
        if names not in self.plans:
            self.plans[names] = self._plan(names)
        plan = self.plans[names]
        counter = flop_counter() if self._is_counted(kind) else nullcontext()
        full = self.train.precision == FULL_PRECISION
        networks = nullcontext() if full else autocast(self.model, self.train.precision)
        with fixed_statistics(*plan.norms), frozen(plan.frozen), counter, networks:
            loss = objective()
            _check_loss(loss)
            for parameter in self.parameters:
                parameter.grad = None
            with nullcontext() if full else no_autocast(self.device.type):
                loss.backward()
            for together in plan.clipped:
                clip_gradients(together, self.train.clip)
            for name in names:
                self.optimisers[name].step()
        if isinstance(counter, FlopCounterMode):
            mean, self.counted[kind] = self.flops_by_kind.get(kind, 0), self.counted.get(kind, 0) + 1
            self.flops_by_kind[kind] = mean + (counter.get_total_flops() - mean) / self.counted[kind]
        self.encoder_updates += extra
        self.decoder_updates += not extra
        self.updates_by_kind[kind] = self.updates_by_kind.get(kind, 0) + 1
        return loss.detach()

    def _is_counted(self, kind: str) -> bool:
        """Return whether the operations of the next update are counted: the first of its kind; of texts, a sample."""
        done = self.updates_by_kind.get(kind, 0)
        return kind not in self.flops_by_kind or (self.lengths_vary and done % COUNTED_EVERY == 0)

    def _plan(self, names: Sequence[str]) -> UpdatePlan:
        """Return what an update of the groups ``names`` needs."""
        for name in names:
            if name not in self.optimisers:
                raise ValueError(f"no parameter group '{name}': {suggest(name, self.optimisers)}")
        others = self.optimisers.keys() - set(names)
        modules = [module for name in others for module in self.model.submodules().get(name, ())]
        clipped = self._clipped_together(names)
        without_gradients = self.optimisers.keys() - {name for together in clipped for name in together}
        return UpdatePlan(
            norms=[norm for module in modules for norm in batch_norms(module)],
            frozen=self._parameters(without_gradients),
            clipped=[self._parameters(together) for together in clipped],
        )

    def _clipped_together(self, names: Sequence[str]) -> list[list[str]]:
        """Return the groups of each gradient norm in an update of the groups ``names``.

        With ``clip_by`` "joint", encoder and decoder share a norm even if only one of them is updated, as in the code
        of He et al. (2019); groups that a method adds have their own.
        """
        joint = [name for name in self.optimisers if name in ("encoder", "decoder")]
        if self.train.clip_by == "group" or not {*joint} & {*names}:
            return [[name] for name in names]
        return [joint, *([name] for name in names if name not in joint)]

    def extra_updates_allowed(self) -> bool:
        limit = self.train.extra_updates_until
        allowed = limit is None or self.progress < limit
        self.limit_reached |= not allowed
        return allowed

    def log_event(self, text: str) -> None:
        self.events.append(text)

    def reseed_streams(self, *key: Any) -> None:
        """Restart all random streams, torch's global one for dropout included, as functions of ``key``."""
        self.noise_key, self.generators = key, {}
        self._seed_global(*key)

    def _seed_global(self, *key: Any) -> None:
        """Seed torch's global generators. ``torch.manual_seed`` would also record a stack trace, which is slow."""
        seed = derive_seed(self.seed, "global", *key)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    @contextmanager
    def fixed_rng(self, *key: Any) -> Iterator[None]:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self._seed_global(*self.noise_key, *key)
            yield

    def new_optimisers(self, lr: float) -> None:
        """Create the optimisers of the method's parameter groups, without state, with learning rate ``lr``.

        Raise ``ValueError`` if a trainable parameter is not in exactly one group, or there is no group "decoder".
        """
        groups = self.method.param_groups(self.model)
        grouped = [p for group in groups.values() for p in group.params]
        trainable = {p for p in self.model.parameters() if p.requires_grad}
        if "decoder" not in groups or trainable - {*grouped} or len({*grouped}) < len(grouped):
            left_out = [name for name, p in self.model.named_parameters() if p in trainable - {*grouped}]
            raise ValueError(
                f"param_groups() of method '{self.method.name}' must have a group 'decoder' and every trainable "
                f"parameter in exactly one group{f': {left_out[0]} is in none' if left_out else ''}; modules of a "
                "method belong into model.aux"
            )
        self.optimisers = {}
        for name, group in groups.items():
            optimiser = OPTIMISERS[group.optimiser or self.train.optimiser]
            rate = lr * group.lr_scale if group.lr is None else group.lr
            self.optimisers[name] = optimiser(group.params, lr=rate, fused=True, **group.options)
        self.parameters, self.plans = self._parameters(self.optimisers), {}

    def flops(self) -> float:
        """Return the floating-point operations of all updates: per kind, the mean of counted updates × their number."""
        return float(sum(count * self.flops_by_kind[kind] for kind, count in self.updates_by_kind.items()))

    def _parameters(self, groups: Iterable[str]) -> list[nn.Parameter]:
        return [p for name in groups for group in self.optimisers[name].param_groups for p in group["params"]]


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.shape != ():
        given = f"of shape {[*loss.shape]}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"the loss is {given}: return a scalar tensor, such as the mean over examples")
    if not loss.requires_grad:
        raise ValueError("the loss depends on no parameter that is updated: remove detach(), or name another group")


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale gradients down to the norm ``max_norm``, as ``nn.utils.clip_grad_norm_`` does with more operations."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if not scale.is_cpu or scale != 1:  # reading it from a GPU would wait for the backward pass
        torch._foreach_mul_(gradients, scale)
