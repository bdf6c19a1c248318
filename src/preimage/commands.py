"""What each command of the command line takes. No torch here: `--help` must be quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes as Flat

from preimage.config import (
    BASELINES,
    PRESETS,
    Accelerator,
    Fitting,
    HardenConfig,
    InvertConfig,
    ModelConfig,
    Portion,
    ReconstructConfig,
    Runtime,
)

USUAL = "natural"
"""The preset of the command line where none is named."""


@dataclass(frozen=True)
class Output:
    """What to print, and where to keep the run."""

    out: str | None = None
    """Run folder; None takes one under runs/ that is named after the settings."""
    overwrite: bool = False
    """Replace the run that is in the folder, instead of going on with it."""
    json: bool = False
    """Print the result as one JSON object on standard output."""


@dataclass(frozen=True)
class Fit:
    """Data, architecture and schedule of a training."""

    dataset: str
    """mnist, fashion_mnist, svhn, cifar10, cifar100, gtsrb, a hub id, a folder of class folders,
    an .npz file or a .parquet file."""
    arch: Literal["cnn", "cnn-deep", "resnet", "resnet-deep", "mlp", "vit"] = "cnn"
    """Architecture."""
    width: int | None = None
    """Channels of the first stage; None takes the architecture's own."""
    epochs: int | None = None
    """None takes the data set's recipe, or 16."""
    batch: int | None = None
    """Images a step; None takes the data set's recipe, or 256."""
    optimizer: Literal["auto", "sgd", "adamw"] = "auto"
    """auto is SGD with Nesterov momentum for networks with batch norm, else AdamW."""
    lr: float | None = None
    """Peak learning rate of the one-cycle schedule; None is 0.2 for SGD, 0.001
    for AdamW, at a batch of 256, and in proportion otherwise."""
    weight_decay: float = 5e-4
    """For kernels and matrices."""
    flip: bool | None = None
    """Mirror images at random; None takes the data set's recipe, or no."""
    shift: int | None = None
    """Largest random shift in pixels; None takes the data set's recipe, or 2."""
    rotate: float | None = None
    """Largest random rotation in degrees; None takes the data set's recipe, or 0."""
    scale: float | None = None
    """Largest relative change of size; None takes the data set's recipe, or 0."""
    contrast: float | None = None
    """Largest relative change of contrast; None takes the data set's recipe, or 0."""
    seed: int = 0
    """Weights, order, augmentation and dropout follow from it."""
    runtime: Flat[Runtime] = field(default_factory=Runtime)
    output: Flat[Output] = field(default_factory=Output)


@dataclass(frozen=True)
class Train(Fit):
    """Train a reference classifier on a data set and test it on its test split.

    For example:
      preimage train mnist
      preimage train cifar10 --arch resnet-deep --epochs 30 --seed 1
      preimage train path/to/class-folders --arch cnn --flip True
      preimage train mnist --arch mlp --limit 100 --positive 1 3 5 7 9 --first-scale 0.01

    A killed training goes on where it was when the same command is given again.
    """

    image: tuple[int, int, int] | None = None
    """Channels, height and width to convert all images to, stretched and not cropped; None takes
    them as they are, if all are of one size."""
    portion: Flat[Portion] = field(default_factory=Portion)
    fitting: Flat[Fitting] = field(default_factory=Fitting)


@dataclass(frozen=True)
class Measure:
    """What an inversion is measured with."""

    data: str | None = None
    """Data set whose test split to compare with, its images stretched to the classifier's size, not
    cropped; None takes a bundled classifier's own."""
    evaluator: str | None = None
    """Independent classifier of the same classes; None takes a bundled classifier's own."""
    samples: int = 10_000
    """Fresh samples to judge."""
    real: bool = True
    """Compare with real images, where there are some."""
    student: bool = True
    """Train a student on inversions alone, and test it on the real test split."""
    student_steps: int = 1200
    """Training steps of the student; its accuracy grows with them, and so does the time."""


