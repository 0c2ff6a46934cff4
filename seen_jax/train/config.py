"""Typed configuration of a training run (configs/seen_tiny.yaml)."""

import dataclasses

from seen_jax.models.sites import ENCODER_MLP_ACT


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """Shape of the Qwen2.5-Omni thinker to train."""

    n_mels: int = 80
    n_window: int = 120  # half an encoder chunk, in mel frames
    encoder_width: int = 192
    encoder_layers: int = 4
    encoder_heads: int = 3
    encoder_ffn: int = 0  # width of its feed-forward layers; 0: four times its own
    decoder_width: int = 192
    decoder_layers: int = 4
    decoder_heads: int = 3
    rope_theta: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class DataSize:
    folder: str = "runs/seen_tiny_data"  # of the synthetic examples
    train: int = 40_000
    validation: int = 800
    test: int = 1_600
    workers: int = 0  # processes; 0 for one per core


@dataclasses.dataclass(frozen=True)
class Stage:
    """AdamW steps with a linear warm-up over `warmup` steps, then a cosine from `lr` to `lr * final`. Without steps the
    stage is left out."""

    steps: int
    lr: float
    batch: int = 24
    final: float = 0.1
    warmup: int = 40
    dtype: str = "bfloat16"  # of activations


@dataclasses.dataclass(frozen=True)
class NoiseAugmentation:
    """Coloured noise added to a share of the clips at a random SNR (dB), uniform between low and high."""

    share: float = 0.7
    low: float = 3.0
    high: float = 40.0


@dataclasses.dataclass(frozen=True)
class Regulariser:
    """What the stage `noise` adds to its loss, for every clip with the noise that it got.

    see: weight of SEE at `site`, the mean over layers and clips, along noise-only directions that are estimated anew
        every `every` steps from `clips` clean training clips and coloured noise at 0 dB.
    consistency: weight of the squared distance of the encoder's states from those of the clean clip, as a share of the
        energy of these."""

    see: float = 0.0
    consistency: float = 0.0
    every: int = 50
    clips: int = 48
    site: str = ENCODER_MLP_ACT


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Stages, in order: `words` (encoder with a head that names the word at each audio token), `text` (decoder alone,
    words standing in for audio), `joint` (everything, on clean audio), `noise` (everything, on partly noisy audio).
    start: a model of `load` whose weights the first stage begins with, "" for random ones. The head that names words is
    not part of a model: it begins at random."""

    out: str = "runs/seen_tiny"
    seed: int = 0
    start: str = ""
    model: ModelSize = ModelSize()
    data: DataSize = DataSize()
    words: Stage = Stage(steps=1000, lr=2e-3)
    text: Stage = Stage(steps=1500, lr=1.5e-3, batch=32)
    joint: Stage = Stage(steps=4200, lr=1e-3, final=0.05)
    noise: Stage = Stage(steps=1400, lr=6e-4, final=0.02, dtype="float32")
    augmentation: NoiseAugmentation = NoiseAugmentation()
    regulariser: Regulariser = Regulariser()
    word_weight: float = 0.5  # of the loss of the word head beside that of the answer
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_seconds: float = 120.0  # between checkpoints: a killed run loses at most so much
    eval_every: int = 500  # steps between validations in `joint` and `noise`
    eval_items: int = 400
