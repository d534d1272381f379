"""Reads compiled programs (XLA's text form): matrix-product FLOPs and what collectives move."""

import json
import math
import re
from collections.abc import Callable
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_OPERATION = re.compile(r"(?:^|[\s)}\]])([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|body|to_apply|called_computations)=\{?([^\s,}]+(?:, ?%[^\s,}]+)*)")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One collective: its kind, the number of arrays it joins and the bytes of its result."""

    kind: str
    arrays: int
    result_bytes: int


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program in its text form (`compiled.as_text()`).

    Asynchronous ones are counted once: at their start, or, where a TPU's program runs one in
    pieces beside other work, once for all the fusions that show it: they name the same channel and
    operation. None of ours is inside a loop.
    """
    found = []
    fused, pieces = False, set()
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        fused = not header[1] if header else fused
        match = _INSTRUCTION.match(line)
        operation = match and _OPERATION.search(match[2])
        if not match or not operation:
            continue
        kind = operation[1].removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        shapes = _SHAPE.findall(match[2][: operation.start()])
        if operation[1].endswith("-start"):
            shapes = shapes[len(shapes) // 2 :]  # Operands come first, then results.
        if fused:
            piece = (kind, *shapes, *re.findall(r'channel_id=\d+|op_name="[^"]*"', line))
            if piece in pieces:
                continue
            pieces.add(piece)
        found.append(Collective(kind, len(shapes), sum(_bytes(*s) for s in shapes)))
    return found


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """{kind: {"number", "bytes"}} of collectives."""
    return {
        kind: {
            "number": sum(c.kind == kind for c in found),
            "bytes": sum(c.result_bytes for c in found if c.kind == kind),
        }
        for kind in sorted({c.kind for c in found})
    }


def fused_attention(text: str) -> dict[str, int]:
    """Calls of cuDNN's attention in the text: {"forward", "backward"}; a loop's body once."""
    calls = re.findall(r'custom_call_target="__cudnn\$fmha(\w*)"', text)
    backward = sum("Backward" in name for name in calls)
    return {"forward": len(calls) - backward, "backward": backward}


def matmul_flops(text: str) -> float | None:
    """FLOPs of all matrix products, every turn of a loop counted (recomputation included).

    None where products are hidden in library calls or a loop's length is unknown, as in programs
    for GPUs: the text does not show them as products there.
    """
    computations, entry = _computations(text)
    if "__cublas" in text or "__cudnn" in text or entry is None:
        return None
    known: dict[str, float] = {}

    def flops_of(name: str) -> float:
        if name not in known:
            known[name] = sum(_flops(line, shapes[name], flops_of) for line in computations[name])
        return known[name]

    shapes = {
        name: {m[1]: m[2] for m in map(_INSTRUCTION.match, lines) if m}
        for name, lines in computations.items()
    }
    try:
        return flops_of(entry)
    except LookupError:
        return None


def _computations(text: str) -> tuple[dict[str, list[str]], str | None]:
    computations: dict[str, list[str]] = {}
    entry, lines = None, []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return computations, entry


def _flops(line: str, shapes: dict[str, str], flops_of: Callable[[str], float]) -> float:
    match = _INSTRUCTION.match(line)
    operation = match and _OPERATION.search(match[2])
    if not match or not operation:
        return 0.0
    if operation[1] == "dot":
        lhs = re.split(r"[,)]", match[2][operation.end() :])[0].strip().lstrip("%")
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", match[2])
        lhs_dims, out_dims = _dims(shapes[lhs]), _dims(match[2])
        inner = [lhs_dims[int(i)] for i in (contracted[1] if contracted else "").split(",") if i]
        return 2.0 * math.prod(out_dims) * math.prod(inner)
    turns = 1
    if operation[1] == "while":
        count = re.search(r'"known_trip_count":(\{[^}]*\})', match[2])
        if count is None:
            raise LookupError("a loop of unknown length")
        turns = int(json.loads(count[1])["n"])
    called = _CALLED.findall(match[2])
    names = [name.lstrip("% ") for group in called for name in group.split(",")]
    return turns * sum(flops_of(name) for name in names)


def _dims(text: str) -> list[int]:
    shape = _SHAPE.search(text)
    return [int(d) for d in shape[2].split(",") if d] if shape else []


def _bytes(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8
