"""Finds the clauses of a file in `sql/` that can be broken. PostgreSQL's own scanner cuts the text into tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pglast.parser import scan

from support.processes import CHECKOUT

SOURCES = CHECKOUT / "sql"

_NOT_SQL = re.compile(r"@[\w:]+@|\$\w+\$")
_WHOLE = re.compile(r"^SET \w+ = .*$|SECURITY DEFINER|^REVOKE [^;]*;|^ *LOCK TABLE [^;]*;", re.MULTILINE)
_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "=": "<>", "<>": "="}
_ASSIGNED = {"ERRCODE", "HINT", "DETAIL", "updated_at"}  # here, = does not compare
_OBJECTS = {"FUNCTION", "PROCEDURE", "SCHEMA", "TABLE", "COLUMN", "INDEX", "CONFLICT", "ALL", "TRUE_P"}  # after ON
_OF_PLPGSQL = {"elsif": "ELSIF", "loop": "LOOP", "return": "RETURN", "while": "WHILE"}
_OPEN = {"ASCII_40", "ASCII_91", "CASE"}
_CLOSE = {"ASCII_41", "ASCII_93"}
_COMMA, _SEMICOLON = "ASCII_44", "ASCII_59"
# What begins an expression, and what ends one, beside brackets.
_BEGIN = {"SELECT", _SEMICOLON, _COMMA, "COLON_EQUALS", "EQUALS_GREATER", "BY", "WHEN", "THEN", "ELSE", "WHERE", "ON"}
_BEGIN |= {"HAVING", "IF_P", "ELSIF", "RETURN", "WHILE", "DEFAULT", "BEGIN_P"}
_END = {"ORDER", "GROUP_P", "LIMIT", "OFFSET", "HAVING", "UNION", "FOR", "THEN", "WHEN", "ELSE", "WHERE", "RETURNING"}
_END |= {_SEMICOLON, _COMMA, "JOIN", "LEFT", "CROSS", "AS", "ON", "INTO", "FROM", "WINDOW", "LOOP"}
_SHORT = 14  # so short a clause is named with its line

Change = tuple[int, int, str]  # from where, to where, and what is put there


@dataclass(frozen=True)
class Mutant:
    """A file in which one clause is broken.

    Attributes:
        path: the file, below sql/.
        line: where the clause is.
        what: the clause, and what stands there instead; unique in its file.
        text: the file.
    """

    path: str
    line: int
    what: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.path} | {self.what}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield each mutant of a file."""
    text = path.read_text("utf-8")
    seen: Counter[str] = Counter()
    for start, end, instead in _Clauses(text).changes():
        if text[start:end] == instead:
            continue  # TRUE is true already
        clause = " ".join(text[start:end].split())
        what = f"{clause} -> {' '.join(instead.split()) or 'nothing'}"
        if len(clause) < _SHORT:
            what += f" in: {text[text.rfind(chr(10), 0, start) + 1 :].splitlines()[0].strip()}"
        seen[what] += 1
        what += f" ({seen[what]})" if seen[what] > 1 else ""
        line = text.count("\n", 0, start) + 1
        yield Mutant(path.relative_to(SOURCES).as_posix(), line, what, text[:start] + instead + text[end:])


@dataclass(frozen=True)
class _Token:
    name: str
    text: str
    start: int
    end: int
    depth: int  # in how many brackets and CASEs


def _tokens(text: str) -> Iterator[_Token]:
    """Cut a file. A placeholder counts as a name, and the inside of a body is cut, too."""
    blank = _NOT_SQL.sub(lambda found: ("x" if found[0][0] == "@" else " ") * len(found[0]), text)
    depth = 0
    cases: list[int] = []  # their depths
    for each in scan(blank):
        word = text[each.start : each.end + 1]
        name = _OF_PLPGSQL.get(word.lower(), each.name)
        if name == "SQL_COMMENT":
            continue
        if name == "END_P" and cases[-1:] == [depth]:
            name = "END_CASE"
            cases.pop()
        depth -= name in _CLOSE or name == "END_CASE"
        yield _Token(name, word, each.start, each.end + 1, depth)
        depth += name in _OPEN
        if name == "CASE":
            cases.append(depth)


