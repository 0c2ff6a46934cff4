"""Which chat template a folder's prompts follow, that it renders as transformers does, and that it cannot hang."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_omni import prompt_ids, wave
from transformers.utils.chat_template_utils import render_jinja_template

from seen_jax.errors import CheckpointError
from seen_jax.models.chat_template import render
from seen_jax.models.load import load
from seen_jax.models.processor import Request
from seen_jax.registry import FAMILIES

TEXT_ONLY = (  # as Qwen2-Audio's published tokenizer has it
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_PLACE = "{% for message in messages %}<|im_start|>{{ message['role'] }}<|im_end|>\n{% endfor %}"
MARKED = (
    "<|im_start|>red{% for m in messages %}{% for part in m.content if part.type == 'audio' %}<|AUDIO|>{% endfor %}"
    "{% endfor %}"
)
TURNS = (
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "which ?"}]},
    {"role": "assistant", "content": "a dog"},
    {"role": "user", "content": [{"type": "text", "text": "é <b>"}, {"type": "audio"}, {"type": "audio"}]},
)
LANGUAGE = """
{%- macro shown(parts) -%}{%- for part in parts -%}
{%- if part is mapping and 'text' in part -%}{{ part.text | trim | upper }}
{%- else -%}[{{ loop.index }}/{{ loop.length }}]{%- endif -%}
{%- if not loop.last -%}{{ ", " }}{%- endif -%}{%- endfor -%}{%- endmacro -%}
{%- set ns = namespace(turns=0, roles=[]) -%}
{% for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif -%}
    {%- set ns.turns = ns.turns + 1 -%}{%- set ns.roles = ns.roles + [message.role] -%}
    {{- "%s %d: " % (message.role, ns.turns) ~ bos_token -}}
    {%- if message.content is string -%}{% generation %}{{ message.content.replace("dog", "cat") }}{% endgeneration %}
    {%- else -%}{{ shown(message.content) }}
    {{- message.content | selectattr("type", "equalto", "text") | map(attribute="text") | join("|") }}
    {%- endif -%}
    {{- message | tojson }}{{ message.items() | list | length }}{{ "{:>4}".format(ns.turns) }}
{% endfor %}{{ ns.roles | unique | list }}
{{ dict(a=1).a }}{{ 7 // 2 * 2 ** 3 % 5 }}{{ 'x' * 3 }}{{ messages[-1].role }}{{ tools is none }}
"""


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    return copy


def of_tokenizer(folder: Path, template: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def ids_of(folder: Path) -> list[int]:
    return prompt_ids(load(folder), Request([wave(4000)], "which ?"))


@pytest.mark.parametrize("template", [TEXT_ONLY, NO_PLACE, "{% for %}", "{{ 'x' * 10**9 }}<|AUDIO|>"])
def test_a_tokenizers_template_that_is_not_for_audio_gives_way_to_the_familys(copy, template):
    expected = ids_of(copy)
    of_tokenizer(copy, template)
    assert ids_of(copy) == expected


def test_the_processors_template_goes_first_then_the_tokenizers(copy):
    of_family = ids_of(copy)
    of_tokenizer(copy, MARKED)
    marked = ids_of(copy)
    assert marked != of_family
    of_tokenizer(copy, TEXT_ONLY)
    for name, content in (
        ("chat_template.jinja", MARKED),
        ("chat_template.json", json.dumps({"chat_template": MARKED})),
        ("processor_config.json", json.dumps({"chat_template": MARKED})),
    ):
        (copy / name).write_text(content)
        assert ids_of(copy) == marked, name
        (copy / name).unlink()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chat_template.jinja", TEXT_ONLY, r"template of .*chat_template\.jinja fails on this chat: can only"),
        ("chat_template.json", json.dumps({"chat_template": NO_PLACE}), r"template\.json leaves no place for a clip"),
        ("chat_template.jinja", "{{ raise_exception('no audio here') }}", r"fails on this chat: no audio here\.$"),
        ("chat_template.jinja", "{{ 'x' * 10**7 }}", r"asks for too much: it repeats a value 10,000,000 times"),
        ("chat_template.json", "{}", r"chat_template\.json: chat_template must be a text, not NoneType\.$"),
        ("chat_template.json", "{", r"chat_template\.json cannot be read as JSON"),
        ("chat_template.jinja", b"\xff", r"chat_template\.jinja cannot be read"),
    ],
)  # fmt: skip
def test_a_processors_template_that_fails_is_named(copy, name, content, message):
    (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        ids_of(copy)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.chat_template])
def test_templates_render_as_in_transformers(name):
    family = FAMILIES[name]
    for count in (1, 2, 3):
        for turns in itertools.permutations(TURNS, count):
            for template in (family.chat_template, LANGUAGE):
                chat, special = family.flat(turns), {"bos_token": "<s>"}
                theirs = render_jinja_template(
                    [chat], chat_template=template, tools=None, add_generation_prompt=True, **special
                )
                assert render(template, chat, special, "it") == theirs[0][0]


def test_a_template_sees_plain_data_alone():
    """Methods of an array could write files."""
    chat = [{"role": "user", "content": [{"type": "audio", "audio": np.zeros(3), "rate": None}]}]
    shown = render("{{ messages[0].content[0].audio }} {{ 'rate' in messages[0].content[0] }}", chat, {}, "it")
    assert shown == "<ndarray> False"
    with pytest.raises(CheckpointError, match="'tofile'"):
        render("{{ messages[0].content[0].audio.tofile('x') }}", chat, {}, "it")


def chained(how: str) -> str:
    """Sixty values, of which each holds the one before twice."""
    return "{% set ns = namespace(s='x', l=['x']) %}{% for i in range(60) %}" + how + "{% endfor %}{{ ns.s }}{{ ns.l }}"


HOSTILE = {
    "repeated": "{{ 'x' * 10**7 }}",
    "a power": "{{ 9 ** 9999999 }}",
    "squared": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "nested loops": "{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for a in range(9**5) recursive %}{{ loop(range(9**5)) }}{% endfor %}",
    "recursive macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}",
    "joined": chained("{% set ns.s = ns.s ~ ns.s %}"),
    "added": chained("{% set ns.s = ns.s + ns.s %}"),
    "nested lists": chained("{% set ns.l = [ns.l, ns.l] %}"),
    "nested spaces": "{% set a = namespace() %}" + "".join(
        "{% set b = namespace() %}{% set b.x = a %}{% set b.y = a %}{% set a = b %}" for _ in range(60)) + "{{ a }}",
    "its own space": "{% set a = namespace() %}{% set a.x = a %}{{ a }}",
    "output": "{% for i in range(99999) %}" + "z" * 99999 + "{% endfor %}",
    "buffered": "{% set x %}{% for i in range(99999) %}" + "z" * 99999 + "{% endfor %}{% endset %}",
    "a method's width": "{{ 'x'.ljust(1000000000) }}",
    "a filter's width": "{{ 'x' | center(1000000000) }}",
    "a format's width": "{{ '%1000000000d' % 1 }}{{ '{:1000000000}'.format(1) }}",
    "a computed width": "{{ '%*d' % (1000000000, 1) }}",
    "a format again": "{{ ('{0}' * 9999).format('x' * 99999) }}",
    "a mapped format": "{{ ('%(a)s' * 9999) % {'a': 'x' * 99999} }}",
    "replaced": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "a method replaces": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "joined lazily": "{{ ('x' * 500000).join(range(99999) | map('string')) }}",
    "indented": "{{ ('x\n' * 99999) | indent(99999) }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(99999) }}",
    "wrapped": "{{ ('x ' * 99999) | wordwrap(1, wrapstring='y' * 9999) }}",
    "translated": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "long": "x" * 2_000_000,
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_soon_in_one_sentence(name):
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"^the template of x (asks for too much|fails on this chat): [^\n]+\.$"):
        render(HOSTILE[name], TURNS, {}, "the template of x")
    assert time.perf_counter() - start < 20  # 3 s at most on a free core


def test_a_long_chat_is_no_attack():
    chat = [{"role": role, "content": "word " * 2000} for _ in range(20) for role in ("user", "assistant")]
    assert render(FAMILIES["qwen2_audio"].chat_template, chat, {}, "it").count("word") == 80_000
