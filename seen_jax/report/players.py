"""Listen and compare: single items with their audio, their answers and SEE over time."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.evaluate.trials import NONE, Trial
from seen_jax.report.blocks import Block, Example, Grid, Text, data_uri
from seen_jax.report.figures import spectrograms
from seen_jax.report.format import NOTHING, Target, percent
from seen_jax.report.style import level

LOUDEST = 0.98  # of a player


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleClip:
    """One item as the report shows it.

    Attributes:
        right: the right answer, "" if there is none.
        waves: at 16 kHz within [-1, 1] or louder: "clean", "noisy", and perhaps "denoised (NAME)".
        trials: what was answered, by labels such as "clean", "noisy" and "noisy + SEEN".
        see: times in seconds and SEE (0 to 1) at each of them, by the labels of `waves`.
    """

    item: str
    task: str
    prompt: str
    right: str
    noise: str
    snr_db: float
    waves: Mapping[str, Float[np.ndarray, " _"]]
    trials: Mapping[str, Trial]
    see: Mapping[str, tuple[Float[np.ndarray, " times"], Float[np.ndarray, " times"]]]


def telling_snr(conditions: pd.DataFrame) -> float:
    """The SNR at which the GSR without mitigation is nearest to one half: there, answers differ most among clips."""
    plain = conditions[(conditions["mitigation"] == NONE) & conditions["snr_db"].notna()]
    distance: Any = (plain.groupby("snr_db")["gsr"].mean() - 0.5).abs()
    return float(distance.idxmin())


def wav_bytes(wave: Float[np.ndarray, " samples"]) -> bytes:
    """16-bit WAV of a wave within [-1, 1]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1, 1 - 2**-15), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def listen(target: Target, clips: Sequence[ExampleClip]) -> list[Block]:
    """Players, answers and spectrograms of some items."""
    text = (
        "All players of an item have the same gain, so the noise sounds as loud as it is. Answers that differ from the "
        "clean one are coloured. SEE after an edit of strength 1 is 0 by construction: it is not a result."
    )
    blocks: list[Block] = [Text(text)]
    for i, clip in enumerate(clips, 1):
        blocks.append(example(clip))
        caption = f"{clip.item}: log-mel spectrograms, and SEE over time beneath them."
        blocks += target.picture(f"example_{i}", caption, lambda clip=clip: spectrograms(clip.waves, clip.see))  # type: ignore[misc]
    return blocks


def example(clip: ExampleClip) -> Example:
    gain = LOUDEST / max(LOUDEST, *(float(np.abs(wave).max(initial=0)) for wave in clip.waves.values()))
    players = [(label, data_uri("audio/wav", wav_bytes(gain * wave))) for label, wave in clip.waves.items()]
    clean = [t.answer for t in clip.trials.values() if t.snr_db is None and t.mitigation == NONE]
    rows = [[label, trial.output or "(empty)", _see(trial)] for label, trial in clip.trials.items()]
    changed = [bool(clean) and trial.answer != clean[0] for trial in clip.trials.values()]
    if clip.right:
        rows.append(["right", clip.right, ""])
        changed.append(False)
    title = f"{clip.task}, {clip.noise} at {level(clip.snr_db)}: {clip.prompt}"
    return Example(players, Grid(["input", "answer", "SEE"], rows, 2, title), changed)


def _see(trial: Trial) -> str:
    """Before, and after an edit that changes it."""
    before, after = percent(trial.see, 2), percent(trial.see_after, 2)
    return before if after in (before, NOTHING) else f"{before} → {after}"
