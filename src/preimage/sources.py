"""From a model's name to a :class:`Classifier`. A new kind of source is one function here."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from preimage import zoo
from preimage.classifier import Classifier
from preimage.config import ModelConfig
from preimage.errors import PreimageError
from preimage.exported import load_exported
from preimage.plugins import import_attribute
from preimage.types import ImageSpec
from preimage.weights import load_checkpoint, take_over
from preimage.zoo.cards import load_file

CLASSIFIER_FILE = "classifier.safetensors"
_OF_PLAIN_MODULES = ("checkpoint", "image", "mean", "std", "feature_layer", "class_names")
_FILE_DECIDES, _FACTORY_DECIDES = "its file says that already", "the factory decides that itself"
Loader = Callable[[ModelConfig], Classifier]


@dataclass(frozen=True)
class WithWeights(ModelConfig):
    """A factory's, torchvision or timm network whose weights are at hand: no checkpoint is read."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Those that do not fit are passed over, and what is not among them stays as it comes."""


def load_classifier(config: ModelConfig | str) -> Classifier:
    """Build the classifier that the settings name.

    Args:
        config: the settings, or just the model's name.

    Raises:
        PreimageError: when there is no such model, or it does not fit the settings.
    """
    if isinstance(config, str):
        config = ModelConfig(config)
    return _loader(config.model)(config)


def check_name(model: str) -> None:
    """Refuse a name that no kind of source has, and load nothing.

    Raises:
        PreimageError: for such a name.
    """
    _loader(model)


def _loader(model: str) -> Loader:
    if model in zoo.bundled():
        return _bundled
    if model.endswith(".pt2"):
        return _archive
    if model.endswith(".safetensors") or Path(model).is_dir():
        return _trained
    prefix, separator, _ = model.partition(":")
    if separator:
        return _PREFIXES.get(prefix, _factory)
    raise PreimageError(_unknown(model))


def _unknown(model: str) -> str:
    near = difflib.get_close_matches(model, zoo.bundled(), n=1)
    guess = f"did you mean '{near[0]}'? Otherwise " if near else ""
    return (
        f"expected a classifier, found the unknown name '{model}'; {guess}give one of "
        f"{', '.join(zoo.bundled())}, a run folder, package.module:factory, torchvision:NAME, "
        "timm:NAME or FILE.pt2"
    )


def _bundled(config: ModelConfig) -> Classifier:
    _refuse(config, *_OF_PLAIN_MODULES, "classes")
    return load_file(zoo.weights(config.model), config.model)


def _trained(config: ModelConfig) -> Classifier:
    """What `preimage train` wrote: a run folder, or the file in it."""
    _refuse(config, *_OF_PLAIN_MODULES, "classes")
    path, file = Path(config.model), trained_file(config.model)
    if not file.is_file():
        raise PreimageError(
            f"expected a trained classifier, found no '{file}'; finish the training with "
            "`preimage train`, or check the path"
        )
    return load_file(file, path.stem if path.is_file() else path.name)


def trained_file(model: str) -> Path:
    """The file of a classifier that `preimage train` wrote, named by its run folder or itself."""
    path = Path(model)
    return path / CLASSIFIER_FILE if path.is_dir() else path


def _archive(config: ModelConfig) -> Classifier:
    _refuse(config, "checkpoint", "classes")
    network, shape = load_exported(Path(config.model), config.feature_layer)
    classifier = Classifier(
        network,
        ImageSpec(*(config.image or shape)),
        mean=config.mean,
        std=config.std,
        name=Path(config.model).stem,
    )
    return _named(classifier, config)


def _factory(config: ModelConfig) -> Classifier:
    """A user's own function that takes nothing and returns a module, or a Classifier."""
    factory = import_attribute(config.model, "model factory")
    classifier = _built_by(factory, config)
    classifier.factory = (config.model, factory)
    return classifier


def _built_by(factory: Callable[[], Any], config: ModelConfig) -> Classifier:
    _refuse(config, "classes", why=_FACTORY_DECIDES)
    try:
        network = factory()
    except (Exception, SystemExit) as error:
        raise PreimageError(
            f"expected '{config.model}' to build a network when called without arguments, found "
            f"{type(error).__name__}: {error}; wrap it in a function that takes none"
        ) from error
    if isinstance(network, Classifier):
        _refuse(config, *_OF_PLAIN_MODULES, why=_FACTORY_DECIDES)
        return network
    if not isinstance(network, nn.Module):
        raise PreimageError(
            f"expected '{config.model}' to return a torch.nn.Module, found "
            f"{type(network).__name__}; return the network itself"
        )
    return _finish(network, config, config.image, config.mean, config.std)


