"""English speech from espeak-ng, in voices split into train, validation and test speakers.
espeak-ng keeps state between utterances (flutter, breath noise, stress tables): a repeated call gives other samples.
`say_words` therefore loads the library anew for each one (about 0.5 ms), so that its output is a pure function of its
arguments, unless something else in the process holds the same library open."""

import _ctypes
import ctypes
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float

from seen_jax.errors import AudioError, ConfigError
from seen_jax.train.sounds import SAMPLE_RATE

# Accent and speaker ("variant") of an espeak-ng voice; "en" is British English. Whispered, croaking, robotic and
# heavily processed speakers are left out. Held-out speakers are ordinary ones of both sexes: new, not harder.
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")
SPEAKERS = {
    "train": (
        "m1", "m2", "m4", "m5", "m7", "m8", "f1", "f2", "f5", "Alicia", "Andy", "Annie", "Denis", "Gene", "Mario",
        "adam", "antonio", "benjamin", "david", "edward", "grandma", "john", "linda", "max", "michel", "pablo", "paul",
        "quincy", "steph", "victor",
    ),
    "validation": ("m6", "f4", "Alex", "rob"),
    "test": ("m3", "f3", "Mike", "boris"),
}  # fmt: skip

_RETRIEVAL, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1  # synchronous samples; return errors instead of exit(); text encoding
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_LIST_TERMINATED, _WORD = 0, 1  # espeak_EVENT_TYPE
_LOCK = threading.Lock()  # espeak-ng is one global machine


class _Event(ctypes.Structure):
    """espeak_EVENT; audio_position in milliseconds."""

    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    )  # fmt: skip


def voices(split: str) -> tuple[str, ...]:
    """Names such as "en-us+m1": every accent with every speaker of this split."""
    return tuple(f"{accent}+{speaker}" for speaker in SPEAKERS[split] for accent in ACCENTS)


def say_words(
    text: str, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50, stretch: float = 1.0
) -> tuple[Float[np.ndarray, " samples"], tuple[float, ...]]:
    """Speak `text`: a wave (mono float32, 16 kHz, peak 1, without the silence at both ends), and where each word begins
    in seconds.

    voice: an espeak-ng voice name, "language+variant" (see `voices`). rate: words per minute, 80..450. pitch: 0..99, 50
    is the speaker's own. pitch_range: liveliness of the intonation, 0..99, 0 is monotone. stretch: 0.5..2; above 1 the
    recording is played slower, which lowers pitch and formants: a longer vocal tract.

    Raises ConfigError if espeak-ng is missing or does not know the voice, AudioError if nothing audible came out."""
    with _LOCK:
        samples, native_rate, onsets = _synthesise(text, voice, {_RATE: rate, _PITCH: pitch, _RANGE: pitch_range})
    peak = np.abs(samples).max(initial=0.0)
    if peak == 0.0:
        raise AudioError(f"espeak-ng gave no sound for {text!r} in voice {voice!r}: use a text with words in it")
    first, last = sounding(samples / peak)
    source_rate = native_rate / stretch
    wave = soxr.resample(samples[first:last] / peak, source_rate, SAMPLE_RATE)
    begins = np.clip((np.array(onsets) * native_rate - first) / source_rate, 0.0, len(wave) / SAMPLE_RATE)
    return (wave / np.abs(wave).max()).astype(np.float32), tuple(begins.tolist())


def sounding(wave: Float[np.ndarray, " samples"]) -> tuple[int, int]:
    """(first, last) sample to keep: both ends are cut where blocks of 256 samples stay 40 dB below the loudest one; one
    block of margin is kept."""
    block = 256
    energy = np.square(np.pad(wave, (0, -len(wave) % block)).reshape(-1, block)).mean(axis=1)
    loud = np.flatnonzero(energy > 1e-4 * energy.max())
    return int(max(loud[0] - 1, 0) * block), int((loud[-1] + 2) * block)


def _synthesise(text: str, voice: str, parameters: dict[int, int]) -> tuple[np.ndarray, int, list[float]]:
    """(samples, their rate, begin of every word in seconds)."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise ConfigError('speech synthesis needs espeak-ng: pip install "seen-jax[train]"') from error
    data_path = str(espeakng_loader.get_data_path())
    chunks: list[np.ndarray] = []
    onsets: list[float] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
    def collect(samples: Any, count: int, events: Any) -> int:
        index = 0
        while events and events[index].type != _LIST_TERMINATED:
            if events[index].type == _WORD:
                onsets.append(events[index].audio_position / 1000)
            index += 1
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32))
        return 0

    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    try:
        source_rate = library.espeak_Initialize(_RETRIEVAL, 0, data_path.encode(), _DO_NOT_EXIT)
        if source_rate <= 0:
            raise ConfigError(f"espeak-ng cannot read its data in {data_path}: reinstall espeakng-loader")
        library.espeak_SetSynthCallback(collect)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        # espeak-ng falls back to the plain voice of the language where it does not find the variant
        variant = Path(data_path, "voices", "!v", voice.partition("+")[2])
        if not variant.exists() or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"espeak-ng has no voice {voice!r}: see seen_jax.train.speech.voices")
        for parameter, value in parameters.items():
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
        if sys.platform == "win32":
            _ctypes.FreeLibrary(library._handle)
        else:
            _ctypes.dlclose(library._handle)
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32), source_rate, onsets
