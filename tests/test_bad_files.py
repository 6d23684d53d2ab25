"""Files from anywhere: they are read, or refused in one sentence, and take no more memory than they should."""

import importlib.util
import io
import os
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_files import IDX, pixels, save, write_idx, write_idx_set
from fresh import SCRIPTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pyrovae import checkpoint, data, readers, runs
from pyrovae.hostile_files import Format, formats, in_checkpoint, in_png, in_zip
from pyrovae.objectives import ELBO

CHEAP = settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def refusal(path, **options):
    """What is said of a file, in one sentence."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        data.load(str(path), **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


@pytest.fixture
def little_memory():
    """No more than a megabyte is taken, which is a thousand times what the files of these tests have."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def npy(shape, descr="'|u1'", order="False", content=b""):
    """A file of the format whose header claims a shape."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("(1000000, 1000000)", "of shape (1000000, 1000000) has 1000000000000 bytes, but there are"),
        (f"({2**62}, 4)", f"has {2**64} bytes, but there are"),
        (f"({2**40}, {2**40})", f"has {2**80} bytes, but there are"),
        ("(-20, -4)", "of shape (-20, -4)"),
        ("(20, -4)", "of shape (20, -4)"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.usefixtures("little_memory")
def test_a_header_that_claims_more_than_there_is_takes_no_memory(shape, sentence, kind, tmp_path):
    content = npy(shape, content=bytes(80))
    (tmp_path / f"x.{kind}").write_bytes(zipped(**{"x.npy": content}) if kind == "npz" else content)
    assert sentence in refusal(tmp_path / f"x.{kind}")


BOMB = zipped(**{"x.npy": npy("(3000, 1000)", content=bytes(3 * 10**6))})


@pytest.mark.usefixtures("little_memory")
def test_a_bomb_of_zeros_takes_no_memory(tmp_path, monkeypatch):
    """Of three million bytes here: it is as if the machine had less."""
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    (tmp_path / "x.npz").write_bytes(BOMB)
    assert len(BOMB) < 4000
    assert "GiB of memory, of which there are 0.0" in refusal(tmp_path / "x.npz")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(zipped(**{"x.npy": npy("(20, 4)", content=bytes(80)), "read.me": b"text"}))
    assert "cannot be read as a NumPy file" in refusal(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "descr",
    ["'|O'", "'<M8[s]'", "'<m8[s]'", "'<U3'", "'|S3'", "'<c16'", "[('a', '<f4')]", "'|V4'", "'|b1'", "7", "'x'"],
)
def test_what_are_no_numbers_is_refused(descr, tmp_path):
    (tmp_path / "x.npy").write_bytes(npy("(20, 4)", descr, content=bytes(2000)))
    refusal(tmp_path / "x.npy")


def test_a_version_of_the_format_that_is_not_for_numbers_is_refused(tmp_path):
    content = npy("(20, 4)", content=bytes(80))
    (tmp_path / "x.npy").write_bytes(content[:6] + b"\3" + content[7:])
    assert "version (3, 0) of the format, which is not for numbers" in refusal(tmp_path / "x.npy")


@pytest.mark.parametrize("text", ["(" * 3000, "[" * 3000, "(20, 4", "'x'", "(20, 4.0)", "(True, 4)", "9" * 5000])
def test_what_is_no_shape_is_refused(text, tmp_path):
    (tmp_path / "x.npy").write_bytes(npy(text, content=bytes(80)))
    refusal(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda x: x[::-1, ::-1], lambda x: x.astype(">f8"), lambda x: x.astype("<f2")]
)
def test_the_order_of_bytes_in_memory_does_not_matter(change, tmp_path):
    x = pixels(20, 6, 4).astype(np.float64)
    found, expected = data.load(save(tmp_path / "x.npy", change(x))), data.load(save(tmp_path / "y.npy", x))
    flipped = np.array_equal(change(x), x)
    assert torch.equal(found.train, expected.train if flipped else expected.train.flip(-1, -2)) or not flipped


def test_a_label_beyond_64_bits_with_a_sign_is_refused(tmp_path):
    y = np.full(20, 2**64 - 1, np.uint64)
    assert "the label 18446744073709551615" in refusal(save(tmp_path / "x.npz", x=pixels(20, 4), y=y))


@CHEAP
@given(
    x=hnp.arrays(
        hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=16), fill=st.nothing()
    )
    | hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.bool_]), st.just((13, 2)), fill=st.nothing()
    )
)
def test_any_array_is_read_as_it_is_or_refused(x, tmp_path):
    path = save(tmp_path / "x.npy", x)
    try:
        found = data.load(path)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        rows = torch.cat([found.train, found.valid, found.test]).flatten(1)
        with np.errstate(all="ignore"):
            expected = x.astype(np.float32).reshape(len(x), -1) / (255 if found.protocol.levels == 256 else 1)
        np.testing.assert_allclose(np.sort(rows.numpy().ravel()), np.sort(expected.ravel()), rtol=1e-6)
        assert rows.isfinite().all()
    assert len(message.splitlines()) <= 1


# Tables ---------------------------------------------------------------------------------------------------------------

ROWS = "".join(f"{i},{i / 7:.3f}\n" for i in range(20))


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n" + ROWS.replace("\n", ",3\n"),  # of which pandas takes the first for names of rows
        "a,b\n" + ROWS.replace(",", ",,", 3),
        ROWS.replace("5,", '"5\n6",'),
        ROWS.replace("5,", '"5,'),
        "a\n\n" + ROWS,
        "\0" * 100,
        bytes(range(256)) * 20,
        ROWS.encode("utf-16"),
        "x" * 10**5 + "," + ROWS,
        ROWS + "9" * 10**5 + ",1\n",
        ROWS + "1e999,1\n",
        ROWS + "1+2j,1\n",
        ROWS + "2020-01-01,1\n",
        ROWS + "\u0661,1\n",
        ROWS + "1_000,1\n",
        ",".join(["1"] * 10**4) + "\n" + ROWS,
    ],
    ids=range(16),
)
def test_what_is_no_table_of_numbers_is_refused(content, tmp_path):
    (tmp_path / "x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert len(refusal(tmp_path / "x.csv")) < 700


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + ROWS,
        "\ufeffa,b\n" + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.rstrip(),
        '"a","b"\n' + ROWS,
        ROWS + "\n\n",
    ],
)
def test_marks_line_ends_and_quotes_do_not_matter(content, tmp_path):
    (tmp_path / "x.csv").write_bytes(content.encode())
    (tmp_path / "y.csv").write_text(ROWS)
    found, expected = (data.load(str(tmp_path / name)) for name in ("x.csv", "y.csv"))
    assert torch.equal(found.train, expected.train)


# Images ---------------------------------------------------------------------------------------------------------------


def png(width, height, *rows, depth=8, colour=2):
    """A PNG file that claims a size."""

    def chunk(kind, inner):
        return len(inner).to_bytes(4) + kind + inner + zlib.crc32(kind + inner).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, colour, 0, 0, 0])
    body = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def folder_of(tmp_path, content, at=3):
    for i in range(12):
        Image.fromarray(pixels(4, 4, 3)).save(tmp_path / f"{i:02}.png")
    (tmp_path / f"{at:02}.png").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("side", [2**31 - 1, 30_000, 15_000])
def test_an_image_that_claims_many_pixels_is_refused(side, at, tmp_path):
    message = refusal(folder_of(tmp_path, png(side, side, bytes(100)), at))
    assert f"{at:02}.png" in message or f"({side}" in message


def test_sixteen_bits_of_a_colour_are_refused_and_not_cut_off(tmp_path):
    row = bytes(1 + 4 * 6)
    assert "more than 8 bits a pixel" in refusal(folder_of(tmp_path, png(4, 4, *[row] * 4, depth=16)))


@pytest.mark.parametrize("kind", ["eps", "gif", "pcx", "sgi", "tga", "pdf"])
def test_formats_that_no_name_tells_are_refused(kind, tmp_path):
    """Of which one starts a program."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(4, 4, 3)).save(buffer, kind)
    assert "03.png' cannot be read as an image" in refusal(folder_of(tmp_path, buffer.getvalue()))


