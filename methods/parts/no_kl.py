"""Base class of methods whose loss has no KL term."""

from collections.abc import Sequence

from bench.method import Method, Phase


class NoKLMethod(Method):
    """Without a KL term in the loss there is no ELBO to select by: weights are selected by the loss on validation."""

    incompatible_with = {"schedule": "it has no KL term for a weight to multiply", "kl_term": "it has no KL term"}
    footnotes = dict.fromkeys(("iw_nll", "elbo", "kl"), "its loss is not an ELBO")

    def phases(self) -> Sequence[Phase]:
        return (Phase(selection_metric="loss"),)
