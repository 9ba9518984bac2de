"""The contract: out to plain values and back, and what is refused on the way back."""

import json
from typing import Any

import pytest

from action_recognition.clip.contract import Contract, Stream, contract_from_plain

JOINT = Contract(
    model_type="joint",
    input_type="2d",
    streams={"rgb": Stream(3, (0.5, 0.25, 0.125), (1.0, 2.0, 4.0)), "of": Stream(10, (0.5, 0.5), (0.25, 0.25))},
    height=112,
    width=96,
    center_crop=True,
    smaller_edge=128,
    sample_strategy="random_interval",
    sample_rate=2,
    flow_encoding="clip20",
    class_names=("walk", "fährt", "a,b"),
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """JOINT as plain values with one of them changed; `path` is dotted."""
    plain = JOINT.to_plain()
    *sections, name = path.split(".")
    section = plain
    for part in sections:
        section = section[part]
    section[name] = value
    return plain


def test_contract_through_json_comes_back_equal() -> None:
    assert contract_from_plain(json.loads(json.dumps(JOINT.to_plain()))) == JOINT


def test_contract_from_plain_orders_streams_as_the_model_s_inputs() -> None:
    plain = JOINT.to_plain()
    plain["streams"] = dict(reversed(plain["streams"].items()))
    assert list(contract_from_plain(plain).streams) == ["rgb", "of"]


def test_contract_to_plain_holds_only_json_types() -> None:
    plain = JOINT.to_plain()
    assert plain["streams"]["of"] == {"num_frames": 10, "mean": [0.5, 0.5], "std": [0.25, 0.25]}
    assert plain["class_names"] == ["walk", "fährt", "a,b"]


def test_contract_says_its_lengths_and_modalities() -> None:
    assert JOINT.lengths == {"rgb": 3, "of": 10}
    assert JOINT.modalities == ("rgb", "of")
    assert not JOINT.is_3d


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "both", "model_type 'both' is not one of rgb, of, joint"),
        ("model_type", ["rgb"], r"model_type \['rgb'\] is not one of rgb, of, joint"),
        ("input_type", "4d", "input_type '4d' is not one of 2d, 3d"),
        ("sample_strategy", "dense", "sample_strategy 'dense' is not one of consecutive, random_interval"),
        ("flow_encoding", None, "flow_encoding None is not one of max_rad, clip20"),
        ("height", 0, "height must be a whole number >= 1, got 0"),
        ("width", 96.0, r"width must be a whole number >= 1, got 96\.0"),
        ("smaller_edge", "128", "smaller_edge must be a whole number >= 1, got '128'"),
        ("smaller_edge", 111, "smaller_edge 111 is smaller than the 112 x 96 that is cropped from it"),
        ("sample_rate", True, "sample_rate must be a whole number >= 1, got True"),
        ("center_crop", 1, "center_crop must be true or false, got 1"),
        ("class_names", [], r"class_names must be a list of names, got \[\]"),
        ("class_names", ["a", 1], "class_names must be a list of names"),
        ("class_names", "ab", "class_names must be a list of names, got 'ab'"),
        ("streams", [1], "streams: must be a mapping with rgb, of, got list"),
        ("streams.rgb", None, "rgb: must be a mapping with num_frames, mean, std, got NoneType"),
        ("streams.rgb.num_frames", 0, "rgb num_frames must be a whole number >= 1, got 0"),
        ("streams.of.mean", [0.5], r"of mean must be 2 numbers, got \[0\.5\]"),
        ("streams.rgb.std", [1, 2, "3"], r"rgb std must be 3 numbers, got \[1, 2, '3'\]"),
        ("streams.rgb.mean", [0, 0, float("nan")], r"rgb mean must be 3 numbers, got \[0, 0, nan\]"),
        ("streams.of.std", [0.5, 0], r"of std must be > 0, got \[0\.5, 0\]"),
        ("extra", 1, "must have model_type, input_type, .*, got model_type, .*, extra"),
    ],
)
def test_contract_from_plain_refuses_a_wrong_value_by_name(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"contract: {message}"):
        contract_from_plain(changed(path, value))


def test_contract_from_plain_refuses_streams_of_another_model_type() -> None:
    with pytest.raises(ValueError, match="contract: streams: must have of, got rgb, of"):
        contract_from_plain(changed("model_type", "of"))


def test_contract_from_plain_refuses_what_is_no_mapping() -> None:
    with pytest.raises(ValueError, match=r"contract: must be a mapping with model_type, .*, got NoneType"):
        contract_from_plain(None)
