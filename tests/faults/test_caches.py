"""Caches save time and decide nothing: what is damaged in one is made again, and where none can be written work goes on."""

import importlib.util
import logging
import os
import resource
import shutil
import stat

import numpy as np
import pytest

from zolab.models import fingerprint, load_model, tiny_model
from zolab.models.embedded import save
from zolab.noise.kernels import compiled

# --- compiled kernels

SOURCE = "def twice(x):\n    for i in range(x.size):\n        x[i] *= 2\n"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that compiles a kernel anew, or loads it from the cache beside its source, as a new process would."""
    (tmp_path / "home").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))  # no other place
    monkeypatch.setattr(compiled, "_tell_once", compiled._tell_once.__wrapped__)
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("source", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: compiled.kernel(module.twice)


def hits(kernel, dtype=np.float32):
    """Whether the code for a type came from the cache, after a look at what it does."""
    x = np.ones(3, dtype)
    kernel(x)
    assert x.tolist() == [2, 2, 2]
    return sum(kernel.stats.cache_hits.values())


def files(tmp_path, ending):
    paths = sorted((tmp_path / "__pycache__").glob(f"*.{ending}"))
    assert paths
    return paths


def test_a_kernel_is_compiled_once(make):
    assert [hits(make()), hits(make())] == [0, 1]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_kernel_is_made_again(make, tmp_path, ending, damage, caplog):
    hits(make())
    for file in files(tmp_path, ending):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes({"empty": b"", "cut": content[:-9], "flipped": content, "other": b"\x80\x04K\x01."}[damage])
    assert hits(make()) <= (damage == "flipped" and ending == "nbi")  # where a bit of no weight was hit
    assert hits(make()) == 1
    assert not caplog.records


def test_code_for_another_type_is_never_run(make, tmp_path):
    kernel = make()
    hits(kernel)
    hits(kernel, np.int16)
    one, other = files(tmp_path, "nbc")
    one.write_bytes(other.read_bytes())
    for loaded in (1, 2):  # the one that is still sound, then both
        again = make()
        hits(again)
        assert hits(again, np.int16) == loaded


def test_without_a_place_for_the_cache_kernels_are_compiled_each_time(make, tmp_path, caplog):
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    (tmp_path / "__pycache__").touch()  # also where root could write into any folder
    with caplog.at_level(logging.WARNING, "zolab"):
        assert [hits(make()), hits(make())] == [0, 0]
    assert "compiled kernels cannot be kept" in caplog.text
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_a_cache_that_disappears_does_not_stop_the_work(make, tmp_path, caplog):
    kernel = make()
    hits(kernel)
    shutil.rmtree(tmp_path / "__pycache__")
    (tmp_path / "__pycache__").touch()
    with caplog.at_level(logging.WARNING, "zolab"):
        assert hits(kernel, np.int16) == 0
    assert "compiled kernels cannot be kept" in caplog.text


# --- the embedded model's cache


@pytest.mark.parametrize("room", [1000, 20_000])  # the tokenizer does not fit; the weights do not fit
def test_a_full_disk_leaves_nothing_half_written(tmp_path, room):
    parts = reversed(load_model("tiny-random-llama"))
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))  # bytes of a file
    try:
        with pytest.raises(OSError, match=r"could not write .*entry.*; free some space"):
            save(tmp_path / "entry", *parts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert list(tmp_path.iterdir()) == []


def test_a_saved_model_is_whole_and_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        save(tmp_path / "entry", *reversed(load_model("tiny-random-llama")))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "entry").iterdir()} == {0o644}
    assert fingerprint(load_model(str(tmp_path / "entry"))[0]) == fingerprint(tiny_model("llama"))


def test_too_little_room_is_reported_before_the_conversion(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_CACHE", str(tmp_path))
    monkeypatch.setattr("zolab.models.embedded.ROOM", 10**18)
    with pytest.raises(OSError, match=r"cannot be written .*MB of room are left.*: set ZOLAB_CACHE to a folder with"):
        load_model()
