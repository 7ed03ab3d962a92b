"""Pipeline: checks that a target and four strategies fit together, and decodes with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import Attribute, evolve

from toolkit.choice import Choice, Strategy, models_named, models_of, policies_of
from toolkit.cpu_load import Moment, busy_load
from toolkit.engine import Strategies
from toolkit.errors import MismatchError, SpecError
from toolkit.families import STORIES, find_family
from toolkit.fit import (
    Default,
    default_drafter,
    default_shaper,
    default_verifier,
    make_proposer,
    require_fit,
    require_temperature,
    require_whole_map,
)
from toolkit.hookspecs import Family
from toolkit.interfaces import Drafter, KVPolicy, TreeShaper, Verifier
from toolkit.limits import Limits
from toolkit.logits_processing import PathProcessor, join
from toolkit.progress import working
from toolkit.prompts import Prompt, encode_prompt
from toolkit.registry import Registry
from toolkit.runtime.models.pool import Pool
from toolkit.sampling import Sampling
from toolkit.strategy_errors import name_failed_strategy

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from toolkit.costs import Costs
    from toolkit.generation import Generation
    from toolkit.logits_processing import LogitsProcessor
    from toolkit.runtime.draft_runtime import DraftRuntime
    from toolkit.runtime.models.model_defaults import ModelDefaults
    from toolkit.runtime.session import ModelSession
    from toolkit.stream import Stream

Spec = str | Strategy | type[Strategy] | Choice[Any]


class Pipeline:
    """A target and four strategies that fit; decodes any number of prompts.

    `target`: an alias, a folder, a hub id or a transformers model. By default it is the usual
    target of the drafter's family, else the verifier that the drafter's config names, or the shipped
    target without a drafter. The default drafter is
    `ngram` with a target, and the shipped draft model without one. Strategies are spec strings,
    classes, choices, or objects, of which only the options are used. `device` and `dtype` are
    those of a new pool of models, as `Pool` describes them; `pool` is an existing pool.
    `ignore_eos` decodes past stop tokens, for measurements of a given length. `sampling` says how
    the target's tokens are drawn, by default as the target's generation config says: greedily, unless
    it says `do_sample`. A mapping, as `{"temperature": 0.8}`, replaces single settings of it, and
    temperature 0 all of them. Its logits processors, as of `repetition_penalty`, are part of the
    model's decoding, whatever `sampling` is. `generation_config` takes the place of the model's. The
    default verifier is `greedy` at temperature 0 and otherwise `sampler-match`. The default shaper
    is `adaptive`, with `stop=0.3` where the drafter drafts for `sampler-match` above temperature 0; it
    is `growmap` for verifiers that need every drawn candidate, and with a draft model and verifier
    `greedy` on CUDA, where its steps are one graph each. `reasons` says why each
    strategy was chosen. `limits` hold for every request, whatever the shaper.

    Making a pipeline locates and checks everything and loads no weights. Checks that need neither
    torch nor transformers run before these are imported.

    Raises `SpecError`, `ModelError`, `MismatchError` or `PluginError`, each a `ToolkitError`.
    """

    def __init__(
        self,
        target: str | PreTrainedModel | None = None,
        *,
        drafter: Spec | None = None,
        shaper: Spec | None = None,
        verifier: Spec | None = None,
        kv: Spec = "full",
        draft_kv: Spec = "full",
        sampling: Sampling | Mapping[str, Any] | None = None,
        generation_config: GenerationConfig | None = None,
        limits: Limits = Limits(),  # noqa: B008 it is immutable
        device: str | None = None,
        dtype: str | None = None,
        pool: Pool | None = None,
        registry: Registry | None = None,
        ignore_eos: bool = False,
    ) -> None:
        if target == "":
            raise SpecError("target is empty: give an alias, a folder or a hub id, or leave it out")
        self.registry = registry or Registry.installed()
        if pool is not None and (device or dtype):
            raise SpecError("a pool has its own device and dtype: give them to the pool alone")
        self.pool = pool or Pool(device=device or "auto", dtype=dtype or "auto")
        settled = Sampling.settle(sampling)
        self.sampling = settled if isinstance(settled, Sampling) else Sampling()  # until it is read
        self.limits = limits
        self.ignore_eos = ignore_eos
        if target is not None and not isinstance(target, str):
            target = self.pool.hold(target)
        self.reasons: dict[str, str] = {}
        choice: Choice[Drafter] = self._resolve("drafter", drafter, default_drafter(target))
        default = default_verifier(self.sampling)
        self.verifier: Choice[Verifier] = self._resolve("verifier", verifier, default)
        default = default_shaper(choice, self.verifier, self.sampling)
        self.shaper: Choice[TreeShaper] = self._resolve("shaper", shaper, default)
        self.kv: Choice[KVPolicy] = self.registry.resolve("kv", kv)
        self.draft_kv: Choice[KVPolicy] = self.registry.resolve("kv", draft_kv)
        require_fit(choice, self.shaper, self.verifier, self.registry)
        if shaper is not None:
            require_whole_map(self.shaper, limits)
        require_temperature(self.verifier, self.sampling)
        self.pool.aliases |= self.registry.aliases
        self.target = target or self._find_target(choice)
        self.drafter = _fill_models(choice, find_family(self.target, self.registry.families))
        for name in self.models:
            self.pool.locate(name)
        self._generation_config = generation_config
        self.defaults = self._read_defaults(draws=not isinstance(settled, Sampling))
        if not isinstance(settled, Sampling):
            self.sampling = evolve(self.defaults.sampling, **settled)
            self.verifier = self._resolve("verifier", verifier, default_verifier(self.sampling))
            require_temperature(self.verifier, self.sampling)
        whole = {self.kv.cls.name, self.draft_kv.cls.name} == {"full"} and not self.defaults.options
        if shaper is None:  # now that it is known how tokens are drawn
            graphs = whole and not limits.cut_trees and self.pool.records_steps(self.models)
            default = default_shaper(choice, self.verifier, self.sampling, graphs=graphs)
            self.shaper = self._resolve("shaper", None, default)
        self._require_fitting_models()

    def __repr__(self) -> str:
        target, *others = (f"{name}={spec}" for name, spec in self.specs.items())
        where = f"device={self.pool.device}, dtype={self.pool.dtype}"
        return f"<Pipeline: {target}, {where}\n {', '.join(others)}>"

    def _resolve(self, kind: str, given: Spec | None, default: Default) -> Choice[Any]:
        """The choice that was given, or the default; `reasons` says why it was chosen."""
        self.reasons[kind] = default.why if given is None else "as you asked"
        return self.registry.resolve(kind, default.spec if given is None else given)

    def _find_target(self, drafter: Choice[Drafter]) -> str:
        """The usual target of the drafter's family, else the one that its config names, else the
        shipped one."""
        names = models_of(drafter)
        family = next(filter(None, (find_family(n, self.registry.families) for n in names)), None)
        if family is not None:
            return family.target
        return next(filter(None, map(self.pool.named_target, names)), STORIES.target)

    def _read_defaults(self, draws: bool) -> ModelDefaults:
        """What the target's generation config, or the one given, says about decoding."""
        found = self.pool.find(self.target)
        from toolkit.runtime.models.model_defaults import ModelDefaults

        return ModelDefaults.of(
            self.target, found, self._generation_config, draws=draws, ignore_eos=self.ignore_eos
        )

    def _require_fitting_models(self) -> None:
        """Raise `ModelError` or `MismatchError` for a model that is not supported or does not fit."""
        found = self.pool.find(self.target)
        from toolkit.runtime.models.supported import require_kv_supported, require_shareable
        from toolkit.runtime.models.translation import require_covered
        from toolkit.runtime.models.vocabulary import require_same_tokens

        require_kv_supported(self.kv, found)
        for name, translates in models_named(self.drafter):
            model = self.pool.find(name)
            translation = self.pool.translation(self.target, name) if translates else None
            if translation is None:
                require_same_tokens(found, model)
            else:
                require_covered(translation, name, self.verifier)
            require_kv_supported(self.draft_kv, model)
        for policy in policies_of(self.drafter):
            require_shareable(policy)
            require_kv_supported(policy, found)

    @property
    def specs(self) -> dict[str, str]:
        """The spec strings of target and strategies."""
        return {
            "target": self.target,
            "drafter": str(self.drafter),
            "shaper": str(self.shaper),
            "verifier": str(self.verifier),
            "kv": str(self.kv),
            "draft_kv": str(self.draft_kv),
        }

    @property
    def models(self) -> list[str]:
        """The names of all models in use, the target first."""
        return [self.target, *models_of(self.drafter)]

    @property
    def autoregressive(self) -> Pipeline:
        """A pipeline for AR of the same target and KV policy: the same loop without drafts."""
        return Pipeline(
            self.target,
            drafter="none",
            shaper="chain",
            kv=self.kv,
            sampling=self.sampling,
            generation_config=self._generation_config,
            pool=self.pool,
            registry=self.registry,
            ignore_eos=self.ignore_eos,
        )

    def encode(self, prompt: Prompt, template_args: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids [P] of a prompt: of a text, or of a list of messages in the model's chat template.

        `template_args` are variables of that template, as in `{"enable_thinking": False}`. Raises
        `MismatchError` when the prompt is empty, too long or not one of these.
        """
        ids = self.ids(prompt, template_args)
        if len(ids) >= self.positions:
            raise MismatchError(
                f"the prompt has {len(ids)} tokens, but target {self.target!r} has only "
                f"{self.positions} positions: shorten it"
            )
        return ids

    @property
    def positions(self) -> int:
        """The most tokens of prompt and output together."""
        from toolkit.runtime.models.supported import positions_under

        found = self.pool.find(self.target)
        return positions_under(self.kv.build(), found.positions)

    def ids(self, prompt: Prompt, template_args: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a prompt of any length; as `encode`, without a limit."""
        return encode_prompt(prompt, self.pool.find(self.target), template_args)

    def load(self) -> None:
        """Load the weights of all models, and choose or compile what runs them. A module in memory is
        loaded again if its owner has changed it.

        `generate` and `stream` call it before a request's times begin.
        """
        for name in self.models:
            self.pool.forget_changed(name)
            _ = self.pool.load(name).executor

    def costs(self, *, fresh: bool = False) -> Costs:
        """The costs of the target's passes and the drafter's levels on this machine.

        They are the pool's, if it was given any. Otherwise they are measured once and then read from
        the user's cache; measurements of a busy machine are not cached. `fresh` measures again.
        """
        if self.pool.costs is not None and not fresh:
            return self.pool.costs
        from toolkit.runtime.costs import fingerprint, store, stored
        from toolkit.runtime.measure_costs import measure_costs

        self.load()
        models = [self.pool.load(name) for name in (self.target, *models_of(self.drafter))]
        key = fingerprint(models, {kind: self.specs[kind] for kind in ("drafter", "kv", "draft_kv")})
        known = None if fresh else self.pool.measured.get(key) or stored(key)
        if known is None:
            began = Moment.now()
            positions = min(self.positions, *(model.positions for model in models))
            what = f"Measuring what passes of {self.target} and levels of {self.drafter} cost"
            free = self.drafter.is_synthetic  # what it reads is no cost
            with name_failed_strategy(), working(what):
                known = measure_costs((self.autoregressive if free else self).begin, positions)
            store(key, known, busy_load(began))
        self.pool.measured[key] = known
        return known

    def session(self) -> ModelSession:
        """A fresh session of the target under the pipeline's KV policy."""
        from toolkit.runtime.session import ModelSession

        return ModelSession(self.pool.load(self.target), self.kv.build())

    def _open(
        self, process: PathProcessor, after: Stream | None = None, seed: int = 0
    ) -> tuple[ModelSession, DraftRuntime]:
        """Sessions for one request: the target's, that of `after` where it can serve the prompt, and a
        runtime that opens the drafter's."""
        from toolkit.runtime.draft_runtime import DraftRuntime

        target = None
        if after is not None and self._shares_cache(after):
            target = after.hand_over(list(process.committed), self.kv.build())
        target = target or self.session()
        proposer = make_proposer(self.drafter, self.verifier, self.sampling, seed, process)
        return target, DraftRuntime(self.pool, target, self.draft_kv, proposer)

    def _shares_cache(self, stream: Stream) -> bool:
        """Whether a request was decoded by the model that this pipeline uses, under the same policy."""
        same_model = stream.target.model is self.pool.load(self.target)
        return same_model and stream.specs["kv"] == str(self.kv)

    def begin(self) -> tuple[ModelSession, DraftRuntime, Drafter]:
        """Sessions and drafter of one request, for measurements."""
        return *self._open(PathProcessor()), self.drafter.build()

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        seed: int = 0,
        stop: str | Iterable[str] = (),
        stop_ids: Iterable[int] | None = None,
        record_nodes: bool = False,
        after: Stream | None = None,
        processor: LogitsProcessor | None = None,
    ) -> Stream:
        """Decode a prompt: iterate for text as it is committed, then ask for the `result`.

        Where tokens are sampled, the same `seed` gives the same text on the same machine.
        `stop` are texts that end the request: the first token that completes one is the last token, and
        the text ends before it. `stop_ids` are token ids that end it. By default both are as the
        model's generation config says.
        `record_nodes` keeps the target's scores of every node, for `node_rows`.

        `after` is an earlier request whose KV the target keeps as far as both prompts agree, as in a
        conversation; where it still runs, it ends here. The tokens are the same without it.

        `processor` changes logits by the tokens before them, as one of `generate`'s logits
        processors, or a list of them, does; it comes after those of the model's generation config. Give
        `verify` the same one.
        """
        if max_new_tokens < 1:
            raise MismatchError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        from toolkit.stopping import require_stop_strings, special_ids
        from toolkit.stream import Stream

        tokenizer = self.pool.find(self.target).tokenizer
        stop = require_stop_strings(stop or self.defaults.stop, tokenizer, self.target)
        ends = self.defaults.stop_ids if stop_ids is None else stop_ids
        ids = self.encode(prompt)
        self.load()
        own = self.defaults.processors(ids, self.pool.load(self.target).device)
        process = PathProcessor(list(ids), join(own, processor))
        target, drafts = self._open(process, after, seed)
        strategies = Strategies(self.drafter.build(), self.shaper.build(), self.verifier.build())
        if type(strategies.shaper).plan is not TreeShaper.plan:
            with name_failed_strategy():
                strategies.shaper.plan(self.costs(), len(ids))
        return Stream(
            target,
            drafts,
            strategies,
            ids,
            max_new_tokens=min(max_new_tokens, target.positions - len(ids) + 1),
            stop_ids=frozenset(ends) | special_ids(stop, tokenizer),
            stop=stop,
            sampling=self.sampling,
            seed=seed,
            specs=self.specs,
            process=process,
            limits=self.limits,
            record_nodes=record_nodes,
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        seed: int = 0,
        stop: str | Iterable[str] = (),
        record_nodes: bool = False,
    ) -> Generation:
        """Decode a prompt to the end; as `stream`."""
        stream = self.stream(
            prompt, max_new_tokens=max_new_tokens, seed=seed, stop=stop, record_nodes=record_nodes
        )
        for _ in stream:
            pass
        return stream.result


def _fill_models(choice: Choice[Any], family: Family | None) -> Choice[Any]:
    """The choice, with the family's usual drafter for each model that is not named."""

    def filled(option: Attribute[Any], value: Any) -> Any:
        if isinstance(value, Choice):
            return _fill_models(value, family)
        if not option.metadata.get("model") or value:
            return value
        if family is None:
            raise SpecError(
                f"drafter {choice.cls.name!r} names no model and the target belongs to no known "
                f"family: write {choice.cls.name}:FOLDER or {choice.cls.name}:OWNER/NAME"
            )
        return family.drafter

    return choice.map_options(filled)
