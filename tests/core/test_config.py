"""Configurations accept what their annotations allow, and nothing else."""

import json
import math
from dataclasses import asdict, dataclass

import pytest

from bench.core.config import (
    ImageModelConfig,
    TextModelConfig,
    TrainConfig,
    build,
    suggest,
    training_identity,
    with_overrides,
)
from bench.core.errors import UserError
from bench.core.modifiers import SCHEDULES
from bench.training.registry import method, method_names

CLASSES = (
    *(ImageModelConfig, TextModelConfig, TrainConfig, *SCHEDULES.values()),
    *(method(name).Config for name in method_names()),
)


@dataclass(frozen=True)
class BasicTuple:
    names: tuple[str, ...] | None = ()


def test_values_are_converted_to_their_annotations(subtests):
    cases = [
        (TrainConfig, "lr", 1, 1.0),
        (TrainConfig, "epochs", 3, 3),
        (TrainConfig, "epoch_updates", None, None),
        (TrainConfig, "compile", True, True),
        (ImageModelConfig, "encoder_channels", [3, 5], (3, 5)),
        (ImageModelConfig, "skips", [], ()),
        (ImageModelConfig, "skips", 3, (3,)),
        (ImageModelConfig, "encoder_channels", "3, 5", (3, 5)),
        (ImageModelConfig, "encoder_channels", [3, 5.0], (3, 5)),
        (TrainConfig, "epochs", 1e3, 1000),
        (TrainConfig, "epoch_updates", 2.0, 2),
        (BasicTuple, "names", "mi", ("mi",)),
        (BasicTuple, "names", "mi,1", ("mi", "1")),
    ]
    for cls, name, value, result in cases:
        with subtests.test(name=name, value=value):
            stored = getattr(with_overrides(cls(), {name: value}, "here"), name)
            assert stored == result and type(stored) is type(result)


def test_values_of_other_types_are_rejected(subtests):
    cases = [
        (TrainConfig, "epochs", True),
        (TrainConfig, "epochs", 1.5),
        (TrainConfig, "epochs", None),
        (TrainConfig, "lr", "1e-3"),
        (TrainConfig, "lr", math.nan),
        (TrainConfig, "lr", math.inf),
        (TrainConfig, "compile", 1),
        (TrainConfig, "optimiser", ("adam",)),
        (ImageModelConfig, "kernels", "3,x"),
        (ImageModelConfig, "kernels", [3, 5.5]),
        (ImageModelConfig, "kernels", None),
    ]
    for cls, name, value in cases:
        with subtests.test(name=name, value=value):
            with pytest.raises(UserError, match=f"^here: '{name}' takes "):
                with_overrides(cls(), {name: value}, "here")


def test_unknown_settings_are_rejected():
    with pytest.raises(UserError, match="here has no setting 'epoch': did you mean 'epochs'"):
        build(TrainConfig, {"epoch": 1}, "here")


def test_names_in_another_spelling_are_suggested(subtests):
    names = ["vae", "sa_vae", "beta_vae", "free_bits", "omniglot", "small"]
    cases = {"VAE": "vae", "sa-vae": "sa_vae", "SA-VAE": "sa_vae", "betaVAE": "beta_vae", "Free Bits": "free_bits"}
    for word, name in cases.items():
        with subtests.test(word=word):
            assert suggest(word, names) == f"did you mean '{name}'?"
    assert suggest("xyz", names) == "there are beta_vae, free_bits, omniglot, sa_vae, small, vae"


def test_values_out_of_range_are_rejected(subtests):
    cases = [
        (TrainConfig, {"lr": 0.0}),
        (TrainConfig, {"ramp": 1.5}),
        (TrainConfig, {"optimiser": "lion"}),
        (TextModelConfig, {"dropout": 1.0}),
        (TextModelConfig, {"vocabulary": 4}),
        (ImageModelConfig, {"kernels": (4,)}),
        (ImageModelConfig, {"kernels": (3,), "skips": (3, 3)}),
    ]
    for cls, values in cases:
        with subtests.test(values=values):
            with pytest.raises(UserError, match="^here: "):
                build(cls, values, "here")


def test_configs_survive_json(subtests):
    for cls in CLASSES:
        with subtests.test(cls=cls):
            assert build(cls, json.loads(json.dumps(asdict(cls()))), "here") == cls()


def test_monitoring_does_not_change_the_identity():
    config = asdict(TrainConfig())
    assert training_identity(config | {"lag_examples": 9}) == training_identity(config)
    assert training_identity(config | {"equal_lengths": True}) != training_identity(config)
