"""Model and training settings as frozen dataclasses, and type-checked construction from plain values. No torch."""

from __future__ import annotations

import json
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.core.errors import UserError
from bench.core.syntax import parse_value

#: Arithmetic of the networks, see ``bench.models.precision``.
PRECISIONS = ("float32", "tf32", "bfloat16")
FULL_PRECISION = "float32"


def check_ranges(
    config: Any,
    positive: str = "",
    not_negative: str = "",
    below_one: str = "",
    at_most_one: str = "",
    **choices: Sequence[Any],
) -> None:
    """Raise ``ValueError`` if a setting of ``config`` is out of range; for ``__post_init__``.

    The ranges take names separated by spaces, ``choices`` the allowed values of other settings. None is always in
    range.
    """
    rules: list[tuple[str, str, Callable[[Any, int], bool], int]] = [
        (positive, "be positive", operator.gt, 0),
        (not_negative, "not be negative", operator.ge, 0),
        (below_one, "be below 1", operator.lt, 1),
        (at_most_one, "be at most 1", operator.le, 1),
    ]
    for names, requirement, holds, bound in rules:
        for name in names.split():
            value = getattr(config, name)
            if value is not None and not holds(value, bound):  # NaN is in no range
                raise ValueError(f"'{name}' must {requirement}, not {value}")
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"'{name}' is one of {', '.join(map(str, allowed))}, not '{getattr(config, name)}'")


@dataclass(frozen=True)
class ImageModelConfig:
    """Sizes of the image model; by default those of the paper (encoder 752,448, decoder 894,400 parameters)."""

    image_size: int = 28  #: Side of the images after pooling.
    pooling: str = "mean"  #: How images are pooled to ``image_size``: "mean" or "any", see ``bench.data.image.pool``.
    latent_dim: int = 32
    encoder_channels: tuple[int, ...] = (64, 64, 64)  #: Of the residual blocks, each of which halves the resolution.
    features: int = 512  #: Outputs of the encoder before the heads of mean and log-variance.
    decoder_channels: int = 64  #: Of each masked convolution.
    kernels: tuple[int, ...] = (7, 7, 7, 7, 7, 5, 5, 5, 5, 3, 3, 3, 3)  #: Kernel sizes of the masked convolutions.
    skips: tuple[int, ...] = (7, 7, 7, 7, 5, 5, 5, 5, 3, 3, 3)  #: Kernel sizes of the skip connections.
    maps: int = 4  #: Feature maps to which z is projected for the decoder.
    values: str = "binary"  #: Of pixels: "binary", binarised means, or "intensity", 8-bit values.
    architecture: str = ""  #: Model with all its settings, as ``--model`` takes it; empty: masked_cnn.
    likelihood: str = ""  #: Likelihood with all its settings, as ``--likelihood`` takes it; empty: that of the data.

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "image_size latent_dim features decoder_channels maps",
            pooling=("mean", "any"),
            values=("binary", "intensity"),
        )
        for name, minimum in (("encoder_channels", 1), ("kernels", 1), ("skips", 0)):
            values = getattr(self, name)
            if len(values) < minimum or not all(type(value) is int and value > 0 for value in values):
                raise ValueError(f"'{name}' needs at least {minimum} positive integers, not {values}")
        if not all(size % 2 for size in (*self.kernels, *self.skips)):
            raise ValueError("'kernels' and 'skips' must be odd")
        if len(self.skips) > len(self.kernels):
            raise ValueError(f"{len(self.skips)} skips are too many for {len(self.kernels)} layers")
        if self.decoder_channels < 2:
            raise ValueError("'decoder_channels' must be at least 2")


@dataclass(frozen=True)
class TextModelConfig:
    """Sizes of the text model; by default those of the paper.

    With a vocabulary of 20,001 words the encoder has 16,605,696 parameters and the decoder 37,185,024.
    """

    latent_dim: int = 32
    embedding: int = 512
    hidden: int = 1024
    dropout: float = 0.5  #: Of the decoder's input embeddings and its outputs.
    #: Of the networks: "reference" (U(±0.01), made for 1,024 units) or "width" (U(±1/√hidden), N(0, 1) for embeddings).
    initialisation: str = "reference"
    vocabulary: int | None = None  #: Vocabulary size, the most frequent words; the others become ``<unk>``. None: all.
    words: int | None = None  #: Maximum number of words, after which documents are truncated. None: no maximum.
    architecture: str = ""  #: Model with all its settings, as ``--model`` takes it; empty: lstm.

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "latent_dim embedding hidden words",
            "dropout",
            below_one="dropout",
            initialisation=("reference", "width"),
        )
        if self.vocabulary is not None and self.vocabulary < 5:
            raise ValueError(f"'vocabulary' includes four special tokens and must be at least 5, not {self.vocabulary}")


