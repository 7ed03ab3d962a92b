"""Arms: the ways to decode that a bench compares, as words: `drafter=model shaper=adaptive`."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from itertools import product
from typing import Literal, cast

from attrs import evolve, frozen

from toolkit import ToolkitError
from toolkit.words import did_you_mean, parse_whole, quote

EngineName = Literal["toolkit", "hf:generate", "hf:assisted", "hf:lookup"]
PARTS = ("drafter", "shaper", "verifier", "kv", "draft_kv")
WORDS: dict[str, tuple[str, ...]] = {
    "toolkit": PARTS,
    "ar": ("kv",),
    "hf:generate": (),
    "hf:assisted": ("drafter", "k", "schedule"),
    "hf:lookup": ("k",),
}
BRACES = re.compile(r"\{([^{}]*)\}")
MOST_ARMS = 1000  # arms of one bench
MOST_DRAFTED = 1024  # tokens that an arm of Hugging Face's may draft per step


@frozen
class Arm:
    """One way to decode. `parts`: its words without `name` and `lossy`."""

    name: str
    engine: EngineName
    parts: tuple[tuple[str, str], ...]
    lossy: bool = False

    @property
    def specs(self) -> dict[str, str]:
        return dict(self.parts)

    @property
    def kv(self) -> str:
        return self.specs.get("kv", "full")

    @property
    def spec(self) -> str:
        """The arm as words, without its name."""
        head = [] if self.engine == "toolkit" else [self.engine]
        words = [f"{key}={shlex.quote(value)}" for key, value in self.parts]
        return " ".join([*head, *words, *(["lossy"] if self.lossy else [])])


def make_ar(kv: str = "full") -> Arm:
    """The AR arm of a KV policy, the baseline of every arm with that policy."""
    rest = () if kv == "full" else (("kv", kv),)
    name = "ar" if kv == "full" else f"ar kv={kv}"
    return Arm(name, "toolkit", (("drafter", "none"), ("shaper", "chain"), *rest))


def parse_arms(texts: Iterable[str]) -> list[Arm]:
    """Parse arms, a combination of values in braces each; the AR arm of every KV policy comes first.

    Raises `ToolkitError`.
    """
    texts = list(texts)
    require_few(sum(math.prod(map(len, _find_braces(text))) for text in texts), "values in braces")
    given = [arm for text in texts for arm in parse_braces(text)]
    kvs = dict.fromkeys(["full", *(arm.kv for arm in given)])
    arms = {arm.name: arm for arm in map(make_ar, kvs)}
    for arm in given:
        if arms.setdefault(arm.name, arm) != arm:  # the same arm twice is one arm
            raise ToolkitError(
                f"two arms are called {quote(arm.name)}: give one of them another name, as in "
                f"name=other"
            )
    return list(arms.values())


def require_few(count: int, what: str) -> None:
    """Raise `ToolkitError` when there are more arms than a bench accepts."""
    if count > MOST_ARMS:
        raise ToolkitError(
            f"there are more than {MOST_ARMS} arms, too many for a bench: give fewer {what}"
        )


def parse_braces(text: str) -> list[Arm]:
    """One arm per combination of the values in braces: `shaper=fixed:depth={3,4}` is two arms."""
    choices = _find_braces(text)
    if not choices:
        return [parse_arm(text)]
    arms = []
    for values in product(*choices):
        rest = iter(values)
        arm = parse_arm(BRACES.sub(lambda _, rest=rest: next(rest), text))  # type: ignore[misc]
        named = "name=" in text and not re.search(r"name=\S*\{", text)
        arms.append(evolve(arm, name=f"{arm.name} {','.join(values)}") if named else arm)
    return arms


def _find_braces(text: str) -> list[list[str]]:
    """The values in each pair of braces."""
    return [values.split(",") for values in BRACES.findall(text)]


def parse_arm(text: str) -> Arm:
    """Parse one arm. Raises `ToolkitError`, which names the words that an arm may have."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ToolkitError(f"arm {quote(text)} has a quote that is not closed: {error}") from error
    if not words:
        raise ToolkitError("an arm is empty: write words such as drafter=model shaper=adaptive")
    if not all(word.isprintable() for word in words):
        raise ToolkitError(
            f"arm {quote(text)} holds a character that cannot be printed: leave it out"
        )
    lossy = "lossy" in words
    bare = [word for word in words if "=" not in word and word != "lossy"]
    head = bare[0] if bare else "toolkit"
    strange = next((word for word in bare if word not in WORDS or word != head), None)
    if strange is not None:
        raise ToolkitError(_say_unknown_arm(strange, text))
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            continue
        if key not in ("name", *WORDS[head]):
            raise ToolkitError(_say_unknown_word(word, key, head, text))
        if key in given:
            raise ToolkitError(f"arm {quote(text)} has {key} twice: write it once")
        given[key] = value
    name = given.pop("name", None)
    if name is not None and not name.strip():
        raise ToolkitError(
            f"arm {quote(text)} has an empty name: write name=short, or leave it out"
        )
    if "k" in given:
        require_count(given["k"], text)
    if given.get("schedule", "heuristic") != "heuristic":
        raise ToolkitError(
            f"arm {quote(text)}: schedule is heuristic, or left out; not {quote(given['schedule'])}"
        )
    if head == "ar":
        plain = make_ar(given.get("kv", "full"))
        return evolve(plain, name=name or plain.name, lossy=lossy)
    spec = " ".join(word for word in words if not word.startswith("name="))
    return Arm(name or spec, cast("EngineName", head), tuple(given.items()), lossy)


def require_count(k: str, text: str) -> None:
    """Raise `ToolkitError` unless an arm of Hugging Face's can draft `k` tokens per step."""
    try:
        fits = 1 <= parse_whole(k) <= MOST_DRAFTED
    except ValueError:
        fits = False
    if not fits:
        raise ToolkitError(
            f"arm {quote(text)}: k is a count of tokens from 1 to {MOST_DRAFTED}, not {quote(k)}"
        )


def _say_unknown_arm(head: str, text: str) -> str:
    known = [name for name in WORDS if name != "toolkit"]
    hint = did_you_mean(head, known, f"there are {', '.join(known)}")
    ours = "ours are words, as in drafter=model shaper=chain"
    return f"no arm called {quote(head)} in {quote(text)}: {hint}; {ours}"


def _say_unknown_word(word: str, key: str, head: str, text: str) -> str:
    known = ("name", *WORDS[head])
    hint = did_you_mean(key, known, f"it may have {', '.join(known)}, and lossy")
    return f"arm {quote(text)} cannot have {quote(word)}: {hint}"
