"""Settings as frozen dataclasses. Nothing here imports torch, so the command line stays quick.

A run folder stores these as JSON, and any run can be repeated from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

BASELINES = ("msp", "maxlogit", "energy", "odin", "mahalanobis", "knn", "vim", "react")
"""Out-of-distribution detectors that stand beside ours."""


@dataclass(frozen=True)
class Runtime:
    """Where and how the work runs. Of these only the precision changes figures, and little.

    On GPUs PyTorch rounds convolutions to TF32 in 32-true as well, unless
    ``torch.backends.cudnn.allow_tf32`` is False.
    """

    accelerator: Accelerator = "auto"
    """Kind of device; auto takes a GPU when there is one."""
    devices: int = 1
    """Processes, one per device (per CPU process with the cpu accelerator)."""
    precision: Precision = "auto"
    """auto is bf16 autocast where the hardware computes in bf16, else float32."""


@dataclass(frozen=True)
class Augmentation:
    """Random label-preserving changes to training images, drawn for each image on its own."""

    flip: bool = False
    """Mirror left and right, half of the time."""
    shift: int = 2
    """Largest shift in pixels, both ways, zero-padded."""
    rotate: float = 0.0
    """Largest rotation in degrees."""
    scale: float = 0.0
    """Largest relative change of size: 0.1 is from 90 to 110 %."""
    contrast: float = 0.0
    """Largest relative change of contrast and of brightness."""


@dataclass(frozen=True)
class Fitting:
    """How closely a classifier may fit the images that it is trained on."""

    first_scale: float = 1.0
    """Factor of the first layer's initial weights. Small ones make a network without batch norm
    learn its features from the training images, as Haim et al. 2022 had it."""
    dropout: float | None = None
    """Share that dropout switches off, where the architecture has it; None takes its own."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    stop_loss: float | None = None
    """End after an epoch with a mean loss of at most this; None trains all epochs."""
    dp_noise: float | None = None
    """DP-SGD with noise of this many times the clipping norm (Abadi et al. 2016); None is none."""
    dp_clip: float = 1.0
    """Norm that DP-SGD clips each image's gradient to."""


@dataclass(frozen=True)
class Portion:
    """Which images of a data set to train on."""

    limit: int | None = None
    """So many, drawn by the seed, as many of each class; None takes all. The run folder keeps them
    beside as many that are not trained on, for `preimage reconstruct`."""
    positive: tuple[int, ...] = ()
    """Two classes in place of the data's own: these, and all others."""


@dataclass(frozen=True)
class TrainConfig:
    """How a reference classifier is trained."""

    arch: str = "cnn"
    """cnn, cnn-deep, resnet, resnet-deep, mlp or vit."""
    width: int | None = None
    """Channels of the first stage; None takes the architecture's own."""
    epochs: int = 16
    batch: int = 256
    optimizer: Literal["auto", "sgd", "adamw"] = "auto"
    """auto is SGD with Nesterov momentum for networks with batch norm, else AdamW."""
    lr: float | None = None
    """Peak learning rate of the one-cycle schedule; None is 0.2 for SGD, 0.001
    for AdamW, at a batch of 256, and in proportion otherwise."""
    weight_decay: float = 5e-4
    augmentation: Augmentation = field(default_factory=Augmentation)
    fitting: Fitting = field(default_factory=Fitting)
    seed: int = 0
    """Weights, order, augmentation and dropout follow from it."""


@dataclass(frozen=True)
class Recipe:
    """Epochs, augmentation and batch that suit a known data set."""

    epochs: int
    augmentation: Augmentation
    batch: int = 256


RECIPES: dict[str, Recipe] = {
    "mnist": Recipe(8, Augmentation(shift=2, rotate=10, scale=0.1)),
    "fashion_mnist": Recipe(16, Augmentation(flip=True, shift=2)),
    "svhn": Recipe(15, Augmentation(shift=2)),
    "cifar10": Recipe(26, Augmentation(flip=True, shift=4), batch=128),
    "cifar100": Recipe(40, Augmentation(flip=True, shift=4), batch=128),
    "gtsrb": Recipe(40, Augmentation(shift=2, rotate=10, scale=0.1, contrast=0.3)),
}
"""What `preimage train` uses for these sets unless told otherwise."""
FEW = Recipe(1000, Augmentation(shift=0), batch=512)
"""The same for a few images of any set: seen as they are, mostly all of them in every step."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of the generator. Its size follows from the image and the condition."""

    latent: int = 64
    """Length of z ~ N(0, I)."""
    width: int = 32
    """Channels at full resolution; they double with every halving, up to eightfold."""
    dropout: float = 0.3
    """Share of channels switched off after every stage, while training and while sampling."""
    stretch: float = 0.0
    """How far the last sigmoid reaches beyond [0, 1] before it is cut there: above 0, pixels that
    are quite black or white, as real ones often are, need no extreme numbers."""
    generator: str | None = None
    """A generator of your own in place of the usual one, as package.module:Class; see
    docs/extending.md."""