@dataclass(frozen=True)
class Invert:
    """Invert a classifier: learn a generator of what it puts in each class, and measure it.

    For example:
      preimage invert mnist
      preimage invert cifar10 --preset explore --seed 7 --json
      preimage invert mypackage.models:build --checkpoint weights.safetensors --image 3 64 64
          --mean 0.5 --std 0.25 --data path/to/test-folders
      preimage invert torchvision:resnet18 --checkpoint resnet18.safetensors --classes 10
          --image 3 32 32
      preimage invert exported.pt2 --conditioning label --steps 300

    A killed run goes on where it was when the same command is given again.
    """

    model: Flat[ModelConfig]
    config: Flat[InvertConfig] = field(default_factory=lambda: PRESETS[USUAL])
    measure: Flat[Measure] = field(default_factory=Measure)
    runtime: Flat[Runtime] = field(default_factory=Runtime)
    output: Flat[Output] = field(default_factory=Output)


@dataclass(frozen=True)
class Start(ModelConfig):
    """A trained classifier to go on with."""

    model: str = ""
    """Classifier to give a garbage class, named as for `preimage invert`; empty trains one from
    scratch."""


@dataclass(frozen=True)
class OodTrain(Fit):
    """Train a classifier with a garbage class that grows by inversion, and make a detector of it.

    For example:
      preimage ood train mnist
      preimage ood train cifar10 --arch cnn-deep --seed 1
      preimage ood train gtsrb --model gtsrb --head beside
      preimage ood train path/to/class-folders --model mypackage.models:build
          --checkpoint weights.safetensors --image 3 64 64 --heldout path/to/validation

    A killed training goes on where it was when the same command is given again.
    """

    epochs: int | None = None
    """None takes the data set's recipe, or 16; for a classifier that is trained already 3, or as
    many as make 600 steps."""
    start: Flat[Start] = field(default_factory=Start)
    harden: Flat[HardenConfig] = field(default_factory=HardenConfig)
    heldout: str | None = None
    """Data of the same classes that the classifier was not trained on, for the guard and the
    threshold; of a set with splits, the test split. None holds some of the training images out,
    which a classifier that is trained already has seen."""
    tpr: float = 0.99
    """Share of the held-out images that the threshold is to let through; of images that a
    classifier trained before has seen, under the training's random changes. `preimage ood score`
    and `eval` can set it anew."""


@dataclass(frozen=True)
class OodScore:
    """Score images: how far out-of-distribution is each?

    For example:
      preimage ood score runs/ood-mnist-cnn-0 photo.png folder/of/images
      preimage ood score detector.safetensors folder --out scores.csv
    """

    model: str
    """Run folder of `preimage ood train`, or the detector file in it."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files and folders of them."""
    score: Literal["garbage", "uncertainty", "features", "layers", "combined"] = "combined"
    """garbage: its log-odds; uncertainty: the paper's measure; features: how far its features are
    from those of real images; layers: how unlike real images it is in the layers before; combined:
    the answer, features and layers together."""
    tpr: float | None = None
    """Share of the held-out images of the training that the threshold is to let through; None
    leaves it as the training chose it."""
    out: str | None = None
    """File for the scores, .csv or .json; None prints them."""
    runtime: Flat[Runtime] = field(default_factory=Runtime)
    json: bool = False
    """Print the result as one JSON object on standard output."""


