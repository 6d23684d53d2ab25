"""Every prior with every encoder, every likelihood with every network, and all of them with all objectives.

Each combination trains and climbs, or is refused with a reason. All are made from `__all__`.
"""

import itertools
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import toys

from pyrovae import VAE, encoders, gradients, likelihoods, networks, objectives, priors

README = (Path(__file__).parent.parent / "README.md").read_text()
AXES = {
    "prior": priors.__all__,
    "likelihood": likelihoods.__all__,
    "encoder": encoders.__all__,
    "network": networks.__all__,
    "objective": objectives.__all__,
    "gradient": gradients.__all__,
}
PROGRAMS, ESTIMATION = ("prior", "likelihood", "encoder", "network"), ("objective", "gradient")
# A reason says what is wrong and, after a colon or in words, what would do.
REASON = re.compile(r"\w+.*(: (use|give|build|take|make|train|load)|, or |use (another|gradients|objectives|encoders))")


def climbs(**chosen):
    before, after = toys.improves(**chosen)
    assert after > before, (chosen, before, after)


@cache
def estimator(prior, encoder):
    """The first estimator of the ELBO that takes the encoder's draws."""
    for gradient in ("Pathwise", "ScoreFunction"):
        if (why := toys.reason(prior=prior, encoder=encoder, gradient=gradient)) is None:
            return gradient, None
    return None, why


class TestPriorsAndEncoders:
    pairs = tuple(itertools.product(priors.__all__, encoders.__all__))

    @pytest.mark.parametrize(("prior", "encoder"), pairs)
    def test_trains_or_is_refused(self, prior, encoder):
        gradient, why = estimator(prior, encoder)
        if why is None:
            climbs(prior=prior, encoder=encoder, gradient=gradient)
        else:
            assert REASON.search(why), why

    def test_refused_are_those_whose_spaces_differ_and_mixtures_of_what_cannot_score(self):
        """By the spaces as the literature has them, not as the distributions say."""
        space = {
            **dict.fromkeys(["Bernoulli"], "bits"),
            "OneHotCategorical": "one-hot",
            "RelaxedBernoulli": "cube",
            "RelaxedOneHotCategorical": "simplex",
            **dict.fromkeys(["HypersphericalUniform", "PowerSpherical"], "sphere"),
        }
        fits = {("one-hot", "bits"), ("cube", "real")}  # of a posterior, of a prior
        for prior, encoder in self.pairs:
            q, p = space.get(encoder, "real"), space.get(prior, "real")
            if prior == "VampPrior":
                runs = encoder not in ("Delta", "Planar", "Radial", "Sylvester", "SemiAmortized")
            else:
                runs = q == p or (q, p) in fits
            assert (estimator(prior, encoder)[1] is None) == runs, (prior, encoder)

    def test_the_readme_counts_them(self, capsys):
        refused = sum(estimator(*pair)[1] is not None for pair in self.pairs)
        told("prior x encoder", len(self.pairs), len(self.pairs) - refused, refused, capsys)


class TestLikelihoodsAndNetworks:
    pairs = tuple(itertools.product(likelihoods.__all__, networks.__all__))

    @pytest.mark.parametrize(("likelihood", "network"), pairs)
    def test_trains(self, likelihood, network):
        assert toys.reason(likelihood=likelihood, network=network) is None
        climbs(likelihood=likelihood, network=network)

    def test_the_readme_counts_them(self, capsys):
        told("likelihood x network", len(self.pairs), len(self.pairs), 0, capsys)


def wanted():
    """Pairs of a component of the programs and one of the estimation."""
    return [
        ((a, first), (b, second))
        for a, b in itertools.product(PROGRAMS, ESTIMATION)
        for first, second in itertools.product(AXES[a], AXES[b])
    ]


@cache
def covering():
    """Combinations that run and hold every such pair that can run, and the reasons why the others cannot."""
    used, covered, refused, chosen = Counter(), set(), {}, []
    for pair in sorted(wanted(), key=lambda pair: pair[0][0] != "encoder"):  # the longest axis leads
        if pair in covered:
            continue
        candidate, why = complete(dict(pair), used)
        if candidate is None:
            refused[pair] = why
        else:
            chosen.append(candidate)
            used.update(candidate.items())
            covered.update(((a, candidate[a]), (b, candidate[b])) for a in PROGRAMS for b in ESTIMATION)
    return chosen, refused


