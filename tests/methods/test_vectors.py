"""Every method for vectors, trained and evaluated on real values and on counts."""

import pytest

from bench.data.tensors import load
from bench.experiment.factory import load_trained
from bench.experiment.worker import run_cell
from bench.training import registry
from tests.conftest import VECTOR_TOY, planner, tasks
from tests.methods.test_contract import Cell, check_posterior, check_records, quick

#: Methods that are trained by the default suite.
SAMPLES = [("vae", "real"), ("sa_vae", "count"), ("latent_reconstruction", "real")]
CASES = [
    pytest.param(name, values, marks=() if (name, values) in SAMPLES else pytest.mark.slow)
    for name in registry.method_names()
    for values in ("real", "count")
    if "vector" in registry.method(name).modalities
]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_trains_and_evaluates_on_vectors(name, values, vector_prepared, count_prepared, tmp_path):
    data = vector_prepared if values == "real" else count_prepared
    planned = planner(data, VECTOR_TOY, tmp_path)(quick(name))
    run_cell(tasks(data)(planned))
    result = planned.folder.result()
    assert result.status == "ok" and not result.failure, result.traceback or result.evaluation_failure.traceback
    method, model, _ = load_trained(planned.folder, planned.config)
    cell = Cell(planned, method, model, load(data, VECTOR_TOY.model))
    check_records(cell)
    check_posterior(cell)
