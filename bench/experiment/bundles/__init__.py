"""Results bundles: the records of an output folder in one file, without weights, for others to merge.

A bundle is a ``.tar.gz`` file of regular files. The first is ``manifest.json`` (``schema.Manifest``), which lists all
others with their sizes and SHA-256 sums. The others have the paths that they have in the output folder: records of
cells under ``runs/``, ``audit/runs/`` and ``tuning/runs/``, ``sweeps.json``, and ``tuning/*.json``. The same folder
gives the same bytes.
"""

from __future__ import annotations

import re

MANIFEST = "manifest.json"
#: Files of a cell in a bundle: what the tables, figures and text pages of a report read.
CELL_FILES = (
    *("config.json", "result.json", "evaluation.json", "history.jsonl", "examples.parquet"),
    *("arrays.npz", "lag_trace.npz", "texts.json"),
)
_NAME = r"[\w=+-][\w.=+-]{0,199}"  # of a folder: no separator, and no dot at its start
_CELL = rf"(?P<out>(?:audit/|tuning/)?)runs/{_NAME}/{_NAME}/{_NAME}/seed-[0-9]{{1,9}}-[0-9a-f]{{12}}"
CELL_FILE = re.compile(rf"(?P<cell>{_CELL})/(?:{'|'.join(map(re.escape, CELL_FILES))})")
OTHER_FILE = re.compile(rf"sweeps\.json|tuning/{_NAME}\.json")

MAX_FILE, MAX_TOTAL, MAX_FILES = 2**26, 2**31, 200_000  # bytes, bytes, number
