"""What ``bench.diagnose`` and its command take and return: errors, forms of posteriors, text, card, figure, JSON."""

import json
import math
import re
import tomllib
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Independent, Laplace, LowRankMultivariateNormal, MultivariateNormal, Normal, Uniform
from torch.utils.data import DataLoader, TensorDataset

import bench
from bench.cli.main import main
from bench.core.errors import UserError
from bench.training import registry
from tests.diagnosis.test_verdict import Linear, channel, constant, ignores_z, joined

MEAN, LOGVAR = channel(120)
NAN = MEAN.clone()
NAN[7, 2] = float("nan")
ERRORS = {
    "no examples": ((MEAN[:0], LOGVAR[:0]), {}, "no examples: "),
    "a function of no examples": (lambda x: (x, x), {"data": MEAN[:0]}, "no examples: "),
    "one example": ((MEAN[:1], LOGVAR[:1]), {}, "1 example: "),
    "a vector": ((MEAN[0], LOGVAR[0]), {}, r"mean has shape \[4\]: write \[N, D\]"),
    "transposed": ((MEAN, LOGVAR.T), {}, r"mean has shape \[120, 4\], but logvar \[4, 120\]"),
    "NaN": ((NAN, LOGVAR), {}, "mean has 1 NaN or infinite values, the first in example 7"),
    "no dimensions": ((MEAN[:, :0], LOGVAR[:, :0]), {}, "no latent dimensions"),
    "strings": ((np.array([["a"]]), LOGVAR), {}, "mean is an array of <U1: give real numbers"),
    "variances": ((MEAN, LOGVAR + 1e3), {}, "logvar has a value of 998: give the natural logarithm"),
    "three tensors": ((MEAN, LOGVAR, MEAN), {}, "a posterior cannot be a tuple of 3: give a pair"),
    "Laplace": (Laplace(MEAN, 1.0), {}, "posteriors of type Laplace cannot be diagnosed"),
    "one posterior": (MultivariateNormal(MEAN[0], torch.eye(4).double()), {}, "MultivariateNormal of N examples"),
    "a function alone": (lambda x: x, {}, "there is no data"),
    "labels": ((MEAN, LOGVAR), {"labels": [0, 1]}, "labels have shape"),
    "prior": ((MEAN, LOGVAR), {"prior": Normal(torch.zeros(3), 1.0)}, r"the prior has shape \[3\]"),
    "prior by name": ((MEAN, LOGVAR), {"prior": "normal"}, "prior cannot be a str"),
    "likelihood alone": ((MEAN, LOGVAR), {"log_prob": print}, "log_prob needs data"),
    "other data": ((MEAN, LOGVAR), {"data": MEAN[:3]}, "data has 3 examples, the posteriors are of 120"),
    "KL weight": ((MEAN, LOGVAR), {"kl_weight": -1}, "kl_weight is -1"),
    "KL weights": ((MEAN, LOGVAR), {"kl_weight": [0.1, 1]}, r"kl_weight is \[0.1, 1\]: give one number"),
    "likelihood examples": ((MEAN, LOGVAR), {"likelihood_examples": 16.5}, "give an integer of 2 or more"),
    "labels with NaN": ((MEAN, LOGVAR), {"labels": [float("nan")] * 120}, "labels have NaN"),
    "history of strings": ((MEAN, LOGVAR), {"history": {"kl": ["a", "b"]}}, r"history\['kl'\] cannot be read"),
    "history of negative weights": (
        (MEAN, LOGVAR),
        {"history": {"kl": [1, 2], "kl_weight": [-1, 1]}},
        "negative kl_weight",
    ),
    "swapped arguments": (
        (MEAN, LOGVAR),
        {"data": torch.zeros(120, 6), "log_prob": lambda z, x: (x - z @ torch.ones(4, 6)).sum(1)},
        r"log_prob failed on \[2, 6\] .* and \[2, 4\]",
    ),
    "encoder of other data": (torch.nn.Linear(3, 8), {"data": MEAN.float()}, "the posterior failed on"),
    "NaN in the likelihood": (
        (MEAN, LOGVAR),
        {"data": torch.arange(120), "log_prob": lambda x, z: torch.where(x > 60, math.nan, z.sum(1))},
        "log_prob returned NaN: check the model's weights",
    ),
    "history": ((MEAN, LOGVAR), {"history": {"loss": [1, 2]}}, "history has no 'kl'"),
    "history of unequal lengths": (
        (MEAN, LOGVAR),
        {"history": {"kl": [1, 2], "kl_weight": [1]}},
        "2 values of kl and 1 of kl_weight",
    ),
    "summed likelihood": (
        (MEAN, LOGVAR),
        {"data": MEAN, "log_prob": lambda x, z: z.sum()},
        r"log_prob of 2 examples returned \[\]",
    ),
    "dropout": (
        (MEAN, LOGVAR),
        {"data": MEAN, "log_prob": lambda x, z: torch.nn.functional.dropout(z).sum(1)},
        "log_prob of an example is not the same in another batch: switch to model.eval",
    ),
    "batch statistics": (
        (MEAN, LOGVAR),
        {"data": MEAN, "log_prob": lambda x, z: torch.nn.functional.batch_norm(z, None, None, training=True).sum(1)},
        "switch to model.eval",
    ),
    "dropout in the encoder": (
        lambda x: (torch.nn.functional.dropout(x), x),
        {"data": MEAN},
        "the posterior of an example is not the same in another call",
    ),
    "dropout in the encoder of other data": (
        lambda texts: (torch.nn.functional.dropout(torch.ones(len(texts), 4)), torch.zeros(len(texts), 4)),
        {"data": ["a", "b"] * 60},
        "the posterior of an example is not the same in another call",
    ),
    "decoder's output of another shape": (
        (MEAN, LOGVAR),
        {"data": MEAN, "log_prob": lambda x, z: -(x - z[:, None]).square().sum((1, 2))},
        "check that the decoder's output has the shape of x",
    ),
    "loader": (torch.exp, {"data": DataLoader(TensorDataset(MEAN))}, "give the x of all examples as a tensor"),
    "batches": ([(MEAN, LOGVAR), (MEAN, LOGVAR)], {}, "join the means, and the log-variances, by torch.cat"),
    "array for a model in float64": (
        torch.nn.Linear(4, 8).double(),
        {"data": MEAN.numpy()},
        "arrays of NumPy become torch's default type",
    ),
    "prior without the posteriors' values": (
        (MEAN, LOGVAR),
        {"prior": Independent(Uniform(torch.zeros(4), 1.0), 1)},
        r"log_prob of the prior failed on .* within the support",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_is_one_line(case):
    posterior, options, message = ERRORS[case]
    with pytest.raises(UserError, match=message) as error:
        bench.diagnose(posterior, **options)
    assert "\n" not in str(error.value)


FORMS = {
    "arrays": lambda x: (MEAN.numpy(), LOGVAR.numpy()),
    "float32": lambda x: (MEAN.float(), LOGVAR.float()),
    "Normal": lambda x: Normal(MEAN, (0.5 * LOGVAR).exp()),
    "Independent": lambda x: Independent(Normal(MEAN, (0.5 * LOGVAR).exp()), 1),
    "MultivariateNormal": lambda x: MultivariateNormal(MEAN, torch.diag_embed(LOGVAR.exp())),
    "low rank": lambda x: LowRankMultivariateNormal(MEAN, torch.zeros(120, 4, 1).double(), LOGVAR.exp()),
    "object": lambda x: SimpleNamespace(mean=MEAN, logvar=LOGVAR),
    "image of codes": lambda x: (MEAN.view(120, 1, 2, 2), LOGVAR.view(120, 1, 2, 2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_posterior_gives_the_same_numbers(form):
    expected = bench.diagnose((MEAN, LOGVAR)).measures
    m = bench.diagnose(FORMS[form](None)).measures
    for name in ("mi", "kl", "au", "au_kl", "au_ratio"):
        assert m[name] == pytest.approx(expected[name], abs=1e-4)


def test_function_is_called_in_batches():
    sizes = []

    def encode(index):
        sizes.append(len(index))
        return MEAN[index % 120], LOGVAR[index % 120]

    diagnosis = bench.diagnose(encode, torch.arange(600))
    assert sizes == [256, 256, 88, 2] and diagnosis.measures["examples"] == 600


def test_function_may_take_a_whole_loader():
    loader = DataLoader(TensorDataset(MEAN, LOGVAR), 50)
    diagnosis = bench.diagnose(lambda batches: [torch.cat(parts) for parts in zip(*batches, strict=True)], loader)
    assert diagnosis.measures["kl"] == pytest.approx(bench.diagnose((MEAN, LOGVAR)).measures["kl"])


def test_likelihood_gets_latents_in_their_shape_and_type():
    def log_prob(x, z):
        assert z.shape[1:] == (1, 2, 2) and z.dtype == torch.float32
        return -(x.view_as(z) - z).square().flatten(1).sum(1)

    posterior = (MEAN.float().view(120, 1, 2, 2), LOGVAR.float().view(120, 1, 2, 2))
    diagnosis = bench.diagnose(posterior, MEAN.float(), log_prob=log_prob, likelihood_examples=8)
    assert diagnosis.status == "not collapsed" and diagnosis.measures["shuffle_gap"] > 1


def test_likelihood_without_gradient_misses_the_lag_only():
    linear = Linear()
    diagnosis = bench.diagnose(
        linear.posterior(), linear.x, log_prob=lambda x, z: linear.log_prob(x, z.detach()), likelihood_examples=8
    )
    assert "gap_amortisation" not in diagnosis.measures and "shuffle_gap" in diagnosis.measures
    assert [missing.measure for missing in diagnosis.missing][0] == "encoder lag"


def test_variances_in_place_of_logarithms_are_noticed():
    diagnosis = bench.diagnose((MEAN, LOGVAR.exp()))
    assert "variance" in diagnosis.notes[0]
    assert str(diagnosis).index("\nnote: ") < str(diagnosis).index("120 examples")
    assert not bench.diagnose((MEAN, torch.zeros_like(MEAN))).notes


def test_history_may_be_a_frame_or_hold_gradients():
    kl = [torch.tensor(value, requires_grad=True) for value in (5.0, 0.1)]
    frame = pd.DataFrame({"kl": [5.0, 0.1], "loss": [9.0, 8.0]})
    tensors, table = (bench.diagnose(constant(count=120), history=history) for history in ({"kl": kl}, frame))
    assert tensors.causes == table.causes and "prior_wins" in table.causes and "loss" in table.notes[0]


def test_state_of_torch_is_unchanged():
    before = torch.get_rng_state()
    first, second = (bench.diagnose((MEAN, LOGVAR)).to_dict() for _ in range(2))
    assert first == second and torch.equal(torch.get_rng_state(), before)


def worst_case():
    """Several causes at once, with everything measured that a text shows."""
    linear = Linear()
    return bench.diagnose(
        constant(0.7, 0.5),
        linear.x,
        log_prob=linear.log_prob,
        likelihood_examples=8,
        history={"kl": [9, 5, 0.1], "kl_weight": [0.1, 0.5, 1]},
    )


def test_text_card_and_figure(tmp_path):
    diagnosis = worst_case()
    assert diagnosis.causes == ("prior_wins", "encoder_lag", "moved_together")
    text = str(diagnosis)
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 120
    card = diagnosis._repr_html_()
    assert all(advice.title in card for advice in diagnosis.advice())
    assert not [word for word in ("<script", "<img", "<link", "//") if word in card]
    figure = diagnosis.plot()
    assert len(figure.axes) == 3 and {label.get_text() for label in figure.axes[0].get_xticklabels()} == set("0123")
    figure.savefig(tmp_path / "figure.png")


def test_card_is_escaped():
    diagnosis = bench.diagnose(joined((MEAN, LOGVAR), constant(count=120)))
    assert "&lt; 0.01" in diagnosis._repr_html_() and "< 0.01" in str(diagnosis)


def test_causes_name_methods_of_the_benchmark():
    causes = tomllib.loads(files("bench.diagnosis").joinpath("causes.toml").read_text("utf-8"))
    named = {name for cause in causes.values() for name in cause["methods"]}
    assert named <= {*registry.method_names()}
    assert all(cause["meaning"] and cause["do"] and cause["title"] for cause in causes.values())


def test_advice_quotes_published_rows():
    advice = bench.diagnose(constant(count=120), kl_weight=4.0).advice()[0]
    assert "beta_vae" in advice.methods and len(advice.methods) == len(advice.published)
    assert any(row.startswith("beta_vae(beta=0.") and ": MI " in row for row in advice.published)
    assert all(re.search(r", 0 of \d+ seeds? collapsed", row) for row in advice.published)


def test_methods_that_always_collapsed_are_not_advised():
    """Word dropout is a method against decoders that ignore z, and collapsed in every published seed."""
    advice = bench.diagnose(constant(), Linear().x, log_prob=ignores_z, likelihood_examples=8).advice()[0]
    assert advice.title == "the decoder ignores z" and "skip_vae" in advice.methods
    assert "word_dropout" not in advice.methods


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "posteriors.npz"
    np.savez(path, mean=MEAN, logvar=LOGVAR, labels=(MEAN[:, 0] > 0).numpy(), kl=[5, 4], kl_weight=[0.1, 0.2])
    return path


def test_command_prints_text_or_json(file, tmp_path, capsys):
    assert main(["diagnose", str(file)]) == 0
    assert capsys.readouterr().out.startswith("not collapsed: ")
    assert main(["diagnose", str(file), "--json", "--html", str(tmp_path / "card.html")]) == 0
    record = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert record["status"] == "not collapsed" and [cause["name"] for cause in record["causes"]] == ["warm_up"]
    assert record["measures"]["examples"] == 120 and len(record["measures"]["kl_dim"]) == 4
    assert "not collapsed" in (tmp_path / "card.html").read_text("utf-8")


def test_command_keeps_its_input_and_names_what_it_does_not_read(file, capsys):
    before = file.read_bytes()
    assert main(["diagnose", str(file), "--html", str(file)]) == 2
    assert "ends in .html" in capsys.readouterr().err and file.read_bytes() == before
    np.savez(file, mean=MEAN, logvar=LOGVAR, rec=[1.0])
    assert main(["diagnose", str(file)]) == 0
    assert capsys.readouterr().err.startswith("not read: rec ")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "no file"),
        ({}, "has no array mean and no logvar"),
        ({"mean": MEAN}, "has no array logvar, but mean"),
        ({"mean": MEAN, "logvar": LOGVAR[:3]}, "both must be [N, D]"),
        (b"text", "is not an .npz file of numbers"),
    ],
)
def test_command_reports_a_wrong_file(arrays, message, tmp_path, capsys):
    path = tmp_path / "posteriors.npz"
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    elif arrays is not None:
        np.savez(path, **arrays)
    assert main(["diagnose", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
