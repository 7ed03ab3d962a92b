"""A multimodal model decodes as its language model, in memory and from a folder."""

import copy

import pytest
import torch
import transformers as hf

from toolkit import Pipeline, Pool
from toolkit.errors import ModelError

TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
PROMPT = [5 + i % 40 for i in range(20)]
GEMMA = {
    **TEXT,
    "tie_word_embeddings": False,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
CONFIGS = {
    "gemma3": lambda: hf.Gemma3Config(
        text_config=GEMMA, vision_config=VISION, mm_tokens_per_image=4, image_token_index=96,
        tie_word_embeddings=False,
    ),
    "gemma4": lambda: hf.Gemma4Config(
        text_config={
            **GEMMA, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 97,
            "num_kv_shared_layers": 0, "global_head_dim": 8,
        },
        vision_config={**VISION, "head_dim": 8, "num_key_value_heads": 2, "rope_parameters": None},
        audio_config=None,
        image_token_id=96, tie_word_embeddings=False,
    ),
    "fuyu": lambda: hf.FuyuConfig(
        text_config=hf.PersimmonConfig(**{k: v for k, v in TEXT.items() if "kv" not in k}),
        **TEXT, patch_size=2, num_channels=3, image_token_id=96,
    ),
    "llava": lambda: hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**VISION),
        image_token_index=96,
    ),
}  # fmt: skip


def multimodal(config):
    torch.manual_seed(0)
    model = hf.AutoModelForMultimodalLM.from_config(config).double().eval()
    for weight in model.parameters():
        if weight.ndim >= 2:
            weight.data.normal_(0.0, 0.3)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_its_tokens_are_those_of_generate(registry, tmp_path, name):
    model = multimodal(CONFIGS[name]())
    model.save_pretrained(tmp_path)
    wanted = copy.deepcopy(model).generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0,
    )[0, len(PROMPT):].tolist()  # fmt: skip
    assert len(set(wanted)) > 3
    for target in (model, str(tmp_path)):
        pipeline = Pipeline(target, pool=Pool(dtype="fp64"), registry=registry, ignore_eos=True)
        assert pipeline.generate(PROMPT, max_new_tokens=24).token_ids == wanted


def test_a_model_whose_logits_are_others_is_refused(registry):
    """Cohere's language model scales its logits, and the whole model does not."""
    config = hf.Cohere2VisionConfig(
        text_config=hf.Cohere2Config(**TEXT, logit_scale=0.25),
        vision_config=hf.SiglipVisionConfig(**VISION),
        alignment_intermediate_size=16, downsample_factor=1, image_token_id=96,
    )  # fmt: skip
    with pytest.raises(
        ModelError, match="the whole model gives other logits for a text than its lang"
    ):
        Pipeline(multimodal(config), registry=registry)


def test_a_model_that_needs_an_image_is_refused(registry):
    model = multimodal(CONFIGS["llava"]())
    model.forward = lambda pixel_values, **_: pixel_values
    with pytest.raises(ModelError, match="the whole model does not run on text alone"):
        Pipeline(model, registry=registry)


def test_an_architecture_is_tried_once_for_a_folder(registry, tmp_path, monkeypatch):
    """It takes a tenth of a second and more."""
    from toolkit.runtime.models import supported

    tried = []
    once = supported._reason_in_trial
    monkeypatch.setattr(supported, "_reasons", {})
    monkeypatch.setattr(
        supported, "_reason_in_trial", lambda config: tried.append(config) or once(config)
    )
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    Pipeline(str(tmp_path), registry=registry).generate(PROMPT, max_new_tokens=2)
    assert len(tried) == 1
