"""`sapl`: every command under one name; mistakes are told before JAX or TensorFlow is imported."""

import json
import os
import shlex
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sapl_jax.clip.blocks import LEVELS
from sapl_jax.command_line import COMMANDS
from sapl_jax.models.hecl import GIVERS
from sapl_jax.training.configuration import CHOICES
from tests.data_pipelines.picture_trees import make_casia
from tests.training.run_in_memory import environment

# Each command line in a fork of one process; what was imported until its end is printed.
FORKS = """
import json, os, sys, tempfile
from sapl_jax.__main__ import run
HEAVY = (
    "jax", "flax", "scipy.cluster", "scipy.optimize", "tensorflow", "transformers", "gradio",
    "matplotlib", "sklearn",
)
results = []
for arguments in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out:
        if not os.fork():
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            sys.argv = ["sapl", *arguments]
            try:
                run()
            except SystemExit as left:
                print(json.dumps([left.code, [m for m in HEAVY if m in sys.modules]]), flush=True)
            os._exit(0)
        os.wait()
        out.seek(0)
        results.append(out.read().decode().splitlines())
print(json.dumps(results))
"""


def run_all(commands, **options):
    """Exit status, heavy modules imported, and all that was printed, of each command line."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input=json.dumps([[str(text) for text in command] for command in commands]),
        env=environment(devices=1, HF_HUB_OFFLINE="1", **options.pop("more", {})),
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [(*json.loads(lines[-1]), "\n".join(lines[:-1])) for lines in json.loads(done.stdout)]


def test_help_of_every_command_imports_nothing_heavy():
    for name, (status, heavy, text) in zip(
        COMMANDS, run_all([[name, "--help"] for name in COMMANDS]), strict=True
    ):
        assert (status, heavy) == (0, []), (name, text)
        assert f"usage: sapl {name}" in text
        assert not any("_" in word for word in text.split() if word.startswith("--")), text


def test_predict_imports_the_model_and_nothing_heavy_besides(tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "picture.png")
    command = ["predict", tmp_path / "picture.png", "--output", tmp_path / "out"]
    ((status, heavy, text),) = run_all([command])
    assert (status, heavy) == (0, ["jax", "flax"]), text


def test_what_reads_pictures_imports_no_model(tmp_path):
    root = tmp_path / "set"
    given = ["--dataset", "folder", "--root", root]
    commands = {
        "generate": ["--images", "8", "--size", "64", "--output", root, "--workers", "1"],
        "doctor": given,
        "prepare": [*given, "--size", "64", "--patch", "8", "--output", tmp_path / "records"],
        "edge-statistics": [*given, "--output", tmp_path / "edges"],
        "evaluate": ["--dataset", f"a={root}", "--method", "cfa1", "--output", tmp_path / "out"],
    }
    found = run_all([[name, *flags] for name, flags in commands.items()])
    heavy = dict(zip(commands, [heavy for _, heavy, _ in found], strict=True))
    assert all(status in (0, 1) for status, _, _ in found), found
    assert heavy == {
        "generate": [], "doctor": [], "prepare": ["scipy.cluster"],  # which pictures are kin
        "edge-statistics": ["matplotlib"], "evaluate": ["scipy.optimize", "matplotlib", "sklearn"],
    }  # fmt: skip


def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path):
    root, out = make_casia(tmp_path / "casia"), tmp_path / "out"
    file = tmp_path / "file"
    file.write_text("")
    data, given = f"--config.data.root={root}", ("--dataset", f"casia_v2={root}", "--output", out)
    here, model = ("--workdir", tmp_path / "run"), tmp_path / "model"
    model.mkdir()
    (model / "export.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mistakes = [
            (["trian"], "no command 'trian'"),
            (["train", data, "--wrkdir=x"], "'wrkdir'"),
            (["train", data, "--config.train.batchsize=4"], "batchsize"),
            (["train", data, "--config.train.batch_size=0"], "batch_size is 0"),
            (["train", data, "--config.train.dtype=float8"], "float8"),
            (
                ["train", data, *("--config.train.num_steps=9", "--config.train.warmup_steps=9")],
                "fewer",
            ),
            (["train", data, "--config.model.prompts=magic"], "magic"),
            (["train", *here], "No training data was given"),
            (["train", *here, f"--config.data.root={tmp_path / 'absent'}"], "does not exist"),
            (["train", *here, f"--config.data.prepared={tmp_path / 'absent'}"], "absent"),
            (["train", data, "--workdir", file / "run"], "cannot be written"),
            (["train", data, *here, f"--config.clip.pretrained={tmp_path / 'none'}"], "none"),
            (["train", data, *here, "--config.data.val_fraction=1"], "val_fraction is 1"),
            (["evaluate", *given, "--flag"], "--flag"),
            (["evaluate", *given], "--checkpoint"),
            (["evaluate", *given, "--checkpoint", tmp_path / "none"], "no folder"),
            (["evaluate", *given, "--method", "noi1", "--tile=4"], "--tile is 4"),
            (["evaluate", *given, "--checkpoint", root], "not the work directory"),
            (["calibrate", "--checkpoint", file], "no folder"),
            (["calibrate", "--checkpoint", model, "--authentic", tmp_path / "absent"], "absent"),
            (["calibrate", "--checkpoint", model, "--data", tmp_path / "absent"], "no such folder"),
            (["calibrate", "--checkpoint", root, "--marked=1"], "--marked is 1"),
            (["calibrate", "--checkpoint", root, "--false-alarms=0"], "--false-alarms is 0"),
            (["predict", root, "--output", out, "--batch_size=0"], "--batch-size is 0"),
            (["predict", root, "--output", out, "--checkpoint", file], "no folder"),
            (["predict", tmp_path / "absent", "--output", out], "No pictures were found"),
            (["predict", root, "--output", file], "cannot be written"),
            (["export", "--checkpoint", root, "--output", root, "--format=onnx"], "not an export"),
            (
                ["export", "--checkpoint", model, "--output", out, "--format=onnx"]
                + ["--pictures", tmp_path / "absent"],
                "No pictures were found",
            ),
            (["serve", "--port", port], "Another program may use the port"),
            (["serve", "--max-megapixels=0"], "--max-megapixels is 0"),
            (["serve", "--checkpoint", file], "no folder"),
            (["serve", "--host", "0.0.0.0"], "Set SAPL_TOKEN"),
            (["demo", "--output", out, "--config.train.stepz=1"], "stepz"),
            (["demo", "--output", out, "--train-images=0"], "--train-images is 0"),
            (["ablate", *given, data, "--config.seed=one"], "seed"),
            (["ablate", *given, data, "--dataset", f"x={tmp_path / 'absent'}"], "does not exist"),
            (["prepare", "--dataset=casia_v2", "--root", tmp_path / "absent"], "does not exist"),
            (["prepare", "--dataset=casia_v2", "--root", root, "--val-fraction=2"], "is 2"),
            (["generate", "--output", file, "--images=2"], "file"),
            (["doctor", "--dataset=casia_v2", "--root", tmp_path / "absent"], "does not exist"),
        ]
        results = run_all([arguments for arguments, _ in mistakes])
    unclear = [
        (arguments, result)
        for (arguments, message), result in zip(mistakes, results, strict=True)
        if result[0] != (1 if arguments[0] == "doctor" else 2)
        or result[1]
        or message not in result[2]
        or "Traceback" in result[2]
    ]
    assert not unclear, json.dumps(unclear, indent=1, default=str)
    assert not (out / "data").exists()


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    given, on_set = ("--dataset=folder", "--root=~/set"), "--dataset=a=~/set"
    commands = [  # What is said, if anything is to be refused.
        (["generate", "--output=~/set", "--images=8", "--size=64", "--workers=1"], ""),
        (["doctor", *given], ""),
        (["prepare", *given, "--output=~/records", "--size=64", "--patch=8"], ""),
        (["edge-statistics", *given, "--output=~/edges"], ""),
        (["evaluate", on_set, "--method=cfa1", "--no-report", "--output=~/results"], ""),
        (["ablate", on_set, "--output=~/study", "--config.data.root=~/set", "--dry-run"], ""),
        (["train", "--workdir=~/runs", "--config.data.root=~/no"], f"no data set at {home}/no"),
        (["train", "--workdir=~/runs", "--config.data.prepared=~/no"], f"data in {home}/no"),
        (["train", "--config=~/no.py"], f"{home}/no.py"),
        (["demo", "--output=~/demo", "--config.clip.pretrained=~/no"], f"{home}/no: no such"),
        (["predict", "~/set", "--output", "~/out", "--checkpoint=~/no"], f"no folder {home}/no"),
        (["export", "--checkpoint=~/no", "--output=~/out", "--format=onnx"], f"folder {home}/no"),
        (["calibrate", "--checkpoint=~/no"], f"no folder {home}/no"),
        (["serve", "--checkpoint=~/no"], f"no folder {home}/no"),
    ]  # fmt: skip
    more = {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    found = run_all([command for command, _ in commands], cwd=here, more=more)
    for (command, message), (status, _, text) in zip(commands, found, strict=True):
        assert (status == 2) == bool(message) and message in text, (command, status, text)
    assert not [*here.iterdir()]
    assert {"set", "records", "edges", "results", "runs"} <= {path.name for path in home.iterdir()}
    assert f"--workdir {home}/study" in found[5][2]


def test_the_words_checked_early_are_those_of_the_code():
    assert CHOICES["train.remat"] == ("auto", *LEVELS)
    assert CHOICES["model.hecl.givers"] == tuple(GIVERS)


@pytest.mark.parametrize(
    ("what", "message", "status"),
    [
        ("[print('x' * 1000) for _ in range(1000)] and None", "", 141),
        ("print('x' * 1000) or sys.exit()", "", 0),  # as --help does
        ("print('x' * 1000) or exec('raise UserError(\"why\")')", "error: why\n", 141),
    ],
)
def test_output_that_nobody_reads_to_its_end_is_no_error(what, message, status):
    code = f"import sys; from sapl_jax.errors import *; run_main(lambda: {what})"
    reader, writer = os.pipe()
    os.close(reader)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert (done.stderr, done.returncode) == (message, status)


def test_a_command_without_an_output_ends_as_it_should():
    code = "from sapl_jax.errors import *; run_main(lambda: print('done'))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_file_that_may_not_be_opened_is_told_in_words():
    code = "from sapl_jax.errors import *\ndef main(): raise PermissionError(13, 'No', '/data')"
    command = [sys.executable, "-c", f"{code}\nrun_main(main)"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (done.stderr, done.returncode) == ("error: [Errno 13] No: '/data'\n", 2)
