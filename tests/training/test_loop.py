"""Runs from start to end: what they leave behind, how they continue, when they stop."""

import json
import os
import signal

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tensorboardX.proto.event_pb2 import Event

from sapl_jax.checkpoints import CheckpointFolder
from sapl_jax.errors import UserError
from sapl_jax.models.sapl import build_sapl, open_sapl
from sapl_jax.training import loop
from sapl_jax.training.loop import total_steps, train
from sapl_jax.training.state import split_model
from sapl_jax.workdir import open_workdir, remember_config, remember_data, trained_on
from tests.training.memory_data import MemoryData


def run(config, workdir, data=None):
    with open_workdir(workdir, config):
        return train(config, workdir, build_sapl(config, jnp.float32), data or MemoryData())


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_run_leaves_metrics_and_best_and_last_checkpoints(tiny_config, tmp_path):
    assert run(tiny_config, tmp_path) is None
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    ramp = [line["hecl_weight"] for line in lines if "loss" in line]
    np.testing.assert_allclose(ramp, tiny_config.model.hecl.weight * np.arange(6) / 6, atol=1e-7)
    assert CheckpointFolder(tmp_path / "checkpoints" / "last", keep=2).latest_step() == 6
    best = CheckpointFolder(tmp_path / "checkpoints" / "best", keep=1)
    aucs = {
        line["step"]: line["val_i_auc"]
        for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        if "val_i_auc" in line
    }
    assert sorted(aucs) == [3, 6]
    assert best.record(best.latest_step())["i_auc"] == max(aucs.values())
    assert any((tmp_path / "tensorboard").iterdir())


def test_the_step_is_compiled_while_weights_are_read(tiny_config, tmp_path):
    run(tiny_config, tmp_path / "read before")
    model, read = open_sapl(tiny_config, jnp.float32)
    with open_workdir(tmp_path / "later", tiny_config):
        train(tiny_config, tmp_path / "later", model, MemoryData(), read)
    assert losses(tmp_path / "later") == losses(tmp_path / "read before")


@pytest.mark.parametrize("kind", ["", "random:"])
def test_training_keeps_the_words_of_its_prompts_alone(tiny_config, monkeypatch, kind):
    tiny_config.clip.pretrained = kind + tiny_config.clip.pretrained
    whole = build_sapl(tiny_config, jnp.float32)
    clip = whole.clip
    model, read = open_sapl(tiny_config, jnp.float32)
    few = sorted({clip.sot_id, *sum(model.prompts.class_ids, ())})

    def table():
        return split_model(model)[1].params["clip"]["text"]["token_embedding"]

    # What is compiled for, at any time: weights are read meanwhile.
    shapes, set_value = [table().shape], nnx.Param.set_value
    monkeypatch.setattr(
        nnx.Param, "set_value", lambda *a, **k: (set_value(*a, **k), shapes.append(table().shape))
    )
    read()
    assert set(shapes) == {table().shape} == {(len(few), clip.config.text.hidden_size)}
    assert len(few) < clip.config.text.vocab_size
    found, expected = (c.text.embed(jnp.asarray(few[::-1])) for c in (model.clip, clip))
    np.testing.assert_array_equal(found, expected)


def records(file):
    """The records of a TFRecord file: length, its checksum, content, its checksum."""
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


def board_images(workdir):
    """{name: {step: uint8 RGB}} of the TensorBoard files."""
    found = {}
    for file in (workdir / "tensorboard").iterdir():
        for record in records(file):
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("image"):
                    pixels = cv2.imdecode(
                        np.frombuffer(value.image.encoded_image_string, np.uint8), 1
                    )
                    found.setdefault(value.tag, {})[event.step] = pixels
    return found


def test_validations_show_the_same_pictures_with_their_maps_and_steps_are_traced(
    tiny_config, tmp_path
):
    tiny_config.train.profile_steps = "2:3"
    run(tiny_config, tmp_path)
    images = board_images(tmp_path)
    assert sorted(images) == [
        f"validation/{c}_{n}" for c in ("authentic", "tampered") for n in (1, 2)
    ]
    for shown in images.values():
        assert sorted(shown) == [3, 6] and shown[3].shape == (224, 672, 3)
        np.testing.assert_array_equal(shown[3][:, :448], shown[6][:, :448])  # picture, soft edges
        assert np.any(shown[3][:, 448:] != shown[6][:, 448:])  # heat map
    assert [path.stat().st_size > 1000 for path in (tmp_path / "profile").rglob("*.xplane.pb")] == [
        True
    ]


def test_an_interrupted_run_continues_with_the_same_losses(tiny_config, tmp_path):
    run(tiny_config, tmp_path / "whole")

    # Stops like a preempted run: SIGTERM while the fifth batch is read.
    class Interrupted(MemoryData):
        def train_batches(self, start_step):
            for n, batch in enumerate(super().train_batches(start_step)):
                if n == 4:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    assert run(tiny_config, tmp_path / "parts", Interrupted()) == signal.SIGTERM
    assert max(losses(tmp_path / "parts")) < 6
    assert run(tiny_config, tmp_path / "parts") is None
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_more_steps_continue_a_finished_run(tiny_config, tmp_path):
    run(tiny_config, tmp_path)
    first = losses(tmp_path)
    tiny_config.train.num_steps = 8
    run(tiny_config, tmp_path)
    after = losses(tmp_path)
    assert sorted(after) == list(range(1, 9))
    assert {step: after[step] for step in first} == first


