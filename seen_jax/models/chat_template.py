"""Chat templates: which one a folder's prompts follow, and how it is rendered.

A template is a program that came with somebody's folder. It runs in the sandbox that transformers uses, and within
limits: every value that it makes has a largest size, and all of its work together has a largest cost, counted in
characters. Costs are counted and not timed, so that a template is refused on every machine or on none.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import json
import re
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from seen_jax.errors import CheckpointError, SeenError
from seen_jax.models.folders import read_json

LARGEST = 1_000_000  # characters of a template, and of one value
WORK = 100_000_000  # characters, all values together
STEP = 500  # what every operation costs beside the size of its result
ITEM = 10  # what an element of a list or a mapping weighs
NUMBER = 100_000  # widths and counts that operations take
PRODUCT = 100_000_000  # size of a text times that of what an operation puts into it, again and again
MULTIPLYING = ("indent", "expandtabs", "tojson")  # operations that put a count of characters in many places
WIDTH = re.compile(r"%[^a-zA-Z%]*(\d{6,}|\*)|\{[^{}]*\d{6,}")  # of a format, large or computed
GROWING = (nodes.BinExpr, nodes.Concat, nodes.Call, nodes.Filter, nodes.List, nodes.Tuple, nodes.Dict, nodes.Slice)


class TooMuch(jinja2.TemplateError):
    """A template that asks for more than its limits."""


class _Budget:
    """What a rendering may still cost."""

    def __init__(self) -> None:
        self.left = WORK

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise TooMuch("it does more work than a chat template may")


_BUDGET: contextvars.ContextVar[_Budget] = contextvars.ContextVar("budget")


def _spend(cost: int) -> None:
    budget = _BUDGET.get(None)
    if budget is not None:  # none while a template is compiled
        budget.spend(cost)


def weight(value: Any) -> int:
    """The characters that a value holds, roughly, at all depths. TooMuch past the largest."""
    total, stack = 0, [value]
    while stack:
        x = stack.pop()
        total += ITEM
        if isinstance(x, (str, bytes)):
            total += len(x)
        elif isinstance(x, int):
            total += x.bit_length()
        elif isinstance(x, range):
            total += ITEM * len(x)
        elif isinstance(x, Mapping):
            stack += [*x.keys(), *x.values()]
        elif isinstance(x, (list, tuple, set, KeysView, ValuesView, ItemsView)):
            stack += x
        elif isinstance(x, Namespace):
            stack += x._Namespace__attrs.values()
        if total + ITEM * len(stack) > LARGEST:
            raise TooMuch(f"it makes a value of more than {LARGEST:,} characters")
    return total


def _check_arguments(*arguments: Any) -> None:
    """Refuse counts that make large values of small ones, as `'x'.ljust(10**9)` does."""
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > NUMBER:
            raise TooMuch(f"it computes with a width or a count of {argument:,}")
    _spend(STEP + sum(map(weight, arguments)))


def _check_operation(name: str, *arguments: Any) -> None:
    """Refuse what could make a text too large before it is made: `'x'.join(...)`, `text | replace(a, b)`."""
    _check_arguments(*arguments)
    counts = [abs(x) for x in arguments if isinstance(x, int)] if name in MULTIPLYING else []
    factor = max([weight(x) for x in arguments[1:]] + counts, default=1)
    if arguments and weight(arguments[0]) * factor > PRODUCT:
        raise TooMuch(f"'{name}' could make a value of more than {LARGEST:,} characters")
    if name in ("format", "format_map", "%") and WIDTH.search(str(arguments[0])):
        raise TooMuch("it formats with a width that is large or computed")


@jinja2.pass_context
def _limited(context: Any, value: Any) -> Any:
    """The value, if it is not too large. It is a filter of the context, so that it never runs at compile time."""
    _spend(STEP + weight(value))
    return value


@jinja2.pass_context
def _counted(context: Any, items: Any) -> Iterator[Any]:
    """The items of a loop."""
    for item in items:
        _spend(STEP)
        yield item


class _Guard:
    """Puts the limits into a parsed template: around every value that may be large, every loop and every output."""

    def visit(self, node: nodes.Node) -> nodes.Node:
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(x) if isinstance(x, nodes.Node) else x for x in value])
        if isinstance(node, nodes.For):
            node.iter = _filtered(node.iter, "seen_counted")
        if isinstance(node, (nodes.Output, nodes.Concat)):
            node.nodes = [_filtered(_plain(child), "seen_limited") for child in node.nodes]
        stored = getattr(node, "ctx", "load") != "load"
        if isinstance(node, GROWING) and not stored and not isinstance(node, nodes.Slice):
            return _filtered(node, "seen_limited")
        return node


def _plain(node: Any) -> Any:
    """Text between tags as a constant."""
    return nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generator(CodeGenerator):
    """Compiles a template with its limits."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        super().visit_Template(_Guard().visit(node), frame)  # type: ignore[arg-type]


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012, as the base class has it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox of transformers' chat templates, with limits."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise TooMuch(f"it computes a power of {right:,}")
        if operator == "*":
            for many, count in ((left, right), (right, left)):
                sized = isinstance(count, int) and not isinstance(many, (int, float))
                if sized and count * (len(many) if isinstance(many, (str, bytes)) else weight(many)) > LARGEST:
                    raise TooMuch(f"it repeats a value {count:,} times")
        if operator == "%" and isinstance(left, str):
            _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps `format`
        target = getattr(method, "__self__", None)
        if isinstance(target, (str, bytes)):
            _check_operation(method.__name__, target, *args, *kwargs.values())
        else:
            _check_arguments(*args, *kwargs.values())
        return super().call(__context, __obj, *args, **kwargs)


