"""The HTTP interface over loopback: good pictures and hostile bodies, its queue, its token."""

import base64
import http.client
import json
import socket
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from sapl_jax.errors import UserError
from sapl_jax.inference.detector import result_of
from sapl_jax.serving.analysis import Limits
from tests.inference.hostile import picture

fastapi = pytest.importorskip("fastapi", reason='the extra "serve" is not installed')
uvicorn = pytest.importorskip("uvicorn")


class RedIsTampered:
    """A detector whose map is the red channel; it counts how many pictures it has at once."""

    threshold, calibration = 0.5, None

    def __init__(self):
        self.now, self.most, self.lock, self.let_go = 0, 0, threading.Lock(), threading.Event()
        self.let_go.set()

    def analyse(self, images):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.let_go.wait(60)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        return [result_of(0.75, image[..., 0] / np.float32(255), 0.5) for image in images]


@contextmanager
def serving(detector, **more):
    from sapl_jax.serving.api import build_api

    api = build_api(detector, Limits(1, 10**6, 2), model={"checkpoint": "best/7"}, **more)
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(port, path, body=None, **headers):
    """(status, headers, JSON) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, answer.headers, content


def png(rgb):
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def test_a_picture_comes_back_as_score_regions_and_images():
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[10:20, 5:25, 0] = 255
    with serving(RedIsTampered()) as port:
        status, _, found = ask(port, "/analyse?image=mask&image=overlay", png(rgb))
        _, _, plain = ask(port, "/analyse", png(rgb))
        assert status == 200 and ask(port, "/health")[2]["status"] == "ok"
        assert ask(port, "/version")[2]["model"] == {"checkpoint": "best/7"}
        _, _, described = ask(port, "/openapi.json")
    assert (found["score"], found["verdict"], found["threshold"]) == (0.75, "tampered", 0.5)
    assert found["regions"] == [{"x": 5, "y": 10, "width": 20, "height": 10, "pixels": 200}]
    assert len(found["sha256"]) == 64 and found["model"] == {"checkpoint": "best/7"}
    assert sorted(found["images"]) == ["mask", "overlay"] and plain["images"] == {}
    mask = np.frombuffer(base64.b64decode(found["images"]["mask"]), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(mask, 0) > 0, rgb[..., 0] > 127)
    assert {"401", "413", "422", "503"} < described["paths"]["/analyse"]["post"]["responses"].keys()


def test_good_and_hostile_clients_at_once_all_get_their_answer():
    detector, good = RedIsTampered(), png(picture())
    bodies = {
        200: good,
        422: b"no picture at all",
        413: b"\x89PNG" + bytes(2 << 20),
        422.5: png(np.zeros((1001, 1001, 3), np.uint8)),  # more pixels than allowed
    }

    def client(number):
        if number % 8 == 7:  # hangs up in the middle of its body
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(
                    b"POST /analyse HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nGIF8"
                )
            return "hung up"
        wanted = list(bodies)[number % 4]
        try:
            status = ask(port, "/analyse", bodies[wanted])[0]
        except OSError:  # refused while it was still sending too much
            status = 413 if wanted == 413 else 0
        return status == int(wanted)

    with serving(detector) as port:
        with ThreadPoolExecutor(16) as pool:
            counts = Counter(pool.map(client, range(200)))
        deadline = time.monotonic() + 20
        while ask(port, "/health")[2]["pictures"]:
            assert time.monotonic() < deadline, "a place was never given back"
            time.sleep(0.05)
        assert ask(port, "/analyse", good)[0] == 200
    assert counts == {True: 175, "hung up": 25}
    assert detector.most <= 2


def test_a_full_queue_says_when_to_come_back():
    detector, good = RedIsTampered(), png(picture())
    detector.let_go.clear()
    with serving(detector) as port, ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(ask, port, "/analyse", good) for _ in range(18)]
        while ask(port, "/health")[2]["pictures"] < 18:
            time.sleep(0.02)
        status, headers, _ = ask(port, "/analyse", good)
        assert status == 503 and int(headers["Retry-After"]) > 0
        detector.let_go.set()
        assert {future.result()[0] for future in waiting} == {200}


def test_without_the_token_nothing_is_analysed():
    with serving(RedIsTampered(), token="secret") as port:
        good = png(picture())
        assert ask(port, "/analyse", good)[0] == 401
        assert ask(port, "/analyse", good, Authorization="Bearer wrong")[0] == 401
        assert ask(port, "/analyse", good, Authorization="Bearer secret")[0] == 200
        assert ask(port, "/health")[0] == 200  # a container's health check has no token


def test_the_interface_is_described_on_a_page_where_nothing_is_taken_for_markup():
    from sapl_jax.serving.api import page_of

    with serving(RedIsTampered(), token="secret") as port:
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=60)
        text = answer.read().decode()
    assert answer.headers["Content-Type"].startswith("text/html")
    for said in ("POST /analyse", "Authorization: Bearer TOKEN", "image/*", "GET /version", "503"):
        assert said in text
    assert "<script" not in text and "http" not in text.replace("HTTP", "")
    hostile = {"get": {"description": "<b>&", "responses": {"200": {"description": "<script>"}}}}
    text = page_of({"info": {"title": "<i>", "version": "1"}, "paths": {"/<p>": hostile}})
    assert "<b>" not in text and "<script>" not in text and "<i>" not in text
    assert "GET /&lt;p&gt;" in text and "&lt;b&gt;&amp;" in text


def test_beyond_this_machine_a_token_is_required(monkeypatch):
    from sapl_jax.serve import required_token

    monkeypatch.delenv("SAPL_TOKEN", raising=False)
    assert required_token("127.0.0.1", False) == required_token("0.0.0.0", True) == ""
    with pytest.raises(UserError, match="SAPL_TOKEN"):
        required_token("0.0.0.0", False)
    monkeypatch.setenv("SAPL_TOKEN", "secret")
    assert required_token("0.0.0.0", False) == "secret"
    for never_sent in ("schlüssel", "secret\n", " secret"):
        monkeypatch.setenv("SAPL_TOKEN", never_sent)
        with pytest.raises(UserError, match="ASCII"):
            required_token("127.0.0.1", False)
