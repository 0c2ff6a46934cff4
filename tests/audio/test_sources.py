"""Noise sources in the published layouts: what is drawn, and that calibration and test share no audio."""

import csv

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from seen_jax.audio import noise
from seen_jax.audio.io import read_audio
from seen_jax.audio.noise import synthetic_noise
from seen_jax.audio.sources import PARTS, noise_source
from seen_jax.errors import AudioError, ConfigError

RATE = 16000


def ramp(first: int, samples: int) -> np.ndarray:
    """Every sample has a value of its own, so a draw shows what it was cut from."""
    return ((first + np.arange(samples)) / 32768 / 32).astype(np.float32)


def write(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


def values(source, part, samples=200, clips=40, seed=0):
    """The ramp values that the draws of a part have."""
    waves = [source.clip(i, samples, seed, part) for i in range(clips)]
    assert all(wave.shape == (samples,) and wave.dtype == np.float32 for wave in waves)
    return set(np.rint(np.concatenate(waves) * 32768 * 32).astype(int).tolist())


@pytest.fixture
def folder(tmp_path):
    """Ten recordings of 0.1 s, number i with the values from 10_000 * i on."""
    for i in range(10):
        write(tmp_path / "noises" / f"n{i}.wav", ramp(10_000 * i, 1600))
    return tmp_path / "noises"


def files(source, part):
    return {segment.path for segment in getattr(source, part)}


def test_folder_parts_are_disjoint_and_whole(folder):
    source = noise_source(folder)
    assert source.name == "noises"
    assert files(source, "calibration") | files(source, "test") == set(folder.iterdir())
    assert not files(source, "calibration") & files(source, "test")
    heard = {part: values(source, part) for part in PARTS}
    assert not heard["calibration"] & heard["test"]
    for part in PARTS:
        assert {v // 10_000 for v in heard[part]} == {int(path.stem[1:]) for path in files(source, part)}


@given(st.sets(st.integers(0, 9), min_size=3, max_size=9))
def test_a_recording_has_one_part_in_every_subset(tmp_path_factory, chosen):
    root = tmp_path_factory.getbasetemp() / "subsets"
    for i in range(10):
        if not (root / f"n{i}.wav").exists():
            write(root / f"n{i}.wav", ramp(i, 400))
    whole = noise_source(root)
    some = noise_source(f"{root}#{','.join(f'n{i}' for i in sorted(chosen))}")
    assert {p.stem for part in PARTS for p in files(some, part)} == {f"n{i}" for i in chosen}
    if all(files(whole, part) & {root / f"n{i}.wav" for i in chosen} for part in PARTS):
        assert all(files(some, part) <= files(whole, part) for part in PARTS)
    assert not files(some, "calibration") & files(some, "test")


@pytest.mark.parametrize("samples", [1, 160, 8000, 20_000])
def test_a_file_is_cut_in_two(tmp_path, samples):
    path = write(tmp_path / "crowd.wav", ramp(0, 16000))
    source = noise_source(path)
    assert source.name == "crowd"
    heard = {part: values(source, part, samples) for part in PARTS}
    assert max(heard["calibration"]) < 8000 <= min(heard["test"])
    if samples >= 8000:
        assert heard["calibration"] == set(range(8000)) and heard["test"] == set(range(8000, 16000))
        wave = source.clip(0, samples, 0)
        np.testing.assert_array_equal(wave[8000:], wave[:-8000])  # looped


def test_draws_are_reproducible_and_differ(tmp_path):
    path = write(tmp_path / "crowd.wav", np.random.default_rng(0).uniform(-1, 1, 64000).astype(np.float32))
    for source in (noise_source(path), noise_source("engine"), noise_source("gauss")):
        waves = [source.clip(i, 4000, s, p) for i in range(2) for s in range(2) for p in PARTS]
        again = [noise_source(path if source.test else source.name).clip(0, 4000, 0, p) for p in PARTS]
        np.testing.assert_array_equal(again, waves[:2])
        assert np.abs(np.corrcoef(waves) - np.eye(8)).max() < 0.5


def test_files_take_turns(folder):
    source = noise_source(folder)
    count = len(source.test)
    for seed in range(4):
        heard = [int(source.clip(i, 100, seed).max() * 32768 * 32) // 10_000 for i in range(2 * count)]
        assert sorted(heard[:count]) == sorted({int(p.stem[1:]) for p in files(source, "test")})
        assert heard[:count] == heard[count:]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_long_recordings_are_read_by_segment(tmp_path, monkeypatch, rate):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (70 * rate, 2)).astype(np.float32)
    path = write(tmp_path / "long.wav", wave, rate)
    whole, source = read_audio(path), noise_source(path)
    frames = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *a, **k: frames.append(len(r := read(*a, **k))) or r)
    for part, inside in zip(PARTS, (slice(0, 35 * RATE), slice(35 * RATE, None)), strict=True):
        piece = source.clip(3, 8000, 0, part)
        score = np.correlate(whole[inside], piece, "valid") if rate == RATE else None
        if score is not None:
            at = int(score.argmax())
            np.testing.assert_array_equal(whole[inside][at : at + 8000], piece)
    assert max(frames) < 0.75 * rate + 2 * 441


def test_musan(tmp_path):
    root = tmp_path / "musan"
    for i, name in enumerate(("noise/free-sound", "noise/sound-bible", "music/fma", "speech/librivox")):
        for n in range(4):
            write(root / name / f"{name.replace('/', '-')}-{n:04d}.wav", ramp(10_000 * i, 1600))
    for spec, kinds in (
        (root, {0, 1}),
        (f"{root}#music", {2}),
        (f"{root}#speech,noise", {0, 1, 3}),
        (root / "noise", {0, 1}),
    ):
        source = noise_source(spec)
        assert {v // 10_000 for part in PARTS for v in values(source, part)} == kinds
    assert [noise_source(s).name for s in (root, f"{root}#music")] == ["musan", "musan-music"]
    with pytest.raises(ConfigError, match="has no babble; it has noise, music, speech"):
        noise_source(f"{root}#babble")


def test_demand_has_one_channel(tmp_path):
    root = tmp_path / "demand"
    for i, scene in enumerate(("TBUS", "PCAFETER", "DKITCHEN")):
        for channel in range(1, 4):
            write(root / scene / f"ch{channel:02d}.wav", ramp(10_000 * i, 3200) + (channel > 1))
    source = noise_source(root)
    used = [segment.path for part in PARTS for segment in getattr(source, part)]
    assert sorted(p.relative_to(root).as_posix() for p in used) == [
        "DKITCHEN/ch01.wav",
        "PCAFETER/ch01.wav",
        "TBUS/ch01.wav",
    ]
    bus = noise_source(f"{root}#TBUS")
    assert bus.name == "demand-TBUS"
    assert values(bus, "calibration") <= set(range(1600)) and values(bus, "test") <= set(range(1600, 3200))
    assert values(noise_source(root / "TBUS"), "test") <= set(range(1600, 3200))


def test_esc50_keeps_clips_of_one_recording_together(tmp_path):
    root = tmp_path / "ESC-50-master"
    rows = [
        {"filename": f"1-{src}-{take}-{t}.wav", "fold": 1, "target": t, "category": c, "src_file": src, "take": take}
        for t, c in ((10, "rain"), (0, "dog"))
        for src in range(100 * t + 1, 100 * t + 9)
        for take in "AB"
    ]
    for i, row in enumerate(rows):
        write(root / "audio" / row["filename"], ramp(10_000 * i, 800))
    (root / "meta").mkdir()
    with (root / "meta/esc50.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    source = noise_source(f"{root}#rain")
    assert source.name == "ESC-50-master-rain"
    used = {part: {p.name for p in files(source, part)} for part in PARTS}
    assert sorted(used["calibration"] | used["test"]) == sorted(r["filename"] for r in rows if r["category"] == "rain")
    recording = {part: {name.split("-")[1] for name in used[part]} for part in PARTS}
    assert all(recording.values()) and not recording["calibration"] & recording["test"]
    assert len(noise_source(root).test) + len(noise_source(root).calibration) == 32
    with pytest.raises(ConfigError, match="has no snow; it has dog, rain"):
        noise_source(f"{root}#snow")
    (root / "audio" / rows[0]["filename"]).unlink()
    with pytest.raises(AudioError, match=r"lacks 1 files of esc50\.csv: 1-1001-A-10\.wav"):
        noise_source(root)


def test_wham_keeps_its_split(tmp_path):
    root = tmp_path / "wham_noise"
    for i, split in enumerate(("tr", "cv", "tt")):
        for n in range(2):
            write(root / split / f"01{n}.wav", ramp(10_000 * i, 1600))
    source = noise_source(root)
    assert {v // 10_000 for v in values(source, "calibration")} == {0, 1}
    assert {v // 10_000 for v in values(source, "test")} == {2}
    assert {v // 10_000 for part in PARTS for v in values(noise_source(f"{root}#cv"), part)} == {1}


def test_noisex(tmp_path):
    import soxr
    from scipy.io import savemat

    wave = np.random.default_rng(0).integers(-9000, 9000, 19980).astype(np.int16)
    path = tmp_path / "babble.mat"
    expected = soxr.resample(wave / np.float32(32768), 19980, 16000, quality="HQ")
    for stored in (wave[:, None], wave[None].astype(float), wave / 32768):
        savemat(path, {"babble": stored, "fs": 19980})
        source = noise_source(path)
        np.testing.assert_allclose(np.sort(source.clip(0, 8000, 0)), np.sort(expected[8000:]), atol=1e-6)
        np.testing.assert_allclose(np.sort(source.clip(0, 8000, 0, "calibration")), np.sort(expected[:8000]), atol=1e-6)
        noise._noisex.cache_clear()
    savemat(tmp_path / "white.mat", {"white": wave})
    assert len(noise_source(tmp_path).test) == len(noise_source(tmp_path).calibration) == 1
    assert noise_source(f"{tmp_path}#white").name == f"{tmp_path.name}-white"
    path.write_bytes(b"MATLAB?")
    with pytest.raises(AudioError, match=r"babble\.mat as a MATLAB file"):
        noise_source(path)
    savemat(tmp_path / "text.mat", {"a": "text"})
    with pytest.raises(AudioError, match=r"text\.mat holds no array of samples"):
        noise_source(tmp_path / "text.mat")


def test_synthetic_noise_and_voices():
    wave = noise_source("rain").clip(3, 1000, 7, "calibration")
    assert wave.std() == pytest.approx(1, abs=0.05)
    t = np.arange(16000) / 16000
    low, high = (0.1 * np.sin(2 * np.pi * hz * t) for hz in (300, 2000))
    source = noise_source("babble", [low, high, low, high])
    power = lambda part: np.abs(np.fft.rfft(source.clip(0, 16000, 0, part))) ** 2
    assert power("calibration")[250:350].sum() > 0.95 * power("calibration").sum()
    assert power("test")[1950:2050].sum() > 0.95 * power("test").sum()
    assert synthetic_noise("babble", 100, 0).shape == noise_source("babble").clip(0, 100, 0).shape
    with pytest.raises(ConfigError, match="two clips of speech"):
        noise_source("babble", [low])


def test_whatever_names_a_noise_gives_two_parts_without_common_audio(tmp_path, folder):
    """What the command line takes: a synthetic name, a file, a folder and a corpus; under each a table has its name."""
    write(tmp_path / "musan/noise/a.wav", ramp(0, 3200))
    for kind in ("music", "speech"):
        (tmp_path / "musan" / kind).mkdir()
    single = write(tmp_path / "crowd.wav", ramp(0, 32_000))
    specs = {"pink": "pink", str(single): "crowd", str(folder): "noises", f"{tmp_path}/musan": "musan"}
    for spec, name in specs.items():
        source = noise_source(spec)
        assert source.name == name
        calibration, test = ({wave.tobytes() for wave in (source.clip(i, 400, 0, p) for i in range(9))} for p in PARTS)
        assert len(calibration) == len(test) == 9 and not calibration & test


def test_silence_is_not_drawn(tmp_path):
    wave = np.zeros(16000, np.float32)
    wave[8000:12000] = ramp(1, 4000)
    source = noise_source(write(tmp_path / "x.wav", wave))
    assert all(source.clip(i, 100, 0).any() for i in range(30))
    with pytest.raises(AudioError, match=r"x\.wav is digital silence at 16"):
        source.clip(0, 100, 0, "calibration")


def test_bad_input(tmp_path, folder):
    with pytest.raises(ConfigError, match=r"'pnik': did you mean 'pink'.* Known noises: white"):
        noise_source("pnik")
    with pytest.raises(ConfigError, match="no noise, file or folder"):
        noise_source(tmp_path / "gone")
    with pytest.raises(ConfigError, match="has no n77; it has n0, "):
        noise_source(f"{folder}#n77")
    with pytest.raises(ConfigError, match="a subset names parts of a folder"):
        noise_source(f"{folder}/n1.wav#a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no audio file in the noise folder"):
        noise_source(tmp_path / "empty")
    with pytest.raises(AudioError, match="too short for a calibration and a test part"):
        noise_source(write(tmp_path / "short.wav", ramp(0, 3000)))
    source = noise_source(folder)
    for args in ((-1, 10, 0), (0, 0, 0), (0, 10, -1)):
        with pytest.raises(ConfigError, match="no noise for such a clip"):
            source.clip(*args)
    with pytest.raises(ConfigError, match="not 'train'"):
        source.clip(0, 10, 0, "train")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(AudioError, match="Cannot read the noise"):
        source.clip(0, 10, 0)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 100_000), st.sampled_from(PARTS))
def test_real_recordings(recordings, index, seed, samples, part):
    for spec in ("traffic.wav", "", "#wind,crowd"):
        source = noise_source(f"{recordings / 'noise'}{'/' if '.' in spec else ''}{spec}")
        wave = source.clip(index, samples, seed, part)
        assert wave.shape == (samples,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        np.testing.assert_array_equal(wave, source.clip(index, samples, seed, part))
