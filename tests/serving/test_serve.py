"""The command's own refusals."""

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.images import encode_jpeg
from sapl_jax import serve
from sapl_jax.errors import UserError
from tests.training.run_in_memory import environment


def test_it_listens_on_this_machine_only_unless_told_otherwise():
    assert serve.parse_arguments([]).host == "127.0.0.1"


@pytest.mark.parametrize(
    "flag", ["--port=70000", "--port=0", "--max-megabytes=0", "--concurrency=0"]
)
def test_numbers_that_cannot_work_are_refused(monkeypatch, flag):
    monkeypatch.setattr(sys, "argv", ["serve", flag])
    with pytest.raises(UserError, match=flag.split("=")[0].replace("_", "-")):
        serve.main()


def test_which_checkpoint_is_served_may_be_said(monkeypatch, tmp_path):
    for room in ("page", "api"):  # Not asked for anything before the model is open.
        monkeypatch.setitem(
            sys.modules, f"sapl_jax.serving.{room}", SimpleNamespace(build_api=None)
        )
    with pytest.raises(UserError, match="an export, which has one checkpoint: leave out --which"):
        serve.serve(serve.parse_arguments(["--which", "best"]), "", tmp_path)


@pytest.mark.skipif(find_spec("gradio") is not None, reason="Gradio is installed")
def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["serve"])
    with pytest.raises(UserError, match=r"sapl-jax\[serve\]"):
        serve.main()


@pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_is_told_to_end_leaves_no_file_behind(tmp_path, host):
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    try:
        with socket.create_server((host, 0), family=family) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip(f"no {host} here")
    command = [sys.executable, "-m", "sapl_jax.serve", "--host", host, "--port", str(port)]
    address = f"[{host}]:{port}" if host == "::1" else f"{host}:{port}"
    with subprocess.Popen(command, env=environment(devices=1, TMPDIR=str(tmp_path))) as server:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://{address}/health").close()
                    break
                except urllib.error.URLError:
                    assert server.poll() is None
                    time.sleep(0.5)
            assert list(tmp_path.iterdir())
            # A picture of a minute, which is still analysed as the server ends.
            noise = np.random.default_rng(0).integers(0, 256, (2500, 3000, 3), np.uint8)
            body = encode_jpeg(noise, 90, "4:2:0")
            with socket.create_connection((host, port)) as client:
                head = f"POST /analyse HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body)
                time.sleep(3)
                server.send_signal(signal.SIGTERM)
                assert server.wait(timeout=120) == 0
        finally:
            server.kill()
    assert not list(tmp_path.iterdir())
