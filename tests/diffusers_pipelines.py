"""Tiny pipelines of diffusers with random weights, in folders as the library and publishers write them, for tests.

Each is the same on every call. Weights are scaled so that predictions are of order 1, and change with noise level, text
and class.
"""

import json
import os
import string
from collections.abc import Mapping

import torch
from torch import nn

from dnnlib.filelock import exclusive

CLASSES = 10  # of tiny_dit

_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}  # of Stable Diffusion and SD-XL
_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}


def made_once(tmp_path_factory, make, *args):
    """Folder of a pipeline that `make(folder, *args)` wrote: one per run of the tests, for all its processes."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "-".join([make.__name__, *map(str, args)])
    with exclusive(root / f"{folder.name}.lock"):
        if not folder.exists():
            make(folder.with_suffix(".part"), *args)
            folder.with_suffix(".part").rename(folder)
    return folder


def tiny_dit(folder, classes=CLASSES):
    """DiT on latents [4, 8, 8], of 10 classes unless others are given; images of 16 x 16."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=classes, attention_bias=True, norm_elementwise_affine=False,
        norm_eps=1e-5, activation_fn="gelu-approximate", norm_type="ada_norm_zero",
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    names = {str(number): f"class {number}" for number in range(classes)} | {"3": "class 3, third class"}
    parts = {"transformer": _random(transformer, 1), "vae": _vae(2, 0.18215), "scheduler": scheduler}
    _write(folder, "DiTPipeline", parts, id2label=names)


def tiny_sdxl(folder):
    """SD-XL on latents [4, 8, 8], with two text encoders; images of 16 x 16."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **_UNET, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), cross_attention_dim=64,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )  # fmt: skip
    parts = {
        "vae": _vae(3, 0.13025),
        "text_encoder": _clip(4),
        "text_encoder_2": _clip(5, projection=True),
        "tokenizer": _clip_tokenizer(),
        "tokenizer_2": _clip_tokenizer(pad="!"),
        "unet": _random(unet, 6),
        "scheduler": EulerDiscreteScheduler(**_SCHEDULE, timestep_spacing="leading", steps_offset=1),
    }
    absent = {"feature_extractor": [None, None], "image_encoder": [None, None]}
    _write(folder, "StableDiffusionXLPipeline", parts, **absent, force_zeros_for_empty_prompt=True)


def tiny_sd(folder, prediction_type):
    """Stable Diffusion on latents [4, 8, 8], of "epsilon", "v_prediction" or "sample"; images of 16 x 16."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(**_UNET, attention_head_dim=4, cross_attention_dim=32)
    scheduler = DDIMScheduler(
        **_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
    )
    parts = {
        "vae": _vae(7, 0.18215),
        "text_encoder": _clip(8),
        "tokenizer": _clip_tokenizer(),
        "unet": _random(unet, 9),
        "scheduler": scheduler,
    }
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    _write(folder, "StableDiffusionPipeline", parts, **absent, requires_safety_checker=False)


def tiny_if(folder):
    """The base stage of DeepFloyd IF on pixels [3, 8, 8]; of its 6 channels 3 tell the variance."""
    _write_if(folder, "IFPipeline", 8, 3, 11)


