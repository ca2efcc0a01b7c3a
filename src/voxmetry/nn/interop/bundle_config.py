"""MONAI bundle configurations as data: JSON or YAML, references, and expressions that are no more than arithmetic.

MONAI runs any text that begins with `$` as Python. Here such a text may hold numbers, strings, lists, references,
comparisons, `if ... else`, `len` and arithmetic of numbers; anything else is refused where it is needed, and never run.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from voxmetry.core.strict_yaml import MOST_BYTES, load_strict
from voxmetry.core.text_files import read_text
from voxmetry.errors import ModelError

Json: TypeAlias = dict[str, Any]

DEPTH = 40
"""References that may follow one another; more is a circle."""

MOST_VALUES = 200_000
"""Values that a configuration may come to, references written out."""

LONGEST_LIST = 4096
LARGEST_NUMBER = 1e15

_REFERENCE = re.compile(r"@([A-Za-z_][\w]*(?:(?:#|::)\w+)*)")
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_COMPARISON: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def read_config(path: Path) -> Json:
    """Read a bundle's JSON or YAML file.

    Raises
    ------
    ModelError
        If it is missing, damaged, or no mapping.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        text = read_text(path)
        content = json.loads(text) if path.suffix == ".json" else load_strict(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ModelError(
            found=f"{path.name} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}",
            expected="a JSON or YAML file of a MONAI bundle",
            fix="get the bundle again",
        ) from error
    if not isinstance(content, dict):
        raise ModelError(found=f"{path.name} holds no mapping", expected="a mapping", fix="get the bundle again")
    return content


class Values:
    """A configuration whose references and expressions are looked up when a value is asked for.

    Parameters
    ----------
    content
        What `read_config` returned.

    Examples
    --------
    >>> values = Values({"fine": False, "mm": "$[3.0] * 3 if not @fine else 1.5", "size": [96, "$2 * 48", "@size#0"]})
    >>> values.get("size")
    [96, 96, 96]
    """

    def __init__(self, content: Json) -> None:
        self._content = content
        self._made = 0

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def get(self, key: str) -> Any:
        """Return the value at a key such as `inferer` or `preprocessing#transforms#0`, resolved.

        Raises
        ------
        ModelError
            If there is none, it refers to itself, or needs an expression that is not plain.
        """
        return self.resolve("@" + key, key)

    def resolve(self, value: Any, where: str, depth: int = 0) -> Any:
        """Return a value with references and expressions replaced by what they stand for."""
        if depth > DEPTH:
            raise _refusal(where, "refers to itself", "references that end")
        self._made += 1
        if self._made > MOST_VALUES:
            raise _refusal(where, f"comes to more than {MOST_VALUES} values", "a configuration of a network")
        if isinstance(value, dict):
            return {name: self.resolve(item, f"{where}#{name}", depth + 1) for name, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, f"{where}#{index}", depth + 1) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        if value.startswith("%"):
            raise _refusal(where, f"takes its value from another file: {value}", "a value in this file")
        if value.startswith("$"):
            return self._expression(value[1:], where, depth)
        if _REFERENCE.fullmatch(value):
            return self.resolve(self._look_up(value[1:], where), where, depth + 1)
        return value

    def raw(self, key: str) -> Any:
        """Return the value at a key as it is written."""
        return self._look_up(key, key)

    def _look_up(self, key: str, where: str) -> Any:
        found: Any = self._content
        for part in re.split(r"#|::", key):
            if isinstance(found, dict) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise _refusal(where, f"refers to {key!r}, which is not there", "a key of the configuration")
        return found

    def _expression(self, text: str, where: str, depth: int) -> Any:
        names: dict[str, Any] = {}

        def name_of(match: re.Match[str]) -> str:
            names[f"value_{len(names)}"] = self.resolve(match.group(0), where, depth + 1)
            return f"value_{len(names) - 1}"

        try:
            tree = ast.parse(_REFERENCE.sub(name_of, text).strip(), mode="eval")
            return _plain(tree.body, names)
        except _NOT_PLAIN as error:
            raise _refusal(
                where, f"is Python code: {text[:80]!r}", "values, which are read without running code"
            ) from error


class _NotPlainError(Exception):
    """An expression does more than arithmetic."""


_NOT_PLAIN = (SyntaxError, _NotPlainError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError)


def _plain(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(item, names) for item in node.elts]
    if isinstance(node, ast.IfExp):
        return _plain(node.body if _plain(node.test, names) else node.orelse, names)
    if isinstance(node, ast.BoolOp):
        parts = [bool(_plain(item, names)) for item in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
        (of,) = node.args
        return len(_plain(of, names))
    return _operation(node, names)


def _operation(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _plain(node.operand, names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_plain(node.operand, names))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISON:
        return _COMPARISON[type(node.ops[0])](_plain(node.left, names), _plain(node.comparators[0], names))
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _plain(node.left, names), _plain(node.right, names)
        if isinstance(left, list) and isinstance(node.op, ast.Mult) and isinstance(right, int):
            if len(left) * right > LONGEST_LIST:
                raise _NotPlainError("a list too long")
            return left * right
        return _number(_ARITHMETIC[type(node.op)](_number(left), _number(right)))
    raise _NotPlainError(type(node).__name__)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _NotPlainError(type(value).__name__)
    if abs(value) > LARGEST_NUMBER:
        raise _NotPlainError("a number too large")
    return value


def _refusal(where: str, found: str, expected: str) -> ModelError:
    return ModelError(
        found=f"{where} {found}", expected=expected, fix="write the value into the bundle's configuration by hand"
    )
