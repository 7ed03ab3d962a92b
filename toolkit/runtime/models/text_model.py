"""The language model of a multimodal one."""

from __future__ import annotations

from transformers import PreTrainedModel

from toolkit.errors import ModelError
from toolkit.runtime.compute.attention import NAME
from toolkit.runtime.compute.executors.build_on_meta import build_on_meta
from toolkit.runtime.compute.executors.compare_logits import TOLERANCES, probe
from toolkit.runtime.compute.executors.module_executor import ModuleExecutor
from toolkit.runtime.models.supported import first_line, text_config_of, windows_of


def text_model_of(module: PreTrainedModel, name: str) -> PreTrainedModel:
    """The language model of a multimodal module, which shares its weights; any other module itself.

    It has our attention. Raises `ModelError` when the whole module gives other logits for a text, or
    none.
    """
    config = text_config_of(module.config)
    if config is module.config:
        module.set_attn_implementation(NAME)
        return module
    decoder, text = module.get_decoder(), build_on_meta(config)
    if isinstance(decoder, type(text)):
        text = decoder
    else:
        setattr(text, text.base_model_prefix, decoder)
        text.set_output_embeddings(module.get_output_embeddings())
    text.generation_config = module.generation_config
    text.eval().set_attn_implementation(NAME)
    reason = _reason_against(module, text)
    if reason:
        raise ModelError(
            f"model {name!r} ({module.config.model_type}) cannot decode trees: the whole model {reason}"
        )
    return text


def _reason_against(module: PreTrainedModel, text: PreTrainedModel) -> str | None:
    """Why a multimodal module's language model cannot stand for it on a text; None where it can."""
    windows = windows_of(text.config)
    last = text.config.vocab_size // 2  # ids of images and sounds lie at the end
    try:
        whole = probe(ModuleExecutor.of(module, ""), text, windows, last).double()
    except Exception as error:  # noqa: BLE001 whatever its code runs into
        return f"does not run on text alone ({first_line(error)})"
    alone = probe(ModuleExecutor.of(text, ""), text, windows, last).double()
    if float((whole - alone).norm() / alone.norm()) > TOLERANCES[text.dtype]:
        return "gives other logits for a text than its language model does"
    return None
