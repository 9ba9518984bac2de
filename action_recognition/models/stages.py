"""The stages of a network from stem to head: what is frozen together, and learns at one rate.

All networks have the same six: stem, layer1 to layer4, head. The head is what is new where the number of classes is.
"""

from torch import nn
from torchvision.models.video import S3D, MViT, SwinTransformer3d, VideoResNet

from action_recognition.config.backbones import STAGES
from action_recognition.models.i3d import I3d
from action_recognition.models.joint import Joint
from action_recognition.models.resnet2d import ResNet2d
from action_recognition.models.resnet3d import ResNet3d

Names = tuple[tuple[str, ...], ...]

_LAYERS: Names = (("layer1",), ("layer2",), ("layer3",), ("layer4",))
_RESNET: Names = (("conv1", "bn1"), *_LAYERS, ("fc_cls",))
_MIXED_4 = ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")


def _numbered(parent: str, *ids: int) -> tuple[str, ...]:
    return tuple(f"{parent}.{i}" for i in ids)


# By stage, the names of the submodules; a new stage begins where a network halves height and width. What comes between
# two stages, and carries weights, belongs to the one behind it; a norm before the head to layer4.
_NAMES: dict[type[nn.Module], Names] = {
    ResNet2d: _RESNET,
    ResNet3d: _RESNET,
    VideoResNet: (("stem",), *_LAYERS, ("fc",)),
    I3d: (
        ("Conv3d_1a_7x7",),
        ("Conv3d_2b_1x1", "Conv3d_2c_3x3"),
        ("Mixed_3b", "Mixed_3c"),
        _MIXED_4,
        ("Mixed_5b", "Mixed_5c"),
        ("logits",),
    ),
    S3D: (
        _numbered("features", 0),
        _numbered("features", 2, 3),
        _numbered("features", 5, 6),
        _numbered("features", *range(8, 13)),
        _numbered("features", 14, 15),
        ("classifier",),
    ),
    MViT: (
        ("conv_proj", "pos_encoding"),
        _numbered("blocks", 0),
        _numbered("blocks", 1, 2),
        _numbered("blocks", *range(3, 14)),
        (*_numbered("blocks", 14, 15), "norm"),
        ("head",),
    ),
    SwinTransformer3d: (
        ("patch_embed",),
        _numbered("features", 0),
        _numbered("features", 1, 2),
        _numbered("features", 3, 4),
        (*_numbered("features", 5, 6), "norm"),
        ("head",),
    ),
}


def stages(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """(name, submodules) from stem to head, for a network of build_model: each parameter is in one of them.

    A stage of a joint model is that of both its streams; its own layers belong to the head. TypeError for a network
    that is none of build_model's, also for one that is wrapped (DistributedDataParallel, torch.compile).
    """
    if isinstance(model, Joint):
        both = zip(stages(model.model_rgb), stages(model.model_of), strict=True)
        joined = [(name, rgb + of) for (name, rgb), (_, of) in both]
        return [*joined[:-1], ("head", [*joined[-1][1], model.fc1, model.fc2])]
    names = _NAMES.get(type(model))
    if names is None:
        raise TypeError(f"stages: a {type(model).__name__} is no network of build_model")
    return [(stage, [model.get_submodule(n) for n in group]) for stage, group in zip(STAGES, names, strict=True)]
