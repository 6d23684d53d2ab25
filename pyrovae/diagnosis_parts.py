"""What a diagnosis computes: each part answers one question, with numbers and their meaning, and figures."""

import math
from functools import cached_property

import torch
from torch import Tensor

from pyrovae import diagnostic_plots as plots
from pyrovae import diagnostics, evaluation, known
from pyrovae.diagnostics.gaps import Mean
from pyrovae.drawn import Drawn
from pyrovae.encoders import FullRankNormal
from pyrovae.rng import isolated
from pyrovae.runs import Run
from pyrovae.section import Number, Section
from pyrovae.supports import describe

__all__ = ["Parts", "counts"]

# How many data, drawn at random, of what takes longest.
_ANNEALED, _SIMULATED, _GAPS, _SOME, _MANY = 50, 50, 100, 500, 2000
_CHAINS, _TEMPERATURES = 16, 500
_PICTURES = 8
_MOST = 10_000  # of training data, and of test data, of what takes no time


def counts(num_data: int) -> dict[str, int]:
    """How many data are used for what, of so many test data."""
    most = {"annealed": _ANNEALED, "gaps": _GAPS, "some": _SOME, "many": _MANY, "pictures": _PICTURES}
    return {name: min(count, num_data) for name, count in most.items()} | {"simulated": _SIMULATED}


