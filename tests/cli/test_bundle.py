"""Results bundles: what is in them, merging them, and bundles that somebody has changed."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest

from bench.cli.main import main
from bench.core.files import read_json
from bench.experiment.bundles import unpack as unpacking
from bench.experiment.cell_folder import cell_folders
from bench.experiment.plan import plan
from bench.experiment.presets import load_preset
from bench.experiment.schema import PROTOCOL_VERSION, SCHEMA_VERSION
from bench.experiment.sweeps import read_sweeps, write_sweeps
from bench.experiment.tuning.record import Search, Tuning, store, tunings
from bench.training.expressions import parse_methods
from tests.cli.conftest import assert_error
from tests.fixtures.make_cells import write_audit, write_records

CELL = "runs/toy/quick/vae/"


@pytest.fixture(scope="session")
def published(prepared, tmp_path_factory):
    """An output folder with two rows, an audit, a sweep, and a tuning. Do not change."""
    out = tmp_path_factory.mktemp("published") / "out"
    preset = load_preset("quick", "image", {"train": {"epochs": 3}})
    for cell in plan(parse_methods(["autoregressive", "vae"], "quick")[0], prepared.info, preset, 2, 0, "cpu", out):
        cell.folder.write_config(cell.config)
        kl, au = (0.03, 0) if cell.variant.method.latent else (None, None)
        write_records(cell.folder, cell.config, 60.0, kl, au, 1.0, {})
    write_audit(out, "vae")
    write_sweeps(out, "quick", {"vae(a=1|2)": ["vae"]})
    search = Search(row="vae", base_seed=0, seed=0, trials=("0" * 12,), selected=None, final=None)
    store(out, Tuning(dataset="toy", preset="quick", trials=2, select="nll", searches=(search,)))
    return out


@pytest.fixture(scope="session")
def bundle(published):
    file = published.parent / "out.tar.gz"
    assert main(["bundle", str(published), str(file)]) == 0
    return file


@pytest.fixture
def merged(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.reporting.report.build", lambda out: [])
    return tmp_path / "merged"


def members(file):
    with tarfile.open(file) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def records(out):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_bundle_has_the_records_without_weights(published, bundle, tmp_path):
    for cell in cell_folders(published):
        (cell.path / "best.pt").write_bytes(b"weights")
    contents = members(bundle)
    manifest = json.loads(contents.pop("manifest.json"))
    stored = {path.as_posix(): content for path, content in records(published).items() if path.suffix != ".pt"}
    assert contents == stored and manifest["cells"] == 6
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in stored.items()
    }
    again = tmp_path / "again.tar.gz"
    assert main(["bundle", str(published), str(again)]) == 0 and again.read_bytes() == bundle.read_bytes()


def test_merged_bundle_equals_its_output(published, bundle, merged, capsys):
    assert main(["merge", str(bundle), "--out", str(merged)]) == 0
    printed = capsys.readouterr().out
    assert "out.tar.gz: 6 cells, all records are valid" in printed and "6 of them copied" in printed
    after = {path: content for path, content in records(published).items() if path.suffix == ".parquet"}
    assert after.items() <= records(merged).items()
    assert [cell.config for cell in cell_folders(merged)] == [cell.config for cell in cell_folders(published)]
    assert read_sweeps(merged) == read_sweeps(published) and [*tunings(merged)] == [*tunings(published)]


def test_bundle_changes_nothing_of_the_target(published, bundle, merged):
    shutil.copytree(published, merged)
    (cell, *_) = cell_folders(merged)
    record = read_json(cell.path / "evaluation.json")
    del record["evaluation"]["metrics"]["nll"]  # the bundle has more metrics
    (cell.path / "evaluation.json").write_text(json.dumps(record))
    write_sweeps(merged, "quick", {"vae(a=1|2)": ["vae", "beta_vae"]})
    (tuned,) = tunings(merged)
    store(merged, tuned.model_copy(update={"searches": (tuned.searches[0].model_copy(update={"selected": 1}),)}))
    before = records(merged)
    assert main(["merge", str(bundle), "--out", str(merged)]) == 0
    assert {path: content for path, content in records(merged).items() if path in before} == before
    assert not [*merged.rglob("*.bak-*")]


def test_other_result_of_a_cell_is_an_error(published, bundle, merged, capsys):
    shutil.copytree(published, merged)
    (cell, *_) = cell_folders(merged)
    record = read_json(cell.path / "evaluation.json")
    record["evaluation"]["metrics"]["iw_nll"] -= 1
    (cell.path / "evaluation.json").write_text(json.dumps(record))
    assert main(["merge", str(bundle), "--out", str(merged)]) == 2
    assert "two results of one cell differ in iw_nll" in capsys.readouterr().err


# ---- bundles that somebody has changed


def write_tar(file, contents, special=()):
    """Write a bundle of these contents and further members, with a manifest unless the contents have one."""
    files = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in contents.items()}
    versions = {"schema_version": SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION}
    manifest = {"bundle_version": 1, "harness": "1.0", **versions, "cells": 1, "files": files}
    with tarfile.open(file, "w:gz") as archive:
        for name, content in ({"manifest.json": json.dumps(manifest).encode()} | contents).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in special:
            archive.addfile(member)
    return file


def edit(name, change):
    """A change of the content of a JSON file."""

    def apply(contents):
        (path,) = (path for path in contents if path.startswith(f"{CELL}seed-0") and path.endswith(name))
        record = json.loads(contents[path])
        change(record)
        contents[path] = json.dumps(record).encode()

    return apply


def put(name, content):
    """A further file, or another content of a file of a cell."""

    def apply(contents):
        folder = next(path.rpartition("/")[0] for path in contents if path.startswith(f"{CELL}seed-0"))
        contents[name.format(cell=folder)] = content

    return apply


def moved(contents):
    """Rename a cell's method folder."""
    move(contents, "/vae/", "/other/")


