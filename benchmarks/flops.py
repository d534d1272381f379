"""Counts the matrix products of a traced program: every turn of a loop, recomputation included."""

import math
from typing import Any

from jax.extend import core

# Products of [T, T] by d that fused attention does: forward two; backward the scores again and
# the four of the derivative.
_FUSED = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def product_flops(program: core.ClosedJaxpr | core.Jaxpr, platform: str) -> float:
    """FLOPs of the matrix products of a program (`traced.jaxpr`) on one device of a platform.

    Args:
        program: of a function that is mapped over devices the part of one device is counted.
        platform: "cpu", "cuda", "tpu": which branch runs where a program chooses by platform.
    """
    return _count(program, platform, {})


def _count(program: Any, platform: str, indices: dict[Any, int]) -> float:
    """As `product_flops`; indices: of the branches to take, by the variables that hold them."""
    total = 0.0
    indices = dict(indices)
    for equation in _open(program).eqns:
        name, parameters = equation.primitive.name, equation.params
        left: Any = equation.invars[0].aval.shape if equation.invars else ()
        if name == "dot_general":
            (inner, _), _ = parameters["dimension_numbers"]
            out = equation.outvars[0].aval.shape
            total += 2.0 * math.prod(out) * math.prod(left[axis] for axis in inner)
        elif name in _FUSED:
            batch, length, heads, width = left
            total += _FUSED[name] * 2.0 * batch * heads * length**2 * width
        elif name == "platform_index":
            platforms = parameters["platforms"]
            indices[equation.outvars[0]] = next(
                i for i, names in enumerate(platforms) if names is None or platform in names
            )
        elif name in ("convert_element_type", "clamp"):
            known = [indices[v] for v in equation.invars if not _literal(v) and v in indices]
            indices |= {equation.outvars[0]: known[0]} if known else {}
        elif name == "cond":
            branches = parameters["branches"]
            if not _literal(equation.invars[0]) and equation.invars[0] in indices:
                branches = [branches[indices[equation.invars[0]]]]
            total += max(_count(branch, platform, {}) for branch in branches)
        else:
            turns = parameters["length"] if name == "scan" else 1
            for called in _called(parameters):
                passed = zip(_open(called).invars, equation.invars, strict=False)
                inside = {a: indices[b] for a, b in passed if not _literal(b) and b in indices}
                total += turns * _count(called, platform, inside)
    return total


def _open(program: Any) -> Any:
    return getattr(program, "jaxpr", program)


def _literal(value: Any) -> bool:
    return isinstance(value, core.Literal)


def _called(parameters: dict[str, Any]) -> list[Any]:
    """The programs an equation runs; rules of derivatives, which it does not run, left out."""
    values = [parameters.get(key) for key in ("jaxpr", "call_jaxpr", "body_jaxpr")]
    return [value for value in values if hasattr(_open(value), "eqns")]
