import inspect
import re

import pytest
import typer
import yaml

from leapstep.cli.train import command
from leapstep.networks import UNet
from leapstep.training.configuration import PRESETS, TrainingConfig, configure

DEFAULTS = TrainingConfig()


def in_yaml(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def refusal(*args, **options):
    """The message of a refused configuration; it is one line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        configure(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert type(caught.value) is ValueError  # and not a subclass with a report of many lines
    return message


# --- precedence ----------------------------------------------------------------------------------------------------


def test_later_sources_win(tmp_path):
    """Each of five sources sets one setting more than the next one up, to a value of its own."""
    names = ["warmup", "depth", "steps", "batch_size"]
    base = dict.fromkeys(names, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "mine", dict.fromkeys(names[1:], 20))
        file = in_yaml(tmp_path, yaml.safe_dump(dict.fromkeys(names[2:], 30)))
        config = configure(dict.fromkeys(names[3:], 40), "mine", file, base)
    assert [getattr(config, name) for name in names] == [10, 20, 30, 40]
    assert config.width == DEFAULTS.width


def test_nothing_given_is_the_defaults():
    assert configure({}) == DEFAULTS


def test_a_switch_that_the_file_sets_is_unset_on_the_command_line(tmp_path):
    file = in_yaml(tmp_path, "flip: yes\nlabels: on")
    assert configure({}, None, file).flip
    config = configure({"flip": False}, None, file)
    assert not config.flip
    assert config.labels


def test_a_configuration_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        DEFAULTS.steps = 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset):
    config = configure({}, preset)
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert len(config.attention) == len(config.channels)
    assert not any(width % config.groups for width in config.channels)
    assert config.save_every <= config.steps
    assert config.warmup < config.steps


def test_what_is_recorded_makes_the_same_configuration(tmp_path):
    """The record in a run folder is JSON, and `--resume` starts from it; a YAML file of it works too."""
    config = configure({"channels": "8,16", "attention": "0,1", "flip": True, "learning_rate": 1e-4}, "mnist")
    record = config.model_dump(mode="json")
    assert configure({}, base=record) == config
    assert configure({}, None, in_yaml(tmp_path, yaml.safe_dump(record))) == config


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("channels: 32,64", {"channels": (32, 64)}),
        ("channels: [32, 64]", {"channels": (32, 64)}),
        ("channels: [32, '64']", {"channels": (32, 64)}),
        ("channels:\n- 32\n- 64", {"channels": (32, 64)}),
        ("channels: '32'", {"channels": (32,)}),
        ("attention: 0,1", {"attention": (False, True)}),
        ("attention: [no, yes]", {"attention": (False, True)}),
        ("attention: [0, 1]", {"attention": (False, True)}),
        ("learning_rate: 1e-3", {"learning_rate": 1e-3}),  # text, says YAML 1.1
        ("grey: null", {"grey": None}),
        ("grey: false", {"grey": False}),
        ("size: 32", {"size": 32}),
        ("loss: min_snr\nmin_snr_gamma: 3", {"loss": "min_snr", "min_snr_gamma": 3.0}),
        ("zero_terminal_snr: true\npredicts: v", {"zero_terminal_snr": True, "predicts": "v"}),
    ],
)
def test_what_yaml_may_hold(tmp_path, text, expected):
    config = configure({}, None, in_yaml(tmp_path, text))
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("preset", [None, "digits", "cifar10"])
@pytest.mark.parametrize("channels", ["16", "8,24", (64, 64, 64, 96)])
def test_channels_alone_are_enough(preset, channels):
    """What goes with them follows, and makes a network."""
    config = configure({"channels": channels}, preset)
    if len(config.channels) != len(configure({}, preset).channels):
        assert config.attention == (False,) * (len(config.channels) - 1) + (True,)
    UNet(channels=config.channels, attention=config.attention, groups=config.groups)


def test_what_goes_with_channels_is_left_alone_where_it_fits_or_was_said():
    kept = configure({"channels": "96,96"}, "digits")
    assert kept.attention == PRESETS["digits"]["attention"]
    assert kept.groups == PRESETS["digits"]["groups"]
    assert configure({"channels": "8,16", "attention": "1,0", "groups": 4}).attention == (True, False)
    assert configure({"channels": "8,16", "attention": "1,0", "groups": 4}).groups == 4
    assert len(configure({"channels": "8,16", "attention": "1"}).attention) == 1  # the network refuses it in a line


def test_a_list_of_one_needs_no_brackets(tmp_path):
    assert configure({}, None, in_yaml(tmp_path, "channels: 32")).channels == (32,)


@pytest.mark.parametrize(
    ("channels", "attention"),
    [
        ("32,64", "0,1"),
        ((32, 64), (False, True)),
        ("32, 64", "0, 1"),
    ],
)
def test_lists_on_the_command_line(channels, attention):
    config = configure({"channels": channels, "attention": attention})
    assert config.channels == (32, 64)
    assert config.attention == (False, True)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("size", 0, "greater than or equal to 1"),
        ("size", 5.5, "integer"),
        ("grey", "maybe", "boolean"),
        ("flip", "maybe", "boolean"),
        ("label_dropout", 1, "less than 1"),
        ("label_dropout", -0.1, "greater than or equal to 0"),
        ("schedule", "line", "'linear', .*'cosine'"),
        ("timesteps", 0, "greater than or equal to 1"),
        ("holdout", "120%", "a share such as 10%, or no"),
        ("predicts", "noise", "'eps', 'x0' or 'v'"),
        ("loss", "l1", "'min_snr'"),
        ("min_snr_gamma", 0, "greater than 0"),
        ("network", "vit", "'unet' or 'mlp'"),
        ("channels", "a,b", "integer"),
        ("channels", "", "integer"),
        ("channels", 3.5, "tuple|list"),
        ("attention", "0,2x", "boolean"),
        ("blocks", 0, "greater than or equal to 1"),
        ("head_channels", 0, "greater than or equal to 1"),
        ("groups", 0, "greater than or equal to 1"),
        ("width", 1, "greater than or equal to 2"),
        ("depth", 0, "greater than or equal to 1"),
        ("dropout", 1, "less than 1"),
        ("time_embedding", "fourier", "'sinusoidal' or 'learned'"),
        ("steps", 0, "greater than or equal to 1"),
        ("steps", "many", "integer"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("accumulate", 0, "greater than or equal to 1"),
        ("learning_rate", 0, "greater than 0"),
        ("learning_rate", "fast", "number"),
        ("lr_schedule", "step", "'constant' or 'cosine'"),
        ("warmup", -1, "greater than or equal to 0"),
        ("weight_decay", -1, "greater than or equal to 0"),
        ("clip_gradient", 0, "greater than 0"),
        ("ema_decay", 1, "less than 1"),
        ("precision", "fp8", "'auto', 'float32' or 'bf16'"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**63, "less than"),
        ("log_every", 0, "greater than or equal to 1"),
        ("sample_every", 0, "greater than or equal to 1"),
        ("save_every", 0, "greater than or equal to 1"),
        ("labels", 3, "boolean"),
        ("strict", None, "boolean"),
        ("zero_terminal_snr", "half", "boolean"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(tmp_path, name, value, allowed):
    for message in (refusal({name: value}), refusal({}, None, in_yaml(tmp_path, yaml.safe_dump({name: value})))):
        assert message.startswith(f"{name}=")
        shown = {"a,b": "a", "0,2x": "2x"}.get(value, value) if isinstance(value, str) else value
        assert repr(shown) in message
        assert re.search(allowed, message), message


FLOATS = sorted(name for name, field in TrainingConfig.model_fields.items() if field.annotation is float)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_are_finite(name, number):
    """JSON, in which the record is kept, knows no others."""
    assert f"{name}={number}" in refusal({name: float(number)})


def test_every_bad_value_is_named_in_one_line():
    message = refusal({"steps": 0, "groups": 0, "schedule": "line"})
    for name in ("steps=0", "groups=0", "schedule='line'"):
        assert name in message


def test_settings_that_exclude_each_other():
    assert "batch_size 10 is not a multiple of accumulate 4" in refusal({"batch_size": 10, "accumulate": 4})
    message = refusal({"zero_terminal_snr": True})
    assert "zero_terminal_snr" in message
    assert "v or x0" in message
    configure({"batch_size": 12, "accumulate": 4, "zero_terminal_snr": True, "predicts": "v"})


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("learning_rat", "learning_rate"),
        ("lr", "lr_schedule"),
        ("batchsize", "batch_size"),
        ("batch-size", "batch_size"),
        ("ema", "ema_decay"),
        ("channel", "channels"),
        ("prediction", "predicts"),
        ("time_steps", "timesteps"),
    ],
)
def test_an_unknown_setting_names_its_neighbour(tmp_path, given, near):
    for message in (refusal({given: 1}), refusal({}, None, in_yaml(tmp_path, f"{given}: 1"))):
        assert repr(given) in message
        assert f"did you mean {near!r}" in message


def test_an_unknown_preset_names_those_there_are():
    message = refusal({}, "imagenet")
    assert "'imagenet'" in message
    for name in PRESETS:
        assert name in message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"steps: [1", "not YAML"),
        (b"steps: 1\n steps: 2\n: :", "not YAML"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
        (b"- 1", "name: value"),
        (b"just words", "name: value"),
        (b"", "name: value"),
        (b"\xff\xfe\x00\x01", "is not UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path, content, word):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    message = refusal({}, None, path)
    assert str(path) in message
    assert word in message


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "nothing.yaml") in refusal({}, None, tmp_path / "nothing.yaml")
    assert str(tmp_path) in refusal({}, None, tmp_path)


# --- the options of `leapstep train` -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TrainingConfig.model_fields)
def test_every_setting_is_an_option_with_its_description(name):
    field = TrainingConfig.model_fields[name]
    option = inspect.signature(command).parameters[name]
    assert option.default is None  # so that what was not given cannot win over a file or a preset
    (described,) = [part for part in option.annotation.__metadata__ if isinstance(part, typer.models.OptionInfo)]
    assert field.description
    assert described.help.startswith(field.description)
    if field.default is not None and not isinstance(field.default, tuple):
        assert f"default: {field.default}" in described.help


def test_lists_are_shown_as_they_are_given():
    (channels, attention) = (inspect.signature(command).parameters[name] for name in ("channels", "attention"))
    assert "default: 64,128,128]" in channels.annotation.__metadata__[0].help
    assert "default: 0,0,1]" in attention.annotation.__metadata__[0].help


@pytest.mark.parametrize(
    ("name", "choices"),
    [("predicts", "eps | x0 | v"), ("network", "unet | mlp"), ("precision", "auto | float32 | bf16")],
)
def test_choices_are_shown(name, choices):
    assert choices in inspect.signature(command).parameters[name].annotation.__metadata__[0].help
