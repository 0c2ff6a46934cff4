"""What XLA's TPU compiler says of a program that it optimised: cycles, loops, copies and exchanges between chips."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NUMBERS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}  # bytes
EXCHANGES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.-]+))")


class Shape(NamedTuple):
    """One array, in memory on the chip's own (`near`) or in the large one."""

    kind: str
    sizes: tuple[int, ...]
    near: bool

    @property
    def bytes(self) -> float:
        return NUMBERS.get(self.kind, 4) * math.prod(self.sizes)


class Instruction(NamedTuple):
    name: str
    shapes: tuple[Shape, ...]  # of its results
    kind: str  # such as "fusion"
    rest: str  # operands and attributes

    @property
    def cycles(self) -> float:
        """The compiler's estimate; 0 where it states none."""
        stated = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return float(stated[1]) if stated else 0.0

    @property
    def trips(self) -> int | None:
        """How often a loop runs; None where the compiler does not know."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.rest)
        return int(known[1]) if known else None


Computations = dict[str, list[Instruction]]


class Step(NamedTuple):
    """An instruction with the loops around it, from the outside in, and how often each of them runs."""

    instruction: Instruction
    loops: tuple[tuple[str, int], ...]

    @property
    def times(self) -> int:
        return math.prod(trips for _, trips in self.loops)


def parse(text: str) -> tuple[Computations, str]:
    """(the instructions of every computation, the name of the one that is the program)."""
    computations: Computations = {}
    entry, current = "", list[Instruction]()
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[1], [])
            entry = head[1] if line.startswith("ENTRY") else entry
        elif name := _NAME.match(line):
            shape, kind, rest = _split(line[name.end() :])
            current.append(Instruction(name[1], arrays(shape), kind, rest))
    return computations, entry


def _split(text: str) -> tuple[str, str, str]:
    """`shape kind(rest` -> its three parts; the shape of a tuple stands in parentheses."""
    depth, end = 0, len(text)
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == " " and not depth:
            end = i
            break
    kind, _, rest = text[end + 1 :].partition("(")
    return text[:end], kind, rest


def arrays(text: str) -> tuple[Shape, ...]:
    """The arrays of a shape as HLO writes it.

    >>> arrays("(s32[], bf16[28,64]{1,0:T(8,128)(2,1)S(1)})")[1]
    Shape(kind='bf16', sizes=(28, 64), near=True)
    """
    sizes = lambda digits: tuple(map(int, digits.split(","))) if digits else ()
    return tuple(Shape(kind, sizes(digits), "S(" in layout) for kind, digits, layout in _ARRAY.findall(text))


def steps(text: str, unknown: int = 1) -> list[Step]:
    """Every instruction that runs, inside its loops. unknown: trips of loops that the compiler cannot count."""
    computations, entry = parse(text)

    def walk(name: str, loops: tuple[tuple[str, int], ...]) -> Iterator[Step]:
        for instruction in computations[name]:
            yield Step(instruction, loops)
            inner = loops
            if instruction.kind == "while":
                trips = unknown if instruction.trips is None else instruction.trips
                inner = (*loops, (instruction.name, trips))
            elif instruction.kind not in ("call", "conditional"):  # a fusion states the cycles of all that it holds
                continue
            for called in _called(instruction):
                yield from walk(called, inner)

    return list(walk(entry, ()))


def _called(instruction: Instruction) -> list[str]:
    branches = [name for pair in _BRANCHES.findall(instruction.rest) for name in pair if name]
    names = [part.strip().lstrip("%") for name in branches for part in name.split(",")]
    return names or _CALLED.findall(instruction.rest)


def cycles(program: Sequence[Step]) -> float:
    """Of all instructions; of a condition, of all its branches."""
    return sum(step.times * step.instruction.cycles for step in program)


def unknown_loops(program: Sequence[Step]) -> set[str]:
    """The loops whose trips the compiler does not know: those that decode until all answers have ended."""
    loops = (step.instruction for step in program if step.instruction.kind == "while")
    return {loop.name for loop in loops if loop.trips is None}


def inside_loops(program: Sequence[Step], kinds: Sequence[str], like: Sequence[tuple[int, ...]]) -> list[Step]:
    """Instructions of some kinds in a loop whose result has a size that is in `like`, whatever the order of its axes:
    copies or exchanges of one layer of the weights or the cache. Loading into the chip's near memory is no copy."""
    wanted = {_axes(sizes) for sizes in like}
    found = []
    for step in program:
        kind = step.instruction.kind.removesuffix("-start").removesuffix("-done")
        large = any(not shape.near and _axes(shape.sizes) in wanted for shape in step.instruction.shapes)
        if step.loops and kind in kinds and large:
            found.append(step)
    return found


def _axes(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(size for size in sizes if size > 1))
