"""Studies of gradient estimates against answers on paper, sums over all states, and known laws.

`bias / bias_std_error` of an unbiased estimator has a mean square of 1; it exceeds 3.5 with a probability of 5e-4 at
most, where all of the variance lies in one direction, and that is the level of the tests here unless another is said.
"""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from scipy.stats import chi2
from torch import nn
from two_sites import PHI, THETA, TwoSites

from pyrovae import exact, gradient_draws, objectives, plotting, schedules
from pyrovae.baselines import LeaveOneOut, MovingAverage
from pyrovae.gradient_study import decoder_evaluations, gradient_study
from pyrovae.gradients import REBAR, STL, VIMCO, Concrete, DReG, Enumerate, Pathwise, ScoreFunction, Sleep, Wake

UNBIASED = 3.5

study = partial(gradient_study, progress=False)


class OneDimension(nn.Module):
    """z ~ N(a, 1), x | z ~ N(z, 1), q(z) = N(m, e^2t): mean and variance of every gradient are known."""

    def __init__(self):
        super().__init__()
        for name, value in {"a": 0.4, "m": 0.2, "t": -0.5}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        pyro.module("one", self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(self.a, 1.0)), 1.0), obs=x)

    def guide(self, x):
        pyro.module("one", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.m, self.t.exp()))

    def elbo(self, x):
        spread = (2 * self.t).exp()
        return -((self.m - self.a) ** 2 + (x - self.m) ** 2) / 2 - spread + self.t + 0.5 - math.log(2 * math.pi) / 2

    def moments(self, x, k):
        """By parameter, mean and variance of the pathwise gradient of the ELBO's mean over data by K draws.

        With z = m + s e: d/da = z - a, d/dm = x + a - 2 m - 2 s e, d/dt = (x + a - 2 m) s e - 2 s^2 e^2 + 1.
        """
        a, m, s, n = self.a.item(), self.m.item(), self.t.exp().item(), len(x) * k
        r = x.numpy() + a - 2 * m
        by_t = ((r * s) ** 2 + 8 * s**4).mean() / n
        return {"a": (m - a, s**2 / n), "m": (r.mean(), 4 * s**2 / n), "t": (1 - 2 * s**2, by_t)}

    def blocks(self):
        return {"a": [self.a], "m": [self.m], "t": [self.t], "m and t": [self.m, self.t]}


X = torch.tensor([0.3, 1.8, -0.4, 2.0], dtype=torch.float64)
ELBO = {"ELBO": (objectives.ELBO, Pathwise)}


def by(rows, **where):
    """The row of which all this is true."""
    (row,) = (row for row in rows if all(row[key] == value for key, value in where.items()))
    return row


def deviation(row):
    return row["bias"] / row["bias_std_error"]


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "snr2_per_second")} for row in rows]


# --- answers on paper ---


def test_statistics_are_those_of_the_closed_form():
    """Each within 4 standard errors, p = 6e-5."""
    one, num_draws = OneDimension(), 300
    rows = study(one, X, ELBO, [1, 5], num_draws, {"ELBO": one.elbo}, blocks=one.blocks())
    for k in (1, 5):
        moments = one.moments(X, k)
        moments["m and t"] = tuple(np.array([moments["m"], moments["t"]]).T)
        for block, (mean, variance) in moments.items():
            row, norm, total = by(rows, num_particles=k, block=block), np.linalg.norm(mean), np.sum(variance)
            snr = norm / total**0.5
            assert row["gradient_norm"] == pytest.approx(norm, rel=1e-10)
            # Of a variance from normal draws sqrt(2 / R); e^2 in d/dt makes for more, an excess kurtosis of 12 / (4 K).
            assert row["variance"] == pytest.approx(total, rel=4 * ((2 + 3 / k) / num_draws) ** 0.5)
            assert abs(row["snr"] - snr) < 4 * row["snr_std_error"]
            assert deviation(row) < UNBIASED
            assert row["bias_std_error"] == pytest.approx((row["variance"] / num_draws) ** 0.5)
            assert row["snr2_per_decoder_evaluation"] == pytest.approx(row["snr"] ** 2 / k)
            assert row["snr2_per_second"] == pytest.approx(row["snr"] ** 2 / row["seconds"])
            assert (row["decoder_evaluations"], row["num_draws"], row["reference_draws"]) == (k, num_draws, 0)
        for block in "am":  # normal, so that Var(mean / sd) = (1 + snr^2 / 2) / R, and the cosine is a sign
            row, (mean, variance) = by(rows, num_particles=k, block=block), moments[block]
            snr = abs(mean) / variance**0.5
            expected = ((1 + snr**2 / 2) / num_draws) ** 0.5
            assert 0.4 < row["snr_std_error"] / expected < 2  # of 16 groups it has a spread of 18 %
            cosine = math.erf(snr / 2**0.5)
            assert row["cosine"] == pytest.approx(cosine, abs=4 * ((1 - cosine**2) / num_draws) ** 0.5 + 1e-9)
            assert row["cosine_std_error"] == pytest.approx(((1 - row["cosine"] ** 2) / (num_draws - 1)) ** 0.5)


