"""The installed package: its version costs nothing to ask for, and type checkers may read it."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest


def test_the_version_is_the_installed_one_and_loads_no_jax() -> None:
    code = "import sapl_jax, sys; print(sapl_jax.__version__, 'jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [version("sapl-jax"), "False"]


@pytest.mark.parametrize("package", ["sapl_jax", "data_pipelines", "configs"])
def test_types_are_announced(package) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").is_file()


def test_a_folder_of_the_users_named_configs_hides_nothing(tmp_path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise SystemExit('not ours')")
    code = "from sapl_jax import Localizer; from sapl_jax import train; Localizer.load()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)
