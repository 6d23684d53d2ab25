"""On a GPU: recorded steps are the plain ones, and what is promised of memory, determinism and trouble holds there."""

import os
import signal
from contextlib import nullcontext
from functools import partial

import fresh
import pyro
import pytest
import torch
from programs import SHAPE, in_step, make_data, make_vae
from torch.optim.lr_scheduler import StepLR

from pyrovae import SVI, checkpoint, data, fit, objectives, schedules
from pyrovae.cuda_graphs import Captured
from pyrovae.determinism import determinism
from pyrovae.distributed import Processes, own_gpu
from pyrovae.interruption import Interrupted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GREY = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def trained(compile, make, x, steps=30):
    """Losses and parameters after some steps on the GPU in float64, and the step."""
    vae, objective = make_vae().double().cuda(), make()
    optim = torch.optim.Adam(vae.parameters(), lr=0.01)
    generator = torch.Generator("cuda").manual_seed(3)
    svi = SVI(vae.model, vae.guide, optim, objective, compile=compile, generator=generator, clip_norm=5.0)
    schedule = StepLR(optim, 15)  # to a rate that has to be recorded anew
    pyro.set_rng_seed(1)
    losses = []
    for i in range(steps):
        with pyro.poutine.scale(scale=0.5) if i == 5 else nullcontext():  # which takes part in the step
            losses.append(svi.step(x if i % 3 else x[:12]))
        schedule.step()
    return torch.tensor(losses), vae.state_dict(), svi


@pytest.mark.parametrize(
    "make",
    [
        lambda: objectives.ELBO(beta=schedules.Linear(steps=10)),
        lambda: objectives.IWAE(5),
        lambda: objectives.RWS(3),
    ],
)
@pytest.mark.parametrize("kind", [data.Intensities, lambda x: x.round()])
def test_recorded_steps_are_the_plain_ones(make, kind):
    x = kind(GREY).cuda()
    (plain, ends, _), (recorded, found, svi) = (trained(compile, make, x) for compile in (False, True))
    torch.testing.assert_close(recorded, plain, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found, ends, rtol=1e-7, atol=1e-9)
    assert all(step.graph is not None for _, step in svi._recorded.values())
    assert svi._recorded


def test_what_cannot_be_recorded_runs_as_it_is():
    step = Captured(lambda given: [given[0] * given[0].sum().item(), None])
    with pytest.warns(UserWarning, match="the step is not recorded as a CUDA graph"):
        found = [step([torch.full((2,), float(i), device="cuda")]) for i in range(6)]
    assert [f[0].tolist() for f in found] == [[2.0 * i * i] * 2 for i in range(6)]
    assert all(f[1] is None for f in found)
    assert torch.rand(3, device="cuda").std() > 0  # for which a recording that failed leaves the generator free


def test_data_that_do_not_fit_are_streamed_alike(monkeypatch):
    def ends():
        vae = make_vae().cuda()
        fit(vae, data.Intensities(GREY.float()), epochs=3, batch_size=6, progress=False)
        return vae.state_dict()

    resident = ends()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1000, 1000))
    torch.testing.assert_close(ends(), resident, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("compile", [False, True])
def test_trouble_ends_a_run_before_the_step(compile, tmp_path):
    vae, x = make_vae().cuda(), make_data(40)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in step \d+, batch \d of epoch .*at site"):
        fit(
            vae,
            x,
            epochs=60,
            batch_size=10,
            optimizer=partial(torch.optim.SGD, lr=1e6),
            compile=compile,
            folder=tmp_path,
            progress=False,
        )
    assert all(p.isfinite().all() for p in vae.parameters())
    assert checkpoint.read(tmp_path / "trouble.pt")["values"]["trouble"]["batch"][0].device.type == "cpu"


def test_too_much_is_told():
    with pytest.raises(MemoryError, match=r"GiB more were needed, .* GiB of the GPU are free; lower batch_size"):
        fit(make_vae().cuda(), make_data(40), objective=objectives.IWAE(10**8), epochs=1, progress=False)


def deterministic(folder, name, stop):
    """Train on the GPU by deterministic algorithms, in two parts if it stops, and write the parameters."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    x = data.Intensities(GREY.float())
    train = partial(fit, train=x, epochs=4, batch_size=6, folder=folder / name, progress=False, deterministic=True)
    vae = make_vae().cuda()
    if stop:
        in_step(vae, 9, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(vae)
        vae = make_vae().cuda()
    train(vae, resume=stop)
    torch.save({name: value.cpu() for name, value in vae.state_dict().items()}, folder / f"{name}.pt")


def test_a_deterministic_run_goes_on_bit_identical(tmp_path):
    for name, stop in (("whole", False), ("parts", True)):
        assert fresh.finish(fresh.start(deterministic, tmp_path, name, stop)) == 0
    whole, parts = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_what_has_no_deterministic_algorithm_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    t = torch.zeros(3, device="cuda")
    match = "^_histc_cuda .*has no deterministic algorithm on cuda:0: leave out deterministic"
    with pytest.raises(ValueError, match=match), determinism(t.device):
        t.histc()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(Processes, "here", classmethod(lambda cls: cls(0, 2)))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert own_gpu("cuda") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(ValueError, match="start no more processes than GPUs"):
        own_gpu("cuda")
