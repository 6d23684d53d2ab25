"""The tasks compress and augment, on a run of few digits."""

import bz2
import gzip
import io
import lzma
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae import tasks
from pyrovae.applications import Compressed, decompress
from pyrovae.tasks.compress import others, sheet


def test_compress_keeps_a_file_that_decodes_and_the_numbers_it_was_made_for(digits_run, tmp_path):
    result = tasks.TASKS["compress"](digits_run, num_samples=20)
    tasks.write(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"data.bb", "code_lengths.png", "numbers.json"}
    content, n = (tmp_path / "data.bb").read_bytes(), result.numbers
    assert torch.equal(decompress(digits_run.vae, Compressed.from_bytes(content)), digits_run.dataset.test)
    assert n["file_bits"] == 8 * len(content) / 30
    assert n["net_bits"] == pytest.approx(n["negative_elbo_bits"], abs=4 * n["net_bits_std_error"])
    assert n["negative_log_likelihood_bits"] < n["negative_elbo_bits"]
    assert n["net_bits"] < n["file_bits"]
    assert "bit for bit" in result.summary
    with pytest.raises(ValueError, match="two draws"):
        tasks.TASKS["compress"](digits_run, num_samples=1)


def test_a_message_that_decodes_to_other_data_is_of_no_use(digits_run, monkeypatch):
    monkeypatch.setattr("pyrovae.applications.decompress", lambda vae, message: torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="decoding gave other data"):
        tasks.TASKS["compress"](digits_run, num_data=1)


def test_a_sheet_of_images_in_colour_is_in_colour():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 6), dtype=np.uint8)
    found = np.asarray(sheet(images, binary=False))
    assert found.shape == (8, 12, 3)
    assert np.array_equal(found[4:, :6], images[2].transpose(1, 2, 0))  # two in a row


def test_other_compressors_have_the_data_at_their_best():
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.random((50, 1, 4, 6)) < 0.1).astype(np.float32))
    found = others(x)
    packed, unpacked = np.packbits(x.numpy().astype(bool)).tobytes(), x.numpy().astype(np.uint8).tobytes()
    assert found["raw"] == 50 * 24 / 8
    for name, code in (("gzip", gzip), ("bzip2", bz2), ("lzma", lzma)):
        assert found[name] == min(len(code.compress(packed)), len(code.compress(unpacked)))
    image = sheet(x.numpy().astype(np.uint8), binary=True)
    assert np.array_equal(np.asarray(image)[4:8, 6:12], x[9, 0].numpy().astype(bool))  # eight in a row
    with io.BytesIO() as file:
        image.save(file, "PNG", optimize=True)
        assert found["PNG"] == len(file.getvalue())
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))
    assert "PNG" not in others(torch.arange(600.0).reshape(100, 6))
    assert others(torch.arange(600.0).reshape(100, 6))["raw"] == 1200


def test_augment_tells_what_is_gained_with_intervals(digits_run, tmp_path):
    result = tasks.TASKS["augment"](digits_run, labelled=(10, 20), seeds=2, number=2)
    tasks.write(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"gains.png", "examples.png", "numbers.json"}
    n = result.numbers
    for method in ("reconstructions", "mixed_codes", "shifts_and_turns", "latent_means"):
        for count in (10, 20):
            gain = n[f"{method}_{count}_accuracy"] - n[f"labelled_data_alone_{count}_accuracy"]
            assert n[f"{method}_{count}_gain"] == pytest.approx(gain)
            assert n[f"{method}_{count}_gain_low"] <= gain <= n[f"{method}_{count}_gain_high"]
    assert "without classes" in result.summary
    with pytest.raises(ValueError, match="two seeds"):
        tasks.TASKS["augment"](digits_run, seeds=1)
    with pytest.raises(ValueError, match="has none: give data with labels"):
        tasks.TASKS["augment"](digits_run._replace(dataset=replace(digits_run.dataset, labels=None)))
