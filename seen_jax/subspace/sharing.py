"""Calibrations and noise bases on the Hugging Face hub: safetensors, card.json, and a README generated from them."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Unpack

import numpy as np

from seen_jax.errors import BasisError
from seen_jax.files import escaped
from seen_jax.hub import Hub, HubOptions, PushOptions
from seen_jax.subspace import store
from seen_jax.subspace.card import FIGURE, READS, Facts, draw, public_card, readme

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")  # suffixes of files that may hold code
S = TypeVar("S", bound="Shared")
PerLayer = Mapping[str, Sequence[float] | np.ndarray]


class Shared:
    """What a calibration and a noise basis have in common: a folder on disk, and a repository on the hub."""

    kind: ClassVar[str]
    card: dict[str, Any]

    def facts(self) -> Facts:
        """What its README says."""
        raise NotImplementedError

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the tensors and card.json, all or nothing."""
        raise NotImplementedError

    @classmethod
    def load(cls: type[S], folder: str | Path) -> S:
        """Read what `save` wrote."""
        raise NotImplementedError

    def push_to_hub(
        self, repo: str, see: PerLayer | None = None, licence: str | None = None, **options: Unpack[PushOptions]
    ) -> str:
        """Put it into a repository on the hub, which is made if it is not there, in one commit: its tensors, card.json,
        and a README with a figure. Returns the commit, which `from_pretrained` takes as `revision`.

        repo: its name, org/name. see: {name: SEE [L]} to show, such as `calibration.source.pooled_see(basis.q)` or
        {"speech, 0 dB": score.per_layer}; a calibration shows its own. licence: as the hub spells it ("apache-2.0").
        private: whether a new repository is. revision: the branch to write. token: else that of `hf auth login`.
        Raises BasisError: SEE of another number of layers; the hub refuses or cannot be reached; the repository holds
        the other kind.
        """
        shared, depth = copy(self), len(self.facts().ranks)
        values = {name: np.asarray(x, np.float64).tolist() for name, x in (see or {}).items()}
        if wrong := [name for name, x in values.items() if not isinstance(x, list) or len(x) != depth]:
            raise BasisError(f"SEE of {wrong[0]!r} must be one number for each of the {depth} layers")
        more = ({"see": values} if values else {}) | ({"licence": licence} if licence else {})
        object.__setattr__(shared, "card", public_card({**self.card, **more}))
        hub = Hub(options.get("revision"), options.get("token"), what=self.kind, error=BasisError)
        with tempfile.TemporaryDirectory() as place:
            folder = shared.save(Path(place) / "artefact")
            write_readme(type(self).load(folder), folder, repo)
            for kind in store.FILES:
                if kind != self.kind and store.FILES[kind] in hub.existing_files(repo):
                    raise BasisError(f"{repo} holds a {kind} on the hub: give the {self.kind} a repository of its own.")
            message = f"{self.kind} of {escaped(str(self.card.get('noise', 'noise')))}"
            return hub.push(repo, folder, message, options.get("private", False))

    @classmethod
    def from_pretrained(cls: type[S], name: str | Path, **options: Unpack[HubOptions]) -> S:
        """Read one from the hub, or from a local folder. Only card.json and safetensors are fetched; what was fetched
        before is used again.

        name: org/name, or a folder. revision: branch, tag or commit (default: the main branch); a commit pins it.
        token: else that of `hf auth login`. local_files_only: ask the hub nothing.
        Raises BasisError: no such repository or revision, or one without such files; damage; tampering, by the digest
        in card.json. Whether it fits a model is checked where it is used.
        """
        folder = fetch_folder(str(name), cls.kind, **options)
        try:
            return cls.load(folder)
        except BasisError as error:
            raise error if folder == Path(name) else BasisError(f"{name} on the hub: {error}") from None


def write_readme(shared: Shared, folder: Path, repo: str) -> None:
    """Write README.md and its figure beside a saved one, from what can be read back of it."""
    facts = shared.facts()
    (folder / "README.md").write_text(readme(facts, repo), "utf-8")
    draw(facts, folder / FIGURE)


def fetch_folder(name: str, kind: str | None = None, **options: Unpack[HubOptions]) -> Path:
    """The local folder of a calibration or noise basis: `name` itself, or the copy of what the hub has of that name.
    kind: which of both it must be. Raises BasisError as `from_pretrained`."""
    local = Path(os.path.expanduser(name))
    if local.is_dir():
        return Path(name)
    hub = Hub(**options, what=kind or "noise basis or calibration", error=BasisError)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BasisError(f"there is no folder {name}, and this is no name on the hub such as org/name.")
    files = hub.files(name)
    if files is None:
        return hub.fetch(name, None)
    held = [of for of, tensors in store.FILES.items() if {store.CARD, tensors} <= set(files)]
    if kind and held and kind not in held:
        raise BasisError(f"{name} holds a {held[0]} on the hub, not a {kind}: read it with {READS[held[0]]}.")
    if not held:
        pickles = [file for file in files if file.lower().endswith(PICKLED)]
        hint = f"; it holds pickled files ({', '.join(pickles[:3])}), which are never loaded" if pickles else ""
        wanted = " and ".join((store.CARD, store.FILES[kind or "noise basis"]))
        raise BasisError(f"{name} is no {hub.what} on the hub: {wanted} are not both there{hint}.")
    return hub.fetch(name, [store.CARD, store.FILES[kind or held[0]]])
