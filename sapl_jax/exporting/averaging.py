"""One model from several trainings: the mean of their weights, which costs no more to ask than one.

Wortsman et al. (2022), "Model soups". Trainings that start from the same weights and see other
pictures end where the straight line between them is as good as its ends: what each learned of its
own pictures alone averages out.
"""

from collections.abc import Sequence
from typing import Any

import jax

from sapl_jax.clip.model import merge_lora
from sapl_jax.errors import UserError
from sapl_jax.inference.calibration import fingerprint
from sapl_jax.inference.opening import TrainedModel
from sapl_jax.models.sapl import with_parts
from sapl_jax.training.state import merge_model, split_model
from sapl_jax.workdir import flat


def average(models: Sequence[TrainedModel]) -> TrainedModel:
    """The model of the mean weights, LoRA merged; without calibration, which is of other weights.

    Raises:
        UserError: their CLIPs or their `image` or `model` configurations differ.
    """
    first = models[0]
    for other in models[1:]:
        ours, theirs = _identity(first), _identity(other)
        differ = [
            f"{k} ({v!r} and {theirs.get(k)!r})" for k, v in ours.items() if theirs.get(k) != v
        ]
        if differ:
            raise UserError(
                "Only trainings of one configuration and one CLIP have a mean; "
                f"{other.source['checkpoint']} differs from {first.source['checkpoint']} in "
                f"{', '.join(differ)}."
            )
    plain = [with_parts(m.model, clip=merge_lora(m.model.clip)) for m in models]
    parts = [split_model(model) for model in plain]
    trees = [(params, frozen.params) for params, frozen in parts]
    params, frozen = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *trees)
    model = merge_model(params, parts[0][1]._replace(params=frozen))
    source = {key: value for key, value in first.source.items() if key != "calibration"}
    names = " and ".join(m.source["checkpoint"] for m in models)
    source |= {"checkpoint": f"the mean of {names}", "fingerprint": fingerprint(model)}
    return TrainedModel(model, first.config, source)


def _identity(trained: TrainedModel) -> dict[str, Any]:
    parts = {part: trained.config[part].to_dict() for part in ("image", "model")}
    return flat({"config": parts}) | {"CLIP's weights": trained.source["clip"]["sha256"]}
