"""Checkpoints: what is restored is what was saved, or an error that says why not."""

import shutil
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax import checkpoints
from sapl_jax.checkpoints import CheckpointFolder, DamagedCheckpoint
from sapl_jax.errors import UserError
from sapl_jax.training.run_checkpoints import RunCheckpoints
from tests.small_files import largest_file


@pytest.fixture
def state():
    return {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2), jnp.int32), jnp.float32(4.0))}


def saved(folder, state, step=1):
    series = CheckpointFolder(folder, keep=2)
    series.save(step, state, {"i_auc": 0.5})
    series.wait()
    return series


def test_a_state_comes_back_equal(tmp_path, state):
    series = saved(tmp_path, state)
    back = series.restore(1, state)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert series.record(1)["i_auc"] == 0.5


def test_every_difference_is_named(tmp_path, state):
    series = saved(tmp_path, state)
    wrong = {"a": jnp.arange(4.0), "b": (jnp.ones((2, 2)), jnp.float32(4.0)), "c": jnp.zeros(1)}
    with pytest.raises(UserError) as error:
        series.restore(1, wrong)
    text = str(error.value)
    assert "a: expected float32[4], found float32[3]" in text
    assert "b/0: expected float32[2, 2], found int32[2, 2]" in text
    assert "missing: c" in text
    with pytest.raises(UserError, match="does not fit(?s:.*)unexpected: a"):
        series.restore(1, {"b": state["b"]})


def test_a_record_that_was_changed_is_damaged(tmp_path, state):
    series = saved(tmp_path, state)
    path = tmp_path / "1" / "record" / "metadata"
    changed = path.read_text().replace('"i_auc": 0.5', '"i_auc": 0.9')
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(DamagedCheckpoint, match="not the one that was written"):
        series.record(1)


def test_only_the_newest_stay(tmp_path, state):
    series = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 3):
        series.save(step, state, {})
    series.wait()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 3]


def test_an_earlier_step_takes_the_place_of_a_later_one(tmp_path, state):
    """As where a run continues from before its best, and is better earlier this time."""
    checkpoints = CheckpointFolder(tmp_path, keep=1)
    for step in (5, 4):
        checkpoints.save(step, state, {"i_auc": step / 10})
        checkpoints.wait()
    assert checkpoints.latest_step() == 4 and checkpoints.record(4)["i_auc"] == 0.4
    checkpoints.close()


def test_what_a_killed_run_left_beyond_the_newest_goes_when_the_next_one_opens(tmp_path, state):
    series = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        series.save(step, state, {})
    series.close()
    CheckpointFolder(tmp_path, keep=2).close()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 3]


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path, state, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 7)
    series = saved(tmp_path, state)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 7.*reads format 1.*Update sapl_jax"):
        series.record(1)


def damaged_files():
    """Names of the files of a checkpoint that matter, and ways to damage them."""
    names = ("state/_METADATA", "state/manifest.ocdbt", "record/metadata", "largest", "state")
    return [(name, how) for name in names for how in ("flip", "truncate", "delete")]


@pytest.mark.parametrize(("name", "how"), damaged_files())
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path, name, how, caplog):
    state = {"a": jnp.arange(3000.0), "b": jnp.float32(4.0)}
    series = CheckpointFolder(tmp_path / "last", keep=2)
    for step in (1, 2):
        series.save(step, {"a": state["a"] + step, "b": state["b"]}, {"n": step})
    series.wait()
    folder = tmp_path / "last" / "2"
    path = folder / name
    if name == "largest":
        path = max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)
    if name == "state":
        shutil.rmtree(path)
    elif how == "delete":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content if how == "flip" else content[: len(content) // 2])
    back = series.restore_newest(state)
    if back.step == 2:  # Orbax does not need what was damaged.
        np.testing.assert_array_equal(back.state["a"], state["a"] + 2)
    else:
        assert (back.step, back.record["n"]) == (1, 1)
        np.testing.assert_array_equal(back.state["a"], state["a"] + 1)
        assert "2 is damaged" in caplog.text
        assert (tmp_path / "damaged" / "last-2").is_dir()
        series.save(2, state, {"n": 3})
        series.wait()
        assert series.record(2)["n"] == 3
    if name in ("record/metadata", "largest", "state"):
        assert back.step == 1
    series.close()


@pytest.mark.slow
def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """1,000 flips, anywhere in the files: the checkpoint comes back exact or is refused."""
    rng = np.random.default_rng(0)
    state = {"a": jnp.asarray(rng.random(500), jnp.float32), "b": jnp.arange(7)}
    series = saved(tmp_path / "last", state)
    files = [path for path in (tmp_path / "last" / "1").rglob("*") if path.is_file()]
    refused = 0
    for _ in range(1000):
        path = files[rng.integers(len(files))]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        reader = CheckpointFolder(tmp_path / "last", read_only=True)
        try:
            back = reader.restore(1, state)
            jax.tree.map(np.testing.assert_array_equal, back, state)
            assert reader.record(1)["i_auc"] == 0.5
        except UserError:
            refused += 1
        reader.close()
        path.write_bytes(good)
    series.close()
    print(f"{refused} of 1000 refused, the others exact")
    assert refused > 300


def test_a_reader_changes_nothing_in_the_folder_of_a_run(tmp_path, state):
    saved(tmp_path, state).close()
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()  # What a run is writing right now.
    before = sorted(path.name for path in tmp_path.rglob("*"))
    reader = CheckpointFolder(tmp_path, read_only=True)
    assert reader.latest_step() == 1
    jax.tree.map(np.testing.assert_array_equal, reader.restore(1, state), state)
    reader.close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    CheckpointFolder(tmp_path, keep=2).close()  # The next run clears up what a killed one left.
    assert not list(tmp_path.glob("*tmp"))


def test_results_that_come_too_late_are_hidden_and_nothing_else(tmp_path, state, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda late: shown.append(str(late.exc_value)))
    checkpoints._hide_late_results.cache_clear()
    for series in (CheckpointFolder(tmp_path / "last"), CheckpointFolder(tmp_path / "best")):
        series.save(1, state, {})
        series.close()
    for message in ("Event loop is closed", "another mistake"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(message)))
    assert shown == ["another mistake"]


def test_a_failed_write_is_one_error_in_words_and_no_tracebacks(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda late: shown.append(str(late.exc_value)))
    checkpoints._hide_late_results.cache_clear()
    series = CheckpointFolder(tmp_path)
    arrays = np.random.default_rng(0).random((20, 30_000))
    with largest_file(30_000), pytest.raises(UserError, match="File too large"):
        series.save(1, {str(n): array for n, array in enumerate(arrays)}, {})
        series.wait()
    series.close()
    time.sleep(1)  # The others fail now.
    assert not shown


def test_a_run_on_other_clip_weights_is_not_continued(tmp_path, state):
    run = RunCheckpoints(tmp_path, {"sha256": "before"})
    run.save("last", 1, state, validation_due=False)
    run.close()
    assert RunCheckpoints(tmp_path, {"sha256": "before"}).restore(state).step == 1
    with pytest.raises(UserError, match="trained on other CLIP weights"):
        RunCheckpoints(tmp_path, {"sha256": "now"}).restore(state)
