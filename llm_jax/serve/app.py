"""The routes: OpenAI's interface, our extensions, the page, health and metrics."""

import asyncio
import dataclasses
import hmac
import json
import re
import time
import traceback
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llm_jax.config import UserError
from llm_jax.serve.answers import ChatStyle, Names, Shown, TextStyle, Writer, usage
from llm_jax.serve.bodies import AnyBody, ApiError, parsed
from llm_jax.serve.feedback import Feedback, FeedbackBody
from llm_jax.serve.metrics import Clock, Counted, Metrics
from llm_jax.serve.protocol import ChatBody, CompletionBody, CutBody, JoinBody, Sampling, TokenizeBody
from llm_jax.serve.worker import Job, Workers
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.table import TOOLS

STATIC = Path(__file__).parent / "static"
LAST_SECONDS = 5  # for the end of an answer that took all the time it might
LEFT = 499  # the status of a request whose client has gone; nobody reads it but the metrics


@dataclasses.dataclass(frozen=True)
class Limits:
    api_key: str = ""  # empty: none is asked for
    hosts: tuple[str, ...] = ()  # names that the server answers to; empty: to any
    origins: tuple[str, ...] = ()  # of other sites' pages that may ask; "*": all
    max_n: int = 16  # choices of a prompt
    timeout: float = 300.0  # seconds that a request may take
    body_bytes: int = 2**20


class Gone(Exception):
    """The client left."""


@dataclasses.dataclass(frozen=True)
class Site:
    """What the routes share."""

    workers: Workers
    limits: Limits
    metrics: Metrics
    names: Names


def make_app(workers: Workers, limits: Limits) -> FastAPI:
    """The application. Its default stage must have been asked for (`workers.get`) in the event loop that serves it."""
    site = Site(workers, limits, Metrics(workers), Names(workers.tokenizer))
    handlers = {ApiError: failed, UserError: mistaken, HTTPException: not_routed, Gone: left, ClientDisconnect: left}
    handlers |= {Exception: broken}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=handlers)
    app.add_middleware(Counted, metrics=site.metrics)
    app.include_router(interface(site))

    @app.get("/health")
    async def health() -> JSONResponse:
        said = workers.health()
        return JSONResponse(said, 200 if said["status"] == "ok" else 503)

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(site.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC))
    add_heads(app.router)
    if limits.origins:
        app.add_middleware(CORSMiddleware, allow_origins=limits.origins, allow_methods=["*"], allow_headers=["*"])
    return app


def add_heads(routes: APIRouter) -> None:
    """Whatever can be read can then be asked for its head alone, as monitors do."""
    for route in routes.routes:
        if "GET" in (methods := getattr(route, "methods", None) or set()):
            methods.add("HEAD")


async def failed(_: Request, error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)


async def mistaken(request: Request, error: UserError) -> JSONResponse:
    """What a chat template does not take, for one."""
    return await failed(request, ApiError(400, str(error)))


async def left(*_) -> Response:
    return Response(status_code=LEFT)


async def broken(_: Request, error: Exception) -> JSONResponse:
    traceback.print_exception(error)
    return JSONResponse(ApiError(500, "the server failed; its log says why").body(), 500)


async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
    reason = f"{request.method} {request.url.path}: {error.detail}"[:200]
    return JSONResponse(ApiError(error.status_code, reason).body(), error.status_code, error.headers)


