# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # seen-jax in five minutes
#
# Measure noise *inside* an audio language model (SEE), and remove it during the forward pass (SEEN). Everything here
# runs on a CPU with the embedded model `seen-tiny`; on Colab choose any runtime.

# %%
# On Colab: !pip install -q "seen-jax @ git+https://github.com/seen-jax/seen-jax"
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import seen_jax
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips

model = seen_jax.load("seen-tiny")
clean = [item.wave for item in load_clips("calibration")]
noise = [noise_for_clip("white", len(wave), seed=i) for i, wave in enumerate(clean)]
print(f"{len(clean)} clean clips, encoder of {model.config.encoder.layers} layers")

# %% [markdown]
# ## Calibrate
#
# Clean and noise-only clips go through the encoder; pooled activations of one site are kept. Selecting a basis from
# them needs no further forward pass, so options can be tried freely.

# %%
calibration = seen_jax.calibrate(model, clean, noise, snr_db=0.0)
for method in ("threshold", "complement"):
    print(method, calibration.select(seen_jax.Selection(method=method)).ranks)
basis = calibration.select(seen_jax.Selection(method="complement", energy="sigma", layers="all"))

# %% [markdown]
# ## Measure: SEE against SNR

# %%
items = load_clips("demo")[:12]
snrs = [-10, -5, 0, 5, 10, 20, 30]
curve = []
for snr in snrs:
    noisy = [mix_at_snr(x.wave, noise_for_clip("white", len(x.wave), 100 + i), snr).audio for i, x in enumerate(items)]
    curve.append(np.mean([score.see for score in seen_jax.score(model, noisy, basis)]))
plt.plot(snrs, 100 * np.array(curve), marker="o")
plt.xlabel("SNR (dB)")
plt.ylabel("SEE (%)")
plt.title("Share of activation energy along noise directions")
plt.show()

# %% [markdown]
# ## Remove: answers with and without SEEN

# %%
noisy = [mix_at_snr(x.wave, noise_for_clip("white", len(x.wave), 100 + i), 5).audio for i, x in enumerate(items)]
prompts = [x.prompt for x in items]
plain = seen_jax.generate(model, noisy, prompts)
edited = seen_jax.generate(model, noisy, prompts, basis=basis, strength=1.0)
for item, a, b in zip(items, plain, edited, strict=True):
    print(f"{item.task:14s} truth {item.answer!r:40s} noisy {a.text!r:40s} + SEEN {b.text!r}  SEE {b.see:.3f}")
