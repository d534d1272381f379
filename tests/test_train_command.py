"""The commands from end to end: train, continue, evaluate, and every mistake in one clear line."""

import json
import math
import re
import shutil
import subprocess
import sys

import pytest

from configs.demo import ASSETS
from data_pipelines.prepared import open_prepared
from sapl_jax.workdir import read_config
from tests.data_pipelines.picture_trees import make_casia, noise, write_picture
from tests.tiny import TINY_CLIP
from tests.training.run_in_memory import environment
from tests.training.run_records import checkpoint_digests, losses, metric_lines

TRAIN = "sapl_jax.train"


def flags(root, prepared, workdir, **more):
    """Arguments of a tiny training run; `more`: config fields with __ for the dots."""
    fields = {
        "data.root": root,
        "data.prepared": prepared,
        "clip.pretrained": TINY_CLIP,
        "image.size": 28,
        "model.taps": "2,4",
        "model.prompt_length": 3,
        "model.attention_heads": 4,
        "model.hecl.top_k": 3,
        "model.hecl.queue_length": 8,
        "train.batch_size": 4,
        "train.num_steps": 4,
        "train.log_every": 1,
        "train.eval_every": 2,
        "train.checkpoint_every": 2,
    } | {name.replace("__", "."): value for name, value in more.items()}
    values = [f"--config.{name}={value}" for name, value in fields.items() if value is not None]
    return ["--config=configs/sapl.py", f"--workdir={workdir}", *values]


