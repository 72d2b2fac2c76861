"""Reads a compiled program's HLO text: matrix FLOPs, estimated cycles and collectives of one device and one step.

XLA's own `cost_analysis` counts the body of a loop once; here each instruction is weighted by how often it runs.
"""

import collections
import dataclasses
import functools
import math
import re

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64}
BITS |= dict.fromkeys(("f8e4m3", "f8e4m3fn", "f8e5m2", "f8e4m3b11fnuz"), 8)
ARRAY = re.compile(r"\b(" + "|".join(sorted(BITS, key=len, reverse=True)) + r")\[([\d,]*)\]")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # from the opcode on: operands and attributes

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest[: closing(self.rest, self.rest.index("("))])

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.rest)
        return found and found[1]


Computations = dict[str, dict[str, Instruction]]  # computation -> name -> instruction, in order


def closing(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def parse(text: str) -> tuple[Computations, str]:
    """(computations, name of the entry)."""
    computations: Computations = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" ") and line.endswith("{") and "->" in line:
            header = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line):
            right = found[2]
            cut = closing(right, 0) if right.startswith("(") else right.index(" ")
            rest = right[cut:].strip()
            current[found[1]] = Instruction(found[1], right[:cut], rest.partition("(")[0], rest)
    return computations, entry


def dimensions(shape: str) -> list[int]:
    found = ARRAY.search(shape)
    return [int(d) for d in found[2].split(",") if d] if found else []


