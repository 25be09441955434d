"""A config is complete, checked, and known by one key; every setting that is wrong is named."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from tiny import python, refused

from ddpm_lib.config import RECIPES, Config, config_from_dict, config_from_yaml
from ddpm_lib.errors import ConfigError, DDPMError, InputError

# Another valid value for every setting.
OTHER = {
    "T": 500,
    "schedule": "cosine",
    "beta_start": 2e-4,
    "beta_end": 0.03,
    "conditional": True,
    "head_width": 4,
    "epochs": 1.5,
    "batch_size": 64,
    "lr": 1e-3,
    "lr_schedule": "one_cycle",
    "drop_probability": 0.2,
    "ema_beta": 0.999,
    "ema_start": 0,
    "power_emas": True,
    "seed": 1,
    "precision": "fp32",
}


def test_every_setting_can_be_changed_and_each_change_gives_another_key():
    assert OTHER.keys() == {field.name for field in fields(Config)}
    keys = {Config().replace(**{name: value}).key() for name, value in OTHER.items()}
    assert len(keys | {Config().key()}) == len(OTHER) + 1


def test_equal_configs_have_equal_keys():
    assert Config(epochs=20, drop_probability=0) == Config(epochs=20.0, drop_probability=0.0)
    assert Config(epochs=20, drop_probability=0).key() == Config(epochs=20.0, drop_probability=0.0).key()


def test_the_key_is_the_same_in_every_process():
    script = "from ddpm_lib.config import Config; print(Config(conditional=True).key())"
    process = python(script, PYTHONHASHSEED="12345")
    assert process.communicate(timeout=60)[0].strip() == Config(conditional=True).key()


def test_a_dict_brings_a_config_back():
    config = Config(**OTHER)
    assert config_from_dict(config.to_dict()) == config


def test_what_a_dict_leaves_out_keeps_its_default():
    assert config_from_dict({"seed": 7}) == Config(seed=7)


def test_a_yaml_file_brings_a_config_back(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("# the report's recipe, shorter\nepochs: 2\nconditional: true\nschedule: cosine\n")
    assert config_from_yaml(str(path)) == Config(epochs=2.0, conditional=True, schedule="cosine")


def test_an_empty_yaml_file_means_the_defaults(tmp_path):
    (tmp_path / "run.yaml").touch()
    assert config_from_yaml(tmp_path / "run.yaml") == Config()


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "3E-04", "+3.e-4", "0.0003"])
def test_numbers_in_yaml_may_be_written_as_in_python(tmp_path, text):
    (tmp_path / "run.yaml").write_text(f"lr: {text}\n")
    assert config_from_yaml(tmp_path / "run.yaml").lr == 3e-4


def test_yaml_is_not_executed(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'harm'}']\n")
    with pytest.raises(ConfigError, match=r"run\.yaml is not valid YAML"):
        config_from_yaml(path)
    assert not (tmp_path / "harm").exists()


def test_recipes_differ():
    assert len({config.key() for config in RECIPES.values()}) == len(RECIPES)


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        Config().seed = 1


def test_replace_leaves_the_original_alone():
    config = Config()
    assert config.replace(seed=1).seed == 1
    assert config.seed == 0


def test_a_config_error_is_an_input_error_a_value_error_and_one_of_ours():
    assert issubclass(ConfigError, InputError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, DDPMError)


BAD = [
    # setting, value, what the message must hold
    ("T", 1, ["T is 1", "2 … 100000"]),
    ("T", -5, ["T is -5", "2 … 100000"]),
    ("T", 1000.0, ["T is 1000.0", "a float", "type int"]),
    ("T", True, ["T is True", "a bool", "type int"]),
    ("T", "1000", ["T is '1000'", "a str", "type int"]),
    ("schedule", "cosin", ["schedule is 'cosin'", "did you mean cosine?", "Known: cosine, linear"]),
    ("schedule", 3, ["schedule is 3", "a int", "type str"]),
    ("beta_start", 0.0, ["beta_start is 0.0", "inside (0, 1)"]),
    ("beta_start", -1e-4, ["beta_start is -0.0001", "inside (0, 1)"]),
    ("beta_start", 0.5, ["beta_start 0.5", "beta_end 0.02", "swap"]),
    ("beta_end", 1.0, ["beta_end is 1.0", "inside (0, 1)"]),
    ("beta_end", math.nan, ["beta_end is nan", "inside (0, 1)"]),
    ("conditional", 1, ["conditional is 1", "type bool"]),
    ("conditional", "yes", ["conditional is 'yes'", "type bool"]),
    ("head_width", 0, ["head_width is 0", "1 … 16"]),
    ("head_width", 32, ["head_width is 32", "1 … 16"]),
    ("head_width", 5, ["head_width is 5", "divide 16"]),
    ("epochs", 0.0, ["epochs is 0.0", "above 0"]),
    ("epochs", math.inf, ["epochs is inf", "finite"]),
    ("epochs", None, ["epochs is None", "type float"]),
    ("batch_size", 0, ["batch_size is 0", "1 … 60000"]),
    ("batch_size", 60_001, ["batch_size is 60001", "1 … 60000"]),
    ("lr", -3e-4, ["lr is -0.0003", "above 0"]),
    ("lr", math.nan, ["lr is nan", "finite"]),
    ("lr", "3e-4", ["lr is '3e-4'", "type float"]),
    ("lr_schedule", "onecycle", ["lr_schedule is 'onecycle'", "did you mean one_cycle?"]),
    ("drop_probability", 1.1, ["drop_probability is 1.1", "0.0 … 1.0"]),
    ("drop_probability", -0.1, ["drop_probability is -0.1", "0.0 … 1.0"]),
    ("drop_probability", math.nan, ["drop_probability is nan", "0.0 … 1.0"]),
    ("ema_beta", 1.0001, ["ema_beta is 1.0001", "0.0 … 1.0"]),
    ("ema_beta", -1.0, ["ema_beta is -1.0", "0.0 … 1.0"]),
    ("ema_start", -1, ["ema_start is -1", "0 … "]),
    ("seed", -1, ["seed is -1", "0 … 4294967295"]),
    ("seed", 2**32, ["seed is 4294967296", "0 … 4294967295"]),
    ("precision", "fp8", ["precision is 'fp8'", "Known: auto, bf16, fp16, fp32"]),
    # unknown names
    ("guidance", 1.0, ["'guidance'", "Known:", "schedule"]),
    ("learning_rate", 1e-3, ["'learning_rate'", "Known:", "lr"]),
    ("drop_probabilty", 0.1, ["'drop_probabilty'", "did you mean drop_probability?"]),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
def test_a_bad_setting_is_refused_by_name_with_its_range(name, value, words):
    for build in (lambda: config_from_dict({name: value}), lambda: Config().replace(**{name: value})):
        with refused(words, ConfigError):
            build()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["run.yaml", "cannot read"]),
        (b"- 1\n- 2\n", ["run.yaml", "list", "name: value"]),
        (b"seed: [1\n", ["run.yaml", "not valid YAML"]),
        (b"\xff\xfe\x00seed", ["run.yaml", "not valid YAML"]),
        (b"sead: 1\n", ["'sead'", "did you mean seed?"]),
        (b"1: 2\n", ["there is no setting 1"]),
        (b"lr: quick\n", ["lr is 'quick'", "type float"]),
        (b"seed: 1\nseed: 2\n", ["run.yaml", "'seed' stands twice"]),
    ],
    ids=["missing", "a list", "torn", "not text", "a misspelt name", "a number as name", "a word", "a name twice"],
)
def test_a_bad_yaml_file_is_refused_with_the_reason(tmp_path: Path, text, words):
    if text is not None:
        (tmp_path / "run.yaml").write_bytes(text)
    with refused(words, ConfigError):
        config_from_yaml(tmp_path / "run.yaml")
