"""What importing a room brings along; which room may import which is import-linter's to check."""

import json
import subprocess
import sys

CODE = """
import json, sys
import {module}
roots = ("sapl_jax", "data_pipelines", "configs")
ours = [name for name in sys.modules if name.split(".")[0] in roots]
print(json.dumps([len(ours), "tensorflow" in sys.modules, "jax" in sys.modules]))
"""


def imported_by(module):
    command = [sys.executable, "-c", CODE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_inference_brings_few_modules_and_no_tensorflow():
    count, tensorflow, _ = imported_by("sapl_jax.inference.localizer")
    assert count <= 41 and not tensorflow


def test_training_needs_no_tensorflow_before_its_input():
    assert not imported_by("sapl_jax.training.loop")[1]


def test_the_pipelines_bring_no_jax():
    assert not imported_by("data_pipelines.prepare")[2]
