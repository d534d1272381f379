"""The page itself, in Gradio: upload, overlay with its sliders, mask, soft edge map, examples."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before Gradio is imported: it reads this then.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sapl_jax.errors import UserError
from sapl_jax.inference.localizer import Localizer
from sapl_jax.serving import analysis
from sapl_jax.serving.analysis import Analysed, Limits

# Everything comes from this server: the page works offline and tells nobody that it is open.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; font-src 'self' data:; "
    "connect-src 'self' ws: wss: data: blob:; worker-src 'self' blob:; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_INTRODUCTION = (
    "# SAPL: where was this picture tampered with?\n"
    "Drop a picture. The heat map shows where it looks manipulated; it is a hint for a person to "
    "check, not a proof. Pictures stay on the machine that runs this page."
)


def file_and_name(payload: Any) -> tuple[str, str] | None:
    """(path, the owner's name) of an uploaded file; Gradio has checked that it is an upload.

    In place of Gradio's own reading, which would decode the file without limits, rotate it by EXIF
    and might compress it again.
    """
    if payload is None or not payload.path:
        return None
    return payload.path, payload.orig_name or Path(payload.path).name


def _with_headers(app: ASGIApp) -> ASGIApp:
    """ASGI middleware that forbids the page to load anything from elsewhere."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(event: Message) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event.get("headers", []), *_HEADERS]
            await send(event)

        await app(scope, receive, with_policy if scope["type"] == "http" else send)

    return guarded


def build_page(
    localizer: Localizer,
    limits: Limits,
    downloads: analysis.Downloads,
    *,
    notice: str = "",
    examples: Sequence[Path] = (),
) -> gr.Blocks:
    """The page, ready for `launch`.

    Args:
        localizer: the model, whose threshold the slider starts at.
        limits: of uploads, which wait where `concurrency` pictures are analysed.
        notice: a line under the title.
    """

    def redraw(found: Analysed | None, opacity: float, threshold: float) -> tuple:
        if found is None:
            return gr.skip(), gr.skip()
        return analysis.draw(found, opacity, threshold), analysis.summary(found, threshold)

    def remake_mask(found: Analysed | None, threshold: float) -> Any:
        if found is None:
            return gr.skip()
        return gr.DownloadButton(value=downloads.mask(found, threshold), interactive=True)

    def analyse(upload: tuple[str, str] | None, opacity: float, threshold: float) -> tuple:
        text = ""
        if upload is not None:
            path, name = upload
            try:
                found = analysis.analyse_upload(localizer, Path(path), name, limits)
                drawn, text = redraw(found, opacity, threshold)
                return found, drawn, found.edges, text, remake_mask(found, threshold)
            except UserError as error:
                text = analysis.message(error)
        return None, None, None, text, gr.DownloadButton(interactive=False)

    shown: dict[str, Any] = {
        "interactive": False, "buttons": ["fullscreen", "download"], "format": "png",
    }  # fmt: skip
    taken = [(str(path), path.name) for path in examples]
    # Gradio's files of uploads go an hour after they were made.
    with gr.Blocks(title="SAPL", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_INTRODUCTION + (f"\n\n**{notice}**" if notice else ""))
        found = gr.State(None, time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=2):
                upload = gr.Image(
                    label=f"Picture (up to {limits.megabytes} MB, "
                    f"{limits.pixels / 1e6:g} megapixels)",
                    sources=["upload", "clipboard"],
                    type="filepath",
                    image_mode=None,
                    height=300,
                    elem_id="upload",
                )
                # Set on the instance: for a subclass Gradio writes a stub file into the package.
                upload.preprocess = file_and_name
                text = gr.Markdown(elem_id="summary")
                save = gr.DownloadButton("Download the mask", interactive=False, elem_id="download")
            with gr.Column(scale=3):
                label = "Heat map over the picture; the line is the mask's outline"
                overlay = gr.Image(label=label, elem_id="overlay", **shown)
                label = "Opacity of the heat map"
                opacity = gr.Slider(0, 1, 0.7, step=0.05, label=label, elem_id="opacity")
                label, start = "Threshold of the mask", localizer.threshold
                cut = gr.Slider(0, 1, start, step=0.01, label=label, elem_id="threshold")
                with gr.Accordion("Soft edge map, of the whole picture", open=False):
                    edges = gr.Image(show_label=False, elem_id="edges", **shown)
        results = [found, overlay, edges, text, save]
        model: dict[str, Any] = {
            "concurrency_limit": limits.concurrency, "concurrency_id": "model",
            "api_visibility": "private",
        }  # fmt: skip
        newest: dict[str, Any] = {"trigger_mode": "always_last", "api_visibility": "private"}
        # What is put in while a picture is analysed counts too.
        upload.input(analyse, [upload, opacity, cut], results, **newest | model)
        if examples:
            # Not gr.Examples: it would put a new image box, with Gradio's reading, into the place.
            chosen = gr.Dataset(
                components=[gr.Image(visible=False)],
                samples=[[path] for path, _ in taken],
                label="Examples, forged from photographs",
                type="index",
            )
            chosen.click(
                lambda index, *sliders: (None, *analyse(taken[index], *sliders)),
                [chosen, opacity, cut],
                [upload, *results],
                **model,
            )
        newest["show_progress"] = "hidden"
        for slider in (opacity, cut):
            inputs = [found, opacity, cut]
            slider.change(redraw, inputs, [overlay, text], concurrency_limit=8, **newest)
        # Apart from the drawing, as it takes longer; until then the one before cannot be taken.
        wait = {"queue": False, "api_visibility": "private"}
        cut.change(lambda: gr.DownloadButton(interactive=False), None, save, **wait).then(
            remake_mask, [found, cut], save, **newest
        )
    return page.queue(max_size=64)


def launch(
    page: gr.Blocks,
    limits: Limits,
    *,
    host: str,
    port: int,
    routes: Sequence[BaseRoute] = (),
    token: str = "",
    block: bool = True,
) -> str:
    """Serves the page and returns its address.

    Args:
        limits: larger uploads are cut off while they arrive.
        port: 0 for any free one.
        routes: of the HTTP interface, beside the page.
        token: the password of the page's only user, "sapl"; "": nobody has to log in.
        block: stay until Ctrl-C.
    """
    off = dict.fromkeys(("share", "run_history", "ssr_mode", "pwa", "enable_monitoring"), False)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        max_file_size=limits.megabytes << 20,
        quiet=True,
        footer_links=[],
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        prevent_thread_lock=not block,
        auth=("sapl", token) if token else None,
        app_kwargs={
            "middleware": [Middleware(_with_headers)],
            "routes": list(routes),
            **dict.fromkeys(("docs_url", "redoc_url", "openapi_url")),
        },
        **off,
    )
    return address
