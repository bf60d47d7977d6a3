"""Base class of methods that adapt a weight of the loss to measurements in training."""

from torch import Tensor

from bench.method import Context, ELBOTerms, Method, State


class KLController(Method):
    """Measures every training batch and updates its state after the update on it."""

    STATE: tuple[str, ...] = ()  # names of the tensors that a checkpoint holds

    def measure(self, terms: ELBOTerms) -> Tensor:
        """Return the measurement of a batch; by default the mean KL in nats, a scalar."""
        return terms.kl.mean()

    def update_weight(self, ctx: Context, measured: Tensor) -> None:
        """Update the state from the measurement of the step."""
        raise NotImplementedError

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        measured: list[Tensor] = []

        def objective() -> Tensor:
            terms = self.elbo_terms(ctx, x)
            measured.append(self.measure(terms).detach())
            return self.loss(ctx, terms)

        loss = ctx.update(objective)
        self.update_weight(ctx, measured[-1])
        return loss

    def state_dict(self) -> State:
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: State) -> None:
        for name in self.STATE:
            setattr(self, name, state[name])
