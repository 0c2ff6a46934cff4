"""Audio in any form becomes one checked wave, or an error that names what is wrong."""

import os
import subprocess
import sys

import numpy as np
import pytest

from seen_jax.audio.io import as_wave, check_wave, is_one_clip, write_audio
from seen_jax.errors import AudioError

WAVE = (0.3 * np.sin(np.arange(4000) / 7)).astype(np.float32)


class Decoder:
    """The form in which newer `datasets` give audio: read by key, decoded on demand, no mapping."""

    def get_all_samples(self):
        raise AssertionError("not needed")

    def __getitem__(self, key):
        return {"array": WAVE, "sampling_rate": 8000}[key]


def test_rates_are_resampled_and_paths_read(tmp_path):
    path = write_audio(tmp_path / "a.flac", WAVE, 8000)
    expected = check_wave(WAVE, 8000)
    for form in ((WAVE, 8000), (WAVE.tolist(), np.int64(8000)), {"array": WAVE, "sampling_rate": 8000}, Decoder()):
        np.testing.assert_array_equal(as_wave(form), expected)
    for form in (path, str(path)):
        np.testing.assert_allclose(as_wave(form), expected, atol=1 / 32768)
    assert as_wave(expected).dtype == np.float32 and not np.shares_memory(as_wave(expected), expected)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ((16000, WAVE), r"give a pair as \(samples, rate\)"),
        ({"array": WAVE}, "'sampling_rate' is missing"),
        ({"path": "x.wav", "bytes": b""}, "'array' is missing"),
        ({"array": WAVE, "sampling_rate": None}, "sample rate must be an int"),
        (3, "one dimension expected"),
        ((3, 4), "no known scale"),
        (np.stack([WAVE, WAVE]), "several clips as a list"),
    ],
)
def test_what_is_no_clip(clip, message):
    with pytest.raises(AudioError, match=f"clip 7: .*{message}"):
        as_wave(clip, "clip 7")


def test_one_clip_or_a_list_of_clips():
    for clip in (WAVE, WAVE.tolist(), (WAVE, 16000), {"array": WAVE}, "a.wav", np.stack([WAVE, WAVE])):
        assert is_one_clip(clip)
        assert not is_one_clip([clip]) and not is_one_clip([clip, "b.wav"])
    assert not is_one_clip([]) and not is_one_clip((WAVE, WAVE))


def test_reading_audio_imports_neither_librosa_nor_numba(tmp_path):
    """They take more than a second, in every command."""
    path = write_audio(tmp_path / "a.wav", WAVE)
    code = (
        f"import sys; from seen_jax.audio import as_wave; as_wave(({WAVE[:90].tolist()}, 8000)); as_wave({str(path)!r})"
    )
    code += "; assert not {'librosa', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
