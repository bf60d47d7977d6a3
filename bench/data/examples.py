"""Examples given from Python as model inputs, checked and converted by the rules for the user's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from bench.core.config import ImageModelConfig, TextModelConfig
from bench.core.errors import UserError, error_summary
from bench.data.corpus import document_words, encode
from bench.data.dataset import END, PAD, START, DataInfo
from bench.data.image import TEST_STREAM, binarise, intensities, pool
from bench.data.text import truncate
from bench.data.user_data import image_values, pad_to_square
from bench.data.user_vectors import vector_values

Examples: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray] | Sequence[str]"

WORD_IDS = "word ids are rows '<s> w1 … wn </s>', padded with 0: whole numbers [N, T]"


def image_inputs(images: Examples, model: ImageModelConfig, channels: int = 1) -> Tensor:
    """Return images as float32 ``[N, C, size, size]`` on the CPU: 0 or 1, or 8-bit values if the model is for those.

    ``images``: what an ``.npz`` file of the user may hold. Larger images are padded and pooled like the data set, and
    grey ones binarised like its test images: with a fixed seed, by their position.
    """
    array = as_array(images, "images")
    if array.dtype.kind == "U":
        raise UserError("this model takes images [N, H, W], not texts")
    means, size = pad_to_square(image_values(array, "images")), model.image_size
    if (side := means.shape[-1]) < size:
        raise UserError(f"images: {side}×{side} pixels, the model takes {size}×{size}; give that size or a larger one")
    if (given := means.shape[1] if means.ndim == 4 else 1) != channels:
        raise UserError(f"images: {given} channels, the model takes {channels}; give images of that kind")
    if model.values == "intensity":
        return torch.from_numpy(intensities(means, size))
    return torch.from_numpy(binarise(pool(means, size, model.pooling), TEST_STREAM)).unsqueeze(1)


def vector_inputs(vectors: Examples, info: DataInfo) -> Tensor:
    """Return vectors as float32 ``[N, D]``, on the CPU. ``vectors``: what an ``.npz`` file of the user may hold."""
    array = as_array(vectors, "vectors")
    if array.dtype.kind == "U" or array.ndim != 2 or array.shape[1:] != info.shape:
        raise UserError(f"vectors: {array.dtype} {array.shape}; this model takes vectors [N, {info.shape[0]}]")
    _, values = vector_values(array, "vectors")
    most = 1 if info.values == "binary" else np.inf
    if info.values != "real" and ((values != values.round()) | (values < 0) | (values > most)).any():
        raise UserError(f"vectors: values that are not {info.values} values; give those of the data set's kind")
    return torch.from_numpy(values)


def text_inputs(
    sentences: Examples, model: TextModelConfig, size: int, vocabulary: Callable[[], Sequence[str]]
) -> Tensor:
    """Return sentences as word ids, int64 ``[N, T]``, on the CPU, truncated like the data set.

    ``sentences``: strings of words separated by spaces, as in the user's files, or rows of word ids below ``size``, the
    data set's number of words. ``vocabulary`` returns the model's words; it is not called for rows of ids.
    """
    texts = _strings(sentences)
    if texts is None:
        rows = _check_ids(as_array(sentences, "sentences"), size)
    else:
        documents = [_words(text, number) for number, text in enumerate(texts)]
        ids = {word: position for position, word in enumerate(vocabulary())}
        rows = encode(documents, ids, max(map(len, documents)) + 2)
    rows = truncate(rows, model.vocabulary, model.words)
    return torch.from_numpy(rows[:, : (rows != PAD).sum(axis=1).max()].astype(np.int64))


def as_array(values: object, where: str) -> np.ndarray:
    """Return a tensor on any device, an array, or a sequence of either as an array; errors begin with ``where``."""
    try:
        if isinstance(values, (list, tuple)) and any(isinstance(value, Tensor) for value in values):
            return np.stack([as_array(value, where) for value in values])
        if not isinstance(values, Tensor):
            return np.asarray(values)
        tensor = values.detach().cpu().to_dense().resolve_conj().resolve_neg()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: not an array ({error_summary(error)}); give a tensor or an array") from error


def _strings(sentences: Examples) -> list[str] | None:
    """Return the sentences as a list of strings, or None if they are not strings."""
    if isinstance(sentences, Tensor) or (isinstance(sentences, np.ndarray) and sentences.dtype.kind not in "OTU"):
        return None
    if isinstance(sentences, str) or not isinstance(sentences, Iterable) or getattr(sentences, "ndim", 1) == 0:
        raise UserError("sentences: give a list of strings, also for one sentence")
    items = [*sentences]
    strings = [item for item in items if isinstance(item, str)]
    if strings and len(strings) < len(items):
        raise UserError("sentences: strings among other values; give strings only")
    return strings or None


def _words(text: str, number: int) -> list[str]:
    try:
        if "\t" in text or "\n" in text.strip():
            raise ValueError("a tab or line break; give every document without label as a string of its own")
        return document_words(text)
    except ValueError as error:
        raise UserError(f"sentences, number {number}: {error}") from error


def _check_ids(rows: np.ndarray, size: int) -> np.ndarray:
    """Return rows of word ids as int32."""
    if rows.dtype.kind not in "iu" or rows.ndim != 2 or rows.size == 0:
        raise UserError(f"sentences: {rows.dtype} {rows.shape}; give a list of strings, or word ids; {WORD_IDS}")
    if rows.min() < 0 or rows.max() >= size:
        raise UserError(f"sentences: word ids from {rows.min()} to {rows.max()}, not from 0 to {size - 1}")
    lengths = (rows != PAD).sum(axis=1)
    last = np.arange(rows.shape[1]) == lengths[:, None] - 1
    padded = ((rows == PAD) == (np.arange(rows.shape[1]) >= lengths[:, None])).all(axis=1)
    framed = (rows[:, 0] == START) & ((rows == START).sum(axis=1) == 1) & ((rows == END) == last).all(axis=1)
    wrong = ~(padded & framed & (lengths >= 3))
    if wrong.any():
        raise UserError(f"sentences, number {wrong.argmax()}: {WORD_IDS}")
    return rows.astype(np.int32)
