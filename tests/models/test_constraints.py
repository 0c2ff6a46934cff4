"""What generation_config.json asks of answers: read, refused, applied, and without any cost where it asks nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_omni import pack, random_edit, random_row

from seen_jax.errors import CheckpointError
from seen_jax.models.checkpoint import read_config
from seen_jax.models.constraints import Constraints, Sampling
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.load import load
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT

NEW = 24


@pytest.fixture(scope="module")
def batch(model):
    c = model.config
    return pack([random_row([f], c.encoder.n_mels, c.decoder.vocab, 10 + i) for i, f in enumerate((33, 60, 7))], c)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def settings(folder: Path, **values) -> None:
    (folder / "generation_config.json").write_text(json.dumps(values))


def answers(model, batch, lalm=None, **constraints) -> np.ndarray:
    decoding = Decoding(NEW, constraints=Constraints(**constraints))
    return np.asarray(generate(lalm or model.lalm, model.variables, batch, decoding=decoding).tokens)


def test_a_folders_settings_are_those_of_its_answers(copy, batch):
    plain = generate(load(copy).lalm, load(copy).variables, batch, decoding=Decoding(NEW)).tokens
    settings(copy, repetition_penalty=1.5, no_repeat_ngram_size=2, suppress_tokens=[7, 9], eos_token_id=2, top_k=50)
    model = load(copy)
    assert model.config.constraints == Constraints(1.5, 2, 0, (7, 9))
    own = generate(model.lalm, model.variables, batch, decoding=Decoding(NEW)).tokens
    chosen = answers(model, batch, repetition_penalty=1.5, no_repeat_ngram_size=2, suppress_tokens=(7, 9))
    assert own.tolist() == chosen.tolist() != plain.tolist()
    off = generate(model.lalm, model.variables, batch, decoding=Decoding(NEW, constraints=Constraints())).tokens
    assert off.tolist() == plain.tolist()


def test_config_json_is_asked_where_there_is_no_generation_config(copy):
    (copy / "generation_config.json").unlink(missing_ok=True)
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.25, "do_sample": False}))
    assert read_config(copy)[0].constraints == Constraints(1.25)


def test_sampling_is_the_folders_only_if_asked_for(copy):
    assert load(copy).decoding(5) == Decoding(5)
    settings(copy, do_sample=True, temperature=0.7, top_p=0.8, eos_token_id=2)
    model = load(copy)
    assert model.config.sampling == Sampling(0.7, 50, 0.8) and Decoding().temperature == 0
    assert model.decoding(5) == Decoding(5, temperature=0.7, top_k=50, top_p=0.8)


def test_what_is_not_supported_is_named_once(copy):
    settings(copy, num_beams=4, bad_words_ids=[[3]], length_penalty=2.0, min_p=0.1, eos_token_id=2, num_beam_groups=1)
    named = re.escape("generation_config.json asks for num_beams = 4, bad_words_ids = [[3]], which is not supported")
    with pytest.warns(UserWarning, match=named) as caught:
        load(copy)
    assert len(caught) == 1
    settings(copy, do_sample=True, min_p=0.1, eos_token_id=2)
    with pytest.warns(UserWarning, match="asks for min_p = 0.1, which"):
        load(copy)
    settings(copy, num_beams=1, do_sample=False, typical_p=0.9, bad_words_ids=None, max_new_tokens=9, eos_token_id=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(copy)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"repetition_penalty": 0}, "repetition_penalty must be a positive number, not 0"),
     ({"repetition_penalty": -1.0}, "repetition_penalty must be a positive number, not -1"),
     ({"repetition_penalty": True}, "repetition_penalty must be a number, not True"),
     ({"no_repeat_ngram_size": -1}, r"no_repeat_ngram_size must be 0 \(off\) or more, not -1"),
     ({"min_new_tokens": 1.5}, "min_new_tokens must be a whole number, not 1.5"),
     ({"do_sample": True, "top_k": "many"}, "top_k must be a whole number, not 'many'"),
     ({"suppress_tokens": "all"}, "suppress_tokens must be a list of token ids, not 'all'"),
     ({"begin_suppress_tokens": [None]}, "begin_suppress_tokens must be a list of token ids")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(copy, setting, message):
    settings(copy, eos_token_id=2, **setting)
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {message}"):
        read_config(copy)


def test_each_constraint_holds(model, batch):
    plain = answers(model, batch)
    for size in (1, 2, 3):
        prompts = [row[:n].tolist() for row, n in zip(np.asarray(batch.tokens), np.asarray(batch.lengths), strict=True)]
        for prompt, new in zip(prompts, answers(model, batch, no_repeat_ngram_size=size).tolist(), strict=True):
            grams = [tuple((prompt + new)[i : i + size]) for i in range(len(prompt + new) - size + 1)]
            fresh = grams[len(prompt) - size + 1 :]
            assert len(set(fresh)) == len(fresh) and not set(fresh) & set(grams[: len(prompt) - size + 1])
    first, common = int(plain[0, 0]), int(np.bincount(plain.ravel()).argmax())
    assert common not in answers(model, batch, suppress_tokens=(common, 10**6, -1))
    begun = answers(model, batch, begin_suppress_tokens=(first,))
    assert begun[0, 0] != first and begun[1:].tolist() == plain[1:].tolist()
    lalm = model.lalm.clone(
        config=dataclasses.replace(model.config, stop_tokens=tuple(set(plain[:, :3].ravel().tolist())))
    )
    lengths = lambda least: (
        generate(
            lalm, model.variables, batch, decoding=Decoding(NEW, constraints=Constraints(min_new_tokens=least))
        ).lengths
    )
    assert max(lengths(0)) == 0 and min(lengths(5)) >= 5


def test_the_penalty_may_leave_out_the_prompt(model, batch):
    """Of a prompt that nobody counts, the first token is the plain one."""
    plain, whole = answers(model, batch), answers(model, batch, repetition_penalty=50.0)
    part = answers(model, batch, repetition_penalty=50.0, of_prompt=False)
    assert part[:, 0].tolist() == plain[:, 0].tolist() and part.tolist() != whole.tolist()
    assert all(len(set(row)) == NEW for row in part.tolist())


def test_variants_in_one_call_keep_to_the_constraints(model, batch):
    edits = [
        {site: random_edit(model.config, site, strength=s)}
        for site in (ENCODER_MLP_ACT, DECODER_RESID)
        for s in (0.3, 0.9)
    ]
    decoding = Decoding(NEW, constraints=Constraints(1.3, 2, 3, (5,), (6,)))
    together = generate_edits(model.lalm, model.variables, batch, edits, decoding)
    for edit, out in zip(edits, together, strict=True):
        alone = generate(model.lalm, model.variables, batch, edit, decoding)
        assert out.tokens.tolist() == alone.tokens.tolist()


def test_rows_do_not_depend_on_their_batch(model, batch):
    c = model.config
    decoding = Decoding(NEW, constraints=Constraints(1.3, 2))
    out = generate(model.lalm, model.variables, batch, decoding=decoding).tokens
    alone = pack([random_row([60], c.encoder.n_mels, c.decoder.vocab, 11)], c)
    assert generate(model.lalm, model.variables, alone, decoding=decoding).tokens[0].tolist() == out[1].tolist()


def test_draws_keep_to_the_constraints(model, batch):
    keys = jax.random.split(jax.random.key(0), 3)
    decoding = Decoding(NEW, temperature=1.0, constraints=Constraints(no_repeat_ngram_size=1))
    tokens = np.asarray(generate(model.lalm, model.variables, batch, None, decoding, keys).tokens)
    assert all(len(set(row)) == NEW for row in tokens.tolist())


def test_an_answer_says_whether_it_was_cut(model, batch):
    out = generate(model.lalm, model.variables, batch, decoding=Decoding(NEW))
    assert out.finished.tolist() == [False] * 3 and out.lengths.tolist() == [NEW] * 3
    row = out.tokens[0].tolist()
    last = next(i for i in range(NEW - 1, 0, -1) if row[i] not in row[:i])
    lalm = model.lalm.clone(config=dataclasses.replace(model.config, stop_tokens=(row[last],)))
    for new, finished in ((last, False), (last + 1, True)):  # a stop token at the last place is an end
        again = generate(lalm, model.variables, batch, decoding=Decoding(new))
        assert int(again.lengths[0]) == last and bool(again.finished[0]) == finished
