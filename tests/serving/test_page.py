"""The page in a real browser: upload, result, sliders, download, and what must be refused.

Needs Gradio (the extra "serve"), Playwright and Chromium; skipped where one is absent.
"""

import json
import shutil
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from sapl_jax import Localizer
from sapl_jax.serving.analysis import Downloads, Limits
from tests.inference import hostile
from tests.inference.hostile import picture, write

pytest.importorskip("gradio", reason='the extra "serve" is not installed')
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
]
SLOW = 13  # a picture of this height keeps the analyser busy until it is let go


class SometimesSlow:
    """A `Localizer` that takes its time for some pictures."""

    def __init__(self, localizer):
        self.geometry, self.edge_options = localizer.geometry, localizer.edge_options
        self.localizer, self.calibration = localizer, localizer.calibration
        self.threshold = localizer.threshold
        self.started, self.let_go = threading.Event(), threading.Event()

    def analyse(self, images):
        if images[0].shape[0] == SLOW:
            self.started.set()
            assert self.let_go.wait(60)
        return self.localizer.analyse(images)


@pytest.fixture(scope="module")
def analyser(trained_run):
    localizer = Localizer.load(trained_run)
    localizer(picture())
    return SometimesSlow(localizer)


@pytest.fixture(scope="module")
def address(analyser, tmp_path_factory):
    from sapl_jax.serving import page as pages
    from sapl_jax.serving.analysis import write_examples
    from sapl_jax.serving.api import build_api

    folder, limits = tmp_path_factory.mktemp("page"), Limits(megabytes=2)
    examples = write_examples(folder / "examples", size=64)
    page = pages.build_page(analyser, limits, Downloads(folder), examples=examples)
    routes = build_api(analyser, limits, model={"checkpoint": "best/7"}).routes
    where = {"host": "127.0.0.1", "port": 0}
    yield pages.launch(page, limits, **where, routes=routes, block=False).rstrip("/")
    page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture
def tab(browser, address):
    tab = opened(browser, address)
    yield tab
    tab.close()


def opened(browser, address):
    tab = browser.new_page()
    tab.hosts = set()
    tab.on("request", lambda request: tab.hosts.add(urlsplit(request.url).netloc))
    tab.goto(address)
    tab.wait_for_selector("#upload input[type=file]", state="attached")
    return tab


def upload(tab, file):
    tab.set_input_files("#upload input[type=file]", file)


def named(name, data, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": data}


def summary_with(tab, text):
    tab.wait_for_function(
        "text => document.querySelector('#summary').innerText.includes(text)", arg=text
    )
    return tab.inner_text("#summary")


def set_slider(tab, name, value):
    tab.fill(f"{name} input[type=number]", str(value))
    tab.press(f"{name} input[type=number]", "Enter")


def test_a_picture_is_scored_drawn_and_its_mask_downloaded(tab, address, analyser, tmp_path):
    rgb = picture(40, 64, seed=3)
    upload(tab, write(tmp_path / "holiday.png", rgb))
    tab.wait_for_selector("#overlay img")
    expected = analyser.analyse([rgb])[0]
    assert f"score {expected.score:.4g}" in summary_with(tab, "64 x 40 pixels")

    drawn = tab.get_attribute("#overlay img", "src")
    set_slider(tab, "#opacity", 0.2)
    tab.wait_for_function(
        "before => document.querySelector('#overlay img').src != before", arg=drawn
    )
    threshold = round(float(np.quantile(expected.heat_map, 0.9)), 2)
    share = np.mean(np.float32(expected.heat_map) > threshold)
    set_slider(tab, "#threshold", threshold)
    summary_with(tab, f"{share:.1%} of the picture")
    # The button's file follows a moment later.
    for _ in range(50):
        with tab.expect_download() as started:
            tab.click("#download")
        if started.value.suggested_filename == f"holiday_mask_{threshold:.2f}.png":
            break
        tab.wait_for_timeout(100)
    started.value.save_as(tmp_path / "mask.png")
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 64) and np.mean(mask > 127) == pytest.approx(share, abs=0.02)

    tab.click("text=Soft edge map")
    tab.wait_for_selector("#edges img")
    assert tab.hosts <= {urlsplit(address).netloc, ""}  # data: and blob: have no host


def test_the_page_has_one_button_to_download(tab):
    tab.wait_for_selector("#download")
    assert tab.locator("button:has-text('Download')").count() == 1


