"""Plans, settings and the words of methods that were made to do harm: refused in one sentence, at once."""

import json
import math
import os

import pytest
import torch
from refusals import refused

from zolab.l2l import EvolveConfig, MetaConfig
from zolab.runs.config import Config
from zolab.studies import controls, draws, recipes, scales  # noqa: F401 (an import is not what is timed)
from zolab.studies.plan import check_plan, load_plan

PLAN = {
    "base": {"model": "tiny-reviews", "batch_size": 2, "steps": 2, "train": 8, "dev": 4, "test": 2, "eval_every": 1},
    "tasks": {"sentence": {"task": "reviews_sentence", "lr": 1e-4}},
    "methods": {"MeZO": {"optimizer": "mezo"}},
    "search": {"factor": 3, "extend": 0, "seeds": [9]},
    "seeds": [0],
}
TEXT = json.dumps(PLAN)  # JSON is YAML


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(40)), "line 1 has an anchor or an alias"),
        ("base: &b {lr: 1}\nseeds: *b\n", "line 1 has an anchor"),
        ("base: !!python/object/apply:os.system [ls]", "line 1 has the tag"),
        ("base: !!binary aGk=", "line 1 has the tag"),
        ("[" * 60_000, "line 1 is nested more than 10 deep"),
        ("- " * 30_000, "line 1 is nested more than 10 deep"),
        ("{a: " * 11 + "}" * 11, "nested more than 10 deep"),
        ("x" * 70_000, "70,000 bytes, where at most 65,536"),
        ("base: {lr: 1}\nbase: {lr: 2}", "line 2 has the key 'base' for the second time"),
        ("base:\n  lr: 1\n  lr: 2", "line 3 has the key 'lr' for the second time"),
        ("base: {<<: {lr: 1}}", "line 1 has the key '<<'"),
        ("1: x", "line 1 has the key '1', which is not a text"),
        ("? [a]\n: x", "line 1 has the key .*, which is not a text"),
        ("a: 2020-13-45", "not a YAML file"),
        ("a: " + "9" * 5000, "not a YAML file"),
        ("\x01", "not a YAML file"),
        (TEXT[:-1] + ', "about": 2020-01-01}', "about has a value of no kind"),
        (TEXT.replace('"lr": 0.0001', '"lr": .nan'), "tasks.sentence.lr must be a finite number, got nan"),
        (TEXT.replace('"lr": 0.0001', '"lr": -.inf'), "tasks.sentence.lr must be a finite number, got -inf"),
        (TEXT.replace('"steps": 2', '"steps": 99999999999999999999'), "base.steps is too large"),
        (TEXT.replace('"steps": 2', '"steps": 9999999999'), "steps must be at most 1,000,000,000"),
        (TEXT.replace('"seeds": [0]', '"seeds": [4294967296]'), "seeds must be a list of different whole seeds less than 2"),
        (TEXT.replace('"seeds": [9]', '"seeds": [4294967296]'), "search.seeds must be a list of different whole seeds"),
        (TEXT.replace('"factor": 3', '"factor": 1.0e+200, "extend": 50').replace(', "extend": 0', ""), "search goes too far"),
        (TEXT.replace('"MeZO"', '"../../MeZO"'), "methods has the name '../../MeZO', which cannot name a folder"),
        (TEXT.replace('"sentence"', '"' + "s" * 500 + '"'), "tasks has the name 'sss.*which cannot name a folder"),
        (TEXT[:-1] + ', "study": [1]}', "unknown study"),
        (TEXT[:-1] + ', "study": "draws", "model_seeds": 3}', "model_seeds must be a list"),
        (TEXT[:-1] + ', "study": "recipes", "recipes": [1]}', "recipes must be a dict"),
        (TEXT[:-1] + ', "study": "recipes", "recipes": {"base": 3}}', "recipes.base must be settings, got 3"),
    ],
)
def test_plans_that_cannot_be(tmp_path, text, match):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    refused(lambda: load_plan(path), match)


def test_a_plan_as_it_should_be(tmp_path):
    (tmp_path / "plan.yaml").write_text(TEXT)
    plan = load_plan(tmp_path / "plan.yaml")
    assert plan == check_plan(PLAN)
    assert check_plan({**PLAN, "seeds": [2**32 - 1]}).seeds == (2**32 - 1,)


def test_a_pipe_is_no_plan(tmp_path):
    os.mkfifo(tmp_path / "plan.yaml")
    refused(lambda: load_plan(tmp_path / "plan.yaml"), "is not a file")


