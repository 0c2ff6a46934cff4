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
# # The same answers on many devices
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/many_devices.ipynb)
#
# You will split a model over a mesh of eight devices and get the answers and SEE of one device. The eight devices are
# virtual: one CPU that acts as eight, so nothing gets faster here, but the program is the one that runs on eight GPUs
# or TPU cores. Any runtime will do; it takes about a minute.
#
# The number of virtual devices has to be set before JAX starts, so this cell comes first. If you ran another cell
# before, restart the session.

# %%
import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"  # leave this line and the one above out where you have several devices

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
import matplotlib.pyplot as plt
import numpy as np

from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.models.sharding import make_mesh

NAME = "seen-tiny"  # on devices of your own: "Qwen/Qwen2.5-Omni-7B"
print(jax.device_count(), "devices")

# %% [markdown]
# ## One device
#
# A basis, SEE and answers as in the quickstart. Everything after this is compared with it.

# %%
items = load_clips("demo")[::4]
prompts = [item.prompt for item in items]
noises = [noise_for_clip("engine", len(item.wave), seed=i) for i, item in enumerate(items)]
noisy = [mix_at_snr(item.wave, noise, 5).audio for item, noise in zip(items, noises)]
clean = [item.wave for item in load_clips("calibration")[:16]]
calibration_noise = [noise_for_clip("engine", len(wave), seed=100 + i) for i, wave in enumerate(clean)]

model = seen_jax.load(NAME)
calibration = seen_jax.calibrate(model, clean, calibration_noise)
basis = calibration.select(seen_jax.Selection(method="complement", layers="all"))
alone = seen_jax.generate(model, noisy, prompts, basis=basis)
for item, answer in list(zip(items, alone))[:4]:
    print(f"{item.task:14s} {answer.text!r}  SEE {answer.see:.3f}")

# %% [markdown]
# ## A mesh of data x tensor
#
# `data` devices share the rows of a batch: each answers its own clips with all the weights. `tensor` devices share the
# weights: each holds some heads and some MLP channels of every layer, and they exchange activations within a layer.
# `load` takes the mesh; every other call is as before.

# %%
sharded = seen_jax.load(NAME, mesh=make_mesh(data=2, tensor=4))
print(sharded.lalm.mesh)
answers = seen_jax.generate(sharded, noisy, prompts, basis=basis)
same = sum(a.text == b.text for a, b in zip(answers, alone))
furthest = max(abs(a.see - b.see) for a, b in zip(answers, alone))
close = "less than" if furthest < 1e-5 else "more than"
print(f"{same} of {len(alone)} answers are the same; SEE differs by {close} 1e-5")

# %% [markdown]
# Sums are taken in another order on a mesh, so SEE differs in its last digits. The basis was calibrated on one device
# and is used on all of them: a basis belongs to weights, not to devices.
#
# ## Where the weights are
#
# The picture shows one MLP matrix of the encoder on the mesh 2 x 4: its columns are split over four devices, and the
# two rows of the mesh hold the same parts. Devices of one colour hold the same columns.

# %%
kernel = sharded.variables["params"]["encoder"]["layers"]["fc1"]["kernel"]  # [layers, width, MLP channels]
owner = np.zeros((8, kernel.shape[-1]))
for shard in kernel.addressable_shards:
    columns = shard.index[-1]
    owner[shard.device.id, columns] = 1 + (columns.start or 0) // shard.data.shape[-1]
plt.figure(figsize=(7, 2.8))
plt.imshow(np.ma.masked_equal(owner, 0), aspect="auto", interpolation="nearest", cmap="viridis")
plt.xlabel("MLP channel of the encoder")
plt.ylabel("device")
plt.yticks(range(8))
plt.title("columns of encoder/layers/fc1 that each device holds")
plt.show()

# %% [markdown]
# ## Memory per device


# %%
def megabytes(model):
    """The parameters' bytes on every device that holds some."""
    total = {}
    for leaf in jax.tree.leaves(model.variables):
        for shard in leaf.addressable_shards:
            total[shard.device.id] = total.get(shard.device.id, 0) + shard.data.nbytes / 1e6
    return total


rows_alone = seen_jax.load(NAME, mesh=make_mesh(data=8))
models = {"1 device": model, "8 x 1": rows_alone, "2 x 4": sharded}
for label, of_mesh in models.items():
    held = megabytes(of_mesh)
    print(f"{label:10s} {len(held)} devices, {max(held.values()):5.1f} MB of parameters on the fullest one")

# %% [markdown]
# Only `tensor` saves memory. With 2 x 4 each device holds more than a quarter, because norms, convolutions and biases,
# which are a large part of a model this small, are on every device. Of a 7B model they are next to nothing.
#
# ## On the command line
#
# ```bash
# seen-jax generate clips/ --model Qwen/Qwen2.5-Omni-7B --dtype bfloat16 --mesh.tensor 4          # 4 devices
# seen-jax score clips/ --basis cal --model Qwen/Qwen2.5-Omni-7B --mesh.data 2 --mesh.tensor 4    # 8 devices
# seen-jax score clips/ --basis cal --mesh.data -1 --batch-size 64                                # all there are
# ```
#
# In the file of an experiment: `mesh: {data: 2, tensor: 4}`. Use the smallest `tensor` into which the model fits, a
# divisor of its number of heads, and give the other devices to `data`.
#
# This was the last notebook of the tutorial. Deeper: [more than one device, several
# hosts](https://github.com/seen-jax/seen-jax/blob/main/docs/performance.md#more-than-one-device), and [what fits
# where](https://github.com/seen-jax/seen-jax/blob/main/docs/hardware.md).
