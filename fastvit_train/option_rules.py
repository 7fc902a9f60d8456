"""Which options are of no use where others are as they are: refused, so that nothing is ignored silently.

What a model or a data set cannot use is not known before they are there: `models` and `loaders` refuse that.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import fields, replace
from functools import reduce
from typing import Any, NamedTuple, TypeVar

from loaders.errors import FastvitError

__all__ = ["RULES", "Rule", "refuse_unused", "reset_unused", "unused_options", "with_option"]

_T = TypeVar("_T")


class Rule(NamedTuple):
    """Options, and when they are of use.

    The config comes as Any because `config` itself asks for these rules: an import back would be a circle.
    """

    options: tuple[str, ...]
    """By their dotted names."""
    are_used: Callable[[Any], bool]
    """Whether a `Config` uses them."""
    unless: str
    """The same in words."""


def _uses_adam(config: Any) -> bool:  # noqa: ANN401
    return config.optim.name in ("adamw", "lamb") or (config.optim.name == "muon" and config.optim.muon.rest == "adamw")


def _uses_sgd(config: Any) -> bool:  # noqa: ANN401
    return bool(config.optim.name == "sgd" or (config.optim.name == "muon" and config.optim.muon.rest == "sgd"))


def _mixes(config: Any) -> bool:  # noqa: ANN401
    return bool(config.augment.mixup_alpha or config.augment.cutmix_alpha)


RULES = (
    Rule(
        (
            "data.crop",
            "data.area",
            "data.ratio",
            "data.max_shift",
            "data.center_fraction",
            "data.interpolation",
            "data.exif_orientation",
            "data.num_workers",
            "data.prefetch_batches",
            "data.decode",
            "data.scaled_decode",
            "data.on_error",
        ),
        lambda config: config.data.backend != "synthetic",
        "data.backend is another than synthetic, which makes noise instead of reading images",
    ),
    Rule(
        ("data.prefetch_batches",),
        lambda config: config.data.backend in ("native", "dali", "nvjpeg"),
        "data.backend is native, dali or nvjpeg",
    ),
    Rule(("data.scaled_decode",), lambda config: config.data.backend == "native", "data.backend is native"),
    Rule(("data.decode",), lambda config: config.data.backend == "dali", "data.backend is dali"),
    Rule(
        ("data.interpolation",),
        lambda config: config.data.backend != "ffcv",
        "data.backend is another than ffcv, which has a filter of its own",
    ),
    Rule(
        ("data.exif_orientation",),
        lambda config: config.data.backend != "ffcv",
        "data.backend is another than ffcv, which takes images as they are stored",
    ),
    Rule(
        ("data.area", "data.ratio"),
        lambda config: config.data.crop == "random_resized",
        "data.crop is random_resized",
    ),
    Rule(("data.max_shift",), lambda config: config.data.crop == "shift", "data.crop is shift"),
    Rule(
        ("data.center_fraction",),
        lambda config: config.data.crop in ("random_resized", "center"),
        "data.crop is random_resized or center; with the others, validation takes the whole image",
    ),
    Rule(
        ("augment.flip",),
        lambda config: config.data.crop in ("center", "whole") or config.data.backend == "synthetic",
        "data.crop is center or whole; the others mirror at random themselves",
    ),
    Rule(
        ("augment.num_ops", "augment.magnitude"),
        lambda config: config.augment.policy == "randaugment",
        "augment.policy is randaugment",
    ),
    Rule(
        ("augment.switch_probability",),
        lambda config: bool(config.augment.mixup_alpha and config.augment.cutmix_alpha),
        "both augment.mixup_alpha and augment.cutmix_alpha are above 0",
    ),
    Rule(
        ("model.mimetic_init", "model.zero_residual", "model.whiten_patches"),
        lambda config: config.init_from is None,
        "init_from is left out, whose weights replace these",
    ),
    Rule(
        ("model.patch_drop",),
        lambda config: not config.phases or config.phases[-1][0] < 1,
        "the last of the phases ends before the run; each phase has its own patch dropout",
    ),
    Rule(
        ("model.bf16_residual",),
        lambda config: config.precision in ("auto", "bf16", "fp8"),
        "precision is auto, bf16 or fp8",
    ),
    Rule(
        ("optim.betas",),
        _uses_adam,
        "optim.name is adamw or lamb, or muon with optim.muon.rest adamw",
    ),
    Rule(
        ("optim.momentum", "optim.nesterov"),
        _uses_sgd,
        "optim.name is sgd, or muon with optim.muon.rest sgd",
    ),
    Rule(("optim.nesterov",), lambda config: config.optim.momentum > 0, "optim.momentum is above 0"),
    Rule(
        tuple(
            f"optim.muon.{name}" for name in ("lr", "momentum", "weight_decay", "num_iterations", "normalize", "rest")
        ),
        lambda config: config.optim.name == "muon",
        "optim.name is muon",
    ),
    Rule(
        ("schedule.start_fraction",),
        lambda config: config.schedule.warmup_epochs > 0,
        "schedule.warmup_epochs is above 0",
    ),
    Rule(
        ("bce_target_threshold",),
        lambda config: config.loss == "bce" and _mixes(config),
        "loss is bce, and augment.mixup_alpha or augment.cutmix_alpha is above 0",
    ),
    Rule(
        ("distill.preset", "distill.epochs"),
        lambda config: config.distill.teacher is None,
        "distill.teacher is left out, which is trained already",
    ),
    Rule(
        ("distill.epochs",),
        lambda config: config.distill.preset is not None,
        "distill.preset names the recipe of a teacher",
    ),
    Rule(
        ("distill.kind", "distill.weight", "distill.temperature"),
        lambda config: config.distill.is_on,
        "distill.preset or distill.teacher names a teacher",
    ),
    Rule(("distill.temperature",), lambda config: config.distill.kind == "soft", "distill.kind is soft"),
)
"""Every option that others can make useless; `model.*` that the model does not have are refused by name there."""


def unused_options(config: Any) -> Iterator[tuple[str, Rule]]:  # noqa: ANN401 - see `Rule`
    """The options of a `Config` that are not at their default but of no use, each with the rule that says so."""
    for rule in RULES:
        if not rule.are_used(config):
            for option in rule.options:
                if _value(config, option) != _default(config, option):
                    yield option, rule


def refuse_unused(config: Any) -> None:  # noqa: ANN401
    """Refuse a `Config` with an option that is of no use and not at its default.

    Raises:
        FastvitError: There is one; the message says when it would be of use.
    """
    for option, rule in unused_options(config):
        raise FastvitError(
            f"{option} must stay {_default(config, option)} unless {rule.unless}, got {_value(config, option)}"
        )


def reset_unused(config: _T, *, keep: Collection[str]) -> _T:
    """The config with its options that are of no use at their defaults, all but those to `keep`, by dotted names."""
    for option, _ in list(unused_options(config)):
        if option not in keep:
            config = with_option(config, option, _default(config, option))
    return config


def with_option(config: _T, option: str, value: object) -> _T:
    """The config with an option, by its dotted name, changed."""
    name, _, rest = option.partition(".")
    if rest:
        value = with_option(getattr(config, name), rest, value)
    return replace(config, **{name: value})  # type: ignore[type-var]


def _value(config: Any, option: str) -> Any:  # noqa: ANN401
    return reduce(getattr, option.split("."), config)


def _default(config: Any, option: str) -> Any:  # noqa: ANN401
    *sections, name = option.split(".")
    owner = reduce(getattr, sections, config)
    return next(field.default for field in fields(owner) if field.name == name)
