"""A diagnosis: what `diagnostics` finds of a trained run, a section for each question, each number with its meaning."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import diagnostic_plots as plots
from pyrovae import diagnostics, evaluation, known
from pyrovae.diagnostics.gaps import Mean
from pyrovae.drawn import Drawn
from pyrovae.rng import isolated
from pyrovae.runs import Run

__all__ = ["Number", "Section", "diagnose", "to_dict"]

Value = float | int | str | None

# How many data, always the first ones, of what takes longest.
_ANNEALED, _SIMULATED, _GAPS, _SOME, _MANY = 50, 50, 50, 500, 2000
_TEMPERATURES = 200
_PICTURES = 8


@dataclass(frozen=True)
class Number:
    """A number, what it means, and its standard error if it has one."""

    value: Value
    meaning: str
    std_error: float | None = None


@dataclass
class Section:
    """A question about a model, and what answers it."""

    title: str
    question: str
    references: dict[str, str] = field(default_factory=dict)  # links, by author and year
    numbers: dict[str, Number] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def diagnose(run: Run, num_samples: int = 1000) -> Iterator[Section]:
    """The sections of a diagnosis, one after the other as they are computed; the last is the verdict in words.

    What takes long is computed of the first test data (or training data, where that is said), as many as the sections
    tell. What is not for this model is left out, and its section tells why.

    Args:
        run: a trained run, as `runs.load` gives it.
        num_samples: K, draws for each datum of importance sampling.
    """
    diagnosis = _Diagnosis(run, num_samples)
    yield _protocol(run)
    for title, (question, references, *parts) in diagnosis.plan().items():
        section = Section(title, question, references)
        for part in parts:
            try:
                part(section)
            except ValueError as error:
                section.sentences.append(f"Left out: {error}.")
        yield section
    yield diagnosis.verdict()


def to_dict(sections: Sequence[Section]) -> dict[str, Any]:
    """Numbers and sentences as plain values, by title; a number that is not finite is None.

    Args:
        sections: as `diagnose` gives them.
    """

    def plain(value: Value) -> Value:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        section.title: {
            "numbers": {
                name: {"value": plain(number.value), "std_error": plain(number.std_error)}
                for name, number in section.numbers.items()
            },
            "sentences": section.sentences,
        }
        for section in sections
    }


def _protocol(run: Run) -> Section:
    vae, protocol = run.vae, run.dataset.protocol
    parts = ", ".join(type(part).__name__ for part in (vae.prior, vae.likelihood, vae.encoder))
    numbers = {"model": Number(parts, "p(z), p(x | z), q(z | x)"), "epochs": Number(len(run.history), "of training")}
    numbers |= {"seed": Number(run.options.seed, "of all that is random")}
    numbers |= {k: Number(v if isinstance(v, int | str) else str(v), "") for k, v in protocol.to_dict().items()}
    return Section("Protocol", "What was trained, and on which data is it judged?", numbers=numbers)


class _Diagnosis:
    """What is computed, and what later sections and the verdict use of it."""

    def __init__(self, run: Run, num_samples: int) -> None:
        self.run, self.vae, self.num_samples, self.seed = run, run.vae, num_samples, run.options.seed
        self.x, train = run.dataset.test, run.dataset.train
        self.train = train.draw(torch.Generator().manual_seed(self.seed)) if isinstance(train, Drawn) else train
        self.found: dict[str, Any] = {}
        self.sentences: list[str] = []

    def plan(self) -> dict[str, tuple]:
        """For each section its question, references, and parts."""
        n = len(self.x)
        return {
            "Evidence": (
                f"What is log p(x)? Of the first {min(_ANNEALED, n)} test data, and of {_SIMULATED} data drawn from "
                f"the model.",
                {
                    "Burda et al. (2016)": "https://arxiv.org/abs/1509.00519",
                    "Wu et al. (2017)": "https://arxiv.org/abs/1611.04273",
                    "Grosse et al. (2015)": "https://arxiv.org/abs/1511.02543",
                },
                self.importance,
                self.annealed,
                self.bidirectional,
            ),
            "The gap": (
                f"Is the posterior's family to blame for log p(x) - L(x), or the encoder? Of the first "
                f"{min(_GAPS, n)} training and test data.",
                {"Cremer et al. (2018)": "https://arxiv.org/abs/1801.03558"},
                self.gaps,
            ),
            "Reliability": (
                f"Can q(z | x) be trusted, datum by datum? Of the first {min(_SOME, n)} test data, and of data drawn "
                f"from the model.",
                {
                    "Vehtari et al. (2024)": "https://arxiv.org/abs/1507.02646",
                    "Talts et al. (2018)": "https://arxiv.org/abs/1804.06788",
                },
                self.weights,
                self.ranks,
            ),
            "Latent variables": (
                f"What do they carry? Of the first {min(_MANY, n)} test data.",
                {
                    "Hoffman and Johnson (2016)": "http://approximateinference.org/accepted/HoffmanJohnson2016.pdf",
                    "Chen et al. (2018)": "https://arxiv.org/abs/1802.04942",
                    "Lucas et al. (2019)": "https://arxiv.org/abs/1911.02469",
                },
                self.information,
                self.collapse,
                self.beta,
            ),
            "The model": (
                f"Are data that the model gives like the data? Of the first {min(_SOME, n)} test data and as many of "
                f"the model's.",
                {
                    "Gelman et al. (1996)": "https://www3.stat.sinica.edu.tw/statistica/oldpdf/A6n41.pdf",
                    "Gretton et al. (2012)": "https://jmlr.org/papers/v13/gretton12a.html",
                    "Heusel et al. (2017)": "https://arxiv.org/abs/1706.08500",
                },
                self.prior_checks,
                self.posterior_checks,
                self.samples,
                self.pixels,
            ),
            "Representation": (
                "What can be read off the latent means?",
                {
                    "Alain and Bengio (2017)": "https://arxiv.org/abs/1610.01644",
                    "Kumar et al. (2018)": "https://arxiv.org/abs/1711.00848",
                },
                self.labels,
                self.factors,
            ),
            "Posteriors": (
                f"How far is q(z | x) from the true posterior? Of the first {min(_PICTURES, n)} test data.",
                {"Smith and Gelfand (1992)": "https://doi.org/10.1080/00031305.1992.10475856"},
                self.posteriors,
            ),
        }

    def importance(self, s: Section) -> None:
        """The ELBO and importance sampling."""
        bound, estimate = evaluation.scores(self.vae, self.x[:_ANNEALED], self.num_samples, self.seed)
        self.found["importance"] = estimate
        s.numbers["ELBO"] = _mean(
            bound.value, bound.std_error, "E_q[log p(x | z)] - KL(q(z | x) || p(z)), nats a datum"
        )
        meaning = f"{self.num_samples} draws of q(z | x) for each datum; a lower bound on average"
        s.numbers["log p(x), importance sampling"] = _mean(estimate.value, estimate.std_error, meaning)
        if (exact := known.log_likelihood(self.vae, self.x[:_ANNEALED])) is not None:
            s.numbers["log p(x), exact"] = Number(exact.mean().item(), "in closed form, or as a sum or integral over z")
            self.found["evidence"] = {"exact": (exact, torch.zeros_like(exact))}

    def annealed(self, s: Section) -> None:
        """Annealed importance sampling, beside the other."""
        estimate = diagnostics.ais(self.vae, self.x[:_ANNEALED], num_temperatures=_TEMPERATURES, seed=self.seed)
        meaning = f"16 chains from p(z) over {_TEMPERATURES} temperatures; a lower bound on average"
        s.numbers["log p(x), annealed"] = _mean(estimate.value, estimate.std_error, meaning)
        s.numbers["acceptance"] = Number(estimate.acceptance.mean().item(), "share of HMC's proposals that are taken")
        s.numbers["effective chains"] = Number(estimate.ess.mean().item(), "of 16, the mean over data")
        importance = self.found["importance"]
        difference = diagnostics.agreement(estimate, importance)
        s.numbers["annealed - importance"] = _mean(*difference, "positive: importance sampling misses a part")
        s.figures["log_likelihood"] = plots.evidence(
            {
                **self.found.get("evidence", {}),
                "importance sampling": (importance.value.double(), importance.std_error.double()),
                "annealed": (estimate.value, estimate.std_error),
            }
        )

    def bidirectional(self, s: Section) -> None:
        """Bounds from both sides of simulated data."""
        bounds = diagnostics.bdmc(self.vae, _SIMULATED, num_temperatures=_TEMPERATURES, seed=self.seed)
        s.numbers["gap on simulated data"] = Number(
            bounds.gap.item(),
            "upper - lower bound on log p(x) of data drawn from the model; on average no lower bound is further off",
            bounds.gap_std_error.item(),
        )
        s.sentences.append("Of real data the lower bounds alone are rigorous: no exact draw of p(z | x) is known.")

    def gaps(self, s: Section) -> None:
        """The approximation and the amortisation gap, of training and of test data."""
        bars = {}
        for name, x in {"train": self.train, "test": self.x}.items():
            means = diagnostics.gaps(self.vae, x[:_GAPS], num_samples=self.num_samples, seed=self.seed).means()
            s.numbers[f"approximation, {name}"] = _of(means["approximation"], "log p(x) - L[q*], what the family costs")
            s.numbers[f"amortisation, {name}"] = _of(
                means["amortisation"], "L[q*] - L[q], what one encoder for all data costs"
            )
            if "richer_approximation" in means:
                s.numbers[f"approximation of a full-rank normal, {name}"] = _of(
                    means["richer_approximation"], "what is left of the approximation gap in a richer family"
                )
            bars[name] = {part: means[part][:2] for part in ("approximation", "amortisation")}
        self.found["gaps"] = means  # of test data
        s.figures["gaps"] = plots.gap_bars(bars)

    def weights(self, s: Section) -> None:
        """The tails of importance weights."""
        found = diagnostics.reliability(self.vae, self.x[:_SOME], max(self.num_samples, 1000), self.seed)
        self.found["bad_k_share"] = (found.pareto_k > 0.7).double().mean().item()
        for name, share in found.shares._asdict().items():
            s.numbers[f"k-hat {name.replace('_', ' ')}"] = Number(share, _K_HAT[name].format(found.threshold))
        s.numbers["effective draws"] = Number(found.ess.mean().item(), f"of {max(self.num_samples, 1000)}")
        s.figures["pareto_k"] = plots.pareto_k(found.pareto_k, found.threshold)

    def ranks(self, s: Section) -> None:
        """Simulation-based calibration."""
        n, draws, bins = 1000, 199, 20
        found = diagnostics.calibration(self.vae, n, draws, bins, seed=self.seed)
        s.numbers["least p-value of the ranks"] = Number(
            found.p_value.min().item(), f"of {len(found.p_value)} dimensions; uniform ranks if q(z | x) is p(z | x)"
        )
        rows = zip(found.levels.tolist(), found.coverage.mean(1).tolist(), found.std_error[:, 0].tolist(), strict=True)
        for level, coverage, error in rows:
            s.numbers[f"coverage of {level:.0%}"] = Number(coverage, "share of z in their credible intervals", error)
        spread = 2.58 * math.sqrt(n / bins * (1 - 1 / bins))  # 99 % of a binomial count, about
        s.figures["ranks"] = plots.rank_histograms(found.ranks, draws, (n / bins - spread, n / bins + spread), bins)

    def information(self, s: Section) -> None:
        """The rate and its parts."""
        found = self.found["information"] = diagnostics.information(self.vae, self.x[:_MANY], seed=self.seed)
        for name, meaning in _INFORMATION.items():
            if (mean := getattr(found, name)) is not None:
                s.numbers[name.replace("_", " ")] = _of(mean, meaning.format(f"{found.ceiling:.2f}"))
        s.sentences += found.notes

    def collapse(self, s: Section) -> None:
        """Which dimensions carry something."""
        found = self.found["collapse"] = diagnostics.collapse(self.vae, self.x[:_MANY])
        moved = found.active.variance > 0.01
        s.numbers["active units"] = Number(found.active.value, f"of {len(moved)}: the variance of E[z_d | x] is > 0.01")
        for epsilon, collapsed in zip(found.epsilon.tolist(), found.collapsed.sum(1).tolist(), strict=True):
            meaning = f"KL below {epsilon:g} nats for all but {found.delta:.0%} of the data"
            s.numbers[f"collapsed dimensions, {epsilon:g}"] = Number(collapsed, meaning)
        s.figures["kl"] = plots.kl_bars(found.kl, moved)

    def beta(self, s: Section) -> None:
        """The weight of the KL that q(z | x) is adapted to."""
        found = self.found["beta"] = diagnostics.effective_beta(self.vae, self.train[:_SOME], seed=self.seed)
        s.numbers["effective beta"] = Number(
            found.value, "weight of the KL for which q(z | x) is best", found.std_error
        )

    def prior_checks(self, s: Section) -> None:
        """Test statistics of data from the prior."""
        self._checks(s, "prior")

    def posterior_checks(self, s: Section) -> None:
        """Test statistics of data from q(z | x)."""
        self._checks(s, "posterior")

    def _checks(self, s: Section, kind: str) -> None:
        checks = diagnostics.predictive_checks(self.vae, self.x[:_SOME], kind, seed=self.seed)
        for name, check in checks.items():
            meaning = f"p-value; {check.observed:.4g} of the data, {check.replicated.mean():.4g} of the model's"
            s.numbers[f"{name}, {kind}"] = Number(check.p_value, meaning)
        s.figures[f"{kind}_checks"] = plots.replicated_statistics(
            {name: (c.observed, c.replicated, c.p_value) for name, c in checks.items()},
            f"Test statistics of the data, and of data sets by the {kind}",
        )
        if off := [name for name, c in checks.items() if c.p_value < 0.01 and _far(c)]:
            self.sentences.append(
                f"Data drawn by the {kind} differ from the data in {', '.join(off)}: p(x | z) may be of the wrong "
                f"kind. Try another likelihood, or a better decoder."
            )

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
        dataset = self.run.dataset
        if dataset.labels is None:
            s.sentences.append("The data have no labels.")
            return
        train, test = (diagnostics.latent_means(self.vae, x[:10_000]) for x in (self.train, self.x))
        found = diagnostics.classification(
            (train, dataset.labels.train[:10_000]), (test, dataset.labels.test[:10_000]), seed=self.seed
        )
        for name, meaning in _ACCURACY.items():
            s.numbers[name.replace("_", " ")] = Number(getattr(found, name), meaning, found.std_error)

    def factors(self, s: Section) -> None:
        """Whether dimensions tell single factors of variation."""
        if (factors := self.run.dataset.factors) is None:
            return
        found = diagnostics.disentanglement(diagnostics.latent_means(self.vae, self.x), factors.test)
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
        s.figures["posteriors"] = plots.posteriors(
            found.nodes, found.truth, {name: q for name, q in lines.items() if q is not None}, points, images
        )

    def verdict(self) -> Section:
        """All of it in words."""
        found, gaps = self.found, self.found.get("gaps", {})
        section = Section("Verdict", "What is wrong, if anything, and what to try?")
        if "information" in found:
            section.sentences += diagnostics.verdict(
                found["information"],
                found.get("collapse"),
                found.get("beta"),
                *(gaps[name].value if gaps else None for name in ("approximation", "amortisation")),
                found.get("bad_k_share"),
            )
        section.sentences += self.sentences
        section.sentences = section.sentences or ["No verdict: what it takes was left out, the sections tell why."]
        return section


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
    "linear_probe": "share of test labels told by logistic regression on the latent means",
    "nearest_neighbours": "by the five nearest latent means",
    "most_frequent": "by always telling the most frequent label",
}


def _mean(value: Tensor, std_error: Tensor, meaning: str) -> Number:
    """Of independent estimates, `(N,)` each."""
    error = std_error.double().square().sum().sqrt().item() / len(std_error)
    return Number(value.double().mean().item(), meaning, error)


def _of(mean: Mean, meaning: str) -> Number:
    return Number(mean.value, meaning, mean.std_error)


def _far(check: diagnostics.Check) -> bool:
    """Whether T of the data is off by a quarter of its value: with enough data all differ."""
    off = abs(check.observed - check.replicated.double().mean().item())
    return off > 0.25 * abs(check.observed)
