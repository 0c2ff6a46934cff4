"""A loaded model: parameters, compiled entry points, processor and identity."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from seen_jax.errors import ConfigError
from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import Audio, Encoded
from seen_jax.models.generate import Decoding
from seen_jax.models.lalm import Lalm, Output
from seen_jax.models.processor import Processor
from seen_jax.models.sharding import rows_of
from seen_jax.models.sites import (
    DECODER_RESID,
    DECODER_SITES,
    ENCODER_MLP_ACT,
    ENCODER_SITES,
    PROJECTOR,
    Taps,
    check_site,
)
from seen_jax.subspace.identity import Identity

MICROBATCH = 16  # prompts whose activations stay in a CPU's caches


@dataclasses.dataclass(frozen=True)
class Model:
    """What `load` returns. `lalm.apply(variables, batch, edits)` is the pure function below everything else.

    name, folder: what was loaded, and where its files are.
    lalm, variables: the Flax module and its parameters.
    processor: from clips and prompts to a `Batch`, and from token ids to text.
    identities: of the weights, of the "encoder" with its projector and of the whole "model"; bases and calibrations
    carry that of their site.

    >>> model
    Model('seen-tiny', family='qwen2_5_omni', encoder=4 layers of 192, decoder=4 layers of 192, dtype=float32)
    """

    name: str
    folder: Path
    lalm: Lalm
    variables: Any
    processor: Processor
    identities: Mapping[str, Identity] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        stacks: dict[str, Any] = {"encoder": self.config.encoder}
        stacks |= {"decoder": self.config.decoder} if self.has_decoder else {}
        sizes = "".join(f", {name}={part.layers} layers of {part.width}" for name, part in stacks.items())
        weights = f", weights={self.weights}" if self.weights else ""
        return f"Model({self.name!r}, family={self.config.family!r}{sizes}, dtype={self.dtype}{weights})"

    @property
    def config(self) -> LalmConfig:
        return self.lalm.config

    @property
    def dtype(self) -> str:
        """Of parameters and activations."""
        return jax.numpy.dtype(self.lalm.dtype).name

    @property
    def weights(self) -> str | None:
        """How matrices are stored, as `load` takes it."""
        return self.lalm.weights

    @property
    def has_decoder(self) -> bool:
        """Whether the whole model was loaded, and not its encoder alone."""
        return "decoder" in self.variables["params"]

    def need_decoder(self, what: str) -> None:
        """Raise ConfigError, which says what asked, if the encoder was loaded alone."""
        if not self.has_decoder:
            raise ConfigError(f"{what} needs the whole model: {self.name} was loaded with part='encoder'.")

    def check_site(self, site: str) -> str:
        """Return `site`; ConfigError for an unknown one, and for one of a decoder that was not loaded."""
        if check_site(site) in DECODER_SITES:
            self.need_decoder(f"the site {site}")
        return site

    @property
    def fingerprint(self) -> str:
        """Hash of the weights that were loaded."""
        return self.identity(DECODER_RESID if self.has_decoder else ENCODER_MLP_ACT).fingerprint

    def identity(self, site: str) -> Identity:
        """Whose activations those of a site are: the encoder's, whatever decoder follows, or the whole model's."""
        part = "encoder" if site in ENCODER_SITES else "model"
        width = self.config.site_shape(PROJECTOR)[1]
        return self.identities.get(part) or Identity(self.name, self.config.family, width)

    @property
    def rows(self) -> int:
        """The number of rows of a batch is best a multiple of this: the devices on the mesh's data axis, or 1."""
        return rows_of(self.lalm.mesh)

    @property
    def concurrent(self) -> bool:
        """Whether two batches are best run at a time: on one CPU. On accelerators the memory is better used for larger
        batches; the devices of a mesh must begin their programs in one order."""
        device = next(iter(jax.tree.leaves(self.variables)[0].devices()))
        return self.lalm.mesh is None and device.platform == "cpu"

    @property
    def microbatch(self) -> int | None:
        """Prompts that best pass through the model at once (`generate_edits`); None: as many as a batch has."""
        return MICROBATCH if self.concurrent else None

    def decoding(self, max_new_tokens: int = Decoding.max_new_tokens) -> Decoding:
        """Answers as the folder's generation_config.json wants them: drawn if it says do_sample, else greedy."""
        sampling = self.config.sampling
        if sampling is None:
            return Decoding(max_new_tokens)
        return Decoding(max_new_tokens, sampling.temperature, sampling.top_k, sampling.top_p)

    def tapped(self, taps: Taps) -> Lalm:
        """The same model returning other sites."""
        return self.lalm.clone(taps=taps)


@functools.partial(jax.jit, static_argnums=0)
def encode(lalm: Lalm, variables: Any, audio: Audio, edits: Any) -> Encoded:
    """Compiled `Lalm.encode`."""
    return lalm.apply(variables, audio, edits, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def forward(lalm: Lalm, variables: Any, batch: Any, edits: Any) -> Output:
    """Compiled `Lalm.__call__`."""
    return lalm.apply(variables, batch, edits)


@functools.partial(jax.jit, static_argnums=0)
def measure(lalm: Lalm, variables: Any, batch: Any, edits: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(taps, see) of `forward`; the compiler drops logits and key/value cache, which nothing reads."""
    out = lalm.apply(variables, batch, edits, last_only=True)
    return out.taps, out.see