def test_the_best_checkpoint_outlives_worse_validations_of_a_continued_run(
    tiny_config, tmp_path, monkeypatch
):
    aucs = iter((0.9, 0.8, 0.85, 0.95))
    monkeypatch.setattr(loop, "roc_auc", lambda *_: next(aucs))
    for tiny_config.train.num_steps, best in ((6, 3), (9, 3), (12, 12)):
        run(tiny_config, tmp_path)
        folder = CheckpointFolder(tmp_path / "checkpoints" / "best", read_only=True)
        assert folder.latest_step() == best
        folder.close()


def test_a_finished_run_is_left_as_it_is(tiny_config, tmp_path):
    run(tiny_config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert run(tiny_config, tmp_path) is None
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tiny_config, tmp_path
):
    run(tiny_config, tmp_path)
    tiny_config.train.num_steps = 12

    class Poisoned(MemoryData):
        def train_batches(self, start_step):
            for n, batch in enumerate(super().train_batches(start_step)):
                yield batch | {"edge_map": batch["edge_map"] * (np.nan if n == 1 else 1.0)}

    with pytest.raises(UserError, match="(?s)Stopped at step 8.*loss is nan.*step 6"):
        run(tiny_config, tmp_path, Poisoned())
    folder = CheckpointFolder(tmp_path / "checkpoints" / "last", keep=2)
    assert folder.latest_step() == 6


class Validated(MemoryData):
    """Calls `begins` as a validation begins; scores are NaN where it answers so."""

    def __init__(self, begins):
        super().__init__()
        self.begins = begins

    def val_batches(self):
        factor = np.nan if self.begins() else 1.0
        for batch in super().val_batches():
            yield batch | {"edge_map": batch["edge_map"] * factor}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_scores_that_are_not_finite_stop_the_run_before_anything_is_written_of_them(
    tiny_config, tmp_path
):
    validations = iter((False, True))
    with pytest.raises(UserError, match="(?s)Stopped at step 6: 8 of 8 scores .* of step 3, is k"):
        run(tiny_config, tmp_path, Validated(lambda: next(validations)))
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "val_i_auc" in line] == [3]
    assert sorted(shown := board_images(tmp_path)) and all(sorted(s) == [3] for s in shown.values())
    folder = CheckpointFolder(tmp_path / "checkpoints" / "last", read_only=True)
    assert folder.latest_step() == 3
    folder.close()


def test_a_checkpoint_of_the_model_that_failed_is_not_called_good(tiny_config, tmp_path):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    validations = iter((lambda: False, stop))
    assert run(tiny_config, tmp_path, Validated(lambda: next(validations)())) == signal.SIGTERM
    assert (tmp_path / "checkpoints" / "last" / "6").is_dir()
    with pytest.raises(UserError, match="(?s)Stopped at step 6: 8 of 8 scores .* of step 3, is k"):
        run(tiny_config, tmp_path, Validated(lambda: True))
    # The loss of a step is of the model that the step before it left.
    tiny_config.train.learning_rate, tiny_config.train.checkpoint_every = 1e30, 1
    with pytest.raises(UserError, match="Stopped at step 2: the loss is nan.* No good one was"):
        run(tiny_config, tmp_path / "wild")
    assert (tmp_path / "wild" / "checkpoints" / "last" / "1").is_dir()
    tiny_config.train.eval_every = 1
    with pytest.raises(UserError, match="Stopped at step 1: 8 of 8 scores .* No good one was"):
        run(tiny_config, tmp_path / "wilder")


def test_validation_with_one_class_gives_no_best_checkpoint(tiny_config, tmp_path):
    run(tiny_config, tmp_path, MemoryData(classes=(1,)))
    assert "val_i_auc" not in (tmp_path / "metrics.jsonl").read_text()
    assert CheckpointFolder(tmp_path / "checkpoints" / "best", keep=1).latest_step() is None


def test_padding_of_the_last_batch_is_not_validated(tiny_config, tmp_path, monkeypatch):
    class Padded(MemoryData):
        def val_batches(self):
            for n, batch in enumerate(super().val_batches()):
                yield batch | {"weight": np.float32([1, n == 0, n == 0, n == 0])}

    seen = []
    monkeypatch.setattr(loop, "roc_auc", lambda *given: seen.append(list(map(len, given))))
    run(tiny_config, tmp_path, Padded())
    assert seen == [[5, 5]] * 2


def test_epochs_become_steps_unless_steps_are_given(tiny_config):
    tiny_config.train.num_steps = 0
    tiny_config.train.epochs = 2.5
    tiny_config.train.batch_size = 12
    assert total_steps(tiny_config.train, 101) == 22
    tiny_config.train.num_steps = 7
    assert total_steps(tiny_config.train, 101) == 7


def test_a_work_directory_of_another_configuration_is_refused(tiny_config, tmp_path):
    with open_workdir(tmp_path, tiny_config):
        remember_config(tmp_path, tiny_config)
        (tmp_path / "checkpoints" / "last" / "3").mkdir(parents=True)
    tiny_config.model.hecl.top_k = 5
    with (
        pytest.raises(UserError, match=r"config\.model\.hecl\.top_k: 3 there, 5 now"),
        open_workdir(tmp_path, tiny_config),
    ):
        pass


def test_a_run_that_saved_nothing_can_be_started_again_otherwise(tiny_config, tmp_path):
    with open_workdir(tmp_path, tiny_config):
        remember_data(tmp_path, tmp_path / "records", "abc")
    tiny_config.model.taps = (1, 2)
    with open_workdir(tmp_path, tiny_config):
        assert trained_on(tmp_path) is None


def test_two_runs_on_one_work_directory_are_refused(tiny_config, tmp_path):
    with (
        open_workdir(tmp_path, tiny_config),
        pytest.raises(UserError, match="Another run"),
        open_workdir(tmp_path, tiny_config),
    ):
        pass
