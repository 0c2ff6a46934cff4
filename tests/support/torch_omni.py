"""The PyTorch original with forward hooks: taps and SEEN edits at the five sites, and greedy generation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_omni import AUDIO, Row, Size, config_json

from seen_jax.models.edits import Edit
from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, SITES

torch.set_num_threads(1)


def build(size: Size, seed: int) -> Any:
    """Qwen2_5OmniThinkerForConditionalGeneration with random weights that keep activations near 1."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig.from_dict(config_json(size))).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
            else:
                fan_in = p.shape[-1] if p.ndim == 2 else p.shape[1] * p[0, 0].numel()
                p.copy_(torch.randn_like(p) * (2.0 if "lm_head" in name else 1.0) / fan_in**0.5)
    return model


def save(model: Any, folder: Path, **options: Any) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder, **options)
    return folder


@dataclasses.dataclass
class Original:
    """One prompt at a time, never padded: what our batches are held against."""

    model: Any

    def inputs(self, row: Row) -> dict[str, torch.Tensor]:
        longest = max(row.frames)
        features = np.zeros((len(row.features), row.features[0].shape[1], longest), np.float32)
        for padded, x in zip(features, row.features, strict=True):
            padded[:, : len(x)] = x.T
        mask = np.arange(longest)[None] < np.asarray(row.frames)[:, None]
        return {
            "input_ids": torch.tensor([row.ids]),
            "attention_mask": torch.ones(1, len(row.ids), dtype=torch.long),
            "input_features": torch.tensor(features),
            "feature_attention_mask": torch.tensor(mask).long(),
        }

    def forward(self, row: Row, edits: Mapping[str, Edit] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """logits [S, V], and {site: [L, positions, D]} of the valid positions, after the edits."""
        taps: dict[str, list[np.ndarray]] = {site: [] for site in SITES}
        with torch.no_grad(), self.hooked(row, taps, edits or {}):
            logits = self.model(**self.inputs(row)).logits[0].numpy()
        return logits, {site: np.stack(layers) for site, layers in taps.items()}

    def greedy(self, row: Row, new: int, edits: Mapping[str, Edit] | None = None) -> list[int]:
        """New ids, without the end token."""
        with torch.no_grad(), self.hooked(row, None, edits or {}):
            out = self.model.generate(**self.inputs(row), max_new_tokens=new, do_sample=False)
        ids = out[0, len(row.ids) :].tolist()
        stop = self.model.generation_config.eos_token_id
        return ids[: ids.index(stop)] if stop in ids else ids

    @contextlib.contextmanager
    def hooked(self, row: Row, taps: dict[str, list] | None, edits: Mapping[str, Edit]) -> Iterator[None]:
        tower, body = self.model.model.audio_tower, self.model.model.language_model
        places = [(ENCODER_MLP_ACT, i, layer.activation_fn) for i, layer in enumerate(tower.layers)]
        places += [(ENCODER_RESID, i, layer) for i, layer in enumerate(tower.layers)]
        places += [(PROJECTOR, 0, tower.proj)]
        places += [(DECODER_MLP_ACT, i, layer.mlp.act_fn) for i, layer in enumerate(body.layers)]
        places += [(DECODER_RESID, i, layer) for i, layer in enumerate(body.layers)]
        handles = [
            module.register_forward_hook(_hook(site, i, row, taps, edits.get(site))) for site, i, module in places
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(site: str, layer: int, row: Row, taps: dict[str, list] | None, edit: Edit | None) -> Callable[..., Any]:
    def hook(module: Any, args: Any, output: Any) -> Any:
        a = output[0] if isinstance(output, tuple) else output
        if edit is not None:
            share = torch.ones(a.shape[-2], 1)
            if site in (DECODER_MLP_ACT, DECODER_RESID):
                prompt = a.shape[-2] == len(row.ids)
                audio = torch.tensor(row.ids) == AUDIO if prompt else torch.zeros(a.shape[-2], dtype=torch.bool)
                text = 0.0 if edit.text is None else float(edit.text[layer])
                share = torch.where(audio, 1.0, text)[:, None]
            q = torch.tensor(np.asarray(edit.u[layer]))
            a = a - float(edit.scale[layer]) * share * ((a @ q) @ q.T)
        if taps is not None:
            taps[site].append(a.reshape(-1, a.shape[-1]).numpy().copy())
        return (a, *output[1:]) if isinstance(output, tuple) else a

    return hook