def run_all(commands):
    """The results of the commands, run one after the other in one process."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.run_commands"],
        input=json.dumps(commands),
        env=environment(devices=2, HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, and a run of four steps on them by `python -m sapl_jax.train`."""
    folder = tmp_path_factory.mktemp("commands")
    root = make_casia(folder / "casia")
    (root / "Au" / "Au_ani_00098.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    command = [sys.executable, "-m", TRAIN, *flags(root, folder / "prepared", folder / "run")]
    result = subprocess.run(
        command, env=environment(devices=2), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "skipped: 1 files" in result.stderr
    assert len(losses(folder / "run")) == 4
    assert any(name.startswith("best/") for name in checkpoint_digests(folder / "run"))
    return folder


def evaluate(run, folder, *more):
    arguments = ["--checkpoint", run, "--dataset", f"casia_v2={folder / 'casia'}"]
    return ["sapl_jax.evaluate", *map(str, arguments), "--no-report", *more]


def test_a_run_continues_evaluates_and_outlives_its_pictures(folder):
    root, prepared, workdir = folder / "casia", folder / "prepared", folder / "run"
    gone = folder / "moved" / "casia"
    fewer = shutil.copytree(root, folder / "fewer")
    next(iter((fewer / "Au").glob("*.bmp"))).unlink()
    changed = flags(fewer, prepared, workdir, train__num_steps=12)
    in_pairs = {"data__pairs": True, "train__epochs": 1.0, "train__num_steps": 0}
    continued, evaluated, refused, on_records, without_validation, paired = run_all(
        [
            [TRAIN, *flags(root, prepared, workdir, train__num_steps=6)],
            evaluate(workdir, folder, "--output", str(folder / "results")),
            [TRAIN, *changed],
            # The pictures are gone: a run in progress goes on from the records made of them.
            [TRAIN, *flags(gone, prepared, workdir, train__num_steps=8)],
            [TRAIN, *flags(root, prepared, folder / "all", data__val_fraction=0.0)],
            [TRAIN, *flags(root, prepared, folder / "pairs", **in_pairs)],
        ]
    )
    assert continued["status"] == 0 and "continuing from step 4 of 6" in continued["stderr"]
    assert evaluated["status"] == 0, evaluated["stderr"]
    results = json.loads((folder / "results" / "results.json").read_text())
    found = results["datasets"]["casia_v2"]
    assert found["images"] == 40 and 0 <= found["i_auc"] <= 1 and 0 <= found["p_f1"] <= 1
    # Other pictures than the run was started on would change the data order in its middle.
    assert refused["status"] == 2
    assert "does not hold the pictures that the run" in refused["stderr"]
    assert f"--config.data.prepared={prepared}" in refused["stderr"]
    assert on_records["status"] == 0, on_records["stderr"]
    assert "is gone; continuing on the records" in on_records["stderr"]
    assert read_config(workdir).data.root == str(root)
    assert [row["step"] for row in metric_lines(workdir) if "loss" in row] == list(range(1, 9))
    assert without_validation["status"] == 0, without_validation["stderr"]
    assert "no validation split" in without_validation["stdout"]
    assert paired["status"] == 0, paired["stderr"]
    # Every tampered picture is made from authentic ones: an epoch has each once, and its twin.
    used = open_prepared(json.loads((folder / "pairs" / "data.json").read_text())["dir"])
    assert len(losses(folder / "pairs")) == math.ceil(2 * used.counts["train"]["tampered"] / 4)


def mistakes(folder):
    """Arguments, what the message must say, and whether the work directory may exist after."""
    root, prepared, new = folder / "casia", folder / "prepared", folder / "never"
    empty, single, other = folder / "empty", folder / "single", folder / "other"
    empty.mkdir()
    for name in ("00001", "00002"):
        write_picture(single / "Au" / f"Au_ani_{name}.png", noise(1))
        write_picture(other / "photos" / f"{name}.png", noise(2))
    (single / "Tp").mkdir()
    wrong_clip = folder / "wrong_clip"
    shutil.copytree(TINY_CLIP, wrong_clip)
    config = json.loads((wrong_clip / "config.json").read_text())
    config["vision_config"]["intermediate_size"] *= 2
    (wrong_clip / "config.json").write_text(json.dumps(config))
    file = folder / "a_file"
    file.write_text("")

    def given(**more):
        return flags(more.pop("root", root), prepared, more.pop("workdir", new), **more)

    return [
        (given(root=""), "was prepared|no prepared data"),
        (
            flags(
                "",
                next(prepared.glob("casia_v2/*/*/prepared.json")).parent,
                new,
                data__val_fraction=0.5,
            ),
            r"prepared with .* 0\.[01]\); .* 0\.5\): sizes",
        ),  # fmt: skip
        (flags("", "", new), "No training data was given.*data.root"),
        (given(root=folder / "absent"), "absent"),
        (given(root=empty), "empty"),
        (given(root=single), "single.*both"),
        (given(root=other), "other"),
        (given(clip__pretrained="openai/clip-vit-base-patch32"), "hf download"),
        (given(clip__pretrained=wrong_clip), "another shape"),
        (given(train__batch_size=5), "batch_size is 5.*2 devices.*multiple of 2"),
        (
            given(model__edges="another", train__batch_size=2),
            "edges is another.*share.* is 1: .*at least 2",
        ),
        (given(model__edges="another", data__pairs=True), "edges is another.*at least 4"),
        (given(model__taps="2,9"), "9.*4"),
        (given(workdir=folder / "run", seed=3), "another configuration.*seed: 0 there, 3 now"),
        (flags("", "", folder / "run", train__num_steps=99), "No training data was given"),
        (given(workdir=folder / "run", clip__pretrained=wrong_clip), "another shape"),
        (given(workdir=file / "run"), "cannot be written"),
        (given(workdir=ASSETS / "photographs_model"), "is an export of a trained model"),
        (given(workdir="/proc/run"), "cannot be written"),
        (given(train__batchsize=4), "batchsize"),
        (given(train__batch_size="many"), "many"),
        (given(train__schedule="linear"), "expected one of constant, cosine"),
        (given(train__dtype="float8"), "float8"),
        (["--config=configs/absent.py"], "absent"),
        ([*given(), "stray"], "Unexpected argument 'stray'"),
    ]


def test_every_mistake_is_one_message_with_status_2_and_changes_nothing(folder):
    def state():
        run = folder / "run"
        return checkpoint_digests(run), metric_lines(run), (run / "config.json").read_text()

    wrong, before = mistakes(folder), state()
    results = run_all([[TRAIN, *arguments] for arguments, _ in wrong])
    unclear = []
    for (_, message), result in zip(wrong, results, strict=True):
        before_it, _, error = result["stderr"].partition("error: ")
        clear = result["status"] == 2 and "Traceback" not in before_it + error
        if not clear or "error: " in error or not re.search(f"(?s){message}", error):
            unclear.append((message, result))
    assert not unclear
    assert state() == before
    assert not list((folder / "never").glob("checkpoints/*/*"))
    assert not (folder / "never" / "metrics.jsonl").exists()
