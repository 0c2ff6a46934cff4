"""Listen and compare: single items with their audio, their answers and SEE over time."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.evaluate.tables import Trial
from seen_jax.mitigations.base import NONE
from seen_jax.report.blocks import Block, Example, Grid, Text, data_uri
from seen_jax.report.figures import spectrograms
from seen_jax.report.format import NOTHING, Target, percent
from seen_jax.report.style import level

LOUDEST = 0.98  # of a player
LEAD = "All players of an item have the same gain, so the noise sounds as loud as it is. Answers that differ from the "
LEAD += "clean one are coloured. SEE after an edit of strength 1 is 0 by construction: it is not a result."


class ExampleClip(NamedTuple):
    """One item as the report shows it."""

    item: str
    task: str
    prompt: str
    right: str  # the right answer, "" if there is none
    noise: str
    snr_db: float
    waves: Mapping[str, Float[np.ndarray, " _"]]  # at 16 kHz: "clean", "noisy", and perhaps "denoised (NAME)"
    trials: Mapping[str, Trial]  # by labels such as "clean", "noisy" and "noisy + SEEN"
    see: Mapping[str, tuple[Float[np.ndarray, " times"], Float[np.ndarray, " times"]]]  # times (s), SEE; as `waves`


def telling_snr(conditions: pd.DataFrame) -> float:
    """The SNR at which the GSR without mitigation is nearest to one half: there, answers differ most among clips. NaN
    without any GSR."""
    plain = conditions[(conditions["mitigation"] == NONE) & conditions["snr_db"].notna()]
    distance: Any = (plain.groupby("snr_db")["gsr"].mean() - 0.5).abs()
    return float(distance.idxmin()) if distance.notna().any() else float("nan")


def wav_bytes(wave: Float[np.ndarray, " samples"]) -> bytes:
    """16-bit WAV of a wave within [-1, 1]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1, 1 - 2**-15), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def listen(target: Target, clips: Sequence[ExampleClip]) -> list[Block]:
    """Players, answers and spectrograms of some items."""
    blocks: list[Block] = [Text(LEAD)]
    for i, clip in enumerate(clips, 1):
        blocks.append(example(clip))
        caption = f"{clip.item}: log-mel spectrograms, and SEE over time beneath them."
        blocks += target.picture(f"example_{i}", caption, spectrograms, clip.waves, clip.see)
    return blocks


def example(clip: ExampleClip) -> Example:
    gain = LOUDEST / max(LOUDEST, *(float(np.abs(wave).max(initial=0)) for wave in clip.waves.values()))
    players = [(label, data_uri("audio/wav", wav_bytes(gain * wave))) for label, wave in clip.waves.items()]
    clean = [t.answer for t in clip.trials.values() if t.snr_db is None and t.mitigation == NONE]
    rows = []
    for label, trial in clip.trials.items():
        before, after = percent(trial.see, 2), percent(trial.see_after, 2)  # the edit may change nothing
        see = before if after in (before, NOTHING) else f"{before} → {after}"
        rows.append([label, trial.output or "(empty)", see])
    rows += [["right", clip.right, ""]] * bool(clip.right)
    changed = [bool(clean) and trial.answer != clean[0] for trial in clip.trials.values()]
    changed += [False] * bool(clip.right)
    title = f"{clip.task}, {clip.noise} at {level(clip.snr_db)}: {clip.prompt}"
    return Example(players, Grid(["input", "answer", "SEE"], rows, 2, title), changed)
