"""Arms: what is measured side by side, written as words: `drafter=model shaper=adaptive`."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from itertools import product
from typing import Literal, cast

from attrs import evolve, frozen

from toolkit import ToolkitError

Engine = Literal["toolkit", "hf:generate", "hf:assisted", "hf:lookup"]
PARTS = ("drafter", "shaper", "verifier", "kv", "draft_kv")
WORDS: dict[str, tuple[str, ...]] = {
    "toolkit": PARTS,
    "ar": ("kv",),
    "hf:generate": (),
    "hf:assisted": ("drafter", "k"),
    "hf:lookup": ("k",),
}
BRACES = re.compile(r"\{([^{}]*)\}")


@frozen
class Arm:
    """One way to decode. `parts` are its words without `name` and `lossy`."""

    name: str
    engine: Engine
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
        """The arm as words, its name apart."""
        head = [] if self.engine == "toolkit" else [self.engine]
        words = [f"{key}={shlex.quote(value)}" for key, value in self.parts]
        return " ".join([*head, *words, *(["lossy"] if self.lossy else [])])


def autoregressive(kv: str = "full") -> Arm:
    """Plain decoding under a KV policy: what the other arms of that policy are compared with."""
    rest = () if kv == "full" else (("kv", kv),)
    name = "ar" if kv == "full" else f"ar kv={kv}"
    return Arm(name, "toolkit", (("drafter", "none"), ("shaper", "chain"), *rest))


def arms_of(texts: Iterable[str]) -> list[Arm]:
    """Every arm that the texts describe, braces expanded, AR first for every KV policy among them.

    Raises `ToolkitError`.
    """
    given = [arm for text in texts for arm in expanded(text)]
    kvs = dict.fromkeys(["full", *(arm.kv for arm in given)])
    arms = [autoregressive(kv) for kv in kvs]
    known = {arm.name for arm in arms}
    for arm in given:
        if arm in arms:  # AR, named once more
            continue
        if arm.name in known:
            raise ToolkitError(
                f"two arms are called {arm.name!r}: give one of them another name, as in name=other"
            )
        known.add(arm.name)
        arms.append(arm)
    return arms


def expanded(text: str) -> list[Arm]:
    """One arm per combination of the values in braces: `shaper=fixed:depth={3,4}` is two arms."""
    choices = [values.split(",") for values in BRACES.findall(text)]
    if not choices:
        return [parsed(text)]
    arms = []
    for values in product(*choices):
        rest = iter(values)
        arm = parsed(BRACES.sub(lambda _, rest=rest: next(rest), text))  # type: ignore[misc]
        named = "name=" in text and not re.search(r"name=\S*\{", text)
        arms.append(evolve(arm, name=f"{arm.name} {','.join(values)}") if named else arm)
    return arms


def parsed(text: str) -> Arm:
    """One arm. Raises `ToolkitError` with the words that an arm may have."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ToolkitError(f"arm {text!r} has a quote that is not closed: {error}") from error
    if not words:
        raise ToolkitError("an arm is empty: write words such as drafter=model shaper=adaptive")
    lossy = "lossy" in words
    bare = [word for word in words if "=" not in word and word != "lossy"]
    head = bare[0] if bare else "toolkit"
    strange = next((word for word in bare if word not in WORDS or word != head), None)
    if strange is not None:
        raise ToolkitError(_no_such(strange, text))
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            continue
        if key not in ("name", *WORDS[head]):
            raise ToolkitError(_unknown(word, key, head, text))
        if key in given:
            raise ToolkitError(f"arm {text!r} has {key} twice: write it once")
        given[key] = value
    name = given.pop("name", None)
    if head == "ar":
        plain = autoregressive(given.get("kv", "full"))
        return evolve(plain, name=name or plain.name, lossy=lossy)
    shown = " ".join(word for word in words if not word.startswith("name="))
    return Arm(name or shown, cast("Engine", head), tuple(given.items()), lossy)


def _no_such(head: str, text: str) -> str:
    near = difflib.get_close_matches(head, WORDS, 1)
    known = ", ".join(name for name in WORDS if name != "toolkit")
    hint = f"did you mean {near[0]}?" if near else f"there are {known}"
    ours = "ours are words, as in drafter=model shaper=chain"
    return f"no arm called {head!r} in {text!r}: {hint}; {ours}"


def _unknown(word: str, key: str, head: str, text: str) -> str:
    known = ("name", *WORDS[head])
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {near[0]}=…?" if near else f"it may have {', '.join(known)}, and lossy"
    return f"arm {text!r} cannot have {word!r}: {hint}"
