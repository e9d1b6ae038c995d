"""A backbone with branches for the class and for the index of the training example (Provenance Networks, 3 and 7)."""

from __future__ import annotations

import itertools
from typing import Any, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError, DataError, ShapeError
from whence.datasets import as_examples, call_model
from whence.provenance.cosine import CosineHead
from whence.provenance.heads import IndexHead, MakeHead
from whence.provenance.indices import ClassIndex, class_index
from whence.provenance.modes import Resting, evaluating
from whence.provenance.parts import Branches, Task
from whence.runs.trees import leaves, to_device

# what modules raise of inputs that they do not take
REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, IndexError)


class Answer(NamedTuple):
    """What a provenance network says of a batch.

    Attributes:
        classes: Logits of the classes, (batch, classes); None of a single-branch network.
        embedding: What the index head compares, (batch, width).
        features: The pooled features of the backbone, (batch, features).
        task: What the task branch says; None without one.
    """

    classes: Tensor | None
    embedding: Tensor
    features: Tensor
    task: Any = None


@final
class ProvenanceNetwork(Resting):
    """Any backbone, with a head that names training examples (3.1, 3.2).

    By default two branches, a linear one for the class and a linear one to an embedding that a cosine head compares
    with a row for each example; class-independent. ``conditional=True`` is the paper's class-conditional network: the
    index branch also sees the class (one-hot: the true one in training, the predicted one afterwards, 7.2.3), and the
    index is one within the class. ``Branches(classes=None)`` is the single-branch network (3.1), whose class is that of
    the example it names.

    Args:
        backbone: Inputs to features; a vector an example once ``Branches.pool`` has been applied.
        train_data: The training data, anything `as_examples` takes; an example's index is its id.
        head: Makes the index head of the embedding's width and the examples, such as ``CosineHead`` or
            ``functools.partial(MemoryBank, temperature=0.05)``.
        conditional: Whether the index is one within the class.
        branches: What stands between backbone and answers.
        task: A task that is no classification.
        class_count: How many classes or groups there are; as many as the data says by default.

    Attributes:
        index: The training examples, by class.
        fingerprint: Of the training data.
        axes: How many axes each tensor of a batch has, the batch's own among them.

    Raises:
        DataError: If labels are no class numbers and there is no task with groups, or not one group an example.
        ArgumentError: If backbone, head, branches or task are of another kind, branches and head do not go together,
            backbone and data are of different dtypes, or a part does not take what comes before it.
        ShapeError: If the features are not a vector an example.

    Examples:
        >>> data = (torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> network = ProvenanceNetwork(nn.Linear(4, 8), data)
        >>> network(torch.eye(4)).classes.shape, len(network.index)
        (torch.Size([4, 2]), 4)
    """

    def __init__(
        self,
        backbone: nn.Module,
        train_data: Any,
        *,
        head: MakeHead = CosineHead,
        conditional: bool = False,
        branches: Branches | None = None,
        task: Task | None = None,
        class_count: int | None = None,
    ) -> None:
        super().__init__()
        _check_kinds(backbone, head, branches, task)
        parts, examples = Branches() if branches is None else branches, as_examples(train_data)
        self.index = class_index(examples.labels if task is None else task.groups, classes=class_count)
        if len(self.index) != len(examples):
            raise DataError(f"`groups` needs a number for each of {len(examples)} examples; got {len(self.index)}.")
        if conditional and parts.classes is None:
            raise ArgumentError(
                "A class-conditional network predicts the class: give it a class branch, such as 'linear'."
            )
        self.fingerprint, self.conditional = examples.fingerprint, conditional
        self.backbone, self.pool = backbone, nn.Identity() if parts.pool is None else parts.pool
        self.task_branch = None if task is None else task.branch
        self.task_loss = None if task is None else task.loss
        inputs = examples.batch([0, 0])[0]
        self.axes = tuple(one.dim() for one in leaves(inputs))
        pooled = _tried(nn.Sequential(_Called(backbone), self.pool), inputs)
        self.class_branch = _class_branch(parts.classes, pooled, self.index.classes)
        trained = parts.index is not None or is_trained(head, self.index)
        self.sees_class = conditional and trained  # nothing beside the embedding that plain neighbours are looked up in
        seen = pooled.shape[1] + (self.index.classes if self.sees_class else 0)
        branch = (nn.Linear(seen, parts.width) if trained else nn.Identity()) if parts.index is None else parts.index
        self.index_branch = branch.to(pooled) if parts.index is None else branch
        embedded = _tried(self.index_branch, pooled.new_zeros(2, seen), "index branch")
        self.head: Any = head(embedded.shape[1], self.index)
        if not isinstance(self.head, IndexHead):
            raise ArgumentError(f"`head` must make an IndexHead; it made a {type(self.head).__name__}.")
        if isinstance(self.head, nn.Module):
            self.head.to(embedded)
        if getattr(self.head, "only_within", False) and not conditional:
            raise ArgumentError("SharedHead numbers examples within their class: give conditional=True beside it.")

    def forward(self, inputs: Any, labels: Int[Tensor, " batch"] | None = None) -> Answer:
        """Answer a batch.

        Args:
            inputs: As the backbone takes them.
            labels: The classes that a conditional index branch sees (teacher forcing); the predicted ones by default.
        """
        found = call_model(self.backbone, inputs)
        features = self.pool(found)
        classes = None if self.class_branch is None else self.class_branch(features)
        if self.conditional and labels is None and classes is not None:
            labels = classes.argmax(1)
        task = None if self.task_branch is None else self.task_branch(found)
        return Answer(classes, self.embed(features, labels), features, task)

    def embed(
        self, features: Float[Tensor, "batch features"], labels: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch width"]:
        """Return the embedding of some features, beside their classes if the network is conditional.

        Raises:
            ArgumentError: If the network is conditional and there are no classes.
        """
        seen = features if self.head.trained else features.detach()
        if self.conditional:
            if labels is None:
                raise ArgumentError("The index branch of a class-conditional network needs the class of each row.")
            if self.sees_class:
                one_hot = F.one_hot(labels.to(features.device), self.index.classes).to(features)
                seen = torch.cat((seen, one_hot), 1)
        found: Tensor = self.index_branch(seen)
        return found


@final
class _Called(nn.Module):
    """A backbone, called as `call_model` does."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Any) -> Any:
        """Return what the backbone gives."""
        return call_model(self.backbone, inputs)


def is_trained(head: MakeHead, index: ClassIndex | None = None) -> bool:
    """Say whether a head learns by the index loss.

    Args:
        head: What makes it.
        index: Of a function that does not tell, a narrow head of this index is made; without it, it counts as trained.
    """
    kind = getattr(head, "func", head)
    told = kind if hasattr(kind, "trained") or index is None else head(2, index)
    return bool(getattr(told, "trained", True))


def _check_kinds(backbone: Any, head: Any, branches: Any, task: Any) -> None:
    """Refuse parts of another kind than they are to be.

    Raises:
        ArgumentError: If one is.
    """
    if not isinstance(backbone, nn.Module):
        raise ArgumentError(f"`backbone` is a torch module from inputs to features; got {backbone!r}.")
    if branches is not None and not isinstance(branches, Branches):
        raise ArgumentError(f"`branches` are Branches(pool=..., classes=..., index=...); got {branches!r}.")
    if task is not None and not isinstance(task, Task):
        raise ArgumentError(f"`task` is a Task(branch, loss, groups); got {task!r}.")
    if not callable(head):
        raise ArgumentError(
            f"`head` makes the index head of width and examples, such as CosineHead or MemoryBank; got {head!r}."
        )


def _class_branch(given: nn.Module | Literal["linear"] | None, pooled: Tensor, classes: int) -> nn.Module | None:
    """Return the class branch of some features, as `Branches` describes it.

    Raises:
        ArgumentError: If it does not give a number a class.
    """
    if isinstance(given, str):
        return nn.Linear(pooled.shape[1], classes).to(pooled)
    if given is None:
        return None
    found = _tried(given, pooled, "class branch").shape[1]
    if found != classes:
        raise ArgumentError(
            f"The class branch gives {found} numbers an example, and there are {classes} classes. Give it {classes} "
            "outputs, or class_count= where some classes have no example in this data."
        )
    return given


def check_network(given: Any, what: str) -> None:
    """Refuse what is no provenance network; one that is compiled is one.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(getattr(given, "_orig_mod", given), ProvenanceNetwork):
        raise ArgumentError(
            f"{what} takes a ProvenanceNetwork; got {type(given).__name__}. Make one of a backbone and its training "
            "data: ProvenanceNetwork(backbone, train_data)."
        )


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are, or its buffers; the CPU if it has neither."""
    own = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if own is None else own.device


def _tried(module: nn.Module, inputs: Any, name: str = "backbone") -> Tensor:
    """Return what a module gives of two examples in evaluation mode, a vector each.

    Raises:
        ShapeError: If it does not give a vector each.
        ArgumentError: If the module is of another dtype than the inputs, or does not take them.
    """
    own = next(module.parameters(), None)
    try:
        with evaluating(module), torch.no_grad():
            found = module(to_device(inputs, device_of(module)))
    except REFUSALS as error:
        dtypes = {one.dtype for one in leaves(inputs) if one.is_floating_point()}
        if own is None or not dtypes or own.dtype in dtypes:
            shapes = ", ".join(str(tuple(one.shape)) for one in leaves(inputs))
            raise ArgumentError(
                f"A {type(module).__name__} does not take a batch of shape {shapes}: {error}. The backbone takes the "
                "training data's inputs, what follows it takes its features."
            ) from error
        raise ArgumentError(
            f"The network computes in {own.dtype} and is given {dtypes.pop()}: {error}. Give the data as {own.dtype}, "
            "such as inputs.float(), or all parts of the network in the data's dtype, such as backbone.double()."
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ShapeError(
            f"The {name} must give a vector an example, (batch, features); of two examples it gives {shape}. Add what "
            "makes one: Branches(pool=nn.Flatten()), or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) for "
            "feature maps; of tokens take one, or their mean."
        )
    return found