# Named sets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("at", [2, 3, 4, 7, 8, 15])
@pytest.mark.parametrize("byte", [0x0A, 0x7F, 0xFF])
def test_an_idx_header_that_claims_otherwise_is_refused(which, at, byte, tmp_path, no_network):
    write_idx_set(tmp_path, "mnist")
    file = tmp_path / IDX["mnist"][0].format(which)
    content = bytearray(file.read_bytes())
    content[at] = byte
    file.write_bytes(content)
    if which == "images-idx3" or at < 8:  # labels, behind their header, may be anything
        assert "delete them first" in refusal("mnist", root=tmp_path)


def test_parts_of_a_named_set_have_one_shape(tmp_path, no_network):
    write_idx_set(tmp_path, "mnist")
    write_idx(tmp_path / IDX["mnist"][1].format("images-idx3"), pixels(4, 14, 56))
    assert "shapes (28, 28) and (14, 56)" in refusal("mnist", root=tmp_path)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    assert "no file" in refusal(tmp_path / "x.npy")


# Runs -----------------------------------------------------------------------------------------------------------------


def loading(run):
    with pytest.raises(ValueError, match=r".") as error:
        runs.load(run)
    return str(error.value)


def copy_of(run, kept, **changed):
    """A run's folder whose files hold something else."""
    for name in (runs.CONFIG, runs.CHECKPOINT):
        (kept / name).write_bytes((run / name).read_bytes())
    state = torch.load(kept / runs.CHECKPOINT, weights_only=True)
    for name, value in changed.items():
        state[name] = value
    content = io.BytesIO()
    torch.save(state, content)
    (kept / runs.CHECKPOINT).write_bytes(checkpoint.signed(content.getvalue()))
    return kept


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save(folder / "x.npy", pixels(24, 4, 4))
    small = ["--latent_dim=2", "--epochs=1", "--encoder_network.hidden=[4]", "--decoder_network.hidden=[4]"]
    runs.train(runs.parser().parse_args([f"--data={folder / 'x.npy'}", *small]), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    "changed",
    [
        {"values": {}},
        {"values": {"best": {"a": 3}, "history": []}},
        {"values": {"best": None, "history": 3}},
        {"values": {"best": None, "history": []}, "parts": {"vae": 3}},
        {"values": {"best": [1], "history": []}},
    ],
)
def test_a_checkpoint_of_other_values_is_refused(changed, small_run, tmp_path):
    message = loading(copy_of(small_run, tmp_path, **changed))
    assert message.startswith(f"'{tmp_path / runs.CHECKPOINT}' is no")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"values": None},
        {"settings": 3},
        {"parts": {}},
        {"parts": 3},
        {"settings": {}},
        {"versions": 3},
        {"random": {}},
        {"random": {"cpu": "x", "cuda": [], "numpy": [1], "python": ()}},
        {"settings": {"patience": torch.zeros(2, 3)}},
        {"values": {"history": [{"seconds": "x", "epoch": 1}], "best": {}}},
        {"values": {"history": [{"seconds": torch.zeros(2), "epoch": 1}], "best": {}}},
        {"values": {"history": [{"epoch": 1}], "best": {}}},
        {"values": {"history": [{"epoch": 1, "seconds": 1.0}], "best": {}}},
        {"values": {"history": [], "best": 3}},
        {"values": {"history": [], "best": {"a": 3}}},
    ],
)
def test_a_run_does_not_go_on_from_other_values(changed, small_run, tmp_path):
    run = copy_of(small_run, tmp_path, **changed)
    with pytest.raises(ValueError, match=r"checkpoint\.pt' (is no checkpoint|is of a run|holds no)") as told:
        runs.train(runs.parser().parse_path(run / runs.CONFIG), run, resume=True)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("changed", [{"totals": torch.zeros(4)}, {"left_out": [1]}, {"seconds": "x"}])
