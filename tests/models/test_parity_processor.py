"""Prompts and features against transformers' own Qwen2.5-Omni processor, and the published token counts."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_omni import AUDIO, prompt_ids, wave

from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.processor import Request
from seen_jax.registry import FAMILIES

SECONDS = (0.05, 1.005, 2.0, 12.3, 29.99, 30.0, 30.01)


@pytest.fixture(scope="module")
def original(model):
    """The original processor without its image and video parts, which need packages that audio does not."""
    from transformers import Qwen2_5OmniProcessor, WhisperFeatureExtractor

    class AudioOnly(Qwen2_5OmniProcessor):
        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    extractor = WhisperFeatureExtractor(
        feature_size=model.config.encoder.n_mels, chunk_length=300, return_attention_mask=True
    )
    tokenizer = model.processor.tokenizer
    return AudioOnly(None, None, extractor, tokenizer, chat_template=tokenizer.chat_template)


def theirs(original, request: Request):
    text = original.apply_chat_template(request.chat(), tokenize=False, add_generation_prompt=True)
    return original(text=[text], audio=list(request.audio), sampling_rate=16000, return_tensors="np")


@pytest.mark.parametrize("seconds", SECONDS)
def test_parity_of_prompt_and_features(model, original, seconds):
    request = Request([wave(round(seconds * 16000))], "which color is the speech ?")
    expected = theirs(original, request)
    batch = model.processor.prepare([request])
    length = int(batch.lengths[0])
    assert batch.tokens[0, :length].tolist() == expected["input_ids"][0].tolist()
    frames = int(batch.frames[0])
    assert frames == expected["feature_attention_mask"].sum()
    features = expected["input_features"][0, :, :frames].T
    np.testing.assert_allclose(batch.features[0, :frames], features, atol=1e-4, rtol=0)


def test_parity_of_several_clips_with_a_system_turn(model, original):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "name the music"}]},
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "red, then"}, {"type": "audio"}]},
    ]
    request = Request([wave(3000), wave(20000, 1)], messages=messages)
    expected = theirs(original, request)
    batch = model.processor.prepare([request])
    assert batch.tokens[0, : int(batch.lengths[0])].tolist() == expected["input_ids"][0].tolist()
    assert batch.frames.tolist() == expected["feature_attention_mask"].sum(1).tolist()
    with_system = Request([wave(3000)], "red", system="name the music")
    assert prompt_ids(model, with_system) == theirs(original, with_system)["input_ids"][0].tolist()


def test_parity_of_features_in_a_batch(model, original):
    """A clip's features do not depend on the clips that it is batched with."""
    waves = [wave(800), wave(48077, 1), wave(16080, 2)]
    audio, _ = model.processor.audio(waves)
    for features, frames, clip in zip(audio.features, audio.frames, waves, strict=True):
        expected = theirs(original, Request([clip], "red"))["input_features"][0].T
        np.testing.assert_allclose(features[:frames], expected[:frames], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("samples", "frames", "tokens"),
    [(3200, 20, 5), (16000, 100, 25), (16077, 101, 25), (40000, 250, 62), (48077, 301, 75), (160000, 1000, 250),
     (320000, 2000, 500), (480000, 3000, 750)],
)  # fmt: skip
def test_parity_of_token_counts_of_samples(model, samples, frames, tokens):
    assert -(-samples // 160) == frames
    assert model.config.encoder.token_count(frames) == tokens
    ids = prompt_ids(model, Request([np.zeros(samples, np.float32)], "red"))
    assert ids.count(AUDIO) == tokens


@pytest.mark.parametrize(
    ("frames", "tokens"),
    [(1, 0), (2, 0), (3, 1), (199, 50), (200, 50), (201, 50), (202, 50), (203, 51), (400, 100), (430, 107),
     (3000, 750)],
)  # fmt: skip
def test_parity_of_token_counts_of_frames(model, frames, tokens):
    assert model.config.encoder.token_count(frames) == tokens
    assert model.config.encoder.token_count(frames) == max(((frames - 1) // 2 + 1 - 2) // 2 + 1, 0)


def test_the_default_template_is_the_published_one_for_audio_and_text(model):
    """ChatML, audio without a newline or a number, and a short system turn where the chat brings none."""
    render = lambda request: model.processor.tokenizer.apply_chat_template(
        request.chat(), chat_template=FAMILIES["qwen2_5_omni"].chat_template, tokenize=False, add_generation_prompt=True
    )
    audio = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    assert render(Request([wave(800)], "What?")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{audio}What?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(Request([wave(800)], "What?", system="Be brief.")).startswith(
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{audio}"
    )


def test_audio_index_points_at_the_tokens_of_the_right_clip(model):
    requests = [Request([wave(5000)], "red"), Request([wave(9000), wave(3300)], "the name")]
    batch = model.processor.prepare(requests)
    assert batch.tokens.shape[1] % 32 == 0
    per_clip = int(model.config.encoder.token_count(batch.features.shape[1]))
    index = np.asarray(batch.audio_index)
    counts = [int(model.config.encoder.token_count(f)) for f in batch.frames]
    expected = [[clip * per_clip + i for i in range(counts[clip])] for clip in range(3)]
    assert index[0][index[0] >= 0].tolist() == expected[0]
    assert index[1][index[1] >= 0].tolist() == expected[1] + expected[2]
    assert ((np.asarray(batch.tokens) == AUDIO) == (index >= 0)).all()


def test_requests_that_make_no_sense_are_refused(model):
    prepare = model.processor.prepare
    with pytest.raises(ConfigError, match=r"2 audio places .* for 1 clips"):
        prepare([Request([wave(800)], "what does <|AUDIO|> mean?")])
    two = [{"role": "user", "content": [{"type": "audio"}, {"type": "audio"}]}]
    with pytest.raises(ConfigError, match=r"2 audio places .* for 1 clips"):
        prepare([Request([wave(800)], messages=two)])
    for requests in ([], [Request([], "red")], [Request([wave(800)] * 2, "red"), Request([], "red")]):
        with pytest.raises(AudioError, match="at least one clip"):
            prepare(requests)
    with pytest.raises(AudioError, match=r"lasts 300\.1 s; qwen2_5_omni takes at most 300 s"):
        prepare([Request([np.zeros(4_801_600, np.float32)], "red")])
    with pytest.raises(AudioError, match="not empty"):
        prepare([Request([np.zeros(0, np.float32)], "red")])
