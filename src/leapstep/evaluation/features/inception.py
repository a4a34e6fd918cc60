"""The features of FID and KID: the pooling layer of Inception, from torch-fidelity."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leapstep.data.dataset import Data
from leapstep.evaluation.features.space import (
    Array,
    Features,
    batched,
    digest_of_weights,
)
from leapstep.files.cache import hash_of
from leapstep.text import reason


def inception_features(data: Data, weights: Path | None, device: torch.device) -> Features:
    """The 2048 features of the FID, and the probabilities of the Inception Score, as torch-fidelity computes them."""
    if not data.is_pictures:
        raise ValueError(f"inception sees pictures, but {data.source} holds arrays: use pixels or file.py:function")
    try:
        import torch_fidelity
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError(
            f"the features inception need an extra ({error}): pip install 'leapstep[inception]'"
        ) from error
    except Exception as error:  # a torchvision that was built for another torch
        raise ValueError(
            f"torch-fidelity cannot be imported ({reason(error)}): install the torchvision that belongs to torch "
            f"{torch.__version__}"
        ) from error
    state = _tensors(weights, URL_INCEPTION_V3)
    try:
        # the library would unpickle a file without restrictions, so it is given what was read with them
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], _saved(state))
    except RuntimeError as error:
        raise ValueError(
            f"{weights or URL_INCEPTION_V3} holds the weights of another network: use {URL_INCEPTION_V3}"
        ) from error
    digest = hash_of("inception", str(torch_fidelity.__version__), digest_of_weights(state))
    return Features.made(functools.partial(_map_of, digest, network), device)


def _map_of(digest: str, network: nn.Module, device: torch.device) -> Features:
    """The map that the network is, on a device."""
    network = copy.deepcopy(network).to(device).eval()

    def prepare(values: Array) -> Tensor:
        if values.ndim != 4 or values.shape[1] not in (1, 3) or values.dtype != np.uint8:
            raise ValueError(f"inception sees pictures, uint8 [n, 1 or 3, h, w], not {values.dtype} {values.shape}")
        return torch.from_numpy(np.repeat(values, 3 // values.shape[1], 1)).to(device)

    extract = batched(lambda x: network(x)[0], prepare, 64)
    return Features("inception", digest, extract, batched(lambda x: network(x)[1].softmax(1), prepare, 64))


def _tensors(weights: Path | None, address: str) -> dict[str, Tensor]:
    """Weights by name, from a file, or else from the address or what was downloaded from there before."""
    try:
        if weights is None:
            state = torch.hub.load_state_dict_from_url(address, map_location="cpu", check_hash=True, weights_only=True)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # of the network, the disk, the archive or the restricted unpickler
        if weights is None:
            raise ValueError(
                f"the weights of inception cannot be downloaded ({reason(error)}): fetch {address} elsewhere, and name "
                "the file as the weights"
            ) from error
        if not weights.is_file():
            raise ValueError(f"there is no file {weights}: name the weights of inception ({address})") from error
        said = "it is none, or holds code" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise ValueError(f"{weights} cannot be read as a file of weights ({said}): use {address}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{weights or address} holds something else than weights by name: use {address}")
    return dict(state)


def _saved(state: dict[str, Tensor]) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer
