"""Settings of the demo."""

from __future__ import annotations

import dataclasses
import math

from seen_jax.audio.mix import MAX_SNR_DB
from seen_jax.errors import ConfigError
from seen_jax.evaluate.sweep import MAX_NEW_TOKENS
from seen_jax.models.sites import ENCODER_MLP_ACT, check_site
from seen_jax.subspace import Selection

# What `choose` found for the embedded model (assets/choice.json).
READING = Selection(method="complement", energy="sigma", noise_source="pure", layers="all")


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo. Raises ConfigError on values that make no sense.

    Attributes:
        model: "seen-tiny", a Hugging Face folder or a hub name.
        out: folder to write; a former demo in it is replaced if `overwrite`, anything else is an error.
        noises: names of synthetic noises, or audio files.
        snrs: in dB.
        items_per_task: clips of each of the four tasks, 12 at most.
        calibration_clips: of all tasks together, 2 to 48.
        calibration_snr_db: level of the noise in calibration, against the clean clips.
        site: where SEE is measured and SEEN edits.
        selection: how the basis is selected.
        strength: SEEN's lambda.
    """

    model: str = "seen-tiny"
    out: str = "seen-demo"
    noises: tuple[str, ...] = ("white", "babble", "engine")
    snrs: tuple[float, ...] = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
    items_per_task: int = 12
    calibration_clips: int = 48
    calibration_snr_db: float = 0.0
    site: str = ENCODER_MLP_ACT
    selection: Selection = READING
    strength: float = 1.0
    batch_size: int = 16
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0
    overwrite: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("noises", str), ("snrs", float)):
            object.__setattr__(self, name, tuple(kind(value) for value in getattr(self, name)))
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be at least one, each only once, not {list(values)}")
        if bad := [snr for snr in (*self.snrs, self.calibration_snr_db) if not abs(snr) <= MAX_SNR_DB]:
            raise ConfigError(f"an SNR must be between -{MAX_SNR_DB:g} and {MAX_SNR_DB:g} dB, not {bad}")
        for name, low in (("items_per_task", 1), ("calibration_clips", 2), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be {low} or more, not {getattr(self, name)}")
        if not math.isfinite(self.strength):
            raise ConfigError(f"strength must be a finite number, not {self.strength}")
        check_site(self.site)
