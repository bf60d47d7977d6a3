"""Presets: the published protocol, and invalid files."""

import pytest

from bench.core.config import TextModelConfig
from bench.core.errors import UserError
from bench.experiment.presets import fit_to_images, load_preset


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


@pytest.mark.parametrize(
    ("preset", "side", "size", "note"),
    [
        ("small", 28, 14, "images pooled from 28×28 to 14×14 (any ink in a block)"),
        ("small", 105, 14, "images pooled from 105×105 to 14×14 (any ink in a block)"),
        ("small", 14, 14, None),
        ("small", 8, 8, "images of 8×8, smaller than the preset's 14×14"),
        ("paper", 28, 28, None),
        ("paper", 32, 28, "images pooled from 32×32 to 28×28 (mean of a block)"),
        ("paper", 8, 8, "images of 8×8, smaller than the preset's 28×28"),
    ],
)
def test_images_smaller_than_the_preset_keep_their_size(preset, side, size, note):
    chosen = load_preset(preset, "image")
    fitted = fit_to_images(chosen, (side, side))
    assert fitted.notes == (*chosen.notes, *([note] if note else []))
    assert fitted.model.image_size == size
    if note is None:
        assert fitted == chosen


def test_invalid_preset_files_are_refused(tmp_path, monkeypatch, subtests):
    cases = [
        ("seeds = 1", "summary: Field required"),
        ('summary = "x"\nseeds = 0', "seeds: Input should be greater than 0"),
        ('summary = "x"\nseeds = 1\n[image]\nmodels = {}', "image.models: Extra inputs"),
        ('summary = "x"\nseeds = 1\n[image.train]\nepoch = 3', "[image.train] has no setting 'epoch': did you mean"),
        ('summary = "x"\nseeds = 1\n[image.evaluation]\nais_chain = 3', "no setting 'ais_chain': did you mean"),
        ("summary", "is not a preset"),
    ]
    for text, message in cases:
        with subtests.test(message=message):
            (tmp_path / "quick.toml").write_text(text)
            monkeypatch.setattr("bench.experiment.presets.PRESETS", tmp_path)
            with pytest.raises(UserError) as error:
                load_preset("quick", "image")
            assert message in str(error.value)