@pytest.mark.parametrize("known", [True, False], ids=["exact", "reference"])
def test_the_error_of_the_bias_is_as_large_as_said(known):
    """Of independent unbiased estimates by single parameters; a chi^2 test at a level of 1e-3 on either side."""
    one = OneDimension()
    blocks = {name: [getattr(one, name)] for name in "mt"}  # whose gradients are uncorrelated
    pairs, ks = {f"ELBO {i}": ELBO["ELBO"] for i in range(3 if known else 1)}, [1, 2] if known else [1, 2, 3, 4, 5, 6]
    rows = study(one, X, pairs, ks, 40, dict.fromkeys(pairs, one.elbo) if known else None, 40, blocks, seed=3)
    total = sum(deviation(row) ** 2 for row in rows)
    assert chi2.ppf(1e-3, len(rows)) < total < chi2.ppf(1 - 1e-3, len(rows))
    assert {row["reference_draws"] for row in rows} == {0 if known else 40}


def test_a_signal_that_is_not_there_is_not_seen():
    """Where E g = 0, a plug-in ratio would be about sqrt(1 / R) = 0.1; without bias it is as often 0 as not."""
    one = OneDimension()
    with torch.no_grad():
        one.a.copy_(one.m)
    pairs = {f"ELBO {i}": ELBO["ELBO"] for i in range(8)}
    rows = study(one, X, pairs, [1], 50, reference_draws=0, blocks={"a": [one.a]})
    ratios = [row["snr"] for row in rows]
    assert 0 < sum(r == 0 for r in ratios) < len(rows)  # p = 1e-3: E g^2 is below 0 in 68 % of cases
    assert max(ratios) < 4 / 50**0.5


def test_without_a_truth_there_is_no_bias_but_a_ratio():
    one = OneDimension()
    pairs = {"ours": (objectives.ELBO, None), "Pyro's": (Trace_ELBO, None)}
    rows = study(one, X, pairs | ELBO, [2], 20, {"Pyro's": one.elbo}, 0, one.blocks())
    for row in rows:
        known = row["pair"] == "Pyro's"
        assert all(math.isnan(row[key]) != known for key in ("bias", "bias_std_error", "cosine", "cosine_std_error"))
        assert math.isfinite(row["snr"])
        assert row["reference_draws"] == 0
    first = by(rows, pair="ELBO", block="m")
    assert first["gradient_norm"] == pytest.approx(first["snr"] * first["variance"] ** 0.5)


def test_without_an_unbiased_estimator_there_is_no_truth():
    class Stuck(objectives.ELBO):
        estimators = (STL,)

    one = OneDimension()
    (row,) = study(one, X, {"STL": (Stuck, STL)}, [2], 20, blocks={"m": [one.m]})
    assert math.isnan(row["bias"])
    assert math.isfinite(row["snr"])
    assert row["reference_draws"] == 0


# --- bias, where it is and where it is not ---


@pytest.fixture
def linear_gaussian():
    model = exact.LinearGaussian(2, 4, seed=1)
    model.solve_encoder()
    with torch.no_grad():
        for i, p in enumerate(model.vae.encoder.parameters()):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model, model.sample(10, seed=2)


