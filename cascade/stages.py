"""Stages: pipelines in words, as `target=stories-3m drafter=ngram`, and the answers that they give."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from time import perf_counter

from attrs import frozen

from toolkit import (
    Generation,
    Pipeline,
    Pool,
    Registry,
    ToolkitError,
    is_chat_model,
    teacher_force,
)
from toolkit.words import did_you_mean, parse_whole, quote

from .answers import Answer, hash_text

SPECS = ("target", "drafter", "shaper", "verifier", "kv", "draft_kv")
LENGTH = "max_new_tokens"
EXAMPLE = '"target=stories-1m drafter=ngram"'


@frozen(eq=False)
class Stage:
    """A pipeline that answers greedily with at most `max_new_tokens`. `name` is its words."""

    number: int
    name: str
    pipeline: Pipeline
    max_new_tokens: int

    def decode(self, prompt: str, *, chat: bool) -> Generation:
        """Decode a prompt; with `chat`, instruct models are sent a message, as by `toolkit run`."""
        return self.pipeline.generate(self._ids(prompt, chat), max_new_tokens=self.max_new_tokens)

    def _ids(self, prompt: str, chat: bool) -> list[int]:
        as_message = chat and is_chat_model(self.pipeline.target, self.pipeline.pool)
        return self.pipeline.encode([{"role": "user", "content": prompt}] if as_message else prompt)

    def answer(self, prompt: str, *, chat: bool) -> tuple[Answer, Generation]:
        """Decode a prompt and measure the answer. Its seconds include the pass over the finished text
        that gives log-probabilities and margins."""
        self.pipeline.load()
        began = perf_counter()
        made = self.decode(prompt, chat=chat)
        law = teacher_force(
            self.pipeline, [*made.prompt_ids, *made.token_ids], len(made.prompt_ids)
        ).logits.log_softmax(-1)
        best = law.topk(2, dim=-1).values
        own = law[range(len(made.token_ids)), made.token_ids]
        logprobs, margins = own.tolist(), (best[:, 0] - best[:, 1]).tolist()
        seconds = perf_counter() - began
        model = self.pipeline.pool.load(self.pipeline.target)
        tokens = len(made.prompt_ids) + len(made.token_ids)
        answer = Answer(
            prompt_id=hash_text(prompt),
            stage=self.number,
            name=self.name,
            text=made.text,
            prompt_tokens=len(made.prompt_ids),
            tokens=len(made.token_ids),
            seconds=seconds,
            flops=2.0 * model.parameters * tokens,
            bytes=float(model.weight_bytes) * (1 + len(made.steps)),
            logprobs=logprobs,
            margins=margins,
            quality=None,
        )
        return answer, made


def make_stages(
    texts: Sequence[str], pool: Pool, registry: Registry, max_new_tokens: int | None = None
) -> list[Stage]:
    """Make the pipelines of two stages or more, cheapest first; no weights are loaded.

    `max_new_tokens` is that of stages whose words do not say it. Raises `ToolkitError`.
    """
    if len(texts) < 2:
        raise ToolkitError(
            f"a cascade has two stages or more, and {len(texts)} were given: give --stage several "
            f"times, the cheapest first, as in --stage {EXAMPLE}"
        )
    return [_make_stage(n, text, pool, registry, max_new_tokens) for n, text in enumerate(texts)]


def _make_stage(
    number: int, text: str, pool: Pool, registry: Registry, max_new_tokens: int | None
) -> Stage:
    words = parse_stage(text)
    words.setdefault(LENGTH, str(max_new_tokens))
    name = " ".join(f"{key}={shlex.quote(value)}" for key, value in words.items())
    try:
        length = parse_whole(words.pop(LENGTH))
    except ValueError as error:
        raise ToolkitError(f"stage {quote(text)}: {LENGTH} is a count of tokens") from error
    if length < 1:
        raise ToolkitError(f"stage {quote(text)}: {LENGTH} must be at least 1, got {length}")
    target = words.pop("target")
    greedy = {"temperature": 0}
    pipeline = Pipeline(target, **words, sampling=greedy, pool=pool, registry=registry)  # type: ignore[arg-type]
    if pipeline.verifier.cls.exactness == "lossy":
        raise ToolkitError(
            f"stage {quote(text)}: verifier {pipeline.verifier} is lossy, and a stage answers with the "
            f"tokens of its target: use another verifier"
        )
    return Stage(number, name, pipeline, length)


def parse_stage(text: str) -> dict[str, str]:
    """The words of a stage by their keys. Raises `ToolkitError`, which names the keys."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ToolkitError(f"stage {quote(text)} has a quote that is not closed") from error
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word == "ar":
            found |= {"drafter": "none", "shaper": "chain"}
        elif not (equals and value and key in (*SPECS, LENGTH)):
            hint = did_you_mean(key, [*SPECS, LENGTH], f"it may have ar, {', '.join(SPECS)}")
            raise ToolkitError(f"stage {quote(text)} cannot have {quote(word)}: {hint}")
        elif key in found:
            raise ToolkitError(f"stage {quote(text)} has {key} twice: write it once")
        else:
            found[key] = value
    if "target" not in found:
        raise ToolkitError(f"stage {quote(text)} has no target: write it as {EXAMPLE}")
    return found
