"""A model whose weights are a mean of two models' weights, as an Orbax export.

python -m benchmarks.mean_of_weights FIRST SECOND --share 0.3 --output DIR

Checkpoints as `predict` takes them, of one shape; their LoRA is merged first. It helps where both
began from the same weights (Wortsman et al. 2022, "Model soups"). Configuration and origin are the
first one's; a calibration is of no use to other weights and left out.
"""

import hashlib
from pathlib import Path

import jax
import numpy as np

from data_pipelines.generator.photographs import installed_photographs
from sapl_jax.checkpoints import flatten
from sapl_jax.clip.model import merge_lora
from sapl_jax.errors import Parser, UserError, check_numbers, run_main
from sapl_jax.exporting.writing import export
from sapl_jax.inference.opening import TrainedModel, load_model
from sapl_jax.models.sapl import with_parts
from sapl_jax.training.state import merge_model, split_model


def mean_of(first: TrainedModel, second: TrainedModel, share: float) -> TrainedModel:
    """The model of (1 - share) * first + share * second, weight by weight; both in float32.

    Raises:
        UserError: they have other weights, by name or shape.
    """
    parts = [
        split_model(with_parts(t.model, clip=merge_lora(t.model.clip))) for t in (first, second)
    ]
    (params, frozen), (others, other_frozen) = parts
    one, two = (params, frozen.params), (others, other_frozen.params)
    shapes = [{name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (one, two)]
    if shapes[0] != shapes[1]:
        raise UserError("the two checkpoints are not models of one shape")
    params, weights = jax.tree.map(lambda a, b: (1 - share) * a + share * b, one, two)
    model = merge_model(params, frozen._replace(params=weights))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, weights)):
        digest.update(np.asarray(leaf).tobytes())
    source = {key: value for key, value in first.source.items() if key != "calibration"}
    names = [trained.source["clip"]["name"] for trained in (first, second)]
    source |= {
        "checkpoint": f"{1 - share:g} of {first.source['checkpoint']} on {Path(names[0]).name} and "
        f"{share:g} of {second.source['checkpoint']} on {Path(names[1]).name}",
        "fingerprint": digest.hexdigest()[:16],
    }
    return first._replace(model=model, source=source)


def main() -> None:
    """The command."""
    parser = Parser("python -m benchmarks.mean_of_weights", __doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second, from 0 to 1")
    parser.add_argument("--output", type=Path, required=True)
    flags = parser.parse_args()
    check_numbers(flags, share=(0, 1))
    first, second = (load_model(folder, "float32") for folder in (flags.first, flags.second))
    export(mean_of(first, second, flags.share), "orbax", flags.output, installed_photographs())
    print(f"the mean of both is in {flags.output}")


if __name__ == "__main__":
    run_main(main)