@dataclass(frozen=True)
class OodEval:
    """Measure how well unknown images are told from known ones, beside baselines.

    For example:
      preimage ood eval runs/ood-mnist-cnn-0 --id mnist --ood fashion_mnist cifar10 gtsrb
      preimage ood eval runs/ood-mnist-cnn-0 --id mnist --ood folder/of/images more.parquet
          --plain runs/train-mnist-cnn-0 --json
    """

    model: str
    """Run folder of `preimage ood train`, a detector file, or a plain classifier, of which
    baselines alone can be measured."""
    id: str | None = None
    """Data set that the classifier was trained for, of which the test split is used; None takes
    what the run or the bundled classifier was trained on."""
    ood: tuple[str, ...] = ()
    """Data sets, folders of images or parquet files of anything else."""
    synthetic: bool = True
    """Measure on images made by code as well: noise, stripes, patch-shuffled known images ..."""
    plain: str | None = None
    """Classifier without garbage, of the same architecture and training, for the baselines and to
    compare the accuracy with; None takes the one that was hardened, where that is known."""
    baselines: tuple[str, ...] = BASELINES
    """Baselines to measure; none given after it leaves them out."""
    tpr: float | None = None
    """Share of known images that thresholds are to let through: the detector's on the held-out
    images of its training, the baselines' on the known test images. None leaves the detector's as
    the training chose them, and takes the same share for the baselines."""
    most: int = 10_000
    """Images of each set at most."""
    seed: int = 0
    """Of the synthetic sets and of every choice of images."""
    runtime: Flat[Runtime] = field(default_factory=Runtime)
    output: Flat[Output] = field(default_factory=Output)


OodAction = (
    Annotated[OodTrain, tyro.conf.subcommand("train")]
    | Annotated[OodScore, tyro.conf.subcommand("score")]
    | Annotated[OodEval, tyro.conf.subcommand("eval")]
)


@dataclass(frozen=True)
class Ood:
    """Out-of-distribution detection: train a detector, score images, measure it.

    For example:
      preimage ood train mnist
      preimage ood score runs/ood-mnist-cnn-0 folder/of/images
      preimage ood eval runs/ood-mnist-cnn-0 --id mnist --ood fashion_mnist
    """

    action: Flat[OodAction]


@dataclass(frozen=True)
class Control:
    """The images that reconstructions are compared with."""

    data: str | None = None
    """Data set whose train split the classifier was trained on; its test split is held out. Images
    are stretched to the classifier's size, not cropped. None takes a bundled classifier's own, or
    what a training with --limit kept in its run folder."""
    heldout: str | None = None
    """Other data of the same distribution that the classifier has not seen, in place of the test
    split."""
    evaluator: str | None = None
    """Independent classifier of the same classes; None takes a bundled classifier's own."""
    most: int = 1000
    """Images on each side at most."""


@dataclass(frozen=True)
class Reconstruct:
    """Look for a classifier's training images, and say with a control group whether it leaks them.

    For example:
      preimage reconstruct runs/train-mnist-mlp-0 --data mnist
      preimage reconstruct runs/train-few-mlp-0 --data few.npz --heldout more.npz
      preimage reconstruct mnist --steps 300 --json
      preimage reconstruct mypackage.models:build --checkpoint weights.safetensors
          --image 3 64 64 --data path/to/class-folders

    A killed run goes on where it was when the same command is given again.
    """

    model: Flat[ModelConfig]
    config: Flat[ReconstructConfig] = field(default_factory=ReconstructConfig)
    control: Flat[Control] = field(default_factory=Control)
    runtime: Flat[Runtime] = field(default_factory=Runtime)
    output: Flat[Output] = field(default_factory=Output)


