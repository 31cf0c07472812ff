# SPDX-License-Identifier: Apache-2.0
"""The part of Go's text/template that `--format` is used with, over parsed JSON.

Actions: fields (`.State.Pid`, `$x.Name`), `$`, literals, parentheses, pipelines, variables (`$x := …`), if,
else if, else, range (also `$k, $v :=`), with, end, comments, trimming (`{{-`, `-}}`). Functions: and or not eq ne
lt le gt ge len index slice print println printf, and docker's json join lower upper title split pad truncate.
"""

import json
import re
from collections.abc import Callable
from typing import Any


class TemplateError(Exception):
    """The template can't be parsed, or asks for what is not there."""


_ACTION = re.compile(r"\{\{(?:-\s)?\s*(.*?)\s*(?:\s-)?\}\}", re.S)
_TOKEN = re.compile(
    r'\s*(?:"(?:[^"\\]|\\.)*"|`[^`]*`|-?\d+(?:\.\d+)?|:=|[(),|=]'
    r"|\$\w*(?:\.[A-Za-z_]\w*)*|(?:\.[A-Za-z_]\w*)+|[A-Za-z_]\w*|\.)"
)

Node = tuple[str, Any]


def render(template: str, data: Any) -> str:
    """The template filled with `data`. Raises TemplateError."""
    nodes, _ = _parse(_split(template), 0, ())
    return "".join(_execute(nodes, data, {"$": data}))


def _split(template: str) -> list[Node]:
    parts: list[Node] = []
    position = 0
    trim_next = False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        if trim_next:
            text = text.lstrip()
        if match[0].startswith("{{- "):
            text = text.rstrip()
        parts.append(("text", text))
        if not match[1].startswith("/*"):
            parts.append(("action", match[1]))
        trim_next = match[0].endswith(" -}}")
        position = match.end()
    tail = template[position:]
    if "{{" in tail:
        raise TemplateError("unclosed action")
    parts.append(("text", tail.lstrip() if trim_next else tail))
    return parts


def _parse(parts: list[Node], at: int, closers: tuple[str, ...]) -> tuple[list[Node], int]:
    """Nodes up to (not over) one of `closers`; returns them and the index of the closer."""
    nodes: list[Node] = []
    while at < len(parts):
        kind, text = parts[at]
        if kind == "text":
            if text:
                nodes.append(("text", text))
            at += 1
            continue
        word, _, rest = text.partition(" ")
        if word in ("end", "else"):
            if word not in closers:
                raise TemplateError(f"unexpected {{{{{word}}}}}")
            return nodes, at
        if word in ("if", "range", "with"):
            node, at = _parse_block(parts, at + 1, word, rest)
            nodes.append(node)
            continue
        nodes.append(("action", _tokens(text)))
        at += 1
    if closers:
        raise TemplateError("unexpected EOF")
    return nodes, at


def _parse_block(parts: list[Node], at: int, word: str, condition: str) -> tuple[Node, int]:
    body, at = _parse(parts, at, ("end", "else"))
    otherwise: list[Node] = []
    closer = parts[at][1]
    if closer.startswith("else"):
        extra = closer[4:].strip()
        if extra.startswith(("if ", "with ")):
            inner_word, _, inner_condition = extra.partition(" ")
            inner, at = _parse_block(parts, at + 1, inner_word, inner_condition)
            return (word, (_tokens(condition), body, [inner])), at
        otherwise, at = _parse(parts, at + 1, ("end",))
    return (word, (_tokens(condition), body, otherwise)), at + 1


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise TemplateError(f'unexpected "{text[position:].strip()}" in operand')
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