def test_a_run_does_not_go_on_from_another_epoch(changed, small_run, tmp_path):
    parts = checkpoint.read(small_run / runs.CHECKPOINT)["parts"]
    run = copy_of(small_run, tmp_path, parts={**parts, "epoch": parts["epoch"] | changed})
    with pytest.raises(ValueError, match=r"checkpoint\.pt' is of a run whose epoch is another"):
        runs.train(runs.parser().parse_path(run / runs.CONFIG), run, resume=True)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ("latent_dim: 2", "latent_dim: 3", "is not of the model"),
        ("latent_dim: 2", "latent_dim:", "None"),
        ("latent_dim: 2", "latent_dim: [", "parsing"),
        ("latent_dim: 2", "latent_dim: !!python/object/apply:os.mkdir [made]", "constructor"),
        ("latent_dim: 2", "latent_dim: &a [*a]", ""),
        ("latent_dim: 2", f"latent_dim: {'9' * 400}", "latent_dim"),
        ("latent_dim: 2", "latent_dims: 2", "latent_dims"),
        ("batch_size: 64", "batch_size: x", "batch_size"),
        ("beta: 1.0", "beta: -1.0", "beta"),
        ("dropout: 0.0", f"dropout: {'9' * 400}", ""),
        ("seed: 0", "seed: \0", ""),
        ("class_path: pyrovae.priors.StandardNormal", "class_path: os.system", "prior"),
        ("class_path: pyrovae.priors.StandardNormal", "help: StandardNormal", "help"),
    ],
)
def test_options_of_a_run_that_are_none_are_told_in_one_line(before, after, word, small_run, tmp_path):
    run = copy_of(small_run, tmp_path)
    text = (run / runs.CONFIG).read_text()
    assert before in text
    (run / runs.CONFIG).write_text(text.replace(before, after))
    message = loading(run)
    assert word in message
    assert len(message.splitlines()) == 1
    assert not Path("made").exists()


def test_what_is_told_of_a_file_is_one_short_line():
    assert readers.told("a\nb\0") == r"a\nb\x00"
    assert readers.told("x" * 1000) == "x" * 200 + "..."


