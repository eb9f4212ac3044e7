"""`fundus-feddg`: the fundus data as .npy of five channels: red, green, blue, disc, cup.

```
<path>/client{1..4}/data_npy/<name>.npy    # [384, 384, 5]
<path>/client{1..4}/freq_amp_npy/          # amplitudes, not read
```
Set `options = { client = "client1" }`, or path to the client's folder. The disc is read with the
cup in it, whether or not the file's disc leaves the cup out. Where names do not tell the person
(client 2 holds both eyes of some), name them in index.csv.

Source: Liu et al., "FedDG: federated domain generalization on medical image segmentation via
episodic learning in continuous frequency space", CVPR 2021.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, MaskLayer, files_by_stem, site_folder
from fedssl.data.layouts.clients import client_folder, client_option, fundus_count
from fedssl.data.layouts.fundus import STRUCTURE, fundus_subject
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.data.npy import npy_channels
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_CLIENTS = ("client1", "client2", "client3", "client4")
_EXPECTED = "data_npy/<name>.npy"
_CHANNELS = 5
_DISC, _CUP = "3", "4"


@layout("fundus-feddg", options={**client_option(_CLIENTS), **STRUCTURE}, published=fundus_count)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a client's images; every one has its mask.

    Raises:
        DataError: no such tree, or arrays of another number of channels.
    """
    root = site_folder(spec.path, spec.name)
    client = client_folder(spec, root, "fundus-feddg", _CLIENTS, _EXPECTED, "dataset")
    folder = find(client, "data_npy")
    if folder is None:
        raise wrong_tree(spec, client, "fundus-feddg", _EXPECTED)
    structure = choice(spec, "structure", ("disc-cup", "disc", "cup"), "disc-cup")
    return [
        CaseFile(
            stem,
            fundus_subject(stem),
            _checked(path),
            image_key="0:3",
            layers=_layers(path, structure),
        )
        for stem, path in files_by_stem(folder).items()
    ]


def _layers(path: Path, structure: str) -> tuple[MaskLayer, ...]:
    """The cup is painted over the disc; a disc alone is the union of both."""
    return {
        "disc-cup": (MaskLayer(path, 1, _DISC), MaskLayer(path, 2, _CUP)),
        "disc": (MaskLayer(path, 1, _DISC), MaskLayer(path, 1, _CUP)),
        "cup": (MaskLayer(path, 1, _CUP),),
    }[structure]


def _checked(path: Path) -> Path:
    channels = npy_channels(path)
    if channels != _CHANNELS:
        raise DataError(
            f"{path} has {channels} channels, but fundus-feddg has {_CHANNELS} (red, green, blue, "
            "disc, cup). Four channels are the layout fundus-feal."
        )
    return path
