"""Configurations accept what their annotations allow; cell ids depend on everything that determines results."""

import copy
import json
import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.config import (
    IDENTITY_DEFAULTS,
    MONITORING_FIELDS,
    RECORDED_SEPARATELY,
    ImageModelConfig,
    TextModelConfig,
    TrainConfig,
    build,
    with_overrides,
)
from bench.core.errors import UserError
from bench.core.schedules import SCHEDULES
from bench.experiment.plan import identify
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


# ---- identity


def leaves(record, path=()):
    for key, value in record.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def determines_results(path) -> bool:
    if path[0] == "train":
        return path[1] not in (*MONITORING_FIELDS, *RECORDED_SEPARATELY)
    if path[0] == "method":
        return path[1] in ("name", "config", "schedule")
    if path[0] == "dataset":
        return path[1] == "fingerprint"
    return path[0] in ("model", "precision", "device", "protocol_version", "seed", "base_seed")


def changed(config, path):
    result = section = copy.deepcopy(config)
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = ["changed", section[path[-1]]]
    return result


@pytest.mark.parametrize("expression", ["vae", "sa_vae(steps=3)+cyclical", "aggressive"])
def test_cell_id_depends_on_what_determines_results(expression, planned):
    config = planned(expression).config
    ids = {path: identify(changed(config, path)) for path in leaves(config)}
    for path, cell_id in ids.items():
        assert (cell_id != identify(config)) == determines_results(path), path
    different = [cell_id for path, cell_id in ids.items() if determines_results(path)]
    assert len({*different}) == len(different)


@pytest.mark.parametrize("name", IDENTITY_DEFAULTS)
def test_later_settings_change_the_id_only_if_set(name, planned):
    config = planned("vae").config
    older = copy.deepcopy(config)
    del older["train"][name]
    assert identify(older) == identify(config) != identify(changed(config, ("train", name)))
