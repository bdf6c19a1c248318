"""`preimage ood score`: one score for every image file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preimage.classifier import frozen
from preimage.commands import OodScore
from preimage.data.decode import Encoded, decode
from preimage.data.local import files_by_name
from preimage.errors import PreimageError
from preimage.files import json_text, write_atomic
from preimage.jobs.float32 import scoring_device
from preimage.jobs.report import Reporter, Silent
from preimage.limits import check_tpr
from preimage.ood.detector import Detector
from preimage.ood.scores import garbage_odds, judged
from preimage.run import check_output
from preimage.types import ImageSpec

_BATCH = 200


def ood_score_job(command: OodScore, report: Reporter | None = None) -> dict[str, Any]:
    """Score every image that can be read; name those that can't.

    Returns:
        How many were scored, how many are beyond the threshold, and each image's row.

    Raises:
        PreimageError: for no detector, a path that is not there, no image that can be read, an
            output of an unknown kind, a device that is not there, or a --tpr that is out of range
            or asked of a detector file that does not keep what it needs.
        DiskError: when the output cannot be written.
    """
    report = report or Silent()
    out = None if command.out is None else Path(command.out)
    if out is not None and out.suffix not in (".csv", ".json"):
        raise PreimageError(
            f"expected --out to end in .csv or .json, found '{out}'; rename it, or leave it out "
            "to print the scores"
        )
    if out is not None:
        check_output(out)
    check_tpr(command.tpr)
    device = scoring_device(command.runtime)
    detector = Detector.load(command.model)
    if command.tpr is not None:
        detector.set_tpr(command.tpr)
    files = list(_files(command.images, report))
    rows: list[dict[str, Any]] = []
    with frozen(detector.classifier, device):
        for start in range(0, len(files), _BATCH):
            rows += _rows(detector, files[start : start + _BATCH], command.score, report)
            report.progress("images", min(start + _BATCH, len(files)), len(files))
    if not rows:
        raise PreimageError(
            f"expected at least one image that can be read, found none among {len(files)} files; "
            "the notes above say what is wrong with each"
        )
    if out is not None:
        text = _csv(rows) if out.suffix == ".csv" else json_text(rows, indent=1) + "\n"
        write_atomic(out, text.encode(errors="surrogateescape"))  # names as the disk has them
    return {
        "images": len(rows),
        "unreadable": len(files) - len(rows),
        "out_of_distribution": sum(bool(row["ood"]) for row in rows),
        "score": command.score,
        "threshold": detector.thresholds.get(command.score),
        "tpr": detector.tpr,
        "scores": rows,
        "out": command.out,
    }


def _files(given: Sequence[str], report: Reporter) -> Iterator[Path]:
    for name in given:
        path = Path(name).expanduser()
        if path.is_dir():
            found, others = files_by_name(path)
            if not found:
                raise PreimageError(
                    f"expected images in the folder '{path}', found none; check the path"
                )
            if others:
                report.warn(
                    f"{len(others)} files in '{path}' are not named as images are and are passed "
                    f"over, '{others[0].name}' for one; name them on the command line to score them"
                )
            yield from found
        elif path.is_file():
            yield path
        else:
            raise PreimageError(f"expected an image or a folder, found no '{path}'; check the path")


def _rows(
    detector: Detector, files: Sequence[Path], score: str, report: Reporter
) -> list[dict[str, Any]]:
    readable, images = [], []
    for file in files:
        image = _image(file, detector.spec, report)
        if image is not None:
            readable.append(file)
            images.append(image)
    if not images:
        return []
    evidence = detector.evidence(torch.cat(images).float() / 255)
    logits, scores = evidence.logits, judged(score, evidence)
    threshold = detector.thresholds.get(score)
    confidence, label = logits[:, :-1].softmax(1).max(1)
    garbage = garbage_odds(logits).sigmoid()
    return [
        {
            "file": str(file),
            "score": float(scores[i]),
            "ood": None if threshold is None else bool(scores[i] > threshold),
            "garbage": float(garbage[i]),
            "class": detector.class_names[int(label[i])],
            "confidence": float(confidence[i]),
        }
        for i, file in enumerate(readable)
    ]


def _image(file: Path, spec: ImageSpec, report: Reporter) -> Tensor | None:
    try:
        return decode([Encoded(None, str(file), 0)], str(file), spec).images
    except PreimageError as error:
        report.warn(f"left out: {error}")
        return None


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