def test_estimators_of_the_elbo_meet_the_exact_gradient(linear_gaussian):
    model, x = linear_gaussian
    pairs = {
        "Pathwise": (objectives.ELBO, Pathwise),
        "STL": (objectives.ELBO, STL),
        "Pyro's": (partial(Trace_ELBO, vectorize_particles=True), None),
        "too much KL": (partial(objectives.ELBO, beta=4.0), Pathwise),
    }
    rows = study(model.vae, x, pairs, [2], 60, dict.fromkeys(pairs, model.elbo))
    for row in rows:
        assert row["pair"] == "too much KL" or deviation(row) < UNBIASED, row
    assert deviation(by(rows, pair="too much KL", block="inference")) > 10
    norms = [by(rows, pair=pair, block="inference")["gradient_norm"] for pair in pairs]
    assert norms == pytest.approx([norms[0]] * 4)


def test_sticking_the_landing_is_too_long_for_importance_weighted_bounds(linear_gaussian):
    """DReG has the same signal and no bias; for the model's own parameters neither has any."""
    model, x = linear_gaussian
    pairs = {name.__name__: (objectives.IWAE, name) for name in (STL, DReG)}
    rows = study(model.vae, x, pairs, [16], 50)
    assert deviation(by(rows, pair="STL", block="inference")) > 10
    assert by(rows, pair="STL", block="inference")["bias"] > by(rows, pair="STL", block="inference")["gradient_norm"]
    assert deviation(by(rows, pair="DReG", block="inference")) < UNBIASED
    assert deviation(by(rows, pair="STL", block="generative")) < UNBIASED
    assert all(row["reference_draws"] == 200 for row in rows)
    pathwise = study(model.vae, x, {"Pathwise": (objectives.IWAE, Pathwise)}, [16], 50, reference_draws=0)
    worst, best = by(pathwise, block="inference"), by(rows, pair="DReG", block="inference")
    assert best["snr"] - worst["snr"] > 3 * math.hypot(best["snr_std_error"], worst["snr_std_error"])


def test_at_the_exact_posterior_the_guide_has_no_gradient_and_no_noise():
    model = exact.LinearGaussian.maximum_likelihood(exact.LinearGaussian(2, 4, seed=1).sample(300), 2)
    rows = study(model.vae, model.sample(5), {"STL": (objectives.ELBO, STL)}, [1], 5, {"STL": model.elbo})
    inference, generative = by(rows, block="inference"), by(rows, block="generative")
    assert inference["variance"] < 1e-20
    assert max(inference["bias"], inference["gradient_norm"]) < 1e-12
    assert generative["variance"] > 1e-4


def all_pairs(toy, x):
    """E[log (w_1 + w_2) / 2] of each datum, by the sum over both draws' states."""
    vae, z = toy.vae, toy.latents()[:, None]  # (2^D, 1, D)
    log_q = vae.encode(x).log_prob(z)  # (2^D, B)
    log_w = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - log_q
    states = itertools.product(range(len(z)), repeat=2)
    return sum((log_q[i] + log_q[j]).exp() * (torch.logaddexp(log_w[i], log_w[j]) - math.log(2)) for i, j in states)


def test_discrete_latents_against_sums_over_all_states():
    toy = exact.BernoulliToy(2, 3)
    x = toy.sample(20)
    pairs = {
        "Enumerate": (objectives.ELBO, Enumerate),
        "VIMCO": (objectives.ELBO, VIMCO),
        "REBAR": (objectives.ELBO, REBAR),
        "Concrete": (objectives.ELBO, partial(Concrete, 1.0)),
        "IWAE": (objectives.IWAE, VIMCO),
    }
    truths = dict.fromkeys(list(pairs)[:-1], toy.elbo) | {"IWAE": partial(all_pairs, toy)}
    rows = study(toy.vae, x, pairs, [2], 100, truths)
    for block in ("generative", "inference"):
        summed = by(rows, pair="Enumerate", block=block)
        assert (summed["variance"], summed["snr"]) == (0, math.inf)
        assert summed["bias"] < 1e-12
        assert summed["cosine"] == pytest.approx(1)
        for pair in ("VIMCO", "REBAR", "IWAE"):
            assert deviation(by(rows, pair=pair, block=block)) < UNBIASED
    assert deviation(by(rows, pair="Concrete", block="inference")) > 10
    assert len({row["gradient_norm"] for row in rows}) == 4  # two blocks of two bounds


