"""A provenance network's tensors on disk, with the fingerprint of the data that its index is of."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from whence._errors import ArgumentError, ChangedDataError, DataError
from whence._files import make_folder, write_atomically
from whence.audit.storage import refuse_existing
from whence.provenance.checkpoints import first_difference, head_settings
from whence.provenance.network import ProvenanceNetwork, check_network


def save_network(network: ProvenanceNetwork, path: str | Path) -> None:
    """Write a network's parameters and buffers as safetensors, whole or not at all.

    Raises:
        AuditError: If something stands at ``path``.
        ArgumentError: If a file stands where its folder would be, or this is no provenance network.
        DiskError: If the disk is full or refuses to write.
    """
    check_network(network, "save_network")
    place = Path(path)
    refuse_existing(place)
    make_folder(place.parent)
    tensors = {name: one.detach().cpu().contiguous().clone() for name, one in network.state_dict().items()}
    metadata = {"fingerprint": network.fingerprint, "settings": json.dumps(head_settings(network))}
    write_atomically(place, lambda temporary: save_file(tensors, temporary, metadata))


def load_network(network: ProvenanceNetwork, path: str | Path) -> ProvenanceNetwork:
    """Bring a network, made as the saved one was, to what `save_network` wrote; return it in evaluation mode.

    Raises:
        DataError: If there is no network at ``path``.
        ChangedDataError: If it was trained on other data.
        ArgumentError: If it is of another architecture, or its head of other settings, such as another temperature;
            or this is no provenance network.
    """
    check_network(network, "load_network")
    place = Path(path)
    try:
        with safe_open(place, framework="pt") as file:
            told = file.metadata() or {}
        tensors = load_file(place)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{place} holds no network: {error}. Give the file that save_network wrote.") from error
    if told.get("fingerprint") != network.fingerprint:
        raise ChangedDataError(
            f"The network at {place} names examples of other data, {told.get('fingerprint')}; this one was made with "
            f"{network.fingerprint}. Make it with the training data of the saved one."
        )
    other = first_difference(json.loads(told.get("settings", "{}")), head_settings(network))
    if other:
        raise ArgumentError(f"The network at {place} was made in another way: {other}. Make this one as that one was.")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArgumentError(f"The network at {place} is of another architecture than this one: {error}") from error
    return network.eval()