def _checked(name: str, function: Any) -> Any:
    """A filter that looks at its arguments before it begins, and gives no iterator, whose size nobody knows."""

    @functools.wraps(function)  # keeps what the filter wants to be passed
    def run(*args: Any, **kwargs: Any) -> Any:
        passed = args[1:] if hasattr(function, "jinja_pass_arg") else args
        _check_operation(name, *passed, *kwargs.values())
        result = function(*args, **kwargs)
        return list(_counted(None, result)) if isinstance(result, Iterator) else result

    return run


def _fail(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: Any = False):
    """Without escapes for HTML, as transformers has it."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    if len(template) > LARGEST:
        raise TooMuch(f"it is longer than {LARGEST:,} characters")
    extensions = [_Generation, "jinja2.ext.loopcontrols"]
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    filters = {**environment.filters, "tojson": _tojson}
    environment.filters = {name: _checked(name, function) for name, function in filters.items()}
    environment.filters |= {"seen_limited": _limited, "seen_counted": _counted}
    del environment.globals["lipsum"]
    now = lambda form: datetime.datetime.now().strftime(form)
    environment.globals |= {"raise_exception": _fail, "strftime_now": now, "dict": lambda *a, **k: dict(*a, **k)}
    return environment.from_string(template)


def _plain_data(value: Any) -> Any:
    """What a template may see of a chat: an array or another object has methods that could do harm."""
    if isinstance(value, Mapping):
        return {str(key): _plain_data(x) for key, x in value.items() if x is not None}
    if isinstance(value, (list, tuple)):
        return [_plain_data(x) for x in value]
    return value if type(value) in (str, int, float, bool) else f"<{type(value).__name__}>"


def render(template: str, messages: Sequence[Any], special: Mapping[str, str], where: str) -> str:
    """The text of a chat up to the answer.

    Args:
        template: Jinja.
        messages: in the Hugging Face form.
        special: texts of special tokens, such as {"bos_token": "<s>"}.
        where: what the template is, for messages.

    Raises CheckpointError for a template that is no Jinja, fails on this chat, or asks for more than its limits.
    """
    token = _BUDGET.set(_Budget())
    try:
        given = {**special, "messages": _plain_data(messages), "add_generation_prompt": True}
        return _compiled(template).render(**given, tools=None, documents=None)
    except SeenError:
        raise
    except Exception as e:
        problem = "asks for too much" if isinstance(e, TooMuch) else "fails on this chat"
        reason = str(e) or type(e).__name__
        raise CheckpointError(f"{where} {problem}: {reason.splitlines()[0].rstrip('.')}.") from None
    finally:
        _BUDGET.reset(token)


class Template(str):
    """A chat template, and the file that it was read from."""

    file: Path

    def __new__(cls, text: str, file: Path) -> Template:
        template = super().__new__(cls, text)
        template.file = file
        return template


def processor_template(folder: Path) -> Template | None:
    """The template of a folder's processor: `chat_template` of processor_config.json or of the older
    chat_template.json, or chat_template.jinja, in the order in which transformers looks. None without any.
    CheckpointError for a file that cannot be read."""
    for name, needed in (("processor_config.json", False), ("chat_template.json", True)):
        path = folder / name
        if not path.is_file():
            continue
        text = read_json(path, "chat template").get("chat_template")
        text = text.get("default") if isinstance(text, Mapping) else text
        if isinstance(text, str):
            return Template(text, path)
        if needed or text is not None:
            raise CheckpointError(f"{path}: chat_template must be a text, not {type(text).__name__}.")
    path = folder / "chat_template.jinja"
    try:
        return Template(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise CheckpointError(f"{path} cannot be read ({e}).") from None
