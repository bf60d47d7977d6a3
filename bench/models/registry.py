"""Find models and likelihoods: files in ``architectures/`` and ``likelihoods/``, and entry points of other packages.

A model is one file. It defines

- ``SUMMARY``: a string,
- ``MODALITY``: the kind of data that it is for, "image", "text" or "vector", or a tuple of kinds,
- ``Config``: a frozen dataclass of its settings, which follow its name: ``transformer(layers=2)``,
- ``build(settings, sizes, data, latent=True)``: returns a freshly initialised ``bench.models.vae.VAE`` for the sizes of
  the preset (``bench.core.config.MODELS``) and the data; without ``latent``, the decoder alone,
- ``TRAIN`` (optional): training settings that it needs instead of the preset's, such as ``{"optimiser": "adam"}``,
- ``ANY_LIKELIHOOD`` (optional): True if its decoder takes the likelihood of ``build_likelihood``.

A likelihood is one file. It defines ``SUMMARY`` and ``Config`` as a model does, and

- ``VALUES``: a tuple of the kinds of values that it is for (``bench.data.dataset.Values``),
- ``build(settings, data)``: returns a ``bench.models.likelihood.Likelihood`` for the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any

from bench.core.config import ARCHITECTURES, suggest, with_overrides
from bench.core.errors import UserError
from bench.core.plugins import Registry
from bench.core.syntax import parse_call, parse_value
from bench.data.dataset import DataInfo
from bench.models.likelihood import Likelihood

REGISTRY = Registry("model", "bench.models.architectures", "posterior_collapse_bench.models")
LIKELIHOODS = Registry("likelihood", "bench.models.likelihoods", "posterior_collapse_bench.likelihoods")

#: Kind of values -> likelihood, unless ``likelihood`` names another.
DEFAULT_LIKELIHOODS = {
    "binary": "bernoulli",
    "intensity": "discretised_logistic",
    "real": "gaussian",
    "count": "negative_binomial",
}


def model_names() -> tuple[str, ...]:
    """Return the names of all models in alphabetical order."""
    return REGISTRY.names()


def likelihood_names() -> tuple[str, ...]:
    """Return the names of all likelihoods in alphabetical order."""
    return LIKELIHOODS.names()


def load_model_module(name: str) -> ModuleType:
    """Import the file of a model; ``UserError`` if it cannot be imported or a definition is missing."""
    module = REGISTRY.load(name)
    modality = getattr(module, "MODALITY", None)
    return _checked(REGISTRY, name, module, {"MODALITY (a string or a tuple)": isinstance(modality, (str, tuple))})


def load_likelihood_module(name: str) -> ModuleType:
    """Import the file of a likelihood; ``UserError`` if it cannot be imported or a definition is missing."""
    module = LIKELIHOODS.load(name)
    return _checked(LIKELIHOODS, name, module, {"VALUES (a tuple)": isinstance(getattr(module, "VALUES", None), tuple)})


def _checked(registry: Registry, name: str, module: ModuleType, defined: Mapping[str, bool]) -> ModuleType:
    defined = {
        "SUMMARY (a string)": isinstance(getattr(module, "SUMMARY", None), str),
        **defined,
        "Config (a frozen dataclass)": hasattr(getattr(module, "Config", None), "__dataclass_fields__"),
        "build (a function)": callable(getattr(module, "build", None)),
    }
    if missing := [definition for definition, ok in defined.items() if not ok]:
        raise registry.defect(name, module, f"must define {', '.join(missing)}")
    return module


def modalities(module: ModuleType) -> tuple[str, ...]:
    """Return the kinds of data that a model is for."""
    return (module.MODALITY,) if isinstance(module.MODALITY, str) else module.MODALITY


def parse_model(expression: str) -> tuple[ModuleType, Any]:
    """Return the file and the settings of a model expression, such as ``transformer(layers=2)``."""
    module = load_model_module(parse_call(expression).name)
    return module, _settings(expression, module, "model")


def _settings(expression: str, module: ModuleType, kind: str) -> Any:
    call = parse_call(expression)
    values = {key: parse_value("|".join(alternatives)) for key, alternatives in call.settings.items()}
    return with_overrides(module.Config(), values, f"{kind} '{call.name}'")


def training_settings(expression: str) -> dict[str, Any]:
    """Return the training settings that a model needs instead of the preset's."""
    return dict(getattr(load_model_module(parse_call(expression).name), "TRAIN", {}))


def canonical_model(expression: str, modality: str) -> str:
    """Return the expression with all settings, as stored; "" for the default of the modality.

    Raise ``UserError`` for a model of other data.
    """
    name = parse_call(expression).name
    module, config = parse_model(expression)
    if modality not in modalities(module):
        fitting = [other for other in model_names() if modality in modalities(load_model_module(other))]
        kinds = " and ".join(modalities(module))
        raise UserError(f"model '{name}' is for {kinds} data, not {modality}: {suggest(name, fitting)}")
    if name == ARCHITECTURES[modality] and config == module.Config():
        return ""
    return _canonical(name, config)


def _canonical(name: str, config: Any) -> str:
    settings = ",".join(f"{f.name}={getattr(config, f.name)}" for f in fields(config)).replace(" ", "")
    return f"{name}({settings})" if settings else name


def canonical_likelihood(expression: str, data: DataInfo) -> str:
    """Return the expression with all settings, as stored; "" for the default of the data.

    Raise ``UserError`` for a likelihood of other values.
    """
    if data.modality == "text":
        raise UserError("models of text have their own likelihood: leave out --likelihood")
    name = parse_call(expression).name
    module = _fitting_likelihood(name, data.with_intensities() if takes_intensities(expression, data) else data)
    config = _settings(expression, module, "likelihood")
    return "" if name == DEFAULT_LIKELIHOODS[data.values] and config == module.Config() else _canonical(name, config)


def takes_intensities(expression: str, data: DataInfo) -> bool:
    """Return whether the likelihood is one of 8-bit values, and the data are images, which have such values."""
    values = load_likelihood_module(parse_call(expression).name).VALUES
    return data.modality == "image" and "intensity" in values and "binary" not in values


def _fitting_likelihood(name: str, data: DataInfo) -> ModuleType:
    module = load_likelihood_module(name)
    if data.values not in module.VALUES:
        fitting = [other for other in likelihood_names() if data.values in load_likelihood_module(other).VALUES]
        kinds = " and ".join(module.VALUES)
        raise UserError(f"likelihood '{name}' is for {kinds} values, not {data.values}: {suggest(name, fitting)}")
    return module


def build_likelihood(expression: str, data: DataInfo) -> Likelihood:
    """Return a freshly initialised likelihood; an empty expression is the default of the data."""
    expression = expression or DEFAULT_LIKELIHOODS[data.values]
    module = _fitting_likelihood(parse_call(expression).name, data)
    return module.build(_settings(expression, module, "likelihood"), data)
