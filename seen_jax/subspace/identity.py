"""Which model a calibration or a noise basis comes from: by the values of its weights, or by its name for the bases
that the paper's authors released."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

# bfloat16 moves a number by at most 2^-8 of it, float16 by 2^-11, and float16 has no finer step than 2^-24.
ROUNDING, FINEST = 2**-8 + 2**-11 + 1e-5, 2.0**-24
MODEL_KEYS = ("model", "fingerprint", "stored", "sample")  # keys of a card that say whose weights they are


@dataclass(frozen=True)
class Identity:
    """What is known of a model. Empty fields are not known.

    model: its name. family, width: its family, and the width of its audio tokens.
    fingerprint: hash of the values of its weights. stored: the dtypes that they are stored in.
    sample: some of the weights, which tell a copy in another precision from another model.
    """

    model: str = ""
    family: str = ""
    width: int = 0
    fingerprint: str = ""
    stored: str = ""
    sample: tuple[float, ...] = ()

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> "Identity":
        """What the card of a calibration or noise basis says of its model."""
        text = lambda key: str(card.get(key) or "")
        sample = tuple(float(x) for x in card.get("sample") or ())
        return cls(text("model"), fingerprint=text("fingerprint"), stored=text("stored"), sample=sample)

    def card(self) -> dict[str, Any]:
        """What cards say of this model, JSON values."""
        return {key: list(x) if isinstance(x := getattr(self, key), tuple) else x for key in MODEL_KEYS}

    def compare(self, other: "Identity") -> Literal["same", "other precision", "other model"]:
        """Whether two models have the same weights. What is not known of either counts as the same."""
        if not self.fingerprint or not other.fingerprint or self.fingerprint == other.fingerprint:
            return "same"
        a, b = np.asarray(self.sample), np.asarray(other.sample)
        if self.stored == other.stored or not a.size or a.shape != b.shape:
            return "other model"
        near = np.abs(a - b) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)) + FINEST
        return "other precision" if near.all() else "other model"


class Origin(NamedTuple):
    """A model that the paper's authors released bases of. commit: of their repository, where they are."""

    name: str  # on the hub
    family: str
    width: int  # of its audio tokens, which differs between the sizes of a family
    layers: int  # of its encoder
    commit: str


class Release(NamedTuple):
    """A file that the authors released: its folder, a key of `ORIGINS`; its name; its SHA-256."""

    folder: str
    file: str
    sha256: str


# Commits of github.com/jyutian/SEEN, the repository that the paper names, at which these files are listed. A checksum
# is that of a copy of the file, so it counts whatever the commit holds.
ORIGINS = {  # by the folder in which they released them
    "Qwen": Origin("Qwen/Qwen2.5-Omni-7B", "qwen2_5_omni", 3584, 32, "20bea59e670ad35a93b2f296422b3e43d168c798"),
    "MiniCPM": Origin("openbmb/MiniCPM-o-2_6", "minicpm_o", 3584, 24, "c14188f105d207cea01747e2d510d7b5c4e58d95"),
    "StepAudio": Origin(
        "stepfun-ai/Step-Audio-2-mini", "step_audio_2", 3584, 32, "c14188f105d207cea01747e2d510d7b5c4e58d95"
    ),
}
GAUSS, CROWD = "v_list_gauss_0.1_0.pt", "v_list_crowd_0.1_0.pt"
RELEASES = {
    "qwen2.5-omni/gauss": Release("Qwen", GAUSS, "9d3121a84519963911bd077d201a1fcd5b98a9512d1dba81dadd7a0c6dc2c74e"),
    "qwen2.5-omni/crowd": Release("Qwen", CROWD, "5cf6295193a6023d7ba05f6ce3a5ebdd9c21a85eeb573f5b3b8e8f64cc5121d7"),
    "minicpm-o-2.6/gauss": Release(
        "MiniCPM", GAUSS, "52a3a671b935e87b839b0e82bedddee71f48a02b6fd21018679e8bcc26261c52"
    ),
    "step-audio-2-mini/gauss": Release(
        "StepAudio", GAUSS, "d8a9b004800ce23590b8d7415a315ce0891bd169704d88d4738ed93a5729113b"
    ),
}
DIGESTS = {release.sha256: release.folder for release in RELEASES.values()}
RELEASED_NAME = re.compile(r"v_list_[a-z]+_[\d.]+_[\d.]+\.pt")


def released_origin(path: Path) -> str:
    """The name of the model that a released file was made for: by its hash, or else by its name and folder; "" for a
    file that is not known."""
    folder = DIGESTS.get(hashlib.sha256(path.read_bytes()).hexdigest())
    if folder is None and RELEASED_NAME.fullmatch(path.name):
        folder = path.resolve().parent.name
    return ORIGINS[folder].name if folder in ORIGINS else ""


def is_named(name: str, model: Identity) -> bool:
    """Whether a model, which may lie in a folder of any name, can be the one that `name` says."""
    last = lambda text: text.rstrip("/").rpartition("/")[2].casefold()
    if origin := next((o for o in ORIGINS.values() if last(o.name) == last(name)), None):
        return (origin.family, origin.width) == (model.family, model.width)
    return last(name) in (last(model.model), model.family)
