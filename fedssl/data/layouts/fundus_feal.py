"""`fundus-feal`: the fundus data as .npy of four channels: red, green, blue, label.

```
<path>/client{1..4}/sample<k>.npy    # [384, 384, 4]; label 0 background, 1 disc, 2 cup
```
Set `options = { client = "client1" }`, or path to the client's folder. The names do not tell the
person (client 2 holds both eyes of some): name them in index.csv where you know them.

Source: Chen et al., "Think twice before selection: federated evidential active learning for
medical image analysis with domain shifts", CVPR 2024.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, MaskCode, files_by_stem, site_folder
from fedssl.data.layouts.clients import client_folder, client_option, fundus_count
from fedssl.data.layouts.fundus import STRUCTURE
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.tree import wrong_tree
from fedssl.data.npy import npy_channels
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_CLIENTS = ("client1", "client2", "client3", "client4")
_EXPECTED = "sample<k>.npy"
_CHANNELS = 4


@layout("fundus-feal", options={**client_option(_CLIENTS), **STRUCTURE}, published=fundus_count)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a client's images; every one has its mask.

    Raises:
        DataError: no such tree, or arrays of another number of channels.
    """
    root = site_folder(spec.path, spec.name)
    folder = client_folder(spec, root, "fundus-feal", _CLIENTS, _EXPECTED, "FedFundus_npy")
    structure = choice(spec, "structure", ("disc-cup", "disc", "cup"), "disc-cup")
    disc, cup = {"disc-cup": (1, 2), "disc": (1, 1), "cup": (0, 1)}[structure]
    code = MaskCode(((0, 0, 0), (1, 1, disc), (2, 2, cup)))
    files = {n: p for n, p in files_by_stem(folder).items() if p.suffix.lower() == ".npy"}
    if not files:
        raise wrong_tree(spec, folder, "fundus-feal", f"{_EXPECTED} of a client")
    return [
        CaseFile(stem, stem, _checked(path), path, "0:3", "3", code=code)
        for stem, path in files.items()
    ]


def _checked(path: Path) -> Path:
    channels = npy_channels(path)
    if channels != _CHANNELS:
        raise DataError(
            f"{path} has {channels} channels, but fundus-feal has {_CHANNELS} (red, green, blue, "
            "label). Five channels are the layout fundus-feddg."
        )
    return path
