"""A large audio language model as one pure function of (parameters, batch, edits) that returns (output, taps)."""

from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from seen_jax.models.config import ConformerConfig, LalmConfig
from seen_jax.models.conformer import Conformer
from seen_jax.models.decoder import Decoder, KeysValues
from seen_jax.models.edits import Edits, Records, See
from seen_jax.models.encoder import Audio, Encoded, Encoder
from seen_jax.models.precision import full_precision
from seen_jax.models.quantized import WEIGHTS
from seen_jax.models.sharding import constrain
from seen_jax.models.sites import Taps


@struct.dataclass
class Batch:
    """Right-padded model inputs."""

    tokens: Any  # [B, S] prompt ids with one placeholder per audio token
    lengths: Any  # [B] real tokens
    features: Any  # this and the others without a word: the rows of the encoder, see `Audio`
    frames: Any
    audio_index: Any  # [B, S] the flattened audio token (encoder row * P + token) that lies there, or -1 for text
    visible_frames: Any = None
    visible_positions: Any = None

    @property
    def audio(self) -> Audio:
        return Audio(self.features, self.frames, self.visible_frames, self.visible_positions)


@struct.dataclass
class Output:
    """What a pass over prompts gives."""

    logits: Any  # [B, S, V] float32, or [B, 1, V] of the last real position
    taps: dict[str, Array]  # activations per tapped site
    see: dict[str, See]  # per edited site
    cache: KeysValues  # of the prompt


def split_records(records: Records) -> tuple[dict[str, Array], dict[str, See]]:
    """Records of all sites -> (taps, see)."""
    taps = {site: record["tap"] for site, record in records.items() if "tap" in record}
    return taps, {site: record["see"] for site, record in records.items() if "see" in record}


class Lalm(nn.Module):
    """Audio encoder + projector + language model.

        out = lalm.apply(variables, batch, edits)    # out.logits, out.taps[site], out.see[site]

    config and taps are static; edits are data. dtype: of activations; in float16 of the operands of products alone, all
    else is float32. unroll: layers per iteration of the layer scan; 1 compiles fastest, but a small model trains about
    twice as fast on a CPU with all layers unrolled. mesh: the devices that activations are split over
    (`seen_jax.models.sharding`), None for one device. weights: how matrices are stored, of `quantized.WEIGHTS`."""

    config: LalmConfig
    taps: Taps = Taps()
    dtype: Any = jnp.float32
    unroll: int = 1
    mesh: Any = None
    weights: str | None = None

    if TYPE_CHECKING:
        apply: ClassVar[Any]  # Linen types it as any output or (output, state)

    def setup(self):
        config, options, stored = self.config, (self.taps, self.dtype, self.mesh), WEIGHTS[self.weights]
        encoder: Any = Conformer if isinstance(config.encoder, ConformerConfig) else Encoder
        self.encoder = encoder(config.encoder, *options, stored.encoder, self.unroll)
        self.decoder = Decoder(config.decoder, *options, stored.layers, self.unroll, stored.vocabulary)

    def __call__(self, batch: Batch, edits: Edits | None = None, last_only: bool = False) -> Output:
        return self.answer(batch, self.encode(batch.audio, edits), edits, last_only)

    def encode(self, audio: Audio, edits: Edits | None = None, first: int = 0) -> Encoded:
        """Audio features -> audio tokens, with taps and SEE of the encoder's sites. first: see `Encoder.__call__`."""
        with full_precision(self.dtype):
            return self.encoder(audio, edits or {}, first)

    def answer(
        self, batch: Batch, encoded: Encoded, edits: Edits | None = None, last_only: bool = False, at: Any = None
    ) -> Output:
        """Prompt pass over text and audio tokens. last_only: logits of only the last real position. at: [B, N], the
        only positions whose logits [B, N, V] are wanted."""
        audio = batch.audio_index >= 0
        x = self.decoder.embedded(batch.tokens)
        flat = encoded.tokens.reshape(-1, encoded.tokens.shape[-1])
        x = jnp.where(audio[..., None], jnp.take(flat, jnp.maximum(batch.audio_index, 0), axis=0).astype(x.dtype), x)
        x = constrain(x, self.mesh, "batch")
        valid = jnp.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
        last = batch.lengths - 1 if last_only else None
        with full_precision(self.dtype):
            x, cache, records = self.decoder.prompt(x, valid, audio & valid, edits or {}, last)
            x = x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)
            logits = self.decoder.logits(x).astype(jnp.float32)
        taps, see = split_records(encoded.records | records)
        return Output(logits, taps, see, cache)

    def step(
        self, last: Int[Array, " batch"], cache: KeysValues, visible: Any, positions: Int[Array, " batch"], edits: Edits
    ) -> tuple[Float[Array, "batch vocab"], KeysValues]:
        """Next-token logits after one generated token per row, and that position's keys and values."""
        x = self.decoder.embedded(last[:, None])
        with full_precision(self.dtype):
            x, new, _ = self.decoder.step(x, cache, visible, positions[:, None], edits)
            return self.decoder.logits(x)[:, 0].astype(jnp.float32), new
