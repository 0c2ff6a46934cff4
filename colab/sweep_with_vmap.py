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
# # A sweep is one vmap
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/sweep_with_vmap.ipynb)
#
# Edits are data, so a whole sweep over strengths or over bases is one compiled program. You will sweep SEEN's strength
# lambda and the threshold delta of the paper's selection, and see SEE and the likelihood of the clean answers as
# curves. Any runtime will do; a minute on a CPU.

# %%
import re
import subprocess
import sys
from importlib import metadata

if "google.colab" in sys.modules:  # elsewhere: docs/start.md says how to install seen-jax
    versions = {one.name: one.version for one in metadata.distributions()}
    kept = [f"{name}=={versions[name]}" for name in versions if re.fullmatch(r"jax(lib|[-_].+)?|libtpu", str(name))]
    package = "seen-jax @ git+https://github.com/seen-jax/seen-jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package, *kept], check=True)  # with the jax of Colab

# %%
import seen_jax

print(seen_jax.runtime())

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.models.evidence import Answers, forced
from seen_jax.models.generate import generate
from seen_jax.subspace.selection import threshold_mask

model = seen_jax.load("seen-tiny")

# %% [markdown]
# ## A basis, and a batch
#
# `model.processor.prepare` makes the batch that the pure function `model.lalm.apply(variables, batch, edits)` takes.
# Eight clips, once clean and once with engine noise at 5 dB.

# %%
waves = [item.wave for item in load_clips("calibration")]
engine = [noise_for_clip("engine", len(wave), seed=i) for i, wave in enumerate(waves)]
calibration = seen_jax.calibrate(model, waves, engine)
basis = calibration.select(seen_jax.Selection(method="complement", layers="all"))

items = load_clips("demo")[::6]
hum = [noise_for_clip("engine", len(item.wave), seed=100 + i) for i, item in enumerate(items)]
mixed = [mix_at_snr(item.wave, noise, 5).audio for item, noise in zip(items, hum)]
requests = lambda clips: [seen_jax.Request([x], item.prompt) for x, item in zip(clips, items)]
clean, noisy = (model.processor.prepare(requests(x)) for x in ([item.wave for item in items], mixed))
print(basis)

# %% [markdown]
# ## What is measured
#
# Whether an answer comes out right is a yes or no, and eight of those make a ragged curve. Its likelihood is smooth:
# how probable the model's own clean answer is, in nats per token, given the audio and the edits. `forced` reads it off
# one pass over prompt and answer. The counter shows when the function is traced, which is when JAX compiles it.

# %%
reference = generate(model.lalm, model.variables, clean, {}, seen_jax.Decoding(max_new_tokens=12))
answers = Answers(reference.tokens, reference.lengths)
real = jnp.arange(12 + 1) < answers.lengths[:, None]  # [clips, positions]: the tokens of each answer
traced = []


def measure(batch, edits):
    """SEE after the edits, and the log-likelihood of the clean answers per token; means over the clips."""
    traced.append(None)
    see = model.lalm.apply(model.variables, batch, edits, last_only=True).see[calibration.site].after
    likelihood = forced(model.lalm, model.variables, batch, edits, answers).log_probs
    return see.mean(), jnp.where(real, likelihood, 0).sum() / real.sum()


# %% [markdown]
# ## Sweep the strength
#
# `projection` accepts a traced strength. `vmap` over seven strengths gives one program, in which the strengths are one
# more axis of the batch.

# %%
strengths = jnp.linspace(0.0, 1.2, 7)
one = lambda batch, strength: measure(batch, seen_jax.projection(model, basis, strength))
sweep = jax.jit(jax.vmap(one, in_axes=(None, 0)))

traced.clear()
by_strength = {name: jax.device_get(sweep(batch, strengths)) for name, batch in {"clean": clean, "5 dB": noisy}.items()}
sweep(noisy, 0.5 * strengths)  # other numbers, same program
print(f"{3 * len(strengths)} strengths measured, function traced {len(traced)} time(s)")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for name, (see, likelihood) in by_strength.items():
    left.plot(strengths, 100 * see, marker="o", label=name)
    right.plot(strengths, likelihood, marker="o", label=name)