def array_bytes(shape: str) -> list[int]:
    """The size of each array in a shape, which may be a tuple."""
    return [math.prod(int(d) for d in dims.split(",") if d) * BITS[kind] // 8 for kind, dims in ARRAY.findall(shape)]


def trip_count(computations: Computations, caller: str, loop: Instruction) -> int | None:
    """How often a while loop runs: XLA's note of it, or limit, start and step of its counter; None when unknown."""
    if known := loop.attribute(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)'):
        return int(known)
    condition = computations[loop.attribute(r"condition=%?([\w.\-]+)")]
    body = computations[loop.attribute(r"body=%?([\w.\-]+)")]
    compare = next((i for i in condition.values() if i.opcode == "compare" and "direction=LT" in i.rest), None)
    if compare is None:
        return None
    limit = constant_among(compare.operands, condition)
    index = next((condition[n].attribute(r"index=(\d+)") for n in compare.operands if n in condition), None)
    if limit is None or index is None:
        return None
    start, following = (
        at[name] if (name := end.operands[int(index)]) in at else None
        for at, end in ((computations[caller], computations[caller][loop.operands[0]]), (body, [*body.values()][-1]))
    )
    begin = constant_among([start.name], computations[caller]) if start else 0
    step = constant_among(following.operands, body) if following and following.opcode == "add" else 1
    return max(1, -(-(limit - (begin or 0)) // (step or 1)))


def constant_among(names: list[str], instructions: dict[str, Instruction]) -> int | None:
    """The value of the first integer constant among some operands."""
    constants = (instructions[n] for n in names if n in instructions and instructions[n].opcode == "constant")
    found = next((i.attribute(r"constant\((-?\d+)\)") for i in constants), None)
    return None if found is None else int(found)


def executions(computations: Computations, entry: str) -> tuple[collections.Counter, list[str]]:
    """(how often each computation runs, loops whose count is unknown and taken as one)."""
    times, unknown = collections.Counter(), []

    def visit(name: str, count: int) -> None:
        times[name] += count
        for i in computations[name].values():
            if i.opcode == "while":
                trips = trip_count(computations, name, i)
                if trips is None:
                    unknown.append(i.name)
                visit(i.attribute(r"body=%?([\w.\-]+)"), count * (trips or 1))
            elif i.opcode == "conditional":  # an upper bound: every branch
                listed = i.attribute(r"branch_computations=\{([^}]*)\}")
                pattern = r"(?:true|false)_computation=%?([\w.\-]+)"
                for branch in re.findall(r"%?([\w.\-]+)", listed) if listed else re.findall(pattern, i.rest):
                    visit(branch, count)
            elif i.opcode in ("fusion", "call", "async-start"):
                for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", i.rest):
                    visit(called, count)

    visit(entry, 1)
    return times, unknown


def dot_flops(i: Instruction, shapes: dict[str, str]) -> int:
    left = dimensions(shapes[i.operands[0]])
    contracted = i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    return 2 * math.prod(dimensions(i.shape)) * math.prod(left[int(d)] for d in contracted.split(",") if d)


def convolution_flops(i: Instruction, shapes: dict[str, str]) -> int:
    """TPU programs write matrix products as convolutions; a window position counts when it lies on real input."""
    left, right, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest).groups()
    sizes = [dimensions(s) for s in (shapes[i.operands[0]], shapes[i.operands[1]], i.shape)]
    of_left, of_right, of_out = (
        dict(zip(names, size, strict=True)) for names, size in zip((left, right, out), sizes, strict=True)
    )
    window = dict(part.split("=") for part in (i.attribute(r"window=\{([^}]*)\}") or "").split())
    places = sum(c.isdigit() for c in left)

    def values(key: str, default: str) -> list[str]:
        return window[key].split("x") if key in window else [default] * places

    valid = 1
    for n in range(places):
        size, stride, spread, gap = (int(values(key, "1")[n]) for key in ("size", "stride", "lhs_dilate", "rhs_dilate"))
        low = int(values("pad", "0_0")[n].split("_")[0])
        length, outputs = of_left[str(n)], of_out[str(n)]
        at = (o * stride + k * gap - low for k in range(size) for o in range(outputs))
        valid *= sum(0 <= p <= (length - 1) * spread and p % spread == 0 for p in at)
    groups = int(i.attribute(r"batch_group_count=(\d+)") or 1)
    return 2 * of_right["i"] * of_out["f"] * (of_left["b"] // groups) * valid


def group_size(i: Instruction, devices: int) -> int:
    """Devices that take part in one collective."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", i.rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", i.rest):
        return len(found[1].split(","))
    return devices


def wire_share(kind: str, members: int) -> float:
    """Bytes that each device must send for each byte of the collective's larger side, on a ring."""
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (members - 1) / members


def continuations(computations: Computations) -> set[str]:
    """Of the fusions that a TPU's overlapped collective is written out in, all but the one that starts it."""
    fusions = (i for instructions in computations.values() for i in instructions.values() if i.opcode == "fusion")
    called = ((i.name, i.attribute(r"calls=%?([\w.\-]+)")) for i in fusions)
    return {c for name, c in called if "collective-done" in name or c.startswith("async_collective_fusion")}


def analyse(text: str, devices: int) -> dict:
    """Per device and step: `gemm_flops`, `est_cycles` (the compiler's, of fusions: no kernels, no communication),

    `collective_bytes` by kind (larger side), `collective_counts`, `wire_bytes`, `custom_calls`, `unknown_loops`.
    """
    computations, entry = parse(text)
    times, unknown = executions(computations, entry)
    totals, bytes_by_kind, counts, calls = (collections.Counter() for _ in range(4))
    continued = continuations(computations)
    for name, instructions in computations.items():
        count = times[name]
        shapes = {i.name: i.shape for i in instructions.values()}
        for i in instructions.values() if count else ():
            kind = i.opcode.removesuffix("-start")
            if i.opcode in ("dot", "convolution"):
                totals["gemm_flops"] += count * (dot_flops if i.opcode == "dot" else convolution_flops)(i, shapes)
            elif kind in COLLECTIVES:
                if name in continued:
                    continue
                operands = sum(sum(array_bytes(shapes.get(o, ""))) for o in i.operands)
                size = max(
                    [operands, *(array_bytes(i.shape) if i.shape.startswith("(") else [sum(array_bytes(i.shape))])]
                )
                bytes_by_kind[kind] += count * size
                counts[kind] += count
                totals["wire_bytes"] += count * size * wire_share(kind, group_size(i, devices))
            elif i.opcode == "custom-call":
                calls[i.attribute(r'custom_call_target="([^"]+)"')] += count
            if cycles := i.attribute(r'estimated_cycles"?:\s*"?(\d+)'):
                totals["est_cycles"] += count * int(cycles)
    return {
        "gemm_flops": totals["gemm_flops"],
        "est_cycles": totals["est_cycles"],
        "collective_bytes": dict(bytes_by_kind),
        "collective_counts": dict(counts),
        "wire_bytes": round(totals["wire_bytes"]),
        "custom_calls": dict(calls),
        "unknown_loops": unknown,
    }
