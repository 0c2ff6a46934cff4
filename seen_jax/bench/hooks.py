"""The other side: PyTorch transformers with forward hooks on `activation_fn`, as the authors' scripts do it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio.features import SAMPLE_RATE, WINDOW
from seen_jax.errors import ConfigError
from seen_jax.subspace import NoiseBasis


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What one generation gets: token ids, and a clip of so many log-mel frames."""

    ids: Sequence[int]
    wave: np.ndarray
    frames: int


class Hooked:
    """A Qwen2.5-Omni thinker in PyTorch, float32, with SEE measured and SEEN applied by hooks of the audio tower."""

    def __init__(self, folder: Path):
        try:
            import torch
            from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
            from transformers import WhisperFeatureExtractor
            from transformers.utils import logging
        except ImportError as error:
            raise ConfigError('the benchmark\'s other side needs PyTorch: pip install "seen-jax[parity]"') from error
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        self.torch = torch
        self.model: Any = Thinker.from_pretrained(folder, dtype=torch.float32).eval()
        self.log_mel: Any = WhisperFeatureExtractor.from_pretrained(folder)
        self.pad = int(self.model.generation_config.pad_token_id or 0)
        stop = self.model.generation_config.eos_token_id
        self.stops = set(stop if isinstance(stop, list) else [stop])

    @contextlib.contextmanager
    def seen(self, basis: NoiseBasis, strength: float, values: list[Any]) -> Iterator[None]:
        """Hooks at the kept layers append their mean SEE to `values`; with a strength they edit the activations."""
        q = {layer: self.torch.tensor(np.asarray(basis.q[layer])[:, : basis.ranks[layer]]) for layer in basis.layers}

        def hook(layer: int) -> Any:
            def run(module: Any, args: Any, a: Any) -> Any:
                part = a @ q[layer]
                values.append((part.square().sum(-1) / (a.square().sum(-1) + 1e-12)).mean())
                return a - strength * (part @ q[layer].T) if strength else None

            return run

        tower = self.model.model.audio_tower.layers
        handles = [tower[layer].activation_fn.register_forward_hook(hook(layer)) for layer in basis.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Left-padded ids, and the features of the clips: padded to the longest of them and a window of silence, not to
        30 s, which a script would do at its own cost."""
        torch, longest = self.torch, max(len(p.ids) for p in prompts)
        ids = torch.full((len(prompts), longest), self.pad)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, p in enumerate(prompts):
            ids[row, longest - len(p.ids) :] = torch.tensor(list(p.ids))
            mask[row, longest - len(p.ids) :] = 1
        waves = [np.pad(p.wave, (0, WINDOW)) for p in prompts]
        made = self.log_mel(waves, sampling_rate=SAMPLE_RATE, padding="longest", return_tensors="pt")
        frames = torch.tensor([p.frames for p in prompts])
        features = made.input_features[:, :, : int(frames.max())]
        heard = (torch.arange(features.shape[2]) < frames[:, None]).long()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "input_features": features * heard[:, None],
            "feature_attention_mask": heard,
        }

    def generate(self, inputs: dict[str, Any], new: int) -> list[list[int]]:
        """Greedy new ids of every row, without the stop token and what follows."""
        with self.torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=new, do_sample=False)
        rows = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [row[: next((i for i, t in enumerate(row) if t in self.stops), len(row))] for row in rows]

    def pooled(self, inputs: dict[str, Any], new: int = 0) -> list[Any]:
        """Mean activations of every layer of the audio tower, for one clip; from a whole answer of so many tokens, if
        any."""
        means: list[Any] = []
        tower = self.model.model.audio_tower
        hook = lambda module, args, a: means.append(a.mean(0))
        handles = [layer.activation_fn.register_forward_hook(hook) for layer in tower.layers]
        try:
            if new:
                self.generate(inputs, new)
                return means
            with self.torch.inference_mode():
                self.model.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
        finally:
            for handle in handles:
                handle.remove()
        return means
