"""Edits as inputs, taps and SEE as outputs: what happens at one site of one layer.

An edit is a low-rank affine map per layer, `a - scale (a U) V^T + bias`. SEEN (paper section 3.3) is the orthogonal
projection U = V = Q. Everything in it is data: another layer set, strength, noise or rank recompiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from seen_jax.models.sharding import constrain_edit
from seen_jax.models.sites import Taps
from seen_jax.subspace.formulas import low_rank_edit, mapped_low_rank_edit, masked_mean, noise_energy

EPS = 1e-12


@struct.dataclass
class Edit:
    """One edit for every layer of a site; leading axis = layers. Float arrays (pytree leaves are not type-checked,
    so that transformations may put anything in their place).

    u: [L, D, R] directions that are read. v: [L, D, R] directions that are written; None means v = u, a projection,
    for which SEE is reported (columns of u orthonormal or zero). With v, u may be [L, N, D, R] and bias [L, N, 1, D]:
    each item its own map. scale: [L] strength; None: only SEE is measured, the activations stay as they are. bias:
    [L, D] added, or None (a steering vector is scale 0 and a bias). text: [L] share of the edit at decoder positions
    that hold no audio token; None for 0, 1 edits every position alike.
    """

    u: Any
    scale: Any
    v: Any = None
    bias: Any = None
    text: Any = None


@struct.dataclass
class See:
    """SEE at one site. N = audios at encoder sites, batch rows at decoder sites.

    before, after: share of activation energy along the edit's directions, mean over valid frames, before and after the
    edit. energy: raw projected energy ||a Q||^2, mean over valid frames, before the edit. frames: SEE per frame before
    the edit (only with `Taps.see_frames`).
    """

    before: Any
    after: Any
    energy: Any
    frames: Any = None


Edits = Mapping[str, Edit]
Records = dict[str, dict[str, Any]]


def _see(a: Array, edited: Array, edit: Any, strength: Array | float, mask: Array, frames: bool) -> See:
    def share(part, total):
        return part / (jnp.maximum(total, part) + EPS)  # rounding may put part above total

    part, total = noise_energy(a, edit.u)
    before = share(part, total)
    if edit.bias is None:  # orthonormal Q: the edit keeps (1 - s)^2 of the projected energy and all of the rest
        kept = (1.0 - strength) ** 2 * part
        after = share(kept, total - (part - kept))  # in this order strength 0 gives `before`, bit for bit
    else:
        after = share(*noise_energy(edited, edit.u))
    mean = lambda x: masked_mean(x[..., None], mask)[..., 0]  # noqa: E731
    return See(mean(before), mean(after), mean(part), before if frames else None)


def _map(edit: Any, valid: Array, audio: Array | None) -> tuple[Any, Any, Array, Array]:
    """(u, v, strength, bias) of the low-rank map at every position."""
    v = edit.u if edit.v is None else edit.v
    if audio is None:
        bias = jnp.zeros(v.shape[-2]) if edit.bias is None else edit.bias
        return edit.u, v, jnp.broadcast_to(edit.scale, valid.shape)[..., None], bias
    share = jnp.where(audio, 1.0, 0.0 if edit.text is None else edit.text)
    bias = jnp.zeros(v.shape[-2]) if edit.bias is None else share[..., None] * edit.bias
    return edit.u, v, (share * edit.scale)[..., None], bias


def visit(
    site: str,
    a: Float[Array, "items positions width"],
    edits: Mapping[str, Any],
    taps: Taps,
    valid: Bool[Array, "items positions"],
    audio: Bool[Array, "items positions"] | None = None,
) -> tuple[Float[Array, "items positions width"], Records]:
    """Edit the activations of one layer at `site` and record what `taps` asks for.

    `edits` holds this layer's slice of each `Edit`. `valid` marks real positions; `audio` the audio tokens among them
    (decoder; None at encoder sites, where every valid position is audio). Returns (activations that flow on, records).
    """
    record: dict[str, Any] = {}
    counted = valid if audio is None or taps.positions == "all" else audio
    edit = edits.get(site)
    if edit is not None:
        strength: Array | float = 0.0
        edited = a
        if edit.scale is not None:
            u, v, scale, bias = _map(edit, valid, audio)
            edited, strength = low_rank_edit(a, u, v, scale, bias), scale[..., 0]
        if edit.v is None:
            record["see"] = _see(a, edited, edit, strength, counted, taps.see_frames)
        a = edited
    if site in taps.sites:
        record["tap"] = masked_mean(a.astype(jnp.float32), counted) if taps.reduce == "mean" else a
    return a, ({site: record} if record else {})


def visit_dense(
    site: str,
    a: Float[Array, "items positions width"],
    edits: Mapping[str, Any],
    taps: Taps,
    valid: Bool[Array, "items positions"],
    dense: nn.Dense,
) -> tuple[Float[Array, "items positions out"], Records]:
    """`visit` at an encoder site, and a linear layer that only reads the activations there: (its output, records)."""
    _, records = visit(site, a, edits, taps, valid)
    y = dense(a)
    if site in edits and edits[site].scale is not None:
        y = mapped_low_rank_edit(y, a, *_map(edits[site], valid, None), dense.variables["params"]["kernel"])
    return y, records


def layer_edits(edits: Edits, sites: tuple[str, ...], mesh: Any = None) -> dict[str, Edit]:
    """The edits of `sites`, ready to be scanned over their leading layer axis; split over a mesh as the sites are."""
    return {site: constrain_edit(edits[site], site, mesh) for site in sites if site in edits}


def single_layer(edits: Edits, site: str, layer: int = 0) -> dict[str, Edit]:
    """The edit of one layer of a site, without the layer axis."""
    return {site: jax.tree.map(lambda x: x[layer], edits[site])} if site in edits else {}


def add_layer_axis(records: Records) -> Records:
    return jax.tree.map(lambda x: x[None], records)
