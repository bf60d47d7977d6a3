"""Base class of methods that adapt a weight of the loss to measurements in training."""

from torch import Tensor

from bench.method import Context, ELBOTerms, Method, State


class KLController(Method):
    """Measures a scalar of every batch and updates its state after the step.

    The loss must not depend on changes of the state within a step, because a step may compute it more than once.
    """

    STATE: tuple[str, ...] = ()  # names of the scalar tensors that a checkpoint holds
    measured: Tensor

    def measure(self, terms: ELBOTerms) -> Tensor:
        """Return the measurement, a scalar; by default the mean KL in nats."""
        return terms.kl.mean()

    def update_weight(self, measured: Tensor) -> None:
        """Update the state from the measurement of the step."""
        raise NotImplementedError

    def objective(self, ctx: Context, x: Tensor) -> Tensor:
        terms = self.elbo_terms(ctx, x)
        self.measured = self.measure(terms).detach()
        return self.loss(ctx, terms)

    def on_step_end(self, ctx: Context) -> None:
        self.update_weight(self.measured)

    def state_dict(self) -> State:
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: State) -> None:
        for name in self.STATE:
            setattr(self, name, state[name])
