"""The worker's thread between clients that leave and lanes that are still at work."""

import asyncio
import threading
import types

from llm_jax.sampling import engine as engine_module
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from llm_jax.serve.worker import Worker


def test_a_client_that_leaves_while_a_lane_writes_its_last_tokens_harms_nobody(
    tiny_model, tokenizer, mesh, params, monkeypatch
):
    monkeypatch.setattr(engine_module, "lanes_for", lambda mesh, slots: 2)
    engine = Engine(tiny_model, tokenizer, mesh, slots=4, length=64)
    loaded = types.SimpleNamespace(engine=engine, params=params, close=engine.close)
    begun, leaving = threading.Event(), threading.Event()
    work, cancel = engine._lanes[1].step, engine.cancel

    def step(*args):
        begun.set()
        assert leaving.wait(60)
        return work(*args)

    def cancel_meanwhile(completion):
        leaving.set()  # the lane is at work now, and its row ends by itself
        cancel(completion)

    engine._lanes[1].step, engine.cancel = step, cancel_meanwhile
    ids = [tokenizer.bos, *tokenizer.encode("The cat")]
    stays, leaves = Request(ids, 0, 1.0, 50, suppress=(tokenizer.end,)), Request([*ids, 7], 1, 1.0, 1)

    async def run() -> list[int]:
        worker = Worker("sft", lambda: loaded, room=8, warm_up=False)
        job, other, written = worker.submit([stays]), worker.submit([leaves]), []
        await asyncio.to_thread(begun.wait, 60)
        worker.cancel(other)
        while job in worker._jobs or len(written) < 50:
            written += (await job.next()).ids
        worker.stop("done")
        await asyncio.to_thread(worker.ended, 60)
        return written

    alone = Engine(tiny_model, tokenizer, mesh, slots=2, length=64).generate(params, [stays])[0]
    assert asyncio.run(run()) == alone.ids
