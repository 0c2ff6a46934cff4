"""The programs that a model runs, by the shapes of their inputs alone, ready to be compiled for machines that are not
there: what calibration, scoring, answering, the four answers of an evaluation and a step of training compile."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from seen_jax.audio.features import HOP
from seen_jax.errors import ConfigError
from seen_jax.models.checkpoint import abstract_params
from seen_jax.models.config import LalmConfig
from seen_jax.models.devices import Device
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, answer_batch
from seen_jax.models.generate_edits import Shared, answer_variants
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.memory import ENCODER, RANK, Shapes, Work, shapes
from seen_jax.models.model import encode
from seen_jax.models.sharding import DATA, TENSOR, parameter_sharding, spec
from seen_jax.models.sites import ENCODER_MLP_ACT, Taps
from seen_jax.registry import FAMILIES
from seen_jax.train.config import TrainConfig
from seen_jax.train.steps import SILENCE, Examples, State, make_step, optimizer
from seen_jax.train.tasks import MAX_SAMPLES, audible_words

EDITS = 4  # of the program `four answers`
Lowered = Callable[[], Any]


class Target(NamedTuple):
    """A model on the chips of a machine. mesh: of all chips, of one row and one column for a single chip."""

    lalm: Lalm
    mesh: Any
    shape: Shapes
    new: int


def target(config: LalmConfig, work: Work, machine: Device) -> Target:
    """The chips of a machine that its compiler alone knows. ConfigError where libtpu is not installed."""
    cores = {"chip_config_name": machine.cores} if machine.cores else {}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=machine.topology, **cores)
    except Exception as e:
        raise ConfigError(f'no TPU compiler ({type(e).__name__}): pip install "seen-jax[tpu]" brings it.') from e
    chips: Any = np.array(topology.devices[: work.data * work.tensor]).reshape(work.data, work.tensor)
    mesh = Mesh(chips, (DATA, TENSOR), axis_types=(AxisType.Auto,) * 2)
    alone = work.data * work.tensor == 1
    lalm = Lalm(config, dtype=jnp.dtype(work.dtype), mesh=None if alone else mesh, weights=work.weights)
    return Target(lalm, mesh, shapes(config, work), work.new)


def whole(mesh: Any, x: Any) -> Any:
    """The shape of an array that all chips hold."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec(mesh, x.shape, ())))


def variables(to: Target, part: str = "") -> Any:
    """The shapes of the weights, or of a part of them, where they lie."""
    made = unflatten_dict(abstract_params(to.lalm.clone(mesh=None)))

    def place(path: Any, leaf: Any) -> Any:
        sharding = parameter_sharding(to.mesh, [key.key for key in path], leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed = jax.tree_util.tree_map_with_path(place, made)
    return {"params": {part: placed[part]} if part else placed}


def batch(to: Target) -> Batch:
    """The shapes of a batch, split over the chips by its rows."""
    framing, shape = FAMILIES[to.lalm.config.family].framing, to.shape

    def split(*sizes: int, kind: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(sizes, kind, sharding=NamedSharding(to.mesh, spec(to.mesh, sizes, ("batch",))))

    tokens, rows = (shape.prompts, shape.tokens), shape.rows
    features = split(rows, shape.frames, to.lalm.config.encoder.n_mels, kind=jnp.float32)
    visible = split(rows) if framing.filled or framing.behind else None
    attended = split(rows) if framing.keys != "frames" else None
    return Batch(split(*tokens), split(shape.prompts), features, split(rows), split(*tokens), visible, attended)


def edit(to: Target, count: int = 0, changes: bool = True) -> dict[str, Edit]:
    """SEEN in every layer, or what only measures SEE. count: so many edits on a leading axis."""
    depth, width = to.lalm.config.site_shape(ENCODER_MLP_ACT)
    lead = (count,) if count else ()
    shape = lambda *sizes: whole(to.mesh, jax.ShapeDtypeStruct((*lead, *sizes), jnp.float32))
    return {ENCODER_MLP_ACT: Edit(shape(depth, width, RANK), shape(depth) if changes else None)}


def of_encoder(to: Target) -> dict[str, Lowered]:
    """What needs no language model."""
    params, inputs = variables(to, ENCODER), batch(to).audio
    lower = lambda lalm, edits: lambda: encode.lower(lalm, params, inputs, edits)
    tapped = to.lalm.clone(taps=Taps((ENCODER_MLP_ACT,)))
    programs = {"encode": lower(to.lalm, {}), "calibrate": lower(tapped, {})}
    return programs | {"score": lower(to.lalm, edit(to, changes=False)), "encode with SEEN": lower(to.lalm, edit(to))}


def of_answers(to: Target) -> dict[str, Lowered]:
    """Answers with SEEN, and answers under four edits of the last third of the encoder."""
    params, inputs, config = variables(to), batch(to), to.lalm.config
    decoding = Decoding(to.new).static(config)
    first = 2 * config.encoder.layers // 3
    shared = Shared(((ENCODER_MLP_ACT, Edit(0, 0)),), EDITS, first, None)
    one = lambda: answer_batch.lower(to.lalm, params, inputs, edit(to), None, decoding)
    four = lambda: answer_variants.lower(to.lalm, params, inputs, edit(to, EDITS), decoding, shared)
    return {"generate": one, "four answers": four}


def of_training(to: Target) -> dict[str, Lowered]:
    """A step of the trainer's last stage, on one chip."""
    config, train = to.lalm.config, TrainConfig()
    rows, samples = train.noise.batch, MAX_SAMPLES + SILENCE
    lalm = to.lalm.clone(dtype=jnp.dtype(train.noise.dtype))
    words, audio = len(audible_words()) + 1, int(config.encoder.token_count(-(-MAX_SAMPLES // HOP)))
    length, positions = -(-(audio + 64) // 16) * 16, int(config.encoder.token_count(config.encoder.pad_frames))
    params = {"lalm": variables(to._replace(lalm=lalm))["params"]}
    params["head"] = {"kernel": jnp.zeros((config.encoder.width, words)), "bias": jnp.zeros(words)}
    state = State(params, jax.eval_shape(optimizer(train, "noise").init, params), jnp.int32(0), jnp.zeros(0))
    shape = lambda *sizes, kind=jnp.int32: jax.ShapeDtypeStruct((rows, *sizes), kind)
    texts = shape(length), shape(), shape(length), shape(length, kind=jnp.bool_), shape(positions), shape(length)
    examples = Examples(shape(samples, kind=jnp.float32), shape(), *texts)
    placed = jax.tree.map(lambda x: whole(to.mesh, x), (state, examples))
    return {"training step": lambda: make_step(train, "noise", lalm, 0).lower(*placed)}
