"""Cells and their identities."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.core.config import TrainConfig, with_overrides
from bench.core.errors import UserError
from bench.core.files import read_json
from bench.core.hashing import derive_seed
from bench.data.registry import prepare
from bench.experiment.plan import identify, plan, status
from bench.experiment.presets import load_preset
from bench.experiment.worker import is_finished, run_cell
from bench.training import registry
from bench.training.expressions import parse_methods
from tests.conftest import EVALUATION, TOY


def test_protocol_settings_are_checked_and_noted():
    preset = load_preset("quick", "image", {"train": {"epochs": 2}})
    assert preset.train.epochs == 2 and "train.epochs = 2 (preset: 10)" in preset.notes
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        load_preset("quick", "image", {"train": {"epoch": 2}})
    with pytest.raises(UserError, match="takes int"):
        load_preset("quick", "image", {"train": {"epochs": "many"}})
    with pytest.raises(UserError, match="'epochs' must be positive, not 0"):
        load_preset("quick", "image", {"train": {"epochs": 0}})
    with pytest.raises(UserError, match="'optimiser' is one of adam, sgd, not 'lion'"):
        load_preset("quick", "image", {"train": {"optimiser": "lion"}})
    for setting in (
        {"kernels": (4, 4)},
        {"kernels": ()},
        {"kernels": ("a",)},
        {"skips": (3,) * 7},
        {"decoder_channels": 1},
        {"encoder_channels": (0,)},
    ):
        with pytest.raises(UserError, match=next(iter(setting))):
            load_preset("quick", "image", {"model": setting})
    with pytest.raises(UserError, match="no models for audio"):
        load_preset("quick", "audio")
    assert with_overrides(TrainConfig(), {"lr": 1}, "").lr == 1.0


def cells(prepared, out, expression="vae", preset=TOY, seeds=1, base=0, data=None):
    rows, _ = parse_methods([expression], preset.name)
    return plan(rows, data or prepared.info, preset, seeds, base, "cpu", out)


def test_identity_holds_what_determines_the_numbers_and_nothing_else(prepared, tmp_path):
    def identity(**changes):
        return cells(prepared, tmp_path, **changes)[0].config["cell_id"]

    same = identity()
    assert identity(preset=replace(TOY, evaluation=replace(TOY.evaluation, iw_samples=7))) == same
    assert identity(preset=replace(TOY, notes=("a note",))) == same
    assert identity(data=replace(prepared.info, source="elsewhere")) == same
    different = {
        identity(expression="beta_vae"),
        identity(expression="vae+anneal"),
        identity(base=1),
        identity(preset=replace(TOY, train=replace(TOY.train, lr=1e-4))),
        identity(preset=replace(TOY, model=replace(TOY.model, maps=3))),
        identity(data=replace(prepared.info, fingerprint="0" * 64)),
        cells(prepared, tmp_path, seeds=2)[1].config["cell_id"],
    }
    assert len(different) == 7 and same not in different


def test_folders_are_names_that_any_file_system_takes(prepared, tmp_path):
    cell = cells(prepared, tmp_path, "sa_vae(steps=2,lr=0.1)+anneal(start=0.2)")[0]
    name = cell.folder.path.relative_to(tmp_path).as_posix()
    assert name.startswith("runs/toy/toy/sa_vae-steps=2-lr=0.1+anneal-start=0.2/seed-0-")
    assert not set(name) & set('()|*?<>:" ')


def test_a_method_for_another_modality_is_skipped_with_its_reason(prepared, tmp_path, monkeypatch):

    monkeypatch.setattr(registry.method("vae"), "modalities", ("text",))
    (cell,) = cells(prepared, tmp_path)
    assert cell.status == "skipped" and cell.reason == "for text data only"


def test_seeds_are_functions_of_their_parts():
    assert derive_seed(0, "omniglot", 1) == derive_seed(0, "omniglot", 1)
    assert len({derive_seed(0, "a", 1), derive_seed(1, "a", 0), derive_seed(0, "a1"), derive_seed("0", "a", 1)}) == 4
    assert 0 <= derive_seed("x") < 2**63


def test_data_sets_by_name_setting_and_path(prepared, tmp_path, monkeypatch):
    asked = []

    def give(data_dir, cache, **settings):
        asked.append(settings)
        return prepared

    known = SimpleNamespace(SETTINGS={"vocab": 1000}, prepare=give)
    monkeypatch.setattr("bench.data.registry.dataset", lambda name: known)
    prepare("synthetic", None, tmp_path)
    prepare("synthetic(vocab=200)", None, tmp_path)
    assert asked == [{}, {"vocab": 200}]
    with pytest.raises(UserError, match="data set 'synthetic' has no setting 'vocabulary': did you mean 'vocab'"):
        prepare("synthetic(vocabulary=200)", None, tmp_path)
    with pytest.raises(UserError, match="cannot read the expression"):
        prepare("synthetic(vocab=200", None, tmp_path)


@pytest.mark.parametrize("name", ["mine", "yahoo"])
def test_a_folder_by_its_path(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text("a b c\nb c\n")
    if name == "mine":
        info = prepare(str(folder), None, tmp_path / "cache").info
        assert (info.name, info.modality, info.sizes["train"]) == ("mine", "text", 2)
    else:
        with pytest.raises(UserError, match=f"rename it, or read it by --dataset yahoo --data-dir {tmp_path}"):
            prepare(str(folder), None, tmp_path / "cache")


def test_what_looks_like_a_path_and_is_none(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        prepare(str(tmp_path / "nothing"), None, tmp_path)
    with pytest.raises(UserError, match="unknown data set 'omni': did you mean 'omniglot'"):
        prepare("omni", None, tmp_path)


def test_what_only_watches_training_is_no_part_of_a_cells_identity(planned):
    config = planned("vae").config
    watched = {**config, "train": {**config["train"], "lag_examples": 7}}
    older = {**config, "train": {key: config["train"][key] for key in config["train"] if key != "equal_lengths"}}
    assert identify(watched) == identify(older) == identify(config)
    assert identify({**config, "train": {**config["train"], "equal_lengths": True}}) != identify(config)
    assert identify({**config, "method": {**config["method"], "revision": 2}}) != identify(config)


def test_records_that_a_report_leaves_out_are_not_taken_for_a_cells_own(planned, task):
    vae, beta = planned("vae"), planned("beta_vae")
    for cell in (vae, beta):
        run_cell(task(cell))
    folder, own, other = vae.folder, vae.folder.result(), beta.folder

    folder.write_json("evaluation.json", other.evaluation())
    assert status(folder, EVALUATION) == ("trained", "")
    assert not is_finished(task(vae, run="second")) and not folder.done(EVALUATION)
    run_cell(task(vae, run="second"))
    assert is_finished(task(vae, run="third")) and folder.done(EVALUATION)
    assert folder.result()["provenance"] == own["provenance"], "it is not trained again"

    for change in ({"status": "odd"}, {"cell_id": None}, {"flops": "many"}, {"schema_version": 99}):
        folder.write_json("result.json", own | change)
        state, anew = status(folder, EVALUATION)
        assert state == "missing" and anew.startswith("its result.json ")

    folder.write_json("result.json", other.result())
    assert status(folder, EVALUATION) == ("missing", f"its result.json is of another cell, {other.cell_id}")
    assert not is_finished(task(vae, run="third")) and not folder.trained()
    run_cell(task(vae, run="third"))
    assert is_finished(task(vae, run="fourth")) and folder.result()["cell_id"] == vae.config["cell_id"]
    (aside,) = folder.path.parent.glob("backup-seed-*")
    assert read_json(aside / "result.json") == other.result()
