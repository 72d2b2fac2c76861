"""What Prometheus reads at /metrics. The names begin with `llm_jax_`."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from llm_jax.serve.worker import News, Workers

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """One server's numbers: some are counted as requests go by, some are asked of the workers when they are read."""

    def __init__(self, workers: Workers):
        self.workers, self.registry = workers, CollectorRegistry()

        def new(kind, name: str, text: str, *labels: str, **more):
            return kind(f"llm_jax_{name}", text, labels, registry=self.registry, **more)

        seconds = {"buckets": SECONDS}
        self.requests = new(Counter, "requests", "Requests that were answered.", "route", "status")
        self.prompts = new(Counter, "prompt_tokens", "Tokens of prompts.", "model")
        self.reused = new(Counter, "reused_prompt_tokens", "Those that were in the cache already.", "model")
        self.first = new(Histogram, "time_to_first_token_seconds", "Since the request came.", "model", **seconds)
        self.token = new(Histogram, "token_seconds", "Between a row's tokens after its first.", "model", **seconds)
        self.registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        kinds = (
            (CounterMetricFamily, "generated_tokens", "Tokens written, a tool's included.", lambda w: w.written),
            (GaugeMetricFamily, "slots", "Rows that can run together.", lambda w: w.engine.slots if w.engine else 0),
            (GaugeMetricFamily, "running_rows", "Rows in slots.", lambda w: w.running),
            (GaugeMetricFamily, "queued_rows", "Rows that wait.", lambda w: max(0, w.rows - w.running)),
        )
        for kind, name, text, value in kinds:
            family = kind(f"llm_jax_{name}", text, labels=("model",))
            for stage, worker in self.workers.loaded.items():
                family.add_metric((stage,), value(worker))
            yield family


class Clock:
    """Takes the times of one request's rows. Each prompt is counted once a row."""

    def __init__(self, metrics: Metrics, model: str, prompt_tokens: int):
        self.metrics, self.model, self.prompt_tokens = metrics, model, prompt_tokens
        self.started = time.monotonic()
        self.last: dict[int, float] = {}

    def note(self, news: News) -> None:
        m, now, before = self.metrics, time.monotonic(), self.last.get(news.row)
        if not news.ids:
            return
        if before is None:
            m.first.labels(self.model).observe(now - self.started)
            m.prompts.labels(self.model).inc(self.prompt_tokens)
            m.reused.labels(self.model).inc(news.reused)
        else:
            m.token.labels(self.model).observe((now - before) / len(news.ids))
        self.last[news.row] = now


class Counted:
    """ASGI middleware: counts answers by route, not by path, of which there are as many as anyone likes."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 499  # the client left before there was an answer

        async def noting(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