def _execute(nodes: list[Node], dot: Any, variables: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for kind, value in nodes:
        if kind == "text":
            out.append(value)
        elif kind == "action":
            result = _Evaluator(value, dot, variables).run()
            if result is not _NOTHING:
                out.append(to_text(result))
        else:
            tokens, body, otherwise = value
            out += _execute_block(kind, tokens, body, otherwise, dot, variables)
    return out


def _execute_block(
    kind: str, tokens: list[str], body: list[Node], otherwise: list[Node], dot: Any, variables: dict[str, Any]
) -> list[str]:
    inner = dict(variables)
    names: list[str] = []
    if ":=" in tokens:
        names = [token for token in tokens[: tokens.index(":=")] if token != ","]
        tokens = tokens[tokens.index(":=") + 1 :]
    value = _Evaluator(tokens, dot, variables).run()
    if kind == "range":
        pairs = list(sorted(value.items()) if isinstance(value, dict) else enumerate(value or []))
        out: list[str] = []
        for key, item in pairs:
            if names:
                inner.update(zip(names, [key, item] if len(names) == 2 else [item], strict=False))
            out += _execute(body, item, inner)
        return out if pairs else _execute(otherwise, dot, variables)
    if names:
        inner[names[0]] = value
    if _truth(value):
        return _execute(body, value if kind == "with" else dot, inner)
    return _execute(otherwise, dot, variables)


_NOTHING = object()


class _Evaluator:
    """Evaluates the tokens of one pipeline."""

    def __init__(self, tokens: list[str], dot: Any, variables: dict[str, Any]) -> None:
        self._tokens = tokens
        self._at = 0
        self._dot = dot
        self._variables = variables

    def run(self) -> Any:
        if len(self._tokens) > 2 and self._tokens[1] in (":=", "="):
            name = self._tokens[0]
            self._at = 2
            self._variables[name] = self._pipeline()
            return _NOTHING
        value = self._pipeline()
        if self._at != len(self._tokens):
            raise TemplateError(f"unexpected {self._tokens[self._at]!r} in command")
        return value

    def _pipeline(self) -> Any:
        value = self._command(())
        while self._at < len(self._tokens) and self._tokens[self._at] == "|":
            self._at += 1
            value = self._command((value,))
        return value

    def _command(self, piped: tuple[Any, ...]) -> Any:
        if self._at >= len(self._tokens):
            raise TemplateError("missing value for command")
        first = self._tokens[self._at]
        if first in _FUNCTIONS:
            self._at += 1
            arguments = []
            while self._at < len(self._tokens) and self._tokens[self._at] not in ("|", ")"):
                arguments.append(self._operand())
            try:
                return _FUNCTIONS[first](*arguments, *piped)
            except (TypeError, IndexError, KeyError, ValueError) as error:
                raise TemplateError(f"error calling {first}: {error}") from None
        return self._operand()

    def _operand(self) -> Any:
        token = self._tokens[self._at]
        self._at += 1
        if token == "(":
            value = self._pipeline()
            if self._at >= len(self._tokens) or self._tokens[self._at] != ")":
                raise TemplateError("unclosed left paren")
            self._at += 1
            if (
                self._at < len(self._tokens)
                and self._tokens[self._at].startswith(".")
                and len(self._tokens[self._at]) > 1
            ):
                value = _fields(value, self._tokens[self._at][1:])
                self._at += 1
            return value
        if token[0] == '"':
            return json.loads(token.replace("\\'", "'"))
        if token[0] == "`":
            return token[1:-1]
        if token == ".":
            return self._dot
        if token[0] == ".":
            return _fields(self._dot, token[1:])
        if token[0] == "$":
            name, _, path = token.partition(".")
            if name not in self._variables:
                raise TemplateError(f'undefined variable "{name}"')
            return _fields(self._variables[name], path) if path else self._variables[name]
        if token in ("true", "false", "nil"):
            return {"true": True, "false": False, "nil": None}[token]
        if token in _FUNCTIONS:
            self._at -= 1
            return self._command(())
        try:
            return int(token)
        except ValueError:
            pass
        try:
            return float(token)
        except ValueError:
            raise TemplateError(f'function "{token}" not defined') from None


def _fields(value: Any, path: str) -> Any:
    for name in path.split("."):
        if value is None:
            raise TemplateError(f'nil data; no entry for key "{name}"')
        if not isinstance(value, dict):
            raise TemplateError(f"can't evaluate field {name} in type {type(value).__name__}")
        if name not in value:
            raise TemplateError(f'map has no entry for key "{name}"')
        value = value[name]
    return value


def _truth(value: Any) -> bool:
    return bool(value)


def to_text(value: Any) -> str:
    """A value as Go's %v prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{to_text(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(to_text(item) for item in value) + "]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else value[key]
    return value


def _printf(form: str, *arguments: Any) -> str:
    return re.sub(r"%([-0-9.]*)v", r"%\1s", form) % tuple(
        to_text(a) if isinstance(a, (bool, dict, list)) or a is None else a for a in arguments
    )


def _and(*values: Any) -> Any:
    return next((value for value in values if not _truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if _truth(value)), values[-1])


def to_json(value: Any) -> str:
    """Compact JSON, as docker's `json` function prints it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":  # outside of strings JSON has none of them
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "len": len,
    "index": _index,
    "slice": lambda value, *bounds: value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] :],
    "print": lambda *values: "".join(map(to_text, values)),
    "println": lambda *values: " ".join(map(to_text, values)) + "\n",
    "printf": _printf,
    "not": lambda value: not _truth(value),
    "and": _and,
    "or": _or,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "join": lambda values, separator: separator.join(map(to_text, values or [])),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": lambda text: text.title(),
    "pad": lambda text, left, right: " " * left + text + " " * right,
    "truncate": lambda text, limit: text[:limit],
}
