"""Values of the terms, and what an objective accepts."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from preimage.conditioning import soft_vectors
from preimage.errors import PreimageError
from preimage.losses import Objective, WeightedTerm, parse_term
from preimage.runtime import stream
from preimage.terms import paper
from preimage.types import Condition, Prediction
from tiny import draw_sample


def with_features(features):
    sample = draw_sample(len(features))
    return sample._replace(prediction=Prediction(sample.prediction.logits, features))


def test_kl_agrees_with_an_independent_implementation():
    sample = draw_sample()
    wanted = kl_divergence(
        Categorical(sample.condition.target), Categorical(logits=sample.prediction.logits)
    )
    torch.testing.assert_close(paper.kl_divergence(sample), wanted.mean())


def test_kl_of_a_one_hot_target_under_uniform_logits_is_log_k():
    label = torch.tensor([0, 2, 0])
    condition = Condition(label, torch.eye(4)[label], None, None)
    prediction = Prediction(torch.full((3, 4), 7.0), torch.zeros(3, 2))
    sample = draw_sample(3)._replace(condition=condition, prediction=prediction)
    assert float(paper.kl_divergence(sample)) == pytest.approx(math.log(4))
    assert float(paper.cross_entropy(sample)) == pytest.approx(math.log(4))


def test_cosine_and_orthogonality_of_known_features():
    same, orthogonal = torch.ones(5, 3), torch.eye(5) * 9
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    for features, cosine, square in ((same, 1, 1), (orthogonal, 0, 0), (opposite, -1, 1)):
        sample = with_features(features)
        assert float(paper.cosine_similarity(sample)) == pytest.approx(cosine, abs=1e-6)
        assert float(paper.orthogonality(sample)) == pytest.approx(square, abs=1e-6)
    alone = with_features(torch.ones(1, 3))
    assert float(paper.cosine_similarity(alone)) == 0 == float(paper.orthogonality(alone))


def test_objective_is_the_weighted_sum_and_leaves_out_zero_weights():
    sample = draw_sample()
    objective = Objective([parse_term("kl=2"), parse_term("ce=0.5"), parse_term("cosine=0")])
    assert set(objective.values(sample)) == {"kl", "ce"}
    wanted = 2 * paper.kl_divergence(sample) + 0.5 * paper.cross_entropy(sample)
    torch.testing.assert_close(objective(sample), wanted)


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        (["kl"], "NAME=WEIGHT"),
        (["kl=much"], "NAME=WEIGHT"),
        (["lk=1"], "loss term out of kl, ce"),
        (["kl=-1"], "at least 0"),
        (["kl=nan"], "finite weight"),
        (["kl=0"], "at least one loss term"),
        (["kl=1", "kl=2"], "every loss term once"),
        (["math:pi=1"], "expected a function"),
        (["math:no_such=1"], "no_such"),
    ],
)
def test_wrong_terms_are_told(terms, sentence):
    with pytest.raises(PreimageError, match=sentence):
        Objective([parse_term(text) for text in terms])


def test_a_users_term_that_fails_or_is_no_scalar_is_told():
    def fails(sample):
        raise KeyError("oops")

    for term, sentence in ((fails, "KeyError"), (lambda s: s.images, "scalar"), (len, "scalar")):
        with pytest.raises(PreimageError, match=sentence):
            Objective([WeightedTerm("mine", term, 1.0)])(draw_sample())


@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_soft_vectors_keep_the_margin_and_hide_the_label_among_equals(margin):
    labels = torch.arange(4000) % 5
    vectors = soft_vectors(labels, 5, 3.0, margin, stream("v"))
    top = vectors.log().topk(2, dim=1).values
    assert float((top[:, 0] - top[:, 1]).min()) >= margin - 1e-4
    assert torch.equal(vectors.argmax(1), labels)
    # given the label, the other places are alike
    others = torch.stack([vectors[labels == 0][:, k].mean() for k in range(1, 5)])
    assert float(others.std() / others.mean()) < 0.2
    nearly_hot = soft_vectors(labels, 5, 30.0, margin, stream("v")).max(1).values.mean()
    assert nearly_hot > vectors.max(1).values.mean()
