"""Configurations accept what their annotations allow, and nothing else."""

import json
import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.config import (
    ImageModelConfig,
    TextModelConfig,
    TrainConfig,
    build,
    training_identity,
    with_overrides,
)
from bench.core.errors import UserError
from bench.core.schedules import SCHEDULES
from bench.training.registry import method, method_names
from tests.conftest import steady

CLASSES = (
    *(ImageModelConfig, TextModelConfig, TrainConfig, *SCHEDULES.values()),
    *(method(name).Config for name in method_names()),
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.integers(0, 9) | st.floats() | st.text(max_size=3)
VALUES = PLAIN | st.lists(PLAIN | st.integers(1, 9), max_size=3)


def allowed(annotation: str, value) -> bool:
    if annotation.startswith("tuple["):
        item = annotation.removeprefix("tuple[").removesuffix(", ...]")
        return isinstance(value, list) and all(allowed(item, element) for element in value)
    types = annotation.split(" | ")
    if value is None or isinstance(value, bool | str):
        return {type(None): "None", bool: "bool", str: "str"}[type(value)] in types
    if isinstance(value, int):
        return abs(value) < 2**63 and not {"int", "float"}.isdisjoint(types)
    return isinstance(value, float) and math.isfinite(value) and "float" in types


@settings(steady, max_examples=200)
@given(st.data())
def test_settings_accept_what_annotations_allow(data):
    cls = data.draw(st.sampled_from([cls for cls in CLASSES if fields(cls)]))
    field = data.draw(st.sampled_from(fields(cls)))
    annotation = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    value = data.draw(VALUES)
    try:
        result = getattr(with_overrides(cls(), {field.name: value}, "here"), field.name)
    except UserError as error:
        wrong_type = str(error).startswith(f"here: '{field.name}' takes ")
        assert str(error).startswith("here: ") and wrong_type != allowed(annotation, value)
    else:
        assert allowed(annotation, value)
        assert result == (tuple(value) if isinstance(value, list) else value)
        assert type(result) is not int or "int" in annotation


def test_unknown_settings_are_rejected():
    with pytest.raises(UserError, match="here has no setting 'epoch': did you mean 'epochs'"):
        build(TrainConfig, {"epoch": 1}, "here")


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (TrainConfig, {"lr": 0.0}),
        (TrainConfig, {"ramp": 1.5}),
        (TrainConfig, {"optimiser": "lion"}),
        (TextModelConfig, {"dropout": 1.0}),
        (TextModelConfig, {"vocabulary": 4}),
        (ImageModelConfig, {"kernels": (4,)}),
        (ImageModelConfig, {"kernels": (3,), "skips": (3, 3)}),
    ],
)
def test_values_out_of_range_are_rejected(cls, values):
    with pytest.raises(UserError, match="^here: "):
        build(cls, values, "here")


@pytest.mark.parametrize("cls", CLASSES)
def test_configs_survive_json(cls):
    assert build(cls, json.loads(json.dumps(asdict(cls()))), "here") == cls()


def test_monitoring_does_not_change_the_identity():
    config = asdict(TrainConfig())
    assert training_identity(config | {"lag_examples": 9}) == training_identity(config)
    assert training_identity(config | {"equal_lengths": True}) != training_identity(config)
