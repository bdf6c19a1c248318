"""Three answers in words, each from one measured figure, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from preimage.leak.verdict import LEVEL

Tone = Literal["good", "fair", "bad", "unknown"]

_FEW, _MANY = 0.01, 0.10
_GOOD_AUROC, _FAIR_AUROC = 0.99, 0.90
_LEAST_OOD = 50
"""Images of a set below which an AUROC says little."""
_HALF = 0.5
_CLEAR_AUROC = 0.75
"""Of telling training images: half of the way from guessing."""


@dataclass(frozen=True)
class Answer:
    """What a manager reads."""

    question: str
    answer: str
    """A few words."""
    figure: str
    """One number, or a dash where nothing was measured."""
    meaning: str
    """What the figure is; one sentence."""
    sureness: str
    """What it rests on; one sentence."""
    tone: Tone


def answers(sections: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, str]) -> list[Answer]:
    """The three answers.

    Args:
        sections: the record's, by question.
        left_out: by question, why it could not be answered; used where it was not.
    """
    found = [
        _accept(sections["accept"], left_out.get("accept", "")),
        _ood(sections["ood"], sections["accept"], left_out.get("ood", "")),
        _leak(sections["leak"], left_out.get("leak", "")),
    ]
    if sections["task"]["works"] == "no":
        # nothing good can be said of what was measured on a broken classifier
        return [replace(one, tone="unknown") if one.tone == "good" else one for one in found]
    return found


_TO_CHECK = (
    "the normalisation (--mean, --std), the order of the channels (red, green, blue) and the order "
    "of the classes"
)


def premise(task: Mapping[str, Any], why: str) -> Answer:
    """Whether the classifier does its own task, without which the three answers are of no use.

    Args:
        task: the record's section.
        why: why that was not measured; used where it was not.
    """
    question = "Does it do its own task?"
    accuracy = task["accuracy"]
    if accuracy is None:
        return _nothing(question, why)
    word, tone, remark = _work(task)
    meaning = f"of {task['images']} test images are put in their own class.{remark}"
    sureness = (
        f"With every class counted alike {task['balanced_accuracy']:.1%} (99 % interval: "
        f"{task['balanced_low']:.1%} to {task['balanced_high']:.1%}); guessing gets "
        f"{task['guessing']:.1%}."
    )
    return Answer(question, word, f"{accuracy:.1%}", meaning, sureness, tone)


def _work(task: Mapping[str, Any]) -> tuple[str, Tone, str]:
    """The word, its tone, and what is to be said besides."""
    if task["works"] == "no":
        text = (
            f" That is too close to guessing: all other figures are of a classifier that does not "
            f"work on these data. Check {_TO_CHECK}."
        )
        return "No", "bad", text
    if task["works"] == "can't tell":
        text = (
            " They are too few, or of too few of its classes, to tell that from guessing; give "
            f"more, or check {_TO_CHECK}."
        )
        return "Can't tell", "unknown", text
    if min(task["accuracy"], task["balanced_accuracy"]) < _HALF:
        return "In part", "fair", f" Where it is known to do better, check {_TO_CHECK}."
    return "Yes", "good", ""


_ACCEPT = "What does it accept?"
_COUNTERFEIT_WORDS = (
    "Nearly only what looks right",
    "Mostly what looks right",
    "Much that looks wrong",
)
_NOISE_WORDS = (
    "Hardly anything but its classes",
    "Some noise as well",
    "Much that shows nothing",
)


def _accept(found: Mapping[str, Any], why: str) -> Answer:
    """By the worse of two shares: of inversions that fool it alone, and of noise that it takes.

    Of few images none may be of the bad kind by chance: what is good must be so at the upper end of
    its interval. Where that reaches from good to bad they say nothing, and where there was no
    counterfeit among them the noise has the word.
    """
    counterfeit, noise = found["counterfeit_share"], found["noise_share"]
    if noise is None and counterfeit is None:
        return _nothing(_ACCEPT, why)
    if counterfeit is None or (noise is not None and noise > counterfeit):
        return _accepts_noise(found)
    low, high = found["counterfeit_interval"]
    tone = _sure_tone(counterfeit, low, high)
    if tone == "unknown" and not counterfeit and noise is not None:
        return _accepts_noise(found)
    return Answer(
        _ACCEPT,
        _by(tone, _COUNTERFEIT_WORDS),
        f"{counterfeit:.1%}",
        "of its confident inversions are another class to an independent classifier, or it is "
        "unsure" + ("." if noise is None else f"; of noise it takes {noise:.1%} with confidence."),
        f"{found['counterfeit_samples']} samples; 95 % interval {low:.1%} to {high:.1%}.",
        tone,
    )


def _accepts_noise(found: Mapping[str, Any]) -> Answer:
    share, other = found["noise_share"], found["counterfeit_share"]
    low, high = found["noise_interval"]
    tone = _sure_tone(share, low, high)
    return Answer(
        _ACCEPT,
        _by(tone, _NOISE_WORDS),
        f"{share:.1%}",
        "of noise, images made by code that show no class, are taken for one with over 99 % "
        "confidence"
        + ("." if other is None else f"; {other:.1%} of confident inversions are counterfeits."),
        f"{found['noise_images']} images; 95 % interval {low:.1%} to {high:.1%}.",
        tone,
    )


def _ood(found: Mapping[str, Any], accept: Mapping[str, Any], why: str) -> Answer:
    question = "Does it know what it doesn't know?"
    auroc = found["auroc"]
    if auroc is None:
        return _nothing(question, why)
    tone: Tone = "good" if auroc >= _GOOD_AUROC else "fair" if auroc >= _FAIR_AUROC else "bad"
    if found["images_each"] < _LEAST_OOD:
        tone = "unknown"
    gain = found["hardened_auroc"]
    better = "" if gain is None else f" Hardened with a garbage class it reaches {gain:.3f}."
    return Answer(
        question,
        _by(tone, ("Yes", "Mostly", "No")),
        f"{auroc:.3f}",
        "is the mean AUROC of its own confidence between known and unknown images; "
        f"0.5 is guessing.{better}",
        f"{len(found['sets'])} sets of up to {found['images_each']} images; the lowest is "
        f"{found['auroc_lowest']:.3f}.",
        tone,
    )


_SILENCE = (
    " It shows no dense layer on the pixels (a convolutional network has none): this attack has "
    "not been shown to find anything in such a classifier, so its silence proves little."
)


def _leak(found: Mapping[str, Any], why: str) -> Answer:
    question = "Does it leak its training data?"
    verdict = found["verdict"]
    if verdict is None:
        return _nothing(question, why)
    member = found["membership_p_value"]
    # half of the level: with the verdict's own, a false alarm of either stays below 1.5 %
    if verdict != "leaks" and member is not None and member <= LEVEL / 2:
        return _tells_members(question, found)
    silent = verdict != "leaks" and found["first_layer"] == "other"
    tones: dict[str, Tone] = {
        "leaks": "bad",
        "no evidence of a leak": "unknown" if silent else "good",
    }
    return Answer(
        question,
        str(verdict).capitalize(),
        f"p = {found['p_value']:.3f}",
        "is the chance of such a difference between training and held-out images if it told "
        f"nothing about them.{_SILENCE if silent else ''}",
        f"{found['reconstructions']} reconstructions after {found['steps']} steps, "
        f"{found['images_each']} images on each side.",
        tones.get(verdict, "unknown"),
    )


def _tells_members(question: str, found: Mapping[str, Any]) -> Answer:
    """The reconstructions prove nothing, and yet the weights tell which images it has seen."""
    auroc = found["membership_auroc"]
    return Answer(
        question,
        "It tells which images it has seen",
        f"{auroc:.3f}",
        "is the AUROC at which its first layer tells training images from held-out ones; 0.5 is "
        f"guessing. Of the reconstructions: {found['verdict']}.",
        f"p = {found['membership_p_value']:.4f}, {found['images_each']} images on each side.",
        "bad" if auroc >= _CLEAR_AUROC else "fair",
    )


def _nothing(question: str, why: str) -> Answer:
    return Answer(question, "Not measured", "", why or "Nothing was measured.", "", "unknown")


def _by(tone: Tone, words: tuple[str, str, str]) -> str:
    tones: tuple[Tone, ...] = ("good", "fair", "bad")
    return words[tones.index(tone)] if tone in tones else "Too few images to tell"


def _sure_tone(share: float, low: float, high: float) -> Tone:
    """The share's tone, where it is good that of its upper end; none where that tells nothing."""
    if _tone(low) == "good" and _tone(high) == "bad":
        return "unknown"
    return _tone(high) if _tone(share) == "good" else _tone(share)


def _tone(share: float) -> Tone:
    return "good" if share < _FEW else "fair" if share < _MANY else "bad"
