"""Presets: TOML files in ``bench/presets/`` read into frozen dataclasses; canonical JSON and hashes. No torch."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from bench.core.errors import UserError

#: What a model's networks may compute in, and where nothing is said: see ``bench.precision``.
PRECISIONS = ("float32", "tf32", "bfloat16")
FULL_PRECISION = "float32"


def check_ranges(config: Any, positive: str = "", not_negative: str = "", **choices: Sequence[Any]) -> None:
    """For ``__post_init__``: ``ValueError`` for a setting (names joined by spaces) outside its range. None passes."""
    for name in f"{positive} {not_negative}".split():
        value = getattr(config, name)
        if value is not None and not (value > 0 or (value == 0 and name not in positive.split())):  # NaN is neither
            raise ValueError(
                f"'{name}' must {'be positive' if name in positive.split() else 'not be negative'}, not {value}"
            )
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"'{name}' is one of {', '.join(allowed)}, not '{getattr(config, name)}'")


@dataclass(frozen=True)
class ImageModelConfig:
    """Sizes of the image model. The defaults are the paper's: encoder 752,448 and decoder 894,400 parameters."""

    image_size: int = 28
    pooling: str = "mean"  # of 28×28 images to a smaller size: the share of ink in a block, or "any" ink in it
    latent_dim: int = 32
    encoder_channels: tuple[int, ...] = (64, 64, 64)
    features: int = 512
    decoder_channels: int = 64
    kernels: tuple[int, ...] = (7, 7, 7, 7, 7, 5, 5, 5, 5, 3, 3, 3, 3)
    skips: tuple[int, ...] = (7, 7, 7, 7, 5, 5, 5, 5, 3, 3, 3)
    maps: int = 4

    def __post_init__(self) -> None:
        check_ranges(self, "image_size latent_dim features decoder_channels maps", pooling=("mean", "any"))
        for name, least in (("encoder_channels", 1), ("kernels", 1), ("skips", 0)):
            values = getattr(self, name)
            if len(values) < least or not all(type(value) is int and value > 0 for value in values):
                raise ValueError(f"'{name}' takes positive whole numbers, at least {least} of them, not {values}")
        if not all(size % 2 for size in (*self.kernels, *self.skips)):
            raise ValueError("'kernels' and 'skips' must be odd")
        if len(self.skips) > len(self.kernels):
            raise ValueError(f"{len(self.skips)} skips are too many for {len(self.kernels)} layers")
        if self.decoder_channels < 2:
            raise ValueError("'decoder_channels' must be at least 2")


@dataclass(frozen=True)
class TextModelConfig:
    """Sizes of the text model. The defaults are the paper's: 16,605,696 and 37,185,024 parameters for 20,001 words."""

    latent_dim: int = 32
    embedding: int = 512
    hidden: int = 1024
    dropout: float = 0.5  # of the decoder's input embeddings and of its output states
    vocabulary: int | None = None  # only so many of the most frequent words, the others unknown; None: all
    words: int | None = None  # documents are cut after so many words; None: never

    def __post_init__(self) -> None:
        check_ranges(self, "latent_dim embedding hidden words", "dropout")
        if self.dropout >= 1:
            raise ValueError(f"'dropout' must be below 1, not {self.dropout}")
        if self.vocabulary is not None and self.vocabulary < 5:
            raise ValueError(f"'vocabulary' counts four special words, so it must be at least 5, not {self.vocabulary}")


