"""What is honoured of a `generate` call or a generation config; the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from toolkit.errors import MismatchError
from toolkit.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel

LENGTHS = {"max_length", "max_new_tokens", "max_time", "stop_strings"}  # stopping criteria, too
IDS = {"eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"}
PROCESSORS = {
    "MinLengthLogitsProcessor": {"min_length"},
    "MinNewTokensLengthLogitsProcessor": {"min_new_tokens"},
    "RepetitionPenaltyLogitsProcessor": {"repetition_penalty"},
    "EncoderRepetitionPenaltyLogitsProcessor": {"encoder_repetition_penalty"},
    "NoRepeatNGramLogitsProcessor": {"no_repeat_ngram_size"},
    "EncoderNoRepeatNGramLogitsProcessor": {"encoder_no_repeat_ngram_size"},
    "SequenceBiasLogitsProcessor": {"sequence_bias"},
    "NoBadWordsLogitsProcessor": {"bad_words_ids"},
    "PrefixConstrainedLogitsProcessor": set(),  # of prefix_allowed_tokens_fn
    "ForcedBOSTokenLogitsProcessor": {"forced_bos_token_id"},
    "ForcedEOSTokenLogitsProcessor": {"forced_eos_token_id"},
    "InfNanRemoveLogitsProcessor": {"remove_invalid_values"},
    "ExponentialDecayLengthPenalty": {"exponential_decay_length_penalty"},
    "SuppressTokensLogitsProcessor": {"suppress_tokens"},
    "SuppressTokensAtBeginLogitsProcessor": {"begin_suppress_tokens"},
    "LogitNormalization": {"renormalize_logits"},
}
"""Processors of transformers that are functions of the tokens before a token, and their options."""
ONE_ROW = {
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
}
"""Those that belong to one prompt, or tell their function which row of a batch it is asked about."""
WARPERS = {
    "TemperatureLogitsWarper": "temperature",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
}
"""The processors that `generate` adds, in this order, when it samples: `Sampling` does the same."""
REFUSED_WARPERS = {
    "TopHLogitsWarper": "top_h",
    "TypicalLogitsWarper": "typical_p",
    "EpsilonLogitsWarper": "epsilon_cutoff",
    "EtaLogitsWarper": "eta_cutoff",
}
"""Those that `Sampling` does not have, and the options that bring them."""
UNUSED = set(
    "temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff early_stopping "
    "length_penalty diversity_penalty low_memory output_attentions output_hidden_states output_scores "
    "output_logits is_assistant num_assistant_tokens num_assistant_tokens_schedule "
    "assistant_confidence_threshold assistant_lookbehind target_lookbehind assistant_ensemble_weight "
    "max_matching_ngram_size".split()
)
"""What `generate` reads only when it samples (then it makes processors of it), has beams, returns a
dict, or has an assistant."""
SPEED = {"use_cache", "compile_config", "disable_compile", "max_cache_len", "prefill_chunk_size"}
"""What changes no token."""
KNOWN = (
    LENGTHS
    | IDS
    | UNUSED
    | SPEED
    | {"do_sample", "transformers_version"}
    | set().union(*PROCESSORS.values())
)
CACHES = ("dynamic", "static", "offloaded", "offloaded_static")  # which keep keys and values whole
PASSED = {"use_cache", "logits_to_keep", "cache_position"}  # by `generate`; the toolkit decides


def require_honoured(
    model: PreTrainedModel,
    input_ids: Tensor,
    processors: Iterable[Any],
    config: GenerationConfig,
    model_kwargs: Mapping[str, Any],
) -> None:
    """Raise `MismatchError` for the first option of a call that would be ignored."""
    wrong = find_unsupported(config, processors)
    if wrong is not None:
        raise unsupported(wrong)
    if model_kwargs.get("inputs_embeds") is not None:
        raise unsupported("inputs_embeds")
    if input_ids.ndim != 2 or input_ids.shape[0] != 1:
        raise unsupported(f"a batch of {input_ids.shape[0]}")
    _require_plain_inputs(input_ids, model_kwargs)
    prepare = model.prepare_inputs_for_generation
    if not getattr(prepare, "__module__", "").startswith("transformers."):
        raise unsupported(
            "a prepare_inputs_for_generation of its own, as adapters with a soft prompt have"
        )


def find_unsupported(config: GenerationConfig, processors: Iterable[Any]) -> str | None:
    """The first option or logits processor that would be ignored; None where all are honoured.

    The rule: whatever of the generation config differs from its default is refused by name unless it
    is known to be honoured. Entries that transformers does not know are ignored, as `generate` does.
    """
    defaults = vars(type(config)()) | type(config)._get_default_generation_params()
    for name, default in defaults.items():
        value = getattr(config, name, default)
        unknown = not name.startswith("_") and name not in KNOWN and value not in (None, default)
        if unknown and not (name == "cache_implementation" and value in CACHES):
            return f"{name}={value}"
    for processor in processors:
        kind = type(processor)
        option = REFUSED_WARPERS.get(kind.__name__, "")
        value = getattr(config, option, None)
        if value not in (None, defaults.get(option)):
            return f"{option}={value}"
        if not is_theirs(processor) or kind.__name__ not in {**PROCESSORS, **WARPERS}:
            return f"the logits processor {kind.__name__}"
    return None


def is_theirs(processor: object) -> bool:
    """Whether a logits processor is of a class of transformers' own, and not of one derived from it."""
    return type(processor).__module__ == "transformers.generation.logits_process"


def takes_rows(processor: object) -> bool:
    """Whether a processor is known to treat rows of several histories as it treats each alone."""
    return is_theirs(processor) and type(processor).__name__ in PROCESSORS.keys() - ONE_ROW


def _require_plain_inputs(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> None:
    """Raise `MismatchError` for arguments of the model that say more than its tokens do."""
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    if mask is not None and not bool((mask == 1).all()):
        raise unsupported("attention_mask with zeros: give the prompt without padding")
    if positions is not None and positions.flatten().tolist() != [*range(input_ids.shape[1])]:
        raise unsupported("position_ids of your own")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and (getattr(cache, "_is_user_defined", False) or cache.get_seq_length()):
        raise unsupported("past_key_values of your own")
    known = PASSED | {"attention_mask", "position_ids", "past_key_values"}
    for name in sorted(set(model_kwargs) - known):
        if model_kwargs[name] is not None:
            raise unsupported(name)


def sampling_of(config: GenerationConfig, processors: Iterable[Any]) -> Sampling:
    """How a call draws its tokens, as its processors say: greedily without `do_sample`."""
    if not config.do_sample:
        return Sampling()
    given = {WARPERS[type(p).__name__]: p for p in processors if type(p).__name__ in WARPERS}
    return Sampling(**{"temperature": 1.0} | {name: getattr(p, name) for name, p in given.items()})


def without_warpers(processors: Any) -> Any:
    """The call's processors but for those that `sampling_of` reads; None for none."""
    kept = [p for p in processors if type(p).__name__ not in WARPERS]
    return type(processors)(kept) if kept else None


def unsupported(what: str) -> MismatchError:
    """The error that names what is not supported."""
    return MismatchError(
        f"toolkit.speculative does not support {what}; it decodes one prompt. Leave the "
        f"option out, or leave out custom_generate"
    )
