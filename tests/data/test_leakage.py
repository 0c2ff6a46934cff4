"""The split guard finds shared audio at any offset, and nothing else."""

import itertools
import time

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from seen_jax.audio.io import read_audio
from seen_jax.audio.noise import NOISES, synthetic_noise
from seen_jax.audio.sources import PARTS, noise_source
from seen_jax.data.items import load_clips
from seen_jax.data.leakage import KEPT, WINDOW, SplitGuard, _mix, fingerprints
from seen_jax.errors import ConfigError


def noise(seed: int, samples: int = 16000, scale: float = 0.1) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def guard_of(clips) -> SplitGuard:
    guard = SplitGuard()
    for name, wave in clips.items():
        guard.add(name, wave)
    return guard


def test_fingerprints_are_those_of_the_definition():
    """By Python integers, over more than a block's border would show: every stretch of a short clip."""
    wave = noise(0, 1200)
    steps = [int(v) % 2**64 for v in np.rint(wave.astype(float) * 8192)]
    mixed = [int(v) for v in _mix(np.array(steps, np.uint64))]
    powers = list(itertools.accumulate(range(WINDOW - 1), lambda p, _: p * 0x9E3779B97F4A7C15 % 2**64, initial=1))
    sums = [
        sum(a * b for a, b in zip(mixed[i : i + WINDOW], powers, strict=True)) % 2**64 for i in range(1200 - WINDOW + 1)
    ]
    hashes = {int(v) for v in _mix(np.array(sums, np.uint64))}
    assert set(fingerprints(wave).tolist()) == {h for h in hashes if h % KEPT == 0}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200_000), st.integers(WINDOW, 200_000), st.integers(0, 5000))
def test_a_cut_has_the_fingerprints_of_the_whole(start, samples, padding):
    """Also across the blocks in which long clips are hashed."""
    wave = noise(1, 300_000)
    cut = np.pad(wave[start : start + samples], padding)
    inside = fingerprints(wave[start : start + samples])
    assert set(inside.tolist()) <= set(fingerprints(wave).tolist()) & set(fingerprints(cut).tolist())
    assert len(inside) == pytest.approx((len(wave[start : start + samples]) - WINDOW) / KEPT, rel=0.5, abs=12)


@pytest.mark.parametrize("offset", [0, 1, 777, 12_345])
@pytest.mark.parametrize("samples", [8000, 30_000])
def test_shared_audio_is_refused_by_name(offset, samples):
    whole = noise(2, 48_000)
    part = whole[offset : offset + samples]
    for known, tested in ((whole, part), (part, whole), (part, np.concatenate([noise(3), part, noise(4)]))):
        with pytest.raises(ConfigError, match="the test clip t7 shares audio with the calibration clip c3"):
            guard_of({"c1": noise(5), "c3": known, "c4": noise(6)}).check("t7", tested)
    with pytest.raises(ConfigError, match="the test clip t7 is the calibration clip c3"):
        guard_of({"c1": noise(5), "c3": part}).check("t7", part.copy())


def test_a_clip_too_short_for_fingerprints_is_known_by_its_samples():
    wave = noise(0, 300)
    guard = guard_of({"tiny": wave})
    with pytest.raises(ConfigError, match="is the calibration clip tiny"):
        guard.check("t", wave)
    guard.check("t", noise(1, 300))
    guard.check("t", wave[:299])


def test_overlaps_are_found_even_after_another_resampling():
    """A cut is resampled by itself: its samples are off by rounding."""
    wave = noise(0, 44100 * 4)
    whole = soxr.resample(wave, 44100, 16000, quality="HQ")
    cut = soxr.resample(wave[44100:132300], 44100, 16000, quality="HQ")
    assert not np.array_equal(cut[4000:20000], whole[20000:36000])
    with pytest.raises(ConfigError, match="shares audio"):
        guard_of({"whole": whole}).check("cut", cut)


def test_silence_constants_and_lone_clicks_are_shared_by_all():
    click = np.zeros(16000, np.float32)
    click[5000] = 1 / 32768
    constant = np.full(16000, 0.25, np.float32)
    quiet = [np.zeros(16000, np.float32), click, constant, np.pad(constant, 3000), np.pad(click, 20)]
    for i, wave in enumerate(quiet):
        assert len(fingerprints(wave)) == 0
        guard_of({"c": wave, "d": np.concatenate([noise(0), wave])}).check("t", np.concatenate([wave, noise(1)]))
        if i == 0:
            guard_of({"c": wave}).check("t", wave + np.float32(1e-6))


def test_synthetic_noises_of_other_seeds_and_voices_pass():
    clips = {f"{n}-{seed}": synthetic_noise(n, 48_000, seed) * 0.1 for n in NOISES for seed in range(3)}
    guard = guard_of({name: wave for name, wave in clips.items() if not name.endswith("2")})
    for name, wave in clips.items():
        if name.endswith("2"):
            guard.check(name, wave)
        else:
            with pytest.raises(ConfigError):
                guard.check(name, wave)


def test_the_clips_that_ship_pass():
    guard = guard_of({clip.id: clip.wave for clip in load_clips("calibration")})
    for clip in (*load_clips("validation"), *load_clips("demo")):
        guard.check(clip.id, clip.wave)


def test_a_clip_that_is_added_later_is_known_and_a_second_name_is_not():
    guard = guard_of({"first": noise(0)})
    guard.check("t", noise(1))
    guard.add("second", noise(1))
    guard.add("other name", noise(0))
    with pytest.raises(ConfigError, match="is the calibration clip second"):
        guard.check("t", noise(1))
    with pytest.raises(ConfigError, match="shares audio with the calibration clip first"):
        guard.check("t", noise(0)[1000:12000])
    SplitGuard().check("t", noise(5))


def test_cheap_enough_for_ten_thousand_clips():
    wave = noise(0, 160_000)
    fingerprints(wave)
    start = time.process_time()
    for _ in range(5):
        fingerprints(wave)
    assert (time.process_time() - start) / 5 < 0.1  # 10 s of audio


def test_real_recordings(recordings):
    """Other clips of the same speakers and sources pass; any second of a recording is recognised."""
    waves = {str(p.relative_to(recordings)): read_audio(p) for p in sorted(recordings.rglob("*.wav"))}
    names = list(waves)
    assert len(names) >= 60
    guard = guard_of({name: waves[name] for name in names[::2]})
    for name in names[1::2]:
        guard.check(name, waves[name])
    rng = np.random.default_rng(0)
    for name in names[::2]:
        at = int(rng.integers(len(waves[name]) - 16_000))
        with pytest.raises(ConfigError, match=f"shares audio with the calibration clip {name}:"):
            guard.check("a second", waves[name][at : at + 16_000])


def test_noise_of_calibration_and_test_shares_nothing(recordings):
    for name in ("crowd.wav", "machine.wav", "traffic.wav", "wind.wav"):
        source = noise_source(recordings / "noise" / name)
        waves = {part: [source.clip(i, 24_000, 0, part) for i in range(4)] for part in PARTS}
        guard = guard_of({str(i): wave for i, wave in enumerate(waves["calibration"])})
        for wave in waves["test"]:
            guard.check("t", wave)
        with pytest.raises(ConfigError):
            guard.check("t", source.clip(9, 24_000, 0, "calibration"))
