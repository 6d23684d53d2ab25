"""Several processes train the model that one would, and end alike when one of them ends."""

import json
import os
import signal
import sys
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import in_step, make_data, make_vae, parameters, same
from pyro.infer import RenyiELBO
from together import scripts_together, together
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

from pyrovae import Autoencoder, baselines, fit, gradients, likelihoods, networks, objectives, options, runs
from pyrovae.checkpoint import read
from pyrovae.distributed import ProcessError, Processes, own_gpu
from pyrovae.exact import LinearGaussian
from pyrovae.interruption import Interrupted
from pyrovae.sums import require_sum

quiet = partial(fit, progress=False)
X = make_data(22).double()  # of which batches of 10 leave two: with three processes one has none of them
OPTIONS = {
    "batch_size": 10,
    "epochs": 4,
    "clip_norm": 0.5,  # below the norms, so that it is that of the sum
    "scheduler": partial(OneCycleLR, max_lr=1e-2, total_steps=12),
    "encoder_lr": 2e-3,
}


def make_point(seed=0):
    """A model whose steps draw nothing."""
    pyro.set_rng_seed(seed)
    decode, encode = networks.MLP(3, (1, 4, 4), hidden=(16,)), networks.MLP((1, 4, 4), 3, hidden=(16,))
    return Autoencoder(encode, likelihoods.Bernoulli(decode)).double()


def numbers(history):
    return torch.tensor([[v for k, v in row.items() if k != "seconds"] for row in history], dtype=torch.float64)


def seconds(history):
    return [row["seconds"] for row in history]


def keep(folder, rank, vae, history):
    torch.save((parameters(vae), list(history)), folder / f"{rank}.pt")


def kept(folder, size):
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


# One model ------------------------------------------------------------------------------------------------------------


def train_points(rank, folder):
    for name, train in {"resident": X, "streamed": TensorDataset(X)}.items():
        vae = make_point(seed=rank)  # the first one's is that of all
        history = quiet(vae, train, folder=folder / name, **OPTIONS)
        (folder / name).mkdir(exist_ok=True)
        keep(folder / name, rank, vae, history)


def test_processes_take_the_steps_of_one(tmp_path):
    """Without noise, up to rounding: with empty shares, clipped gradients, rates of learning and streamed data."""
    vae = make_point()
    history = quiet(vae, X, **OPTIONS)
    assert together(tmp_path, 3, train_points, tmp_path) == [0, 0, 0]
    for name in ("resident", "streamed"):
        found = kept(tmp_path / name, 3)
        for ps, rows in found:
            assert same(ps, found[0][0])
            assert seconds(rows) == seconds(found[0][1])  # by which all end at the same time
        for key, p in parameters(vae).items():
            torch.testing.assert_close(found[0][0][key], p, rtol=0, atol=1e-12)
        torch.testing.assert_close(numbers(found[0][1]), numbers(history), rtol=1e-12, atol=0, equal_nan=True)


class Recorded(torch.optim.SGD):
    """Keeps the gradients, and does not move."""

    def __init__(self, groups, kept):
        super().__init__(groups, lr=0.0)
        self.kept = kept

    def step(self):
        self.kept.append(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]))


def gradients_of_steps(n, x):
    """Gradients of steps on two data with noise of their own, `(n, P)`, by one process or several."""
    found = []
    pyro.set_rng_seed(0)
    vae = make_vae(latent_dim=1)
    quiet(vae, x.expand(2 * n, -1, -1, -1), batch_size=2, epochs=1, optimizer=lambda groups: Recorded(groups, found))
    return torch.stack(found).double()


def record_gradients(rank, folder, n, x):
    torch.save(gradients_of_steps(n, x), folder / f"gradients-{rank}.pt")


def test_the_gradient_has_the_same_mean_and_variance(tmp_path):
    x = make_data()[:1]  # all data are alike, so that noise that is the same would double the variance
    one = gradients_of_steps(250, x)
    assert together(tmp_path, 2, record_gradients, tmp_path, 250, x) == [0, 0]
    two = torch.load(tmp_path / "gradients-0.pt")
    assert torch.equal(two, torch.load(tmp_path / "gradients-1.pt"))
    moving = one.std(0) > 0
    z = (two.mean(0) - one.mean(0)) / ((two.var(0) + one.var(0)) / len(one)).sqrt()
    # Of P coordinates the largest |z| exceeds this with probability 0.001 at most.
    limit = dist.Normal(0.0, 1.0).icdf(1 - 0.0005 / moving.sum())
    assert z[moving].abs().max() < limit
    assert 0.75 < two.var(0).sum() / one.var(0).sum() < 1.33


def score(rank, folder):
    model = LinearGaussian(latent_dim=2, data_dim=5)
    model.solve_encoder()
    torch.manual_seed(0)
    x = model.sample(11)
    found = Processes.here().scores(model.vae, x, 1000, seed=0).log_likelihood
    assert ((found.value - model.log_likelihood(x)).abs() < 5 * found.std_error).all()
    assert all(map(torch.equal, Processes.here().same([*found]), found))
    assert Processes.here().scores(model.vae, x[:2], 50, seed=0).elbo.value.shape == (2,)


