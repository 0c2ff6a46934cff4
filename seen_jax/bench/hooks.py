"""The other side: PyTorch transformers with forward hooks on `activation_fn`, as the authors' scripts do it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seen_jax.audio.features import SAMPLE_RATE, WINDOW
from seen_jax.errors import ConfigError
from seen_jax.subspace import NoiseBasis


class Prompt(NamedTuple):
    ids: list[int]  # of the tokens
    frames: int  # of the log-mel of its clip


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
        stop = self.model.generation_config.eos_token_id
        self.stops = set(stop if isinstance(stop, list) else [stop])

    @contextlib.contextmanager
    def _hooks(self, layers: Iterable[int], hook: Callable[[int], Any]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer in layers:
                activation = self.model.model.audio_tower.layers[layer].activation_fn
                stack.enter_context(activation.register_forward_hook(hook(layer)))
            yield

    def seen(self, basis: NoiseBasis, strength: float, values: list[Any]) -> contextlib.AbstractContextManager[None]:
        """Hooks at the kept layers append their mean SEE to `values`; with a strength they edit the activations."""
        q = {layer: self.torch.tensor(np.asarray(basis.q[layer])[:, : basis.ranks[layer]]) for layer in basis.layers}

        def hook(layer: int) -> Any:
            def run(module: Any, args: Any, a: Any) -> Any:
                part = a @ q[layer]
                values.append((part.square().sum(-1) / (a.square().sum(-1) + 1e-12)).mean())
                return a - strength * (part @ q[layer].T) if strength else None

            return run

        return self._hooks(basis.layers, hook)

    def inputs(self, prompt: Prompt, waves: Sequence[np.ndarray]) -> dict[str, Any]:
        """The same prompt about clips of one length, whose features end in a window of silence: they are not padded to
        30 s, which a script would do at its own cost."""
        padded = [np.pad(wave, (0, WINDOW)) for wave in waves]
        made = self.log_mel(padded, sampling_rate=SAMPLE_RATE, padding="longest", return_tensors="pt")
        ids = self.torch.tensor(prompt.ids).repeat(len(waves), 1)
        return {
            "input_ids": ids,
            "attention_mask": self.torch.ones_like(ids),
            "input_features": made.input_features[:, :, : prompt.frames],
            "feature_attention_mask": self.torch.ones(len(waves), prompt.frames, dtype=ids.dtype),
        }

    def generate(self, inputs: dict[str, Any], new: int) -> list[list[int]]:
        """Greedy new ids of every row, without the stop token and what follows."""
        with self.torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=new, do_sample=False)
        rows = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [row[: next((i for i, t in enumerate(row) if t in self.stops), len(row))] for row in rows]

    def pooled(self, inputs: dict[str, Any], new: int = 0) -> list[Any]:
        """Mean activations of every layer of the audio tower, for one clip; of a whole answer, if `new` tokens are."""
        means: list[Any] = []
        layers = range(len(self.model.model.audio_tower.layers))
        with self._hooks(layers, lambda layer: lambda module, args, a: means.append(a.mean(0))):
            if new:
                self.generate(inputs, new)
            else:
                with self.torch.inference_mode():
                    self.model.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
        return means
