"""What each hook of a method gives, what its class says of itself, and what a data set's ``prepare`` gives: all that
others write, held to what was promised them.

A check of a hook takes the method, the value and the hook's arguments, and says what is wrong with the value, or None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from bench.core.config import MODELS, build, with_overrides
from bench.core.errors import UserError
from bench.models.vae import VAE

JSON = (str, int, float, bool, type(None))


def shown(value: Any) -> str:
    """A value as a message names it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return repr(value) if type(value) in JSON and len(repr(value)) < 60 else f"'{type(value).__name__}'"


def _first(method: Any, value: str) -> bool:
    """Whether a method object gives this value for the first time."""
    seen = vars(method).setdefault("_seen", set())
    return not (value in seen or seen.add(value))


def _tensor(what: str, value: Any, *shape: int) -> str | None:
    if isinstance(value, Tensor) and value.shape == shape:
        return None
    return f"{what} of shape {list(shape)} expected, got {shown(value)}"


def _anything(method: Any, value: Any, *_: Any, **__: Any) -> None:
    return None


def _made(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    there = hasattr(method, "config") and hasattr(method, "schedule")
    return None if there else "a call of super().__init__(config, schedule) expected, got none"


def _reason_to_skip(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    return None if value is None or isinstance(value, str) else f"a reason or None expected, got {shown(value)}"


def _schedule(method: Any, value: Any) -> str | None:
    return None if callable(getattr(value, "weight", None)) else f"a schedule expected, got {shown(value)}"


def _cost(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    fine = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
    return None if fine else f"a positive number expected, got {shown(value)}"


def _model(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    return None if isinstance(value, VAE) else f"the model, a VAE, expected, got {shown(value)}"


def _groups(method: Any, value: Any, model: VAE) -> str | None:
    if not isinstance(value, Mapping) or not all(isinstance(group, Mapping) for group in value.values()):
        return f"dictionaries of 'params' and options by the group's name expected, got {shown(value)}"
    for name, group in value.items():
        if not isinstance(group.get("params"), Sequence) or not group["params"]:
            return f"a list of parameters as 'params' of group '{name}' expected, got {shown(group.get('params'))}"
    if "decoder" not in value:
        return f"a group 'decoder', by which updates are counted, expected, got {', '.join(map(str, value))}"
    found = [id(p) for group in value.values() for p in group["params"]]
    left = {id(p) for p in model.parameters() if p.requires_grad} - {*found}
    if left or len({*found}) < len(found):
        problem = f"{len(left)} in none" if left else f"{len(found) - len({*found})} in several"
        return f"every trainable parameter in exactly one group expected, got {problem}"
    return None


def _phases(method: Any, value: Any) -> str | None:
    if not isinstance(value, Sequence) or not value or not all(hasattr(phase, "share") for phase in value):
        return f"a sequence of phases, at least one, expected, got {shown(value)}"
    shares = [phase.share for phase in value]
    judges = [getattr(phase, "selection_metric", "elbo") for phase in value]
    if not all(judge in ("elbo", "loss", None) for judge in judges):
        return f"phases judged by 'elbo', 'loss' or None expected, got {judges}"
    fine = all(share > 0 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
    return None if fine else f"phases whose shares are positive and sum to 1 expected, got {shares}"


def _posterior(method: Any, q: Any, ctx: Any, x: Tensor, train: bool) -> str | None:
    if not _first(method, f"posterior {train}"):
        return None
    if lacking := [
        name for name in ("rsample", "log_prob", "mean", "has_density", "has_pairwise") if not hasattr(q, name)
    ]:
        return f"a posterior expected, got {shown(q)} without {', '.join(lacking)}"
    batch, dim, devices = len(x), ctx.model.latent_dim, [x.device] if x.is_cuda else []
    # A sample of its own, which no stream of random numbers and no count of operations notices.
    with torch.no_grad(), torch.random.fork_rng(devices), _disable_current_modes():
        z = q.rsample(2, torch.Generator(x.device).manual_seed(0))
        fault = _tensor("a mean", q.mean, batch, dim) or _tensor("a sample", z, batch, 2, dim)
        return fault or (_tensor("a log_prob", q.log_prob(z), batch, 2) if q.has_density else None)


def _terms(method: Any, value: Any, ctx: Any, x: Tensor) -> str | None:
    if lacking := [name for name in ("x", "q", "z", "rec", "kl", "kl_dim") if not hasattr(value, name)]:
        return f"ELBOTerms expected, got {shown(value)} without {', '.join(lacking)}"
    z, dim = value.z, ctx.model.latent_dim
    if not isinstance(z, Tensor) or z.dim() != 3 or z.shape[2] != dim:
        return f"z of shape [B, S, {dim}] expected, got {shown(z)}"
    batch = len(z)
    fault = _tensor("rec", value.rec, batch, z.shape[1]) or _tensor("kl", value.kl, batch)
    return fault or (None if value.kl_dim is None else _tensor("kl_dim", value.kl_dim, batch, dim))


def _scalar(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    fine = isinstance(value, Tensor) and value.dim() == 0
    return None if fine else f"a scalar tensor expected, got {shown(value)}"


def _loss(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    if isinstance(value, Tensor) and not value.requires_grad and torch.is_grad_enabled():
        return "a loss that can be differentiated expected, got one without a gradient"
    return _scalar(method, value)


def _step(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    if isinstance(value, Tensor) and value.requires_grad:
        return "a detached loss, as of ctx.update, expected, got one that holds its graph"
    return _scalar(method, value)


def _state(method: Any, value: Any, *_: Any, **__: Any) -> str | None:
    fault = _unstorable(value) if isinstance(value, dict) else shown(value)
    return f"a dictionary of tensors and JSON values expected, got {fault}" if fault else None


def _unstorable(value: Any) -> str | None:
    """What in a state a checkpoint cannot hold, for it is read without running anything."""
    if isinstance(value, dict):
        return next((fault for pair in value.items() for each in pair if (fault := _unstorable(each))), None)
    if isinstance(value, (list, tuple)):
        return next((fault for each in value if (fault := _unstorable(each))), None)
    return None if isinstance(value, Tensor) or type(value) in JSON else shown(value)


HOOKS: dict[str, Callable[..., str | None]] = {
    "__init__": _made,
    "skip": _reason_to_skip,
    "default_schedule": _schedule,
    "expected_cost": _cost,
    "build": _model,
    "param_groups": _groups,
    "phases": _phases,
    "posterior": _posterior,
    "elbo_terms": _terms,
    "kl_loss": _scalar,
    "loss": _loss,
    "objective": _loss,
    "step": _step,
    "on_phase_start": _anything,
    "on_step_end": _anything,
    "on_validation_start": _anything,
    "on_epoch_end": _anything,
    "state_dict": _state,
    "load_state_dict": _anything,
}


# -- what a class says of itself -------------------------------------------------------------------------------------


def class_fault(cls: Any) -> str | None:
    """What is wrong with a subclass of ``Method`` as it stands, or None."""
    return _hooks_fault(cls) or _attributes_fault(cls) or _settings_fault(cls) or _suites_fault(cls)


def _hooks_fault(cls: Any) -> str | None:
    base = cls.__mro__[-2]  # Method itself
    for name in HOOKS:
        hook = getattr(cls, name)
        if not callable(hook):
            return f"hook '{name}' must be a function, not {shown(hook)}"
        wanted = signature(getattr(base, name)).parameters
        by_name = {"train": False} if "train" in wanted else {}
        try:
            signature(hook).bind(*[each for each in wanted if each not in by_name], **by_name)
        except TypeError as error:
            return f"hook '{name}' is called as {name}({', '.join(wanted)}): {error}"
    return None


def _attributes_fault(cls: Any) -> str | None:
    for name in ("summary", "citation", "family"):
        if not isinstance(value := getattr(cls, name), str) or "\n" in value:
            return f"'{name}' must be one line of text, not {shown(value)}"
    if not cls.summary:
        return "it needs a summary, one line for --list and reports"
    if not isinstance(cls.table_order, (int, float)) or math.isnan(cls.table_order):
        return f"'table_order' must be a number, not {shown(cls.table_order)}"
    if not isinstance(cls.revision, int) or cls.revision < 1:
        return f"'revision' must be a whole number from 1, not {shown(cls.revision)}"
    for name in ("latent", "baseline"):
        if not isinstance(value := getattr(cls, name), bool):
            return f"'{name}' must be True or False, not {shown(value)}"
    if not _texts(cls.modalities) or not {*cls.modalities} <= MODELS.keys() or not cls.modalities:
        return f"'modalities' must be some of {', '.join(MODELS)}, as ('image',), not {cls.modalities!r}"
    if cls.exported_kl_term is not None and not isinstance(cls.exported_kl_term, type):
        return f"'exported_kl_term' must be a KL term, a dataclass with '__call__', not {shown(cls.exported_kl_term)}"
    if not _by_text(cls.footnotes, lambda note: isinstance(note, str)):
        return "'footnotes' must be texts by column"
    if not _by_text(cls.incompatible_with, lambda reason: isinstance(reason, str)) or not {*cls.incompatible_with} <= {
        "schedule",
        "kl_term",
    }:
        return f"'incompatible_with' must map 'schedule' or 'kl_term' to a reason, not {cls.incompatible_with!r}"
    return None


def _settings_fault(cls: Any) -> str | None:
    parameters = getattr(cls.Config, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        return "'Config' must be a class under @dataclass(frozen=True)"
    try:
        default = cls.Config()
        again = build(cls.Config, json.loads(json.dumps(asdict(default))), "")
    except Exception as error:  # whatever the class, its annotations or its checks raise
        return f"every setting of 'Config' needs a default of its annotated type, a JSON value: {error}"
    if again != default:
        return f"the settings of 'Config' must come back from JSON as they were: {default} became {again}"
    if not _by_text(cls.preset_overrides, lambda settings: isinstance(settings, Mapping)):
        return "'preset_overrides' must be settings by preset"
    if not isinstance(cls.vae_settings, (str, Mapping)):
        return f"'vae_settings' must be settings, or the reason why there are none, not {shown(cls.vae_settings)}"
    if not _texts(cls.display_params) or not {*cls.display_params} <= asdict(default).keys():
        return f"'display_params' must be names of settings, not {cls.display_params!r}"
    neutral = {} if isinstance(cls.vae_settings, str) else {"neutral": cls.vae_settings}
    for where, settings in {**cls.preset_overrides, **neutral}.items():
        try:
            with_overrides(default, settings, f"the settings for '{where}'")
        except UserError as error:
            return str(error)
    return None


def _suites_fault(cls: Any) -> str | None:
    if not _by_text(cls.suites, _texts):
        return "'suites' must be lists of expressions by suite"
    form = rf"{cls.name}(\([^()]*\))?(\+\w+(\([^()]*\))?)*"
    for suite, expressions in cls.suites.items():
        for expression in expressions:
            if not re.fullmatch(form, expression):
                return f"suite '{suite}': an expression of the method itself expected, got {expression!r}"
    return None


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)


def _by_text(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) and fits(each) for key, each in value.items())


# -- what a data set gives ---------------------------------------------------------------------------------------------
