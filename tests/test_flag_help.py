"""`--help` of every command: its flags, and the fields of a config with what they mean."""

import re

import pytest
from absl import flags

from ssl_jax import cli, config_flag, flag_help, nets
from ssl_jax.configs import common
from ssl_jax.core import UserError

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config


def shown(capsys, *argv: str) -> str:
    """What a command prints for people who ask for help."""
    with pytest.raises(SystemExit) as end:
        cli.COMMANDS[argv[0]]([*argv[1:], "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_a_config_shows_its_fields_as_they_will_be(capsys):
    text = shown(capsys, "pretrain", "--config=dino:test", "--config.batch_size=32", "--config.method_args.hidden=7")
    assert "`:vanilla` is the authors' plain run" in text  # the file's own words
    assert re.search(r"^  batch_size=32 +of all devices together$", text, re.MULTILINE)
    assert re.search(r"^    \.hidden=7$", text, re.MULTILINE)
    assert re.search(r"^    \.widths=\(8, 16\)$", text, re.MULTILINE)
    others = " ".join(text.partition("  method_args")[2].partition("  encoder=")[0].split())
    assert "others, as they are:" in others
    assert "center_momentum=0.9" in others  # an argument of the method that the recipe leaves alone
    assert "hidden=2048" not in others
    assert "steps between lines of progress" in text
    assert all(len(line) <= flag_help.WIDTH for line in text.splitlines() if "=" not in line)


@pytest.mark.parametrize("name", ["resnet50", "vit_s", "convnet"])
def test_only_fields_that_can_be_set_are_offered(name):
    """`resnet50` has its depth in its name; a ViT's can be set."""
    config = common.base("moco")
    config.encoder = name
    offered = flag_help.arguments(config)["encoder_args"]
    assert ("depth" in offered) == name.startswith("vit")
    nets.create(name, **offered)


@pytest.mark.parametrize(("given", "value"), [("0.07", 0.07), ("None", None), ("{'start': 0.04}", {"start": 0.04})])
def test_a_field_that_the_recipe_leaves_open_takes_any_value(given, value):
    values = flags.FlagValues()
    flag = f"--config.method_args.teacher_temperature={given}"
    argv, _ = config_flag.define_config(values, ["--config=dino:test", flag])
    values(["ssl-jax", *argv])
    found = values["config"].value.method_args.teacher_temperature
    assert (found.to_dict() if hasattr(found, "to_dict") else found) == value


def test_without_a_config_it_says_how_to_see_one(capsys):
    text = shown(capsys, "pretrain")
    assert "`ssl-jax pretrain --config=NAME --help` lists the fields" in text
    assert re.search(r"^  --\[no\]report +Write report.html at the end. \(default: True\)$", text, re.MULTILINE)
    assert "flagfile" not in text
    assert re.search(r"^  --k +Numbers of neighbours", shown(capsys, "evaluate"), re.MULTILINE)


def test_every_field_says_what_it_is():
    meanings = flag_help.field_meanings()
    assert set(meanings) == set(common.base("simclr"))
    assert all(meanings.values())


def test_small_conveniences(capsys):
    cli.run(["--version"])
    assert re.fullmatch(r"ssl_jax \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert cli.main(["pretrain", "simclr:test", "--workdir=runs/a"]) == 1
    assert "flags look like --config=simclr:test." in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--config.seed=1", "--config.seed", "1", "--config.seed=2"],
        ["--config.learning_rate=0.1", "--config.learning_rate=0.2"],
        ["--config.learning_rate", "-1", "-config.learning_rate=1"],
        ["--config.probe", "--noconfig.probe"],
        ["--config.probe", "--config.seed=1", "--config.probe=false"],
    ],
)
def test_a_field_given_twice_with_different_values_is_refused(argv):
    with pytest.raises(
        UserError, match=r"--config\.(seed|learning_rate|probe) is given twice, as '.*' and as '.*'; give"
    ):
        config_flag.check_once(argv)


def test_a_field_may_be_given_twice_with_one_value():
    same = ["--config.learning_rate=0.1", "--config.learning_rate", "1e-1", "--config.probe", "--config.probe=True"]
    config_flag.check_once([*same, "--config.method_args={[]: 1}", "--config.data=a", "--config.data_dir=b"])


def test_a_dict_that_the_recipe_has_not_is_taken_whole():
    """As docs/howto.md freezes an encoder."""
    default, config = common.base("moco"), common.base("moco")
    config.optimizer_args.groups = {"encoder": {"rate_scale": 0.0, "frozen": (1, 2)}}
    config_flag.check_tuples(config, default)
    config.drop_epochs, default.drop_epochs = ("a",), (1, 2)
    with pytest.raises(UserError, match="takes items of type int"):
        config_flag.check_tuples(config, default)