@pytest.mark.parametrize(
    ("bound", "estimator", "k", "length"),
    [
        (objectives.ELBO, VIMCO, 2, 2),  # by enumeration
        (objectives.IWAE, partial(ScoreFunction, LeaveOneOut()), 2, 60),  # by VIMCO
        (objectives.IWAE, ScoreFunction, 1, 60),  # where VIMCO is refused
        (objectives.RWS, Wake, 2, 60),
    ],
    ids=["ELBO", "IWAE", "K = 1", "RWS"],
)
def test_the_reference_run_is_unbiased_for_discrete_latents(bound, estimator, k, length):
    toy = exact.BernoulliToy(2, 3)
    truth = toy.elbo if k == 1 or bound is objectives.ELBO else partial(all_pairs, toy)
    pairs = {"pair": (bound, estimator)}
    (row,) = (
        row
        for row in study(toy.vae, toy.sample(20), pairs, [k], 2, reference_draws=60, seed=1)
        if row["block"] == "generative"
    )
    known = study(toy.vae, toy.sample(20), pairs, [k], 2, {"pair": truth})
    error = (row["bias_std_error"] ** 2 - row["variance"] / 2) ** 0.5 if length > 2 else 1e-10
    assert abs(row["gradient_norm"] - by(known, block="generative")["gradient_norm"]) < UNBIASED * error
    assert row["reference_draws"] == length


def test_the_reference_is_steady_where_draws_can_be_reparameterised(linear_gaussian):
    """Bounds without DReG are referred to the pathwise gradient, not to a score function's; a masked site, too."""
    model, x = linear_gaussian
    for beta in (1.0, 2.0):
        pairs = {"ELBO": (partial(objectives.ELBO, beta=beta), Pathwise)}
        row = by(study(model.vae, x, pairs, [2], 10, reference_draws=10), block="inference")
        assert row["bias_std_error"] ** 2 < 3 * row["variance"] / 10
    masked = OneDimension()
    programs = {name: getattr(masked, name) for name in ("model", "guide")}
    for name, program in programs.items():
        setattr(masked, name, lambda x, program=program: pyro.poutine.mask(program, mask=x > 0)(x))
    rows = study(masked, X, {"IWAE": (objectives.IWAE, Pathwise)}, [2], 10, blocks={"a": [masked.a]})
    assert rows[0]["reference_draws"] == 40


# --- the laws of Rainforth et al. (2018) and Tucker et al. (2019) ---


def test_signal_to_noise_falls_with_k_for_the_guide_and_rises_for_the_model():
    """As K^(-1/2) and K^(1/2); with DReG the guide's rises, too. Slopes have a standard error of 0.06 at most."""
    model = exact.GaussianToy(2)
    x = model.sample(512)
    with torch.no_grad():
        model.solve(x)
        model.vae.prior.loc += 1
        model.vae.encoder.network.layers[-1].bias += 0.5
    model.perturb(0.05)
    pairs, ks = {name.__name__: (objectives.IWAE, name) for name in (Pathwise, DReG)}, [4, 16, 64]
    rows = study(model.vae, x, pairs, ks, 60, reference_draws=0)

    def slope(pair, block):
        ratios = [by(rows, pair=pair, block=block, num_particles=k)["snr"] for k in ks]
        return np.polyfit(np.log(ks), np.log(ratios), 1)[0]

    assert slope("Pathwise", "inference") == pytest.approx(-0.5, abs=0.2)
    assert slope("Pathwise", "generative") == pytest.approx(0.5, abs=0.15)
    assert slope("DReG", "inference") == pytest.approx(0.5, abs=0.15)


# --- what an estimate costs ---


def discrete():
    toy = exact.BernoulliToy(3, 4)
    return toy.vae, toy.sample(5)


def continuous():
    model = exact.LinearGaussian(2, 4)
    return model.vae, model.sample(5)


