"""What `python -m sapl_jax.train` makes of its command line, mistakes included."""

import pytest

from sapl_jax.clip.config import LORA_TARGETS
from sapl_jax.errors import UserError
from sapl_jax.training.configuration import PAPER, load_config


def test_overrides_reach_the_configuration():
    config = load_config(
        PAPER,
        [
            "--config.model.taps=1,3",
            "--config.train.epochs=2",
            "--config.clip.lora_targets=q,k,v",
            "--config.model.class_words=authentic,manipulated",
        ],
    )
    assert config.model.taps == (1, 3)
    assert config.train.epochs == 2.0
    assert config.clip.lora_targets == ("q", "k", "v")
    assert config.model.class_words == ("authentic", "manipulated")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.train.num_stepz=3", "no field 'num_stepz'\nDid you mean \"num_steps\""),
        ("--config.trian.num_steps=3", "no field 'trian'"),
        ("--config.train.num_steps=many", "--config.train.num_steps=many"),
        ("--config.train.batch_size=2.5", "--config.train.batch_size=2.5"),
        ("--config.model.taps=last", "taps is 'last'; expected whole numbers"),
        ("--config.model.taps=1.5,2", "taps is '1.5,2'; expected whole numbers"),
        ("--config.model.class_words=1,2", "class_words is '1,2'; expected words"),
        ("--config.model.class_words=fake", "expected two words"),
        ("--config.train.eval_every=0", "eval_every is 0; expected more than 0"),
        ("--config.train.num_steps=-1", "num_steps is -1; expected at least 0"),
        ("--config.train.num_steps=99999999999", "num_steps is 99999999999; expected at most 10"),
        ("--config.train.epochs=1e30", "epochs is 1e+30; expected at most 1000000"),
        ("--config.seed=4294967296", "seed is 4294967296; expected at most 4294967295"),
        ("--config.seed=-1", "seed is -1; expected at least 0"),
        ("--config.image.size=99999999", "size is 99999999; expected at most 16384"),
        (
            "--config.image.canny_low=300",
            "expected kappa > 0, 0 < alpha_min <= alpha_max and 0 <= canny_low",
        ),
        ("--config.model.heat_map.tile=3", "tile is 3; expected 0, or 32 or more"),
        ("--config.model.heat_map.threshold=7", "threshold is 7.0; expected at most 1"),
        ("--config.clip.lora_rank=0", "lora_rank is 0; expected more than 0"),
        (
            "--config.clip.lora_targets=q,query",
            "lora_targets is 'q,query'; expected one or more of",
        ),
        (
            "--config.clip.lora_targets=q,q",
            "lora_targets is 'q,q'; expected one or more of q, k, v, out, fc1, fc2, each once",
        ),
        ("--config.train.learning_rate=nan", "learning_rate is nan; expected a finite number"),
        ("--config.clip.lora_alpha=inf", "lora_alpha is inf; expected a finite number"),
        ("--config.model.hecl.givers=all", "expected one of label, tampered_both"),
        ("--config.train.remat=all", "remat is 'all'; expected one of auto, none, mlp, blocks"),
        ("--config.train.remat=True", "remat is 'True'; expected one of auto, none, mlp, blocks"),
        ("--config.train.warmup_steps=-1", "warmup_steps is -1; expected at least 0"),
        ("--config.model.prompt_length=0", "prompt_length is 0; expected more than 0"),
        ("--config.train.keep=first", "keep is 'first'; expected one of last, best"),
        ("--wrkdir=x", "Unknown command line flag 'wrkdir'"),
        ("stray", "Unexpected argument 'stray'"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(argument, message):
    with pytest.raises(UserError) as caught:
        load_config(PAPER, [argument])
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_every_layer_that_lora_can_adapt_may_be_named():
    names = ",".join(LORA_TARGETS)
    assert load_config(PAPER, [f"--config.clip.lora_targets={names}"]).clip.lora_targets == (
        LORA_TARGETS
    )


def test_pairs_need_an_even_batch():
    odd = ["--config.train.batch_size=5"]
    assert load_config(PAPER, odd).train.batch_size == 5
    with pytest.raises(UserError, match="batch_size is 5; expected an even number beside"):
        load_config(PAPER, [*odd, "--config.data.pairs=True"])


def test_smoothing_along_colours_needs_a_width_in_pixels():
    flags = ["--config.model.heat_map.colours=0.1", "--config.model.heat_map.sigma=0"]
    with pytest.raises(UserError, match="sigma is 0.0; expected more than 0 beside colours"):
        load_config(PAPER, flags)
    load_config(PAPER, flags[1:])


@pytest.mark.parametrize("name", ["configs/absent.py", "configs/ablations.py:absent"])
def test_a_configuration_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match="absent"):
        load_config(name, [])


def test_any_mistake_in_a_file_of_one_s_own_is_told_in_words(tmp_path):
    (tmp_path / "own.py").write_text('{"seed": true}')  # as config.json of a run
    with pytest.raises(UserError, match="name 'true' is not defined"):
        load_config(str(tmp_path / "own.py"), [])


def test_a_folder_of_clip_is_kept_as_an_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_config(PAPER, ["--config.clip.pretrained=clip"])
    assert config.clip.pretrained == str(tmp_path / "clip")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.py").write_text(
        "from configs import sapl\ndef get_config():\n    config = sapl.get_config()\n"
        "    config.clip.pretrained = '~/clip'\n    return config"
    )
    assert load_config("own.py", []).clip.pretrained == str(tmp_path / "clip")


def test_the_package_has_the_configurations_where_the_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/ablations.py:demo/coop", []).model.prompts == "coop"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("def get_config(:\n")
    with pytest.raises(UserError, match=r"demo\.py, line 1"):
        load_config("configs/demo.py", [])