def test_data_are_scored_in_shares(tmp_path):
    assert together(tmp_path, 3, score, tmp_path) == [0, 0, 0]


# Ends -----------------------------------------------------------------------------------------------------------------


def train_interrupted(rank, folder):
    def run(name, seed=0, stop=None, **given):
        vae = make_vae(seed=seed)
        if stop:
            in_step(vae, stop, lambda: signal.raise_signal(signal.SIGTERM))
        return vae, quiet(vae, make_data(), batch_size=7, folder=folder / name, **({"epochs": 3} | given))

    whole, history = run("whole")
    with pytest.raises(Interrupted, match="stopped after 2 of 4 steps of epoch 2"):
        run("stopped", stop=6 if rank else None)  # one is told, and all stop
    vae, again = run("stopped", seed=5, resume=True)
    assert same(parameters(vae), parameters(whole))
    assert torch.equal(numbers(again), numbers(history))
    vae = make_point(seed=rank)
    quiet(vae, X, folder=folder / "fewer", **(OPTIONS | {"epochs": 2}))


def test_a_run_is_resumed_by_as_many_processes_or_another_number(tmp_path):
    """By as many bit-identical, though it draws; by another number on the same way, as one shows that draws nothing."""
    assert together(tmp_path, 2, train_interrupted, tmp_path) == [0, 0]
    one, vae = make_point(), make_point(seed=9)
    history = quiet(one, X, **OPTIONS)
    again = quiet(vae, X, folder=tmp_path / "fewer", resume=True, **OPTIONS)
    for key, p in parameters(one).items():
        torch.testing.assert_close(parameters(vae)[key], p, rtol=0, atol=1e-12)
    torch.testing.assert_close(numbers(again), numbers(history), rtol=1e-12, atol=0, equal_nan=True)


def die(rank, folder):
    vae = make_vae()
    if rank == 1:
        in_step(vae, 6, lambda: os._exit(9))
    with (folder / f"{rank}.err").open("w") as sys.stderr:
        options.command(lambda: quiet(vae, make_data(), batch_size=7, folder=folder / "run"))


def test_where_one_dies_the_others_end_with_a_sentence_and_the_checkpoint_is_whole(tmp_path):
    assert together(tmp_path, 3, die, tmp_path) == [2, 9, 2]
    line = "error: another of the 3 processes has ended, or does not answer, so all stop: a training can be resumed"
    assert (tmp_path / "0.err").read_text() == f"{line} from its last checkpoint, if it has one\n"
    assert (tmp_path / "2.err").read_text() == f"process 2: {line} from its last checkpoint, if it has one\n"
    assert len(read(tmp_path / "run" / "checkpoint.pt")["values"]["history"]) == 1


def test_torchrun_ends_with_the_cause(tmp_path, monkeypatch):
    def fail(error):
        raise error

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    for error, told in ((ProcessError("another"), "To enable"), (ValueError("no such data"), "error: no such data")):
        with pytest.raises(SystemExit):
            options.command(lambda error=error: fail(error))
        failure = ProcessFailure(0, 1, 2, str(tmp_path / "error.json"))
        assert f"traceback : {told}" in str(ChildFailedError("train.py", {0: failure}))


def skip(rank, folder):
    def fail(message):
        raise RuntimeError(message)

    vae = make_vae()
    if rank == 1:
        in_step(vae, 2, lambda: fail("a value is NaN"))
    history = quiet(vae, make_data(), batch_size=7, epochs=2, max_skips=1)
    assert history["skipped"] == [1, 0]
    keep(folder, rank, vae, history)

    vae = make_vae()
    if rank == 1:
        in_step(vae, 2, lambda: fail("of another kind"))
    with pytest.raises(RuntimeError, match="of another kind" if rank else "a step failed in another of the 2 proc"):
        quiet(vae, make_data(), batch_size=7)

    Processes.here().require_alike(make_vae())
    with pytest.raises(ProcessError, match="the models of the 2 processes are no longer the same"):
        Processes.here().require_alike(make_vae(seed=rank))

    objective = objectives.ELBO(gradient=gradients.ScoreFunction(baselines.MovingAverage()))
    with pytest.raises(ValueError, match=r"the buffer 'gradient\.baseline\.average' changes with the data of a step"):
        quiet(make_vae(), make_data(), objective=objective)


def test_what_fails_in_one_fails_in_all(tmp_path):
    assert together(tmp_path, 2, skip, tmp_path) == [0, 0]
    (ps, rows), (others, same_rows) = kept(tmp_path, 2)
    assert same(ps, others)
    assert rows == same_rows


