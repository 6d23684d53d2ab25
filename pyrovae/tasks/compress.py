"""Compress: test data as a message of bits back, beside its bound and what other compressors make of the data."""

import bz2
import gzip
import io
import lzma
import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pyrovae import applications, evaluation
from pyrovae.application_plots.code_lengths import code_lengths
from pyrovae.columns import columns
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images
from pyrovae.tasks.task import Result

__all__ = ["compress", "others"]


def compress(run: Run, num_data: int = 1000, bits: int = 12, num_samples: int = 500, seed: int = 0) -> Result:
    """Compress test data without loss by bits-back coding, to about -ELBO bits each, and decode the file again.

    Args:
        run: the run.
        num_data: how many test data at most, the first of them.
        bits: of a latent dimension, each of which has 2^bits bins.
        num_samples: K, draws for each datum by which -ELBO and -log2 p(x) are estimated.
        seed: of the initial bits and of the draws.
    """
    if num_data < 1 or num_samples < 2:
        raise ValueError(f"take at least one datum and two draws for each, not {num_data} and {num_samples}")
    x = columns(run.dataset.test)[0][:num_data]
    message = applications.compress(run.vae, x, bits, seed)
    content = message.to_bytes()
    decoded = applications.decompress(run.vae, applications.Compressed.from_bytes(content))
    if not np.array_equal(decoded.cpu(), x.cpu().to(decoded.dtype)):
        raise ValueError("decoding gave other data: the message is of no use")
    n, elements, nat = len(x), x[0].numel(), 1 / math.log(2)
    bound, evidence = evaluation.scores(run.vae, x, num_samples, seed)
    elbo, log_likelihood = (-nat * part.value.double().mean().item() for part in (bound, evidence))
    error, evidence_error = (
        nat * part.std_error.double().square().sum().sqrt().item() / n for part in (bound, evidence)
    )
    if math.isnan(elbo):
        raise ValueError(f"{type(run.vae).__name__} has no ELBO to compare with a message: take a run of a VAE")
    net, lengths = message.net_bits / n, {name: 8 * size / n for name, size in others(x).items()}
    numbers = {
        "num_data": n,
        "net_bits": net,
        "net_bits_std_error": error * math.sqrt(num_samples),  # of one draw of z for each datum
        "net_bits_per_dimension": net / elements,
        "negative_elbo_bits": elbo,
        "negative_elbo_bits_std_error": error,
        "net_bits_over_negative_elbo": net / elbo,
        "negative_log_likelihood_bits": log_likelihood,
        "negative_log_likelihood_bits_std_error": evidence_error,
        "file_bits": 8 * len(content) / n,
        "initial_bits": 32 * message.initial,  # of the message as a whole
        "lossless": True,
        **{f"{name.lower()}_bits": length for name, length in lengths.items()},
    }
    bars = lengths | {"bits back, whole file": numbers["file_bits"], "bits back, net": net}
    bounds = {"-ELBO": elbo, "-log$_2$ p(x), an estimate": log_likelihood}
    best = min(lengths, key=lengths.get)
    summary = (
        f"{n} data compressed, and decoded from the file bit for bit\n"
        f"net {net:.2f} ± {numbers['net_bits_std_error']:.2f} bits a datum ({net / elements:.4f} a dimension), "
        f"-ELBO {elbo:.2f} ± {error:.2f} (ratio {net / elbo:.4f}), -log2 p(x) about {log_likelihood:.2f}\n"
        f"whole file {numbers['file_bits']:.2f}, with {32 * message.initial} initial bits, needed once, and a header\n"
        f"the best of others is {best} with {lengths[best]:.2f}; they have not seen training data, and the model, "
        f"which decoding needs, is not counted"
    )
    figure = code_lengths(bars, bounds, f"{n} test data of {elements} elements, without loss")
    files = {"data.bb": lambda path: Path(path).write_bytes(content), "code_lengths.png": figure.savefig}
    return Result(numbers, summary, files)


def others(x: Tensor) -> dict[str, int]:
    """Bytes that general compressors make of data, each at its best, and of images PNG; of binary data, packed or not.

    Args:
        x: data, `(N, *event)`.

    Example:
        >>> import torch
        >>> others(torch.zeros(300, 1, 8, 8))["raw"]
        2400
    """
    values, indices = np.unique(x.cpu().numpy(), return_inverse=True)
    indices = indices.reshape(x.shape).astype(np.min_scalar_type(len(values) - 1))
    forms = [indices.tobytes()]
    if len(values) <= 2:
        forms.append(np.packbits(indices.astype(bool)).tobytes())
    coders = {"gzip": gzip.compress, "bzip2": bz2.compress, "lzma": lzma.compress}
    sizes = {"raw": len(forms[-1])} | {name: min(len(code(form)) for form in forms) for name, code in coders.items()}
    if are_images(x) and len(values) <= 256:
        with io.BytesIO() as file:
            sheet(indices, binary=len(values) <= 2).save(file, "PNG", optimize=True)
            sizes["PNG"] = len(file.getvalue())
    return sizes


def sheet(images: np.ndarray, binary: bool) -> Image.Image:
    """Images `(N, C, H, W)` of bytes side by side, about as many in a row as in a column, the last row filled up."""
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    filled = np.concatenate([images, np.zeros((rows * columns - n, *images.shape[1:]), images.dtype)])
    pixels = filled.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = pixels.reshape(rows * height, columns * width, channels)
    if channels == 3:
        return Image.fromarray(pixels)
    grey = pixels[..., 0]
    return Image.fromarray(grey.astype(bool)) if binary else Image.fromarray(grey)
