"""What XLA's TPU compiler says of a program that it optimised: cycles, loops, copies and exchanges between chips."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NUMBERS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}  # bytes
EXCHANGES = {"all-gather": 1, "all-reduce": 2, "reduce-scatter": 1, "all-to-all": 1, "collective-permute": 1}  # passes
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.-]+)")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
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
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])


Computations = dict[str, list[Instruction]]


class Step(NamedTuple):
    """An instruction with the loops around it, from the outside in, and how often each of them runs."""

    instruction: Instruction
    loops: tuple["Loop", ...]

    @property
    def times(self) -> int:
        return math.prod(loop.trips for loop in self.loops)

    @property
    def decodes(self) -> bool:
        """Whether it is inside a loop that ends when all answers have ended."""
        return not all(loop.counted for loop in self.loops)


class Loop(NamedTuple):
    name: str
    trips: int
    counted: bool  # whether the program itself says how many


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


def steps(text: str, uncounted: int = 1) -> list[Step]:
    """Every instruction that runs, inside its loops. uncounted: trips of loops that end when all answers have ended."""
    computations, entry = parse(text)

    def walk(name: str, loops: tuple[Loop, ...]) -> Iterator[Step]:
        for instruction in computations[name]:
            yield Step(instruction, loops)
            inner = loops
            if instruction.kind == "while":
                trips = _trips(instruction, computations)
                inner = (*loops, Loop(instruction.name, trips or uncounted, trips is not None))
            elif instruction.kind not in ("call", "conditional"):  # a fusion states the cycles of all that it holds
                continue
            for called in _called(instruction):
                yield from walk(called, inner)

    return list(walk(entry, ()))


def _trips(loop: Instruction, computations: Computations) -> int | None:
    """How often a loop runs whose condition compares a counter from 0 with a number: a scan. None for any other."""
    condition = computations[_CONDITION.findall(loop.rest)[0]]
    counts = [x for x in condition if x.kind == "constant" and x.shapes[0][:2] in (("s32", ()), ("u32", ()))]
    numbers = {x.name: int(x.rest.partition(")")[0]) for x in counts}
    root = condition[-1]
    limits = [numbers[name] for name in root.operands if name in numbers]
    return limits[0] if root.kind == "compare" and "direction=LT" in root.rest and limits else None


def _called(instruction: Instruction) -> list[str]:
    branches = [name for pair in _BRANCHES.findall(instruction.rest) for name in pair if name]
    names = [part.strip().lstrip("%") for name in branches for part in name.split(",")]
    return names or _CALLED.findall(instruction.rest)


def cycles(program: Sequence[Step]) -> float:
    """Of all instructions; of a condition, of all its branches."""
    return sum(step.times * step.instruction.cycles for step in program)


def exchanged(program: Sequence[Step]) -> float:
    """Bytes that a chip sends to the others in a ring, were they very many: the largest array of an exchange, once for
    each pass."""
    total = 0.0
    for step in program:
        passes = EXCHANGES.get(step.instruction.kind.removesuffix("-start"), 0)
        total += step.times * passes * max((shape.bytes for shape in step.instruction.shapes), default=0.0)
    return total


def alike(program: Sequence[Step], kind: str, sizes: Sequence[tuple[int, ...]]) -> list[Step]:
    """Instructions of a kind with a result of one of these sizes, whatever the order of its axes: copies or exchanges
    of weights or of the cache. Loading into the chip's near memory is no copy."""
    wanted = {_axes(size) for size in sizes}
    matches = []
    for step in program:
        results = step.instruction.shapes[: 1 if kind == "copy" else None]  # an asynchronous copy lists its source too
        large = any(not shape.near and _axes(shape.sizes) in wanted for shape in results)
        if step.instruction.kind.removesuffix("-start") == kind and large:
            matches.append(step)
    return matches


def _axes(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(size for size in sizes if size > 1))
