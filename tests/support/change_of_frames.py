"""How noise changes a frame: the correlation, over the channels, of the change of its activations with the clean ones,
averaged over the frames of validation clips at 0 dB. Negative: noise shrinks what the clean clip has there.

python tests/support/change_of_frames.py
"""

import numpy as np

import seen_jax
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips

SITES = ("encoder.mlp_act", "encoder.resid")
NOISES = ("white", "babble", "engine", "rain", "pink")


def correlations(clean: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    """Of every frame [L, T], from activations [L, T, D]."""
    centred = lambda x: x - x.mean(-1, keepdims=True)
    a, b = centred(clean), centred(noisy - clean)
    return (a * b).sum(-1) / np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))


def main() -> None:
    model = seen_jax.load("seen-tiny")
    waves = [item.wave for item in load_clips("validation")]
    of = lambda clips: seen_jax.run(model, clips, sites=SITES, batch_size=20)
    clean = of(waves)
    for noise in NOISES:
        noisy = of(
            [mix_at_snr(wave, noise_for_clip(noise, len(wave), seed=i), 0).audio for i, wave in enumerate(waves)]
        )
        for site in SITES:
            pairs = [(x.activations[site], y.activations[site]) for x, y in zip(clean, noisy, strict=True)]
            means = np.concatenate([correlations(*pair) for pair in pairs], axis=1).mean(1)
            print(noise, site, *(f"{mean:+.2f}" for mean in means))


if __name__ == "__main__":
    main()
