"""Find out whether a training can start, before it waits for a device and takes one.

A request that fails an hour later in the queue has cost an hour. Every problem is found in one pass, so
that a person corrects them together, and each says what to do. No torch: the service that answers
requests runs this, and a folder of 100,000 images must not make it wait.
"""

from __future__ import annotations

from pathlib import Path

from models.schemas import FieldProblem, TrainingRequest
from trainer.catalogue import find_network, near_matches
from trainer.folders import class_folders, images_in
from trainer.images import UnreadableImage, read_rgb
from trainer.roots import ANYWHERE, Folders, OutsideRoots, Roots, open_file

_TRIED_IMAGES = 8
"""Images of a split that are opened until one decodes."""
_NAMED_CLASSES = 5
"""Classes that a message names."""


def check(request: TrainingRequest, roots: Roots = ANYWHERE) -> list[FieldProblem]:
    """What is wrong with the network, the images and the weights that `request` asks for; empty is good.

    `save_path`, `name`, `task_id` and `device` are for whoever starts the training to check.
    """
    return [*_network_problems(request), *_data_problems(request, roots), *_weight_problems(request, roots)]


def _network_problems(request: TrainingRequest) -> list[FieldProblem]:
    network = find_network(request.model)
    if network is None:
        near = near_matches(request.model)
        advice = f"did you mean {' or '.join(near)}?" if near else "the list of networks has the names."
        return [_problem("model", "unknown_network", f"There is no network {request.model!r}: {advice}")]

    multiple, smallest, size = network.image_size_multiple, network.min_image_size, request.image_size
    if size % multiple or size < smallest:
        below = size // multiple * multiple
        possible = sorted({max(below, smallest), max(below + multiple * (size % multiple > 0), smallest)})
        takes = f"{smallest} pixels and more" if multiple == 1 else f"multiples of {multiple} pixels"
        advice = f"set image_size to {' or '.join(map(str, possible))}."
        message = f"{network.name} takes {takes}, not {size}: {advice}"
        return [_problem("image_size", "image_size_unsupported", message)]
    if request.batch_size == 1 and size < network.min_image_size_alone:
        message = (
            f"{network.name} cannot normalise a batch of one image of {size} pixels: set batch_size to 2 or more, or "
            f"image_size to {network.min_image_size_alone} or more."
        )
        return [_problem("batch_size", "batch_size_unsupported", message)]
    return []


def _data_problems(request: TrainingRequest, roots: Roots) -> list[FieldProblem]:
    problems: list[FieldProblem] = []
    found: dict[str, list[str]] = {}
    for field, path in (("train_path", request.train_path), ("val_path", request.val_path)):
        try:
            classes, problem = _split_problem(field, Path(path), request.num_classes, roots.data)
        except OutsideRoots:
            classes = []
            problem = _problem(field, "path_forbidden", f"{field} {path!r} leads out of the folders that may be read.")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            classes = []
            problem = _problem(field, "path_not_readable", f"{field} {path!r} cannot be read: {why}.")
        if problem:
            problems.append(problem)
        if classes:
            found[field] = classes

    if len(found) == 2 and found["train_path"] != found["val_path"]:
        train, validation = set(found["train_path"]), set(found["val_path"])
        parts = [
            f"only in {field}: {_named(sorted(names))}"
            for field, names in (("train_path", train - validation), ("val_path", validation - train))
            if names
        ]
        message = f"Both folders need the same classes; {'; '.join(parts)}."
        problems.append(_problem("val_path", "classes_differ", message))
    return problems


def _split_problem(field: str, root: Path, num_classes: int, roots: Folders) -> tuple[list[str], FieldProblem | None]:
    """The classes in `root`, and the first thing that is wrong there.

    Where nothing is, each of at least two classes has an image, so there are two images to train on.
    """
    if not root.exists():
        return [], _problem(field, "path_not_found", f"{field} {str(root)!r} does not exist: create it or correct it.")
    if not root.is_dir():
        return [], _problem(field, "not_a_folder", f"{field} {str(root)!r} is a file: give the folder of the classes.")
    folders = class_folders(root, roots)
    classes = [folder.name for folder in folders]
    if not folders:
        message = f"{field} {str(root)!r} has no class folders: put the images of each class into a folder of its own."
        return [], _problem(field, "no_classes", message)
    if len(folders) != num_classes:
        message = (
            f"{field} {str(root)!r} has {len(folders)} class folders, num_classes is {num_classes}: set num_classes "
            f"to {len(folders)}, or correct the folder."
        )
        return classes, _problem("num_classes", "num_classes_mismatch", message)

    first_images = [next(images_in(folder, roots), None) for folder in folders]
    empty = [folder.name for folder, image in zip(folders, first_images, strict=True) if image is None]
    if empty:
        message = f"{field} {str(root)!r} has no images in {_named(empty)}: add some, or remove the class."
        return classes, _problem(field, "empty_class", message)
    return classes, _unreadable_problem(field, [image for image in first_images if image is not None], roots)


def _unreadable_problem(field: str, images: list[Path], roots: Folders) -> FieldProblem | None:
    """Decode a few images, spread over the classes, until one is good."""
    tried = images[:: max(1, len(images) // _TRIED_IMAGES)][:_TRIED_IMAGES]
    first_error = ""
    for image in tried:
        try:
            read_rgb(image, at_least=1, folders=roots)
        except UnreadableImage as error:
            first_error = first_error or str(error)
        else:
            return None
    message = f"None of {len(tried)} images tried in {field} can be read: replace them. The first: {first_error}"
    return _problem(field, "no_readable_image", message)


def _weight_problems(request: TrainingRequest, roots: Roots) -> list[FieldProblem]:
    path = request.weight_path
    if not path:
        return []
    try:
        open_file(Path(path), roots.weights).close()
    except OutsideRoots:
        message = f"weight_path {path!r} leads out of the folders that may be read: choose another file."
        return [_problem("weight_path", "path_forbidden", message)]
    except PermissionError:
        message = f"weight_path {path!r} cannot be read: allow it, or choose another file."
        return [_problem("weight_path", "path_not_readable", message)]
    except (OSError, ValueError):
        pass
    else:
        return []
    message = f"weight_path {path!r} is not a file: correct it, or leave it empty to start without."
    return [_problem("weight_path", "path_not_found", message)]


def _named(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED_CLASSES])
    return shown if len(names) <= _NAMED_CLASSES else f"{shown} and {len(names) - _NAMED_CLASSES} more"


def _problem(field: str, code: str, message: str) -> FieldProblem:
    return FieldProblem(field=field, code=code, message=message)
