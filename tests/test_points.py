"""Tables of points: every format there and back, every refusal, and no code of a file that runs."""

import io
import math
import os
import pickle
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file as save_safetensors
from safetensors.torch import save_file as save_tensors

from moonbed.points import CONTAINERS, SUFFIXES, PointsError, as_points, parse_points, read_points

X = np.array([[1.5, -2.0, 3e-9], [0.1, 1e300, -0.0]])


def write(path, x):
    """A table in the format of the path's suffix."""
    x = np.asarray(x)
    match path.suffix.lower():
        case ".npy":
            with path.open("wb") as file:  # a name would be given a second suffix
                np.save(file, x)
        case ".npz":
            with path.open("wb") as file:
                np.savez(file, x=x)
        case ".pt" | ".pth":
            torch.save(torch.tensor(x), path)
        case ".safetensors":
            save_safetensors({"x": x}, path)
        case suffix:
            mark = {".csv": ",", ".tsv": "\t", ".txt": " "}[suffix]
            path.write_text("\n".join(mark.join(map(repr, row)) for row in x.tolist()))
    return path


def refused(path, message, **options):
    with pytest.raises(PointsError, match=message) as error:
        read_points(path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(suffix, tmp_path):
    for path in (tmp_path / f"x{suffix}", tmp_path / f"x{suffix.upper()}"):
        read = read_points(write(path, X))
        np.testing.assert_array_equal(read, X)
        assert read.dtype == np.float64
        assert read.flags.c_contiguous
        read[:] = 0  # one's own
    assert read_points(str(path)).shape == X.shape
    np.testing.assert_array_equal(parse_points(path.read_bytes(), suffix), X)


@settings(max_examples=60, deadline=None)
@given(
    x=arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(allow_nan=False, allow_infinity=True),
    ),
    mark=st.sampled_from([",", ";", "\t", " ", "  ", " , "]),
    newline=st.sampled_from(["\n", "\r\n"]),
    header=st.booleans(),
    blank=st.booleans(),
)
def test_text_holds_every_float(x, mark, newline, header, blank):
    """Bit for bit, whatever stands between the numbers."""
    lines = [mark.join(map(repr, row)) for row in x.tolist()]
    lines = [mark.join(["name"] * x.shape[1])] * header + [""] * blank + [f"{line}  # why" for line in lines]
    read = parse_points(newline.join(lines).encode(), ".txt")
    assert read.tobytes() == x.tobytes()


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | st.text(alphabet="01.,;- \n#eEnaif\t", max_size=40).map(str.encode))
def test_bytes_are_points_or_an_error(content):
    """Nothing else ever comes of a file, whatever its name claims."""
    for suffix in SUFFIXES:
        try:
            read = parse_points(content, suffix)
        except PointsError:
            continue
        assert read.ndim == 2
        assert read.size
        assert not np.isnan(read).any()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_what_is_cut_off_is_an_error(suffix, tmp_path):
    content = write(tmp_path / f"x{suffix}", np.arange(600.0).reshape(200, 3)).read_bytes()
    for length in [0, 1, 7, 60, len(content) // 2, len(content) - 1]:
        with pytest.raises(PointsError, match=r"no|holds|damaged"):
            parse_points(content[:length], suffix)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_flipped_bit_is_an_error_where_there_is_a_checksum(suffix, tmp_path):
    content = bytearray(write(tmp_path / f"x{suffix}", np.arange(600.0).reshape(200, 3)).read_bytes())
    content[content.find(np.arange(300.0, 303.0).tobytes())] ^= 1
    with pytest.raises(PointsError, match=r"damaged|no .npz file"):
        parse_points(bytes(content), suffix)


@pytest.mark.parametrize("kind", ["<f2", ">f4", ">f8", "<i1", ">i8", "<u4", "longdouble"])
def test_real_numbers_of_any_type(kind, tmp_path):
    x = np.array([[1, 2], [3, 4]], dtype=kind)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    read = read_points(tmp_path / "x.npy")
    assert read.tolist() == [[1, 2], [3, 4]]
    assert read.dtype.isnative


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_tensors_of_any_real_type(kind, tmp_path):
    x = torch.tensor([[1, 2], [3, 4]]).to(kind)
    torch.save(x, tmp_path / "x.pt")
    save_tensors({"x": x}, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        assert read_points(tmp_path / name).tolist() == [[1, 2], [3, 4]]
    assert as_points(x).tolist() == [[1, 2], [3, 4]]


def test_tensors_as_a_training_leaves_them(tmp_path):
    x = torch.ones(3, 2, requires_grad=True)
    for saved in (x, torch.nn.Parameter(x.detach()), torch.ones(2, 3).T, torch.ones(9, 2)[::3]):
        torch.save(saved, tmp_path / "x.pt")
        assert read_points(tmp_path / "x.pt").tolist() == [[1, 1]] * 3
    torch.save(x.detach(), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert read_points(tmp_path / "x.pt").tolist() == [[1, 1]] * 3
    assert as_points(x).tolist() == [[1, 1]] * 3


def test_a_tensor_on_a_gpu_is_read_without_one(tmp_path):
    """The file of a CUDA tensor says so in its pickle; only the word is changed here."""
    torch.save(torch.ones(3, 2), tmp_path / "cpu.pt")
    with (
        zipfile.ZipFile(tmp_path / "cpu.pt") as cpu,
        zipfile.ZipFile(tmp_path / "cuda.pt", "w", zipfile.ZIP_STORED) as cuda,
    ):
        for name in cpu.namelist():
            # a text of pickle: X, four bytes of length, then the letters
            cuda.writestr(name, cpu.read(name).replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
        assert b"cuda:0" in (tmp_path / "cuda.pt").read_bytes()
    assert read_points(tmp_path / "cuda.pt").tolist() == [[1, 1]] * 3


# Several arrays


def test_arrays_by_name(tmp_path):
    many = {"samples": X, "steps": np.arange(3), "other": 2 * X}
    np.savez_compressed(tmp_path / "x.npz", **many)
    save_safetensors(many, tmp_path / "x.safetensors")
    torch.save({**{k: torch.tensor(v) for k, v in many.items()}, "epoch": 3}, tmp_path / "x.pt")
    for name in ("x.npz", "x.safetensors", "x.pt"):
        path = tmp_path / name
        np.testing.assert_array_equal(read_points(path, "samples"), X)
        np.testing.assert_array_equal(read_points(path, key="other"), 2 * X)
        refused(path, "holds 3 arrays, say which with key: .*samples")
        refused(path, "no array called 'sample'; did you mean 'samples'. known: other, samples, steps", key="sample")
        refused(path, "shape", key="steps")
    refused(tmp_path / "x.pt", "'epoch' is no tensor but of type int", key="epoch")
    torch.save({"x": torch.tensor(X), "epoch": 3}, tmp_path / "one.pt")
    np.testing.assert_array_equal(read_points(tmp_path / "one.pt"), X)
    torch.save({f"layer{k}": torch.ones(2, 2) for k in range(500)}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "holds 500 arrays.* and 488 more")


def test_a_key_where_there_are_no_names(tmp_path):
    for suffix in set(SUFFIXES) - set(CONTAINERS):
        refused(write(tmp_path / f"x{suffix}", X), "names an array in .npz", key="x")
    refused(write(tmp_path / "x.pt", X), "leave key out", key="x")


def test_containers_without_an_array(tmp_path):
    np.savez(tmp_path / "x.npz")
    save_safetensors({}, tmp_path / "x.safetensors")
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    for name in ("x.npz", "x.safetensors", "x.pt"):
        refused(tmp_path / name, "holds no arrays")
    torch.save([torch.ones(2, 2)], tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "a tensor or a dict of tensors, holds list")


# What is refused


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "d.csv").mkdir()
    refused(tmp_path / "none.npy", "cannot read .*No such file")
    refused(tmp_path / "d.csv", "cannot read")
    refused(tmp_path / ("x" * 5000 + ".csv"), "cannot read")
    for name, suffix in (("x.mat", ".mat"), ("x.csv.gz", ".gz"), ("points", "no suffix")):
        (tmp_path / name).write_text("1,2")
        refused(tmp_path / name, f"should be one of .csv, .npy, .*.txt, given {suffix}")
    for odd in ("a\0b.csv", "~nobody-of-that-name/x.csv"):
        with pytest.raises(PointsError, match="cannot read"):
            read_points(odd)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "x.csv", "no UTF-8")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(5), r"shape \(points, coordinates\), has \(5,\)"),
        (np.zeros(()), "shape"),
        (np.zeros((2, 2, 2)), r"\(2, 2, 2\)"),
        (np.zeros((0, 2)), r"no points.*\(0, 2\)"),
        (np.zeros((5, 0)), r"no columns.*\(5, 0\)"),
        (np.array([[1, 2j]], dtype=np.complex64), "real numbers, has type .*complex64"),
        (np.array([[True, False]]), "real numbers, has type .*bool"),
        (np.array([[1, 2], [3, math.nan]]), "point 2, column 2 is NaN"),
    ],
)
def test_what_is_no_table(suffix, x, message, tmp_path):
    if (suffix, x.dtype.kind) == (".safetensors", "c") and version("safetensors") < "0.7":
        pytest.skip("this safetensors writes no complex numbers")
    refused(write(tmp_path / f"x{suffix}", x), message)