@dataclass(frozen=True)
class InvertConfig:
    """How a classifier is inverted. The defaults are those of the preset.

    In Python they are the paper's method with our weights, whatever `preset` says: it is a name
    for reports. To start from others, replace fields of one of :data:`PRESETS`.
    """

    preset: Literal["natural", "explore", "paper"] = "paper"
    """natural stays close to what the classifier was trained on, explore shows everything it
    accepts, paper is the published method. Every other setting starts from the preset's."""
    conditioning: str = "vector-matrix"
    """label, vector, matrix, vector-matrix or package.module:Class."""
    spread: float = 4.0
    """Standard deviation behind a conditioning vector; larger is nearer to one-hot."""
    margin: float = 2.0
    """Least log-ratio of a conditioning vector's largest entry to the next; the paper's is 0. The
    term sureness asks the classifier for a margin in proportion to the ratio."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    members: int = 1
    """Generators to keep. Each goes on from the one before with a fresh first layer, and a sample
    comes from any of them."""
    alpha: float = 1.0
    """Weight of KL(target || prediction)."""
    beta: float = 1.0
    """Weight of the cross-entropy with the class."""
    gamma: float = 0.5
    """Weight of the mean cosine similarity of features."""
    delta: float = 0.5
    """Weight of the orthogonality of features."""
    view: Augmentation = field(default_factory=lambda: Augmentation(shift=0))
    """Random changes that an image must bear: the classifier sees it changed in each step."""
    terms: tuple[str, ...] = ()
    """Further loss terms as NAME=WEIGHT; NAME is batch-norm, smoothness,
    separation, composition, sureness, vendi or
    package.module:function."""
    steps: int = 800
    """Training steps at most, over all members together."""
    batch: int = 128
    """Images a step, over all processes together."""
    lr: float = 2e-3
    """Peak learning rate of Adam, after a short warm-up and before a cosine decay."""
    check_every: int = 50
    """Steps between two held-out checks, each of which is also a checkpoint."""
    stop_at: float | None = 0.995
    """Stop early when this share of the held-out check has the right class ...; None never does."""
    patience: int = 3
    """... this many times in a row."""
    seed: int = 0
    """Weights and every random number follow from it."""


_NATURAL = InvertConfig(
    preset="natural",
    conditioning="vector",
    generator=GeneratorConfig(dropout=0.1, stretch=0.1),
    members=3,
    alpha=0.0,
    beta=0.0,
    gamma=0.0,
    delta=0.0,
    view=Augmentation(shift=1),
    terms=("batch-norm=150", "separation=8", "composition=2", "sureness=5"),
    steps=1200,
    batch=256,
    lr=4e-3,
    check_every=100,
    stop_at=None,
)
_EXPLORE = replace(
    _NATURAL,
    preset="explore",
    members=1,
    beta=2.0,
    view=Augmentation(shift=0),
    terms=("batch-norm=2", "vendi=2"),
    steps=800,
)
PRESETS: dict[str, InvertConfig] = {
    "natural": _NATURAL,
    "explore": _EXPLORE,
    "paper": InvertConfig(),
}
"""Settings by name, the same for every classifier."""


@dataclass(frozen=True)
class HardenConfig:
    """How a classifier gets its garbage class."""

    head: Literal["extend", "beside"] = "extend"
    """For a classifier that is trained already: extend gives its last layer one more output and
    trains all of it, beside leaves it as it is and puts a small network on its features."""
    noise: int = 2000
    """Images of Gaussian noise that garbage starts with."""
    garbage: int = 20_000
    """Images of garbage to keep at most, noise and inversions."""
    gain: int = 2000
    """Inversions that join garbage in a round, at most."""
    rounds: int | None = None
    """Rounds of inversion, one after each of the first epochs; None is after all but the last, for
    a classifier that is trained already after two of them. 0 leaves garbage at noise."""
    share: float = 0.33
    """Garbage beside each batch of real images, as a share of it."""
    weight: float = 5.0
    """How many classes garbage counts as in the weighted cross-entropy, however much there is of
    it; half of all classes at most."""
    exclude: Literal["none", "certain", "natural"] = "none"
    """Inversions that stay out of garbage: none; certain, those that the classifier is sure of;
    natural, those with features as near to a class as real images."""
    diverse: bool = True
    """Choose a round's inversions far from each other, not at random."""
    inversion_steps: int = 50
    """Steps of inversion in a round; every step's images are candidates."""
    inversion_batch: int = 128
    """Images a step."""
    inversion_beta: float = 2.0
    """Weight of the cross-entropy with the class while inverting."""
    inversion_terms: tuple[str, ...] = ("batch-norm=2", "vendi=2")
    """Further loss terms while inverting, as NAME=WEIGHT."""
    inversion_lr: float = 4e-3
    """Peak learning rate while inverting."""
    valid: int = 2000
    """Training images to hold out, a fifth of them at most: the guard and the threshold use
    them. Where the images are frames of films, in their order, whole films are held out."""
    margin: float = 0.02
    """How far the accuracy on them, a share, may fall below the best epoch's so far before the
    guard goes back to the last good epoch and drops the last round. It catches a training that goes
    wrong, and is no promise that the classifier's own accuracy is kept to within this."""
    patience: int = 2
    """How often the guard goes back before it ends the training."""


