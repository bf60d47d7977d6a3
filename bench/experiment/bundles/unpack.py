"""Read a results bundle of somebody else: nothing of it is executed, and no file is written outside of a folder."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import UserError, printable
from bench.core.files import read_arrays, read_text
from bench.evaluation.record import SampleTexts
from bench.experiment import audit
from bench.experiment.bundles import CELL_FILE, MANIFEST, MAX_FILE, MAX_FILES, MAX_TOTAL, OTHER_FILE
from bench.experiment.cell_folder import CellFolder, cell_place
from bench.experiment.cell_record import CellRecord, read
from bench.experiment.plan import method_record
from bench.experiment.presets import load_preset
from bench.experiment.schema import PROTOCOL_VERSION, SCHEMA_VERSION, CellConfig, Manifest, parse
from bench.experiment.stored_evaluation import EXAMPLES
from bench.experiment.sweeps import read_sweeps
from bench.experiment.tuning.record import FOLDER as TUNING
from bench.experiment.tuning.record import file_name, tunings
from bench.training import registry
from bench.training.expressions import parse_methods

BLOCK = 2**16  # bytes that reading a header may take in addition to a file


def unpack(file: Path, folder: Path) -> int:
    """Write the files of a bundle to an empty folder, check all of them, and return the number of cells.

    Raise ``UserError`` for anything that ``bench.experiment.bundles.pack`` does not write.
    """
    try:
        with _Bounded(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            cells = _extract(archive, folder)
        for cell in cells:
            _check_cell(folder, cell)
        read_sweeps(folder)
        names = {file_name(tuning) for tuning in tunings(folder)}
        if wrong := {path.name for path in (folder / TUNING).glob("*.json")} - names:
            raise UserError(f"tuning/{min(wrong)} is the record of another tuning")
    except UserError as error:
        raise UserError(f"{file}: {str(error).replace(f'{folder}/', '')}") from error
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, OverflowError) as error:
        raise UserError(f"{file} is no results bundle ({error}): 'python -m bench bundle' writes one") from error
    return len(cells)


class _Bounded(gzip.GzipFile):
    """A compressed file that raises ``UserError`` instead of expanding beyond the limits of a bundle."""

    def __init__(self, file: Path):
        super().__init__(file, "rb")

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_FILE + BLOCK or self.tell() + size > MAX_TOTAL:
            raise UserError(f"larger than {MAX_FILE >> 20} MiB a file or {MAX_TOTAL >> 30} GiB in all: split it")
        return super().read(size)


def _extract(archive: tarfile.TarFile, folder: Path) -> list[str]:
    """Write the files that the manifest lists; return the folders of the cells, relative to the output folder."""
    members = _members(archive)
    name, content = next(members, ("", b""))
    if name != MANIFEST:
        raise UserError(f"its first file is '{name}', not {MANIFEST}: write it by 'python -m bench bundle'")
    manifest = _manifest(content)
    cells: dict[str, None] = {}
    written = set()
    for name, content in members:
        match = CELL_FILE.fullmatch(name)
        if not match and not OTHER_FILE.fullmatch(name):
            raise UserError(f"'{name}' is no file of a bundle")
        if name not in manifest.files or name in written:
            raise UserError(f"'{name}' is {'in it twice' if name in written else 'not in its manifest'}")
        stated = manifest.files[name]
        if (len(content), hashlib.sha256(content).hexdigest()) != (stated.bytes, stated.sha256):
            raise UserError(f"'{name}' has another size or SHA-256 sum than its manifest states: it was changed")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        written.add(name)
        if match:
            cells[match["cell"]] = None
    if missing := sorted(manifest.files.keys() - written):
        raise UserError(f"'{missing[0]}' of its manifest is missing: it is incomplete")
    return [*cells]


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of regular files; anything else is an error."""
    for number, member in enumerate(archive):
        name = printable(member.name)
        if not member.isreg() or member.issparse():
            raise UserError(f"'{name}' is no regular file: a bundle has no links, folders or devices")
        if member.size > MAX_FILE or number > MAX_FILES:
            raise UserError(f"'{name}' exceeds {MAX_FILE >> 20} MiB a file or {MAX_FILES:,} files")
        content = archive.extractfile(member)
        yield name, content.read() if content else b""


