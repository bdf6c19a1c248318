"""What joins garbage from round to round of a hardening."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from preimage.config import Augmentation, HardenConfig, TrainConfig
from preimage.data import load
from preimage.ood import exclusion, harden
from preimage.ood.rounds import Rounds
from tiny import run

pytestmark = pytest.mark.usefixtures("workplace")

SMALL = HardenConfig(
    noise=40, garbage=120, gain=30, inversion_steps=4, inversion_batch=16, valid=20, margin=1.0
)
TRAINING = TrainConfig(
    arch="cnn", width=4, epochs=3, batch=20, lr=0.02, augmentation=Augmentation(shift=0)
)


@pytest.fixture
def generators(monkeypatch):
    """The generator's state before and after each round."""
    seen, next_round = [], Rounds.next

    def state(rounds):
        tensors = rounds.state_dict()["trainer"]["inversion"]
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def watched(self, known):
        before = state(self)
        found = next_round(self, known)
        seen.append((before, state(self)))
        return found

    monkeypatch.setattr(Rounds, "next", watched)
    return seen


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_round_begins_with_the_generator_that_the_one_before_left(shared, generators):
    data = load(str(shared / "bands.npz"), "train")
    harden(data, SMALL, TRAINING)
    (first, left), (begun, second) = generators
    assert same(begun, left) and not same(left, first) and not same(second, left)


def test_a_round_after_a_kill_begins_with_it_too(shared, generators):
    data, memory = load(str(shared / "bands.npz"), "train"), tiny.Memory()
    with pytest.raises(KeyboardInterrupt):
        harden(data, SMALL, TRAINING, checkpoint=memory, on_epoch=tiny.killer(epoch=2))
    (_, left), (_, second) = generators
    generators.clear()
    harden(data, SMALL, TRAINING, checkpoint=memory)
    ((begun, again),) = generators
    assert same(begun, left) and same(again, second)


def hardened(capsys, shared, rule, *more):
    """The log of a whole run under this rule."""
    arguments = tiny.ood_arguments(shared / "bands.npz", rule, "--exclude", rule, *more)
    status, _, err = run(capsys, *arguments)
    assert status == 0, err
    return [json.loads(line) for line in Path(rule, "metrics.jsonl").read_text().splitlines()]


def test_what_a_rule_excludes_joins_no_garbage(capsys, shared, monkeypatch):
    everything = hardened(capsys, shared, "none")
    assert [epoch["excluded"] for epoch in everything] == [0, 0, 0, 0]
    assert everything[-1]["garbage"] == 120
    monkeypatch.setattr(exclusion, "CERTAIN", 0.9)  # the usual limit keeps out few this early
    some = hardened(capsys, shared, "certain")
    assert any(0 < epoch["excluded"] < 48 for epoch in some)
    for epoch in some[:3]:  # which have 4 batches with 12 images each of known classes
        assert epoch["added"] == min(30, 48 - epoch["excluded"])
    monkeypatch.setattr(exclusion, "CERTAIN", 2.0)  # then every inversion is certain
    nothing = hardened(capsys, shared, "certain", "--overwrite")
    assert [epoch["added"] for epoch in nothing] == [0, 0, 0, 0]
    assert nothing[-1]["garbage"] == 40 and nothing[0]["excluded"] == 48
