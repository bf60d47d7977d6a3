"""Text as tensors: batches by length, cut documents, references."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.data.dataset import END, PAD, START, UNKNOWN
from bench.data.tensors import apply_model_config, batches_per_pass, load
from bench.models.build import build_model
from tests.conftest import TEXT_MODEL, TEXT_TRAIN

EQUAL = replace(TEXT_TRAIN, batch_size=8, equal_lengths=True)


def test_cut_documents_need_fewer_batches_of_equal_length(text_prepared):
    sizes = replace(TEXT_MODEL, words=3)
    order = load(text_prepared, sizes).order(8, True, torch.Generator())
    batches = batches_per_pass(text_prepared, sizes, EQUAL)
    assert len(order) == batches < batches_per_pass(text_prepared, TEXT_MODEL, EQUAL)


def test_rare_words_become_unknown_and_documents_are_cut(text_prepared):
    sizes = replace(TEXT_MODEL, vocabulary=8, words=3)
    full, reduced = load(text_prepared, TEXT_MODEL), load(text_prepared, sizes)
    assert reduced.info.vocabulary == len(reduced.vocabulary) == 8
    assert reduced.train.shape[1] == reduced.info.shape[0] == 5
    for row, short in zip(full.train[:50].tolist(), reduced.train[:50].tolist(), strict=True):
        words = [word if word < 8 else UNKNOWN for word in row[1 : row.index(END)]][:3]
        assert short == [START, *words, END, *[PAD] * (3 - len(words))]
    model = build_model(sizes, apply_model_config(text_prepared.info, sizes))
    assert model.decoder.longest == 5 and model.decoder.output.out_features == 8


def test_unigram_reference_and_unit_metrics(text_prepared):
    data = load(text_prepared, TEXT_MODEL)
    words = [w for row in data.train.tolist() for w in row[1 : row.index(END) + 1]]
    counts = np.bincount(words, minlength=len(data.vocabulary)) + 0.5
    counts[:END] = 0
    log = np.log(counts / counts.sum(), where=counts > 0, out=np.zeros(len(counts)))
    test = [[w for w in row[1 : row.index(END) + 1]] for row in data.test[:15].tolist()]
    assert data.references(15) == {"unigram": pytest.approx(-np.mean([log[words].sum() for words in test]))}
    mean = np.mean([len(words) for words in test])
    expected = {"ppl": pytest.approx(math.exp(10 / mean)), "words": pytest.approx(mean), "unknown": 0.0}
    assert data.unit_metrics(10.0, 15) == expected
    reduced = load(text_prepared, replace(TEXT_MODEL, vocabulary=12))
    unknown = np.mean([word >= 12 for words in test for word in words])
    assert reduced.unit_metrics(10.0, 15)["unknown"] == pytest.approx(unknown)


def test_an_epoch_of_equal_lengths_is_one_pass(text_trainer, tmp_path):
    config = replace(TEXT_TRAIN, equal_lengths=True, epochs=1, epoch_updates=None)
    run = text_trainer("vae", tmp_path, config)
    assert run.ctx.total == run.ctx.main_batches.per_pass > len(run.data.train) // config.batch_size
    assert run.run().updates == run.ctx.total


def test_too_few_sentences_for_a_batch(text_trainer, tmp_path):
    with pytest.raises(ValueError, match="do not fill one batch"):
        text_trainer("vae", tmp_path, replace(TEXT_TRAIN, batch_size=131))
