"""Bits-back coding: lossless compression by a model with latent variables, by a coder that makes real messages."""

import struct
import zlib
from typing import NamedTuple

import numpy as np
import torch
from constriction import stream
from torch import Tensor
from tqdm import tqdm

from pyrovae.applications.code_tables import CodeTables
from pyrovae.check import unvalidated
from pyrovae.one_vector import require_one_vector
from pyrovae.vae import VAE

__all__ = ["Compressed", "compress", "decompress"]

_TABLE = stream.model.Categorical(perfect=False)  # of probabilities, a row for each symbol
_MOST = 24  # bits that a symbol takes: the coder gives each a probability of at least 2^-24
_HEADER, _MAGIC = struct.Struct("<IIIBQ16s"), b"bb01"
_BAR = {"unit": " data", "delay": 3, "disable": None, "leave": None}


class Compressed(NamedTuple):
    """Data as one message, with what else it takes to decode it by the same model."""

    words: np.ndarray  # what the coder holds at the end, uint32
    num_data: int  # N
    levels: int  # values that an element of x can have
    initial: int  # words that the coder held at the beginning, drawn by the seed
    bits: int  # of a latent dimension
    seed: int
    fingerprint: str  # of the model's parameters

    @property
    def net_bits(self) -> int:
        """Length of the message less that of the initial bits, which decoding gives back."""
        first = _random_words(self.initial, self.seed)
        end, start = (stream.stack.AnsCoder(words).num_valid_bits() for words in (self.words, first))
        return end - start

    def to_bytes(self) -> bytes:
        """The content of a file: a header and the words, with a checksum of both."""
        content = _HEADER.pack(*self[1:6], self.fingerprint.encode()) + self.words.astype("<u4").tobytes()
        return _MAGIC + struct.pack("<I", zlib.crc32(content)) + content

    @classmethod
    def from_bytes(cls, content: bytes) -> "Compressed":
        """The message that a file holds.

        Args:
            content: of the file.

        Raises:
            ValueError: if it is not what `to_bytes` gave.
        """
        body = content[8:]
        if content[:8] != _MAGIC + struct.pack("<I", zlib.crc32(body)) or len(body) < _HEADER.size:
            raise ValueError("these bytes are no compressed data, or damaged: compress the data again")
        *numbers, name = _HEADER.unpack_from(body)
        return cls(np.frombuffer(body[_HEADER.size :], "<u4").astype(np.uint32), *numbers, name.decode())


@torch.no_grad()
def compress(vae: VAE, x: Tensor, bits: int = 12, seed: int = 0) -> Compressed:
    """Data, one after the other, in E_q[-log2 p(x | z) - log2 p(z) + log2 q(z | x)] bits each on average: -ELBO.

    For each datum z is decoded, as if what is there were a code of it by q(z | x); then x is encoded by p(x | z) and z
    by p(z). Whoever decodes x and z encodes z by q(z | x), which gives the bits back that it was decoded from. The
    coder is a stack, so that a datum's z comes out of what the one before it left, and bits of something else, here
    random ones, are needed once. Each z_d is in one of 2^bits bins of equal mass under p(z_d), its value their median.

    Decoding takes the very probabilities of encoding; see `CodeTables` for how these are had. To the coder nothing is
    less probable than 2^-24, so that an element of x takes at most 24 bits.

    Args:
        vae: the model: p(x | z) of discrete elements, independent given z; dimensions of z independent in p(z), with
            quantiles, and in q(z | x), with a cumulative distribution function.
        x: data, `(N, *event)`.
        bits: of a latent dimension. More make bins finer, but the coder gives each a probability of 2^-24 or more, also
            where q(z | x) has next to none.
        seed: of the initial bits.

    Raises:
        ValueError: if the model is none of these, or data are not, to the last digit, the values that p(x | z) is of.

    References:
        Townsend et al. (2019), Practical lossless compression with latent variables using bits back coding,
        https://arxiv.org/abs/1901.04866
        Bamler (2022), Understanding entropy coding with asymmetric numeral systems (ANS),
        https://arxiv.org/abs/2201.01741

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 50), networks.MLP(50, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode))
        >>> x = torch.rand(100, 50).round()
        >>> message = compress(vae, x)
        >>> torch.equal(decompress(vae, message), x), 45 < message.net_bits / 100 < 60
        (True, True)
    """
    require_one_vector(vae, x, "compression")
    vae.check(x)
    if not 1 <= bits <= 16:
        raise ValueError(f"bits of a latent dimension are from 1 to 16, not {bits}")
    with unvalidated():
        tables = CodeTables(vae, bits)
        values = tables.values(int(x.max()) + 2)
        x = x.cpu().to(next(vae.parameters()).dtype)
        symbols = (x.double() / values[1]).round().long()
        if not torch.equal(values.to(x.dtype)[symbols], x):
            raise ValueError(
                f"x has not, to the last digit, the values 0, {values[1]:.6g}, ... that p(x | z) is of, and what "
                f"differs would be lost: round it to them"
            )
        initial = 1
        while (words := _encoded(tables, x, symbols, values, _random_words(initial, seed))) is None:
            initial += 1 + initial // 8
    return Compressed(words, len(x), len(values), initial, bits, seed, tables.fingerprint)


