"""What the last stage of training may add to its loss: SEE, and the distance of noisy from clean encodings."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.calibrating import calibrate
from seen_jax.errors import ConfigError
from seen_jax.models.batching import Wave
from seen_jax.models.config import LalmConfig
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import Encoded
from seen_jax.models.model import Model
from seen_jax.models.sites import ENCODER_SITES
from seen_jax.subspace import Selection
from seen_jax.train.config import Regulariser

# That of the experiments on seen-tiny, in all layers.
SELECTION = Selection(method="complement", energy="sigma2", noise_source="difference", noise_alpha=0.95, layers="all")
COLUMNS = 64  # directions of a layer, so that bases of all ranks are one program; those of least energy are left out


def check_regulariser(regulariser: Regulariser) -> None:
    """ConfigError for settings that make no sense."""
    if regulariser.see and regulariser.site not in ENCODER_SITES:
        sites = ", ".join(ENCODER_SITES)
        raise ConfigError(f"regulariser.site must be one of the encoder's ({sites}), not '{regulariser.site}'.")
    if min(regulariser.see, regulariser.consistency) < 0 or min(regulariser.every, regulariser.clips) < 1:
        raise ConfigError("the regulariser's weights must be 0 or more, `every` and `clips` 1 or more.")


def no_directions(regulariser: Regulariser, config: LalmConfig) -> Float[Array, "layers width columns"]:
    """The directions before they are estimated: zeros, and no columns where SEE has no weight."""
    return jnp.zeros((*config.site_shape(regulariser.site), COLUMNS if regulariser.see else 0))


def noise_directions(
    model: Model, waves: list[Wave], noises: list[Wave], regulariser: Regulariser
) -> Float[Array, "layers width columns"]:
    """Noise-only directions of a model as it is now, zero columns last."""
    basis = calibrate(model, waves, noises, regulariser.site).select(SELECTION)
    q = np.array(basis.q[..., :COLUMNS])
    q[[layer for layer in range(len(q)) if layer not in basis.layers]] = 0.0
    return jnp.asarray(np.pad(q, ((0, 0), (0, 0), (0, COLUMNS - q.shape[-1]))))


def measured(regulariser: Regulariser, directions: Array) -> dict[str, Edit]:
    """The edit that measures SEE during training, {} where it has no weight."""
    return {regulariser.site: Edit(jax.lax.stop_gradient(directions), None)} if regulariser.see else {}


def see_penalty(encoded: Encoded, site: str) -> Array:
    """SEE, the mean over layers and clips."""
    return encoded.records[site]["see"].before.mean()


def consistency_penalty(noisy: Encoded, clean: Encoded) -> Array:
    """||h(noisy) - h(clean)||^2 / ||h(clean)||^2 over the real positions of all clips; only the noisy side learns."""
    real = jnp.arange(noisy.states.shape[1]) < noisy.lengths[:, None]
    target = jax.lax.stop_gradient(clean.states)
    energy = lambda states: (jnp.square(states).sum(-1) * real).sum()
    return energy(noisy.states - target) / energy(target)
