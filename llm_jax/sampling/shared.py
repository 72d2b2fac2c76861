"""Sampling in several processes: each decodes its share of the requests on its own devices, and all get the answers.

What a request is answered with does not depend on where it is decoded: its noise is a function of its seed, and so the
completions are those of one process, up to rounding where other rows stand beside it. What all processes then work
out from the same values is the same in each: rewards, batches, figures, reports. What may come out differently, since
time limits are at work (a sandbox), is worked out once, by `each`.
"""

import dataclasses
import pickle
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from llm_jax import sharding
from llm_jax.config import UserError
from llm_jax.runs import Run, reader_mesh
from llm_jax.sampling import memory
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Completion, Request, Tool
from llm_jax.sampling.scoring import Pair, Score

MESSAGE = 2**16  # bytes; what is exchanged is padded to this, doubled as often as it needs: few programs

T, U = TypeVar("T"), TypeVar("U")


def everyone(value: T) -> list[T]:
    """What each process gives, in their order. All of them call it, in the same order; so it is a barrier, too.

    It goes over the devices, as pickles: the other end is the same program, and floats come out as they went in.
    """
    if jax.process_count() == 1:
        return [value]
    said = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(said)))
    room = MESSAGE * 2 ** max(0, (int(sizes.max() - 1) // MESSAGE).bit_length())
    heard = multihost_utils.process_allgather(np.pad(said, (0, room - len(said))))
    return [pickle.loads(one[:size].tobytes()) for one, size in zip(heard, sizes, strict=True)]


def each(function: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """The function of each item, in their order, each worked out in one of the processes."""
    count, me = jax.process_count(), jax.process_index()
    parts = everyone([function(item) for item in items[me::count]])
    return [parts[number % count][number // count] for number in range(len(items))]


def dealt(keys: Sequence[Hashable], processes: int) -> list[list[int]]:
    """Of each process the numbers of what it does: as many as the others, and those with one key together, as far as
    none gets more than its share. So a prompt is read once for its whole group."""
    share, groups = -(-len(keys) // processes), defaultdict(list)
    for number, key in enumerate(keys):
        groups[key].append(number)
    pieces = [group[at : at + share] for group in groups.values() for at in range(0, len(group), share)]
    out: list[list[int]] = [[] for _ in range(processes)]
    for piece in sorted(pieces, key=len, reverse=True):
        min(out, key=len).extend(piece)
    return [sorted(numbers) for numbers in out]


def meshes(run: Run) -> tuple[Mesh, Mesh]:
    """(a reader's mesh of this process's devices; one of all devices, with such a mesh of each process along its first
    axis, `process`). Raises UserError where processes have different numbers of devices."""
    devices: dict[int, list] = {process: [] for process in range(jax.process_count())}
    for device in jax.devices():
        devices[device.process_index].append(device)
    counts = [len(own) for own in devices.values()]
    if len(set(counts)) > 1:
        raise UserError(f"to sample, processes must have as many devices each; they have {', '.join(map(str, counts))}")
    each_ones = [reader_mesh(run.config.model, own) for own in devices.values()]
    axes = "process", *sharding.MESH_AXES
    stacked = np.stack([mesh.devices for mesh in each_ones])
    return each_ones[jax.process_index()], Mesh(stacked, axes, axis_types=(sharding.AXIS_TYPE,) * len(axes))


def own_copy(params, own: Mesh, everywhere: Mesh):
    """Parameters on a mesh of all processes -> the same on this process's mesh. All call it; `meshes` gives the two."""
    with jax.set_mesh(everywhere):
        whole = jax.device_put(params, jax.tree.map(lambda x: NamedSharding(everywhere, x.sharding.spec), params))

    def of_mine(x: jax.Array) -> jax.Array:
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(own, x.sharding.spec), parts)

    return jax.tree.map(of_mine, whole)


class SharedEngine(Engine):
    """One process's engine of several that answer together: `generate` and `score` take what all are asked, and give
    all answers to each. All processes call them, in the same order, with parameters of the run's mesh.

    The slots are those of all processes. Raises UserError where the model has no room on the devices of one process,
    and as `Engine` and `meshes` do.
    """

    def __init__(self, run: Run, slots: int, tools: dict[str, Tool] | None = None, **options):
        own, self._everywhere = meshes(run)
        here = dataclasses.replace(run, mesh=own)
        memory.check_copy(here.abstract_params(), own)
        shards = jax.process_count() * sharding.shards(own, "batch")
        slots = -(-slots // shards) * shards // jax.process_count()
        with jax.set_mesh(own):
            super().__init__(here.model, run.tokenizer, own, slots, run.config.data.sequence_length, tools, **options)
        self._given = None

    def use(self, params) -> None:
        if params is self._given:
            return
        copy = own_copy(params, self.mesh, self._everywhere)
        with jax.set_mesh(self.mesh):
            super().use(copy)
        self._given, self._params = params, None  # the copy is turned for decoding by now, and need not stay

    def generate(self, params, requests: list[Request]) -> list[Completion]:
        shares = dealt([tuple(request.prompt) for request in requests], jax.process_count())
        mine = [requests[number] for number in shares[jax.process_index()]]
        return in_order(shares, everyone(super().generate(params, mine)))

    def score(self, params, pairs: list[Pair]) -> list[Score]:
        shares = dealt([tuple(context[:-1]) for context, _ in pairs], jax.process_count())
        mine = [pairs[number] for number in shares[jax.process_index()]]
        return in_order(shares, everyone(super().score(params, mine)))


def in_order(shares: list[list[int]], parts: list[list[T]]) -> list[T]:
    """What each process has made of its numbers, by number."""
    told = {
        number: one for share, part in zip(shares, parts, strict=True) for number, one in zip(share, part, strict=True)
    }
    return [told[number] for number in range(len(told))]
