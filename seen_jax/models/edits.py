"""Edits as inputs, taps and SEE as outputs: what happens at one site of one layer.

An edit is a low-rank affine map per layer, `a - scale (a U) V^T + bias`. SEEN (paper section 3.3) is the orthogonal
projection U = V = Q. Everything in it is data: another layer set, strength, noise or rank recompiles nothing. A patch
puts activations of another run in the place of a site's own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from seen_jax.models.linear import Dense, full_kernel
from seen_jax.models.sharding import constrain_edit, constrain_patch
from seen_jax.models.sites import Taps
from seen_jax.subspace.formulas import (
    energy_share,
    low_rank_edit,
    mapped_low_rank_edit,
    masked_mean,
    mixed_low_rank_edit,
    noise_energy,
    patched,
)


@struct.dataclass
class Edit:
    """One edit for every layer of a site: a - scale (a u) v^T + bias.

    `projection`, `measuring`, `steering` and `linear_map` make edits that are checked against a model. All leaves are
    float arrays. They are not type-checked, so that transformations may put anything in their place.
    u: [L, D, R] directions that are read; [L, N, D, R] gives each of N items its own (then v is needed).
    scale: [L] strength per layer; None: only SEE is measured, and the activations stay as they are.
    v: [L, D, R] directions that are written; None means v = u, a projection, for which SEE is reported.
    bias: [L, D] (or [L, N, 1, D]), added to the activations, or None.
    text: [L] share of the edit at decoder positions without an audio token, generated ones included; None: 0.
    weights: [L, N, T, K], at encoder sites: every position gets a mixture of its own of K maps that all items share,
        u [L, K, D, R] and bias [L, K, D] (both and v are needed). It belongs to one batch. None: one map per item."""

    u: Any
    scale: Any
    v: Any = None
    bias: Any = None
    text: Any = None
    weights: Any = None

    def __repr__(self) -> str:
        leaves = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shapes = {name: list(getattr(x, "shape", ["?"])) for name, x in leaves.items() if x is not None}
        return f"Edit({', '.join(f'{name}={shape}' for name, shape in shapes.items())})"


@struct.dataclass
class Patch:
    """Activations c of another run of the same batch in the place of a site's own, at some of its positions:
    a + (c - a) (whole + inside Q Q^T). It belongs to one batch and acts on its prompt alone, never on generated tokens.

    (whole, inside) per layer: (1, 0) puts all of c there, bit for bit; (0, 1) its part inside the subspace Q, (1, -1)
    that outside of it; (0, 0) nothing. `seen_jax.patch` makes and runs it; layers and subspaces recompile nothing.
    target: [L, N, T, D], c as full taps give it. where: [L, N, T] the positions that are patched, bool.
    whole, inside: [L]. q: [L, D, R] orthonormal or zero columns."""

    target: Any
    where: Any
    whole: Any
    inside: Any
    q: Any


@struct.dataclass
class See:
    """SEE at one site: means over valid frames. N = audios at encoder sites, batch rows at decoder sites."""

    before: Any  # share of activation energy along the edit's directions
    after: Any  # the same after the edit
    energy: Any  # raw projected energy ||a Q||^2, before the edit
    frames: Any = None  # SEE per frame before the edit (only with `Taps.see_frames`)


Edits = Mapping[str, Edit | Patch]
Activations = Float[Array, "items positions width"]
Mask = Bool[Array, "items positions"]
Records = dict[str, dict[str, Any]]
Change = tuple[Any, Any, Array, Array]  # (u, v, strength, bias) of a low-rank map at every position


def _see(a: Array, edited: Array, edit: Any, change: Change | None, mask: Array, frames: bool) -> See:
    part, total = noise_energy(a, edit.u)
    before = energy_share(part, total)
    strength = 0.0 if change is None else change[2][..., 0]
    if edit.bias is None:  # orthonormal Q: the edit keeps (1 - s)^2 of the projected energy and all of the rest
        kept = (1.0 - strength) ** 2 * part
        after = energy_share(kept, total - (part - kept))  # in this order strength 0 gives `before`, bit for bit
    else:
        after = energy_share(*noise_energy(edited, edit.u))
    mean = lambda x: masked_mean(x[..., None], mask)[..., 0]
    return See(mean(before), mean(after), mean(part), before if frames else None)


def _change(edit: Any, valid: Array, audio: Array | None) -> Change | None:
    if edit is None or edit.scale is None:
        return None
    v = edit.u if edit.v is None else edit.v
    bias = jnp.zeros(v.shape[-2]) if edit.bias is None else edit.bias
    if audio is None:
        return edit.u, v, jnp.broadcast_to(edit.scale, valid.shape)[..., None], bias
    share = jnp.where(audio, 1.0, 0.0 if edit.text is None else edit.text)
    return edit.u, v, (share * edit.scale)[..., None], bias if edit.bias is None else share[..., None] * bias


def _edited(a: Array, edit: Any, change: Change | None) -> Array:
    if change is None:
        return a
    return low_rank_edit(a, *change) if edit.weights is None else mixed_low_rank_edit(a, *change, edit.weights)


def _patched(a: Array, patch: Patch) -> Array:
    changed = patched(a, patch.target, patch.q, patch.whole, patch.inside)
    return jnp.where(patch.where[..., None], changed, a)


def visit(
    site: str, a: Activations, edits: Mapping[str, Any], taps: Taps, valid: Mask, audio: Mask | None = None
) -> tuple[Activations, Records]:
    """(activations that flow on, records): edit the activations of one layer at `site` and record what `taps` asks for.
    edits: the slice of each `Edit` for this layer. valid: real positions. audio: the audio tokens among them; None at
    encoder sites, where every valid position is audio."""
    edit = edits.get(site)
    counted = valid if audio is None or taps.positions == "all" else audio
    if isinstance(edit, Patch):
        edited = _patched(a, edit)
        return edited, _records(site, (a, edited), None, None, taps, counted)
    change = _change(edit, valid, audio)
    edited = _edited(a, edit, change)
    return edited, _records(site, (a, edited), edit, change, taps, counted)


def _records(
    site: str, before_after: tuple[Array, Array], edit: Any, change: Change | None, taps: Taps, counted: Array
) -> Records:
    record: dict[str, Any] = {}
    if edit is not None and edit.v is None:
        record["see"] = _see(*before_after, edit, change, counted, taps.see_frames)
    if site in taps.sites:
        a = before_after[1]
        record["tap"] = masked_mean(a.astype(jnp.float32), counted) if taps.reduce == "mean" else a
    return {site: record} if record else {}


def visit_dense(
    site: str, a: Activations, edits: Mapping[str, Any], taps: Taps, valid: Mask, dense: Dense
) -> tuple[Float[Array, "items positions out"], Records]:
    """`visit` at an encoder site that one linear layer alone reads: (the output of that layer, records)."""
    edit = edits.get(site)
    if isinstance(edit, Patch):
        edited = _patched(a, edit)
        return dense(edited), _records(site, (a, edited), None, None, taps, valid)
    change = _change(edit, valid, None)
    if edit is not None and change is not None and edit.weights is not None:
        edited = _edited(a, edit, change)
        return dense(edited), _records(site, (a, edited), edit, change, taps, valid)
    y, edited = dense(a), a
    if change is not None:
        y = mapped_low_rank_edit(y, a, *change, full_kernel(dense))
        if site in taps.sites or edits[site].bias is not None:  # only then are the edited activations needed
            edited = low_rank_edit(a, *change)
    return y, _records(site, (a, edited), edit, change, taps, valid)


def layer_edits(edits: Edits, sites: tuple[str, ...], mesh: Any = None) -> dict[str, Edit | Patch]:
    """The edits of `sites`, ready to be scanned over their leading layer axis; split over a mesh as the sites are."""
    split = {Edit: constrain_edit, Patch: constrain_patch}
    return {site: split[type(edits[site])](edits[site], site, mesh) for site in sites if site in edits}


def single_layer(edits: Edits, site: str, layer: int = 0) -> dict[str, Edit | Patch]:
    """The edit of one layer of a site, without the layer axis."""
    return {site: jax.tree.map(lambda x: x[layer], edits[site])} if site in edits else {}


def lasting(edits: Edits) -> dict[str, Edit]:
    """The edits that also act on generated tokens: all but patches."""
    return {site: edit for site, edit in edits.items() if isinstance(edit, Edit)}