@pytest.mark.parametrize("x", [np.array([["a", "b"]]), np.zeros((2, 2), "M8[s]"), np.zeros(2, "f8,f8")], ids=str)
def test_arrays_that_are_no_numbers(x, tmp_path):
    for suffix in (".npy", ".npz"):
        refused(write(tmp_path / f"x{suffix}", x), "real numbers")
    with pytest.raises(PointsError, match="real numbers"):
        as_points(x)


def test_what_is_no_array():
    for x, message in (
        ([[1, 2], [3]], "no array of numbers"),
        ([[1, None]], "Python objects"),
        ("x.npy", "real numbers"),
    ):
        with pytest.raises(PointsError, match=message):
            as_points(x)
    assert as_points([[1, 2]]).tolist() == [[1, 2]]


def test_tensors_that_are_no_tables(tmp_path):
    for x, message in (
        (torch.eye(3).to_sparse(), "dense tensor, has the layout"),
        (torch.ones(2, 2, device="meta"), "no data"),
    ):
        torch.save(x, tmp_path / "x.pt")
        with pytest.raises(PointsError, match=message):
            as_points(x)
        refused(tmp_path / "x.pt", f"{message}|no file of torch.save|pickled")


def test_infinite_values_pass_unless_asked(tmp_path):
    x = [[1.0, 2.0], [math.inf, -math.inf]]
    for suffix in SUFFIXES:
        path = write(tmp_path / f"x{suffix}", x)
        assert read_points(path).tolist() == x
        refused(path, r"point 2, column 1 is not finite \(inf\)", finite=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no points"),
        ("x,y\n# nothing\n", "no points"),
        ("1,2\n3,4,5\n", "line 2 has 3 columns, the lines before it 2"),
        ("x y\n1 2\n3 x\n", "line 3: 'x' is no number"),
        ("1,5;2,5\n", "line 1: '5;2' is no number"),
        ("1,2\n3,\n", "line 2: '' is no number"),
        ("1,2\n3,NaN\n", "point 2, column 2 is NaN"),
    ],
)
def test_texts_that_are_refused(text, message, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    refused(tmp_path / "x.csv", message)


# Pickles


class Evil:
    """When unpickled it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_run(tmp_path):
    ran, evil = tmp_path / "ran", Evil(tmp_path / "ran")
    objects = np.empty((1, 2), dtype=object)
    objects[:] = evil
    np.save(tmp_path / "objects.npy", objects)
    np.savez(tmp_path / "objects.npz", objects)
    for suffix in (".npy", ".npz", ".pt"):
        (tmp_path / f"raw{suffix}").write_bytes(pickle.dumps(evil))
    torch.save(evil, tmp_path / "evil.pt")
    torch.save({"x": torch.ones(2, 2), "y": evil}, tmp_path / "beside.pt")
    torch.save(evil, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("objects.npy", "objects.npz", "raw.npy", "raw.npz", "raw.pt", "evil.pt", "beside.pt", "legacy.pt"):
        refused(tmp_path / name, "pickled Python objects.*may run code when read; save with")
    assert not ran.exists()
    pickle.loads((tmp_path / "raw.pt").read_bytes())
    assert ran.exists()  # it would have


def test_pickled_arrays_and_modules_are_told_what_to_do(tmp_path):
    torch.save(np.zeros((3, 2)), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", r"pickled Python objects \(.*\).*torch.save\(x, path\) of a tensor")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "torch.nn.modules.linear.Linear")


def test_arrays_that_claim_more_than_they_hold():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((10, 2)))
    with pytest.raises(PointsError, match=r"no \.npy file"):
        parse_points(buffer.getvalue().replace(b"(10, 2)", b"(99, 2)"), ".npy")