def interface(site: Site) -> APIRouter:
    """All of /v1, and the tokenizer's own as other servers have them."""
    workers, limits, feedback = site.workers, site.limits, Feedback(site.workers.workdir / "feedback")

    async def admit(request: Request) -> None:
        # A page from elsewhere may have its own name lead to this machine, and read what is answered.
        host = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
        if limits.hosts and host not in limits.hosts:
            reason = f"Host: {host[:100]!r} is none of {', '.join(limits.hosts)}; others need --hosts or an --api_key"
            raise ApiError(403, reason, "Host", "host_not_allowed")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else scheme
        if limits.api_key and not hmac.compare_digest(given.encode("latin-1"), limits.api_key.encode()):
            reason = "wrong or missing API key: send it as 'Authorization: Bearer KEY'"
            raise ApiError(401, reason, code="invalid_api_key", WWW_Authenticate="Bearer")

    async def body_of(request: Request, kind: type[AnyBody]) -> AnyBody:
        try:
            async with asyncio.timeout(limits.timeout):
                data = await read(request, limits.body_bytes)
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {limits.timeout:g} seconds") from None
        return await asyncio.to_thread(parsed, data, kind)

    routes = APIRouter(prefix="/v1", dependencies=[Depends(admit)])

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(workers, *stage) for stage in workers.trained().items()]}

    @routes.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        stage = workers.known(name)
        return described(workers, stage, workers.trained().get(stage, 0))  # its files may be gone, its server is not

    @routes.post("/chat/completions")
    async def chat(request: Request) -> Response:
        body = await body_of(request, ChatBody)
        if workers.run.kind_of(stage := workers.known(body.model)) == "base":
            raise ApiError(400, f"model: {stage!r} continues documents; ask /v1/completions, or another model", "model")
        return await Answer(site, body, ChatStyle(body, site.names)).response(request)

    @routes.post("/completions")
    async def completions(request: Request) -> Response:
        body = await body_of(request, CompletionBody)
        return await Answer(site, body, TextStyle(body, site.names)).response(request)

    @routes.post("/tokenize")
    async def tokenize(request: Request) -> JSONResponse:
        body, t = await body_of(request, TokenizeBody), workers.tokenizer
        workers.known(body.model)
        cut = lambda: [{"id": i, "text": t.piece(i)} for i in t.encode(body.text)]  # noqa: E731
        return JSONResponse({"tokens": await asyncio.to_thread(cut)})

    @routes.post("/feedback")
    async def save(request: Request) -> dict[str, Any]:
        body = await body_of(request, FeedbackBody)
        workers.known(body.model)
        return await asyncio.to_thread(feedback.save, body)

    def wanted(body: CutBody | JoinBody) -> Tokenizer:
        """Raises ApiError for a model that is not there."""
        workers.known(body.model)
        return workers.tokenizer

    plain = APIRouter(dependencies=[Depends(admit)])

    @plain.post("/tokenize")
    async def cut(request: Request) -> JSONResponse:
        body = await body_of(request, CutBody)
        ids = await asyncio.to_thread(body.ids, wanted(body))
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": workers.length})

    @plain.post("/detokenize")
    async def join(request: Request) -> JSONResponse:
        body = await body_of(request, JoinBody)
        text = body.text(wanted(body))
        return JSONResponse({"prompt": text, "content": text})

    @plain.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        kind = {"tokenizer_class": type(workers.tokenizer).__name__, "vocab_size": workers.tokenizer.vocab_size}
        return kind | workers.tokenizer.described()

    plain.include_router(routes)
    for router in (plain, routes):
        add_heads(router)
    return plain


