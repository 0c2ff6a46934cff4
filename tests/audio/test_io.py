"""Reading, checking and writing audio: formats, rates, channels, and every error a user can cause."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from seen_jax.audio.find import find_audio
from seen_jax.audio.io import audio_seconds, check_wave, decode_audio, is_silent, read_audio, write_audio
from seen_jax.errors import AudioError


def tone(seconds: float = 0.5, rate: int = 16000, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def recordings() -> Path:
    """Real recordings, which are not part of the project."""
    folder = Path(os.environ.get("SEEN_RECORDINGS", Path(__file__).parents[3] / "shared" / "recordings"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings in {folder} (set SEEN_RECORDINGS)")
    return folder


@pytest.mark.parametrize(
    ("name", "subtype", "atol"),
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "PCM_U8", 1e-2),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.flac", "PCM_16", 1e-4),
        ("A.WAV", "PCM_16", 1e-4),
    ],
)
def test_reads_lossless_formats(tmp_path, name, subtype, atol):
    soundfile.write(tmp_path / name, tone(), 16000, subtype=subtype)
    wave = read_audio(tmp_path / name)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave, tone(), atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III")])
def test_reads_lossy_formats(tmp_path, name, subtype):
    if name.endswith("mp3") and "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    soundfile.write(tmp_path / name, tone(), 16000, subtype=subtype)
    wave = read_audio(str(tmp_path / name))
    assert len(wave) == pytest.approx(8000, abs=2400)
    inside = slice(2000, 6000)
    assert np.corrcoef(np.abs(np.fft.rfft(wave[inside])), np.abs(np.fft.rfft(tone()[inside])))[0, 1] > 0.99


@pytest.mark.parametrize("rate", [8000, 20000, 22050, 32000, 44100, 48000])
def test_resamples_to_16_khz(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate=rate), rate, subtype="FLOAT")
    wave = read_audio(tmp_path / "a.wav")
    assert len(wave) == 8000
    np.testing.assert_allclose(wave[800:-800], tone()[800:-800], atol=2e-3)
    librosa = pytest.importorskip("librosa")
    expected = librosa.resample(tone(rate=rate), orig_sr=rate, target_sr=16000)
    np.testing.assert_allclose(wave, expected, atol=1e-6)


@pytest.mark.parametrize("n_samples", [1, 2, 5, 1001])
def test_resampled_length_rounds_up(n_samples):
    assert len(check_wave(np.ones(n_samples), 44100)) == -(-n_samples * 16000 // 44100)


def test_channels(tmp_path):
    left, right = tone(hz=300), tone(hz=900)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", channel=0), left)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", channel=1), right)
    for channel in (2, -1):
        with pytest.raises(AudioError, match=rf"2 channel\(s\).*no channel {channel}"):
            read_audio(tmp_path / "a.wav", channel=channel)


def test_silence_is_readable(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    assert is_silent(read_audio(tmp_path / "a.wav"))
    assert not is_silent(tone())


def test_missing_and_folder(tmp_path):
    with pytest.raises(AudioError, match=r"no audio file .*gone\.wav"):
        read_audio(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_audio(tmp_path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all " * 100])
def test_undecodable_file(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"Cannot decode .*a\.wav"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_truncated_file(tmp_path, name):
    soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 32000), 16000)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"truncated|Cannot decode|no samples"):
        read_audio(tmp_path / name)


def test_wav_of_a_pipe_declares_no_length_and_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = data[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "a.wav")) == 8000


def test_file_without_samples_or_with_bad_ones(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match=r"empty\.wav holds no samples"):
        read_audio(tmp_path / "empty.wav")
    for bad in (np.nan, np.inf):
        soundfile.write(tmp_path / "bad.wav", np.array([0.0, bad, 0.1]), 16000, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"bad\.wav: 1 of 3 samples are NaN or infinite"):
            read_audio(tmp_path / "bad.wav")


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros((2, 8)), r"one dimension expected, not shape \(2, 8\)"),
        (np.float32(1.0), "one dimension expected"),
        (np.zeros(0), "no samples"),
        (np.zeros(4, np.int64), "int64 samples have no known scale"),
        (np.zeros(4, np.uint16), "uint16 samples have no known scale"),
        ([1, 2, 3], "pass floats in"),
        (np.zeros(4, bool), "not bool"),
        (np.zeros(4, complex), "not complex128"),
        (["a", "b"], "real floating-point"),
        ([None, 1.0], "real floating-point"),
        ([[1.0], [1.0, 2.0]], "not an array"),
        (np.array([0.0, np.nan]), "1 of 2 samples are NaN or infinite"),
        (np.array([0.0, 1e300]), "NaN or infinite"),
        (np.array([0.0, -20000.0]), "PCM scale"),
    ],
)
def test_check_wave_refuses(wave, message):
    with pytest.raises(AudioError, match=rf"my clip: .*{message}"):
        check_wave(wave, name="my clip")


@pytest.mark.parametrize("rate", [16000.0, "16000", True, None, 0, -8000, 10, 10**7])
def test_check_wave_refuses_rates(rate):
    with pytest.raises(AudioError, match="sample rate"):
        check_wave(tone(), rate)


def test_check_wave_copies_and_converts():
    import jax.numpy as jnp

    wave = tone()
    checked = check_wave(wave)
    assert not np.shares_memory(checked, wave)
    for same in (wave.astype(np.float64), wave.tolist(), jnp.asarray(wave)):
        np.testing.assert_array_equal(check_wave(same, np.int64(16000)), wave)
    np.testing.assert_allclose(check_wave(jnp.asarray(wave, jnp.bfloat16)), wave, atol=2e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_integers_are_scaled_by_their_type(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    middle = (int(low) + int(high) + 1) // 2
    wave = check_wave(np.array([low, middle, high], dtype))
    assert wave.dtype == np.float32 and wave[:2].tolist() == [-1, 0]
    assert 0.99 < wave[2] <= 1


@pytest.mark.parametrize("name", ["a.wav", "new/folder/a.flac"])
def test_write_read_round_trip(tmp_path, name):
    wave = np.array([-32768, -1, 0, 1, 12345, 32767], np.float32) / 32768
    path = write_audio(tmp_path / name, wave)
    np.testing.assert_array_equal(read_audio(path), wave)  # exact: one scale both ways
    assert soundfile.info(path).subtype == "PCM_16"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_write_resamples_and_refuses_clipping(tmp_path):
    assert len(read_audio(write_audio(tmp_path / "a.wav", tone(rate=8000), 8000))) == 8000
    loud = tone() * 5
    with pytest.raises(AudioError, match=r"b\.wav would clip .* 1\.500"):
        write_audio(tmp_path / "b.wav", loud)
    assert not (tmp_path / "b.wav").exists()


def test_write_errors(tmp_path):
    with pytest.raises(AudioError, match=r"suffix must be \.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", tone())
    with pytest.raises(AudioError, match=r"wave for .*a\.wav: .*NaN"):
        write_audio(tmp_path / "a.wav", np.array([np.nan]))
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match=r"cannot write .*a\.wav"):
        write_audio(tmp_path / "file" / "a.wav", tone())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch, code):
    path = write_audio(tmp_path / "a.wav", tone())

    def fail(_fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AudioError, match=os.strerror(code)):
        write_audio(path, np.zeros(10))
    np.testing.assert_allclose(read_audio(path), tone(), atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


def test_real_recordings(recordings):
    rates, shapes = set(), set()
    for kind, count in {"librispeech": 40, "speech": 8, "sound": 8, "music": 8, "noise": 4}.items():
        items = find_audio([recordings / kind])
        assert len(items) == count
        for item in items:
            info, wave = soundfile.info(item.path), read_audio(item.path)
            rates.add(info.samplerate)
            shapes.add((info.channels, info.subtype))
            assert len(wave) == -(-info.frames * 16000 // info.samplerate)
            assert not is_silent(wave)
            assert np.abs(wave).max() < 1.2
        if kind == "librispeech":
            assert all(item.text and item.text.isupper() for item in items)
        elif kind != "noise":
            assert all(item.prompt and item.extra["answer"] in "ABCD" for item in items)
    assert rates == {16000, 20000, 32000, 44100}
    assert {channels for channels, _ in shapes} == {1, 2}
    assert any(subtype == "FLOAT" for _, subtype in shapes)


@pytest.mark.parametrize("rate", [8000, 16000, 19980, 22050, 44100, 48000])
@pytest.mark.parametrize(("start", "seconds"), [(0.0, 0.5), (0.3337, 1.0), (1.2, 0.8), (0.7, None)])
def test_a_segment_is_a_cut_of_the_whole(tmp_path, rate, start, seconds):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (2 * rate, 2)), rate, subtype="FLOAT")
    whole, first = read_audio(path, 1), round(start * 16000)
    last = 32000 if seconds is None else first + round(seconds * 16000)
    for segment in (read_audio(path, 1, start, seconds), decode_audio(path.read_bytes(), "x", 1, start, seconds)):
        assert segment.shape == (last - first,)
        np.testing.assert_allclose(segment, whole[first:last], atol=0 if rate == 16000 else 1e-6)
    assert audio_seconds(path) == 2.0


def test_segments_outside_a_file(tmp_path):
    path = write_audio(tmp_path / "x.wav", np.full(16000, 0.1, np.float32))
    for start, seconds in ((-0.1, 0.2), (1.0, None), (0.5, 0.6), (0.5, 0.0)):
        with pytest.raises(AudioError, match=r"x\.wav lasts 1\.000 s: there is no segment from"):
            read_audio(path, start=start, seconds=seconds)
    with pytest.raises(AudioError, match="Cannot decode some bytes"):
        decode_audio(b"no audio", "some bytes")
    with pytest.raises(AudioError, match="Cannot decode"):
        audio_seconds(tmp_path / "gone.wav")
