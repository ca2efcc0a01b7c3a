"""YAML read strictly: what PyYAML lets pass in silence, or dies of, is an error that names the line.

A key that is given twice, a number that is not finite, aliases that stand for millions of values, nesting a thousand
deep and numbers of thousands of digits are no configuration that anybody wrote on purpose.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from voxmetry.core.text_files import read_text

MOST_BYTES = 16_000_000
"""Of a file; a data set's manifest of 100 000 cases has less."""
MOST_VALUES = 2_000_000
"""With each alias counted as what it stands for."""
DEEPEST = 60
LONGEST_NUMBER = 40


class StrictYamlError(yaml.MarkedYAMLError):
    """YAML that is well formed and yet refused."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with these limits: it makes plain Python values and runs nothing."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one node and what is inside of it; refuse nesting that would end Python's stack."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refusal(f"nested deeper than {DEEPEST}", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> Any:
        """Read the document's tree, and count its values before any of them is made."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Make a mapping; of a key that is given twice PyYAML would keep the last one in silence."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _refusal(f"the key {key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: Any) -> Any:
        """Make a whole number; Python takes quadratic time for one of very many digits."""
        if len(node.value) > LONGEST_NUMBER:
            raise _refusal(f"a number of {len(node.value)} digits", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: Any) -> Any:
        """Make a number; `.inf` and `.nan` are none that a setting can have."""
        value = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise _refusal(f"{node.value} where a finite number is needed", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _count(node: Any, known: dict[int, int | None]) -> int:
    """Return how many values a node stands for, aliases written out.

    `known` holds the count of each node by its id; None while it is being counted, so that an alias of a node inside
    of itself is seen.
    """
    if id(node) in known:
        before = known[id(node)]
        if before is None:
            raise _refusal("an alias inside what it stands for", node.start_mark)
        return before
    known[id(node)] = None
    inside = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = [part for item in inside for part in (item if isinstance(item, tuple) else (item,))]
    n = 1 + sum(_count(part, known) for part in parts)
    if n > MOST_VALUES:
        raise _refusal(f"aliases that stand for more than {MOST_VALUES:,} values", node.start_mark)
    known[id(node)] = n
    return n


def _refusal(problem: str, mark: Any) -> StrictYamlError:
    return StrictYamlError(problem=problem, problem_mark=mark)


def load_strict(text: str) -> object:
    """Read one YAML document.

    Parameters
    ----------
    text
        The document.

    Returns
    -------
    object
        Dictionaries, lists, texts, numbers, dates and None; None for an empty document.

    Raises
    ------
    yaml.YAMLError
        If it is no YAML, or holds what no configuration holds: a key twice, a number that is not finite or has more
        than `LONGEST_NUMBER` digits, nesting beyond `DEEPEST`, more than `MOST_VALUES` values. The message names the
        line.

    Examples
    --------
    >>> load_strict("a: 1")
    {'a': 1}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError) as error:
        # Such as a date of the 32nd.
        raise yaml.YAMLError(f"a value that cannot be read ({type(error).__name__})") from error


def read_strict(path: Path) -> object:
    """Read a YAML file of at most `MOST_BYTES` bytes.

    Parameters
    ----------
    path
        The file, in UTF-8, or in UTF-16 with its mark.

    Returns
    -------
    object
        As `load_strict` returns it.

    Raises
    ------
    OSError
        If the file cannot be read, is no regular file, or is far too large.
    UnicodeDecodeError, yaml.YAMLError
        If it is no UTF-8 or no such YAML.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no regular file")
    if path.stat().st_size > MOST_BYTES:
        raise OSError(f"{path.name} has more than {MOST_BYTES:,} bytes")
    return load_strict(read_text(path))
