"""The mesh, and the one table that says where every logical axis lives."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm_jax.config import UserError

MESH_AXES = ("data", "fsdp", "tensor")
AXIS_TYPE = AxisType.Auto  # the compiler places what the table leaves open

# logical axis -> mesh axes; an axis not named here is replicated
RULES = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ff": "tensor",
    "vocab": "tensor",
}


def make_mesh(mesh_config) -> Mesh:
    """The mesh over all devices. Raises UserError when the sizes do not multiply to the device count."""
    sizes = tuple(mesh_config[axis] for axis in MESH_AXES)
    devices = jax.device_count()
    if int(np.prod(sizes)) != devices:
        shown = " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
        raise UserError(
            f"the mesh {shown} needs {int(np.prod(sizes))} devices, but {devices} are here; set --config.mesh.*"
        )
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AXIS_TYPE,) * len(MESH_AXES))


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axes of an array -> its PartitionSpec."""
    return PartitionSpec(*(RULES.get(axis) for axis in axes))


def named(mesh: Mesh, *axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(axes))


def put_batch(mesh: Mesh, host_batch: dict[str, np.ndarray], microbatch: int = 0) -> dict[str, jax.Array]:
    """This host's rows of the global batch -> global arrays (microbatches, rows, ...), rows split over the batch axes.

    A microbatch has `microbatch` rows over all hosts; 0, or more than there are, makes one of the whole batch.
    """
    out = {}
    for key, rows in host_batch.items():
        size = min(microbatch // jax.process_count() or len(rows), len(rows))
        parts = rows.reshape(-1, size, *rows.shape[1:])
        out[key] = jax.make_array_from_process_local_data(
            named(mesh, None, "batch", *(None,) * (rows.ndim - 1)), parts
        )
    return out
