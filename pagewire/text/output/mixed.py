"""Grammars put together: thinking before what must match, and calls of tools or else an answer that matches.

Knows llguidance's dialect of Lark, in which one grammar can stand in another; compiles nothing.
"""

from __future__ import annotations

import json

from pagewire.sampling import Grammar
from pagewire.text.output.reasoning import CLOSE, OPEN

# One line, with at most one blank behind a comma or a colon: small models may write blanks for ever.
_BLANKS = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}}


def after_thinking(grammar: Grammar, *, opened: bool) -> Grammar:
    """``grammar`` once the model has thought. ``opened``: the prompt has begun that; else it is optional."""
    start, begin = ("thought gap answer", "") if opened else ("(thought gap)? answer", OPEN)
    rules = [
        f"start: {start}",
        f'thought[suffix="{CLOSE}"]: /{begin}(?s:.*)/',
        r"gap: /[ \n]{0,2}/",
        f"answer: {_inside(grammar)}",
    ]
    return Grammar("lark", "\n".join(rules) + "\n")


def either(one: Grammar, other: Grammar) -> Grammar:
    return Grammar("lark", f"start: one | other\none: {_inside(one)}\nother: {_inside(other)}\n")


def _inside(grammar: Grammar) -> str:
    if grammar.kind == "json_schema":
        schema = json.loads(grammar.text)
        return f"%json {json.dumps(schema | _BLANKS if isinstance(schema, dict) else schema)}"
    if grammar.kind == "regex":
        return "/" + grammar.text.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n") + "/"
    return f"%lark {{\n{grammar.text}\n}}"