async def read(request: Request, most: int) -> bytes:
    """The body. Raises ApiError for one that is too long, or is not said to be JSON.

    Without the type a page of another site could have a browser send it, as it may send a form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the header Content-Type must be application/json", "Content-Type")
    data = bytearray()
    if int(request.headers.get("content-length", 0)) <= most:
        async for piece in request.stream():
            data += piece
            if len(data) > most:
                break
        else:
            return bytes(data)
    raise ApiError(413, f"the body is longer than {most} bytes", code="body_too_long")


def described(workers: Workers, stage: str, created: int) -> dict[str, Any]:
    ours = {"kind": workers.run.kind_of(stage), "context": workers.length, "default": stage == workers.default}
    told = lambda tool: {p: getattr(tool, p) for p in ("name", "description", "argument", "limits")}  # noqa: E731
    ours["tools"] = [told(TOOLS[name]) for name in workers.tools]
    return {"id": stage, "object": "model", "created": created, "owned_by": "llm_jax", **ours}


class Answer:
    """A request for tokens on its way to be answered, whole or as a stream."""

    def __init__(self, site: Site, body: Sampling, style: ChatStyle | TextStyle):
        self.site, self.body, self.style = site, body, style
        self.stage = site.workers.known(body.model)
        self._check_room()
        self.head = {"id": f"{style.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.stage}
        end = body.stop, body.seen, body.inside
        self.writers = [Writer(site.workers.tokenizer, *end) for _ in range(body.choices)]
        self.prompt_tokens = 0

    def _check_room(self) -> None:
        n, choices, room = self.body.n, self.body.choices, self.site.workers.room
        if n > self.site.limits.max_n:
            raise ApiError(400, f"n: {n} choices are more than {self.site.limits.max_n}", "n")
        if choices > room:
            field = "n" if choices == n else "prompt"
            reason = f"{choices} choices are more than this server holds, {room}; ask for fewer at a time"
            raise ApiError(400, f"{field}: {reason}", field)

    async def response(self, request: Request) -> Response:
        """Raises ApiError for what goes wrong before the first token."""
        workers, limits = self.site.workers, self.site.limits
        requests, notice = await asyncio.to_thread(self.body.asked, workers.tokenizer, workers.length, workers.tools)
        self.head |= {"notice": notice} if notice else {}
        self.prompt_tokens = sum(len(request.prompt) for request in requests[:: self.body.n])
        steps = self._steps(requests, request)
        if self.body.stream:
            return EventStream(self._events(await anext(steps), steps), limits.timeout + LAST_SECONDS)
        shown = [Shown([], []) for _ in self.writers]
        async for index, new in steps:
            shown[index].pieces.extend(new.pieces)
            shown[index].tokens.extend(new.tokens)
        choices = [self.style.whole(i, *choice) for i, choice in enumerate(zip(self.writers, shown, strict=True))]
        head = {**self.head, "object": self.style.object}
        return JSONResponse({**head, "choices": choices, "usage": self._usage()})

    def _usage(self) -> dict[str, Any]:
        return usage(self.prompt_tokens, self.writers, self.body.n)

    async def _steps(self, requests: list, request: Request) -> AsyncIterator[tuple[int, Shown]]:
        """(choice, what is new of it) until all are finished. Leaves nothing behind, however it ends.

        Raises Gone when the client has left, and ApiError.
        """
        worker, seconds = self.site.workers.get(self.stage), self.site.limits.timeout
        job, clock = worker.submit(requests), Clock(self.site.metrics, self.stage, self.prompt_tokens)
        timer = asyncio.get_running_loop().call_later(seconds, job.fail, TimeoutError())
        watch = asyncio.create_task(watched(request, job))
        try:
            while not all(writer.finish for writer in self.writers):
                news = await job.next()
                clock.note(news)
                if not self.writers[news.row].finish:
                    yield news.row, self.writers[news.row].take(news)
        except TimeoutError:
            if not any(writer.ids for writer in self.writers):
                raise ApiError(504, f"no token came within {seconds:g} seconds", code="timeout") from None
            for index, writer in enumerate(self.writers):
                if not writer.finish:
                    yield index, writer.end("length")
        finally:
            timer.cancel()
            watch.cancel()
            worker.cancel(job)

    async def _events(self, first: tuple[int, Shown], steps: AsyncIterator[tuple[int, Shown]]) -> AsyncIterator[str]:
        """The data of server-sent events."""
        head = {**self.head, "object": self.style.chunk_object}
        # All in ASCII: some clients take U+2028 and its like for the end of a line.
        chunk = lambda *choices, **more: json.dumps({**head, "choices": choices, **more})  # noqa: E731
        try:
            for index in range(len(self.writers)):
                yield chunk(self.style.begin(index))
            head.pop("notice", None)  # it is said once
            yield chunk(self.style.chunk(first[0], self.writers[first[0]], first[1]))
            async for index, shown in steps:
                writer = self.writers[index]
                if shown.pieces or shown.tokens or writer.finish:
                    yield chunk(self.style.chunk(index, writer, shown))
            if self.body.stream_options.include_usage:
                yield chunk(usage=self._usage())
            yield "[DONE]"
        except ApiError as error:
            yield json.dumps(error.body())
        except Gone:
            pass
        finally:
            await steps.aclose()


async def watched(request: Request, job: Job) -> None:
    """Tells the job when its client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.fail(Gone())


class EventStream(Response):
    """Server-sent events. A client that has not read them all after so many seconds loses the connection."""

    def __init__(self, events: AsyncIterator[str], seconds: float):
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self.events, self.seconds = events, seconds

    async def __call__(self, scope, receive, send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for event in self.events:
                    await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass  # the server closes what was not ended
        finally:
            await self.events.aclose()
