"""Methods that steer a weight by what they see in training."""

from bench.method import Method


class Controlled(Method):
    """``observe(terms)`` is looked at in every step, and given to ``control`` once the step is done.

    The loss must not change what it depends on, for it may be taken more than once in a step. ``STATE`` names the
    scalar tensors that the control keeps.
    """

    STATE: tuple[str, ...] = ()

    def observe(self, terms):
        return terms.kl.mean()

    def control(self, seen):
        raise NotImplementedError

    def objective(self, ctx, x):
        terms = self.elbo_terms(ctx, x)
        self.seen = self.observe(terms).detach()
        return self.loss(ctx, terms)

    def on_step_end(self, ctx):
        self.control(self.seen)

    def state_dict(self):
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state):
        for name in self.STATE:
            setattr(self, name, state[name])
