"""Adapters against the libraries themselves, on small models that are collapsed or not by construction."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.errors import UserError

N = 200


def images(channels=1, size=8):
    """Images [N, C, H, W] that differ in brightness from corner to corner."""
    codes = torch.rand(N, 2, generator=torch.Generator().manual_seed(3))
    ramp = torch.linspace(0, 1, size)
    return (
        (codes[:, :1, None] * ramp[:, None] + codes[:, 1:, None] * ramp)
        .div(2)
        .unsqueeze(1)
        .expand(-1, channels, -1, -1)
    )


@pytest.mark.parametrize(("loss", "beta"), [("mse", 1.0), ("bce", 50.0)])
def test_pythae_model_that_was_trained(loss, beta):
    """With β = 1 and a large signal the model uses z, with β = 50 it collapses."""
    models = pytest.importorskip("pythae.models")
    from bench.diagnosis.adapters.pythae import diagnose

    torch.manual_seed(0)
    x = images() * (8 if loss == "mse" else 1)
    config = models.BetaVAEConfig(input_dim=(1, 8, 8), latent_dim=2, reconstruction_loss=loss, beta=beta)
    model = models.BetaVAE(config).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        optimiser.zero_grad()
        model({"data": x}).loss.backward()
        optimiser.step()
    diagnosis = diagnose(model, x, likelihood_examples=16)
    assert model.training
    assert diagnosis.status == ("not collapsed" if beta == 1 else "collapsed"), str(diagnosis)
    assert ("prior_wins" in diagnosis.causes) == (beta > 1), str(diagnosis)
    model.eval()
    with torch.no_grad():
        expected = model.get_nll(x[torch.linspace(0, N - 1, 16).round().long()], n_samples=100, batch_size=100)
    assert diagnosis.measures["iw_nll"] == pytest.approx(abs(expected), rel=0.005)


def test_pythae_model_without_gaussian_posterior_is_an_error():
    models = pytest.importorskip("pythae.models")
    from bench.diagnosis.adapters.pythae import diagnose

    with pytest.raises(UserError, match="has no Gaussian or Bernoulli decoder"):
        diagnose(models.AE(models.AEConfig(input_dim=(1, 8, 8), latent_dim=3)), images())


@pytest.mark.parametrize("dead", [False, True])
def test_diffusers(dead):
    diffusers = pytest.importorskip("diffusers")
    from bench.diagnosis.adapters.diffusers import diagnose

    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=2,
    )
    with torch.no_grad():
        model.quant_conv.weight.mul_(0 if dead else 5)
        model.quant_conv.weight[2:].zero_()
        model.quant_conv.bias.zero_()
    options = dict(scale=0.1, likelihood_examples=8) if dead else {}
    diagnosis = diagnose(model, images(3) * 2 - 1, **options)
    assert diagnosis.status == ("collapsed" if dead else "not collapsed"), str(diagnosis)
    assert diagnosis.measures["dimensions"] == 2 * 4 * 4
    assert diagnosis.measures.get("shuffle_gap", 0) == 0  # of equal posteriors with equal noise


def test_lightning_diagnoses_at_every_validation(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from bench.diagnosis.adapters.lightning import DiagnosisCallback

    class Encoder(lightning.LightningModule):
        """An encoder whose only loss is the KL: it collapses."""

        def __init__(self):
            super().__init__()
            self.mean = nn.Linear(2, 2)
            nn.init.constant_(self.mean.weight, 3.0)

        def training_step(self, batch, index):
            return 0.5 * self.mean(batch).square().sum(1).mean()

        def validation_step(self, batch, index):
            pass

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.3)

    loader = torch.utils.data.DataLoader(torch.randn(N, 2, generator=torch.Generator().manual_seed(1)), 50)
    callback = DiagnosisCallback(
        lambda module, batch: (mean := module.mean(batch), torch.zeros_like(mean)), kl_weight=lambda module: 1.0
    )
    trainer = lightning.Trainer(
        max_epochs=15, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Encoder(), loader, loader)
    assert len(callback.history["kl"]) == 15 and callback.history["kl_weight"] == [1.0] * 15
    assert callback.diagnosis.status == "collapsed" and callback.diagnosis.causes == ("prior_wins",)
    assert callback.diagnosis.measures["examples"] == N
    assert trainer.callback_metrics["diagnosis/collapsed"] == 1
    assert trainer.callback_metrics["diagnosis/kl"] == pytest.approx(callback.history["kl"][-1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("warm_up", "weight", "status"), [(400, 1.0, "not collapsed"), (1, 100.0, "collapsed")])
def test_scvi_model_that_was_trained(warm_up, weight, status):
    """Sixty epochs of a warm-up of 400, the default of the library; and a KL weight at which the model collapses."""
    scvi, anndata = pytest.importorskip("scvi"), pytest.importorskip("anndata")
    from bench.diagnosis.adapters.scvi import diagnose

    scvi.settings.seed = 0
    random = np.random.default_rng(0)
    rates = np.exp(1 + random.normal(size=(N, 2)) @ random.normal(size=(2, 30)))
    cells = anndata.AnnData(random.poisson(rates).astype("float32"))
    scvi.model.SCVI.setup_anndata(cells)
    model = scvi.model.SCVI(cells, n_latent=3, n_hidden=16, gene_likelihood="nb")
    plan = {"lr": 1e-2, "n_epochs_kl_warmup": warm_up, "max_kl_weight": weight}
    model.train(max_epochs=60, batch_size=32, accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan)
    diagnosis = diagnose(model, likelihood_examples=16)
    assert diagnosis.status == status, str(diagnosis)
    assert ("warm_up" in diagnosis.causes) == (warm_up == 400), str(diagnosis)
    means, _ = model.get_latent_representation(return_dist=True)
    assert diagnosis.measures["mean_variance"].numpy() == pytest.approx(means.var(axis=0, ddof=1), rel=1e-3)
    rows = np.linspace(0, N - 1, 16).round().astype(int)
    own = float(model.get_reconstruction_error(indices=rows)["reconstruction_loss"])  # from one sample of z
    assert diagnosis.measures["rec"] == pytest.approx(abs(own), rel=0.03)