def test_a_slider_is_dragged(tab, tmp_path):
    upload(tab, write(tmp_path / "a.png", picture()))
    before = summary_with(tab, "above the threshold")
    # The sliders move down when the picture arrives, a moment after the words.
    tab.wait_for_function("document.querySelector('#overlay img')?.naturalHeight > 0")
    slider = tab.locator("#threshold input[type=range]")
    box = slider.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=5)
    tab.mouse.up()
    assert summary_with(tab, "100.0% of the picture") != before


def test_an_example_is_analysed(tab):
    tab.locator(".gallery-item").first.click()
    summary_with(tab, "above the threshold")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (named("text.png", b"hello world"), "not a JPEG, PNG, BMP, TIFF or WebP picture"),
        (named("bomb.png", hostile.bomb()), "20000 x 10000 pixels, more than the limit"),
        (named("moving.png", hostile.animated("PNG")), "an animation"),
        (named("<img src=x onerror=alert(1)>.png", b"hello"), "<img src=x onerror=alert(1)>"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(tab, tmp_path, file, reason):
    upload(tab, file)
    summary_with(tab, "cannot be analysed")
    summary_with(tab, reason)
    assert tab.locator("#overlay img").count() == 0
    assert tab.locator("#summary img").count() == 0
    # The page lives on.
    upload_again = write(tmp_path / "good.png", picture())
    tab.click("#upload [aria-label='Remove Image'], #upload [aria-label='Clear']")
    upload(tab, upload_again)
    summary_with(tab, "above the threshold")


def test_a_text_file_is_refused(tab):
    upload(tab, named("notes.txt", b"hello", "text/plain"))
    tab.wait_for_function("document.body.innerText.includes('Invalid file type')")
    assert tab.inner_text("#summary").strip() == ""


def test_an_upload_over_the_limit_is_refused(tab):
    upload(tab, named("large.png", bytes(5 << 20)))
    tab.wait_for_function("document.body.innerText.includes('exceed the maximum allowed size')")


def test_it_works_while_another_picture_is_analysed(tab, browser, address, analyser, tmp_path):
    upload(tab, write(tmp_path / "slow.png", picture(SLOW, 20)))
    assert analyser.started.wait(30)
    other = opened(browser, address)
    upload(other, write(tmp_path / "quick.png", picture(30, 20)))
    summary_with(other, "20 x 30 pixels")
    set_slider(other, "#threshold", 0)
    summary_with(other, "100.0% of the picture")
    assert "pixels" not in tab.inner_text("#summary")
    analyser.let_go.set()
    summary_with(tab, f"20 x {SLOW} pixels")
    other.close()


def test_a_picture_put_in_while_one_is_analysed_is_not_passed_over(tab, analyser, tmp_path):
    analyser.started.clear()
    analyser.let_go.clear()
    upload(tab, write(tmp_path / "slow.png", picture(SLOW, 20)))
    assert analyser.started.wait(30)
    tab.click("#upload [aria-label='Remove Image'], #upload [aria-label='Clear']")
    upload(tab, write(tmp_path / "next.png", picture(30, 20)))
    analyser.let_go.set()
    summary_with(tab, "20 x 30 pixels")


def test_files_of_the_machine_are_not_served(address):
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/file=pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(address + path, timeout=10)
        assert error.value.code in (403, 404)


def test_only_this_server_may_be_contacted(address):
    with urllib.request.urlopen(address, timeout=10) as response:
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]


def test_the_http_interface_is_beside_the_page_and_its_page_is_read_without_scripts(tab, address):
    with urllib.request.urlopen(f"{address}/version", timeout=10) as response:
        assert json.load(response)["model"] == {"checkpoint": "best/7"}
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{address}/analyse", data=b"no picture", timeout=10)
    assert error.value.code == 422 and "not a JPEG" in json.load(error.value)["detail"]
    tab.goto(f"{address}/docs")
    assert tab.locator("h2").all_inner_texts()[:3] == [
        "POST /analyse",
        "GET /health",
        "GET /version",
    ]
    assert "query parameter image: heatmap, mask, overlay; repeatable" in tab.inner_text("body")
    assert tab.locator("script").count() == 0
    colour = "getComputedStyle(document.querySelector('th')).fontWeight"
    assert tab.evaluate(colour) == "600"  # the policy lets its style through
