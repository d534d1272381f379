"""The Dockerfile's steps as far as they go without a container engine; no image is built here."""

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sapl_jax import serve
from sapl_jax.errors import UserError

REPOSITORY = Path(__file__).parent.parent


def steps():
    """[instruction, rest] of every line of the Dockerfile."""
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    return [line.split(" ", 1) for line in lines if line and not line.startswith("#")]


def only(instruction):
    (rest,) = (rest for name, rest in steps() if name == instruction)
    return rest


def copied():
    """(source, destination) of every COPY, below the repository and below the image's folder."""
    copies = [rest.split() for name, rest in steps() if name == "COPY"]
    return [(source, to) for *sources, to in copies for source in sources]


def test_it_copies_what_is_there_and_runs_as_a_user_without_rights():
    order = [name for name, _ in steps()]
    assert order[0] == "FROM" and int(only("USER")) > 0
    assert order.index("USER") > max(n for n, name in enumerate(order) if name == "RUN")
    allowed = (REPOSITORY / ".dockerignore").read_text().split()
    assert allowed[0] == "*"
    for source, to in copied():
        assert (REPOSITORY / source).exists() and to in ("./", f"./{source}")
        assert f"!{source}" in allowed or (
            source.startswith("req") and "!requirements.*" in allowed
        )


def test_it_serves_by_default_and_only_with_a_token(monkeypatch):
    program, *flags = json.loads(only("ENTRYPOINT")) + json.loads(only("CMD"))
    assert [program, flags[0]] == ["sapl", "serve"]
    given = serve.parse_arguments(flags[1:])
    assert str(given.port) == only("EXPOSE")
    monkeypatch.delenv("SAPL_TOKEN", raising=False)
    with pytest.raises(UserError, match="SAPL_TOKEN"):
        serve.required_token(given.host, given.no_token)


@pytest.mark.parametrize("answer", [200, 503, None])
def test_its_health_check_fails_where_nothing_answers_well(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        python, flag, code = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
        assert (python, flag) == ("python", "-c")
        port = 1 if answer is None else server.server_port
        code = code.replace(f":{only('EXPOSE')}/", f":{port}/")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True)
        server.shutdown()
    assert (done.returncode == 0) == (answer == 200)
