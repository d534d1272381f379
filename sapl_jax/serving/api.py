"""The HTTP interface: POST /analyse, GET /health, /version, /openapi.json and, to read, /docs."""

import asyncio
import base64
import hmac
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

import sapl_jax
from sapl_jax.errors import UserError
from sapl_jax.evaluation.document import Section, Table, to_html
from sapl_jax.inference import reading
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.predicting import render
from sapl_jax.serving.analysis import Limits

WAITING = 16  # requests that may wait or send their picture beside those that are analysed
_BODY_S = 30.0  # for a picture to arrive
_CODES = {
    200: "a JSON object", 401: "wrong token", 408: "too slow", 413: "file too large",
    422: "not a usable picture", 503: "busy: see Retry-After",
}  # fmt: skip
_BODY = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
Part = Literal["heatmap", "mask", "overlay"]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def build_api(
    localizer: Localizer, limits: Limits, *, model: dict[str, Any], token: str = ""
) -> FastAPI:
    """The interface as an ASGI application.

    Args:
        localizer: the model, whose threshold masks have.
        limits: reading a body stops there; WAITING more pictures wait, others get a 503.
        model: what answers say of it.
        token: what /analyse demands as "Authorization: Bearer TOKEN"; "" for nothing.
    """
    api = FastAPI(title="SAPL", version=sapl_jax.__version__, docs_url=None, redoc_url=None)
    running, inside = asyncio.Semaphore(limits.concurrency), 0

    def authorised(bearer: Bearer) -> None:
        given = bearer.credentials.encode() if bearer else b""
        if not hmac.compare_digest(given, token.encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def body_of(request: Request) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > limits.megabytes << 20:
                        raise HTTPException(413, f"larger than {limits.megabytes} MiB")
        except (TimeoutError, ClientDisconnect) as error:
            raise HTTPException(408, f"no whole picture came in {_BODY_S:g} s") from error
        return bytes(data)

    def answer(data: bytes, parts: list[Part]) -> dict[str, Any]:
        if not data or data.startswith(b"--"):  # as a form begins
            raise UserError("the body: expected a picture's bytes alone (curl --data-binary @FILE)")
        picture = reading.decode(data, "the body", limits.pixels)
        analysis = localizer.analyse([picture.rgb])[0]
        threshold = localizer.threshold
        files, record = render(picture, analysis, threshold, localizer.calibration, parts)
        images = {part: base64.b64encode(png).decode() for part, png in files.items()}
        return record | {"threshold": threshold, "model": model, "images": images}

    @api.post(
        "/analyse",
        dependencies=[Depends(authorised)] if token else [],
        openapi_extra={"requestBody": {"required": True, **_BODY}},
        responses={code: {"description": text} for code, text in _CODES.items()},
    )
    async def analyse(
        request: Request,
        image: Annotated[list[Part], Query()] = [],  # noqa: B006 (FastAPI's way)
    ) -> dict[str, Any]:
        """Score, verdict, regions and hash of the picture in the body; PNGs as base64 on demand."""
        nonlocal inside
        if inside >= limits.concurrency + WAITING:
            raise HTTPException(503, "too many pictures at once", {"Retry-After": "5"})
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
        return {"status": "ok", "pictures": inside, "limit": limits.concurrency + WAITING}

    @api.get("/version")
    async def version() -> dict[str, Any]:
        """Of the program and of its model."""
        return {"version": sapl_jax.__version__, "model": model}

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page_of(api.openapi()))

    return api


def page_of(document: dict[str, Any]) -> str:
    """An OpenAPI document of this interface for people, HTML without scripts."""
    sections = []
    for path, operations in document["paths"].items():
        for method, found in operations.items():
            needs = ["the header Authorization: Bearer TOKEN"] if "security" in found else []
            body = found.get("requestBody", {}).get("content", ())
            needs += [f"the body: {kind}" for kind in body]
            needs += map(_parameter, found.get("parameters", []))
            codes = [[code, answer["description"]] for code, answer in found["responses"].items()]
            parts = found["description"], needs, Table(["status", "meaning"], codes, names=2)
            sections.append(Section(f"{method.upper()} {path}", [part for part in parts if part]))
    about = document["info"]
    machines = "For programs: the same as an OpenAPI document is at /openapi.json."
    sections.append(Section("OpenAPI", [machines]))
    return to_html(f"{about['title']} {about['version']}: the HTTP interface", sections)


def _parameter(found: dict[str, Any]) -> str:
    values = found["schema"].get("items", found["schema"])
    text = ", ".join(values.get("enum", [values.get("type", "any")]))
    more = "; repeatable" if "items" in found["schema"] else ""
    return f"{found['in']} parameter {found['name']}: {text}{more}"