left.set(xlabel="lambda", ylabel="SEE after the edit (%)", ylim=(0, None))
right.set(xlabel="lambda", ylabel="log-likelihood of the clean\nanswer (nats per token)")
left.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# Left: SEE falls to zero at lambda = 1 by construction, and rises again beyond it. Right: what that does to the
# answers; zero is certainty. Clean answers hardly notice the edit. Noisy ones do not come closer to them, they lose
# likelihood with every step: low SEE is no sign that the model understands more. This basis edits all four layers,
# which harms under this noise; with the directions of layer 2 alone SEEN changes success on seen-tiny by 0.0 points
# (docs/results.md).
#
# ## How long a loop takes
#
# The same function without `vmap`, called once per strength. It is compiled once too, because the strength is data. A
# strength that were a Python constant of the function would be compiled seven times.

# %%
single = jax.jit(one)


def seconds(function):
    """The better of two calls, after one to compile."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return min(times[1:])


traced.clear()
loop = seconds(lambda: [single(noisy, strength) for strength in strengths])
together = seconds(lambda: sweep(noisy, strengths))
print(f"loop / vmap: {loop / together:.1f} (function traced {len(traced)} time)")

# %% [markdown]
# On a CPU, which a batch of eight clips keeps busy, expect a ratio near 1. An accelerator that one call does not fill
# gains more. The ratio differs from run to run.
#
# ## Sweep the selection: delta
#
# A selection only chooses columns of one set of singular directions. So all directions go into one edit, and a sweep
# over delta is a `vmap` over column masks. `threshold_mask` is the paper's rule: keep noise directions whose largest
# |cosine| with the dominant clean ones is below delta.

# %%
semantic, noise = calibration.directions()
every = seen_jax.projection(model, jnp.swapaxes(noise.v, -1, -2), site=calibration.site)[calibration.site]


def of_delta(batch, delta):
    kept = threshold_mask(semantic, noise, 0.95, None, delta)  # [layers, directions]
    measuring = every.replace(u=every.u * kept[:, None, :], scale=0.0 * every.scale)
    see, _ = measure(batch, {calibration.site: measuring})
    _, likelihood = measure(batch, {calibration.site: measuring.replace(scale=every.scale)})
    return see, likelihood, kept.sum(-1).mean()


deltas = jnp.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
swept = jax.jit(jax.vmap(of_delta, in_axes=(None, 0)))
by_delta = {name: jax.device_get(swept(batch, deltas)) for name, batch in {"clean": clean, "5 dB": noisy}.items()}

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
for name, (see, likelihood, _) in by_delta.items():
    axes[0].plot(deltas, 100 * see, marker="o", label=name)
    axes[1].plot(deltas, likelihood, marker="o", label=name)
axes[2].plot(deltas, by_delta["clean"][2], marker="o", color="black")
axes[0].set(xlabel="delta", ylabel="SEE before the edit (%)")
axes[1].set(xlabel="delta", ylabel="log-likelihood of the clean\nanswer under SEEN (nats per token)")
axes[2].set(xlabel="delta", ylabel="directions per layer (mean)")
axes[0].legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# Right: below 0.1 hardly any direction is left. Left: a larger delta lets in directions that clean audio uses as well,
# so SEE of clean audio rises together with that of noisy audio. A basis that measures noise well keeps the two apart.
# Middle: taking the directions out costs the noisy answers, and the more so the more are taken; the leftmost points
# are no edit at all. A sweep over alpha is the same with `alpha` in the place of `delta`.
#
# Next: [activations](https://github.com/seen-jax/seen-jax/blob/main/colab/activations.ipynb). Deeper: [how-to on
# sweeps](https://github.com/seen-jax/seen-jax/blob/main/docs/howto.md#sweep-the-strength-without-recompiling), and the
# studies `strength`, `delta` and `layers` of `seen-jax evaluate`.
