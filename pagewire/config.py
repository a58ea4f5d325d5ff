"""How an engine and a node are to run: what the command line fills in, frozen.

Knows no default that depends on the machine; ``pagewire.cli`` works those out.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU_KV_BYTES = 1 << 30  # of KV memory where nothing else is said and there is no GPU to be filled


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine, whichever role its node plays.

    ``num_pages`` pages of ``page_size`` tokens each are all the KV memory there is. A step computes at most
    ``max_batch_tokens`` tokens for at most ``max_num_seqs`` sequences; a prompt that does not fit the budget
    is computed in chunks. Beside sequences that decode, which wait for the whole step, at most
    ``max_mixed_tokens`` are of prompts; None: as many as fit. ``async_scheduling``: a step begins before the
    tokens of the one before are seen; the tokens are the same.
    """

    max_model_len: int
    num_pages: int
    page_size: int = 16
    max_batch_tokens: int = 512
    max_mixed_tokens: int | None = None
    max_num_seqs: int = 64
    prefix_caching: bool = True
    async_scheduling: bool = False
