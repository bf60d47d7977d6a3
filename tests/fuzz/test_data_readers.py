"""Files of others: whatever is in them, they are read or refused in one line, in bounds of time and memory.

Of chardata.mat the parser has a process of its own, which takes half a second to start. Most inputs here share one
such process, under the same limits, which is started again after a crash; fewer go all the way.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bench.datasets import Prepared, _folder, _mat, cached, cached_as, omniglot, yahoo, yelp
from bench.errors import UserError
from tests.fuzz.inputs import FAST, MEMORY, SLOW, apart, survey

SPLITS = ("train", "val", "test")
PUBLISHED = {"yahoo": yahoo, "yelp": yelp}
Read = Callable[[bytes], object]


def small_omniglot(folder: Path) -> Path:
    """OMNIGLOT of a few drawings in this process, and the folder for its files."""
    omniglot.LAKE_COUNTS = dict.fromkeys(omniglot.LAKE_COUNTS, 3)
    omniglot.LAKE_SIZES = {"train": 3, "val": 1, "test": 2}
    omniglot.BURDA_COUNTS, omniglot.BURDA_VALIDATION = (5, 2), 2
    (folder / "data" / "omniglot").mkdir(parents=True)
    return folder / "data" / "omniglot"


def at(path: Path, read: Callable[[], object]) -> Read:
    """Reading what is written to ``path``. One folder is the cache throughout, with all that earlier inputs left."""

    def write_and_read(content: bytes) -> None:
        path.write_bytes(content)
        read()

    return write_and_read


def zipped(members: dict[str, bytes], **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png(ink: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(~ink).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


def npy(shape: object, descr: str = "<f8", content: bytes = b"", version: int = 1) -> bytes:
    """An array file with whatever its header says."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return (
        b"\x93NUMPY" + bytes((version, 0)) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + content
    )


def npz(**arrays: bytes) -> bytes:
    return zipped({f"{name}.npy": content for name, content in arrays.items()})


# ---- the readers


def lake(stem: str, folder: Path) -> tuple[bytes, Read]:
    data = small_omniglot(folder)
    rng = np.random.default_rng(0)
    archives = {
        each: zipped({f"{each}/A/character0{n}/000{n}_01.png": png(rng.random((105, 105)) < 0.1) for n in range(3)})
        for each in omniglot.LAKE_COUNTS
    }
    for each, content in archives.items():
        (data / f"{each}.zip").write_bytes(content)
    return archives[stem], at(data / f"{stem}.zip", lambda: omniglot.prepare(folder / "data", folder / "cache"))


def images_background(folder: Path) -> tuple[bytes, Read]:
    return lake("images_background", folder)


def images_evaluation(folder: Path) -> tuple[bytes, Read]:
    return lake("images_evaluation", folder)


def chardata(folder: Path) -> tuple[bytes, Read]:
    """All the way, with a process for each input."""
    data, rng = small_omniglot(folder), np.random.default_rng(1)
    mat = {"data": rng.random((784, 5)).round(1), "testdata": rng.random((784, 2)).round(1)}
    mat |= {"target": np.eye(4)[:, :2].repeat(3, 1)[:, :5], "testtarget": np.eye(4)[:, :2]}
    buffer = io.BytesIO()
    savemat(buffer, mat, do_compression=True)
    return buffer.getvalue(), at(data / "chardata.mat", lambda: omniglot.prepare(folder / "data", folder / "cache"))


def chardata_uncompressed(folder: Path) -> tuple[bytes, Read]:
    """The same, where mutations reach the arrays and their headers, with one process for many inputs."""
    valid, read = chardata(folder)
    buffer = io.BytesIO()
    savemat(buffer, _mat.parsed(valid, ("data", "testdata", "target", "testtarget")))
    parser = Parser()
    _mat.loaded = parser
    return buffer.getvalue(), read


