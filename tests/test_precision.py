"""Networks may compute in fewer bits; log-densities keep theirs."""

import contextlib

import pytest
import torch
from programs import make_data, make_vae

from pyrovae import SVI, fit, objectives
from pyrovae.precision import precision


def test_bfloat16_is_the_networks_alone():
    vae, x = make_vae(), make_data()
    z = torch.randn(len(x), 3)
    exact = vae.likelihood(z).log_prob(x)
    with precision("bfloat16"):
        p, q = vae.likelihood(z), vae.encode(x)
        rounded = p.log_prob(x)
    assert p.base_dist.logits.dtype == q.base_dist.loc.dtype == rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0.0)  # 8 bits of mantissa in each of two layers
    assert torch.equal(vae.likelihood(z).log_prob(x), exact)  # and it ends with the block


@pytest.mark.parametrize("name", ["tf32", "bfloat16", "float32"])
def test_it_ends_with_the_block(name):
    before = torch.get_float32_matmul_precision()
    with contextlib.suppress(KeyError), precision(name):
        assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else before)
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_another_format_is_refused():
    with (
        pytest.raises(ValueError, match="precision is one of float32, tf32, bfloat16, not 'float16'"),
        precision("float16"),
    ):
        pass


def test_steps_take_it():
    losses = {}
    for name in ("float32", "bfloat16"):
        vae, x = make_vae(), make_data()
        optim = torch.optim.Adam(vae.parameters(), lr=1e-2)
        svi = SVI(vae.model, vae.guide, optim, objectives.ELBO(), precision=name)
        torch.manual_seed(1)
        losses[name] = [svi.step(x) for _ in range(30)]
        assert all(p.dtype == torch.float32 for p in vae.parameters())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][:10] == pytest.approx(losses["float32"][:10], rel=0.02)  # before they part
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


def test_a_run_goes_on_in_its_own_precision(tmp_path):
    options = {"folder": tmp_path, "progress": False, "batch_size": 12}
    fit(make_vae(), make_data(), epochs=1, precision="bfloat16", **options)
    with pytest.raises(ValueError, match="precision"):
        fit(make_vae(), make_data(), epochs=2, resume=True, **options)