class Parts:
    """What is computed for each section, by the part's name, and what the verdict uses of it."""

    def __init__(self, run: Run, num_samples: int) -> None:
        self.run, self.vae, self.num_samples, self.seed = run, run.vae, num_samples, run.options.seed
        generator = torch.Generator().manual_seed(self.seed)
        test, train = run.dataset.test, run.dataset.train
        # Data may be sorted, so that the first of them are like none of the others.
        self.order = {
            name: torch.randperm(len(x), generator=generator)[:_MOST] for name, x in (("test", test), ("train", train))
        }
        self.x = test[self.order["test"]]
        self.train = (train.draw(generator) if isinstance(train, Drawn) else train)[self.order["train"]]
        self.found = diagnostics.Findings()

    @cached_property
    def exact(self) -> Tensor | None:
        """log p(x) of test data, if there is an exact answer."""
        return known.log_likelihood(self.vae, self.x[: max(_ANNEALED, _GAPS)])

    @cached_property
    def scores(self) -> evaluation.Scores:
        """The ELBO and log p(x) of test data."""
        return evaluation.scores(self.vae, self.x[:_ANNEALED], self.num_samples, self.seed)

    def importance(self, s: Section) -> None:
        """The ELBO, importance sampling, and the exact answer if there is one."""
        bound, estimate = self.scores
        s.numbers["ELBO"] = _mean(
            bound.value, bound.std_error, "E_q[log p(x | z)] - KL(q(z | x) || p(z)), nats a datum"
        )
        meaning = f"{self.num_samples} draws of q(z | x) for each datum; a lower bound on average"
        s.numbers["log p(x), importance sampling"] = _mean(estimate.value, estimate.std_error, meaning)
        if self.exact is not None:
            meaning = "in closed form, or as a sum or integral over z"
            s.numbers["log p(x), exact"] = Number(self.exact[:_ANNEALED].mean().item(), meaning)

    def annealed(self, s: Section) -> None:
        """Annealed importance sampling, beside the others."""
        x = self.x[:_ANNEALED]
        estimate = diagnostics.ais(self.vae, x, _CHAINS, _TEMPERATURES, seed=self.seed)
        meaning = f"{_CHAINS} chains from p(z) over {_TEMPERATURES} temperatures; a lower bound on average"
        s.numbers["log p(x), annealed"] = _mean(estimate.value, estimate.std_error, meaning)
        s.numbers["acceptance"] = Number(estimate.acceptance.mean().item(), "share of HMC's proposals that are taken")
        s.numbers["effective chains"] = Number(estimate.ess.mean().item(), f"of {_CHAINS}, the mean over data")
        importance = self.scores.log_likelihood
        difference, error = diagnostics.agreement(estimate, importance)
        meaning = (
            "positive: importance sampling misses a part, negative: annealing does, and more temperatures would do"
        )
        s.numbers["annealed - importance"] = missed = _mean(difference, error, meaning)
        if math.isfinite(missed.value):
            self.found = self.found._replace(missed=Mean(missed.value, missed.std_error, missed.std_error))
        estimates = {"importance sampling": importance, "annealed": estimate}
        shown = {name: (t.value.double(), t.std_error.double()) for name, t in estimates.items()}
        if self.exact is not None:
            exact = self.exact[:_ANNEALED]
            shown = {"exact": (exact, torch.zeros_like(exact)), **shown}
        s.figures["log_likelihood"] = plots.evidence(shown)

    def bidirectional(self, s: Section) -> None:
        """Bounds from both sides of simulated data."""
        bounds = diagnostics.bdmc(self.vae, _SIMULATED, _CHAINS, _TEMPERATURES, seed=self.seed)
        s.numbers["gap on simulated data"] = Number(
            bounds.gap.item(),
            "upper - lower bound on log p(x) of data drawn from the model; annealing is on average at most so far off",
            bounds.gap_std_error.item(),
        )
        s.sentences.append("Of real data the lower bounds alone are rigorous: no exact draw of p(z | x) is known.")

    def gaps(self, s: Section) -> None:
        """The approximation and the amortisation gap, of training and of test data."""
        bars, prior = {}, self.vae.prior()
        wide = FullRankNormal if describe(prior.support) == "R^D" and prior.event_shape[0] > 1 else None
        train, test = self.train[:_GAPS], self.x[:_GAPS]
        answers = known.log_likelihood(self.vae, train), None if self.exact is None else self.exact[:_GAPS]
        for name, x, exact in zip(("train", "test"), (train, test), answers, strict=True):
            found = diagnostics.gaps(self.vae, x, wide, exact, num_samples=self.num_samples, seed=self.seed)
            means = found.means()
            s.numbers[f"approximation, {name}"] = _over_data(
                means["approximation"], "log p(x) - L[q*], what the family costs"
            )
            s.numbers[f"amortisation, {name}"] = _over_data(
                means["amortisation"], "L[q*] - L[q], what one encoder for all data costs"
            )
            if "richer_approximation" in means:
                s.numbers[f"approximation of a full-rank normal, {name}"] = _over_data(
                    means["richer_approximation"], "what is left of the approximation gap in a richer family"
                )
            if not found.settled.all():
                s.sentences.append(
                    f"For {1 - found.settled.double().mean():.0%} of the {name} data the search for q* was cut short, "
                    f"which counts as approximation."
                )
            bars[name] = {part: (means[part].value, means[part].sampling_error) for part in _GAP_PARTS}
        self.found = self.found._replace(gaps=means)  # of test data
        s.figures["gaps"] = plots.gap_bars(bars)

    def weights(self, s: Section) -> None:
        """The tails of importance weights."""
        num_samples = max(self.num_samples, 1000)
        found = diagnostics.reliability(self.vae, self.x[:_SOME], num_samples, self.seed)
        for name, share in found.shares._asdict().items():
            s.numbers[f"k-hat {name.replace('_', ' ')}"] = Number(share, _K_HAT[name].format(found.threshold))
        s.numbers["effective draws"] = Number(
            found.ess.mean().item(), f"of {num_samples}; too large where k-hat is bad"
        )
        s.figures["pareto_k"] = plots.pareto_k(found.pareto_k, found.threshold)

    def ranks(self, s: Section) -> None:
        """Simulation-based calibration."""
        n, draws, bins = 1000, 199, 20
        found = diagnostics.calibration(self.vae, n, draws, bins, seed=self.seed)
        self.found = self.found._replace(calibration=found)
        d = len(found.p_value)
        s.numbers["p-value of the ranks"] = Number(
            min(d * found.p_value.min().item(), 1.0),
            f"{d} times the least of {d} dimensions; ranks are uniform if q(z | x) is p(z | x)",
        )
        rows = zip(found.levels.tolist(), found.coverage.mean(1).tolist(), found.mean_std_error.tolist(), strict=True)
        for level, coverage, error in rows:
            s.numbers[f"coverage of {level:.0%}"] = Number(coverage, "share of z in their credible intervals", error)
        spread = 2.58 * math.sqrt(n / bins * (1 - 1 / bins))  # 99 % of a binomial count, about
        s.figures["ranks"] = plots.rank_histograms(found.ranks, draws, (n / bins - spread, n / bins + spread), bins)

    def information(self, s: Section) -> None:
        """The rate and its parts."""
        found = diagnostics.information(self.vae, self.x[:_MANY], seed=self.seed)
        self.found = self.found._replace(information=found)
        for name, meaning in _INFORMATION.items():
            if (mean := getattr(found, name)) is None:
                continue
            number = _of(mean, meaning.format(f"{found.ceiling:.2f}"))
            if found.at_ceiling and name in ("aggregate_kl", "total_correlation"):
                number = Number(mean.value, f"at most so large, as so few data cannot tell: {number.meaning}")
            s.numbers[name.replace("_", " ")] = number
        s.sentences += found.notes

    def collapse(self, s: Section) -> None:
        """Which dimensions carry something."""
        x = self.x[:_MANY]
        try:
            found = diagnostics.collapse(self.vae, x)
        except ValueError:  # no KL of each dimension, but means that move or do not
            active = evaluation.active_units(self.vae, x)
            s.numbers["active units"] = Number(
                active.value, f"of {len(active.variance)}: the variance of E[z_d | x] is > 0.01"
            )
            raise
        self.found = self.found._replace(collapse=found)
        moved = found.active.variance > 0.01
        s.numbers["active units"] = Number(
            found.active.value, f"of {len(moved)}: the variance of E[z_d | x] is > 0.01 of p(z_d)'s"
        )
        for epsilon, collapsed in zip(found.epsilon.tolist(), found.collapsed.sum(1).tolist(), strict=True):
            meaning = f"KL below {epsilon:g} nats for all but {found.delta:.0%} of the data"
            s.numbers[f"collapsed dimensions, {epsilon:g}"] = Number(collapsed, meaning)
        s.figures["kl"] = plots.kl_bars(found.kl, moved)

    def beta(self, s: Section) -> None:
        """The weight of the KL that q(z | x) is adapted to."""
        x = self.train[:_SOME]
        found = diagnostics.effective_beta(self.vae, x, seed=self.seed)
        self.found = self.found._replace(beta=found)
        if math.isnan(found.value):
            s.sentences.append("z carries so little that no weight of the KL can be told from q(z | x).")
            return
        parts = f"{found.location:.2f} by its means, {found.scale:.2f} by its scales"
        s.numbers["effective beta"] = Number(
            found.value,
            f"weight of the KL for which q(z | x) is best, of {len(x)} training data: {parts}; error over data",
            found.std_error,
        )

    def prior_checks(self, s: Section) -> None:
        """Test statistics of data from the prior."""
        self.found = self.found._replace(prior_off=self._checks(s, "prior"))

    def posterior_checks(self, s: Section) -> None:
        """Test statistics of data from q(z | x)."""
        self.found = self.found._replace(posterior_off=self._checks(s, "posterior"))

    def _checks(self, s: Section, kind: str) -> list[str]:
        """The statistics that differ by much more than chance."""
        checks = diagnostics.predictive_checks(self.vae, self.x[:_SOME], kind, seed=self.seed)
        for name, check in checks.items():
            meaning = f"p-value; {check.observed:.4g} of the data, {check.replicated.mean():.4g} of the model's"
            s.numbers[f"{name}, {kind}"] = Number(check.p_value, meaning)
        s.figures[f"{kind}_checks"] = plots.replicated_statistics(
            {name: (c.observed, c.replicated, c.p_value) for name, c in checks.items() if math.isfinite(c.p_value)},
            f"Test statistics of the data, and of data sets by the {kind}",
        )
        least = {"mean": self.x[:_SOME].double().std().item(), "skewness": 1.0}  # of what may be 0
        return [name for name, c in checks.items() if c.p_value < 0.01 and _far(c, least.get(name, 0.0))]

    def samples(self, s: Section) -> None:
        """Samples of the model beside data."""
        x = self.x[:_SOME]
        with evaluation.evaluating(self.vae), isolated(self.seed, "samples"):
            new = diagnostics.replicate(self.vae, self.vae.prior().sample((len(x),))).to(x)
        test = diagnostics.two_sample(x, new, seed=self.seed)
        s.numbers["two-sample test"] = Number(test.p_value, f"p-value; MMD^2 {test.value:.3g} of test data and samples")
        other = self.train[: len(x)]
        features = diagnostics.principal_components(self.train[:_MANY], x, new, other, num_components=50)
        _, of_x, of_new, of_other = features
        name = f"of the first {of_x.shape[1]} principal components of training data, squared"
        s.numbers["Frechet distance of samples"] = Number(diagnostics.frechet_distance(of_x, of_new), name)
        s.numbers["Frechet distance of training data"] = Number(
            diagnostics.frechet_distance(of_x, of_other), f"{name}; as near as {len(x)} data can be"
        )

    def pixels(self, s: Section) -> None:
        """Means and deviations of pixels, given single data."""
        if self.x.dim() != 4 or self.x.shape[1] not in (1, 3):
            return
        x = self.x[:_PICTURES].to(next(self.vae.parameters()))
        with evaluation.evaluating(self.vae), isolated(self.seed, "pixels"):
            draws = self.vae.likelihood(self.vae.encode(x).sample((100,))).sample()
        s.figures["pixels"] = plots.pixels(x, draws.mean(0), draws.std(0))

    def labels(self, s: Section) -> None:
        """Classification by the latent means."""
        labels = self.run.dataset.labels
        if labels is None:
            s.sentences.append("The data have no labels.")
            return
        parts = ((self.train, labels.train, "train"), (self.x, labels.test, "test"))
        train, test = ((diagnostics.latent_means(self.vae, x), of[self.order[name]]) for x, of, name in parts)
        found = diagnostics.classification(train, test, seed=self.seed)
        for name, meaning in _ACCURACY.items():
            share = getattr(found, name)
            error = math.sqrt(share * (1 - share) / len(test[1]))
            s.numbers[name.replace("_", " ")] = Number(share, meaning, error)

    def factors(self, s: Section) -> None:
        """Whether dimensions tell single factors of variation."""
        if (factors := self.run.dataset.factors) is None:
            return
        means = diagnostics.latent_means(self.vae, self.x)
        found = diagnostics.disentanglement(means, factors.test[self.order["test"]])
        s.numbers["MIG"] = Number(
            found.mig, "mutual information gap, from 0 to 1: a dimension of its own tells a factor"
        )
        s.numbers["SAP"] = Number(found.sap, "separated attribute predictability, alike")

    def posteriors(self, s: Section) -> None:
        """Posteriors of one or two dimensions, drawn."""
        latent_dim = self.run.options.latent_dim
        if latent_dim > 2:
            s.sentences.append("They are drawn for one and two latent dimensions.")
            return
        x = self.x[:_PICTURES]
        found = diagnostics.posteriors(self.vae, x, num_points=2001 if latent_dim == 1 else 201, seed=self.seed)
        images = x if x.dim() == 4 and x.shape[1] in (1, 3) else None
        lines = {"q(z | x)": found.guide, "q*, its best": found.refined}
        points = {"importance-resampled": found.resampled, "HMC": found.hmc}
        if found.guide is None:
            points = {"q(z | x)": found.draws, **points}
        lines = {name: q for name, q in lines.items() if q is not None}
        cell = math.prod((nodes[1] - nodes[0]).item() for nodes in found.nodes)
        for name, q in lines.items():
            if missed := int((q.flatten(1).sum(1) * cell < 0.9).sum()):
                s.sentences.append(f"{name} is off the grid, or narrower than its spacing, for {missed} of the data.")
        s.figures["posteriors"] = plots.posteriors(found.nodes, found.truth, lines, points, images)

    def verdict(self, s: Section) -> None:
        """All of it in words."""
        name = self.run.options.objective.class_path.rpartition(".")[2]
        s.sentences = diagnostics.verdict(self.found, self.vae, name in _ELBOS)


