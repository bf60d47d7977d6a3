"""What the records of a cell must be to be taken for them, by whoever reads them.

What lies in a folder may be torn, foreign, of another cell or of a newer version. ``problem`` looks at what readers
rely on: keys, kinds and ranges, one identity. Keys that are not named here may be there, and hold any JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.config import training_identity as training_identity
from bench.core.hashing import short_hash
from bench.experiment.cell_folder import SCHEMA_VERSION

#: Bumped by every change that moves numbers: cells of different protocols are different cells.
PROTOCOL_VERSION = 2

STATUSES = ("ok", "failed", "skipped", "running")

NAME, DEPTH = 500, 20  # characters of a name, records within records: at most
LARGEST = 1e50  # of a number, more than float32 can hold; fourth powers of such can be added up
VALIDATIONS = 100_000  # of a history

SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no file can hold
#: Control characters, what begins a line, and what turns the direction of a line's rest.
BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def identify(config: Mapping[str, Any]) -> str:
    """The cell's id: a hash of what determines its numbers, and of nothing that is only said of it."""
    identity = {key: config[key] for key in ("model", "precision", "device", "protocol_version")}
    identity["train"] = training_identity(config["train"])
    method = config["method"]
    identity["method"] = {
        key: method[key] for key in ("name", "config", "schedule", "kl_term", "revision") if key in method
    }
    identity["data"] = config["dataset"]["fingerprint"]
    identity["seed"] = [config["base_seed"], config["seed"]]
    return short_hash(identity)


def problem(config: Any, result: Any = None, evaluation: Any = None) -> str | None:
    """Why these are not the records of one cell, in one line that begins with a file's name; None where they are.

    They are the contents of ``config.json``, ``result.json`` and ``evaluation.json``, of the last two None where there
    is none. Whatever they are, nothing is raised.
    """
    for file, record in (("config.json", config), ("result.json", result), ("evaluation.json", evaluation)):
        if record is not None or file == "config.json":
            if wrong := flaw(file, record, config["cell_id"] if file != "config.json" else None):
                return f"{file} {wrong}"
    if config["protocol_version"] == PROTOCOL_VERSION and config["cell_id"] != identify(config):
        return "config.json is not what its cell_id was made of"
    return None


def flaw(file: str, record: Any, cell_id: str | None = None) -> str | None:
    """Why this is not the content of that one file, of the cell ``cell_id`` if it is known; None where it is."""
    if not isinstance(record, dict):
        return "is not a record of a cell"
    version = record.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return "was written by a newer version of the harness"
    kind = {"config.json": CONFIG, "result.json": RESULT, "evaluation.json": EVALUATION}[file]
    if wrong := unplain(record) or unlike(record, kind):
        return wrong
    return None if record["cell_id"] == (cell_id or record["cell_id"]) else f"is of another cell, {record['cell_id']}"


def problem_of_texts(texts: Any) -> str | None:
    """Why this is not the content of a ``texts.json``, after that name; None where it is."""
    return unplain(texts) or unlike(texts, TEXTS)


def problem_of_history(lines: Sequence[Any]) -> str | None:
    """Why these lines are not those of a ``history.jsonl``, after that name; None where they are."""
    if len(lines) > VALIDATIONS:
        return f"has more than {VALIDATIONS:,} validations"
    return next((wrong for line in lines if (wrong := unplain(line) or unlike(line, VALIDATION))), None)


def unplain(value: Any, depth: int = 0) -> str | None:
    """What is wrong with JSON whatever it says: depth, numbers that none can reckon with, text that none can write."""
    if isinstance(value, str):
        return None if value.isascii() or not SURROGATE.search(value) else "holds half a character (a surrogate)"
    if isinstance(value, (int, float)):
        return None if -LARGEST <= value <= LARGEST else "holds a number that is not finite, or beyond 1e50"
    if isinstance(value, (dict, list)):
        if depth == DEPTH:
            return f"is nested more than {DEPTH} deep"
        for each in value if isinstance(value, list) else (*value, *value.values()):
            if wrong := unplain(each, depth + 1):
                return wrong
    return None


def unlike(value: Any, kind: Any, *where: str) -> str | None:
    """What is wrong with a value that should be of a kind; ``where`` in its record it is, key by key."""
    if isinstance(kind, Maybe):
        return None if value is None else unlike(value, kind.kind, *where)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return _not("a list", where)
        return next((wrong for each in value if (wrong := unlike(each, kind[0], *where))), None)
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return _not("a record", where)
        if missing := next((key for key in kind if key[-1] not in "?*" and key not in value), None):
            return f"lacks '{'.'.join((*where, missing))}'"
        for key, each in value.items():
            its = kind.get(key) or kind.get(f"{key}?") or kind.get("*", anything)
            if its is not anything and (wrong := unlike(each, its, *where, key)):
                return wrong
        return None
    return None if kind(value) else _not(kind.__doc__.rstrip("."), where)


