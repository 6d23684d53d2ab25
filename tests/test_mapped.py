"""Data larger than memory: the same as in memory, bounded, and refused where they cannot be had."""

import re
import resource
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch

from pyrovae import VAE, data, encoders, fit, likelihoods, mapped, networks, priors, runs
from pyrovae.data import fingerprint
from pyrovae.mapped import Mapped


@pytest.fixture
def path(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy"


def all_of(x):
    return torch.cat(list(x.chunks()))


def test_its_parts_are_the_rows_of_the_file_each_once(path, monkeypatch):
    monkeypatch.setattr(mapped, "_CHUNK", 35)  # seven rows at a time
    dataset, rows = data.load(str(path), memory_map=True), np.load(path)
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [45, 5, 10]
    train = all_of(dataset.train)
    parts = np.concatenate([train, dataset.valid, dataset.test])
    assert np.array_equal(parts[np.lexsort(parts.T)], rows[np.lexsort(rows.T)])
    places = [int((rows == np.asarray(x)).all(1).nonzero()[0][0]) for x in train]
    assert places == sorted(places)
    assert dataset.train.shape == train.shape
    index = torch.tensor([44, 0, 7])
    assert torch.equal(dataset.train[index], train[index])
    assert torch.equal(dataset.train[3], train[3])
    assert dataset.protocol.checksum == fingerprint(train, dataset.valid, dataset.test)
    again = data.load(str(path), memory_map=True)
    assert again.protocol == dataset.protocol


def test_valid_and_test_are_bounded_whatever_the_size(path, monkeypatch):
    monkeypatch.setattr(mapped, "_HELD_OUT", 4)
    assert [len(x) for x in (data.load(str(path), memory_map=True).valid, data.load(str(path), memory_map=True).test)]
    monkeypatch.setattr(mapped, "_HELD_BYTES", 3 * 5 * 4)
    dataset = data.load(str(path), memory_map=True)
    assert [len(x) for x in (dataset.train, dataset.valid, dataset.test)] == [54, 3, 3]


@pytest.mark.parametrize(("high", "scaling", "levels"), [(256, "divided by 255", 256), (2, "none", 2)])
def test_bytes_are_grey_values_with_channels_first(tmp_path, high, scaling, levels):
    images = np.random.default_rng(0).integers(0, high, (20, 4, 6, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    dataset = data.load(str(tmp_path / "images.npy"), memory_map=True)
    whole = data.load(str(tmp_path / "images.npy"))
    for name in ("scaling", "levels", "shape"):
        assert getattr(dataset.protocol, name) == getattr(whole.protocol, name)
    assert (dataset.protocol.scaling, dataset.protocol.levels) == (scaling, levels)
    found = torch.cat([all_of(dataset.train), dataset.valid, dataset.test]).flatten(1)
    expected = torch.from_numpy(images.transpose(0, 3, 1, 2) / (255 if high == 256 else 1)).float().flatten(1)
    torch.testing.assert_close(found.unique(dim=0), expected.unique(dim=0))


def make_vae(size=5):
    torch.manual_seed(0)
    decode, encode = networks.MLP(2, size, hidden=(8,)), networks.MLP(size, 4, hidden=(8,))
    return VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))


def test_fit_streams_them_to_the_same_end_as_from_memory(path):
    dataset, ends = data.load(str(path), memory_map=True), []
    for train in (dataset.train, all_of(dataset.train)):
        vae = make_vae()
        fit(vae, train, dataset.valid, epochs=2, batch_size=16, progress=False)
        ends.append(vae.state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_a_run_on_them_is_an_option(path, tmp_path):
    arguments = ["--data", str(path), "--memory_map", "--likelihood", "Normal", "--latent_dim", "2"]
    options = runs.parser().parse_args([*arguments, "--epochs", "1", "--prior", "VampPrior", "--prior.components", "3"])
    run = runs.train(options, tmp_path / "run")
    assert isinstance(run.dataset.train, Mapped)
    assert runs.score(run, 4, 0)["train_size"] == 45
    assert runs.load(tmp_path / "run").dataset.protocol == run.dataset.protocol


def _train_in_little_memory(path):
    vae = make_vae(75)
    fit(vae, torch.randn(16, 75), epochs=1, progress=False)  # what it takes whatever the data
    held = 1024 * int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    resource.setrlimit(resource.RLIMIT_DATA, (held + 64 * 2**20,) * 2)
    dataset = data.load(path, memory_map=True)
    fit(vae, dataset.train, dataset.valid, epochs=1, batch_size=2**12, progress=False)
    with pytest.raises(MemoryError):
        np.load(path).sum()


def test_memory_does_not_grow_with_the_data(tmp_path):
    path = str(tmp_path / "zeros.npy")
    np.lib.format.open_memmap(path, "w+", np.float32, (300_000, 75))  # 90 MB, of which the disk holds none
    assert fresh.finish(fresh.start(_train_in_little_memory, path)) == 0


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.full((20, 2), np.nan), {}, r"\(valid\) holds NaN or infinity"),
        (np.concatenate([np.ones((20, 2)), [[1, np.inf]]]), {}, "datum 20 of the file holds NaN or infinity"),
        (np.zeros((5, 2)), {}, "at least 12 data"),
        (np.zeros((20, 0)), {}, r"\(20, 0\)"),
        (np.zeros(20), {}, "the first dimension counts data"),
        (np.full((20, 2), "a"), {}, "where numbers are needed"),
        (np.zeros((20, 2)), {"binarize": "threshold"}, "no binarize, dequantize, valid_size or missing"),
        (np.array([None] * 20), {}, "cannot be read as a NumPy file of numbers"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path, array, options, words):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=words):
        data.load(str(tmp_path / "x.npy"), memory_map=True, **options)


@pytest.mark.parametrize("shape", ["2**70", "-24, -8", "9" * 26, "9" * 15])
def test_what_a_header_claims_is_not_believed(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros((24, 8)))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content.replace(b"(24, 8), }".ljust(32), f"({shape},), }}".encode().ljust(32)))
    assert len((tmp_path / "x.npy").read_bytes()) == len(content)
    with pytest.raises(ValueError, match=r"x\.npy' cannot be read as a NumPy file of numbers"):
        data.load(str(tmp_path / "x.npy"), memory_map=True)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"PK\3\4" + bytes(50))
    with pytest.raises(ValueError, match=r"x\.npy' cannot be read as a NumPy file of numbers"):
        data.load(str(tmp_path / "x.npy"), memory_map=True)
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 2)))
    with pytest.raises(ValueError, match=r"cannot be memory-mapped, which is for .npy files"):
        data.load(str(tmp_path / "x.npz"), memory_map=True)


def test_a_file_beyond_free_memory_is_refused_with_what_to_do(path, monkeypatch):
    monkeypatch.setattr(mapped, "available", lambda: 60 * 5 * 12 - 1)
    with pytest.raises(ValueError, match=r"GiB to load, and 0.0 GiB are free: give memory_map=True"):
        data.load(str(path))
    monkeypatch.setattr(mapped, "available", lambda: 60 * 5 * 12)
    assert len(data.load(str(path)).train) == 45