def tiny_if_second(folder):
    """The second stage of DeepFloyd IF, from pixels [3, 4, 4] to [3, 16, 16], with the text encoder of the first."""
    from diffusers import DDPMScheduler

    noising = {"image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}
    _write_if(folder, "IFSuperResolutionPipeline", 16, 6, 13, noising, class_embed_type="timestep")


def tiny_upscaler(folder):
    """Stable Diffusion's upscaler, from pixels [3, 8, 8] to latents [4, 8, 8] of images of 32 x 32."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **_UNET | {"in_channels": 7}, attention_head_dim=4, cross_attention_dim=32, num_class_embeds=1000
    )
    scheduler = DDIMScheduler(
        **_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    )
    parts = {
        "vae": _vae(14, 0.08333, (8, 8, 16)),
        "text_encoder": _clip(15),
        "tokenizer": _clip_tokenizer(),
        "unet": _random(unet, 16),
        "low_res_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "scheduler": scheduler,
    }
    absent = {name: [None, None] for name in ("safety_checker", "feature_extractor", "watermarker")}
    _write(folder, "StableDiffusionUpscalePipeline", parts, **absent, max_noise_level=350)


def _write_if(folder, pipeline, size, channels, seed, more=None, **of_unet):
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    unet = UNet2DConditionModel(
        sample_size=size, in_channels=channels, out_channels=6, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), attention_head_dim=8,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", act_fn="gelu", time_embedding_act_fn="gelu",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), norm_num_groups=8,
        cross_attention_dim=32, cross_attention_norm="group_norm", encoder_hid_dim=32, addition_embed_type="text",
        addition_embed_type_num_heads=2, resnet_time_scale_shift="scale_shift", resnet_skip_time_act=True,
        resnet_out_scale_factor=2**0.5, **of_unet,
    )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True, sample_max_value=1.5,
        dynamic_thresholding_ratio=0.95,
    )  # fmt: skip
    config = T5Config(
        vocab_size=len(_t5_vocabulary()), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    parts = {
        "tokenizer": _t5_tokenizer(),
        "text_encoder": _random(T5EncoderModel(config), 10),
        "unet": _random(unet, seed),
        "scheduler": scheduler,
        **(more or {}),
    }
    absent = {name: [None, None] for name in ("safety_checker", "feature_extractor", "watermarker")}
    _write(folder, pipeline, parts, **absent, requires_safety_checker=False)


def tiny_ddpm(folder):
    """DDPM on pixels [3, 8, 8], without conditions."""
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=None,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
    )  # fmt: skip
    _write(folder, "DDPMPipeline", {"unet": _random(unet, 12), "scheduler": DDPMScheduler(variance_type="fixed_large")})


def _write(folder, pipeline, parts, **more):
    """A folder as of the pipeline's `save_pretrained`, which takes much longer to import."""
    index = {"_class_name": pipeline, "_diffusers_version": "0.42.1", **more}
    for role, part in parts.items():
        if isinstance(part, Mapping):  # the files of a tokenizer
            (folder / role).mkdir(parents=True)
            for name, text in part.items():
                (folder / role / name).write_text(text)
            index[role] = ["transformers", json.loads(part["tokenizer_config.json"])["tokenizer_class"]]
        else:
            part.save_pretrained(folder / role, **({} if role.endswith("scheduler") else {"safe_serialization": True}))
            index[role] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


# ----------------------------------------------------------------------------
# Components.


@torch.no_grad()
def _random(module, seed):
    """The same weights on every machine and for every version of a library, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, weights in sorted(module.named_parameters()):
        noise = torch.randn(weights.shape, generator=generator)
        if weights.ndim == 1:
            weights.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
        else:
            weights.copy_(noise / weights[0].numel() ** 0.5)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            part.weight.mul_(part.embedding_dim**0.5)  # of order 1, as what they are added to
    return module.eval()


def _vae(seed, scaling_factor, widths=(8, 16)):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * len(widths), latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * len(widths), norm_num_groups=4, sample_size=16,
        scaling_factor=scaling_factor,
    )  # fmt: skip
    return _random(vae, seed)


def _clip(seed, projection=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = len(_clip_vocabulary())
    config = CLIPTextConfig(
        vocab_size=words, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=32, bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=1,
        hidden_act="gelu" if projection else "quick_gelu",
    )  # fmt: skip
    return _random((CLIPTextModelWithProjection if projection else CLIPTextModel)(config), seed)


def _clip_vocabulary():
    """All bytes as CLIP spells them, inside and at the end of words, one longer word, and where texts begin and end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "of</w>", "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def _clip_tokenizer(pad="<|endoftext|>"):
    """The files of CLIP's tokenizer, as published pipelines have them."""
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    written = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {name: {"content": mark, **written} for name, mark in marks.items()}
    config |= {"pad_token": pad, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    return {
        "vocab.json": json.dumps(_clip_vocabulary()),
        "merges.txt": "#version: 0.2\no f</w>\n",
        "tokenizer_config.json": json.dumps(config),
    }


def _t5_vocabulary():
    """Pieces and their scores: three special ones, whole words, single letters."""
    words = ("a", "the", "of", "in", "with", "photo", "painting", "blue", "jay", "raccoon", "ship", "castle")
    pieces = ["▁", *(f"▁{word}" for word in words), *string.ascii_letters, *string.punctuation]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((each, -len(pieces) / len(each)) for each in pieces)]


def _t5_tokenizer():
    """The files of T5's tokenizer, without extra tokens."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import Unigram

    tokenizer = Tokenizer(Unigram(_t5_vocabulary(), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    config = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
    config |= {"model_max_length": 77, "tokenizer_class": "T5Tokenizer"}
    return {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config)}
