"""SAPL in JAX: weakly supervised image manipulation localization with CLIP prompts.

from sapl_jax import Localizer

result = Localizer.load("runs/sapl")(image)  # uint8 RGB [H, W, 3]
result.score, result.heat_map, result.mask
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapl_jax.inference.detector import Result
    from sapl_jax.inference.localizer import Localizer

    __version__: str

__all__ = ["Localizer", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sapl-jax")
    # Loads JAX only when it is needed: `data_pipelines` imports `sapl_jax.errors` without it.
    if name in __all__:
        from sapl_jax.inference import localizer

        return getattr(localizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