# ---- settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"data_seed": 2**32}, "data_seed must be at most 4,294,967,295, got 4294967296"),
        ({"seed": 2**64}, "seed must be at most 18,446,744,073,709,551,615"),
        ({"seed": 10**5000}, "seed must be at most .* got a number of very many digits"),
        ({"eps": 1e-50}, "eps must be at least 1e-37, got 1e-50"),
        ({"eps": 1e50}, r"eps must be at most 1e\+37"),
        ({"samples": 10**20}, "samples must be at most 10,000"),
        ({"steps": 10**20}, "steps must be at most 1,000,000,000"),
        ({"batch_size": 10**20}, "batch_size must be at most"),
        ({"train": 10**20}, "train must be at most"),
        ({"lr": math.inf}, "lr must be at most"),
        ({"lr": math.nan}, "lr must be at least 0, got nan"),
        ({"model": 3}, "model must be str, got 3"),
        ({"optimizer": "x" * 100_000}, "unknown optimizer"),
    ],
)
def test_settings_out_of_range(settings, match):
    refused(lambda: Config(**settings).validate(), match)


def test_the_greatest_settings_are_taken():
    Config(seed=2**64 - 1, data_seed=2**32 - 1, samples=10**4, steps=10**9, lr=1e160, eps=1e-37).validate()
    torch.Generator().manual_seed(2**64 - 1)


@pytest.mark.parametrize(
    ("config", "settings", "match"),
    [
        (MetaConfig, {"lr": 1e10}, "^lr must be at most 10,000"),
        (MetaConfig, {"lr_zo": 1e10}, "^lr_zo must be at most 10000"),
        (MetaConfig, {"meta_lr": 1e10}, "^meta_lr must be at most"),
        (MetaConfig, {"hidden": 10**7}, "^hidden must be at most 16,384"),
        (MetaConfig, {"data_seed": 2**32}, "^data_seed must be at most"),
        (MetaConfig, {"seed": "7"}, "^seed must be int, got '7'"),
        (MetaConfig, {"measured": 10**20}, "^measured must be at most"),
        (EvolveConfig, {"spread": 1e6}, "^spread must be at most 100, got 1000000.0"),
        (EvolveConfig, {"rate": 1e6}, "^rate must be at most 10"),
        (EvolveConfig, {"eps": 1e-50}, "^eps must be at least 1e-37"),
        (EvolveConfig, {"pairs": 10**20}, "^pairs must be at most"),
        (EvolveConfig, {"seed": 2**64 - 1}, "^seed must be less than"),
        (EvolveConfig, {"data_seed": 2**32}, "^data_seed must be at most"),
        (EvolveConfig, {"dev": "3"}, "^dev must be int, got '3'"),
    ],
)
def test_settings_of_learning_to_learn_are_named(config, settings, match):
    refused(lambda: config(**settings).validate(), match)


@pytest.mark.parametrize(
    "text",
    [
        *("horizon=3) + dict(a=1", "horizon=3)(a=1", "horizon=3) if 1 else dict(a=1", "horizon=3) < dict(a=1", "horizon=3) #"),
        *(
            "horizon=3)[0](a=1",
            "**{'horizon': 3}",
            "*[3]",
            "3",
            "horizon",
            "horizon==3",
            "horizon=3, horizon=4",
            "horizon=print()",
        ),
        *("horizon=" + "[" * 5000, "horizon=" + "-" * 50_000 + "1", "horizon=" + "(" * 100 + "1" + ")" * 100 + "+1"),
        *("horizon=1" + "+1" * 30_000, "horizon=a" + ".b" * 30_000, "horizon=" + "f(" * 300 + ")" * 300),
        *("horizon=1e999", "betas=(0.9, -1e999)", "horizon=9**9**9", "horizon=0x" + "f" * 5000, "horizon=" + "9" * 5000),
        *(
            "betas=1",
            "betas=(0.9,)",
            "betas='ab'",
            "betas=(None, 1)",
            "betas={1: 2}",
            "horizon=1j",
            "horizon=b'x'",
            "horizon=...",
        ),
        *("horizon=[[[[1]]]]", "lr=3", "params=3", "x" * 100_000, "horizon=\x00", "horizon='\ud800"),
    ],
)
def test_optim_args_that_do_not_fit(text):
    refused(lambda: Config(optimizer="adamezo", optim_args=text).validate(), "do not fit adamezo|must lie in|must be")


def test_optim_args_that_fit():
    Config(optimizer="adamezo", optim_args="horizon=10,\n betas=(0.7, 0.9,),").validate()
    Config(optimizer="mezo", optim_args=f"sigma={[0.123456789] * 4000}").validate()