def _not(wanted: str, where: Sequence[str]) -> str:
    place = ascii(".".join(where))[1:-1][:NAME]
    return f"has something else than {wanted} as '{place}'" if where else "is not a record of a cell"


# ---- kinds of single values; what each says of itself ends up in messages


def integer(value: Any) -> bool:
    """a whole number."""
    return type(value) is int and abs(value) < 2**63


def count(value: Any) -> bool:
    """a whole number from 0."""
    return integer(value) and value >= 0


def positive(value: Any) -> bool:
    """a whole number from 1."""
    return integer(value) and value > 0


def threads(value: Any) -> bool:
    """a count of threads."""
    return integer(value) and 0 < value <= 4096


def real(value: Any) -> bool:
    """a number."""
    return type(value) in (int, float)


def number(value: Any) -> bool:
    """a number or null."""
    return real(value) or value is None


def metric(value: Any) -> bool:
    """a number, true, false or null."""
    return number(value) or truth(value)


def truth(value: Any) -> bool:
    """true or false."""
    return type(value) is bool


def share(value: Any) -> bool:
    """a share."""
    return real(value) and 0 <= value <= 1


def text(value: Any) -> bool:
    """text."""
    return type(value) is str


def label(value: Any) -> bool:
    """a name of one line."""
    return type(value) is str and 0 < len(value) <= NAME and not BREAKING.search(value)


def ending(value: Any) -> bool:
    """how training ended."""
    return type(value) is str and value in STATUSES


def anything(value: Any) -> bool:
    """JSON."""
    return True


@dataclass(frozen=True)
class Maybe:
    """What may be null."""

    kind: Any


# ---- the records: key -> kind; a key with a question mark need not be there, "*" are all others; [kind] is a list

PROVENANCE: dict[str, Any] = {
    **{"commit?": Maybe(text), "command?": Maybe(text), "started?": Maybe(text), "threads?": threads},
    **{"versions?": Maybe({"*": anything}), "machine?": Maybe({"*": anything})},
}
METHOD: dict[str, Any] = {
    **{"name": label, "expression": label, "label?": label, "order": real, "baseline?": truth},
    **{
        "config": {"*": anything},
        "schedule": {"name": label},
        "kl_term?": {"name": label},
        "revision?": positive,
        "footnotes?": {"*": text},
        "notes?": [text],
    },
    **{"summary?": text, "citation?": text, "about?": text, "family?": text},
}
DATASET: dict[str, Any] = {
    **{"name": label, "title": label, "modality": label, "unit": label, "fingerprint": label, "source": text},
    **{"sizes": {"train": count, "val": count, "test": count}, "shape": [count], "notes?": [text]},
}
CONFIG: dict[str, Any] = {
    **{"schema_version": positive, "cell_id": label, "protocol_version": positive},
    **{"method": METHOD, "dataset": DATASET, "preset": label, "preset_notes?": [text], "precision": label},
    **{"device": label, "model": {"*": anything}, "train": {"epochs?": positive, "max_encoder_updates?": number}},
    **{"seed": count, "base_seed": integer},
}
RESULT: dict[str, Any] = {
    **{"schema_version": positive, "cell_id": label, "status": ending, "shared?": positive},
    **{"reason?": Maybe(text), "evaluation_failure?": {"reason": text}, "provenance?": Maybe(PROVENANCE)},
    **{f"{name}?": number for name in ("updates", "encoder_updates", "best_update", "train_seconds", "flops")},
}
JUDGED: dict[str, Any] = {"test_examples?": Maybe(positive), "iw_samples?": positive, "batch_size?": positive}
METRICS: dict[str, Any] = {"nll": number, "n?": positive, "collapsed?": Maybe(truth), "*": metric}
EVALUATION: dict[str, Any] = {
    **{"schema_version": positive, "cell_id": label, "version": positive, "settings": JUDGED, "metrics": METRICS},
    **{"groups?": {"*": {"settings": {"*": anything}}}, "references?": {"*": real}, "pending?": {"*": {"*": anything}}},
    "provenance?": Maybe(PROVENANCE),
}
VALIDATION: dict[str, Any] = {"phase?": label, "*": metric}

SAID: dict[str, Any] = {"greedy": text, "beam": text, "ancestral": text}
TEXTS: dict[str, Any] = {
    "samples": [text],
    "reconstructions?": [{"original": text, **SAID}],
    "interpolations?": [{"start": text, "end": text, "steps": [{"share": share, **SAID}]}],
}
