"""List the published teachers that are known by name.

Numbers are from the authors' code and papers, checked against models with random weights (docs/reference/teachers.md),
never against the published files themselves. "-" means that no source states it.
"""

from __future__ import annotations

from dataclasses import replace

from usjepa.cache.teacher.names.preset import CLIP, Preset

_NATURAL = "none: natural images"
_UNKNOWN = "not stated"
_CC_NC = "CC BY-NC 4.0"

_MAE = Preset(
    title="MAE ViT-B/16",
    architecture="vit_base_patch16_224",
    layout="MAE",
    paper="He et al., CVPR 2022, arXiv 2111.06377",
    licence=_CC_NC,
    where="github.com/facebookresearch/mae",
    seen=_NATURAL,
)
_URFM = replace(
    _MAE,
    title="URFM ViT-B/16",
    paper="Kang et al., iScience 2025, doi 10.1016/j.isci.2025.112917",
    licence="gated; terms at its place",
    where="huggingface.co/QingboKang/URFM",
    seen=_UNKNOWN,
    note="the file's moving average is taken; mean and deviation are those of code that uses it, the paper has none",
)
_DINOV2 = Preset(
    title="DINOv2 ViT-B/14",
    architecture="vit_base_patch14_dinov2",
    layout="DINOv2",
    paper="Oquab et al., TMLR 2024, arXiv 2304.07193",
    licence="Apache-2.0",
    where="github.com/facebookresearch/dinov2",
    seen=_NATURAL,
    positions="offset",
    resize="short edge resized, centre cropped",
    note="learnt at 518 pixels; at 224 its grid is 16 x 16: give the student patches of 14 pixels",
)
_REGISTERS = replace(
    _DINOV2,
    paper="Darcet et al., ICLR 2024, arXiv 2309.16588",
    positions="antialiased",
)
_DINOV3 = Preset(
    title="DINOv3 ViT-B/16",
    architecture="vit_base_patch16_dinov3_qkvb",
    layout="DINOv3",
    paper="Siméoni et al., 2025, arXiv 2508.10104",
    licence="DINOv3 License; gated",
    where="github.com/facebookresearch/dinov3",
    seen=_NATURAL,
    resize="short edge resized, centre cropped",
)
_IJEPA = Preset(
    title="I-JEPA ViT-H/14",
    architecture="vit_huge_patch14_gap_224",
    layout="I-JEPA",
    paper="Assran et al., CVPR 2023, arXiv 2301.08243",
    licence=_CC_NC,
    where="github.com/facebookresearch/ijepa",
    seen=_NATURAL,
    note="the target encoder is taken",
)
_ULTRADINO = Preset(
    title="UltraDINO ViT-B/16, one channel",
    architecture="vit_base_patch16_224",
    layout="DINOv2 training",
    paper="UltraDINO, fetal ultrasound",
    licence=_UNKNOWN,
    where="its authors' repository",
    seen=_UNKNOWN,
    args={"num_heads": 12},
    input=((0.1842924807,), (0.2187705424,)),
    positions="offset",
)
_OPENAI = Preset(
    title="CLIP ViT-B/16",
    architecture="vit_base_patch16_clip_quickgelu_224",
    layout="CLIP",
    paper="Radford et al., ICML 2021, arXiv 2103.00020",
    licence="MIT",
    where="github.com/openai/CLIP",
    seen=_NATURAL,
    input=CLIP,
    resize="short edge resized, centre cropped",
    note="the .pt files there are TorchScript programs: save state_dict() of the model that clip.load gives",
)
_SAM = Preset(
    title="Segment Anything ViT-B, image encoder",
    architecture="samvit_base_patch16",
    layout="SAM",
    paper="Kirillov et al., ICCV 2023, arXiv 2304.02643",
    licence="Apache-2.0",
    where="github.com/facebookresearch/segment-anything",
    seen=_NATURAL,
    args={"eps": 1e-6},
    size=1024,
    resize="long edge resized, padded",
    note="its grid is 64 x 64; cache.teacher.image_size=512 gives 32 x 32",
)

