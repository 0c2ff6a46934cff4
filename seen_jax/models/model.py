"""A loaded model: parameters, compiled entry points, processor and identity."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import Audio, Encoded
from seen_jax.models.generate import Decoding
from seen_jax.models.lalm import Lalm, Output
from seen_jax.models.processor import Processor
from seen_jax.models.sharding import rows_of
from seen_jax.models.sites import Taps

MICROBATCH = 16  # prompts whose activations stay in a CPU's caches


@dataclasses.dataclass(frozen=True)
class Model:
    """What `load` returns. `lalm.apply(variables, batch, edits)` is the pure function below everything else.

    name, folder: what was loaded, and where its files are.
    lalm, variables: the Flax module and its parameters.
    processor: from clips and prompts to a `Batch`, and from token ids to text.
    fingerprint: identity of the weights; bases and calibrations carry it.

    >>> model
    Model('seen-tiny', family='qwen2_5_omni', encoder=4 layers of 192, decoder=4 layers of 192, dtype=float32)
    """

    name: str
    folder: Path
    lalm: Lalm
    variables: Any
    processor: Processor
    fingerprint: str

    def __repr__(self) -> str:
        stacks = {"encoder": self.config.encoder, "decoder": self.config.decoder}
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
