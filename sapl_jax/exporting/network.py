"""The part of SAPL that inference runs on the device, as a function of named weights."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sapl_jax.models.localization import TAMPERED, tampered_heat
from sapl_jax.models.sapl import SAPL
from sapl_jax.training.checkpoints import flatten
from sapl_jax.training.state import merge_model, split_model


class Network(NamedTuple):
    """weights: arrays by name. apply(weights, image, edge_map, valid): as `score_and_patch_map`."""

    weights: dict[str, jax.Array]
    apply: Callable[..., tuple[jax.Array, jax.Array]]


def score_and_patch_map(
    model: SAPL, image: jax.Array, edge_map: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What inference takes from the model: scores [B] and patch heat maps [B,g,g], float32.

    Args: as `SAPL.__call__`: image [B,C,C,3] uint8, edge_map [B,g,g] float, valid [B,g,g] bool.
    """
    outputs = model(image, edge_map, valid)
    scores = jax.nn.softmax(outputs.image_logits, axis=-1)[:, TAMPERED]
    heat = tampered_heat(
        outputs.similarity, model.scale, valid.reshape(len(scores), -1), model.heat_map
    )
    return scores, heat.reshape(edge_map.shape)


def with_parts(model: SAPL, **parts: Any) -> SAPL:
    """A model that shares all with another but the parts that are named (clip, heads)."""
    other = copy.copy(model)
    for name, part in parts.items():
        setattr(other, name, part)
    return other


def network_of(model: SAPL) -> Network:
    """The network of a model; HECL's heads, which only training uses, are left out."""
    params, frozen = split_model(with_parts(model, heads=None))
    weights = {"trained": params, "clip": frozen.params}
    structure = jax.tree.structure(weights)

    def apply(flat: dict[str, Any], *batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        # A dict's leaves come back in the order of its keys; the names are in that of the tree.
        tree = jax.tree.unflatten(structure, [flat[name] for name in names])
        sapl = merge_model(tree["trained"], frozen._replace(params=tree["clip"]))
        return score_and_patch_map(sapl, *batch)

    flat = flatten(weights)
    names = list(flat)
    return Network(flat, apply)
