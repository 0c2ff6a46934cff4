"""Generation against a plain loop over the forward pass; stopping, sampling and what may not influence an answer."""

from __future__ import annotations

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import Row, pack, random_edit, random_row

from seen_jax.errors import ConfigError
from seen_jax.models.generate import Decoding, generate, sample
from seen_jax.models.model import forward
from seen_jax.models.sites import SITES

NEW = 10


@pytest.fixture(scope="module")
def rows(model):
    vocab = model.config.decoder.vocab
    return [random_row([f], model.config.encoder.n_mels, vocab, 10 + i) for i, f in enumerate((33, 60, 7))]


@pytest.fixture(scope="module")
def batch(model, rows):
    return pack(rows, model.config)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(7), 3)


@pytest.fixture(scope="module")
def greedy(model, batch):
    return generate(model.lalm, model.variables, batch, decoding=Decoding(NEW))


def test_no_class_is_made_after_load(model, rows, monkeypatch):
    """Flax changes base classes while it makes one: two batches that are traced at once would break each other."""
    monkeypatch.setattr(nn, "scan", lambda *_, **__: pytest.fail("a class is made"))
    generate(model.lalm, model.variables, pack(rows[:1], model.config, 3), decoding=Decoding(2))


def test_greedy_equals_a_loop_over_full_passes(model, rows, batch):
    """With edits at every site and position, over prompts of different lengths."""
    edits = {site: random_edit(model.config, site, strength=0.7) for site in SITES}
    edits = {site: edit.replace(text=jnp.ones_like(edit.scale)) for site, edit in edits.items()}
    out = generate(model.lalm, model.variables, batch, edits, Decoding(NEW))
    texts: list[list[int]] = [[] for _ in rows]
    for step in range(NEW):
        grown = [Row(row.ids, row.features, text) for row, text in zip(rows, texts, strict=True)]
        logits = forward(model.lalm, model.variables, pack(grown, model.config, NEW - step), edits).logits
        for b, row in enumerate(rows):
            last = logits[b, len(row.ids) + step - 1]
            if step == 0:
                np.testing.assert_allclose(out.logits[b], last, atol=1e-5)
            texts[b].append(int(last.argmax()))
    stops = set(model.config.stop_tokens)
    assert not stops & {token for text in texts for token in text}, "choose another seed: an answer ends early"
    assert out.tokens.tolist() == texts
    assert out.lengths.tolist() == [NEW] * len(rows)


def test_stop_tokens_end_an_answer_and_pad_the_rest(model, batch, greedy):
    """One row stops in the middle, one at its first token; what comes before the stop is unchanged."""
    texts = greedy.tokens.tolist()
    stops = (texts[0][4], texts[1][0])
    assert model.config.pad_token not in {token for text in texts for token in text}
    lalm = model.lalm.clone(config=dataclasses.replace(model.config, stop_tokens=stops))
    out = generate(lalm, model.variables, batch, decoding=Decoding(NEW))
    for b, text in enumerate(texts):
        length = next((i for i, token in enumerate(text) if token in stops), NEW)
        assert int(out.lengths[b]) == length
        assert out.tokens[b].tolist() == text[:length] + [model.config.pad_token] * (NEW - length)
    assert int(out.lengths[1]) == 0 and 0 < int(out.lengths[0]) <= 4

    every = dataclasses.replace(model.config, stop_tokens=tuple(text[0] for text in texts))
    out = generate(model.lalm.clone(config=every), model.variables, batch, decoding=Decoding(NEW))
    assert out.lengths.tolist() == [0, 0, 0]
    assert (np.asarray(out.tokens) == model.config.pad_token).all()


def test_one_new_token(model, batch, greedy):
    out = generate(model.lalm, model.variables, batch, decoding=Decoding(1))
    assert out.tokens.tolist() == greedy.tokens[:, :1].tolist()
    assert out.lengths.tolist() == [1] * 3


def test_a_sampled_answer_belongs_to_its_key_and_prompt(model, rows, batch, keys, greedy):
    """Neither batch size nor order matters; another key gives another answer."""
    hot = Decoding(NEW, temperature=1.0)
    run = lambda some, keys: generate(model.lalm, model.variables, some, None, hot, keys).tokens.tolist()
    texts = run(batch, keys)
    assert run(batch, keys) == texts
    order = [2, 0, 1]
    moved = pack([rows[i] for i in order], model.config)
    assert run(moved, keys[jnp.asarray(order)]) == [texts[i] for i in order]
    assert run(pack([rows[1]], model.config), keys[1:2]) == [texts[1]]
    others = run(batch, jax.random.split(jax.random.key(8), 3))
    assert all(a != b for a, b in zip(texts, others, strict=True))
    assert all(a != b for a, b in zip(texts, greedy.tokens.tolist(), strict=True))


@pytest.mark.parametrize("setting", [{"temperature": 1e-4}, {"top_p": 1e-6}, {"top_k": 1}])
def test_sampling_tends_to_greedy(model, batch, keys, greedy, setting):
    out = generate(model.lalm, model.variables, batch, None, Decoding(NEW, **{"temperature": 1.0} | setting), keys)
    assert out.tokens.tolist() == greedy.tokens.tolist()
    assert out.lengths.tolist() == greedy.lengths.tolist()


