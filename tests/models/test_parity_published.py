"""At the sizes that were published: every tensor of the originals has its place, nothing is allocated."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from seen_jax.models.checkpoint import match, parameter_shapes  # noqa: E402
from seen_jax.models.family import published_config  # noqa: E402
from seen_jax.models.safetensors_files import Tensor  # noqa: E402
from seen_jax.models.weights import slots  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

ORIGINALS = {
    "qwen2_5_omni": "Qwen2_5OmniForConditionalGeneration",  # whole, with vision, talker and token2wav
    "qwen3_omni": "Qwen3OmniMoeThinkerForConditionalGeneration",  # with vision
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "audio_flamingo_3": "AudioFlamingo3ForConditionalGeneration",
    "glm_asr": "GlmAsrForConditionalGeneration",
    "granite_speech": "GraniteSpeechForConditionalGeneration",
    "voxtral": "VoxtralForConditionalGeneration",
    "qwen3_asr": "Qwen3ASRForConditionalGeneration",
}


def original_tensors(family) -> dict[str, tuple[int, ...]]:
    """{key: shape} of the original's weights, tied ones once."""
    import transformers

    config = transformers.CONFIG_MAPPING[family.model_types[0]](**family.published)
    config = config.thinker_config if family.name == "qwen3_omni" else config
    with torch.device("meta"):
        model = getattr(transformers, ORIGINALS[family.name])(config)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items() if key not in tied}
    return dict(part for key, shape in shapes.items() for part in experts(key, shape))


def experts(key: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """A fused tensor of all experts, which transformers holds in memory, as the files have it; others as they are."""
    if not key.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        return [(key, shape)]
    where, _, name = key.rpartition(".")
    names = ("gate_proj", "up_proj") if name == "gate_up_proj" else ("down_proj",)
    own = (shape[1] // len(names), shape[2])
    return [(f"{where}.{e}.{n}.weight", own) for e in range(shape[0]) for n in names]


@pytest.mark.parametrize("name", ORIGINALS)
def test_parity_of_keys_shapes_and_parameters_at_published_size(name):
    family = FAMILIES[name]
    config = published_config(family)
    shapes = parameter_shapes(config)
    table = slots(family.rules(config), shapes)
    theirs = original_tensors(family)
    tensors = {key: Tensor(key, Path("model.safetensors"), "BF16", shape, 0) for key, shape in theirs.items()}
    plan = match(tensors, table, family, Path("published"))
    assert len(plan) == len(table)
    ours = sum(math.prod(shape) for shape in shapes.values())
    assert sum(math.prod(theirs[key]) for key in plan) == ours > 1e9
