"""List the layouts of weights that are known.

They are those of the public code that saves or loads such files. timm's own names, which MAE, URFM, USF-MAE, TinyUSFM,
I-JEPA and DINOv2 without registers share, need no entry: wrapping prefixes, heads and a decoder are `loading.py`'s.
"""

from __future__ import annotations

from usjepa.cache.teacher.layouts import joining
from usjepa.cache.teacher.layouts.layout import OTHER_TOWER, Layout

_BEFORE = r"(?P<prefix>(?:\w+\.)*?)"
_MASK, _HEAD, _COMPUTED = "of training under a mask", "of a head", "computed, not learnt"

_TRANSFORMERS = (
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?query\.|\.(?:self_attn|attention)\.q_proj\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?key\.|\.(?:self_attn|attention)\.k_proj\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?value\.|\.(?:self_attn|attention)\.v_proj\.", ".attn.v."),
    (r"\.attention\.output\.dense\.|\.self_attn\.out_proj\.|\.attention\.o_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.|\.mlp\.weights_in\.|\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.output\.dense\.|\.mlp\.weights_out\.|\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.layernorm_before\.|\.layer_norm1\.", ".norm1."),
    (r"\.layernorm_after\.|\.layer_norm2\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.(?:register_tokens|distillation_token)$", "reg_token"),
    (r"^embeddings\.position_embedding(?:s|\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embedding(?:s\.projection|s)?\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(?:layernorm|post_layernorm)\.", "norm."),
)
"""Names that transformers writes; its version 5 shows others, and still writes these."""
_TRANSFORMERS_BESIDE = (
    (r"(?:\w+\.)*(?:text_model|text_projection)\b.*", OTHER_TOWER),
    (r"logit_scale|logit_bias|visual_projection\..*", OTHER_TOWER),
    (r"decoder\..*|(?:embeddings\.)?mask_token", _MASK),
    (r"(?:\w*classifier|pooler(?!\.layernorm)|head|lm_head)\..*", _HEAD),
    (r"embeddings\.position_ids|rope_embeddings\..*|.*\.relative_position_index", _COMPUTED),
)


def _of_transformers(name: str, mark: str, family: str, **more: object) -> Layout:
    return Layout(
        f"transformers {name}",
        f"{_BEFORE}{mark}",
        family,
        renamed=(*more.pop("first", ()), *_TRANSFORMERS),  # type: ignore[misc]
        dropped=_TRANSFORMERS_BESIDE,
        beside=_TRANSFORMERS_BESIDE,
        **more,  # type: ignore[arg-type]
    )


_SAM_BESIDE = (
    (
        r"(?:prompt_encoder|shared_image_embedding|mask_decoder|decoder|encoder|bbox_head|dn_query_generator)\..*",
        OTHER_TOWER,
    ),
)
_CLIP_BESIDE = (
    (r"(?:text\.)?(?:transformer|token_embedding|ln_final)\..*", OTHER_TOWER),
    (r"(?:text\.)?(?:positional_embedding|text_projection|logit_scale|logit_bias|cls_emb|attn_mask)", OTHER_TOWER),
    (r"input_resolution|context_length|vocab_size", "of its configuration"),
)
_NORMALISATION = ("mean", "std")