class _Clauses:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        betweens = [at for at, token in enumerate(self.tokens) if token.name == "BETWEEN"]
        self.of_between = {self.next(at, {"AND"}) for at in betweens}

    def changes(self) -> Iterator[Change]:
        for at, token in enumerate(self.tokens):
            before, after = (
                self.tokens[place].name if 0 <= place < len(self.tokens) else "" for place in (at - 1, at + 1)
            )
            yield from self.of_condition(at, token.name, before, after)
            yield from self.of_value(at, token, before, after)
            yield from self.of_rows(at, token.name, before, after)
        for whole in _WHOLE.finditer(self.text):
            yield whole.start(), whole.end(), ""

    def of_condition(self, at: int, name: str, before: str, after: str) -> Iterator[Change]:
        """Drop an operand; make a condition always true, or never."""
        if name in {"AND", "OR"} and at not in self.of_between and after != "REPLACE":
            first = self.first_of_operand(at)
            if not first or self.tokens[first - 1].name != name:
                yield self.tokens[first].start, self.tokens[at + 1].start, ""
            yield self.change(at, self.last_of_operand(at))
        elif name in {"WHERE", "ON", "HAVING"} and after not in _OBJECTS:
            last = self.last_of_operand(at, {"AND", "OR"})
            depth = self.tokens[at].depth
            if not any(token.name == "AND" and token.depth == depth for token in self.tokens[at + 1 : last]):
                yield self.change(at + 1, last, "TRUE")
        elif name in {"IF_P", "ELSIF", "WHEN"} and before != "END_P":
            last = self.last_of_operand(at, {"AND", "OR"})
            if last > at:
                yield self.change(at + 1, last, "TRUE")
                yield self.change(at + 1, last, "FALSE")

    def of_value(self, at: int, token: _Token, before: str, after: str) -> Iterator[Change]:
        """Turn a comparison; unwrap COALESCE."""
        if (
            token.text in _COMPARISONS
            and self.tokens[at - 1].text not in _ASSIGNED
            and self.tokens[at - 2].name != "SET"
        ):
            yield self.change(at, at, _COMPARISONS[token.text])
        elif token.name == "IS" and after != "SCONST":
            yield self.change(at, at + 1, "IS") if after == "NOT" else self.change(at, at, "IS NOT")
        elif token.name == "NOT" and before not in {"IS", "IF_P", "ELSIF", "WHEN"}:
            yield token.start, self.tokens[at + 1].start, ""
        elif token.name == "COALESCE":
            comma = self.next(at + 1, {_COMMA}, token.depth + 1)
            first = self.text[self.tokens[at + 1].end : self.tokens[comma].start]
            yield self.change(at, self.next(at + 1, _CLOSE), first)

    def of_rows(self, at: int, name: str, before: str, after: str) -> Iterator[Change]:
        """Drop a lock, an order, a limit; weaken or strengthen a lock; turn an order; keep rows out, or let them in."""
        if name == "ORDER":
            last = self.next(at, _END - {_COMMA, "AS"}) - 1
            key = min(self.next(at + 1, {_COMMA, "NULLS_P", "DESC"}) - 1, last)
            yield self.change(at, last)
            if "DESC" not in self.text[self.tokens[key].end :][:6]:
                start, end = self.tokens[at + 2].start, self.tokens[key].end
                yield start, end, f"{self.text[start:end]} DESC"
        elif name == "LIMIT" or (name == "FOR" and after in {"UPDATE", "NO", "KEY", "SHARE"}):
            yield self.change(at, self.next(at, _END) - 1)
        elif (name, after) in {("SKIP", "LOCKED"), ("NO", "KEY")} or name == "NULLS_P":
            yield self.change(at, at + 1)
        elif name in {"DESC", "ONLY", "NOWAIT"} or (name, after) in {("KEY", "SHARE"), ("LEFT", "JOIN")}:
            yield self.change(at, at)
        if name == "DISTINCT" and before not in {"IS", "NOT"}:
            yield self.change(at, at)

    def change(self, first: int, last: int, instead: str = "") -> Change:
        return self.tokens[first].start, self.tokens[last].end, instead

    def last_of_operand(self, at: int, inside: frozenset[str] | set[str] = frozenset()) -> int:
        """Return the place of the last token of the operand that follows. An operand of OR may have an AND inside."""
        inside = inside or ({"AND"} if self.tokens[at].name == "OR" else inside)
        return self.next(at, _END | {"AND", "OR", "END_P"} - inside) - 1

    def first_of_operand(self, at: int) -> int:
        token = self.tokens[at]
        stops = _BEGIN | ({"OR"} if token.name == "OR" else {"AND", "OR"})
        for place in range(at - 1, -1, -1):
            each = self.tokens[place]
            if each.depth < token.depth and each.name in _OPEN:
                return place + 1
            if each.depth == token.depth and each.name in stops and place not in self.of_between:
                return place + 1
        return 0

    def next(self, at: int, names: set[str], depth: int | None = None) -> int:
        """Return the place of the next token of these names on the same level, at most where that level ends."""
        depth = self.tokens[at].depth if depth is None else depth
        for place in range(at + 1, len(self.tokens)):
            token = self.tokens[place]
            of_operator = token.name == "FROM" and self.tokens[place - 1].name == "DISTINCT"
            found = token.name in names and token.depth == depth and not of_operator
            if token.depth < depth or (found and place not in getattr(self, "of_between", ())):
                return place
        return len(self.tokens)
