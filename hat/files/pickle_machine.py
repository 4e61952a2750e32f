"""Runs a pickle without trusting it: nothing it names is imported, looked up or called.

The standard library only splits the bytes into opcodes; what an opcode does is decided here. A name is text:
those the caller lists are rebuilt by the caller's own functions, any other becomes a stand-in without effect.
What a pickle can cost is bounded by its opcodes and by a budget for copies of what it has built once.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

MAX_OPCODES = 300_000
MAX_COPIES = 1 << 25  # bytes, about, that calls may copy: one opcode can copy a list built with many
MAX_DEPTH = 64
MAX_NODES = 2_000_000  # values met when every shared container is walked anew
MAX_INT_BITS = 128
MAX_NAME = 512

Rebuild = Mapping[str, Callable[[tuple], Any]]
_ATOMS = (str, bytes, int, float, bool, type(None))


class Opaque:
    """Stands for a class, a function or an object of another program; only its name is kept."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Opaque({self.name!a})"


def run(stream: BinaryIO, rebuild: Rebuild, persistent: Callable[[Any], Any]) -> Any:
    """Return the value of the pickle at the position of `stream`, which ends up just behind it.

    `rebuild` maps dotted names to functions of an argument tuple, `persistent` turns a persistent id into its
    value. Raises ValueError for what is not allowed, and whatever pickletools raises for damage.
    """
    machine = _Machine(rebuild, persistent)
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if count == MAX_OPCODES:
            raise ValueError(f"a pickle of more than {MAX_OPCODES} opcodes")
        machine.step(opcode.name, arg)
    return checked(machine.pop())


def checked(root: Any) -> Any:
    """Return `root` where walking it is cheap: containers hold not themselves, nor are they nested too deep.

    Raises ValueError otherwise; the walk itself needs no recursion and meets each container once.
    """
    size: dict[int, tuple[int, int]] = {}  # id -> values within and levels below; (0, 0) while being walked
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        node, left = todo.pop()
        parts = node.values() if isinstance(node, dict) else node
        if not isinstance(node, dict | list | tuple | set | frozenset):
            continue
        if not left:
            if id(node) in size:
                if not size[id(node)][0]:
                    raise ValueError("a container that holds itself")
                continue
            size[id(node)] = (0, 0)
            todo.append((node, True))
            todo.extend((part, False) for part in parts)
            continue
        known = [size.get(id(part), (1, 0)) for part in parts]
        values, depth = 1 + sum(n for n, _ in known), 1 + max((d for _, d in known), default=0)
        if values > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError(f"containers {depth} deep with {values} values")
        size[id(node)] = (values, depth)
    return root


def atom(value: Any) -> Any:
    """Return `value` where it may be a key or a member of a set; hashing anything else may never end."""
    if type(value) not in _ATOMS or (type(value) is int and value.bit_length() > 60):
        raise ValueError(f"a {type(value).__name__} as key or set member")
    return value


def _pairs(items: Iterable[Any]) -> dict:
    if not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        raise ValueError("a dictionary made of something else than pairs")
    return {atom(key): value for key, value in items}


def _items(args: tuple) -> Iterable[Any]:
    """Return the content that a collection is made of: no argument, or one list or tuple."""
    if len(args) > 1 or (args and not isinstance(args[0], list | tuple)):
        raise ValueError("a collection made of something else than a list")
    return args[0] if args else ()


def _encoded(args: tuple) -> bytes:
    """Return the bytes that Python 3 writes as text in old protocols."""
    if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
        raise ValueError("bytes in another coding than latin1")
    return args[0].encode("latin-1")