def _encoded(tables: CodeTables, x: Tensor, symbols: Tensor, values: Tensor, first: np.ndarray) -> np.ndarray | None:
    """The words of a coder that began with `first`; None if these were too few."""
    coder = stream.stack.AnsCoder(first)
    m, d = tables.z.shape
    each = zip(x, symbols.flatten(1).int().numpy(), _shifts(len(x), tables), strict=True)
    for datum, indices, shift in tqdm(each, "encoding", len(x), **_BAR):
        if coder.num_bits() < d * _MOST + 64:  # or z could take all, and more than is there has no way back
            return None
        z = coder.decode(_TABLE, tables.posterior(datum))
        coder.encode_reverse(indices, _TABLE, tables.likelihood(z, values))
        coder.encode_reverse((z + shift) % m, stream.model.Uniform(m))
    return coder.get_compressed()


@torch.no_grad()
def decompress(vae: VAE, compressed: Compressed) -> Tensor:
    """The data of a message, `(N, *event)`, bit for bit, where the model is.

    Args:
        vae: the model that compressed them.
        compressed: the message.

    Raises:
        ValueError: if the model is another, or the initial bits do not come back, so that the data are others.
    """
    parameter = next(vae.parameters())
    with unvalidated():
        tables = CodeTables(vae, compressed.bits)
        if tables.fingerprint != compressed.fingerprint:
            raise ValueError(
                "the data were compressed by a model of other parameters: decompress them by the one that did it"
            )
        values = tables.values(compressed.levels)
        coder = stream.stack.AnsCoder(compressed.words)
        m, d = tables.z.shape
        data = []
        for shift in tqdm(_shifts(compressed.num_data, tables)[::-1], "decoding", **_BAR):
            z = (coder.decode(stream.model.Uniform(m), d) - shift) % m
            indices = coder.decode(_TABLE, tables.likelihood(z, values))
            datum = values[torch.from_numpy(indices).long()].to(parameter.dtype).reshape(tables.event_shape)
            coder.encode_reverse(z, _TABLE, tables.posterior(datum))
            data.append(datum)
    if not np.array_equal(coder.get_compressed(), _random_words(compressed.initial, compressed.seed)):
        raise ValueError(
            "the initial bits did not come back, so the data are wrong: the message is damaged, or probabilities are "
            "computed otherwise here than where it was made"
        )
    return torch.stack(data[::-1]).to(parameter.device)


def _random_words(number: int, seed: int) -> np.ndarray:
    """None of them 0, which a stack would not keep at its end."""
    return np.random.default_rng(seed).integers(1, 2**32, number, dtype=np.uint32)


def _shifts(num_data: int, tables: CodeTables) -> np.ndarray:
    """By how much the bins of each z are shifted before they are encoded, `(N, D)`, the same in encoding and decoding.

    The next datum's z is decoded from the bits that this one's was encoded in: where q(z | x) is near to p(z), it would
    be the same z again. Shifted at random, draws are independent.
    """
    m, d = tables.z.shape
    return np.random.default_rng(0).integers(m, size=(num_data, d), dtype=np.int32)