@pytest.mark.parametrize(
    ("objective", "programs", "count"),
    [
        (objectives.ELBO(1), continuous, 1),
        (objectives.ELBO(4, STL()), continuous, 4),
        (objectives.IWAE(4), continuous, 4),
        (objectives.IWAE(4, DReG()), continuous, 4),
        (objectives.MIWAE(4, 3), continuous, 12),
        (objectives.PIWAE(4, 3, DReG()), continuous, 12),
        (objectives.TMC(4), continuous, 4),
        (objectives.RWS(4, Wake()), continuous, 4),
        (objectives.RWS(4, Sleep()), continuous, 5),
        (objectives.ELBO(gradient=Enumerate()), discrete, 8),
        (objectives.ELBO(4, REBAR()), discrete, 12),
        (objectives.IWAE(4, VIMCO()), discrete, 4),
        (Trace_ELBO(num_particles=4), continuous, 4),
        (Trace_ELBO(num_particles=4, vectorize_particles=True), continuous, 4),
        (TraceGraph_ELBO(num_particles=2), discrete, 2),
    ],
    ids=lambda p: type(p).__name__ + type(getattr(p, "gradient", 0)).__name__ if not callable(p) else "",
)
def test_decoder_evaluations_are_counted(objective, programs, count):
    vae, x = programs()
    assert decoder_evaluations(objective, vae, x) == count


# --- chunks of data ---


@pytest.mark.parametrize(
    ("numbers", "sizes"), [(1, [1] * 10), (3 * 8 * 4, [3, 3, 3, 1]), (7 * 8 * 4, [5, 5]), (2**19, [10])]
)
def test_chunks_hold_no_more_than_they_may_and_do_not_change_an_exact_gradient(monkeypatch, numbers, sizes):
    """8 states of z for each datum of 4 dimensions."""
    toy, seen = exact.BernoulliToy(3, 4), []
    monkeypatch.setitem(gradient_draws._CHUNK, "cpu", numbers)
    toy.vae.encoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    rows = study(toy.vae, toy.sample(10), {"ELBO": (objectives.ELBO, Enumerate)}, [1], 2, {"ELBO": toy.elbo})
    assert all(row["bias"] < 1e-12 for row in rows)
    assert seen[-2 * len(sizes) :] == 2 * sizes


def test_chunks_leave_the_statistics_of_draws_as_they_are(monkeypatch):
    """A variance's standard error is sqrt(2 / R) = 10 %, or 14 % for d/dt."""
    one = OneDimension()
    monkeypatch.setitem(gradient_draws._CHUNK, "cpu", 2 * 3)  # two data at a time
    row = by(study(one, X, ELBO, [3], 200, {"ELBO": one.elbo}, blocks=one.blocks()), block="m")
    assert row["variance"] == pytest.approx(one.moments(X, 3)["m"][1], rel=0.4)
    assert deviation(row) < UNBIASED


@pytest.mark.parametrize(
    "bound", [partial(objectives.ELBO, free_bits=1.5, analytic_kl=True), partial(objectives.InfoVAE, alpha=0.5)]
)
def test_what_is_of_the_batch_as_a_whole_is_not_cut(monkeypatch, linear_gaussian, bound):
    model, x = linear_gaussian
    pairs = {"of the batch": (bound, None)}
    rows = [study(model.vae, x, pairs, [2], 3)]
    monkeypatch.setitem(gradient_draws._CHUNK, "cpu", 1)
    rows.append(study(model.vae, x, pairs, [2], 3))
    assert untimed(rows[0])[1]["variance"] == untimed(rows[1])[1]["variance"]


# --- what a study does not do ---


def test_nothing_is_left_changed(linear_gaussian):
    model, x = linear_gaussian
    vae, objective = model.vae, objectives.ELBO(3, ScoreFunction(MovingAverage()))
    vae.encoder.eval()
    pyro.param("other", torch.ones(2)).unconstrained().grad = torch.full((2,), 5.0)
    first = next(vae.parameters())
    first.grad = torch.full_like(first, 7.0)

    def state():
        tensors = [*vae.state_dict().values(), *objective.state_dict().values(), torch.get_rng_state()]
        grads = [p.grad for p in (*vae.parameters(), *objective.parameters(), pyro.param("other").unconstrained())]
        tensors += [g for g in grads if g is not None]
        modes = [m.training for m in vae.modules()]
        return copy.deepcopy([t for t in tensors if isinstance(t, torch.Tensor)]), modes, [g is None for g in grads]

    before, step = state(), objective.step
    store = dict(pyro.get_param_store().get_state()["params"])
    validation = torch.distributions.Distribution._validate_args, pyro.infer.util.is_validation_enabled()
    decoder_evaluations(objective, vae, x)
    shared = partial(ScoreFunction, objective.gradient.baseline)
    pairs = {"ELBO": (objectives.ELBO, shared), "Pyro's": (partial(Trace_ELBO, vectorize_particles=True), None)}
    study(vae, x, pairs, [2], 2)
    after = state()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert (before[1:], step) == (after[1:], objective.step)
    assert pyro.get_param_store().get_state()["params"].keys() == store.keys()
    assert validation == (torch.distributions.Distribution._validate_args, pyro.infer.util.is_validation_enabled())


