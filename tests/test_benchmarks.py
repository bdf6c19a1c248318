"""The benchmarks' own code: what they switch, and the peers that they compare with."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro

from preimage.classifier import Classifier, frozen
from preimage.commands import command_type
from preimage.config import PRESETS
from preimage.data import ImageSet
from preimage.leak.matching import similarities
from preimage.leak.verdict import judge
from preimage.limits import SAYS, check_harden, check_invert, check_reconstruct, check_tpr
from preimage.records import read_records
from preimage.runtime import stream
from preimage.tensors import pack
from preimage.terms.prior import batch_norm
from preimage.types import ImageSpec, Prediction
from preimage.zoo.architectures import build
from tiny import draw_sample, fit

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import audit_tables
import leak_tables
import ood
import ood_tables
import reconstruct
import study_tables
from ablation import VARIANTS
from common import record_missing
from coverage import SOURCES, with_moments
from ood import VARIANTS as OOD_VARIANTS
from peer_methods import METHODS, optimise
from peers import Pool

SPEC = ImageSpec(1, 12, 12)


def parsed(arguments):
    return tyro.cli(
        command_type(arguments), args=arguments, config=(tyro.conf.PositionalRequiredArgs,)
    )


def test_every_variant_is_a_command_and_no_two_are_the_same():
    configs = {}
    for name, arguments in VARIANTS.items():
        command = parsed(["invert", "mnist", *arguments, "--seed", "0"])
        check_invert(command.config)
        configs[name] = command.config
    again = configs.pop("paper, dropout 0.3")  # measured beside the other rates
    assert again == configs["paper"] and len(set(configs.values())) == len(configs)


def test_a_variant_changes_what_it_says():
    def config(name):
        return parsed(["invert", "mnist", *VARIANTS[name]]).config

    natural = config("natural")
    without = config("natural without separation")
    kept = tuple(term for term in PRESETS["natural"].terms if not term.startswith("separation"))
    assert without == replace(natural, terms=kept) and len(kept) == len(natural.terms) - 1
    assert config("natural, one member") == replace(natural, members=1)
    assert config("paper") == PRESETS["paper"]
    assert config("paper without ce") == replace(PRESETS["paper"], beta=0.0)
    assert config("natural, dropout 0.5").generator.dropout == 0.5


def test_what_is_recorded_is_not_measured_again_unless_asked(tmp_path):
    file, asked = tmp_path / "x.json", []

    def measure(seed, dataset):
        asked.append((seed, dataset))
        return [{"dataset": dataset, "seed": seed, "value": len(asked)}]

    axes = {"seed": [0, 1], "dataset": ["a", "b"]}
    for again in (False, False, True):
        record_missing(file, axes, measure, ("dataset", "seed"), again)
    assert asked == [(0, "a"), (0, "b"), (1, "a"), (1, "b")] * 2
    assert sorted(record["value"] for record in read_records(file)) == [5, 6, 7, 8]


@pytest.fixture(scope="module")
def classifier():
    """Tells how bright an image is, wherever it is mirrored or moved, by a net with batch norm."""
    torch.manual_seed(0)
    labels = torch.arange(128) % 4

    def batch(_):
        return torch.rand(128, *SPEC.shape) * 0.2 + labels[:, None, None, None] * 0.25, labels

    return Classifier(fit(build("cnn", SPEC, 4, 8), batch, 60), SPEC)


@pytest.mark.parametrize("name", METHODS)
def test_a_peer_makes_images_of_the_wanted_class(name, classifier):
    labels = torch.arange(32) % 4
    # their prior, ten times as strong, takes longer to let brightness tell the class
    steps, wanted = (400, 0.35) if name == "deepinversion-authors" else (200, 0.75)
    method = replace(METHODS[name], steps=steps)
    before = torch.get_rng_state()
    with frozen(classifier):
        images = optimise(method, classifier, labels, seed=0)
        again = optimise(method, classifier, labels, seed=0)
        with torch.no_grad():
            answers = classifier(images).logits.argmax(1)
    assert images.shape == (32, *SPEC.shape) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, again) and torch.equal(torch.get_rng_state(), before)
    assert (answers == labels).float().mean() >= wanted
    assert len(images.unique(dim=0)) == 32


def test_batch_norm_statistics_set_deepinversion_apart_from_ascent(classifier):
    labels = torch.arange(16) % 4
    divergence = {}
    with frozen(classifier):
        for name in ("pixel-ascent", "deepinversion", "deepinversion-authors"):
            images = optimise(replace(METHODS[name], steps=60), classifier, labels, seed=0)
            with torch.no_grad():
                layers = classifier.observe(images)[1]
            divergence[name] = float(batch_norm(draw_sample(16)._replace(layers=layers)))
    assert divergence["deepinversion-authors"] < divergence["pixel-ascent"]
    assert divergence["deepinversion"] < divergence["pixel-ascent"]


def test_a_pool_gives_every_image_once_before_it_begins_again():
    images = torch.rand(9, 1, 8, 8, generator=stream("i"))
    labels = torch.arange(9) % 3
    pool = Pool(images, labels, Prediction(torch.randn(9, 3), torch.randn(9, 5)))
    first = torch.cat([pool(torch.arange(3), seed=i).images for i in range(3)])
    assert torch.equal(first, images)
    repeated = pool(torch.tensor([2, 0]), seed=9)
    assert torch.equal(repeated.images, images[[2, 0]])
    assert torch.equal(repeated.prediction.logits, pool.prediction.logits[[2, 0]])


def test_every_variant_of_hardening_is_a_command_and_no_two_are_the_same():
    configs = []
    for arguments in OOD_VARIANTS.values():
        command = parsed(["ood", "train", "mnist", *arguments]).action
        check_harden(command.harden)
        check_tpr(command.tpr)
        configs.append((command.harden, command.epochs))
    assert len(set(configs)) == len(OOD_VARIANTS)


def ood_record(id, ood, seed, method, score, auroc, **more):
    return {
        **{"id": id, "ood": ood, "seed": seed, "method": method, "score": score},
        **{"auroc": auroc, "real": True, "garbage_share": 0.9, "id_garbage_share": 0.01},
        "start": "bundled",
        **{"id_accuracy": 0.99, "id_accuracy_plain": 0.98, "train_seconds": 60.0},
        **more,
    }


def test_an_accuracy_counts_once_for_a_seed_however_many_sets_were_unknown():
    records = [
        ood_record("mnist", ood, seed, "preimage", "combined", 0.9, id_accuracy=0.9 + seed / 10)
        for seed, others in ((0, ["cifar10", "gtsrb"]), (1, ["cifar10"]))
        for ood in others
    ]
    table = ood_tables.WHOLE["ood-accuracy"](records)
    assert "| MNIST | 95.00 ± 7.07 | 98.00 ± 0.00 | 60.00 ± 0.00 | 2 |" in table


def test_ood_tables_average_sets_before_seeds():
    records = [
        ood_record("mnist", ood, seed, method, score, value)
        for method, score, values in (
            ("preimage", "combined", {0: (0.9, 1.0), 1: (0.7, 0.8)}),
            ("knn", "knn", {0: (0.5, 0.6), 1: (0.5, 0.6)}),
        )
        for seed, pair in values.items()
        for ood, value in zip(("cifar10", "gtsrb"), pair, strict=True)
    ]
    # what was trained from scratch is another classifier
    records.append(ood_record("mnist", "cifar10", 2, "knn", "knn", 0.1, start="scratch"))
    table = ood_tables.WHOLE["ood-auroc"](records)
    assert table.splitlines()[2:] == [
        "| preimage, combined | 0.8500 ± 0.1414 |",
        "| knn | 0.5500 ± 0.0000 |",
    ]
    cells = ood_tables.WHOLE["ood-cells"](records).splitlines()
    start = "| MNIST → CIFAR-10 | 90.00 ± 0.00 | 99.4 | 1.00 ± 0.00 |"
    assert cells[2].startswith(f"{start} not measured | not measured | 0.80")
    lower = {"garbage_share_98": 0.95, "id_garbage_share_98": 0.02}
    # a record that has them beside one from before they were measured
    cells = ood_tables.WHOLE["ood-cells"]([{**records[0], **lower}, *records[1:]]).splitlines()
    assert cells[2].startswith(f"{start} 95.00 (1 of 2 seeds) | 2.00 (1 of 2 seeds) | 0.80")
    assert "| MNIST | 99.00 ± 0.00 | 98.00 ± 0.00 | 60.00 ± 0.00 | 2 |" in ood_tables.WHOLE[
        "ood-accuracy"
    ](records)
    assert all(
        table([]) == "" for table in (*ood_tables.WHOLE.values(), *ood_tables.PARTS.values())
    )


def test_shortcuts_table_has_a_column_for_every_statistic_that_tells_a_pair_apart():
    def record(id, ood, **statistics):
        named = {name.replace("_", " "): value for name, value in statistics.items()}
        return {"id": id, "ood": ood, "seed": 0, "statistics": named}

    records = [
        record("cifar10", "gtsrb"),
        record("mnist", "gtsrb", constant_border=0.9996, saturation=0.95),
        record("mnist", "cifar10", constant_border=1.0),
    ]
    assert ood_tables.shortcuts_table(records).splitlines() == [
        "| known → unknown | constant border | saturation |",
        "|---|---:|---:|",
        "| MNIST → CIFAR-10 | 1.000 |  |",
        "| MNIST → GTSRB | 1.000 | 0.950 |",
        "| CIFAR-10 → GTSRB |  |  |",
    ]
    assert ood_tables.shortcuts_table([]) == ""


@pytest.mark.skipif(not os.environ.get("PREIMAGE_DATA"), reason="PREIMAGE_DATA is not set")
def test_shortcuts_are_those_that_an_evaluation_names():
    found = ood.shortcuts(0, "cifar10")
    assert [(r["id"], r["ood"], r["seed"]) for r in found] == [
        ("cifar10", name, 0) for name in ("mnist", "fashion_mnist", "gtsrb")
    ]
    digits, clothes, signs = (r["statistics"] for r in found)
    assert digits["constant border"] > 0.95 and clothes["saturation"] > 0.95 and not signs


# ---- what the study looks into


def test_layers_table_has_a_column_a_layer():
    records = [
        {"dataset": "mnist", "source": "real images", "layer": i, "same_class": 0.1 * i}
        for i in (1, 2)
    ] + [{"dataset": "cifar10", "source": "paper", "layer": 3, "same_class": 0.75}]
    table = study_tables.layers_table(records).splitlines()
    assert table[0] == "| data set | images | 1 | 2 | 3 |"
    assert table[2:] == [
        "| MNIST | real images | 0.10 | 0.20 |  |",
        "| CIFAR-10 | paper |  |  | 0.75 |",
    ]


def test_student_table_has_a_column_for_every_number_of_steps():
    def record(dataset, images, steps, value, seed=0):
        same = {"dataset": dataset, "images": images, "steps": steps, "seed": seed}
        return {**same, "student_accuracy": value}

    records = [
        record("cifar10", "inversions", 1200, 0.64),
        record("cifar10", "inversions", 4800, 0.75),
        record("cifar10", "real training images", 1200, 0.8),
        record("mnist", "inversions", 1200, 0.99),
        record("mnist", "inversions", 1200, 0.97, seed=1),
    ]
    header, _, *rows = study_tables.student_table(records).splitlines()
    assert header == "| data set | learns from | 1,200 steps | 4,800 steps |"
    assert rows[0] == "| MNIST | inversions | 98.00 ± 1.41 | not measured |"
    assert rows[1:] == [
        "| CIFAR-10 | inversions | 64.00 | 75.00 |",
        "| CIFAR-10 | real training images | 80.00 | not measured |",
    ]
    assert study_tables.student_table([]) == ""


def test_coverage_table_has_a_row_for_what_is_compared_and_two_columns_a_data_set():
    records = [
        {"dataset": name, "images": SOURCES[1], "seed": seed, "precision": 0.5, "coverage": value}
        for name, seed, value in (("gtsrb", 0, 0.1), ("mnist", 0, 0.2), ("mnist", 1, 0.4))
    ]
    header, _, *rows = study_tables.coverage_table(records).splitlines()
    assert header.startswith("| images | MNIST, precision, % | MNIST, coverage, % | GTSRB, prec")
    assert len(rows) == len(SOURCES)
    assert rows[1] == "| inversions | 50.0 ± 0.0 | 30.0 ± 14.1 | 50.0 | 10.0 |"
    assert study_tables.coverage_table([]) == ""


def test_features_are_carried_to_the_moments_of_others():
    random = stream("moments")
    mixing = torch.randn(3, 3, generator=random)
    real = torch.randn(500, 3, generator=random) @ mixing + 4
    carried = with_moments(torch.rand(400, 3, generator=random) * 9, real)
    torch.testing.assert_close(carried.mean(0), real.mean(0))
    torch.testing.assert_close(carried.T.cov(), real.T.cov(), rtol=0.02, atol=0.02)


# ---- reconstruction and audits


def test_every_way_to_reconstruct_is_a_command_of_its_own():
    configs = set()
    for name, arguments in reconstruct.METHODS.items():
        config = parsed(["reconstruct", "mnist", *arguments]).config
        check_reconstruct(config)
        configs.add((config, name == reconstruct.ALL))  # which looks for other numbers of images
        if name.startswith("without unmixing"):
            assert config.start == "noise"
        if ", " in name:
            assert getattr(config, name.partition(", ")[2]) == 0
    assert len(configs) == len(reconstruct.METHODS)
    kkt = parsed(["reconstruct", "mnist", *reconstruct.METHODS["kkt"]]).config
    assert {name for name in SAYS if getattr(kkt, name) > 0} == {"stationarity", "pixels"}


def test_false_alarms_are_measured_as_users_groups_are_compared(tmp_path, monkeypatch):
    """Forty images four times over would differ from others, did the copies count."""
    found = {"images": torch.rand(30, 1, 8, 8), "labels": torch.arange(30) % 2}
    (tmp_path / reconstruct.IMAGES_FILE).write_bytes(pack(found, {"format": "preimage-images-1"}))
    shared = dict.fromkeys(reconstruct._SHARED, 1.0)
    (tmp_path / "metrics.json").write_text(json.dumps(shared))
    (tmp_path / "config.json").write_text('{"config": {"model": {"model": "mnist"}}}')

    def squares(key, count, times):
        random = torch.randint(0, 256, (count, 1, 2, 2), generator=stream("squares", key))
        images = random.to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
        labels = torch.arange(count * times) % 2
        return ImageSet("squares", "all", images.repeat(times, 1, 1, 1), labels, ("a", "b"))

    groups = squares("one", 160, 1), squares("other", 40, 4)
    monkeypatch.setattr(reconstruct, "reconstructed", lambda **_: tmp_path)
    monkeypatch.setattr(reconstruct, "trained_on", lambda _: groups[0])
    monkeypatch.setattr(reconstruct, "unseen", lambda *_: groups)
    both = torch.cat([group.floats() for group in groups])
    apart = similarities(found["images"], both, 64).split(160, dim=1)
    assert judge(*apart, 0).verdict == "leaks"
    of = {"dataset": "mnist", "n_train": 160, "classes": 2, "method": "preimage-direct"}
    [record] = reconstruct.calibrate(trial=0, leaky=False, **of)
    assert record["verdict"] == "no evidence of a leak"
    assert (record["leaky"], record["trained_in"]) == (False, None)


def test_every_defence_is_a_command_of_its_own():
    base = ("train", "mnist", *reconstruct.FIT)
    fits = {parsed([*base, *more]) for more in reconstruct.DEFENCES.values()}
    assert len(fits) == len(reconstruct.DEFENCES)


def leak_record(**changes):
    base = {"dataset": "mnist", "arch": "mlp", "n_train": 100, "classes": 2, "seed": 0}
    base |= {"first_scale": 1e-4, "steps": 1500}
    more = {"method": "preimage-direct", "defence": "none", "leaky": True, "trial": 0}
    figures = {"recovered": 4, "recovered_control": 1, "ssim_train": 0.3, "ssim_control": 0.2}
    rest = {"p_value": 0.001, "verdict": "leaks", "target_accuracy": 0.9, "seconds": 10.0}
    return {**base, **more, **figures, **rest, "effect": 1.0, **changes}


def test_leak_tables_keep_truth_and_trial_apart():
    records = [
        leak_record(),
        leak_record(seed=1, verdict="can't tell", recovered=2),
        leak_record(defence="dropout", verdict="no evidence of a leak", target_accuracy=0.8),
        *(leak_record(leaky=False, trial=i, verdict="can't tell") for i in range(3)),
        leak_record(leaky=False, trial=3),
        leak_record(leaky=False, trial=0, defence="weight decay"),
    ]
    (row,) = leak_tables.small_table(records).splitlines()[2:]
    assert "1 of 2" in row and "3.00 ± 1.41" in row
    trials, decayed, total = leak_tables.calibration_table(records).splitlines()[2:]
    assert trials.endswith("| 4 | 1 of 4 |") and total == "| all |  |  | 5 | 2 |"
    assert "| weight decay |" in decayed and decayed.endswith("| 1 | 1 of 1 |")
    none, dropout = leak_tables.defence_table(records).splitlines()[2:]
    # beside a defence stand the same images without one, not those of other seeds
    assert "| none | 1 of 1 | 90.00" in none and "| dropout | 0 of 1 | 80.00" in dropout
    assert leak_tables.whole_table(records) == leak_tables.small_table([]) == ""


def test_classifiers_of_whole_data_sets_have_a_table_of_their_own():
    whole = {"method": reconstruct.WHOLE, "leaky": False, "n_train": 60_000}
    records = [
        leak_record(),
        leak_record(**whole, arch=reconstruct.BUNDLED, verdict="can't tell"),
        leak_record(**whole, arch="vit"),
        leak_record(**whole, arch="vit", seed=1, verdict="can't tell"),
    ]
    bundled, vit = leak_tables.whole_table(records).splitlines()[2:]
    assert bundled.startswith("| MNIST | bundled CNN | 90.00 | 0 of 1 |")
    assert vit.startswith("| MNIST | ViT | 90.00 ± 0.00 | 1 of 2 |")
    assert leak_tables.calibration_table(records) == ""


def test_power_table_has_a_column_for_every_number_of_images():
    records = [
        leak_record(),
        leak_record(n_train=1000, verdict="can't tell", p_value=0.02),
        leak_record(n_train=1000, seed=1, p_value=0.01),
        leak_record(arch="cnn", n_train=500, verdict="no evidence of a leak", p_value=0.7)
        | {"method": "preimage-direct-short", "steps": 300},
        leak_record(arch="cnn", n_train=500),  # of more steps than the rest of its row
        leak_record(classes=10, n_train=50),  # another task
        leak_record(method="kkt", n_train=50),
    ]
    header, _, cnn, mlp = leak_tables.power_table(records).splitlines()
    assert header.endswith("| 100 images | 500 images | 1,000 images |")
    assert cnn == "| MNIST | CNN | not measured | 0 of 1, p 0.700 | not measured |"
    assert mlp == "| MNIST | MLP | 1 of 1, p 0.001 | not measured | 1 of 2, p 0.015 |"
    assert leak_tables.power_table(records[4:]) == ""


def test_a_term_switched_off_has_a_table_of_its_own():
    records = [
        leak_record(),
        leak_record(method="without unmixing"),
        leak_record(method="without unmixing", first_scale=1.0),
        leak_record(method="without unmixing, kl", recovered=7),
        leak_record(method="without unmixing, kl", arch="cnn"),  # nothing to compare it with
    ]
    whole, without_kl = leak_tables.parts_table(records).splitlines()[2:]
    assert "| none | 1 of 1 | 4.00" in whole and "| kl | 1 of 1 | 7.00" in without_kl
    assert leak_tables.parts_table(records[:3]) == ""
    assert "kl" not in leak_tables.small_table(records)
    (headline,) = leak_tables.headline_table(records).splitlines()[2:]
    assert "| preimage-direct | 1 of 1 | 4.00" in headline


def test_audit_table_says_what_was_not_measured():
    from preimage.auditing.record import empty_sections

    record = {"model": "mnist", "seconds": 12.3, **empty_sections()}
    (row,) = audit_tables.audit_table([record]).splitlines()[2:]
    assert row.startswith("| MNIST | not measured | not measured |") and row.endswith("| 12 |")
    record["ood"].update(auroc=0.9, best_baseline="vim", best_baseline_auroc=0.95)
    assert "| 0.900 | vim, 0.950 |" in audit_tables.audit_table([record])


def test_demo_table_adds_up():
    base = {"hardware": "a machine", "install_s": 6.0, "demo_s": 100.0, "total_s": 106.0}
    record = {**base, "parts": {"inversion": 80.0}, "page_bytes": 400_000}
    (row,) = audit_tables.demo_table([record]).splitlines()[2:]
    assert row == "| a machine | 6 | 80 | 20 | 106 | 0.4 |"
