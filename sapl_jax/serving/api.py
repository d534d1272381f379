"""The HTTP interface beside the page: POST /analyse, GET /health, GET /version, /openapi.json."""

import asyncio
import base64
import hmac
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

import sapl_jax
from sapl_jax.errors import UserError
from sapl_jax.inference import reading
from sapl_jax.inference.calibration import Calibration
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.predicting import render

PATHS = ("/analyse", "/health", "/version", "/openapi.json")
WAITING = 16  # requests that may wait or send their picture beside those that are analysed
_BODY_S = 30.0  # for a picture to arrive
_RETRY_S = "5"
Part = Literal["heatmap", "mask", "overlay"]


def build_api(
    localizer: Localizer,
    *,
    threshold: float,
    model: dict[str, Any],
    max_bytes: int,
    max_pixels: int,
    concurrency: int,
    token: str = "",
    calibration: Calibration | None = None,
) -> FastAPI:
    """The interface as an ASGI application.

    Args:
        localizer: the model.
        threshold: the mask is heat map > threshold.
        model: what answers say of it.
        max_bytes: limit of a picture's file; reading stops there.
        max_pixels: limit of a picture, checked before it is decoded.
        concurrency: pictures analysed at the same time; WAITING more wait, others get a 503.
        token: what /analyse demands as "Authorization: Bearer TOKEN"; "" for nothing.
        calibration: of the model, which gives probabilities and verdicts.
    """
    api = FastAPI(title="SAPL", version=sapl_jax.__version__, docs_url=None, redoc_url=None)
    running, inside = asyncio.Semaphore(concurrency), 0

    def authorised(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def body_of(request: Request) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > max_bytes:
                        raise HTTPException(413, f"larger than {max_bytes >> 20} MiB")
        except (TimeoutError, ClientDisconnect) as error:
            raise HTTPException(408, f"no whole picture came in {_BODY_S:g} s") from error
        return bytes(data)

    def answer(data: bytes, parts: list[Part]) -> dict[str, Any]:
        picture = reading.decode(data, "the body", max_pixels)
        analysis = localizer.analyse([picture.rgb])[0]
        files, record = render(picture, analysis, threshold, calibration, parts)
        images = {part: base64.b64encode(png).decode() for part, png in files.items()}
        return record | {"threshold": threshold, "model": model, "images": images}

    picture_body = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    codes = {
        401: "wrong token", 408: "too slow", 413: "file too large", 422: "not a usable picture",
        503: "busy: see Retry-After",
    }  # fmt: skip

    @api.post(
        "/analyse",
        dependencies=[Depends(authorised)],
        openapi_extra={"requestBody": {"required": True, **picture_body}},
        responses={code: {"description": text} for code, text in codes.items()},
    )
    async def analyse(
        request: Request,
        image: Annotated[list[Part], Query()] = [],  # noqa: B006 (FastAPI's way)
    ) -> dict[str, Any]:
        """Score, verdict, regions and hash of the picture in the body; PNGs as base64 on demand."""
        nonlocal inside
        if inside >= concurrency + WAITING:
            raise HTTPException(503, "too many pictures at once", {"Retry-After": _RETRY_S})
        inside += 1
        try:
            data = await body_of(request)
            async with running:
                return await run_in_threadpool(answer, data, image)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        except MemoryError as error:
            raise HTTPException(422, "not enough memory for this picture") from error
        finally:
            inside -= 1

    @api.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the model is loaded (it is, before the first answer), and how busy it is."""
        return {"status": "ok", "pictures": inside, "limit": concurrency + WAITING}

    @api.get("/version")
    async def version() -> dict[str, Any]:
        """Of the program and of its model."""
        return {"version": sapl_jax.__version__, "model": model}

    return api


class Beside:
    """ASGI middleware: PATHS go to the interface, everything else to the page."""

    def __init__(self, app: ASGIApp, api: ASGIApp):
        self.app, self.api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        ours = scope["type"] == "http" and scope["path"] in PATHS
        await (self.api if ours else self.app)(scope, receive, send)
