"""What was read of a file, and what becomes of it when it was judged."""

from __future__ import annotations

from snaprotd.config.text.document import FREED_AT_ONCE
from snaprotd.config.text.yaml_nodes import read


def test_what_is_large_is_taken_apart_bit_by_bit() -> None:
    """Else to free it would keep all threads waiting: nothing of it is left to be freed with what holds it."""
    few, many = "[1, 2]", f"[{', '.join(map(str, range(500)))}]"
    document = read(f"a: [{few}, {many}]\nb: {{c: {{d: {many}, e: {few}}}}}\n")
    assert document.root is not None
    left, large = [document.root], []
    while left:
        node = left.pop()
        large += [node] if node.size > FREED_AT_ONCE else []
        content = node.content
        left += [entry.node for entry in content.values()] if isinstance(content, dict) else []
        left += content if isinstance(content, list) else []
    document.dismantle()
    assert [node.written for node in large if node.content] == []
    assert len(large) == 6