def _manifest(content: bytes) -> Manifest:
    try:
        manifest = parse(Manifest, content)
    except ValueError as error:
        raise UserError(f"{MANIFEST} is invalid: {error}") from error
    for what, stated, here in (
        ("schema", manifest.schema_version, SCHEMA_VERSION),
        ("protocol", manifest.protocol_version, PROTOCOL_VERSION),
    ):
        if stated != here:
            raise UserError(
                f"it has {what} {stated}, this harness {here}: use version {manifest.harness} of the harness"
            )
    return manifest


def _check_cell(folder: Path, place: str) -> None:
    """Raise ``UserError`` unless the records of a cell are valid, belong together and are in the right folder."""
    stored = CellFolder(folder / place)
    try:
        cell = read(stored)
        config = cell.config
        if config.protocol_version != PROTOCOL_VERSION:
            raise ValueError(f"config.json has protocol {config.protocol_version}, this harness {PROTOCOL_VERSION}")
        if not place.endswith(f"runs/{cell_place(config).as_posix()}"):
            raise ValueError(f"its records are those of runs/{cell_place(config)}")
        if not cell.result:
            raise ValueError("result.json is missing")
        if not place.startswith(f"{audit.FOLDER}/"):  # whose settings are doubled
            _check_method(config)
            _check_published(cell)
        _check_arrays(cell)
    except (ValueError, OSError) as error:
        raise UserError(f"{place}: {str(error).replace(f'{folder}/', '')}") from error


def _check_method(config: CellConfig) -> None:
    """Raise ``ValueError`` if a method of this code has another name or other settings than the row says."""
    record = config.method
    if record.name not in registry.method_names() or record.revision != registry.method(record.name).revision:
        return
    rows, _ = parse_methods([record.expression], config.preset)
    expected = method_record(rows[0])
    for name in ("name", "expression", "config", "schedule", "kl_term", "lr_scale", "baseline"):
        if getattr(record, name) != getattr(expected, name):
            raise ValueError(f"method.{name} in config.json is not that of '{record.expression}'")


def _check_published(cell: CellRecord) -> None:
    """Raise ``ValueError`` if a cell of the published protocol, by its preset and notes, has other settings."""
    config = cell.config
    if cell.as_published:
        preset = load_preset(config.preset, config.dataset.modality, protocol=config.dataset.protocol)
        if (config.model, config.train) != (preset.model, preset.train):
            raise ValueError(f"preset_notes in config.json do not name what differs from preset {config.preset}")


def _check_arrays(cell: CellRecord) -> None:
    """Raise ``ValueError`` unless the other files of a cell are readable, small enough, and belong to its metrics."""
    if (text := read_text(cell.folder / "texts.json", missing_ok=True)) is not None:
        parse(SampleTexts, text)
    for file in cell.folder.glob("*.npz"):
        try:
            with zipfile.ZipFile(file) as arrays:
                size = sum(member.file_size for member in arrays.infolist())
            _check_size(file, size)
            read_arrays(file)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{file.name} is damaged ({error})") from error
    if (cell.folder / EXAMPLES).exists():
        _check_size(cell.folder / EXAMPLES, _expanded(cell.folder / EXAMPLES))
        if problem := cell.examples.problem:
            raise ValueError(problem)


def _expanded(file: Path) -> int:
    """Return the bytes that a table takes in memory, at least."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as table:
            about = table.metadata
            stored = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            return max(stored, 8 * about.num_rows * about.num_columns)
    except (OSError, ArrowException) as error:
        raise ValueError(f"{file.name} is damaged ({type(error).__name__})") from error


def _check_size(file: Path, size: int) -> None:
    if size > MAX_FILE:
        raise ValueError(f"{file.name} expands to more than {MAX_FILE >> 20} MiB")