class Parser:
    """``_mat.loaded`` with one process for many files; a crash of it is to the caller what it always is."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        self.pipe, other = Pipe()
        self.process = get_context("spawn").Process(target=parse, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def __call__(self, content: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
        self.pipe.send((content, names))
        try:
            answer = self.pipe.recv() if self.pipe.poll(_mat.SECONDS) else TimeoutError()
        except EOFError as error:
            self._start()
            raise subprocess.SubprocessError from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def parse(pipe: Connection) -> None:
    """Answer with the arrays of each file that comes, or with why there are none."""
    _mat.limit()
    while True:
        content, names = pipe.recv()
        try:
            pipe.send(_mat.parsed(content, names))
        except Exception as error:
            pipe.send(ValueError(repr(error)))


def images(folder: Path) -> tuple[bytes, Read]:
    rng = np.random.default_rng(2)
    arrays = {split: rng.random((3, 6, 6)).round(1) for split in SPLITS}
    arrays |= {f"{split}_labels": np.array(["a", "b", "a"]) for split in SPLITS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path = folder / "images.npz"
    return buffer.getvalue(), at(path, lambda: _folder.prepare(path, folder / "cache"))


def stored_images(folder: Path) -> tuple[bytes, Read]:
    """Without compression and checksums, so that mutations reach the arrays and their headers."""
    valid, read = images(folder)
    with np.load(io.BytesIO(valid)) as file:
        arrays = {name: file[name] for name in file.files}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)

    def read_unchecked(content: bytes) -> None:
        with patch.object(zipfile.ZipExtFile, "_update_crc", lambda self, content: None):
            read(content)

    return buffer.getvalue(), read_unchecked


def text(folder: Path, texts: dict[str, str], split: str, read: Callable[[], object]) -> tuple[bytes, Read]:
    folder.mkdir(parents=True)
    for name, content in texts.items():
        (folder / f"{name}.txt").write_text(content, "utf-8")
    return texts[split].encode(), at(folder / f"{split}.txt", read)


PLAIN = {
    "train": "the cat sat\nthe dog _UNK on the cat, Ĝis revido 你好\na <unk> cat\n" * 5,
    "val": "a dog flew\n",
    "test": "the <unk>\ncat cat\n",
}
LABELLED = {"train": "5\tgood food\n1\tbad _UNK\n" * 5, "val": "3\tfood\n", "test": "1\tbad\n2\tfood , good\n"}


def plain_text(folder: Path) -> tuple[bytes, Read]:
    path = folder / "mine"
    return text(path, PLAIN, "train", lambda: _folder.prepare(path, folder / "cache"))


def labelled_text(folder: Path) -> tuple[bytes, Read]:
    path = folder / "mine"
    return text(path, LABELLED, "test", lambda: _folder.prepare(path, folder / "cache"))


def yahoo_files(folder: Path) -> tuple[bytes, Read]:
    return text(folder / "data" / "yahoo", PLAIN, "test", lambda: yahoo.prepare(folder / "data", folder / "cache"))


def yelp_files(folder: Path) -> tuple[bytes, Read]:
    return text(folder / "data" / "yelp", LABELLED, "train", lambda: yelp.prepare(folder / "data", folder / "cache"))


def prepared(folder: Path) -> Prepared:
    fields = {"name": "toy", "title": "toy", "modality": "image", "unit": "nats per image", "source": "here"}
    arrays = {split: np.eye(4, dtype=np.float32)[None].repeat(3, 0) for split in SPLITS}
    arrays |= {f"{split}_labels": np.arange(3) for split in SPLITS} | {"label_names": np.array(["a", "b", "c"])}
    return cached(folder / "cache", "toy", lambda: (fields | {"shape": (4, 4)}, arrays))


def cached_arrays(folder: Path) -> tuple[bytes, Read]:
    from bench.config import ImageModelConfig
    from bench.data import load

    toy = prepared(folder)
    return toy.path.read_bytes(), at(toy.path, lambda: load(toy, ImageModelConfig(image_size=4)))


def cached_record(folder: Path) -> tuple[bytes, Read]:
    """What may be done with the record of a prepared set: find it, build it again, read it. Only the last may fail."""
    toy = prepared(folder)
    path = toy.path.with_suffix(".json")
    valid = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        cached_as(toy.info.fingerprint, folder / "cache")
        assert prepared(folder).info.sizes
        path.write_bytes(content)
        Prepared.read(toy.path)

    return valid, read


# ---- what each must survive beside the mutations

HUGE = npy((1 << 40,))
ARRAYS = [
    npz(train=HUGE, val=HUGE, test=HUGE),
    npz(train=npy((1 << 62, 1 << 62)), val=HUGE, test=HUGE),
    npz(train=npy((-1, 6, 6)), val=HUGE, test=HUGE),
    npz(train=npy((0, 6, 6)), val=HUGE, test=HUGE),
    npz(**dict.fromkeys(SPLITS, npy((1 << 40, 1, 1), "<U0"))),
    npz(**dict.fromkeys(SPLITS, npy((1 << 40,), "|V0"))),
    npz(**dict.fromkeys(SPLITS, npy((1,), "|O", b"cos\nsystem\n(S'touch /tmp/x'\ntR."))),
    npz(**dict.fromkeys(SPLITS, npy((2, 2, 2), "[('a', '<f4')]", bytes(64)))),
    npz(**dict.fromkeys(SPLITS, npy("(" * 2000))),
    npz(**dict.fromkeys(SPLITS, npy((1, 2, 2), content=bytes(32), version=9))),
    npz(
        **dict.fromkeys(SPLITS, npy((1, 2, 2), content=bytes(32))),
        **{f"{split}_labels": npy((1,), "<U1", b"\xff\xff\xff\x7f") for split in SPLITS},
    ),
    npz(
        **dict.fromkeys(SPLITS, npy((1, 2, 2), content=bytes(32))),
        **{f"{split}_labels": npy((1,), "<U1", b"\x00\xd8\x00\x00") for split in SPLITS},
    ),
    npz(**dict.fromkeys(SPLITS, npy((1, 1 << 14, 1 << 12), "|u1", bytes(1 << 26)))),  # unpacks to 1,000 times its size
    npz(**dict.fromkeys(SPLITS, b"")),
    npz(**{"../../outside": npy((1, 2, 2), content=bytes(32))}),
]
DRAWINGS = [
    zipped({f"images_background/A/character01/{n:04}_01.png": png(np.zeros((105, 105), bool)) for n in range(400)}),
    zipped({f"images_background/A/character01/000{n}_01.png": png(np.zeros((2000, 2000), bool)) for n in range(3)}),
    zipped({f"images_background/A/character01/000{n}_01.png": bytes(1 << 26) for n in range(3)}),
    zipped({f"images_background/../../character0{n}/../../0001_01.png": b"x" for n in range(3)}),
    zipped({f"/images_background/A/character0{n}/0001_01.png": b"x" for n in range(3)}),
]
TEXTS = [
    b"a" * 5_000_000,
    b"a " * 2_500_000,
    b"a\t" * 2_500_000,
    b"a\n" * 100_000 + b"b " * 500 + b"\n" + b"c\n" * 300_000,  # padded, a gigabyte
    b"\t\n" * 1000,
    b"\xef\xbb\xbf" * 1000,
    "\u2028\u0085\x1c\x0b\x0c".encode() * 100,
    "\ud800".encode("utf-8", "surrogatepass"),
    " ".join(f"w{n}" for n in range(400)).encode(),
    b"x" * 300 + b"\ty\n",
]
RECORDS = [b'{"name": 1}', b'{"shape": [[]], "notes": [{}]}', b"1" * 10_000, b'{"a":' * 5000 + b"1" + b"}" * 5000]
READERS = {
    images_background: DRAWINGS,
    images_evaluation: (),
    chardata_uncompressed: (),
    plain_text: TEXTS,
    labelled_text: TEXTS,
    yahoo_files: TEXTS,
    yelp_files: TEXTS,
    images: ARRAYS,
    stored_images: ARRAYS,
    cached_arrays: ARRAYS,
    cached_record: RECORDS,
}
WHOLE = 10  # of so many inputs of chardata.mat one goes all the way


@pytest.fixture(scope="module")
def process():
    with apart() as process:
        yield process


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives(reader, process, tmp_path):
    tally = survey(reader, FAST, tmp_path, extra=READERS[reader], process=process)
    assert tally.read + tally.refused == FAST and tally.refused


def test_the_reader_of_chardata_survives_all_the_way(tmp_path):
    assert survey(chardata, FAST // WHOLE, tmp_path).refused


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives_much(reader, tmp_path):
    tally = survey(reader, SLOW, tmp_path, seed=1, extra=READERS[reader])
    assert tally.read and tally.refused > SLOW // 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_reader_of_chardata_survives_much_all_the_way(tmp_path):
    tally = survey(chardata, SLOW // WHOLE, tmp_path, seed=1)
    assert tally.read and tally.refused


# ---- files too large for mutations


def bomb(columns: int) -> bytes:
    """A compressed MATLAB file of zeros ``[784, columns]``."""
    size = 8 * 784 * columns
    matrix = struct.pack("<6I2iHH4s2I", 6, 8, 6, 0, 5, 8, 784, columns, 1, 4, b"data", 9, size)
    packer = zlib.compressobj(1)
    parts = [packer.compress(struct.pack("<2I", 14, len(matrix) + size) + matrix)]
    parts += [packer.compress(bytes(8 * 784 * 1000)) for _ in range(columns // 1000)]
    packed = b"".join([*parts, packer.flush()])
    buffer = io.BytesIO()
    savemat(buffer, {})
    return buffer.getvalue()[:128] + struct.pack("<2I", 15, len(packed)) + packed


@pytest.mark.parametrize("columns", [5_000, 160_000])
def test_a_small_chardata_that_unpacks_to_much(columns, tmp_path):
    content = bomb(columns)
    assert len(content) < 8_000_000
    if columns == 5_000:  # the bomb is one: what is refused of the larger is its size
        assert _mat.parsed(content, ["data"])["data"].shape == (784, 5_000)
    assert survey(chardata, 1, tmp_path, extra=[content]).refused == 1
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10 < MEMORY  # of the parser's process among others


def test_documents_that_would_be_padded_to_gigabytes(tmp_path):
    short = "a\n" * 600_000 + "b " * 500 + "\n"
    for name, content in {"train": short, "val": "a\n", "test": "a\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    with pytest.raises(UserError, match=r"train.txt is too large: by line 600,001 it has 2 different words"):
        _folder.prepare(tmp_path, tmp_path / "cache")


def test_large_files_are_refused_unread(tmp_path):
    for name in SPLITS:
        (tmp_path / f"{name}.txt").touch()
    os.truncate(tmp_path / "val.txt", 1 << 40)  # a hole of a terabyte
    with pytest.raises(
        UserError, match=r"cannot read .*val.txt: it has 1,099,511,627,776 bytes, more than 134,217,728"
    ):
        _folder.prepare(tmp_path, tmp_path / "cache")
    os.truncate(tmp_path / "val.txt", 0)
    (tmp_path / "images.npz").touch()
    os.truncate(tmp_path / "images.npz", 1 << 40)
    with pytest.raises(UserError, match="cannot read .*images.npz: it has 1,099"):
        _folder.prepare(tmp_path / "images.npz", tmp_path / "cache")


# ---- what is no file at all

PLACES = {
    "omniglot/chardata.mat": lambda folder: omniglot.prepare(folder, folder / "cache"),
    "omniglot/images_evaluation.zip": lambda folder: omniglot.prepare(folder, folder / "cache"),
    "yelp/test.txt": lambda folder: yelp.prepare(folder, folder / "cache"),
    "mine/train.txt": lambda folder: _folder.prepare(folder / "mine", folder / "cache"),
    "images.npz": lambda folder: _folder.prepare(folder / "images.npz", folder / "cache"),
    "mine": lambda folder: _folder.prepare(folder / "mine", folder / "cache"),
    "cache/toy.npz": lambda folder: Prepared(prepared(folder / "other").info, folder / "cache" / "toy.npz").arrays(),
    "cache/toy.json": lambda folder: Prepared.read(folder / "cache" / "toy.npz"),
}


def put(kind: str, path: Path) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "endless device":
            path.symlink_to("/dev/zero")
        case "link to nothing":
            path.symlink_to("nowhere")
        case "link to itself":
            path.symlink_to(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "link to nothing", "link to itself"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused(place, kind, tmp_path):
    for other in ("omniglot/images_background.zip", "yelp/train.txt", "yelp/val.txt", "mine/val.txt", "mine/test.txt"):
        if Path(other).parent != Path(place):
            (tmp_path / other).parent.mkdir(exist_ok=True)
            (tmp_path / other).write_text("1\ta\n" if "yelp" in other else "a\n")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    put(kind, tmp_path / place)
    with pytest.raises(UserError) as error:
        PLACES[place](tmp_path)
    assert len(str(error.value).splitlines()) == 1 and Path(place).name in str(error.value).replace("zero", place)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "link to nothing", "link to itself"])
def test_a_cached_record_that_is_no_file_is_made_anew(kind, tmp_path):
    record = prepared(tmp_path).path.with_suffix(".json")
    record.unlink()
    put(kind, record)
    if kind == "folder":  # not for us to remove
        with pytest.raises(UserError, match="cannot write to the data cache"):
            prepared(tmp_path)
    else:
        assert prepared(tmp_path) == Prepared.read(record.with_suffix(".npz"))
    assert cached_as("0" * 64, tmp_path / "cache") is None
