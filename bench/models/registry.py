"""Find models: the files in ``architectures/``, and entry points of other packages.

A model is one file. It defines

- ``SUMMARY``: a string,
- ``MODALITY``: the kind of data that it is for, "image", "text" or "vector",
- ``Config``: a frozen dataclass of its settings, which follow its name: ``transformer(layers=2)``,
- ``build(settings, sizes, data, latent=True)``: returns a freshly initialised ``bench.models.vae.VAE`` for the sizes of
  the preset (``bench.core.config.MODELS``) and the data; without ``latent``, the decoder alone,
- optionally ``TRAIN``: training settings that it needs instead of the preset's, such as ``{"optimiser": "adam"}``.
"""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType
from typing import Any

from bench.core.config import ARCHITECTURES, suggest, with_overrides
from bench.core.errors import UserError
from bench.core.plugins import Registry
from bench.core.syntax import parse_call, parse_value

REGISTRY = Registry("model", "bench.models.architectures", "posterior_collapse_bench.models")


def model_names() -> tuple[str, ...]:
    """Return the names of all models in alphabetical order."""
    return REGISTRY.names()


def load_model_module(name: str) -> ModuleType:
    """Import the file of a model; ``UserError`` if it cannot be imported or a definition is missing."""
    module = REGISTRY.load(name)
    defined = {
        "SUMMARY (a string)": isinstance(getattr(module, "SUMMARY", None), str),
        "MODALITY (a string)": isinstance(getattr(module, "MODALITY", None), str),
        "Config (a frozen dataclass)": hasattr(getattr(module, "Config", None), "__dataclass_fields__"),
        "build (a function)": callable(getattr(module, "build", None)),
    }
    if missing := [definition for definition, ok in defined.items() if not ok]:
        raise REGISTRY.defect(name, module, f"must define {', '.join(missing)}")
    return module


def parse_model(expression: str) -> tuple[ModuleType, Any]:
    """Return the file and the settings of a model expression, such as ``transformer(layers=2)``."""
    call = parse_call(expression)
    module = load_model_module(call.name)
    values = {key: parse_value("|".join(alternatives)) for key, alternatives in call.settings.items()}
    return module, with_overrides(module.Config(), values, f"model '{call.name}'")


def training_settings(expression: str) -> dict[str, Any]:
    """Return the training settings that a model needs instead of the preset's."""
    return dict(getattr(load_model_module(parse_call(expression).name), "TRAIN", {}))


def canonical_model(expression: str, modality: str) -> str:
    """Return the expression with all settings, as stored; "" for the default of the modality.

    Raise ``UserError`` for a model of other data.
    """
    name = parse_call(expression).name
    module, config = parse_model(expression)
    if module.MODALITY != modality:
        fitting = [other for other in model_names() if load_model_module(other).MODALITY == modality]
        raise UserError(f"model '{name}' is for {module.MODALITY} data, not {modality}: {suggest(name, fitting)}")
    if name == ARCHITECTURES[modality] and config == module.Config():
        return ""
    settings = ",".join(f"{f.name}={getattr(config, f.name)}" for f in fields(config)).replace(" ", "")
    return f"{name}({settings})" if settings else name
