"""Prints both tables of ``protocol`` as mermaid diagrams, as they stand in ``docs/handoff.md``."""

from __future__ import annotations

from kv_transfer.protocol import RECEIVER, SENDER, diagram

if __name__ == "__main__":
    print(diagram(SENDER), diagram(RECEIVER), sep="\n", end="")
