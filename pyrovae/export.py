"""What other programs take: latent variables for ArviZ and TensorBoard's projector, and weights to hand on."""

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.check import unvalidated
from pyrovae.diagnostics.representation import latent_means
from pyrovae.draws import is_point
from pyrovae.evaluation import _CHUNK, density_size, evaluating, moments
from pyrovae.files import whole
from pyrovae.one_vector import require_one_vector
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["inference_data", "projector", "require", "weights"]


def require(*packages: str) -> None:
    """Refuse to export without these packages.

    Args:
        packages: `arviz_base` and `h5netcdf` for `inference_data`, `tensorboard` for `projector`, `safetensors` for
            `weights`.

    Raises:
        ModuleNotFoundError: if one is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"an export needs {package}: install it by pip install 'pyrovae[export]', or from a clone by "
                f"pip install -e '.[export]'"
            )


def inference_data(vae: VAE, x: Tensor, num_draws: int = 100, labels: Tensor | None = None, seed: int = 0) -> Any:
    """Draws z ~ q(z | x) as ArviZ has posteriors: an `xarray.DataTree`, whose `to_netcdf(path)` writes NetCDF.

    The groups, with one chain of K draws, N data and D dimensions of z:

    - `posterior`: z ~ q(z | x), `(1, K, N, D)`; `prior`: z ~ p(z), alike;
    - `log_likelihood`: log p(x | z), `(1, K, N)`;
    - `sample_stats`: log_weight, log p(x, z) - log q(z | x), `(1, K, N)`, by which draws of q(z | x) are made to stand
      for p(z | x); there is none where q(z | x) is a point;
    - `observed_data`: x; `constant_data`: mean and scale of each z_d given x, `(N, D)`, and labels if there are any.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        num_draws: K.
        labels: of the data, `(N,)`.
        seed: of the draws.

    Raises:
        ModuleNotFoundError: if arviz-base is not installed.
        ValueError: if the model is not of one vector z.

    References:
        Kumar et al. (2019), ArviZ, a unified library for exploratory analysis of Bayesian models in Python,
        https://doi.org/10.21105/joss.01143

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> inference_data(model.vae, model.sample(10)).posterior.z.shape
        (1, 100, 10, 2)
    """
    require("arviz_base")
    from arviz_base import from_dict  # which takes a second

    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, not {num_draws}")
    require_one_vector(vae, x, "an export")
    vae.check(x)
    parts = []
    with evaluating(vae), isolated(seed, "inference data"), unvalidated():
        prior = vae.prior()
        for batch in x.split(max(_CHUNK // (num_draws * density_size(vae, x)), 1)):
            q = vae.encode(batch := batch.to(next(vae.parameters())))
            z = q.sample((num_draws,))  # (K, B, D)
            log_likelihood = vae.likelihood(z).log_prob(batch)
            log_weight = torch.empty(num_draws, 0)
            if not is_point(q):
                log_weight = log_likelihood + prior.log_prob(z) - q.log_prob(z)
            parts.append((z, log_likelihood, log_weight, *(t[None] for t in moments(q))))
        z_prior = prior.sample((num_draws, len(x)))
    tables = [torch.cat(t, 1)[None].cpu().numpy() for t in zip(*parts, strict=True)]
    z, log_likelihood, log_weight, mean, scale = tables
    constants = {"mean": mean[0, 0], "scale": scale[0, 0]} | ({} if labels is None else {"label": labels.cpu().numpy()})
    groups = {
        "posterior": {"z": z},
        "prior": {"z": z_prior[None].cpu().numpy()},
        "log_likelihood": {"x": log_likelihood},
        "sample_stats": {"log_weight": log_weight} if log_weight.size else {},
        "observed_data": {"x": x.cpu().numpy()},
        "constant_data": constants,
    }
    of_z = ["datum", "dimension"]
    of_x = ["datum", "channel", "height", "width"] if x.dim() == 4 else ["datum"]
    dims = {"z": of_z, "mean": of_z, "scale": of_z, "log_weight": ["datum"], "label": ["datum"], "x": of_x}
    return from_dict({name: group for name, group in groups.items() if group}, dims=dims)


def projector(vae: VAE, x: Tensor, folder: str | Path, labels: Tensor | None = None) -> None:
    """Latent means, with images and labels, for TensorBoard's projector: `tensorboard --logdir FOLDER`.

    Args:
        vae: the model.
        x: data, `(N, *event)`; images `(N, C, H, W)` of one or three channels are shown in place of points.
        folder: to write to; what is there is replaced.
        labels: of the data, `(N,)`, by which points can be coloured.

    Raises:
        ModuleNotFoundError: if tensorboard is not installed.
        ValueError: if the model is not of one vector z.

    References:
        Smilkov et al. (2016), Embedding projector, https://arxiv.org/abs/1611.05469
    """
    require("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    require_one_vector(vae, x, "an export")
    means, folder = latent_means(vae, x), Path(folder)
    images = x.float().clamp(0, 1).cpu() if x.dim() == 4 and x.shape[1] in (1, 3) else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        new = Path(beside) / folder.name
        with SummaryWriter(new) as writer:
            writer.add_embedding(means, None if labels is None else labels.tolist(), images, tag="latent_means")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def weights(model: nn.Module, path: str | Path) -> None:
    """Parameters and buffers as safetensors, which hold no code: `load_state_dict(safetensors.torch.load_file(path))`.

    Args:
        model: the model.
        path: of the file, such as `weights.safetensors`.

    Raises:
        ModuleNotFoundError: if safetensors is not installed.

    References:
        Hugging Face, safetensors, https://huggingface.co/docs/safetensors
    """
    require("safetensors")
    from safetensors.torch import save_file

    # Copies, as two names of one tensor are refused.
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    with whole(path) as beside:
        save_file(tensors, beside, {"format": "pt", "model": type(model).__name__})
