"""Which networks can be trained, and on which images, without importing torch.

A request is checked, and the list of networks answered, by a process that must not spend the seconds
that torch takes to import. So the facts lie in `networks.json` beside this file; a test holds them
against torchvision. `python -m trainer.catalogue` writes the file anew, with measured limits, when a new
torchvision brings new networks.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from pydantic import Field, TypeAdapter

from models.schemas import NetworkInfo

FILE = Path(__file__).with_name("networks.json")
SMALLEST_REQUEST = 8
"""Pixels: no request may ask for less, so no network says that it takes less."""
LARGEST_MINIMUM = 300
"""Pixels: where measuring gives up."""


class Network(NetworkInfo):
    """A network as the file describes it."""

    min_image_size_alone: int = Field(
        description="smallest image_size in batches of one image: batch normalisation cannot normalise a single value"
    )


def list_networks() -> list[NetworkInfo]:
    """Every classification network of torchvision, sorted by name."""
    return [NetworkInfo(**network.model_dump(exclude={"min_image_size_alone"})) for network in _networks().values()]


def find_network(name: str) -> Network | None:
    return _networks().get(name)


def near_matches(name: str) -> list[str]:
    """At most three networks that `name` may have meant, best first: `ResNet-18` is `resnet18`."""
    by_letters = {_letters(known): known for known in _networks()}
    return [by_letters[match] for match in get_close_matches(_letters(name), by_letters, n=3)]


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


@cache
def _networks() -> dict[str, Network]:
    networks = TypeAdapter(list[Network]).validate_json(FILE.read_bytes())
    return {network.name: network for network in networks}


def measure(name: str) -> Network:
    """Find out what `name` takes by running it on the meta device, which computes shapes and no numbers.

    Takes seconds: every size from the smallest is tried until one works.
    """
    import torch
    from torchvision import models

    from trainer.network import bare_network, image_size_multiple, on_meta

    multiple = image_size_multiple(name)
    fixed = None if multiple > 1 else on_meta(lambda: bare_network(name, 1000, 224))

    def takes(image_size: int, batch_size: int) -> bool:
        try:
            network = fixed or on_meta(lambda: bare_network(name, 1000, image_size))
            network.train()(torch.empty(batch_size, 3, image_size, image_size, device="meta"))
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True

    def smallest(batch_size: int) -> int:
        sizes = range(multiple, LARGEST_MINIMUM, multiple)
        return next(size for size in sizes if size >= SMALLEST_REQUEST and takes(size, batch_size))

    published = models.get_model_weights(name)
    return Network(
        name=name,
        parameters=published.DEFAULT.meta["num_params"],
        min_image_size=smallest(batch_size=2),
        min_image_size_alone=smallest(batch_size=1),
        image_size_multiple=multiple,
        pretrained=len(published) > 0,
    )


def main() -> None:
    from torchvision import models

    networks = [measure(name).model_dump() for name in sorted(models.list_models(module=models))]
    lines = ",\n".join(json.dumps(network) for network in networks)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