def _torchvision(config: ModelConfig) -> Classifier:
    """torchvision:NAME, weights from the checkpoint; ImageNet's normalisation by default."""
    models = _optional("torchvision.models", "torchvision")
    _check_classifies(models, config.model)
    network = _of_library(models.get_model, config, "torchvision", num_classes=config.classes)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = config.image or (3, 224, 224)
    return _finish(network, config, image, config.mean or mean, config.std or std)


def _check_classifies(models: ModuleType, model: str) -> None:
    """Refuse torchvision's other models, which would also fetch weights of their backbones."""
    name = model.partition(":")[2]
    if name in models.list_models() and name not in models.list_models(module=models):
        raise PreimageError(
            f"expected a classifier out of torchvision, found '{name}', which is for another task; "
            "name one out of torchvision.models itself"
        )


def _timm(config: ModelConfig) -> Classifier:
    """timm:NAME, weights from the checkpoint; size and normalisation from the model's own card."""
    timm = _optional("timm", "timm")
    network = _of_library(timm.create_model, config, "timm", num_classes=config.classes)
    card = network.pretrained_cfg
    image = config.image or card["input_size"]
    return _finish(network, config, image, config.mean or card["mean"], config.std or card["std"])


_PREFIXES: dict[str, Loader] = {"torchvision": _torchvision, "timm": _timm}


def _of_library(
    create: Callable[..., Any], config: ModelConfig, library: str, **options: Any
) -> Any:
    """Build a library's network without weights of its own: none can be fetched unasked."""
    if config.checkpoint is None and not isinstance(config, WithWeights):
        raise PreimageError(
            f"expected weights for '{config.model}', found none; give a checkpoint file with "
            "--checkpoint"
        )
    if config.classes is not None and config.classes < 2:
        raise PreimageError(
            f"expected --classes of at least 2, found {config.classes}; give the number of outputs"
        )
    name = config.model.partition(":")[2]
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return create(name, **given)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise PreimageError(
            f"expected a model that {library} knows, found '{name}' ({error}); check the name "
            f"against {library}'s list"
        ) from error


def _optional(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PreimageError(
            f"expected the package {package} for this model, found that it does not import "
            f"({error}); install it with: pip install {package}"
        ) from error


def _finish(
    network: nn.Module,
    config: ModelConfig,
    image: tuple[int, int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Classifier:
    if image is None:
        raise PreimageError(
            f"expected the image shape of '{config.model}', found none; give it as "
            "--image CHANNELS HEIGHT WIDTH, or let it return a preimage.Classifier, which has one"
        )
    if isinstance(config, WithWeights):
        network = copy.deepcopy(network)  # a factory may give out the same one again
        take_over(network, config.weights)
    elif config.checkpoint is not None:
        load_checkpoint(network, config.checkpoint)
    classifier = Classifier(
        network.eval(),
        ImageSpec(*image),
        mean=mean,
        std=std,
        feature_layer=config.feature_layer,
        name=config.model,
    )
    return _named(classifier, config)


def _named(classifier: Classifier, config: ModelConfig) -> Classifier:
    """With the class names of the settings, where these have some."""
    if config.class_names is None:
        return classifier
    names = _class_names(config.class_names)
    if len(names) != classifier.classes or not all(names) or len(set(names)) < len(names):
        raise PreimageError(
            f"expected {classifier.classes} different class names for '{config.model}', one for "
            f"each output, found {len(names)} in '{config.class_names[:60]}'; give --class-names a "
            "text file with one name a line, or the names with commas between"
        )
    classifier.class_names = names
    return classifier


def _class_names(text: str) -> tuple[str, ...]:
    file, many = Path(text), text.split(",")
    with suppress(OSError):  # a long list is no file's name
        if file.is_file():
            many = _lines(file)
    return tuple(name.strip() for name in many)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise PreimageError(
            f"expected class names as text in UTF-8, found other bytes in '{file}'; save it as that"
        ) from error


def _refuse(config: ModelConfig, *settings: str, why: str = _FILE_DECIDES) -> None:
    """Say so when a setting is given that the model's own file or factory already decides."""
    for setting in settings:
        if getattr(config, setting) is not None:
            raise PreimageError(
                f"expected no --{setting.replace('_', '-')} for '{config.model}', found "
                f"{getattr(config, setting)}; {why}, so leave it out"
            )