def test_temperature_and_top_p_never_recompile(model, batch, keys, monkeypatch):
    run = lambda **setting: generate(model.lalm, model.variables, batch, None, Decoding(NEW, **setting), keys)
    run(temperature=1.0)
    monkeypatch.setattr("seen_jax.models.generate.sample", chex.assert_max_traces(sample, n=0))
    run(temperature=0.5)
    run(temperature=2.0, top_p=0.3)
    with pytest.raises(AssertionError, match="traced"):
        run(temperature=1.0, top_k=4)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "kept"),
    [(1.0, 1.0, 0, 6), (2.0, 1.0, 0, 6), (1.0, 1.0, 3, 3), (1.0, 0.6, 0, 2), (1.0, 0.5, 0, 1), (0.5, 0.95, 4, 3),
     (1.0, 1.0, 99, 6)],
)  # fmt: skip
def test_draws_follow_the_cut_distribution(temperature, top_p, top_k, kept):
    """4,000 draws per setting; the nucleus keeps the token that crosses top_p."""
    probabilities = np.array([0.03, 0.5, 0.05, 0.2, 0.12, 0.1])
    tempered = probabilities ** (1 / temperature)
    order = np.argsort(-tempered)
    expected = np.zeros(6)
    expected[order[:kept]] = tempered[order[:kept]]
    expected /= expected.sum()
    keys = jax.random.split(jax.random.key(3), 4000)
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probabilities, jnp.float32)) + 2, (4000, 6))
    drawn = sample(logits, keys, jnp.float32(temperature), jnp.float32(top_p), top_k)
    shares = np.bincount(np.asarray(drawn), minlength=6) / 4000
    assert set(np.flatnonzero(shares)) == set(order[:kept])
    np.testing.assert_allclose(shares, expected, atol=0.03)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
     ({"temperature": -0.1}, "temperature must be 0"),
     ({"temperature": float("nan")}, "temperature must be 0"),
     ({"top_p": 0.0}, r"top_p must be in \(0, 1\], not 0.0"),
     ({"top_p": 1.1}, "top_p must be in"),
     ({"top_k": -1}, "top_k must be 0")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**setting)


def test_sampling_needs_one_key_per_row(model, batch, keys):
    hot = Decoding(NEW, temperature=1.0)
    for wrong in (None, keys[:2], keys[0]):
        with pytest.raises(ConfigError, match="one random key per row"):
            generate(model.lalm, model.variables, batch, None, hot, wrong)


def with_nan_embedding(model, token):
    """The model's variables, in which one token has no embedding."""
    table = model.variables["params"]["decoder"]["embed"]["embedding"].at[token].set(jnp.nan)
    decoder = {**model.variables["params"]["decoder"], "embed": {"embedding": table}}
    return {"params": {**model.variables["params"], "decoder": decoder}}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_of_logits_that_are_not_finite_are_marked(model, batch, keys, temperature):
    decoding = Decoding(NEW, temperature)
    whole = generate(model.lalm, model.variables, batch, None, decoding, keys)
    assert whole.finite.tolist() == [True] * 3
    token = int(whole.tokens[0, 3])
    out = generate(model.lalm, with_nan_embedding(model, token), batch, None, decoding, keys)
    meets = [token in row for row in whole.tokens[:, :-1].tolist()]
    assert out.finite.tolist() == [not met for met in meets] and 0 < sum(meets) < 3
    for b in np.flatnonzero(out.finite):
        assert out.tokens[b].tolist() == whole.tokens[b].tolist()

    # What comes behind the end of an answer does not count.
    lalm = model.lalm.clone(config=dataclasses.replace(model.config, stop_tokens=(token,)))
    assert generate(lalm, with_nan_embedding(model, token), batch, None, decoding, keys).finite.all()


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_the_first_logits_count_too(model, batch, value):
    head = model.variables["params"]["decoder"]["lm_head"]["kernel"]
    decoder = {**model.variables["params"]["decoder"], "lm_head": {"kernel": jnp.full_like(head, value)}}
    variables = {"params": {**model.variables["params"], "decoder": decoder}}
    assert not generate(model.lalm, variables, batch, decoding=Decoding(1)).finite.any()


@pytest.mark.parametrize("top_p", [0.2, 0.35, 0.5, 0.75, 0.8])
def test_ties_at_the_edge_of_the_nucleus_are_cut_as_in_transformers(top_p):
    torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")
    from transformers import TopPLogitsWarper

    logits = np.log(np.array([0.05, 0.2, 0.2, 0.1, 0.2, 0.05, 0.2], np.float32))
    expected = np.flatnonzero(np.isfinite(TopPLogitsWarper(top_p)(None, torch.tensor(logits[None]))[0].numpy()))
    keys = jax.random.split(jax.random.key(3), 2000)
    drawn = sample(jnp.broadcast_to(logits, (2000, 7)), keys, jnp.float32(1), jnp.float32(top_p), 0)
    assert sorted(set(np.asarray(drawn).tolist())) == expected.tolist()


@pytest.mark.parametrize("temperature", [1e-38, 9e-7])
def test_a_temperature_below_a_millionth_is_greedy(model, batch, greedy, temperature):
    out = generate(model.lalm, model.variables, batch, None, Decoding(NEW, temperature))
    assert out.tokens.tolist() == greedy.tokens.tolist()
