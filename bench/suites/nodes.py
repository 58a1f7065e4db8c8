"""YAML as nodes that keep their file and line, also after suites were merged.

A suite is read as nodes first. What YAML allows and no suite can mean is refused there, one suite
is laid over another there, and content is made from the result. Nothing here knows a suite's
fields.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import yaml

MOST_CHARACTERS = 100_000
"""Longest text of a suite: fifty times the longest shipped one."""
MOST_NODES = 10_000
"""Keys, values, lists and mappings of a suite; what an alias names counts wherever it is named."""
MERGE_KEY = "<<"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: without this, ``2e-4`` is a string."""


_Loader.yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_nodes(text: str, file: str) -> yaml.Node | None:
    """The nodes of a text; ``file`` is its name in every message. None: the text is empty.

    Raises:
        ValueError: the text is not YAML, is too large, or holds what no suite can mean; the
            message names file and line.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{file}: {len(text):,} characters, at most {MOST_CHARACTERS:,} are read")
    try:
        loader = _Loader(text)
        loader.name = file  # in the mark of every node
        root = loader.get_single_node()
        _Check(file).visit(root)
        _flatten(loader, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise ValueError(f"{file}, line {line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ValueError(f"{file}: lists or mappings stand too deep inside each other") from error
    return root


def content_of(root: yaml.Node | None, file: str) -> Any:
    """The dictionaries, lists, text and numbers of the nodes.

    Raises:
        ValueError: a value does not fit its kind.
    """
    if root is None:
        return None
    try:
        return _Loader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else file
        raise ValueError(f"{where}: not YAML: {error.problem}") from error
    except (ValueError, LookupError, AttributeError) as error:
        # A date in a month 13, or text that is no number under a tag that says so.
        raise ValueError(f"{file}: not YAML: a value does not fit its kind ({error})") from error


def pop(root: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Take the field ``name`` out of a mapping: its key and its value, or None if it has none."""
    if not isinstance(root, yaml.MappingNode):
        return None
    for pair in root.value:
        if pair[0].value == name:
            root.value.remove(pair)
            return pair
    return None


def merged(
    base: yaml.Node | None, own: yaml.Node | None, one_of: Collection[str] = ()
) -> yaml.Node | None:
    """Merge ``own`` over ``base``: mappings are merged at any depth, any other value replaces that
    of the base, and null removes it.

    Args:
        one_of: fields of which a mapping has one: that of ``own`` replaces another one of the base.

    Raises:
        ValueError: a null where the base has nothing to take away.
    """
    if not isinstance(base, yaml.MappingNode) or not isinstance(own, yaml.MappingNode):
        return own
    fields = {key.value: (key, value) for key, value in base.value}
    stated = {key.value: is_null(value) for key, value in own.value}
    if any(name in one_of and not null for name, null in stated.items()):
        fields = {n: pair for n, pair in fields.items() if n not in one_of or n in stated}
    for key, value in own.value:
        if is_null(value):
            if fields.pop(key.value, None) is None:
                refuse(
                    key,
                    f"{key.value}: null takes away what the extended suite says, and it "
                    "says nothing here",
                )
        elif key.value in fields:
            fields[key.value] = (key, merged(fields[key.value][1], value, one_of))
        else:
            fields[key.value] = (key, value)
    return yaml.MappingNode(own.tag, list(fields.values()), own.start_mark, own.end_mark)


def child(root: yaml.Node | None, name: str) -> yaml.Node | None:
    """Value of the field ``name`` of a mapping; None if there is none."""
    if not isinstance(root, yaml.MappingNode):
        return None
    return next((value for key, value in root.value if key.value == name), None)


def is_null(node: yaml.Node | None) -> bool:
    """Whether a value is null; False for none."""
    return node is not None and node.tag == "tag:yaml.org,2002:null"


def lay_over(root: yaml.Node | None, base: str, name: str, one_of: Collection[str] = ()) -> None:
    """Merge the field ``name`` of a mapping over its field ``base``, if it has both."""
    below, own = child(root, base), child(root, name)
    if isinstance(root, yaml.MappingNode) and below is not None and own is not None:
        whole = merged(below, own, one_of)
        root.value = [(key, whole if key.value == name else value) for key, value in root.value]


def place_of(root: yaml.Node | None, path: Sequence[str | int], file: str) -> str:
    """ "FILE, line N" of the deepest node on ``path`` that is there; ``file`` if none is."""
    node, mark = root, root.start_mark if root is not None else None
    for part in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    child, mark = value, key.start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            # A sweep has more choices than entries.
            child = node.value[min(part, len(node.value) - 1)]
            mark = child.start_mark
        if child is None:
            break
        node = child
    return f"{mark.name}, line {mark.line + 1}" if mark else f"{file}, line 1"


def refuse(at: yaml.Node, problem: str) -> NoReturn:
    """Raise ValueError that names the file and the line of ``at``."""
    raise ValueError(f"{at.start_mark.name}, line {at.start_mark.line + 1}: {problem}")


class _Check:
    """Refuses a key that is given twice, of which the last would be kept in silence, one that is
    no text, an alias inside what it names, and more nodes than :data:`MOST_NODES`."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.nodes = 0

    def visit(self, node: yaml.Node | None, above: tuple[yaml.Node, ...] = ()) -> None:
        if node is None:
            return
        self.nodes += 1
        if self.nodes > MOST_NODES:  # aliases of aliases grow without bound in a few lines
            raise ValueError(f"{self.file}: more than {MOST_NODES:,} values, aliases followed")
        if node in above:
            refuse(node, "what stands here holds itself, by an alias")
        inside = (*above, node)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    refuse(key, "a list or a mapping as a key: expected text")
                if key.value in seen:
                    refuse(key, f"{key.value}: given twice")
                seen.add(key.value)
                self.visit(value, inside)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self.visit(value, inside)


def _flatten(loader: _Loader, node: yaml.Node | None) -> None:
    """Replace ``<<`` by the fields of the mapping that it names, so that merging and lines see
    these fields."""
    if isinstance(node, yaml.MappingNode):
        if any(key.value == MERGE_KEY for key, _ in node.value):
            loader.flatten_mapping(node)
            node.value = list({key.value: (key, value) for key, value in node.value}.values())
        for _, value in node.value:
            _flatten(loader, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _flatten(loader, value)
