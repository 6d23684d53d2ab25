"""Gradient estimators: how a bound E[F(log w_1, ..., log w_K)] is differentiated by the parameters of both networks.

Value is not gradient: a bound says what number it is, an estimator how that number's gradient is had from draws. For
z_k ~ q(z | x) the exact gradient has three parts, with c_k = dF / d log w_k: by the model's parameters theta,
E[sum_k c_k d/dtheta log p(x, z_k)]; by the guide's parameters phi through z, the path; by phi at fixed z, the score.
"""

from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae import draws
from pyrovae.arguments import number
from pyrovae.baselines import Baseline, others
from pyrovae.densities import LogDensities
from pyrovae.gradient import Gradient, mean_over_groups, with_value
from pyrovae.wake_sleep import Sleep, Wake

if TYPE_CHECKING:
    from pyrovae.objective import Objective

__all__ = [
    "REBAR",
    "STL",
    "VIMCO",
    "Concrete",
    "Covariance",
    "DReG",
    "Enumerate",
    "Pathwise",
    "ScoreFunction",
    "Sleep",
    "StraightThrough",
    "Wake",
]


class Pathwise(Gradient):
    """d/dphi F(log w(z(eps, phi))), the reparameterisation gradient: differentiate through z.

    Unbiased for every objective; needs every latent site to be reparameterised.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114
        Rezende et al. (2014), Stochastic backpropagation, https://arxiv.org/abs/1401.4082

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.IWAE(num_particles=5, gradient=Pathwise())
    """

    needs = "one objective for both networks"

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution."""
        return fn.has_rsample

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        return objective.target(densities)


class STL(Gradient):
    """Sticking the landing: the pathwise gradient without the score d/dphi log q(z | x), which is 0 on average.

    Unbiased for the ELBO, unless the support of q(z | x) moves with its parameters; exactly 0 for the guide where
    q(z | x) = p(z | x). Biased for bounds that are not linear in the log-weights: there the score's weights depend on
    z, and what is left out is not 0 on average. For `IWAE` draws are weighted by w_k / sum w where `DReG` has its
    square: near the exact posterior, where all weights are about the same, the guide's gradient is about K times too
    long.

    References:
        Roeder et al. (2017), Sticking the landing, https://arxiv.org/abs/1703.09194
        Tucker et al. (2019), Doubly reparameterized gradient estimators, https://arxiv.org/abs/1810.04152

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.ELBO(gradient=STL())
    """

    needs = "a sampled log q(z | x)"

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution."""
        return fn.has_rsample and super().takes(fn)

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        return objective.target(densities.sticking())


