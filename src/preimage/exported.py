"""Classifiers that come as a torch.export archive: a graph of operators, no Python code."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map_only

from preimage.errors import PreimageError

_LINEAR = (torch.ops.aten.linear.default, torch.ops.aten.addmm.default)


class Exported(nn.Module):
    """An exported program that also gives the input of its last linear operator.

    Args:
        program: the graph; it must accept any batch size.
        feature_node: name of the graph node whose value is the features; None finds the input of
            the last linear operator.

    Raises:
        PreimageError: when there is no such node.
    """

    def __init__(self, program: GraphModule, feature_node: str | None = None):
        super().__init__()
        self.program = _with_features(_with_buffers(program), feature_node)

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, ...) of images (B, C, H, W)."""
        logits, features = self.program(images)
        return logits, features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.logits_and_features(images)[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exported:
        """Move, with the devices that export wrote into the graph."""
        super()._apply(fn, recurse)
        tensors = (*self.program.parameters(), *self.program.buffers())
        places = {tensor.device for tensor in tensors}
        if len(places) == 1:
            _name_device(self.program, places.pop())
        return self

    def train(self, mode: bool = True) -> Exported:
        """Change nothing: the mode is part of an exported graph."""
        return self


def load_exported(
    path: Path, feature_node: str | None = None
) -> tuple[Exported, tuple[int, int, int]]:
    """Read a ``.pt2`` archive, which must come from someone you trust.

    Pickled objects in it are refused before PyTorch sees them. What is left is a program all the
    same, and PyTorch's reader evaluates parts of it.

    Returns:
        The network and the (C, H, W) that it was exported with.

    Raises:
        PreimageError: when the file is missing, damaged, holds pickled objects, has a fixed batch
            size, or is not a function from one batch of images to logits alone.
    """
    _check_archive(path)
    try:
        with _weights_only(), _unheard():
            program: Any = torch.export.load(path)
    except Exception as error:
        raise PreimageError(
            f"expected a torch.export archive, found that '{path}' cannot be read "
            f"({type(error).__name__}); export it again with this version of PyTorch, from a "
            "network on the CPU"
        ) from error
    shape = _input_shape(program, path)
    _check_outputs(program, path)
    return Exported(program.module(), feature_node), shape


def _check_archive(path: Path) -> None:
    """Refuse what torch.export.load would unpickle as objects."""
    if not path.is_file():
        raise PreimageError(f"expected a .pt2 archive, found no file at '{path}'; check the path")
    if not zipfile.is_zipfile(path):
        raise PreimageError(
            f"expected a torch.export archive, found another kind of file at '{path}'; "
            "write it with torch.export.save"
        )
    with zipfile.ZipFile(path) as archive:
        held = [n for n in archive.namelist() if "custom_obj" in n or "opaque_obj" in n]
    if held:
        raise PreimageError(
            f"expected an archive of tensors and operators, found the pickled object '{held[0]}' "
            f"in '{path}', which is never loaded here; export the network without custom objects"
        )


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make every torch.load underneath refuse code; torch.export.load falls back to it else."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _unheard() -> Iterator[None]:
    """Without the traceback that torch.export logs of an archive that it cannot read."""
    logger = logging.getLogger("torch.export")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _input_shape(program: Any, path: Path) -> tuple[int, int, int]:
    wanted = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.name in wanted]
    shapes = [tuple(node.meta["val"].shape) for node in inputs if "val" in node.meta]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise PreimageError(
            f"expected a program of one input (B, C, H, W), found {len(shapes)} input(s) of "
            f"shape {shapes} in '{path}'; export the classifier with one batch of images"
        )
    batch, *image = shapes[0]
    if isinstance(batch, int):
        raise PreimageError(
            f"expected a program for any batch size, found one for {batch} image(s) in '{path}'; "
            "export it with dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    channels, height, width = (int(n) for n in image)
    return channels, height, width


def _check_outputs(program: Any, path: Path) -> None:
    """Refuse several outputs, of which the first need not be the class scores."""
    count = len(program.graph_signature.user_outputs)
    if count != 1:
        raise PreimageError(
            f"expected a program that returns logits (B, K) alone, found one of {count} outputs in "
            f"'{path}'; wrap the network so that it returns these, and export it again"
        )


def _with_buffers(program: GraphModule) -> GraphModule:
    """With its constants as buffers, which move as weights do."""
    for module in program.modules():
        held = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        for name in held:
            value = getattr(module, name)
            delattr(module, name)
            module.register_buffer(name, value, persistent=False)
    return program


def _name_device(program: GraphModule, device: torch.device) -> None:
    """Let every operator that names a device name this one."""
    for module in program.modules():
        if not isinstance(module, GraphModule):
            continue
        changed = False
        for node in module.graph.nodes:
            given = (node.args, node.kwargs)
            named = tree_map_only(torch.device, lambda _: device, given)
            if named != given:
                node.args, node.kwargs = named
                changed = True
        if changed:
            module.recompile()


def _with_features(program: GraphModule, feature_node: str | None) -> GraphModule:
    graph = program.graph
    output = next(node for node in graph.nodes if node.op == "output")
    features = _feature_node(list(graph.nodes), feature_node)
    logits = output.args[0]
    logits = logits[0] if isinstance(logits, tuple | list) else logits
    output.args = ((logits, features),)
    # the exported calling convention would pack the outputs as they were
    graph.set_codegen(torch.fx.graph.CodeGen())
    program.recompile()
    return program


def _feature_node(nodes: list[Node], name: str | None) -> Node:
    if name is not None:
        named = [node for node in nodes if node.name == name]
        if named:
            return named[0]
        raise PreimageError(
            f"expected a node '{name}' in the exported graph, found none of that name; "
            "print(program.graph) lists them"
        )
    linear = [node for node in nodes if node.op == "call_function" and node.target in _LINEAR]
    if not linear:
        raise PreimageError(
            "expected a linear operator to take the features from, found none in the exported "
            "graph; name a node with --feature-layer"
        )
    position = 1 if linear[-1].target == torch.ops.aten.addmm.default else 0
    node = linear[-1].args[position]
    assert isinstance(node, Node)
    return node
