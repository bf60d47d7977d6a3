"""Presets that claim a published protocol."""

from bench.core.config import TextModelConfig
from bench.experiment.presets import load_preset


def test_paper_preset_for_text_is_the_published_protocol():
    preset = load_preset("paper", "text")
    assert preset.model == TextModelConfig()
    train = preset.train
    assert (train.optimiser, train.lr, train.batch_size, train.clip, train.equal_lengths) == ("sgd", 1.0, 32, 5.0, True)
    assert (train.patience, train.decay, train.decay_from, train.max_decays, train.epochs) == (2, 0.5, 15, 5, 100)
    assert train.ramp * train.epochs == 10 and train.mi_rule == "mi_batch" and preset.evaluation.iw_samples == 500
    synthetic = load_preset("paper", "text", protocol="synthetic")
    assert synthetic.model == TextModelConfig(embedding=50, hidden=50) and synthetic.train.batch_size == 16
    assert synthetic.train.lr == 1.0 and synthetic.train.equal_lengths