def test_a_seed_fixes_the_rows_and_a_pair_does_not_depend_on_others():
    one = OneDimension()
    x, blocks, iwae = X, one.blocks(), {"IWAE": (objectives.IWAE, DReG)}
    alone = study(one, x, iwae, [3], 5, blocks=blocks)
    torch.rand(3)
    together = study(one, x, ELBO | iwae | {"again": iwae["IWAE"]}, [2, 3], 5, blocks=blocks)
    assert untimed(alone) == untimed([r for r in together if (r["pair"], r["num_particles"]) == ("IWAE", 3)])
    again = untimed([r for r in together if (r["pair"], r["num_particles"]) == ("again", 3)])
    assert all(a["snr"] != b["snr"] for a, b in zip(alone, again, strict=True))
    assert all(a["gradient_norm"] == b["gradient_norm"] for a, b in zip(alone, again, strict=True))  # one reference
    other = study(one, x, iwae, [3], 5, blocks=blocks, seed=1)
    assert any(a["gradient_norm"] != b["gradient_norm"] for a, b in zip(alone, other, strict=True))


def test_schedules_are_at_their_end():
    toy = exact.BernoulliToy(2, 3)
    bound = partial(objectives.ELBO, beta=schedules.Linear(steps=3, end=1.0))
    rows = study(toy.vae, toy.sample(5), {"ELBO": (bound, Enumerate)}, [1], 5, {"ELBO": toy.elbo})
    assert all(row["bias"] < 1e-12 for row in rows)


def test_programs_of_ones_own_in_float32_and_with_frozen_parameters():
    two = TwoSites().float()
    x = torch.tensor([3.0, 2.0])
    blocks = {"theta": [getattr(two, name) for name in THETA], "phi": (getattr(two, name) for name in PHI)}
    rows = study(two, x, {"IWAE": (objectives.IWAE, DReG)}, [2], 10, blocks=blocks)
    assert [row["block"] for row in rows] == ["theta", "phi"]
    assert all(isinstance(v, str | int | float) and v == v for row in rows for v in row.values())
    two.m.requires_grad_(False)
    rows = study(two, x, {"IWAE": (objectives.IWAE, DReG)}, [2], 2, blocks={"theta": [two.m, two.a]})
    alone = study(two, x, {"IWAE": (objectives.IWAE, DReG)}, [2], 2, blocks={"a": [two.a]})
    assert rows[0]["variance"] == alone[0]["variance"]
    assert not two.m.requires_grad


def test_blocks_are_told_by_the_encoder_of_a_module_of_ones_own():
    class Own(nn.Module):
        def __init__(self, vae):
            super().__init__()
            self.encoder, self.likelihood, self.model, self.guide = vae.encoder, vae.likelihood, vae.model, vae.guide

    toy = exact.LinearGaussian(2, 4)
    rows = [study(vae, toy.sample(3), ELBO, [2], 3, reference_draws=0) for vae in (toy.vae, Own(toy.vae))]
    assert [row["block"] for row in rows[0]] == ["generative", "inference"]
    assert [row["variance"] for row in rows[0]] == [row["variance"] for row in rows[1]]


