"""Named places in the layer stacks, and what to return from them.

Axis glossary of `seen_jax.models`: A audios, B batch rows, F mel frames, M mel bins, T encoder positions, P projected
audio tokens, S text positions, L layers, D width of a site, R rank of an edit, V vocabulary."""

import dataclasses
import difflib
from typing import Literal

from seen_jax.errors import ConfigError

ENCODER_MLP_ACT = "encoder.mlp_act"
ENCODER_RESID = "encoder.resid"
PROJECTOR = "projector"
DECODER_MLP_ACT = "decoder.mlp_act"
DECODER_RESID = "decoder.resid"

ENCODER_SITES = (ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR)
DECODER_SITES = (DECODER_MLP_ACT, DECODER_RESID)
SITES = ENCODER_SITES + DECODER_SITES

DESCRIPTIONS = {
    ENCODER_MLP_ACT: "output of the activation function inside the MLP of each audio encoder layer (the paper's site)",
    ENCODER_RESID: "residual stream after each audio encoder layer",
    PROJECTOR: "audio tokens as the language model receives them (one layer)",
    DECODER_MLP_ACT: "output of the activation function inside the gated MLP of each decoder layer",
    DECODER_RESID: "residual stream after each decoder layer",
}


def check_site(site: str) -> str:
    """Return `site` if it is one of `SITES`; ConfigError that names the nearest one otherwise."""
    if site in SITES:
        return site
    nearest = difflib.get_close_matches(str(site), SITES, n=1, cutoff=0.4)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    raise ConfigError(f"unknown site '{site}'.{hint} Sites: {', '.join(SITES)}.")


@dataclasses.dataclass(frozen=True)
class Taps:
    """Which sites a forward pass returns, and how each is reduced. Static: a new value compiles a new program.
    ConfigError for an unknown site or choice.

    sites: of `SITES`.
    reduce: "mean" over valid positions [L, N, D] float32 (calibration), or "full" [L, N, positions, D].
    positions: which decoder positions count in means and in SEE: those of "audio" tokens, or "all" valid ones.
    see_frames: return SEE per frame too.

    >>> seen_jax.Taps(("encoder.resid",), reduce="full").encoder_only
    True
    """

    sites: tuple[str, ...] = ()
    reduce: Literal["mean", "full"] = "mean"
    positions: Literal["audio", "all"] = "audio"
    see_frames: bool = False

    def __post_init__(self):
        object.__setattr__(self, "sites", tuple(check_site(s) for s in self.sites))
        if self.reduce not in ("mean", "full"):
            raise ConfigError(f"taps.reduce must be 'mean' or 'full', not '{self.reduce}'.")
        if self.positions not in ("audio", "all"):
            raise ConfigError(f"taps.positions must be 'audio' or 'all', not '{self.positions}'.")

    @property
    def encoder_only(self) -> bool:
        return all(site in ENCODER_SITES for site in self.sites)
