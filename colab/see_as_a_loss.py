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
# # SEE as a loss
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/see_as_a_loss.ipynb)
#
# SEE is a differentiable function of the audio, the weights and the edits. You will see where in time and frequency a
# clip raises it, and train a small edit that lowers it, and find out whether lower SEE means better answers. Any
# runtime will do; one or two minutes on a CPU.

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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.audio.features import log_mel
from seen_jax.data.items import load_clips
from seen_jax.evaluate.metrics import wilson

# %%
model = seen_jax.load("seen-tiny")
calibration_items, items = load_clips("calibration"), load_clips("demo")[::2]
waves = [item.wave for item in calibration_items]
engine = [noise_for_clip("engine", len(wave), seed=i) for i, wave in enumerate(waves)]
selection = seen_jax.Selection(method="complement", layers=(2, 3))
basis = seen_jax.calibrate(model, waves, engine).select(selection)
print(basis)

# %% [markdown]
# ## The gradient with respect to the audio
#
# One clip with engine noise in its middle third. `log_mel` makes the model's features from the wave in JAX, so the
# gradient goes back to the samples.

# %%
clip = items[0].wave
burst = np.zeros_like(clip)
middle = slice(len(clip) // 3, 2 * len(clip) // 3)
burst[middle] = noise_for_clip("engine", len(clip), seed=7)[middle]
noisy = mix_at_snr(clip, burst, 0).audio
batch = model.processor.prepare([seen_jax.Request([noisy], items[0].prompt)])
_, frames, mels = batch.features.shape
wave = jnp.pad(jnp.asarray(noisy), (0, 160 * frames - len(noisy)))


def features_of(wave):
    return log_mel(wave[None], mels, batch.frames)


def see_of(features):
    """SEE of the clip: the mean over the kept layers."""
    out = model.lalm.apply(model.variables, batch.replace(features=features), seen_jax.measuring(model, basis))
    return basis.mean_see(out.see[basis.site].before).mean()


real = int(batch.frames[0])
same = np.allclose(features_of(wave)[0, :real], batch.features[0, :real], atol=1e-4)
print("features as the processor makes them:", same)

# %%
by_feature = jax.jit(jax.grad(see_of))(batch.features)[0, :real]
panels = {"clean": model.processor.prepare([seen_jax.Request([clip], "")]).features[0, :real]}
panels |= {"noise in the middle third": batch.features[0, :real], "gradient of SEE": by_feature}
figure, axes = plt.subplots(3, 1, figsize=(7, 5.5), sharex=True)
for axis, (title, values) in zip(axes, panels.items()):
    limit = float(jnp.abs(values).max())
    colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if "gradient" in title else {"cmap": "magma"}
    place = {"aspect": "auto", "origin": "lower", "extent": (0, real / 100, 0, mels), "interpolation": "nearest"}
    image = axis.imshow(np.asarray(values).T, **place, **colours)
    axis.set(title=title, ylabel="mel band")
    figure.colorbar(image, ax=axis, label="SEE per unit" if "gradient" in title else "log-mel")
axes[-1].set_xlabel("time (s)")
figure.tight_layout()
plt.show()

# %% [markdown]
# Red: more energy here raises SEE; blue: it lowers SEE. The gradient does not say "here is the noise": it says which
# small change of the features would change SEE, also in clean stretches.
#
# With respect to the samples, checked against a finite difference: a step against the gradient should lower SEE by as
# much as the gradient predicts.

# %%
of_wave = jax.jit(lambda x: see_of(features_of(x)))
slope = jax.jit(jax.grad(of_wave))(wave)
step = 1e-5 * slope / jnp.linalg.norm(slope) * jnp.linalg.norm(wave)
measured = (of_wave(wave + step) - of_wave(wave - step)) / 2
print(f"change of SEE: predicted {jnp.vdot(slope, step):.2e}, measured {measured:.2e}")

# %% [markdown]
# ## Train an edit that lowers SEE
#
# A low-rank map of the residual stream, `a + (a U) V^T` of rank 8 after the encoder's layers 0 to 2, that starts as
# the identity. Two losses, each 20 steps of Adam on eight calibration clips with engine noise at 5 dB:
#
# - SEE of the noisy clips alone;
# - SEE, and the change of the audio tokens of the clean clips (as a share of their energy), which should stay as they
#   are.

# %%
chosen = calibration_items[::6]
clean_clips = [item.wave for item in chosen]
noisy_clips = [mix_at_snr(item.wave, engine[6 * i], 5).audio for i, item in enumerate(chosen)]
requests = lambda clips: [seen_jax.Request([x], item.prompt) for x, item in zip(clips, chosen)]
clean_batch, noisy_batch = (model.processor.prepare(requests(clips)) for clips in (clean_clips, noisy_clips))
lalm = model.tapped(seen_jax.Taps(("projector",), "full"))
tokens_of = lambda batch, edits: lalm.apply(model.variables, batch, edits, last_only=True).taps["projector"]
target = jax.jit(tokens_of)(clean_batch, {})


# %%
def edit_of(parameters):
    return seen_jax.linear_map(model, "encoder.resid", parameters, layers=[0, 1, 2])


def losses(parameters):
    """SEE of the noisy clips, and how much the audio tokens of the clean ones change; both under the edit."""
    edits = edit_of(parameters)
    out = model.lalm.apply(model.variables, noisy_batch, edits | seen_jax.measuring(model, basis), last_only=True)
    change = jnp.square(tokens_of(clean_batch, edits) - target).sum() / jnp.square(target).sum()
    return basis.mean_see(out.see[basis.site].before).mean(), change


# %%
def train(weight, steps=20):
    optimizer = optax.adam(1e-2)
    v = jax.random.normal(jax.random.key(0), (4, 192, 8)) / np.sqrt(192)
    parameters = (jnp.zeros_like(v), v)
    state, curve = optimizer.init(parameters), []

    @jax.jit
    def update(parameters, state):
        def total(parameters):
            see, change = losses(parameters)
            return see + weight * change, (see, change)

        gradient, values = jax.grad(total, has_aux=True)(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, values

    for _ in range(steps):
        parameters, state, values = update(parameters, state)
        curve.append(values)
    return parameters, np.array(curve)


trained = {"SEE alone": train(0.0), "SEE and clean tokens": train(1.0)}

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for label, (_, curve) in trained.items():
    left.plot(100 * curve[:, 0], label=label)
    right.plot(100 * curve[:, 1], label=label)
left.set(xlabel="step", ylabel="SEE of noisy clips (%)", ylim=(0, None))
right.set(xlabel="step", ylabel="change of clean audio tokens\n(% of their energy)")
right.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## What it does to answers
#
# Other clips than those of the training, with other noise. Success is the share of answers that equal the model's own
# clean answer without any edit, with its 95 % interval.

# %%
prompts, clean_test = [item.prompt for item in items], [item.wave for item in items]
noise_test = [noise_for_clip("engine", len(wave), seed=500 + i) for i, wave in enumerate(clean_test)]
noisy_test = [mix_at_snr(wave, noise, 5).audio for wave, noise in zip(clean_test, noise_test)]
wanted = [answer.text for answer in seen_jax.generate(model, clean_test, prompts)]


def success(clips, **options):
    answers = seen_jax.generate(model, clips, prompts, **options)
    hits = sum(answer.text == text for answer, text in zip(answers, wanted))
    return "{:4.0%} ({:.0%} to {:.0%})".format(*wilson(hits, len(wanted)))


def mean_see(edits):
    measured = edits | seen_jax.measuring(model, basis)
    runs = seen_jax.run(model, noisy_test, prompts, edits=measured)
    return np.mean([basis.mean_see(run.see[basis.site].before) for run in runs])


# %%
print(f"{'':22s} {'SEE at 5 dB':>11s}   success, clean         success, 5 dB")
edits = {"no edit": {}} | {label: edit_of(parameters) for label, (parameters, _) in trained.items()}
for label, edit in edits.items():
    print(
        f"{label:22s} {mean_see(edit):11.1%}   {success(clean_test, edits=edit):22s} {success(noisy_test, edits=edit)}"
    )

# %% [markdown]
# Low SEE is easy to reach, and worth nothing by itself. The first loss pushes activations out of the basis whatever
# they say, and every answer goes with them. With the second term nearly all clean answers stay and SEE of noisy clips
# still falls below 2 %, but noisy answers get worse, not better: the edit learns to treat clips that look noisy
# differently, and nothing in the loss asks for the right answer to them. SEE follows how much noise there is as long
# as it is measured; once it is the goal, it no longer does. To train with it, put it beside the model's own task, as
# `configs/tune_tiny.yaml` does.
#
# Next: [many devices](https://github.com/seen-jax/seen-jax/blob/main/colab/many_devices.ipynb). Deeper: [how-to on SEE
# as a loss](https://github.com/seen-jax/seen-jax/blob/main/docs/howto.md#use-see-as-a-loss), and [fine-tuning with SEE
# in the loss](https://github.com/seen-jax/seen-jax/blob/main/docs/howto.md#fine-tune-it-with-see-in-the-loss).