@dataclass(frozen=True)
class TrainConfig:
    """One training protocol, the same for every method. The defaults are the paper's for images.

    An epoch is a pass over the training set, or ``epoch_updates`` updates in the reduced presets; validation,
    learning-rate decay and the rules of methods go by epochs.
    """

    epochs: int = 1000
    epoch_updates: int | None = None
    batch_size: int = 50
    equal_lengths: bool = False  # text: batches of sentences of one length, not of similar ones that are padded
    optimiser: str = "adam"
    lr: float = 1e-3
    clip: float = 5.0  # of the joint gradient norm
    patience: int = 20  # epochs without a better validation ELBO before the learning rate decays
    decay_from: int = 0  # so many epochs pass before the learning rate may decay
    decay: float = 0.5
    max_decays: int = 5  # training stops when this many are used up
    ramp: float = 0.01  # the length of a KL ramp as a share of all updates
    val_examples: int | None = None  # the first so many of the validation set; None: all
    max_encoder_updates: float | None = None  # cap on updates without the decoder, per planned update; None: no cap
    mi_rule: str = "mi_batch"  # which estimate of MI rules may look at
    lag_examples: int = 0  # so many of the validation set tell the lag of inference at every validation
    precision: str = FULL_PRECISION  # of the networks, in training and validation
    compile: bool = False  # the networks by torch.compile in training: other code, and so other rounding

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "epochs epoch_updates batch_size lr clip patience decay max_decays val_examples",
            "decay_from ramp max_encoder_updates lag_examples",
            optimiser=("adam", "sgd"),
            mi_rule=("mi_batch", "mi"),
            precision=PRECISIONS,
        )
        if self.decay >= 1:
            raise ValueError(f"'decay' must be below 1, not {self.decay}")
        if self.ramp > 1:
            raise ValueError(f"'ramp' is a share of the updates, at most 1, not {self.ramp}")

    def updates_per_epoch(self, batches: int) -> int:
        """With so many batches in a pass over the training set."""
        return self.epoch_updates or batches

    def updates(self, batches: int) -> int:
        """All updates that are planned."""
        return self.epochs * self.updates_per_epoch(batches)


#: Sections of a preset, and of the settings on the command line.
SECTIONS = ("model", "train", "evaluation")

#: What each modality's model is read into.
MODELS: dict[str, type] = {"image": ImageModelConfig, "text": TextModelConfig}


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """A config dataclass from plain values: lists become tuples, unknown names and wrong types are refused."""
    return with_overrides(cls(), values, where)


def with_overrides(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """``config`` with some fields changed, each checked against its annotation, all by the class's own check.

    ``UserError``, which begins with ``where``, for what does not fit.
    """
    hints = get_type_hints(type(config))
    known: dict[str, Any] = {f.name: hints[f.name] for f in fields(config)}
    typed = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where} has no setting '{key}': {suggest(key, known)}")
        try:
            typed[key] = _coerce(value, known[key])
        except TypeError as error:
            hint = known[key].__name__ if isinstance(known[key], type) else str(known[key])
            wanted = hint.replace(" | None", " or none")
            raise UserError(f"{where}: '{key}' takes {wanted}, not {reprlib.repr(value)}") from error
    try:
        return replace(config, **typed)
    except (ValueError, ArithmeticError) as error:  # of the dataclass's own check
        raise UserError(f"{where}: {error}") from error


def _coerce(value: Any, hint: Any) -> Any:
    """``value`` as the annotation ``hint`` has it: lists as tuples, whole numbers as floats where these are wanted.

    ``TypeError`` for anything else, and for numbers that are not finite or beyond 64 bits.
    """
    if get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            with suppress(TypeError):
                return _coerce(value, each)
    elif get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        if inner[1:] == (...,):
            return tuple(_coerce(item, inner[0]) for item in value)
        if len(inner) == len(value):
            return tuple(_coerce(item, each) for item, each in zip(value, inner, strict=True))
    elif type(value) is int and hint in (int, float):
        if abs(value) < 2**63:
            return hint(value)
    elif type(value) is hint and (hint is not float or math.isfinite(value)):
        return value
    raise TypeError


def suggest(word: str, known: Any) -> str:
    """The end of an error message: the nearest known name, or all of them."""
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are {', '.join(names)}" if names else "there are none"


#: Training settings that came later, with the value that stood for them before: there they change no identity.
IDENTITY_DEFAULTS = {"equal_lengths": False, "compile": False}
#: Training settings that watch training and do not change it.
MONITORING_FIELDS = ("lag_examples",)
#: Training settings that stand beside the others in ``config.json``.
RECORDED_SEPARATELY = ("precision",)


def training_identity(train: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a cell's training settings that tell it from others."""
    return {
        key: value
        for key, value in train.items()
        if key not in (*MONITORING_FIELDS, *RECORDED_SEPARATELY)
        and not (key in IDENTITY_DEFAULTS and value == IDENTITY_DEFAULTS[key])
    }
