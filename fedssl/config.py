"""Typed, frozen configuration from Flower's flat run config.

Keys are kebab-case; a dot opens a section: `rounds`, `model.width`, `denoise.warmup-rounds`.
Flower passes scalars only, so a list is one string: `labeled-sites = "a,b"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fedssl.errors import ConfigError, did_you_mean

__all__ = [
    "AugmentConfig",
    "EvaluateConfig",
    "MethodConfig",
    "ModelConfig",
    "RunConfig",
    "Scalar",
    "SplitConfig",
    "flatten",
    "parse_run_config",
]

Scalar = bool | int | float | str


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_kebab,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # Else pydantic takes true for 1.
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {kind, *get_args(kind)} & {int, float}:
            raise ValueError("expected a number, not true or false")
        return value


class MethodConfig(_Section):
    """Base of every method's `Config`."""


class ModelConfig(_Section):
    """The segmentation network.

    Dropout sits where DPL (Chen et al., MICCAI 2021) has it: at the bottleneck and before the last
    1x1 convolution.
    """

    name: Literal["unet"] = "unet"
    width: int = Field(16, ge=2, le=512, description="channels of the first level")
    depth: int = Field(4, ge=1, le=6, description="number of downsamplings")
    norm: Literal["instance", "group", "batch"] = "instance"
    dropout_bottleneck: float = Field(0.5, ge=0, lt=1)
    dropout_head: float = Field(0.1, ge=0, lt=1)
    foreground_prior: float = Field(
        0.0, ge=0, lt=1, description="foreground that a new network guesses; 0: torch's biases"
    )


class AugmentConfig(_Section):
    """Weak and strong views; magnitudes, 0 switches an operation off.

    Images are z-scored when they are augmented: gain, offset, noise and bias are in standard
    deviations of the image.
    """

    flip: bool = True
    rotate: float = Field(15.0, ge=0, le=180, description="degrees, uniform in +-")
    scale: float = Field(0.15, ge=0, lt=1, description="uniform in 1 +- scale")
    translate: float = Field(0.05, ge=0, le=0.5, description="fraction of the field of view")
    probability: float = Field(0.6, ge=0, le=1, description="of each photometric operation")
    gain: float = Field(0.4, ge=0, lt=1, description="per channel, uniform in 1 +- gain")
    offset: float = Field(0.4, ge=0, description="per channel, uniform in +-")
    mixing: float = Field(0.4, ge=0, le=1, description="share of other channels blended in")
    contrast: float = Field(0.4, ge=0, lt=1, description="uniform in 1 +- contrast")
    gamma: float = Field(0.5, ge=0, lt=3, description="exponent exp(uniform in +-)")
    blur: float = Field(1.0, ge=0, description="largest Gaussian sigma in pixels")
    noise: float = Field(0.15, ge=0, description="largest sigma of additive Gaussian noise")
    bias: float = Field(0.4, ge=0, description="amplitude of the smooth multiplicative field")
    cutout: float = Field(0.25, ge=0, lt=1, description="side of the erased box, strong view only")
    field_of_view: float = Field(0.0, ge=0, le=1, description="share of labeled samples it cuts")
    photometric_labeled: bool = Field(
        True, description="labeled samples get the strong photometric operations too (no cutout)"
    )


class SplitConfig(_Section):
    """Subjects of each site: one fold is the test split, a share of the rest validation."""

    seed: int = Field(0, ge=0)
    folds: int = Field(4, ge=2)
    fold: int = Field(0, ge=0)
    val_fraction: float = Field(0.15, ge=0, lt=0.9)


class EvaluateConfig(_Section):
    """Evaluation of the global model at the sites that have masks."""

    every: int = Field(5, ge=0, description="rounds between evaluations on the validation split")
    overlap: float = Field(0.5, ge=0, lt=1, description="of sliding windows")
    surface: bool = Field(True, description="HD95 and ASSD after the last round")
    overlays: int = Field(4, ge=0, description="overlay pictures per site, kept at the site")