def test_the_steps_of_an_objective_are_a_number():
    with pytest.raises(TypeError):
        ELBO().set_extra_state({"step": {}})


def test_a_whole_checkpoint_for_which_there_is_no_memory_is_neither_damaged_nor_of_another_run(small_run, monkeypatch):
    def lacking(*args, **kwargs):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12"
        )

    part = torch.nn.Linear(1, 1)
    parts = checkpoint.Parts(part=part)
    state = parts.state_dict()
    monkeypatch.setattr(part, "load_state_dict", lacking)
    with pytest.raises(MemoryError, match="not enough memory"):
        parts.load_state_dict(state)
    monkeypatch.setattr(torch, "load", lacking)
    with pytest.raises(MemoryError, match="not enough memory"):
        checkpoint.read(small_run / runs.CHECKPOINT)


# The fuzz run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPTS / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_by_first_byte(folder):
    """A reader with every fault."""
    first = (folder / "x").read_bytes()[:1]
    match first:
        case b"v":
            raise ValueError("no such")
        case b"l":
            raise ValueError("two\nlines")
        case b"k":
            raise KeyError("x")
        case b"m":
            bytearray(2**33)
        case b"h":
            while True:
                pass
        case b"c":
            os._exit(3)
        case b"s":
            raise SystemExit(2)
    return first.decode()


def test_every_end_of_a_reader_is_told_apart(fuzz, tmp_path):
    form = Format({"x": b""}, "x", read_by_first_byte)
    read = fuzz.Reader({"x": form}, memory=2**30, seconds=1.0)
    found = {}
    for kind in "avlkmhcsb":
        (tmp_path / "x").write_text(kind)
        found[kind], _ = read("x", tmp_path, "a")
    assert found == {
        **{"a": "alike", "b": "otherwise", "v": "refused", "s": "refused"},
        **{"l": "traceback", "k": "traceback", "m": "memory", "h": "hang", "c": "crash"},
    }


def test_inputs_follow_from_the_seed_and_bad_ones_are_kept(fuzz, tmp_path):
    def read(folder):
        raise KeyError((folder / "x").read_bytes())

    def inputs(seed, out):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fuzz, "outcome", lambda read, folder, expected: ("traceback", "x"))
            patch.setattr(fuzz, "time", SimpleNamespace(monotonic=count().__next__))
            table = fuzz.fuzz({"x": Format({"x": bytes(50)}, "x", lambda folder: "")}, seed, 6, out, 2**30, 9)
        assert table.loc["x", "traceback"] == len([*out.glob("*-x")]) == 5
        return [(out / f"{seed}-{i}-traceback-x").read_bytes() for i in range(3)]

    first = inputs(0, tmp_path / "a")
    assert first == inputs(0, tmp_path / "b")
    assert first != inputs(1, tmp_path / "c")
    assert len({*first}) == 3


def test_inputs_of_all_formats_are_read_or_refused(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "time", SimpleNamespace(monotonic=count().__next__))
    found = formats(tmp_path)
    table = fuzz.fuzz(found, 0, 4, tmp_path / "bad", 2**30, 60)
    assert table[[*fuzz.GOOD]].sum(axis=1).to_dict() == dict.fromkeys(found, 3)
    assert table["refused"].sum() > len(found)
    assert not (tmp_path / "bad").exists()


def test_changes_inside_leave_checksums_right():
    content = zipped(**{"a": bytes(500), "b": b"1" * 500})
    image = png(4, 4, *[bytes(13)] * 4)
    for i in range(10):
        random = np.random.default_rng(i)
        with zipfile.ZipFile(io.BytesIO(in_zip(content, random))) as archive:
            assert archive.testzip() is None
        found = in_png(image, random)
        at = 8
        while at < len(found):
            size = int.from_bytes(found[at : at + 4])
            assert zlib.crc32(found[at + 4 : at + 8 + size]) == int.from_bytes(found[at + 8 + size : at + 12 + size])
            at += size + 12


def test_states_that_are_changed_are_signed_again():
    buffer, state = io.BytesIO(), {"optimizer": {"step": 1}, "rows": [1, {"a": torch.ones(3)}], "seed": 7}
    torch.save(state, buffer)
    found = [in_checkpoint(checkpoint.signed(buffer.getvalue()), np.random.default_rng(i)) for i in range(40)]
    read = []
    for content in map(checkpoint.verified, found):
        with suppress(Exception):  # of archives in which a byte was changed
            read.append(torch.load(io.BytesIO(content), weights_only=True))
    states = [s for s in read if isinstance(s, dict)]
    assert any(repr(s) != repr(state) for s in states)
    assert all(s["optimizer"] == {"step": 1} for s in states if isinstance(s.get("optimizer"), dict))
