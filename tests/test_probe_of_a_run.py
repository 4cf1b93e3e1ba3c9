"""`zolab finetune` sees moved weights in place or through the modules: the same run either way."""

import json
from dataclasses import replace

import pytest
from small import equal, weights

from zolab.probe.model_view import ModelView
from zolab.runs.finetune import Config, finetune
from zolab.runs.probing import choose_probe

CONFIG = Config(
    model="tiny-random-llama", lr=1e-3, steps=6, eval_every=3, batch_size=4, train=12, dev=4, test=4, probe="in_place"
)


def run(config, out):
    return finetune(config, out, progress=False)


@pytest.fixture(scope="module")
def in_place(tmp_path_factory):
    out = tmp_path_factory.mktemp("in_place")
    return out, run(CONFIG, out)


@pytest.fixture
def chosen(monkeypatch):
    """Whether each session that took steps looked through its model."""
    looked = []

    def noting(config, optimizer, *others):
        choose_probe(config, optimizer, *others)
        looked.append(optimizer.viewed is not None)

    monkeypatch.setattr("zolab.runs.finetune.choose_probe", noting)
    return looked


@pytest.mark.parametrize(("probe", "through"), [("auto", False), ("through", True)])
def test_every_probe_gives_the_same_bits(in_place, tmp_path, chosen, probe, through):
    _, done = in_place
    other = run(replace(CONFIG, probe=probe), tmp_path)
    assert chosen == [through]  # in float32 on a CPU moving weights in place is faster
    assert other.record["steps"] == done.record["steps"]
    assert other.record["result"] == done.record["result"]
    assert equal(weights(other.model), weights(done.model))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_so_it_is_in_half_precision(tmp_path, chosen, dtype):
    one, two = (run(replace(CONFIG, probe=probe, dtype=dtype), tmp_path / probe) for probe in ("in_place", "auto"))
    assert chosen == [False, True]
    assert one.record["steps"] == two.record["steps"]
    assert equal(weights(one.model), weights(two.model))


def test_a_run_that_is_older_than_the_setting_goes_on_in_place(in_place, tmp_path, chosen):
    out, done = in_place
    lines = (out / "log.jsonl").read_text().splitlines()[1:]
    lines = [line.rpartition(', "crc"')[0] + "}" for line in lines]  # without checksums, as such logs are
    started = json.loads(lines[0])
    del started["config"]["probe"], started["config"]["stuck"]
    half = next(i for i, line in enumerate(lines) if '"event": "step"' in line) + 4
    (tmp_path / "log.jsonl").write_text("\n".join([json.dumps(started), *lines[1:half]]) + "\n")
    with pytest.raises(ValueError, match="probe 'in_place' there, 'through' here"):
        run(replace(CONFIG, probe="through"), tmp_path)
    again = run(replace(CONFIG, probe="auto"), tmp_path)
    assert chosen == [False]
    assert equal(weights(again.model), weights(done.model))


def test_auto_moves_weights_in_place_where_they_are_read_elsewhere_too(tmp_path, chosen, monkeypatch):
    def refuse(viewed, closure):
        raise ValueError("embed.weight is read outside")

    monkeypatch.setattr(ModelView, "try_out", refuse)
    half = replace(CONFIG, dtype="bfloat16")
    done, auto = (run(replace(half, probe=probe), tmp_path / probe) for probe in ("in_place", "auto"))
    assert chosen == [False, False]
    assert equal(weights(auto.model), weights(done.model))
    with pytest.raises(ValueError, match=r"embed\.weight is read outside"):
        run(replace(CONFIG, probe="through"), tmp_path / "through")


def test_a_probe_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown probe 'both'; choose auto, in_place, through"):
        run(replace(CONFIG, probe="both"), tmp_path)