LAYOUTS: tuple[Layout, ...] = (
    _of_transformers(
        "DINOv3",
        r"embeddings\.patch_embeddings\.weight",
        "eva",
        first=((r"\.layer_scale([12])\.lambda1$", r".gamma_\1"), (r"\.mlp\.gate_proj\.", ".mlp.fc1_g.")),
        join=joining.dinov3_transformers,
    ),
    _of_transformers(
        "BEiT",
        r"encoder\.layer\.0\.lambda_1",
        "beit",
        first=(
            (r"\.lambda_([12])$", r".gamma_\1"),
            (r"^pooler\.layernorm\.", "fc_norm."),
            (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
            (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
        ),
        outside=((r"layernorm\.(weight|bias)", r"norm.\1"),),  # BeitForMaskedImageModeling has it beside its model
        join=joining.beit_transformers,
    ),
    _of_transformers("DINOv2", r"encoder\.layer\.0\.layer_scale1\.lambda1", "vit", join=joining.dinov2_transformers),
    _of_transformers(
        "CLIP", r"embeddings\.class_embedding", "vit", join=joining.clip_transformers, asks=_NORMALISATION
    ),
    _of_transformers(
        "SigLIP", r"embeddings\.patch_embedding\.bias", "vit", join=joining.clip_transformers, asks=_NORMALISATION
    ),
    _of_transformers("ViT", r"embeddings\.patch_embeddings\.projection\.weight", "vit", join=joining.qkv),
    Layout(
        "DINOv3",  # github.com/facebookresearch/dinov3
        _BEFORE + r"(?:storage_tokens|rope_embed\.periods)",
        "eva",
        renamed=(
            (r"^storage_tokens$", "reg_token"),
            (r"\.ls([12])\.gamma$", r".gamma_\1"),
            (r"\.mlp\.w1\.", ".mlp.fc1_g."),
            (r"\.mlp\.w2\.", ".mlp.fc1_x."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
        dropped=((r"mask_token", _MASK), (r"local_cls_norm\..*", "of training with local crops")),
        join=joining.dinov3,
    ),
    Layout(
        "DINOv2",  # github.com/facebookresearch/dinov2: hub and training, UltraDINO
        _BEFORE + r"(?:register_tokens|blocks\.\d+\.\d+\.norm1\.weight|blocks\.(?:\d+\.)+mlp\.w12\.weight)",
        "vit",
        renamed=((r"^register_tokens$", "reg_token"), (r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2.")),
        dropped=((r"mask_token", _MASK),),
        join=joining.dinov2,
    ),
    Layout(
        "BEiT with shared positions",  # github.com/openmedlab/USFM
        _BEFORE + r"rel_pos_bias\.relative_position_bias_table",
        "beit",
        dropped=((r"mask_token", _MASK), (r"rel_pos_bias\.relative_position_index", _COMPUTED)),
        args={"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    Layout(
        "BEiT",  # github.com/microsoft/unilm
        _BEFORE + r"blocks\.0\.attn\.relative_position_index",
        "beit",
        dropped=((r"mask_token|lm_head\..*", _MASK), (r".*\.relative_position_index", _COMPUTED)),
    ),
    Layout(
        "open_clip with a timm trunk",  # github.com/mlfoundations/open_clip: BiomedCLIP
        r"(?P<prefix>(?:\w+\.)*?visual\.trunk\.).+",
        "vit",
        beside=((r"(?:\w+\.)*?visual\.head\..*", _HEAD), (r"text\..*", OTHER_TOWER), *_CLIP_BESIDE),
        asks=_NORMALISATION,
    ),
    Layout(
        "CLIP",  # github.com/openai/CLIP, open_clip: FetalCLIP
        _BEFORE + r"(?:ln_pre\.weight|class_embedding)",
        "vit",
        renamed=(
            (r"^class_embedding$", "cls_token"),
            (r"^positional_embedding$", "pos_embed"),
            (r"^conv1\.", "patch_embed.proj."),
            (r"^ln_pre\.", "norm_pre."),
            (r"^ln_post\.", "norm."),
            (r"^transformer\.resblocks\.", "blocks."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.ls_([12])\.", r".ls\1."),
            (r"\.attn\.in_proj_", ".attn.qkv."),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ),
        dropped=((r"proj", _HEAD),),
        beside=_CLIP_BESIDE,
        join=joining.clip,
        asks=(*_NORMALISATION, "act_layer"),
    ),
    Layout(
        "SAM",  # github.com/facebookresearch/segment-anything: MedSAM, LVM-Med
        _BEFORE + r"blocks\.0\.mlp\.lin1\.weight",
        "sam",
        renamed=((r"\.mlp\.lin([12])\.", r".mlp.fc\1."),),
        beside=(*_SAM_BESIDE, (r"pixel_(?:mean|std)", "of its input")),
        asks=_NORMALISATION,
    ),
    Layout(
        "transformers SAM",
        r"(?P<prefix>(?:\w+\.)*?vision_encoder\.)layers\.0\.layer_norm1\.weight",
        "sam",
        renamed=(
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.", "blocks."),
            (r"^neck\.conv1\.", "neck.0."),
            (r"^neck\.layer_norm1\.", "neck.1."),
            (r"^neck\.conv2\.", "neck.2."),
            (r"^neck\.layer_norm2\.", "neck.3."),
            (r"\.layer_norm([12])\.", r".norm\1."),
            (r"\.mlp\.lin([12])\.", r".mlp.fc\1."),
        ),
        beside=_SAM_BESIDE,
        asks=_NORMALISATION,
    ),
    Layout(
        "SAM of mmdet",  # mmpretrain's ViTSAM: UltraSAM
        _BEFORE + r"layers\.0\.attn\.rel_pos_h",
        "sam",
        renamed=(
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.", "blocks."),
            (r"\.ln([12])\.", r".norm\1."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
            (r"^channel_reduction\.", "neck."),
        ),
        beside=_SAM_BESIDE,
        asks=_NORMALISATION,
    ),
    Layout(
        "EchoFM",  # a video MAE: github.com/SekeunKim/EchoFM
        _BEFORE + r"pos_embed_spatial",
        "vit",
        dropped=((r"prj_norm\..*", "of training's projection"),),
        join=joining.still_frame,
        asks=_NORMALISATION,
    ),
    Layout(
        "MONAI",  # github.com/Project-MONAI/MONAI: monai.networks.nets.ViT, ViTAutoEnc, UNETR
        _BEFORE + r"patch_embedding\.position_embeddings",
        "vit",
        renamed=(
            (r"^patch_embedding\.position_embeddings$", "pos_embed"),
            (r"^patch_embedding\.cls_token$", "cls_token"),
            (r"^patch_embedding\.patch_embeddings\.(?:1\.)?", "patch_embed.proj."),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.linear([12])\.", r".mlp.fc\1."),
        ),
        dropped=(
            (r".*\.norm_cross_attn\..*", "of attention to another input"),
            (r"(?:classification_head|conv3d_transpose(?:_1)?)\..*", _HEAD),
        ),
        beside=((r"(?:encoder|decoder)\d+\..*|out\..*", _HEAD),),
        join=joining.monai,
        asks=_NORMALISATION,
    ),
    Layout(
        "torchvision",  # github.com/pytorch/vision: vit_b_16
        _BEFORE + r"encoder\.layers\.encoder_layer_0\.ln_1\.weight",
        "vit",
        renamed=(
            (r"^class_token$", "cls_token"),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.ln\.", "norm."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
        ),
        dropped=((r"heads\..*", _HEAD), (r"mask_token", _MASK)),
    ),
    Layout(
        "queries, keys and values apart",  # as MAE's names else
        _BEFORE + r"blocks\.0\.attn\.q\.weight",
        "vit",
        dropped=((r"mask_token|decoder.*", _MASK),),
        join=joining.qkv,
    ),
)
"""The most particular first: the first whose mark is found is taken."""
