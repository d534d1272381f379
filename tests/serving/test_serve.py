"""The command's own refusals."""

import sys
from importlib.util import find_spec

import pytest

from sapl_jax import serve
from sapl_jax.errors import UserError


def test_it_listens_on_this_machine_only_unless_told_otherwise():
    assert serve.parse_arguments([]).host == "127.0.0.1"


@pytest.mark.parametrize(
    "flag", ["--port=70000", "--port=0", "--max_megabytes=0", "--concurrency=0"]
)
def test_numbers_that_cannot_work_are_refused(monkeypatch, flag):
    monkeypatch.setattr(sys, "argv", ["serve", flag])
    with pytest.raises(UserError, match=flag.split("=")[0].replace("_", "-")):
        serve.main()


@pytest.mark.skipif(find_spec("gradio") is not None, reason="Gradio is installed")
def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["serve"])
    with pytest.raises(UserError, match=r"sapl-jax\[serve\]"):
        serve.main()