class DReG(Gradient):
    """Doubly reparameterised: for phi, sum_k (dF/dl_k - d^2F/dl_k^2) d l_k / dz_k dz_k/dphi, with l = log w.

    The score's part of the gradient is reparameterised again, so that no score is left; theta has the gradient of F.
    Unbiased, unless the support of q(z | x) moves with its parameters. For `IWAE` weights are w_k^2 / (sum w)^2; for
    the ELBO it is `STL`; for `RWS` it is the wake gradient of phi, reparameterised.

    References:
        Tucker et al. (2019), Doubly reparameterized gradient estimators, https://arxiv.org/abs/1810.04152
        Bauer and Mnih (2021), Generalized doubly reparameterized gradient estimators,
        https://arxiv.org/abs/2101.11046

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.IWAE(num_particles=5, gradient=DReG())
    """

    needs = "a smooth function of the log-weights"
    routed = True

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution."""
        return fn.has_rsample and super().takes(fn)

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        for name, site in densities.q.items():
            if site["mask"] is not None and not torch.as_tensor(site["mask"]).all():
                raise ValueError(
                    f"guide site '{name}' is masked, and where it is there is no score to reparameterise: DReG would "
                    f"be biased, so use gradients.Pathwise"
                )
        densities = densities.sticking()
        with torch.no_grad():
            value = objective.target(densities)
            theta, phi = objective.doubly_reparameterised(densities.log_weight)
        return with_value(value, densities.split(theta, phi))


class ScoreFunction(Gradient):
    """Sum_k (F - b) d/dphi log q(z_k | x), REINFORCE, and the gradient of F at fixed z: for any q(z | x).

    Unbiased, unless the support of q(z | x) moves with its parameters.

    Args:
        baseline: b, one of `pyrovae.baselines`; without one the signal is F itself, or f_k / K for the ELBO.
        pathwise: whether sites that can be reparameterised keep their pathwise gradient, as in Pyro's `Trace_ELBO`.

    References:
        Williams (1992), Simple statistical gradient-following algorithms, https://doi.org/10.1007/BF00992696
        Mnih and Gregor (2014), Neural variational inference and learning, https://arxiv.org/abs/1402.0030

    Example:
        >>> from pyrovae import baselines, objectives
        >>> objective = objectives.ELBO(num_particles=5, gradient=ScoreFunction(baselines.LeaveOneOut()))
    """

    needs = "one objective for both networks"

    def __init__(self, baseline: Baseline | None = None, pathwise: bool = False) -> None:
        super().__init__()
        if not isinstance(baseline, Baseline | None):
            raise ValueError(f"baseline must be one such as baselines.LeaveOneOut(), not {baseline!r}")
        self.baseline, self.pathwise = baseline, pathwise

    def draws(self, first_dim: int) -> Messenger:
        """z as a constant."""
        return draws.Detached(self.pathwise)

    def check(self, objective: "Objective") -> None:
        """Refuse a single draw where there is to be a baseline from the others."""
        if self.baseline is not None and self.baseline.min_draws > objective.num_particles:
            raise ValueError(
                f"{type(self.baseline).__name__} takes its baseline from the other draws: give num_particles of at "
                f"least {self.baseline.min_draws}, or another baseline"
            )

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        terms = objective.terms(densities)  # (K, ..., B)
        bound = objective.reduce(terms)
        if not torch.is_grad_enabled():
            return mean_over_groups(bound)
        if self.baseline is None:
            signal, loss = objective.credit(terms.detach()), 0.0
        else:
            signal, loss = self.baseline(objective, terms.detach(), densities)
        scored = {z: site for z, site in densities.q.items() if not (self.pathwise and site["fn"].has_rsample)}
        if not scored:
            return mean_over_groups(with_value(bound, bound - loss))
        score = objective.grouped(sum(densities.score[z] for z in scored))
        return mean_over_groups(with_value(bound, bound + (signal * score).sum(0) - loss))


class VIMCO(Gradient):
    """Sum_k (F - F_k) d/dphi log q(z_k | x), where F_k has the mean of the other log-weights in place of the k-th.

    The score function for bounds of K draws, with a baseline for each draw from the others, which takes memory for K
    times the log-weights. For the ELBO it is `ScoreFunction` with `baselines.LeaveOneOut`.

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, https://arxiv.org/abs/1602.06725

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.IWAE(num_particles=5, gradient=VIMCO())
    """

    needs = "one objective for both networks"

    def draws(self, first_dim: int) -> Messenger:
        """z as a constant."""
        return draws.Detached()

    def check(self, objective: "Objective") -> None:
        """Refuse a single draw, which has no others."""
        if objective.num_particles < 2:
            raise ValueError("VIMCO takes its baseline from the other draws: give num_particles of at least 2")

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        terms = objective.terms(densities)  # (K, ..., B)
        bound = objective.reduce(terms)
        with torch.no_grad():
            rest = others(terms)  # (K - 1, K, ..., B)
            signal = bound - objective.reduce(torch.cat([rest, rest.mean(0, keepdim=True)]))
        score = objective.grouped(sum(densities.score.values()))
        return mean_over_groups(with_value(bound, bound + (signal * score).sum(0)))


class Enumerate(Gradient):
    """Sum_z q(z | x) (log p(x, z) - log q(z | x)), differentiated: exact for discrete z; other sites are pathwise.

    The objective's value is exact over the discrete sites, too.

    References:
        Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs,
        https://arxiv.org/abs/1902.03210

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.ELBO(gradient=Enumerate())
    """

    needs = "an expectation of one term for each draw, which the ELBO is"

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution."""
        return fn.has_rsample or draws.innermost(fn).has_enumerate_support

    def draws(self, first_dim: int) -> Messenger:
        """All values of discrete sites."""
        return draws.Enumerated(first_dim)

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        return densities.mean(objective.terms(densities))