_PLAIN: Rebuild = {
    "collections.OrderedDict": lambda args: _pairs(_items(args)),
    "_codecs.encode": _encoded,
    "torch.Size": lambda args: tuple(_items(args)),
    "builtins.set": lambda args: {atom(value) for value in _items(args)},
    "builtins.frozenset": lambda args: frozenset(atom(value) for value in _items(args)),
}
_PUSHED = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
    + ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
    + ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FRESH: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARKED: dict[str, Callable[[list], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": lambda items: _dict_of(items),
    "FROZENSET": lambda items: frozenset(atom(item) for item in items),
}
_MEMO_WRITES = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_MEMO_READS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_NO_EFFECT = frozenset(("PROTO", "FRAME", "STOP"))


def _dict_of(items: list) -> dict:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return {atom(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _named(module: Any, name: Any) -> Opaque:
    """Return the stand-in of a name; Python 2 called its builtins otherwise."""
    if type(module) is not str or type(name) is not str or len(module) + len(name) > MAX_NAME:
        raise ValueError("a name that is no name")
    return Opaque(f"{'builtins' if module == '__builtin__' else module}.{name}")


class _Machine:
    def __init__(self, rebuild: Rebuild, persistent: Callable[[Any], Any]) -> None:
        self.rebuild = {**_PLAIN, **rebuild}
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.copies = 0
        self.namespaces: dict[int, dict] = {}  # by id; kept alive, so that an id stays one object

    def step(self, name: str, arg: Any) -> None:
        """Carry out one opcode."""
        if name in _PUSHED:
            if type(arg) is int and arg.bit_length() > MAX_INT_BITS:
                raise ValueError(f"a number of {arg.bit_length()} bits")
            self.stack.append(arg)
        elif name in _MEMO_WRITES:
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.top()
        elif name in _MEMO_READS:
            self.stack.append(self.memo[arg])
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _FRESH:
            self.stack.append(_FRESH[name]())
        elif name in _FIXED_TUPLES:
            parts = [self.pop() for _ in range(_FIXED_TUPLES[name])]
            self.stack.append(tuple(reversed(parts)))
        elif name in _MARKED:
            self.stack.append(_MARKED[name](self.pop_to_mark()))
        elif name not in _NO_EFFECT:
            rule = getattr(self, f"_{name.lower()}", None)  # `name` is pickletools', not the file's
            if rule is None:
                raise ValueError(f"the opcode {name}")
            rule(arg)

    def top(self) -> Any:
        """Return the newest value."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("a value that is not there")
        return self.stack[-1]

    def pop(self) -> Any:
        """Remove the newest value and return it."""
        value = self.top()
        self.stack.pop()
        return value

    def pop_to_mark(self) -> list[Any]:
        """Remove the newest mark with all above it, which is returned."""
        if not self.marks:
            raise ValueError("a mark that is not there")
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def call(self, function: Any, args: Any) -> Any:
        """Return what our own function for that name makes of `args`, or a stand-in."""
        if not isinstance(function, Opaque) or not isinstance(args, tuple):
            raise ValueError(f"a call of a {type(function).__name__}")
        if function.name == "argparse.Namespace":
            made: dict = {}
            self.namespaces[id(made)] = made
            return made
        own = self.rebuild.get(function.name)
        if own is None:
            return Opaque(function.name)
        if args and isinstance(args[0], str | list | tuple):
            self.charge(args[0])
        return own(args)

    def charge(self, copied: Any) -> None:
        """Count what is about to be copied; raises ValueError once it is too much."""
        self.copies += len(copied) * (4 if isinstance(copied, str) else 64)
        if self.copies > MAX_COPIES:
            raise ValueError("the same content over and over")

    def _mark(self, arg: Any) -> None:
        self.marks.append(len(self.stack))

    def _pop(self, arg: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def _pop_mark(self, arg: Any) -> None:
        self.pop_to_mark()

    def _dup(self, arg: Any) -> None:
        self.stack.append(self.top())

    def _append(self, arg: Any) -> None:
        self._extend([self.pop()], list)

    def _appends(self, arg: Any) -> None:
        self._extend(self.pop_to_mark(), list)

    def _additems(self, arg: Any) -> None:
        self._extend([atom(value) for value in self.pop_to_mark()], set)

    def _extend(self, values: list, kind: type) -> None:
        target = self.top()
        if type(target) is kind:
            target.update(values) if kind is set else target.extend(values)
        elif not isinstance(target, Opaque):  # what a stand-in would hold is not kept
            raise ValueError(f"items added to a {type(target).__name__}")

    def _setitem(self, arg: Any) -> None:
        value, key = self.pop(), self.pop()
        self._fill([key, value])

    def _setitems(self, arg: Any) -> None:
        self._fill(self.pop_to_mark())

    def _fill(self, items: list) -> None:
        target = self.top()
        if type(target) is dict:
            target.update(_dict_of(items))
        elif not isinstance(target, Opaque):
            raise ValueError(f"keys set in a {type(target).__name__}")

    def _global(self, arg: str) -> None:
        self.stack.append(_named(*arg.split(" ", 1)))

    def _stack_global(self, arg: Any) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_named(module, name))

    def _inst(self, arg: str) -> None:
        args = tuple(self.pop_to_mark())
        self.stack.append(self.call(_named(*arg.split(" ", 1)), args))

    def _obj(self, arg: Any) -> None:
        function, *args = self.pop_to_mark()
        self.stack.append(self.call(function, tuple(args)))

    def _reduce(self, arg: Any) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self.call(function, args))

    _newobj = _reduce

    def _newobj_ex(self, arg: Any) -> None:
        options, args, function = self.pop(), self.pop(), self.pop()
        if not isinstance(options, dict) or (options and getattr(function, "name", None) in self.rebuild):
            raise ValueError("a call with options")
        self.stack.append(self.call(function, args))

    def _build(self, arg: Any) -> None:
        """Fill a Namespace; the state of anything else carries nothing we keep."""
        state, target = self.pop(), self.top()
        if id(target) in self.namespaces:
            if type(state) is not dict or any(type(key) is not str for key in state):
                raise ValueError("a Namespace without names")
            self.charge(state)
            target.update(state)

    def _binpersid(self, arg: Any) -> None:
        self.stack.append(self.persistent(self.pop()))
