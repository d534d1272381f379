"""What `python -m sapl_jax.train` makes of its command line, mistakes included."""

import pytest
from absl import flags

from sapl_jax import train
from sapl_jax.errors import UserError


@pytest.fixture
def parse(monkeypatch):
    """Reads a command line to its configuration. (ml_collections looks at sys.argv itself.)"""

    def parse(*arguments):
        monkeypatch.setattr("sys.argv", ["train", *arguments])
        train.parse_flags(["train", *arguments])
        return flags.FLAGS.config

    yield parse
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # They belong to the configuration that was loaded.


PAPER = "--config=configs/sapl.py"


def test_overrides_reach_the_configuration(parse):
    config = parse(
        PAPER,
        "--config.model.taps=1,3",
        "--config.train.epochs=2",
        "--config.clip.lora_targets=q,k,v",
        "--config.model.class_words=authentic,manipulated",
    )
    assert config.model.taps == (1, 3)
    assert config.train.epochs == 2.0
    assert config.clip.lora_targets == ("q", "k", "v")
    assert config.model.class_words == ("authentic", "manipulated")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PAPER, "--config.train.num_stepz=3"), "no field 'num_stepz'\nDid you mean \"num_steps\""),
        ((PAPER, "--config.trian.num_steps=3"), "no field 'trian'"),
        ((PAPER, "--config.train.num_steps=many"), "--config.train.num_steps=many"),
        ((PAPER, "--config.train.batch_size=2.5"), "--config.train.batch_size=2.5"),
        ((PAPER, "--config.model.taps=last"), "taps is 'last'; expected whole numbers"),
        ((PAPER, "--config.model.taps=1.5,2"), "taps is '1.5,2'; expected whole numbers"),
        ((PAPER, "--config.model.class_words=1,2"), "class_words is '1,2'; expected words"),
        ((PAPER, "--config.model.class_words=fake"), "expected two words"),
        ((PAPER, "--config.train.eval_every=0"), "eval_every is 0; expected more than 0"),
        ((PAPER, "--config.train.num_steps=-1"), "num_steps is -1; expected at least 0"),
        ((PAPER, "--config.train.learning_rate=nan"), "learning_rate is nan; expected more"),
        ((PAPER, "--config.model.hecl.givers=all"), "expected one of label, tampered_both, both"),
        ((PAPER, "--config.train.keep=first"), "keep is 'first'; expected one of last, best"),
        ((PAPER, "--wrkdir=x"), "Unknown command line flag 'wrkdir'"),
        (("--config=configs/absent.py",), "configs/absent.py"),
        (("--config=configs/ablations.py:absent",), "no ablation 'absent'"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(parse, arguments, message):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_configuration_file_with_a_mistake_is_named(parse, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(:\n")
    with pytest.raises(UserError, match=r"mine\.py, line 1"):
        parse(f"--config={tmp_path / 'mine.py'}")
