"""Live against the PyTorch originals of all families: framing, prompts, every site, edits, generation.

Tolerances: 1e-4 for whole models, float32 on the CPU; activations and logits are of the order of 1.
"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from tiny_omni import hiss, prompt_ids, random_edit, wave  # noqa: E402
from torch_families import Original, Tiny, build  # noqa: E402
from torch_granite import build_granite  # noqa: E402
from torch_qwen3 import build_qwen3  # noqa: E402
from torch_qwen3_asr import build_qwen3_asr  # noqa: E402
from torch_remote import build_remote  # noqa: E402
from torch_ultravox import build_ultravox  # noqa: E402

from seen_jax.errors import ConfigError  # noqa: E402
from seen_jax.models.generate import Decoding, generate  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.model import Model, forward  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.models.prompts import task_request  # noqa: E402
from seen_jax.models.sites import DECODER_SITES, ENCODER_SITES, PROJECTOR, SITES, Taps  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

WHOLE = 1e-4
NEW = 32
SECONDS = (0.05, 1.005, 2.0, 12.3, 29.99, 30.0, 30.01, 95.0)
NAMES = (  # golden folders are written with the seeds of this order
    *("qwen2_5_omni", "qwen3_omni", "qwen2_audio", "audio_flamingo_3", "glm_asr"),
    *("voxtral", "minicpm_o", "step_audio_2", "ultravox", "granite_speech"),
    "qwen3_asr",
)
BUILDERS = {
    "qwen3_omni": build_qwen3,
    "qwen3_asr": build_qwen3_asr,
    "minicpm_o": build_remote,
    "step_audio_2": build_remote,
    "ultravox": build_ultravox,
    "granite_speech": build_granite,
}
SIZES = {
    "grouped heads": (Tiny(), SECONDS),
    "one kv head, 128 mels": (
        Tiny(n_mels=128, encoder_layers=3, encoder_width=16, encoder_heads=2, width=48, heads=6, kv_heads=1, layers=3,
             ffn=64, rope_theta=1e6, eps=1e-6, experts=6, top_k=3, renormalise=False, n_window=52, n_window_infer=250),
        (2.0, 30.01),
    ),
    "full heads, tied": (
        Tiny(n_mels=40, encoder_layers=1, encoder_width=32, encoder_heads=4, width=40, heads=2, kv_heads=2, layers=1,
             tied=True, experts=3, top_k=1, n_window=49, n_window_infer=98),
        (1.005, 12.3),
    ),
}  # fmt: skip


@dataclasses.dataclass
class Pair:
    """The original and ours, loaded from the folder that the original wrote."""

    original: Original
    model: Model
    requests: list[Request]

    def ours(self, requests: list[Request], edits: dict | None = None):
        """Per request (logits, taps of the real positions with the rows of its clips joined)."""
        batch, owners = self.model.processor.prepared(requests)
        out = forward(self.model.tapped(Taps(SITES, "full")), self.model.variables, batch, edits or {})
        frames, encoder = np.asarray(batch.frames), self.model.config.encoder
        for b, clips in enumerate(owners):
            rows = [r for clip in clips for r in clip]
            count = dict.fromkeys(ENCODER_SITES, encoder.position_count) | {PROJECTOR: encoder.token_count}
            n = int(batch.lengths[b])
            taps = {
                site: np.concatenate([np.asarray(out.taps[site])[:, r, : count[site](frames[r])] for r in rows], 1)
                for site in ENCODER_SITES
            }
            taps |= {site: np.asarray(out.taps[site])[:, b, :n] for site in DECODER_SITES}
            yield np.asarray(out.logits[b, :n]), taps


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    opened: dict[tuple[str, str], Pair] = {}

    def get(family, name: str) -> Pair:
        if (family.name, name) not in opened:
            size, seconds = SIZES[name]
            folder = tmp_path_factory.mktemp(family.name)
            original = BUILDERS.get(family.name, build)(family, size, folder, len(opened))
            requests = [Request([hiss(s, i)], "which color ?") for i, s in enumerate(seconds)]
            opened[family.name, name] = Pair(original, load(folder), requests)
        return opened[family.name, name]

    return get


@pytest.fixture(params=NAMES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(autouse=True)
def cutting_is_no_news():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the clip lasts|qwen3_asr reads a user's audio")
        yield


def assert_equal(ours, theirs) -> None:
    np.testing.assert_allclose(ours[0], theirs[0], atol=WHOLE, rtol=0)
    for site in SITES:
        assert ours[1][site].shape == theirs[1][site].shape, site
        np.testing.assert_allclose(ours[1][site], theirs[1][site], atol=WHOLE, rtol=0, err_msg=site)


def random_edits(model: Model, site: str) -> dict:
    """Edits at all sites, so that one program serves all of them; only that of `site` does anything."""
    edits = {s: random_edit(model.config, s, seed=5) for s in SITES}
    return {s: e.replace(scale=e.scale * (0.8 if s == site else 0.0)) for s, e in edits.items()}


@pytest.mark.parametrize("name", list(SIZES))
def test_parity_of_prompts_features_sites_and_logits(pairs, family, name):
    """Every clip in one ragged batch."""
    pair = pairs(family, name)
    batch, owners = pair.model.processor.prepared(pair.requests)
    for b, request in enumerate(pair.requests):
        expected = pair.original.inputs(request)
        assert batch.tokens[b, : int(batch.lengths[b])].tolist() == expected["input_ids"][0].tolist()
        rows = owners[b][0]
        assert [int(batch.frames[r]) for r in rows] == pair.original.frames(expected)
        for r, features in zip(rows, pair.original.features(expected), strict=True):
            n = min(features.shape[1], int(batch.audio.convolved()[r]))
            np.testing.assert_allclose(batch.features[r, :n], features.T[:n], atol=WHOLE, rtol=0)
    for ours, request in zip(pair.ours(pair.requests), pair.requests, strict=True):
        assert_equal(ours, pair.original.forward(request))


def test_parity_of_single_and_batched_answers(pairs, family):
    pair = pairs(family, "grouped heads")
    lalm, variables, prepare = pair.model.lalm, pair.model.variables, pair.model.processor.prepare
    chosen = [1, 3, 6]
    requests = [pair.requests[i] for i in chosen]
    out = generate(lalm, variables, prepare(requests), decoding=Decoding(NEW))
    for b, request in enumerate(requests):
        alone = generate(lalm, variables, prepare([request]), decoding=Decoding(NEW))
        tokens = out.tokens[b, : int(out.lengths[b])].tolist()
        assert tokens == alone.tokens[0, : int(alone.lengths[0])].tolist()
        assert tokens == pair.original.greedy(request, NEW)
    assert int(out.lengths.max()) == NEW, "no answer runs to the end: the comparison would be short"


@pytest.mark.parametrize("site", SITES)
def test_parity_of_seen_edits(pairs, family, site):
    pair = pairs(family, "one kv head, 128 mels")
    edits = random_edits(pair.model, site)
    plain = list(pair.ours(pair.requests, random_edits(pair.model, "")))
    for i, ours in enumerate(pair.ours(pair.requests, edits)):
        assert_equal(ours, pair.original.forward(pair.requests[i], {site: edits[site]}))
        assert np.abs(ours[0] - plain[i][0]).max() > 100 * WHOLE, "the edit does nothing"


AUDIO = {"type": "audio"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def turn(role: str, *parts: dict[str, str]) -> dict:
    return {"role": role, "content": list(parts)}


SYSTEM = turn("system", text("name the music"))
TURNS = [turn("user", AUDIO, text("red, then")), turn("assistant", text("blue")), turn("user", text("which ?"))]
SEVERAL = [
    turn("user", AUDIO, text("red, then"), AUDIO),
    turn("assistant", text("blue")),
    turn("user", AUDIO, text("which ?")),
]
ONE_CLIP = ("audio_flamingo_3", "glm_asr", "qwen3_asr")  # their processors take one clip per prompt
NO_SYSTEM = ("voxtral",)


def test_parity_of_several_clips_and_turns(pairs, family):
    pair = pairs(family, "full heads, tied")
    system = [] if family.name in NO_SYSTEM else [SYSTEM]
    for messages in [[*system, *TURNS]] + [[*system, *SEVERAL]] * (family.name not in ONE_CLIP):
        clips = sum(part == AUDIO for message in messages for part in message["content"])
        request = Request([wave(3000), wave(20000, 1), wave(9000, 2)][:clips], messages=messages)
        expected = pair.original.inputs(request)
        assert prompt_ids(pair.model, request) == expected["input_ids"][0].tolist()
        assert_equal(next(iter(pair.ours([request]))), pair.original.forward(request))


def test_parity_of_minicpms_clips_in_one_message_and_in_several(pairs):
    """Those of a message are one clip before the encoder; a shorter message sees zeros as far as the longest."""
    pair = pairs(FAMILIES["minicpm_o"], "grouped heads")
    waves = [wave(3000), wave(20000, 1), wave(500_000, 2), wave(9000, 3)]
    several = [turn("user", AUDIO, text("red, then")), turn("user", AUDIO, AUDIO), turn("user", text("?"), AUDIO)]
    requests = [Request(waves[:2], "which ?"), Request(waves, messages=several), Request(waves[:1], "which ?")]
    for ours, request in zip(pair.ours(requests), requests, strict=True):
        assert_equal(ours, pair.original.forward(request))
    assert prompt_ids(pair.model, requests[0]) == pair.original.inputs(requests[0])["input_ids"][0].tolist()


def test_clips_of_a_message_on_which_minicpm_fails_are_refused(pairs):
    pair = pairs(FAMILIES["minicpm_o"], "grouped heads")
    request = Request([wave(961), wave(961, 1)], "which ?")
    with pytest.raises(RuntimeError), torch.no_grad():
        pair.original.logits(pair.original.inputs(request))
    with pytest.raises(ConfigError, match="its clips make 3 audio tokens together, and have 4 places in its prompt"):
        pair.model.processor.prepare([request])


@pytest.mark.parametrize("seconds", [24.999, 25.0, 25.02, 26.0, 26.01, 30.37, 33.3, 51.5])
def test_parity_of_step_audios_segments(pairs, seconds):
    """The last one sees the zeros that fill it up to the others."""
    pair = pairs(FAMILIES["step_audio_2"], "full heads, tied")
    request = Request([hiss(seconds, 4)], "which color ?")
    assert_equal(next(iter(pair.ours([request]))), pair.original.forward(request))


def test_parity_of_a_step_audio_segment_without_tokens(pairs):
    """Up to 10 ms. Nothing in it is attended to, and the original then takes the mean over its padding."""
    pair = pairs(FAMILIES["step_audio_2"], "full heads, tied")
    request = Request([hiss(25.01, 4)], "which color ?")
    ours, theirs = next(iter(pair.ours([request]))), pair.original.forward(request)
    np.testing.assert_allclose(ours[0], theirs[0], atol=WHOLE, rtol=0)
    assert [pair.original.token_count(n) for n in pair.original.inputs(request)["frames"]][1:] == [0]


def test_parity_of_voxtrals_transcription_prompt(pairs):
    pair = pairs(FAMILIES["voxtral"], "full heads, tied")
    clip = wave(3000)
    expected = pair.original.processor.apply_transcription_request(
        audio=[clip], model_id="any", language="en", sampling_rate=16000, format=["wav"]
    )
    ids = prompt_ids(pair.model, task_request(pair.model, "transcription", clip))
    assert ids == expected["input_ids"][0].tolist()


def test_parity_of_the_published_qwen2_audio_template(pairs):
    pair = pairs(FAMILIES["qwen2_audio"], "full heads, tied")
    chat = Request([wave(3000)], "which ?").chat()
    render = pair.original.processor.tokenizer.apply_chat_template
    published = pair.original.processor.default_chat_template
    texts = {render(chat, chat_template=t, tokenize=False) for t in (published, FAMILIES["qwen2_audio"].chat_template)}
    assert len(texts) == 1


def test_a_clip_past_the_limit_is_cut_with_a_warning(pairs):
    pair = pairs(FAMILIES["qwen2_audio"], "full heads, tied")
    with pytest.warns(UserWarning, match=r"lasts 31\.0 s; qwen2_audio hears the first 30 s"):
        assert len(pair.model.processor.checked(np.ones(31 * 16000))) == 30 * 16000