_ELBOS = ("ELBO", "Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "JitTrace_ELBO")
_GAP_PARTS = ("approximation", "amortisation")
_K_HAT = {
    "good": "share of the data with k-hat below {:.2f}: importance sampling can be trusted",
    "bad": "from {:.2f} to 1: more draws hardly help",
    "very_bad": "above 1: the weights have no mean",
}
_INFORMATION = {
    "rate": "E KL(q(z | x) || p(z)), the sum of the next two",
    "mutual_information": "what z tells of which datum it encodes; at most log N = {}",
    "aggregate_kl": "KL(q(z) || p(z)): how far from the prior data are encoded",
    "total_correlation": "KL(q(z) || prod q(z_d)): how much dimensions depend on each other",
    "dimension_kl": "sum of KL(q(z_d) || p(z_d)): how far each dimension is from the prior",
}
_ACCURACY = {
    "linear_probe": "share of test labels told by logistic regression on the latent means; error over data",
    "nearest_neighbours": "by the five nearest latent means; error over data",
    "most_frequent": "by always telling the most frequent label; error over data",
}


def _mean(value: Tensor, std_error: Tensor, meaning: str) -> Number:
    """Of independent estimates, `(N,)` each."""
    error = std_error.double().square().sum().sqrt().item() / len(std_error)
    return Number(value.double().mean().item(), meaning, error)


def _of(mean: Mean, meaning: str) -> Number:
    return Number(mean.value, meaning, mean.std_error)


def _over_data(mean: Mean, meaning: str) -> Number:
    return Number(mean.value, meaning, mean.sampling_error)


def _far(check: diagnostics.Check, least: float) -> bool:
    """Whether T of the data is off by a quarter of its value, or of the least that counts; enough data all differ."""
    off = abs(check.observed - check.replicated.double().mean().item())
    return off > 0.25 * max(abs(check.observed), least)