def overflow(rank, folder):
    x, vae = make_data(22), make_vae()
    first = next(module for module in vae.encoder.modules() if isinstance(module, torch.nn.Linear))
    first.register_forward_hook(lambda _, given, out: out / (given[0] != x[-1].flatten()).any(-1, keepdim=True))
    with pytest.raises(FloatingPointError, match=r"in step 1, .*: at site 'z' \(Normal\) loc is"):
        quiet(vae, x, batch_size=22, folder=folder)


def test_the_trouble_of_one_is_told_and_kept_with_the_whole_batch(tmp_path):
    assert together(tmp_path, 3, overflow, tmp_path / "run") == [0, 0, 0]
    kept = read(tmp_path / "run" / "trouble.pt")["values"]["trouble"]
    assert torch.equal(kept["batch"][0], make_data(22)[kept["indices"]])
    assert kept["sites"][0]["statistics"]["loc"]["nan"] > 0


# What is no sum over data ---------------------------------------------------------------------------------------------


class Odd(Autoencoder):
    """With a site of all data."""

    def model(self, x):
        super().model(x)
        pyro.factor("all", -next(self.parameters()).square().sum())


class Scaled(Autoencoder):
    """A batch stands for all data."""

    def model(self, x):
        with pyro.plate("scaled", 100, subsample_size=len(x)):
            pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

    def guide(self, x):
        with pyro.plate("scaled", 100, subsample_size=len(x)):
            pyro.sample("z", self.encode(x))


def point(kind=Autoencoder, normalization=None):
    encode = networks.MLP((1, 4, 4), 3, hidden=(16,), normalization=normalization)
    return kind(encode, likelihoods.Bernoulli(networks.MLP(3, (1, 4, 4), hidden=(16,))))


@pytest.mark.parametrize(
    ("vae", "objective", "message"),
    [
        (make_vae(), objectives.FactorVAE(), "FactorVAE is not a sum over data"),
        (make_vae(), objectives.ELBO(free_bits=0.1), "ELBO is not a sum over data"),
        (make_vae(), objectives.ELBO(capacity=1.0), "ELBO is not a sum over data"),
        (make_vae(), RenyiELBO(), "RenyiELBO is not a sum over data"),
        (point(normalization="batch"), objectives.ELBO(), "BatchNorm normalises by a whole batch"),
        (point(Odd), objectives.ELBO(), "site 'all' is not in a plate of the data"),
        (point(Scaled), objectives.ELBO(), "site 'z' is not in a plate of the data of a step alone"),
    ],
)
def test_what_is_no_sum_over_data_is_refused(vae, objective, message):
    with pytest.raises(ValueError, match=message):
        require_sum(vae, objective, (make_data(2),), batch_size=2, size=2)


def test_there_are_data_for_each_process():
    require_sum(make_vae(), objectives.IWAE(), (make_data(2),), batch_size=3, size=3)
    with pytest.raises(ValueError, match="4 processes for batches of 3 data"):
        require_sum(make_vae(), objectives.IWAE(), (make_data(2),), batch_size=3, size=4)


# Backends and devices -------------------------------------------------------------------------------------------------


def test_a_backend_for_gpus_alone_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match=r"init_process_group\('cpu:gloo,cuda:nccl'\), not nccl alone"):
        Processes.here()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_gpu("cuda:5") == "cuda:5"  # of one process
    monkeypatch.setattr(Processes, "here", classmethod(lambda cls: cls(3, 4)))
    assert (own_gpu("cpu"), own_gpu("cuda")) == ("cpu", "cuda:1")
    assert taken == [1]
    for name, number in (("cuda:0", "1"), ("cuda", "2")):
        monkeypatch.setenv("LOCAL_RANK", number)
        with pytest.raises(ValueError, match="of 2 that are here: give --device cuda or cpu, and start no more proc"):
            own_gpu(name)
    assert taken == [1]


# The command ----------------------------------------------------------------------------------------------------------


def test_the_script_trains_in_several_processes(tmp_path):
    small = ["--encoder_network.hidden", "[8]", "--decoder_network.hidden", "[8]", "--latent_dim", "2"]
    codes, written = scripts_together(tmp_path, 2, "train.py", "--epochs", "2", "--num_samples", "2", *small)
    assert codes == [0, 0], written
    assert written[1] == ""
    assert f"kept in {os.path.join('runs', 'digits')}\n" in written[0]
    run = runs.load(tmp_path / "runs" / "digits")
    assert len(run.history) == 2
    metrics = json.loads((tmp_path / "runs" / "digits" / "metrics.json").read_text())
    assert (tmp_path / "runs" / "digits" / "figures" / "training_curves.png").exists()
    (tmp_path / "runs" / "digits" / "metrics.json").unlink()
    codes, written = scripts_together(tmp_path, 2, "evaluate.py", "runs/digits")
    assert codes == [0, 0], written
    assert written[1] == ""
    assert json.JSONDecoder().raw_decode(written[0])[0]["elbo"] == pytest.approx(metrics["elbo"])