PRESETS: dict[str, Preset] = {
    "urfm-b": _URFM,
    "urfm-l": replace(_URFM, title="URFM ViT-L/16", architecture="vit_large_patch16_224"),
    "urfm-h": replace(_URFM, title="URFM ViT-H/14", architecture="vit_huge_patch14_224"),
    "usf-mae": replace(
        _MAE,
        title="USF-MAE ViT-B/16",
        paper="USF-MAE: ultrasound self-supervised foundation model, 2025",
        licence="MIT",
        where="its repository (Google Drive), or huggingface.co/mfurkan03/USF-MAE",
        seen="AUL, BUS-BRA, MMOTU, POCUS",
        resize="squashed, nearest neighbour",
    ),
    "ultrafedfm": replace(
        _MAE, title="UltraFedFM ViT-B/16", paper="UltraFedFM", licence=_UNKNOWN, where="its repository", seen=_UNKNOWN
    ),
    "usfm": Preset(
        title="USFM, BEiT-B/16",
        architecture="beit_base_patch16_224",
        layout="USFM",
        paper="Jiao et al., Medical Image Analysis 96, 2024",
        licence=_CC_NC,
        where="github.com/openmedlab/USFM (Google Drive)",
        seen=_UNKNOWN,
        args={"num_heads": 12},
    ),
    "tinyusfm": Preset(
        title="TinyUSFM, ViT of width 192 with 12 heads",
        architecture="vit_tiny_patch16_224",
        layout="MAE",
        paper="Ma et al., 2025, arXiv 2510.19239",
        licence="Apache-2.0",
        where="github.com/MacDunno/TinyUSFM (Google Drive)",
        seen=_UNKNOWN,
        args={"num_heads": 12},
    ),
    "ultradino-s": replace(_ULTRADINO, title="UltraDINO ViT-S/16, one channel", args={"num_heads": 6}),
    "ultradino-b": _ULTRADINO,
    "ultradino-l": replace(_ULTRADINO, title="UltraDINO ViT-L/16, one channel", args={"num_heads": 16}),
    "fetalclip": Preset(
        title="FetalCLIP ViT-L/14",
        architecture="vit_large_patch14_clip_224",
        layout="CLIP",
        paper="Maani et al., 2025, arXiv 2502.14807",
        licence="CC BY-NC",
        where="github.com/BioMedIA-MBZUAI/FetalCLIP",
        seen=_UNKNOWN,
        input=CLIP,
        note="GELU, where OpenAI's CLIP has its quick form",
    ),
    "biomedclip": Preset(
        title="BiomedCLIP ViT-B/16",
        architecture="vit_base_patch16_224",
        layout="open_clip with a timm trunk",
        paper="Zhang et al., 2023, arXiv 2303.00915",
        licence="MIT",
        where="huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        seen=_UNKNOWN,
        input=CLIP,
        resize="short edge resized, centre cropped",
    ),
    "ultrasam": replace(
        _SAM,
        title="UltraSAM ViT-B, image encoder",
        layout="mmdet",
        paper="Meyer et al., 2024, arXiv 2411.16222",
        licence="CC BY-NC-SA",
        where="github.com/CAMMA-public/UltraSam",
        seen="many public segmentation sets: see its list",
        args={"num_heads": 12, "eps": 1e-6},
    ),
    "sam-b": _SAM,
    "medsam": replace(
        _SAM,
        title="MedSAM ViT-B, image encoder",
        paper="Ma et al., Nature Communications 2024, arXiv 2304.12306",
        where="github.com/bowang-lab/MedSAM",
        seen="several public ultrasound sets: see its list",
        input=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        resize="squashed",
    ),
    "rad-dino": replace(
        _DINOV2,
        title="RAD-DINO ViT-B/14, chest radiographs",
        layout="transformers",
        paper="Pérez-García et al., 2024, arXiv 2401.10815",
        licence="MSRLA",
        where="huggingface.co/microsoft/rad-dino",
        seen="none: radiographs",
        size=518,
        input=((0.5307, 0.5307, 0.5307), (0.2583, 0.2583, 0.2583)),
        positions="plain",
        note="its grid is 37 x 37",
    ),
    "medsiglip": Preset(
        title="MedSigLIP So400m/14",
        architecture="vit_so400m_patch14_siglip_gap_448",
        layout="transformers",
        paper="MedGemma report, 2025, arXiv 2507.05201",
        licence="Health AI Developer Foundations terms; gated",
        where="huggingface.co/google/medsiglip-448",
        seen=_UNKNOWN,
        args={"num_heads": 16, "act_layer": "gelu_tanh"},
        size=448,
        input=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        note="its grid is 32 x 32",
    ),
    "mae-b": _MAE,
    "mae-l": replace(_MAE, title="MAE ViT-L/16", architecture="vit_large_patch16_224"),
    "mae-h": replace(_MAE, title="MAE ViT-H/14", architecture="vit_huge_patch14_224"),
    "dinov2-s": replace(_DINOV2, title="DINOv2 ViT-S/14", architecture="vit_small_patch14_dinov2"),
    "dinov2-b": _DINOV2,
    "dinov2-l": replace(_DINOV2, title="DINOv2 ViT-L/14", architecture="vit_large_patch14_dinov2"),
    "dinov2-g": replace(_DINOV2, title="DINOv2 ViT-g/14", architecture="vit_giant_patch14_dinov2"),
    "dinov2-reg-s": replace(
        _REGISTERS, title="DINOv2 ViT-S/14, registers", architecture="vit_small_patch14_reg4_dinov2"
    ),
    "dinov2-reg-b": replace(
        _REGISTERS, title="DINOv2 ViT-B/14, registers", architecture="vit_base_patch14_reg4_dinov2"
    ),
    "dinov2-reg-l": replace(
        _REGISTERS, title="DINOv2 ViT-L/14, registers", architecture="vit_large_patch14_reg4_dinov2"
    ),
    "dinov2-reg-g": replace(
        _REGISTERS, title="DINOv2 ViT-g/14, registers", architecture="vit_giant_patch14_reg4_dinov2"
    ),
    "dinov3-s": replace(_DINOV3, title="DINOv3 ViT-S/16", architecture="vit_small_patch16_dinov3_qkvb"),
    "dinov3-b": _DINOV3,
    "dinov3-l": replace(_DINOV3, title="DINOv3 ViT-L/16", architecture="vit_large_patch16_dinov3_qkvb"),
    "dinov3-l-sat": replace(
        _DINOV3,
        title="DINOv3 ViT-L/16, satellite images",
        architecture="vit_large_patch16_dinov3_qkvb",
        seen="none: satellite images",
        input=((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
    ),
    "ijepa-h14": _IJEPA,
    "ijepa-h16-448": replace(
        _IJEPA, title="I-JEPA ViT-H/16, 448 pixels", architecture="vit_huge_patch16_gap_448", size=448
    ),
    "ijepa-g16": replace(_IJEPA, title="I-JEPA ViT-g/16", architecture="vit_giant_patch16_gap_224"),
    "clip-b16": _OPENAI,
    "clip-l14": replace(_OPENAI, title="CLIP ViT-L/14", architecture="vit_large_patch14_clip_quickgelu_224"),
}
"""Name -> what is known of it."""


def is_preset(name: str) -> bool:
    """Return whether a text is the name of a preset."""
    return name in PRESETS
