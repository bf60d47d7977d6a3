"""Write a results bundle."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.core import __version__
from bench.core.errors import UserError
from bench.core.files import replace
from bench.experiment import audit
from bench.experiment.bundles import CELL_FILE, CELL_FILES, MANIFEST, MAX_FILE, OTHER_FILE
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import read
from bench.experiment.schema import PROTOCOL_VERSION, BundledFile, Manifest, Status, to_json
from bench.experiment.sweeps import FILE as SWEEPS
from bench.experiment.tuning import record as tuning

SHARED = (Status.DONE, Status.FAILED, Status.SKIPPED)


def pack(out: Path, file: Path) -> Manifest:
    """Write the records under ``out`` to a bundle and return its manifest. Unfinished cells are left out.

    Raise ``UserError`` if there is none of this protocol, if one cannot be read, or if a file is too large.
    """
    paths, cells = [*_other_files(out)], [*_cells(out)]
    if not cells:
        raise UserError(
            f"no finished cells of protocol {PROTOCOL_VERSION} under '{out}': give the --out folder of a run"
        )
    paths += [folder / name for folder in cells for name in CELL_FILES if (folder / name).is_file()]
    contents = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(paths)}
    for name, content in contents.items():
        if not (CELL_FILE.fullmatch(name) or OTHER_FILE.fullmatch(name)) or len(content) > MAX_FILE:
            raise UserError(f"{out / name} cannot be in a bundle: its name has other characters, or it is too large")
    files = {
        name: BundledFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }
    manifest = Manifest(harness=__version__, cells=len(cells), files=files)
    replace(file, lambda target: _write(target, {MANIFEST: to_json(manifest).encode(), **contents}))
    return manifest


def _other_files(out: Path) -> Iterator[Path]:
    yield from (out / tuning.FOLDER).glob("*.json")
    if (out / SWEEPS).is_file():
        yield out / SWEEPS


def _cells(out: Path) -> Iterator[Path]:
    """Yield the folders of the cells to share: those of a run, of its audit and of its tuning."""
    for folder in (out, out / audit.FOLDER, out / tuning.FOLDER):
        for stored in cell_folders(folder):
            try:
                cell = read(stored)
            except ValueError as error:
                raise UserError(f"{stored.path}: {error}; repair it or move it away") from error
            if cell.status in SHARED and cell.config.protocol_version == PROTOCOL_VERSION:
                yield stored.path


def _write(target: IO[bytes], contents: dict[str, bytes]) -> None:
    """Write a ``.tar.gz`` without times and owners."""
    with gzip.GzipFile(fileobj=target, mode="wb", filename="", mtime=0) as compressed:
        with tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