@dataclass(frozen=True)
class VectorModelConfig:
    """Sizes of the model of vectors."""

    latent_dim: int = 16
    hidden: int = 128  #: Units of a hidden layer.
    architecture: str = ""  #: Model with all its settings, as ``--model`` takes it; empty: mlp.
    likelihood: str = ""  #: Likelihood with all its settings, as ``--likelihood`` takes it; empty: that of the data.

    def __post_init__(self) -> None:
        check_ranges(self, "latent_dim hidden")


@dataclass(frozen=True)
class TrainConfig:
    """The training protocol, the same for every method; by default that of the paper for images.

    An epoch is a pass over the training set, or ``epoch_updates`` updates. Validation and
    learning-rate decay happen per epoch.
    """

    epochs: int = 1000
    epoch_updates: int | None = None  #: Updates per epoch. None: a pass over the training set.
    batch_size: int = 50
    equal_lengths: bool = False  #: Text: batches of sentences of the same length instead of padded, similar lengths.
    optimiser: str = "adam"  #: "adam" or "sgd".
    lr: float = 1e-3
    clip: float = 5.0  #: Maximum norm of a gradient.
    clip_by: str = "joint"  #: "joint": one norm over encoder and decoder, in all updates. "group": one per group.
    patience: int = 20  #: Epochs without improvement of the validation ELBO after which the learning rate decays.
    decay_from: int = 0  #: Epochs of training before which the learning rate does not decay, in any phase.
    decay: float = 0.5  #: Factor of a learning-rate decay.
    max_decays: int = 5  #: Number of decays after which training stops.
    ramp: float = 0.01  #: Length of a KL ramp as a fraction of all updates.
    val_examples: int | None = None  #: Number of validation examples, the first ones. None: all.
    #: Fraction of the planned decoder updates after which aggressive training ends. None: only by its own rule.
    extra_updates_until: float | None = None
    mi_rule: str = "mi_batch"  #: MI estimate for methods that use one: "mi_batch" or "mi".
    tolerance: float = 0.5  #: Nats that the last fifth of the updates may gain in a row that counts as converged.
    lag_examples: int = 0  #: Number of validation examples for the inference lag. 0: not measured.
    precision: str = FULL_PRECISION  #: Of the networks in training and validation.
    compile: bool = False  #: Use ``torch.compile`` in training; compiled code rounds differently.

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "epochs epoch_updates batch_size lr clip patience decay max_decays val_examples tolerance",
            "decay_from ramp extra_updates_until lag_examples",
            below_one="decay",
            at_most_one="ramp extra_updates_until",
            optimiser=("adam", "sgd"),
            clip_by=("joint", "group"),
            mi_rule=("mi_batch", "mi"),
            precision=PRECISIONS,
        )

    def updates_per_epoch(self, batches: int) -> int:
        """Return the updates per epoch for a number of ``batches`` per pass over the training set."""
        return self.epoch_updates or batches

    def updates(self, batches: int) -> int:
        """Return the planned number of updates."""
        return self.epochs * self.updates_per_epoch(batches)


#: The largest absolute value of a setting, by its type: indices of tensors, and float32 numbers.
LARGEST = {int: 2**31 - 1, float: 3e38}

#: Sections of a preset, and of the settings on the command line.
SECTIONS = ("model", "train", "evaluation")

#: Model settings by modality.
MODELS: dict[str, type] = {"image": ImageModelConfig, "text": TextModelConfig, "vector": VectorModelConfig}
ModelConfig = ImageModelConfig | TextModelConfig | VectorModelConfig