class RunConfig(_Section):
    """One run; every key has a default that works."""

    federation: str = Field("synthetic", description="federation.toml, or a synthetic one's name")
    data_root: str = ""
    out: str = Field("", description="run folder; '' chooses runs/<time>-<method>")
    cache_dir: str = Field("", description="prepared arrays; '' is the user's cache folder")
    method: str = "denoise"
    rounds: int = Field(30, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    labeled_sites: str = Field("", description="'a,b' makes these labeled, others unlabeled")
    sites: str = Field("", description="'a,b,c' keeps only these sites of the federation")
    threads: int = Field(1, ge=1, description="CPU threads of torch in every process")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    local_steps: int = Field(10, ge=1, description="optimizer steps per site and round")
    batch_size: int = Field(8, ge=1)
    loss: Literal["dice-ce", "dice", "ce"] = Field("dice-ce", description="with masks")
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, ge=0)
    lr_schedule: Literal["constant", "poly"] = "constant"
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    reset_optimizer: bool = Field(False, description="forget the optimizer state every round")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm, 0 = off")
    mode: Literal["", "2d", "slices", "2.5d", "3d"] = Field(
        "", description="'' as the federation's [task] says; else for all sites, e.g. of a plan"
    )
    crop: bool = Field(False, description="cut off an image's dark surroundings before resizing")
    image_size: str = Field("", description="'96' or '96,128': resize; '' keeps the size")
    target_spacing: str = Field(
        "", description="'1' or '3,1,1' (D,H,W) in mm: resample; not together with image-size"
    )
    normalise: Literal["zscore", "robust", "local", "window", "none"] = Field(
        "zscore", description="robust: by quartiles; local: by the neighbourhood; window: as for CT"
    )
    intensity_window: str = Field("", description="'-125,275': what normalise = window keeps")
    patch_size: str = Field("", description="'64' or '32,64,64' (D,H,W); '' takes whole images")
    foreground_fraction: float = Field(
        0.5, ge=0, le=1, description="labeled samples drawn where there is foreground"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    transfer: Literal["fp32", "fp16"] = "fp32"
    min_labeled: int = Field(1, ge=1, description="replies of labeled or mixed sites per stage")
    min_unlabeled: int = Field(1, ge=0, description="replies of unlabeled sites, where addressed")
    round_timeout: float = Field(3600.0, gt=0, description="seconds to wait for a stage")
    resume: bool = False
    tracking: str = Field("tensorboard", description="of 'tensorboard,mlflow,wandb', or ''")
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    split: SplitConfig = SplitConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    method_config: MethodConfig = Field(MethodConfig(), exclude=True)
    quality: MethodConfig = Field(MethodConfig(), exclude=True)

    @field_validator("image_size", "patch_size", mode="before")
    @classmethod
    def _sizes(cls, value: object) -> str:
        text = str(value).replace(" ", "")
        parts = [p for p in text.split(",") if p]
        if len(parts) > 3 or not all(p.isdigit() and int(p) > 0 for p in parts):
            raise ValueError("expected up to three positive integers, e.g. '96' or '96,128'")
        return ",".join(parts)

    @field_validator("target_spacing", "intensity_window", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> str:
        text = str(value).replace(" ", "")
        try:
            finite = all(isfinite(float(part)) for part in text.split(",") if text)
        except ValueError:
            finite = False
        if not finite:
            raise ValueError("expected numbers with commas between them, e.g. '3,0.8,0.8'")
        return text

    @field_validator("tracking")
    @classmethod
    def _trackers(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not set(names) <= {"tensorboard", "mlflow", "wandb"}:
            raise ValueError("expected 'tensorboard', 'mlflow', 'wandb', or a comma list of them")
        return ",".join(dict.fromkeys(names))


def flatten(section: BaseModel, prefix: str = "") -> dict[str, Scalar]:
    """Return a configuration as flat keys; the inverse of `parse_run_config`."""
    flat: dict[str, Scalar] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(section, RunConfig) and name == "method_config":
            flat |= flatten(value, f"{section.method}.")
        elif isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{_kebab(name)}.")
        else:
            flat[prefix + _kebab(name)] = value
    return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {k: v for k, v in flat.items() if "." not in k}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if not dot:
            continue
        entries = tree.setdefault(section, {})
        if not isinstance(entries, dict):
            raise ConfigError(f"Key {section!r} is a section ({key!r}); it takes no value itself.")
        entries[name] = value
    return tree


def _message(error: ValidationError, prefix: str, known: list[str]) -> str:
    lines = []
    for item in error.errors():
        key = (prefix + ".".join(_kebab(str(p)) for p in item["loc"])).removesuffix(".")
        given = item["input"]
        if item["type"] == "extra_forbidden":
            unknown = [f"{key}.{name}" for name in given] if isinstance(given, dict) else [key]
            lines += [f"Unknown key {u!r}.{did_you_mean(u, known)}" for u in unknown]
        elif item["type"] == "model_type":
            lines.append(f"Key {key!r} is a section; it takes no value itself, got {given!r}.")
        else:
            reason = item["msg"].removeprefix("Value error, ")
            lines.append(f"Key {key!r}: {reason}; got {given!r}.")
    return "\n".join(lines)


def parse_run_config(
    flat: Mapping[str, Any], method_configs: Mapping[str, type[MethodConfig]]
) -> RunConfig:
    """Turn flat keys into a `RunConfig`; report every problem in one `ConfigError`.

    Args:
        flat: keys as Flower has them; missing ones take their default.
        method_configs: each method's `Config`, by method name.
    """
    tree = _nest(flat)
    sections = {name: tree.pop(name, {}) for name in method_configs}
    known = _known_keys(method_configs)
    problems: list[str] = []
    parsed: dict[str, MethodConfig] = {}
    for name, cls in method_configs.items():
        try:
            parsed[name] = cls.model_validate(sections[name])
        except ValidationError as error:
            problems.append(_message(error, f"{name}.", known))
    run = RunConfig()
    try:
        run = RunConfig.model_validate(tree)
    except ValidationError as error:
        problems.append(_message(error, "", known))
    if run.method not in method_configs and not problems:
        available = ", ".join(sorted(method_configs))
        hint = did_you_mean(run.method, method_configs)
        problems.append(f"Unknown method {run.method!r}.{hint} Available: {available}.")
    if run.split.fold >= run.split.folds:
        problems.append(
            f"Key 'split.fold': {run.split.fold} must be below 'split.folds' = {run.split.folds}."
        )
    if problems:
        raise ConfigError("\n".join(problems))
    chosen = {"method_config": parsed[run.method]}
    if "quality" in parsed:  # can guide any method, so every run has these keys
        chosen["quality"] = parsed["quality"]
    return run.model_copy(update=chosen)


def _known_keys(method_configs: Mapping[str, type[MethodConfig]]) -> list[str]:
    keys = list(flatten(RunConfig()))
    for name, cls in method_configs.items():
        keys += list(flatten(cls(), f"{name}."))
    return keys