@dataclass(frozen=True)
class ReconstructConfig:
    """How training images are looked for. Weights balance themselves; a term has a say."""

    carrier: Literal["direct", "generator"] = "direct"
    """direct moves the pixels of every image, generator draws all of them."""
    start: Literal["weights", "noise"] = "weights"
    """weights first takes images out of a dense first layer's weights, noise looks for all."""
    images: int = 200
    """Images to look for, spread evenly over the classes; at least 2."""
    steps: int = 2000
    """Steps of the search; at least 1."""
    lr: float | None = None
    """Peak learning rate of Adam; None is 0.03 for pixels and 0.002 for a generator."""
    epsilon: float = 0.03
    """Size of the perturbations that an image must bear, in units of pixels, from 0 to 1."""
    sharpness: float = 100.0
    """Of the smooth step that stands for a ReLU's derivative, above 0; larger is steeper."""
    kl: float = 0.02
    """Say of the KL divergence to a soft target."""
    ce: float = 0.05
    """Say of the cross-entropy with the class."""
    kl_noise: float = 0.02
    """Say of the divergence under random sign noise."""
    ce_noise: float = 0.05
    """Say of the cross-entropy under random sign noise."""
    kl_adversarial: float = 0.02
    """Say of the divergence after an adversarial step."""
    ce_adversarial: float = 0.05
    """Say of the cross-entropy after an adversarial step."""
    cosine: float = 0.02
    """Say of the mean cosine similarity of features."""
    orthogonality: float = 0.02
    """Say of the orthogonality of features."""
    smoothness: float = 0.05
    """Say of the total variation."""
    pixels: float = 0.2
    """Say of the distance of pixels from [0, 1]."""
    gradient: float = 0.05
    """Say of the norm of the loss's gradient with respect to the weights."""
    stationarity: float = 1.0
    """Say of the KKT stationarity of margin maximisation."""
    seed: int = 0
    """Everything random follows from it."""


@dataclass(frozen=True)
class ModelConfig:
    """Which classifier, and what its file does not say of itself."""

    model: str
    """A bundled classifier (mnist, cifar10, mnist-evaluator ...), a run folder of `preimage
    train`, package.module:factory, torchvision:NAME, timm:NAME or a torch.export archive
    FILE.pt2."""
    checkpoint: str | None = None
    """Weights for a factory, torchvision or timm network: .safetensors, or a file that
    torch.load reads with weights_only=True."""
    image: tuple[int, int, int] | None = None
    """Channels, height and width of one image, where the model does not say."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the model's input normalisation, in [0, 1] units."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation, likewise."""
    classes: int | None = None
    """Class count of a torchvision or timm network, where it is not the library's own."""
    class_names: str | None = None
    """Names of the classes in the order of the outputs, where the model does not say: a text file
    with one name a line, or the names with commas between. Data with the same names in another
    order are then matched by name; without them classes are numbers."""
    feature_layer: str | None = None
    """Name of the layer whose input is the penultimate features; found where not given."""