#: Modality -> model (a file of ``bench/models/architectures/``), unless ``architecture`` names another.
ARCHITECTURES = {"image": "masked_cnn", "text": "lstm", "vector": "mlp"}


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Return the config dataclass ``cls`` with its defaults replaced by ``values``; see ``with_overrides``."""
    return with_overrides(cls(), values, where)


def with_overrides(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return ``config`` with some fields replaced.

    Values must have the annotated types, after ``convert``; infinity and NaN are rejected. Raise ``UserError``,
    beginning with ``where``, for unknown names, wrong types and whatever ``__post_init__`` rejects.
    """
    hints = get_type_hints(type(config))
    typed = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{where} has no setting '{key}': {suggest(key, hints)}")
        adapter = TypeAdapter(hints[key], config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            typed[key] = adapter.validate_python(convert(value, hints[key]))
        except ValidationError as error:
            raise UserError(f"{where}: '{key}' takes {_describe(hints[key])}, not {reprlib.repr(value)}") from error
        for number in typed[key] if isinstance(typed[key], tuple) else (typed[key],):
            if (limit := LARGEST.get(type(number))) and abs(number) > limit:
                raise UserError(f"{where}: '{key}' takes numbers up to {limit:,}, not {number:.3g}")
    try:
        return replace(config, **typed)
    except (ValueError, ArithmeticError) as error:  # from __post_init__
        raise UserError(f"{where}: {error}") from error


def convert(value: Any, hint: Any) -> Any:
    """Return ``value`` as typed on the command line or read from JSON in the type ``hint``, if that is unambiguous.

    A whole number may be written as 1e3, a tuple as a list, as text with commas, or as its only value.
    """
    kinds = _kinds(hint)
    if int in kinds and float not in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    for kind in kinds:
        if get_origin(kind) is tuple and value is not None:
            item = get_args(kind)[0]
            if isinstance(value, str):
                parts = [part.strip() for part in value.split(",")]
                value = parts if item is str else [parse_value(part) for part in parts]
            return tuple(convert(part, item) for part in (value if isinstance(value, (list, tuple)) else [value]))
    return value


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _describe(hint: Any) -> str:
    """Return what a setting of this type takes, for an error message."""
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word", NoneType: "none"}
    return " or ".join(
        f"{'words' if get_args(kind)[0] is str else 'numbers'} joined by commas, or ()"
        if get_origin(kind) is tuple
        else names.get(kind, str(kind))
        for kind in _kinds(hint)
    )


def json_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a dataclass as a record holds them: with lists instead of tuples."""
    return json.loads(json.dumps(asdict(config)))


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the most similar name in ``known``, or all names.

    Neither case nor hyphens and underscores matter: sa_vae is suggested for SA-VAE.
    """
    names = sorted(known)
    plain = {re.sub(r"[\W_]", "", name).lower(): name for name in reversed(names)}
    if similar := get_close_matches(re.sub(r"[\W_]", "", word).lower(), plain, n=1, cutoff=0.5):
        return f"did you mean '{plain[similar[0]]}'?"
    return f"there {'is only' if len(names) == 1 else 'are'} {', '.join(names)}" if names else "there are none"


#: Training settings that were added later, with the value that they had implicitly: it does not change the identity.
IDENTITY_DEFAULTS = {"equal_lengths": False, "compile": False}
#: Training settings that only add measurements, or are used by the report.
MONITORING_FIELDS = ("lag_examples", "tolerance")
#: Training settings that ``config.json`` has outside of its section ``train``.
RECORDED_SEPARATELY = ("precision",)


def model_name(model: ModelConfig, modality: str) -> str:
    """Return the name of the model, without its settings."""
    return model.architecture.partition("(")[0] or ARCHITECTURES[modality]


def protocol_name(preset: str, model: ModelConfig) -> str:
    """Return the name of the folder and tables of a preset, with model and likelihood, if not the defaults."""
    names = (choice.partition("(")[0] for choice in (model.architecture, getattr(model, "likelihood", "")))
    return "-".join(filter(None, (preset, *names)))


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model settings that belong to the identity of a cell: without those that name a default."""
    defaults = {"architecture": "", "likelihood": "", "values": "binary"}
    return {key: value for key, value in model.items() if key not in defaults or value != defaults[key]}


def training_identity(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings that belong to the identity of a cell."""
    return {
        key: value
        for key, value in train.items()
        if key not in (*MONITORING_FIELDS, *RECORDED_SEPARATELY)
        and not (key in IDENTITY_DEFAULTS and value == IDENTITY_DEFAULTS[key])
    }
