"""Files of a cell: JSON comes back as it went, and a file is the old one or the new one whatever happens."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.files import StorageError, dumps, read_json, replace, write_json
from tests.conftest import steady

RECORDS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    ),
    max_size=4,
)


def finite(value):
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@steady
@given(RECORDS)
def test_a_record_comes_back_with_null_for_what_is_not_finite(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "record.json"
    write_json(path, record)
    assert read_json(path) == finite(record) == json.loads(dumps(record), parse_constant=pytest.fail)


@steady
@given(
    st.none() | st.binary(max_size=20),
    st.lists(st.binary(max_size=20), max_size=4),
    st.sampled_from((None, ValueError, KeyError, MemoryError, OSError, KeyboardInterrupt, SystemExit)),
)
def test_a_file_is_the_old_one_or_the_new_one(tmp_path_factory, old, pieces, error):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "file"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        for piece in pieces:
            file.write(piece)
        if error:
            raise error("within")

    if error:
        with pytest.raises(StorageError if error is OSError else error):
            replace(path, write)
    else:
        replace(path, write)
    now = path.read_bytes() if path.exists() else None
    assert now == (old if error else b"".join(pieces))
    assert {each.name for each in folder.iterdir()} <= {"file"}  # nothing half-written stays
