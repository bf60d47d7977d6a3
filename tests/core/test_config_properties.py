"""Configurations: what their annotations allow and nothing else; identities that tell cells apart by their numbers."""

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
    EvaluationConfig,
    ImageModelConfig,
    TextModelConfig,
    TrainConfig,
    build,
    with_overrides,
)
from bench.core.errors import UserError
from bench.core.hashing import canonical, short_hash
from bench.core.schedules import SCHEDULES
from bench.experiment.plan import identify
from bench.experiment.presets import load_preset
from bench.training.registry import method, method_names
from tests.conftest import steady

CLASSES = (
    *(ImageModelConfig, TextModelConfig, TrainConfig, EvaluationConfig, *SCHEDULES.values()),
    *(method(name).Config for name in method_names()),
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.integers(0, 9) | st.floats() | st.text(max_size=3)
VALUES = PLAIN | st.lists(PLAIN | st.integers(1, 9), max_size=3) | st.lists(PLAIN, max_size=3).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def allowed(annotation: str, value) -> bool:
    """Whether a value is what an annotation says, told from its text."""
    if annotation.startswith("tuple["):
        of = annotation.removeprefix("tuple[").removesuffix(", ...]")
        return isinstance(value, (list, tuple)) and all(allowed(of, item) for item in value)
    kinds = annotation.split(" | ")
    if value is None or isinstance(value, (bool, str)):
        return {type(None): "None", bool: "bool", str: "str"}[type(value)] in kinds
    if isinstance(value, int):
        return abs(value) < 2**63 and not {"int", "float"}.isdisjoint(kinds)
    return isinstance(value, float) and math.isfinite(value) and "float" in kinds


def annotation(field) -> str:
    return field.type.__name__ if isinstance(field.type, type) else str(field.type)


@settings(steady, max_examples=500)
@given(st.data())
def test_a_setting_takes_what_its_annotation_says_and_nothing_else(data):
    cls = data.draw(st.sampled_from([cls for cls in CLASSES if fields(cls)]))
    field = data.draw(st.sampled_from(fields(cls)))
    value = data.draw(VALUES)
    try:
        found = getattr(with_overrides(cls(), {field.name: value}, "here"), field.name)
    except UserError as error:
        of_type = f"here: '{field.name}' takes {annotation(field).replace(' | None', ' or none')}, not "
        assert str(error).startswith("here: ") and str(error).startswith(of_type) != allowed(annotation(field), value)
    else:
        assert allowed(annotation(field), value)
        assert found == (tuple(value) if isinstance(value, list) else value)
        assert type(found) is not int or "int" in annotation(field)


@steady
@given(st.sampled_from(CLASSES), st.text(max_size=8))
def test_an_unknown_setting_is_refused(cls, name):
    if name not in {field.name for field in fields(cls)}:
        with pytest.raises(UserError, match="has no setting"):
            build(cls, {name: 1}, "here")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_configuration_comes_back_from_json(cls):
    assert build(cls, json.loads(json.dumps(asdict(cls()))), "here") == cls()


def reordered(value, random):
    if isinstance(value, dict):
        return {key: reordered(value[key], random) for key in random.sample(sorted(value), len(value))}
    return [reordered(item, random) for item in value] if isinstance(value, list) else value


@steady
@given(JSON, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(record, random):
    assert canonical(reordered(record, random)) == canonical(record)
    assert json.loads(canonical(record)) == record


@steady
@given(JSON, JSON)
def test_records_that_differ_have_other_hashes(one, other):
    assert (short_hash(one) == short_hash(other)) == (canonical(one) == canonical(other))


def leaves(record, path=()):
    """Where the values of nested dictionaries are."""
    for key, value in record.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def determines(path) -> bool:
    """Whether a cell's numbers depend on what stands there in its ``config.json``."""
    if path[0] == "train":
        return path[1] not in (*MONITORING_FIELDS, *RECORDED_SEPARATELY)
    if path[0] == "method":
        return path[1] in ("name", "config", "schedule")
    if path[0] == "dataset":
        return path[1] == "fingerprint"
    return path[0] in ("model", "precision", "device", "protocol_version", "seed", "base_seed")


def changed(config, path):
    other = copy.deepcopy(config)
    *above, last = path
    place = other
    for key in above:
        place = place[key]
    place[last] = ["changed", place[last]]
    return other


@pytest.mark.parametrize("expression", ["vae", "sa_vae(steps=3)+cyclical", "aggressive"])
def test_the_id_changes_with_what_determines_numbers_and_with_nothing_else(expression, planned):
    config = planned(expression).config
    paths = [*leaves(config)]
    assert {path[0] for path in paths if determines(path)} >= {"train", "model", "method", "dataset", "seed"}
    ids = {path: identify(changed(config, path)) for path in paths}
    for path, found in ids.items():
        assert (found != identify(config)) == determines(path), path
    different = [found for path, found in ids.items() if determines(path)]
    assert len({*different}) == len(different)


@pytest.mark.parametrize("name", IDENTITY_DEFAULTS)
def test_a_setting_added_later_counts_once_it_differs(name, planned):
    config = planned("vae").config
    older = copy.deepcopy(config)
    del older["train"][name]
    assert identify(older) == identify(config) != identify(changed(config, ("train", name)))


@steady
@given(
    st.fixed_dictionaries({}, optional={"epochs": st.integers(1, 99), "lr": st.floats(1e-6, 1), "clip": st.just(5.0)}),
    st.fixed_dictionaries({}, optional={"latent_dim": st.integers(1, 64), "maps": st.just(4)}),
    st.fixed_dictionaries({}, optional={"iw_samples": st.integers(1, 99)}),
)
def test_overrides_of_a_preset_are_noted_where_they_change_it(train, model, evaluation):
    sections = {"train": train, "model": model, "evaluation": evaluation}
    before, after = load_preset("paper", "image"), load_preset("paper", "image", sections)
    for section, values in sections.items():
        assert all(getattr(getattr(after, section), key) == value for key, value in values.items())
    wanted = {
        f"{section}.{key} = {value} (preset: {getattr(getattr(before, section), key)})"
        for section in ("train", "model")
        for key, value in sections[section].items()
        if value != getattr(getattr(before, section), key)
    }
    assert {*after.notes} - {*before.notes} == wanted and after.notes[: len(before.notes)] == before.notes