def move(contents, old, new):
    for path in [path for path in contents if path.startswith(f"{CELL}seed-0")]:
        contents[path.replace(old, new)] = contents.pop(path)


def rename_row(contents):
    """Give a cell the name of another method, in its record and its folder."""
    edit("config.json", lambda record: record["method"].update(expression="mim"))(contents)
    move(contents, "/vae/", "/mim/")


def published_row(contents):
    """Claim that a cell has the published protocol."""
    edit("config.json", lambda record: record.update(preset="paper", preset_notes=[]))(contents)
    move(contents, "/quick/", "/paper/")


def npz(array):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, means=array)
    return buffer.getvalue()


def parquet(rows):
    buffer = io.BytesIO()
    pd.DataFrame({"index": np.zeros(rows), "iw_nll": np.zeros(rows)}).to_parquet(buffer)
    return buffer.getvalue()


def drop(name):
    def apply(contents):
        for path in [path for path in contents if path.startswith(CELL) and path.endswith(name)]:
            del contents[path]

    return apply


CHANGES = {
    "path above the folder": (put("../evil.json", b"{}"), "'../evil.json' is no file of a bundle"),
    "absolute path": (put("/tmp/evil.json", b"{}"), "'/tmp/evil.json' is no file of a bundle"),
    "weights": (put("{cell}/best.pt", b"pickle"), "best.pt' is no file of a bundle"),
    "path inside a cell": (put("{cell}/../evil/config.json", b"{}"), "is no file of a bundle"),
    "other settings": (edit("config.json", lambda r: r["train"].update(epochs=99)), "cell_id in config.json does not"),
    "name of another method": (rename_row, "method.name in config.json is not that of 'mim'"),
    "other baseline": (
        edit("config.json", lambda r: r["method"].update(baseline=False)),
        "method.baseline in config.json is not that of 'vae'",
    ),
    "not the published protocol": (published_row, "do not name what differs from preset paper"),
    "other cell": (edit("result.json", lambda r: r.update(cell_id="0" * 12)), "result.json is of another cell"),
    "unknown key": (edit("result.json", lambda r: r.update(script="x")), "script: Extra inputs are not permitted"),
    "wrong type": (edit("result.json", lambda r: r.update(attempt="1")), "attempt: Input should be a valid integer"),
    "another schema": (edit("config.json", lambda r: r.update(schema_version=99)), "has schema version 99"),
    "another protocol": (edit("config.json", lambda r: r.update(protocol_version=1)), "has protocol 1"),
    "better metric": (
        edit("evaluation.json", lambda r: r["evaluation"]["metrics"].update(iw_nll=1.0)),
        "examples.parquet does not belong to evaluation.json",
    ),
    "renamed row": (moved, "its records are those of runs/toy/quick/vae/"),
    "no configuration": (drop("config.json"), "config.json is missing"),
    "no result": (drop("result.json"), "result.json is missing"),
    "pickled array": (put("{cell}/arrays.npz", npz(np.array([{}], object))), "Object arrays cannot be loaded"),
    "no array": (put("{cell}/arrays.npz", b"PK"), "arrays.npz"),
    "no table": (put("{cell}/examples.parquet", b"PAR1"), "examples.parquet is damaged"),
    "tuning elsewhere": (
        put("tuning/a.json", b'{"dataset": "../../x", "preset": "quick", "trials": 1, "select": "nll"}'),
        "tuning/a.json is the record of another tuning",
    ),
    "damaged sweeps": (put("sweeps.json", b"[]"), "sweeps.json is damaged"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_bundle_is_one_line_and_nothing_is_written(case, bundle, merged, tmp_path, capsys):
    change, message = CHANGES[case]
    contents = members(bundle)
    del contents["manifest.json"]
    change(contents)
    file = write_tar(tmp_path / "changed.tar.gz", contents)
    assert main(["merge", str(file), "--out", str(merged)]) == 2
    assert_error(capsys, message)
    assert not merged.exists() and {path.name for path in tmp_path.iterdir()} == {"changed.tar.gz"}


def link(kind):
    member = tarfile.TarInfo("sweeps.json")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_only_regular_files_are_read(kind, merged, tmp_path, capsys):
    file = write_tar(tmp_path / "changed.tar.gz", {}, [link(kind)])
    assert main(["merge", str(file), "--out", str(merged)]) == 2
    assert_error(capsys, "'sweeps.json' is no regular file")


def test_manifest_must_list_every_file(bundle, merged, tmp_path, capsys):
    contents = members(bundle)
    name = next(name for name in contents if name.endswith("result.json"))
    without = {key: value for key, value in contents.items() if key != name}
    for changed, message in [
        (contents | {name: b"{}"}, "has another size or SHA-256 sum"),
        (without, f"'{name}' of its manifest is missing"),
        (without | {name.replace("result", "texts"): b"{}"}, "not in its manifest"),
        (contents | {"manifest.json": b"{}"}, "manifest.json is invalid: harness: Field required"),
    ]:
        file = write_tar(tmp_path / "changed.tar.gz", changed)
        assert main(["merge", str(file), "--out", str(merged)]) == 2
        assert_error(capsys, message)


def test_sizes_are_limited(bundle, merged, tmp_path, monkeypatch, capsys):
    """A small file may expand to a large one: its members, their headers, and arrays and tables within them."""
    monkeypatch.setattr(unpacking, "MAX_FILE", 100_000)
    contents = members(bundle)
    del contents["manifest.json"]
    large = tarfile.TarInfo("sweeps.json")
    large.pax_headers = {"comment": "x" * 400_000}
    cases = [({"sweeps.json": b" " * 200_000}, [], "exceeds"), ({}, [large], "larger than")]
    for name, content in (("arrays.npz", npz(np.zeros(200_000))), ("examples.parquet", parquet(200_000))):
        changed = dict(contents)
        put(f"{{cell}}/{name}", content)(changed)
        cases.append((changed, [], f"{name} expands to more than"))
    for changed, special, message in cases:
        file = write_tar(tmp_path / "changed.tar.gz", changed, special)
        assert main(["merge", str(file), "--out", str(merged)]) == 2
        assert_error(capsys, message)


def test_other_files_are_no_bundles(merged, tmp_path, capsys):
    for content in (b"", b"PK", gzip.compress(b"no archive"), gzip.compress(b"")):
        (tmp_path / "file.tar.gz").write_bytes(content)
        assert main(["merge", str(tmp_path / "file.tar.gz"), "--out", str(merged)]) == 2
        assert_error(capsys, "")


def test_bundle_needs_finished_cells_and_a_new_file(published, bundle, tmp_path, capsys):
    for out, file, message in [
        (tmp_path, tmp_path / "a.tar.gz", "no finished cells of protocol"),
        (tmp_path / "none", tmp_path / "a.tar.gz", "no folder"),
        (published, tmp_path / "a.zip", "name it a.tar.gz"),
        (published, bundle, "exists"),
    ]:
        assert main(["bundle", str(out), str(file)]) == 2
        assert_error(capsys, message)