class _Relaxation(Gradient):
    """Abstract: pathwise at draws from a Concrete distribution."""

    needs = "one objective for both networks"
    rounded: bool

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution."""
        return fn.has_rsample or isinstance(draws.innermost(fn), dist.Bernoulli | dist.OneHotCategorical)

    def draws(self, first_dim: int) -> Messenger:
        """Concrete draws, as they are or rounded."""
        return draws.Relaxed(self.temperature, self.rounded)

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        return objective.target(densities)


class Concrete(_Relaxation):
    """The pathwise gradient at Concrete draws in place of Bernoulli or one-hot ones: d/dphi F(log w(s(eps, phi))).

    Log-masses (of a mixture, each component's) are continued linearly to the inside of the cube or simplex. Biased,
    less so at low temperatures, where its variance grows. The loss is minus the value at relaxed draws; `bound` is the
    discrete model's.

    Args:
        temperature: of the relaxation.

    References:
        Maddison et al. (2017), The Concrete distribution, https://arxiv.org/abs/1611.00712
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.ELBO(gradient=Concrete(temperature=0.5))
    """

    faithful = False
    rounded = False

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__(temperature)


class StraightThrough(_Relaxation):
    """The discrete model's value at rounded Concrete draws, differentiated as if they had not been rounded: biased.

    Args:
        temperature: of the relaxation.

    References:
        Bengio et al. (2013), Estimating or propagating gradients through stochastic neurons,
        https://arxiv.org/abs/1308.3432
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.ELBO(gradient=StraightThrough(temperature=1.0))
    """

    rounded = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__(temperature)


class REBAR(Gradient):
    """(f(b) - eta f(s')) d/dphi log q(b | x) + d/dphi f(b) + eta d/dphi (f(s) - f(s')), with s, s' relaxed draws for b.

    The score function with the relaxed model as control variate: unbiased at any temperature and eta. For one site of
    Bernoulli variables; takes three values of z for each draw.

    Args:
        temperature: of the relaxation.
        eta: weight of the control variate.

    References:
        Tucker et al. (2017), REBAR, https://arxiv.org/abs/1703.07370

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.ELBO(gradient=REBAR(temperature=0.5))
    """

    needs = "an expectation of one term for each draw, which the ELBO is"
    faithful = False
    copies = 3

    def __init__(self, temperature: float = 0.5, eta: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.eta = number("temperature", temperature, above=0), number("eta", eta)

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution."""
        return isinstance(draws.innermost(fn), dist.Bernoulli)

    def draws(self, first_dim: int) -> Messenger:
        """b, s and s' from the same noise."""
        return draws.Coupled(self.temperature)

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        if len(densities.q) > 1:
            raise ValueError(
                f"REBAR is for one latent site, not for {len(densities.q)}: use gradients.ScoreFunction or "
                f"gradients.Enumerate"
            )
        f, s, s_given_b = objective.terms(densities).chunk(3)  # (K, B) each
        score = sum(densities.score.values()).chunk(3)[0]
        signal = (f - self.eta * s_given_b).detach()
        surrogate = f + signal * score + self.eta * (s - s_given_b)
        return with_value(f, surrogate).mean(0)


class Covariance(Gradient):
    """Sum_j (b_(j+1) - b_j) (E_j[d log w] + Cov_j(d log(p^b_j q^(1 - b_j)), log w)), with E_j by normalised weights.

    The gradient of `TVO` itself, for any q(z | x), where others differentiate its estimate from K draws. Its bias
    vanishes with K.

    References:
        Masrani et al. (2019), The thermodynamic variational objective, https://arxiv.org/abs/1907.00031

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.TVO(num_particles=10, gradient=Covariance())
    """

    needs = "the thermodynamic objective"

    def draws(self, first_dim: int) -> Messenger:
        """z as a constant."""
        return draws.Detached()

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        with torch.no_grad():
            value = objective.target(densities)
            weight, covariance = objective.covariance(densities.log_weight)
        score = sum(densities.score.values())
        return with_value(value, (weight * densities.log_weight + covariance * score).sum(0))
