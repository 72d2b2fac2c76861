"""The mesh, and the one table that says where every logical axis lives."""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm_jax.config import UserError

MESH_AXES = ("data", "fsdp", "expert", "tensor", "context")
AXIS_TYPE = AxisType.Auto  # the compiler places what the table leaves open

# logical axis -> mesh axes; an axis not named here is replicated
RULES = {
    "batch": ("data", "fsdp", "expert"),
    "length": "context",  # of activations: positions of a row
    "residual": "tensor",  # of activations: the model's dimension between layers
    "embed": "fsdp",  # of parameters: the model's dimension
    "heads": "tensor",
    "kv_heads": "tensor",
    "ff": "tensor",
    "vocab": "tensor",
    "expert": "expert",
    "stack": "fsdp",  # of Muon's work: whole matrices of a stack of layers
}


def make_mesh(mesh_config, devices: list | None = None) -> Mesh:
    """The mesh over all devices (or those given); over several slices, `data` spans them and the rest stay inside.

    Hosts of GPUs are no slices, though JAX numbers them as such: any axis may cross them, and the first does first.
    Raises UserError when the sizes do not multiply to the device count, or `data` is no multiple of the slices.
    """
    devices = devices or jax.devices()
    sizes = tuple(mesh_config[axis] for axis in MESH_AXES)
    if math.prod(sizes) != len(devices):
        shown = " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
        raise UserError(
            f"the mesh {shown} needs {math.prod(sizes)} devices, but {len(devices)} are here; set --config.mesh.*"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform != "gpu"}) or 1
    if sizes[0] % slices:
        raise UserError(f"mesh.data is {sizes[0]}, but there are {slices} slices; it must be a multiple of them")
    options = {"devices": devices, "allow_split_physical_axes": True}
    if slices > 1:
        inside, across = (sizes[0] // slices, *sizes[1:]), (slices, *(1,) * (len(sizes) - 1))
        grid = mesh_utils.create_hybrid_device_mesh(inside, across, **options)
    else:
        grid = mesh_utils.create_device_mesh(sizes, **options)
    return Mesh(grid, MESH_AXES, axis_types=(AXIS_TYPE,) * len(MESH_AXES))


def reader_sizes(devices: int, lengths: tuple[int, ...]) -> dict[str, int]:
    """The mesh of a reader on so many devices: `tensor` as far as it divides all lengths that it cuts; replicas."""
    tensor = math.gcd(devices, *lengths)
    return dict.fromkeys(MESH_AXES, 1) | {"data": devices // tensor, "tensor": tensor}


def compiler_options(mesh: Mesh) -> dict[str, int]:
    """Of XLA. For a CPU, LLVM's first level: up to half of the time to compile, for the same bits at the same speed."""
    return {"xla_backend_optimization_level": 1} if mesh.devices.flat[0].platform == "cpu" else {}


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axes of an array -> its PartitionSpec."""
    return PartitionSpec(*(RULES.get(axis) for axis in axes))


def named(mesh: Mesh, *axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(axes))


def named_tree(mesh: Mesh, axes_tree):
    """A NamedSharding for each tuple of logical axes of a tree."""
    return jax.tree.map(lambda axes: named(mesh, *axes), axes_tree, is_leaf=lambda x: isinstance(x, tuple))


def shards(mesh: Mesh, axis: str) -> int:
    """Into how many parts the mesh cuts a logical axis."""
    names = RULES[axis]
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Inside jit: x, placed as the table says on the mesh of `jax.set_mesh`; without one, x."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes))


def on_tokens(function: Callable, in_axes: tuple, out_axes: tuple) -> Callable:
    """`function`, run on what each device holds of arrays with these logical axes; without a mesh, `function` itself.

    Inside, `axes_of` names the mesh axes to sum or gather over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    ins, outs = (tuple(map(spec, some)) for some in (in_axes, out_axes))
    return jax.shard_map(function, in_specs=ins, out_specs=outs, check_vma=False)


def axes_of(axis: str) -> tuple[str, ...]:
    """Inside `on_tokens`: the mesh axes that cut a logical one. Elsewhere none; a collective over none does nothing."""
    names = RULES[axis]
    names = (names,) if isinstance(names, str) else names
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(name for name in names if name in mesh.manual_axes and mesh.shape[name] > 1)


def scattered(partial: jax.Array) -> jax.Array:
    """Inside `on_tokens`: a weight's gradient, summed over all tokens, of which each device keeps its shard of `embed`.

    A ring, in which each device sends every part of the array once. XLA makes of `psum_scatter` an all-reduce, twice
    that, on slices of several dimensions.
    """
    of_tokens = (*axes_of("batch"), *axes_of("length"))
    if axes_of("embed"):
        (axis,) = axes_of("embed")
        n, me = jax.sharding.get_abstract_mesh().shape[axis], jax.lax.axis_index(axis)
        rows = len(partial) // n
        part = lambda k: jax.lax.dynamic_slice_in_dim(partial, (me - k) % n * rows, rows)  # noqa: E731
        pass_on = functools.partial(jax.lax.ppermute, axis_name=axis, perm=[(i, (i + 1) % n) for i in range(n)])
        partial = jax.lax.fori_loop(2, n + 1, lambda k, sent: pass_on(sent) + part(k), part(1))
        of_tokens = tuple(name for name in of_tokens if name != axis)
    return jax.lax.psum(partial, of_tokens)


def put(mesh: Mesh, x: np.ndarray, *axes: str | None) -> jax.Array:
    """An array that every process has whole, placed by its logical axes."""
    return jax.make_array_from_callback(x.shape, named(mesh, *axes), lambda index: x[index])


def own_shards(mesh: Mesh) -> list[int]:
    """Which of the shards of a batch the devices of this process hold: several may hold one, in other processes too."""
    count = shards(mesh, "batch")
    pieces = named(mesh, "batch").addressable_devices_indices_map((count,)).values()
    return sorted({piece.indices(count)[0] for (piece,) in pieces})


def own_rows(mesh: Mesh, batch: int, microbatch: int = 0) -> np.ndarray:
    """The numbers of the rows of a batch that this process has to read, in the order in which `put_batch` takes them.

    Each microbatch is so many consecutive rows, which are cut into shards.
    """
    size = min(microbatch or batch, batch)
    return np.arange(batch).reshape(batch // size, shards(mesh, "batch"), -1)[:, own_shards(mesh)].ravel()


def own_part(mesh: Mesh, batch: dict[str, np.ndarray], microbatch: int = 0) -> dict[str, np.ndarray]:
    """Of a batch that every process has whole, what `put_batch` takes from this one."""
    numbers = own_rows(mesh, len(next(iter(batch.values()))), microbatch)
    return {name: rows[numbers] for name, rows in batch.items()}


def put_batch(mesh: Mesh, own: dict[str, np.ndarray], microbatch: int = 0) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays (microbatches, rows, ...), rows split over the batch axes.

    A microbatch has `microbatch` rows over all processes; 0, or more than there are, makes one of the whole batch.
    """
    count, held = shards(mesh, "batch"), own_shards(mesh)
    out = {}
    for key, rows in own.items():
        whole = len(rows) * count // len(held)
        size = min(microbatch or whole, whole)
        parts = rows.reshape(-1, len(held), size // count, *rows.shape[1:])

        def piece(index, parts=parts, size=size):
            """Of the process's rows, the shard and the positions of a device."""
            shard = held.index(index[1].indices(size)[0] * count // size)
            return parts[:, shard][:, :, *index[2:]]

        shape = (len(parts), size, *rows.shape[1:])
        out[key] = jax.make_array_from_callback(shape, batch_sharding(mesh, len(shape)), piece)
    return out


def any_process(mesh: Mesh, flag: bool) -> bool | jax.Array:
    """Whether the flag is set in any process. All of several call it, and the array that they get is the same."""
    if jax.process_count() == 1:
        return flag
    everywhere = NamedSharding(mesh, PartitionSpec(MESH_AXES))
    flags = jax.make_array_from_callback((mesh.size,), everywhere, lambda _: np.array([flag]))
    return _any(flags, named(mesh))


@functools.partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, place: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(flags.any(), place)


def batch_sharding(mesh: Mesh, rank: int) -> NamedSharding:
    """Of an array (microbatches, rows, length, ...)."""
    return named(mesh, *(None, "batch", "length")[:rank], *(None,) * max(0, rank - 3))