def complete(fixed, used):
    """A combination that holds a pair, of what was used least else; or none, and why."""

    def rarest(pairs, *axes):
        agreeing = [dict(zip(axes, pair, strict=True)) for pair in pairs]
        agreeing = [some for some in agreeing if all(fixed.get(axis, name) == name for axis, name in some.items())]
        return sorted(agreeing, key=lambda some: sum(used[item] for item in some.items()))

    why = None
    for programs in rarest(spaces_fit(), "prior", "encoder"):
        for estimation in rarest(bounds_fit(), "objective", "gradient"):
            why = obstacle(programs["encoder"], **estimation)
            for rest in rarest(decoders(), "likelihood", "network")[:2] if why is None else ():
                candidate = rest | programs | estimation
                why = toys.reason(**candidate)  # the network may have a reason, too
                if why is None:
                    return candidate, None
    return None, why


@cache
def spaces_fit():
    return [pair for pair in itertools.product(priors.__all__, encoders.__all__) if estimator(*pair)[0]]


@cache
def decoders():
    return list(itertools.product(likelihoods.__all__, networks.__all__))


@cache
def bounds_fit():
    return [pair for pair in itertools.product(objectives.__all__, gradients.__all__) if toys.target_of(*pair)[0]]


@cache
def obstacle(encoder, objective, gradient):
    """Why an objective with an estimator is not for an encoder, by a prior of the same space."""
    fitting = [p for p, e in spaces_fit() if e == encoder]
    prior = next((p for p in (encoder, "StandardNormal") if p in fitting), fitting[0])
    return toys.reason(prior=prior, encoder=encoder, objective=objective, gradient=gradient)


PARTS = 40


class TestAllAxes:
    @pytest.mark.parametrize("part", range(PARTS))
    def test_trains(self, part):
        chosen, _ = covering()
        for candidate in chosen[part::PARTS]:
            climbs(**candidate)

    def test_pairs_that_never_run_are_those_of_the_literature_and_say_why(self):
        """Written down here from what the estimators need, without asking them."""
        point, no_inverse, no_path = {"Delta"}, {"Planar", "Radial", "Sylvester"}, {"Bernoulli", "OneHotCategorical"}
        at_fixed_z = {"STL", "DReG", "VIMCO", "Covariance", "ScoreFunction", "Sleep", "Wake"}
        of_the_batch = {"BetaTCVAE", "FactorVAE", "InfoVAE", "WAE"}
        by_path = {"Pathwise", "STL", "DReG", "PIWAE", "TMC", *of_the_batch}  # these bounds have no other estimators
        factors = {"Bernoulli", "DiagonalNormal", "Laplace", "RelaxedBernoulli", "SemiAmortized"}
        never_factors = {"HypersphericalUniform", "RelaxedOneHotCategorical"}

        def impossible(axis, name, other):
            if axis in ("likelihood", "network"):
                return (name, other) == ("PerDatum", "Sleep")  # it has no rows for dreams
            if axis == "prior":
                return (
                    (other in by_path and name in no_path)
                    or (other == "REBAR" and name not in ("Bernoulli", "VampPrior"))
                    or (other == "BetaTCVAE" and name in never_factors)
                )
            return (
                (name in point | no_inverse and other in at_fixed_z | {"TMC", "RWS"})
                or (name in point and other in set(objectives.__all__) - {"ELBO", "WAE"})
                or (name not in factors and other == "BetaTCVAE")
                or (name in no_path and other in by_path)
                or (name != "Bernoulli" and other == "REBAR")
            )

        _, refused = covering()
        expected = {
            ((axis, name), (b, other)) for (axis, name), (b, other) in wanted() if impossible(axis, name, other)
        }
        assert refused.keys() == expected
        for why in refused.values():
            assert REASON.search(why), why

    def test_the_readme_counts_them(self, capsys):
        chosen, refused = covering()
        total = len(wanted())
        told("pairs with objectives and gradients", total, total - len(refused), len(refused), capsys)
        assert f"{len(chosen)} combinations" in README


def told(what, total, run, refused, capsys):
    with capsys.disabled():
        print(f"\n{what}: {total} pairs, {run} run, {refused} refused")
    assert f"| {what} | {total} | {run} | {refused} |" in README


def test_one_model_is_one_line():
    """What other libraries fuse: a VampPrior, a flow posterior and an importance weighted bound."""
    climbs(prior="VampPrior", encoder="IAF", objective="IWAE", gradient="DReG")
    assert isinstance(VAE(*toys.parts("VampPrior", "Bernoulli", "IAF")[:3]), VAE)