def test_there_is_a_progress_bar_that_names_pair_and_k(capsys):
    one = OneDimension()
    gradient_study(one, X, ELBO, [3], 2, blocks=one.blocks())
    error = capsys.readouterr().err
    assert "ELBO, K = 3" in error
    assert "10/10" in error  # 2 draws and 8 of the reference
    study(one, X, ELBO, [3], 2, blocks=one.blocks())
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": {}}, "at least one pair"),
        ({"num_particles": []}, "at least one num_particles"),
        ({"num_draws": 1}, "num_draws must be at least 2"),
        ({"reference_draws": 1}, "0 or at least 2"),
        ({"reference_draws": -1}, "0 or at least 2"),
        ({"exact": {"EBLO": None}}, "'EBLO', which is not among the pairs: ELBO"),
        ({"blocks": {"mine": [nn.Parameter(torch.ones(1))]}}, "'mine' has a parameter that the VAE does not have"),
        ({"blocks": {"none": []}}, "'none' has no parameter that is trained"),
        ({"blocks": {}}, "VAE has no parameter that is trained"),
        ({"vae": OneDimension()}, "OneDimension has no encoder.*give blocks"),
        ({"x": torch.full((4, 4), 0.5)}, "Bernoulli"),
        ({"x": torch.ones(0, 4)}, "at least one datum"),
        ({"pairs": {"ELBO": (objectives.ELBO, STL)}}, "is not reparameterised"),
        ({"pairs": {"ELBO": (objectives.ELBO, VIMCO)}, "num_particles": [2, 1]}, "num_particles of at least 2"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    vae, x = discrete()
    given = {"vae": vae, "x": x, "pairs": {"ELBO": (objectives.ELBO, Enumerate)}, "num_particles": [1], "num_draws": 2}
    with pytest.raises(ValueError, match=message):
        study(**given | arguments)


# --- the figure ---


def rows_of(pairs=("IWAE / Pathwise", "IWAE / DReG", "CIWAE"), blocks=("inference", "generative"), ks=(1, 8, 64, 1000)):
    return [
        {"pair": pair, "block": block, "num_particles": k, "snr": 2.0**i * k**power, "snr_std_error": 0.1}
        for i, pair in enumerate(pairs)
        for block, power in zip(blocks, (-0.5, 0.5), strict=False)
        for k in ks
    ]


def curves(axes):
    """What the error bars' lines show, without the dashed ones."""
    return [line.get_xydata() for line in axes.lines if line.get_linestyle() == "-" and line.get_marker() == "o"]


def test_the_figure_shows_each_ratio_in_the_panel_of_its_block():
    rows = rows_of()
    figure = plotting.signal_to_noise(rows)
    assert [axes.get_title() for axes in figure.axes] == ["inference", "generative"]
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlabel() == "number of particles $K$"
        for pair, curve in zip(("IWAE / Pathwise", "IWAE / DReG", "CIWAE"), curves(axes), strict=True):
            shown = [row for row in rows if (row["pair"], row["block"]) == (pair, axes.get_title())]
            np.testing.assert_allclose(curve, [[row["num_particles"], row["snr"]] for row in shown])
        assert all(
            axes.get_ylim()[0] < curve[:, 1].min() and curve[:, 1].max() < axes.get_ylim()[1] for curve in curves(axes)
        )
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8", "64", "1000"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["IWAE / Pathwise", "IWAE / DReG", "CIWAE"]
    assert figure.axes[0].get_ylabel() == "signal-to-noise ratio"


def test_dashed_lines_have_the_slopes_that_they_say():
    for axes in plotting.signal_to_noise(rows_of()).axes:
        dashed = [np.log(line.get_xydata()) for line in axes.lines if line.get_linestyle() == "--"]
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in dashed]
        np.testing.assert_allclose(slopes, [0.5, -0.5])
        assert [text.get_text() for text in axes.texts] == [r"$\propto K^{1/2}$", r"$\propto K^{-1/2}$"]


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(),
        rows_of(ks=(4,)),
        rows_of(blocks=("encoder",), pairs=("a pair with a name that is longer than others",)),
        rows_of(ks=[2**i for i in range(12)]),
        [row | {"snr": 0.0, "snr_std_error": math.nan} for row in rows_of()],
        [row | {"snr": math.inf, "snr_std_error": math.nan} if row["pair"] == "CIWAE" else row for row in rows_of()],
        [row | {"snr_std_error": 2 * row["snr"]} for row in rows_of()],
    ],
    ids=["usual", "one K", "one panel", "many K", "no signal", "no noise", "large errors"],
)
def test_the_figure_can_be_read(rows):
    figure = plotting.signal_to_noise(rows)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert max(-box.x0, -box.y0, box.x1 - width, box.y1 - height) <= 0.01
    for axes in figure.axes:
        labels = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(labels))
        assert all(math.isfinite(y) for y in axes.get_ylim())
        names = [t.get_window_extent() for t in axes.texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))
        assert not any(
            t.overlaps(other.get_window_extent()) for t in names for other in figure.axes if other is not axes
        )