@dataclass(frozen=True)
class Audit:
    """Audit a classifier: what it accepts, whether it knows what it doesn't know, whether it leaks.

    Leaves one page and one JSON file, within a stated time.

    For example:
      preimage audit mnist
      preimage audit runs/train-gtsrb-cnn-0 --data gtsrb --ood cifar10 --budget 30m
      preimage audit mypackage.models:build --checkpoint weights.safetensors --image 3 64 64
          --data path/to/data --fail-on 'ood.auroc<0.95' --fail-on 'leak.verdict==leaks'

    A killed audit goes on where it was when the same command is given again.
    """

    model: Flat[ModelConfig]
    data: str | None = None
    """Data set that it was trained for: its train split counts as training images, its test split
    as held out. Images are stretched to the classifier's size, not cropped. None takes a bundled
    classifier's own."""
    heldout: str | None = None
    """Other data of the same kind that the classifier has not seen, in place of the test split."""
    ood: tuple[str, ...] = ()
    """Data sets, folders of images or parquet files of anything else, beside images made by
    code."""
    evaluator: str | None = None
    """Independent classifier of the same classes; None takes a bundled classifier's own."""
    real: bool = True
    """Look for real images, where none are named: those that a bundled classifier or a run of
    `preimage train` saw."""
    budget: str = "5m"
    """Time for all of it, as 90s, 5m, 30m or 2h. The work is planned by it, and takes about as
    long."""
    fail_on: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Condition under which the exit status is 3, such as 'ood.auroc<0.95' (in cmd.exe in double
    quotes); may be given again."""
    junit: str | None = None
    """File for the conditions as JUnit XML."""
    markdown: str | None = None
    """File for a short summary in Markdown."""
    seed: int = 0
    """Everything random follows from it."""
    runtime: Flat[Runtime] = field(default_factory=Runtime)
    output: Flat[Output] = field(default_factory=Output)


@dataclass(frozen=True)
class Compare:
    """Compare two audits or two reconstructions: of two classifiers, or of two versions of one.

    For example:
      preimage compare runs/audit-old runs/audit-new
      preimage compare old.json new.json --out difference.md
      preimage compare runs/leak-plain runs/leak-dropout
    """

    first: str
    """Run folder of `preimage audit`, or the audit.json in it, or run folder of `preimage
    reconstruct`."""
    second: str
    """Likewise."""
    out: str | None = None
    """File for the comparison in Markdown."""
    json: bool = False
    """Print the result as one JSON object on standard output."""


@dataclass(frozen=True)
class Sample:
    """Draw images from a finished inversion.

    For example:
      preimage sample runs/invert-mnist --label 3 --count 64 --out threes.png
      preimage sample runs/invert-mnist --count 1000 --seed 1 --out samples.npz
      preimage sample generator.safetensors --out folder-of-images/
    """

    source: str
    """Run folder of `preimage invert`, or a generator's .safetensors file."""
    label: tuple[int, ...] = ()
    """Class indices, counted from 0; none is all classes in turn."""
    count: int = 100
    """Images to draw, spread evenly over the classes."""
    seed: int = 0
    """Names the draw."""
    out: str = "samples.png"
    """A .png grid, an .npz with images and labels, or a folder of PNG files by class."""
    accelerator: Accelerator = "auto"
    """Kind of device; auto takes a GPU when there is one."""
    json: bool = False
    """Print the result as one JSON object on standard output."""


@dataclass(frozen=True)
class Show:
    """Show what is known of a run or a classifier.

    For example:
      preimage show runs/invert-mnist
      preimage show cifar10
      preimage show mnist-evaluator --json
    """

    source: str
    """Run folder, or a bundled classifier's name."""
    json: bool = False
    """Print it as one JSON object on standard output."""


@dataclass(frozen=True)
class Demo:
    """Audit the bundled MNIST classifier and leave its page: no data, no network.

    For example:
      preimage demo
      preimage demo --out my-demo
    """

    out: str = "runs/demo"
    """Run folder; the page in it is audit.html."""
    overwrite: bool = False
    """Replace the run that is in the folder, instead of going on with it."""
    seed: int = 0
    """Everything random follows from it."""
    json: bool = False
    """Print the result as one JSON object on standard output."""


def command_type(arguments: Sequence[str]) -> Any:
    """What `preimage` may be asked for, with the defaults of the preset named in `arguments`.

    The preset must be known before the rest is read: the other settings start from its own.
    """
    start = Invert(ModelConfig(tyro.MISSING), config=PRESETS[_preset(arguments)])
    return (
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Invert, tyro.conf.subcommand("invert", default=start)]
        | Annotated[Ood, tyro.conf.subcommand("ood")]
        | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
        | Annotated[Audit, tyro.conf.subcommand("audit")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Demo, tyro.conf.subcommand("demo")]
    )


def _preset(arguments: Sequence[str]) -> str:
    """The preset asked for; the usual one where none or no real one is, for the parser to tell.

    The last of several, as the parser takes it: what an alias asks for can be overruled.
    """
    asked = USUAL
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--preset":
            asked = value or next(iter(arguments[i + 1 :]), "")
    return asked if asked in PRESETS else USUAL
