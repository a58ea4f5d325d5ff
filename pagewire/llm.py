"""Offline generation: the same engine without a wire.

    from pagewire import LLM, SamplingParams
    for output in LLM(model="demo").generate(["The capital of France is"], SamplingParams(max_tokens=8)):
        print(output.outputs[0].text)

Knows an engine and a tokenizer; knows no router and no node.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from pagewire.engine.build import CAPTURES, build_engine
from pagewire.engine.engine import Finished, Token
from pagewire.engine.prompt_logprobs import PromptLogprobs
from pagewire.engine.sequence import Sequence
from pagewire.errors import PromptTooLong, RequestError, RequestFailed
from pagewire.hub import DEMO, resolve
from pagewire.messages import RequestId
from pagewire.outputs import CompletionOutput, Logprob, RequestOutput
from pagewire.sampling import SamplingParams
from pagewire.text.chat import render
from pagewire.text.stream import TextStream
from pagewire.text.tokenizer import Tokenizer, load_tokenizer

Prompt = str | list[int] | dict[str, Any]
Messages = list[dict[str, Any]]


class LLM:
    """A model in this process.

    ``model`` is "demo", a folder, a ``.gguf`` file or a hub id. ``kv_cache_bytes`` bounds the memory for KV
    pages; ``max_num_batched_tokens`` the tokens of one step. Greedy and seeded results do not depend on
    either.
    """

    def __init__(
        self,
        model: str = DEMO,
        *,
        dtype: str = "auto",
        load_format: str = "auto",
        quantization: str = "auto",
        kv_cache_dtype: str = "auto",
        activation_bits: str = "auto",
        max_model_len: int | None = None,
        kv_cache_bytes: int | None = None,
        gpu_memory_utilization: float = 0.9,
        page_size: int = 16,
        max_num_batched_tokens: int | None = None,
        max_num_seqs: int = 64,
        enable_prefix_caching: bool = True,
        async_scheduling: bool | None = None,
        enforce_eager: bool = False,
        deterministic: bool = False,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        source = resolve(model)
        built = build_engine(
            source,
            dtype=dtype,
            load_format=load_format,
            quantization=quantization,
            kv_cache_dtype=kv_cache_dtype,
            activation_bits=activation_bits,
            max_model_len=max_model_len,
            kv_cache_bytes=kv_cache_bytes,
            gpu_memory_utilization=gpu_memory_utilization,
            page_size=page_size,
            max_batch_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            prefix_caching=enable_prefix_caching,
            async_scheduling=async_scheduling,
            capture=() if enforce_eager else CAPTURES,
            deterministic=deterministic,
        )
        self.engine = built.engine
        self._tokenizer = load_tokenizer(source)
        self._count = 0

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def generate(
        self,
        prompts: Prompt | Many[Prompt],
        sampling_params: SamplingParams | Many[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete each prompt: a string, a list of token ids, or {"prompt_token_ids": [...]}.

        Results come in the order of the prompts. Raises RequestError before any work if one of them cannot be
        served; RequestFailed, with everything freed, if the model breaks down under one.
        """
        many = _as_list(prompts)
        params = _each(sampling_params, len(many))
        calls = [self._call(prompt, p) for prompt, p in zip(many, params, strict=True)]
        return self._run(calls, use_tqdm)

    def chat(
        self,
        messages: Messages | list[Messages],
        sampling_params: SamplingParams | Many[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of several, through the model's chat template."""
        talks = messages if messages and isinstance(messages[0], list) else [messages]
        prompts = []
        for talk in talks:
            text = render(self._tokenizer, talk, add_generation_prompt=add_generation_prompt)  # type: ignore[arg-type]
            prompts.append(
                {"prompt_token_ids": self._tokenizer.encode(text, add_special_tokens=False), "prompt": text}
            )
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def _call(self, prompt: Prompt, params: SamplingParams) -> _Call:
        text, tokens = self._tokens(prompt)
        limit = self.engine.config.max_model_len
        if not tokens:
            raise RequestError("the prompt is empty", param="prompt")
        if len(tokens) >= limit:
            raise PromptTooLong(
                f"the prompt has {len(tokens)} tokens and the context {limit}", param="prompt"
            )
        if params.grammar is not None and self.engine.grammars is not None:
            self.engine.grammars.check(params.grammar)
        self._count += 1
        new = params.max_tokens if params.max_tokens is not None else limit
        seq = Sequence(
            request=RequestId(f"{self._count:032x}"),
            attempt=1,
            choices=list(range(params.n)),
            tokens=list(tokens),
            num_prompt=len(tokens),
            sampling=params,
            seed=params.seed if params.seed is not None else secrets.randbits(63),
            max_len=min(len(tokens) + new, limit),
        )
        return _Call(seq, text, tokens, self._tokenizer)

    def _tokens(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        match prompt:
            case str():
                return prompt, self._tokenizer.encode(prompt)
            case list():
                return None, prompt
            case {"prompt_token_ids": list(tokens)}:
                return prompt.get("prompt"), tokens
            case {"prompt": str(text)}:
                return text, self._tokenizer.encode(text)
        raise RequestError("a prompt is a string, token ids, or a dict with one of them", param="prompt")

    def _run(self, calls: list[_Call], use_tqdm: bool) -> list[RequestOutput]:
        by_request = {call.seq.request: call for call in calls}
        bar: AbstractContextManager[Any] = (
            tqdm(total=len(calls), desc="prompts", unit="prompt") if use_tqdm else nullcontext()
        )
        try:
            with bar as progress:
                for call in calls:
                    self.engine.admit(call.seq)
                open_calls = len(calls)
                while open_calls:
                    for done in self._step(by_request):
                        open_calls -= 1
                        if progress is not None:
                            progress.update(1)
                        assert done.finished
        finally:
            for seq in self.engine.sequences():
                self._release(self.engine.abort(seq))
        return [call.output for call in calls]

    def _step(self, calls: dict[RequestId, _Call]) -> Iterable[_Call]:
        """One step; the calls that it finished."""
        out = self.engine.step()
        touched: dict[RequestId, _Call] = {}
        for seq, scores in out.prompt_logprobs:
            calls[seq.request].take_prompt(scores)
        for token in out.tokens:
            call = calls[token.seq.request]
            if call.take(token):
                self._stop(token)
            touched[token.seq.request] = call
        for finished in out.finished:
            self._close(finished)
        return [call for call in touched.values() if call.finished]

    def _stop(self, token: Token) -> None:
        """A stop string ended this choice: the engine need not go on with it."""
        for seq in self.engine.sequences(token.seq.request):
            if seq.choices == [token.choice]:
                self._release(self.engine.abort(seq))

    def _close(self, finished: Finished) -> None:
        self.engine.pool.release(finished.lease)
        if finished.error:
            raise RequestFailed(finished.error)

    def _release(self, lease: Any) -> None:
        if lease is not None:
            self.engine.pool.release(lease)


@dataclass(slots=True)
class _Choice:
    output: CompletionOutput
    stream: TextStream


class _Call:
    """One prompt of a generate call: its sequence, and the text and logprobs gathered so far."""

    def __init__(self, seq: Sequence, prompt: str | None, tokens: list[int], tokenizer: Tokenizer) -> None:
        self.seq = seq
        self._params = seq.sampling
        self._tokenizer = tokenizer
        want = self._params.logprobs is not None
        self._choices = [
            _Choice(
                CompletionOutput(
                    index, logprobs=[] if want else None, cumulative_logprob=0.0 if want else None
                ),
                TextStream(tokenizer, self._params),
            )
            for index in seq.choices
        ]
        self.output = RequestOutput(
            str(int(seq.request, 16) - 1), prompt, tokens, [c.output for c in self._choices]
        )

    @property
    def finished(self) -> bool:
        return all(choice.output.finish_reason is not None for choice in self._choices)

    def take(self, token: Token) -> bool:
        """Add a token to its choice. True if a stop string ended the choice before the engine would."""
        choice, drawn = self._choices[token.choice], token.sampled
        out = choice.output
        if out.finish_reason is not None:
            return False
        self.output.num_cached_tokens = token.seq.prefix_hit
        out.token_ids.append(drawn.token)
        if out.logprobs is not None and drawn.logprob is not None:
            out.logprobs.append(self._entry(drawn.token, drawn.logprob, drawn.top))
            out.cumulative_logprob = (out.cumulative_logprob or 0.0) + drawn.logprob
        delta = choice.stream.push(drawn.token, last=bool(token.finish), hidden=token.stop_token >= 0)
        out.text += delta.text
        if delta.stopped is not None:
            out.finish_reason, out.stop_reason = "stop", delta.stopped
            return not token.finish
        if token.finish:
            out.finish_reason = token.finish
            out.stop_reason = token.stop_token if token.stop_token in self._params.stop_token_ids else None
        return False

    def take_prompt(self, scores: PromptLogprobs) -> None:
        following = self.output.prompt_token_ids[1:]
        self.output.prompt_logprobs = [
            None,
            *(self._entry(*entry) for entry in zip(following, scores.logprobs, scores.top, strict=True)),
        ]

    def _entry(self, token: int, logprob: float, top: list[tuple[int, float]]) -> dict[int, Logprob]:
        text = self._tokenizer.token_text
        entry = {tid: Logprob(value, rank, text(tid)) for rank, (tid, value) in enumerate(top, 1)}
        return entry if token in entry else {token: Logprob(logprob, 0, text(token)), **entry}


def _as_list(prompts: Prompt | Many[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | dict) or (prompts and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _each(params: SamplingParams | Many[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise RequestError(f"{len(params)} sampling_params for {count} prompts", param="sampling_params")
    return list(params)
