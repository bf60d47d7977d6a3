"""``python -m bench bundle OUT FILE``: the records of an output folder in one file, for others to merge."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.cli.options import path
from bench.core.errors import UserError

SUFFIX = ".tar.gz"


def add_parser(commands: Any) -> None:
    """Add the command ``bundle`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "bundle",
        help="write the records of an output folder to one file, to share",
        description="Write the records of the finished cells of an output folder to one file, without weights: "
        "settings, history, metrics, values per example, samples. 'python -m bench merge' takes it.",
    )
    p.add_argument("out", type=path, metavar="OUT", help="output folder of a run")
    p.add_argument("file", type=path, metavar="FILE", help=f"file to write, with the ending {SUFFIX}")
    p.set_defaults(execute=lambda args: bundle(args.out, args.file), after_stop="no file was written")


def bundle(out: Path, file: Path) -> int:
    """Write a bundle, and check it as ``merge`` does."""
    from bench.experiment.bundles.pack import pack
    from bench.experiment.bundles.unpack import unpack

    if not out.is_dir():
        raise UserError(f"no folder '{out}': give the --out folder of 'python -m bench run'")
    if not file.name.endswith(SUFFIX):
        raise UserError(f"'{file}' does not end in {SUFFIX}: name it {file.name.partition('.')[0]}{SUFFIX}")
    if file.exists():
        raise UserError(f"{file} exists: give another name, or remove it")
    manifest = pack(out, file)
    try:
        with tempfile.TemporaryDirectory() as folder:
            unpack(file, Path(folder))
    except BaseException:
        file.unlink()
        raise
    size = file.stat().st_size / 2**20
    print(f"{file}: {manifest.cells} cells, {len(manifest.files)} files, {size:.1f} MiB")
    print("the records name the commands and machines of the cells")
    return 0
